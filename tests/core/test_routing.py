"""Requests of every protocol on a running server with a plan: where they go, and what their answers say about it."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from serve._core.engine import NativeVersion
from serve._core.routing_plan import NativePlan
from serve.protocol import messages
from serve.traffic import Override, PlanReading, RoutingSpec, Segment, Source
from tests.core.loopback import Loopback, wait_until
from tests.core.plain_clients import GRPC_STREAM, Answer, frame, http_infer, http_request, unframe
from tests.core.plans import lookups, spec_of

X = np.array([[1]], np.float32)
HEADER, PARAMETER = Source("header", "x-user-id"), Source("parameter", "user")
HALVES = {"1": 5000, "2": 5000}
PROTOCOLS = ("json", "binary", "http/2", "grpc")


class Routed(Loopback):
    """Model m, versions 1, 2 and 3 (label beta), with a plan or without."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.versions: dict[str, NativeVersion] = lookups(folder, self.pool, {"1": 10, "2": 10, "3": 10})
        self.plan: NativePlan | None = None

    def publish(self, spec: RoutingSpec | None) -> NativePlan | None:
        self.plan = NativePlan("m", spec, self.versions) if spec is not None else None
        keys = {**self.versions, "beta": self.versions["3"]}
        self.table.publish({"m": (keys, self.versions["1"], self.plan)})
        return self.plan

    def reading(self) -> PlanReading:
        assert self.plan is not None
        return self.plan.read()

    def ask(self, protocol: str, number: str = "", header: str | None = None, parameters: dict[str, Any] | None = None) -> Answer:
        """One inference; its answer with the fields of the protocol's head."""
        fields = [("x-user-id", header)] if header is not None else []
        if protocol == "grpc":
            client = self.h2()
            answer = client.read(client.grpc(grpc_message(number, parameters), "/inference.GRPCInferenceService/ModelInfer", *fields))
            assert answer.fields["grpc-status"] == "0", answer
            return answer
        body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}],
                           **({"parameters": parameters} if parameters else {})}).encode()
        path = "/v2/models/m" + (f"/versions/{number}" if number else "") + "/infer"
        if protocol == "http/2":
            h2_client = self.h2()
            stream = h2_client.open(path, *fields)
            h2_client.data(stream, body)
            answer = h2_client.read(stream)
        elif protocol == "binary":
            head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}],
                               **({"parameters": parameters} if parameters else {})}).encode()
            lines = [f"Inference-Header-Content-Length: {len(head)}", *(f"{name}: {value}" for name, value in fields)]
            answer = self.http().ask(http_request(path, head + X.tobytes(), "POST", *lines))
        else:
            answer = self.http().ask(http_request(path, body, "POST", *(f"{name}: {value}" for name, value in fields)))
        assert answer.status == 200, answer
        return answer


def grpc_message(number: str = "", parameters: dict[str, Any] | None = None) -> bytes:
    request = messages.ModelInferRequest(model_name="m", model_version=number)
    for name, value in (parameters or {}).items():
        kind = "bool_param" if isinstance(value, bool) else "int64_param" if isinstance(value, int) else "string_param"
        setattr(request.parameters[name], kind, value)
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())
    return frame(request.SerializeToString())


def origin(answer: Answer) -> tuple[str, str, str]:
    return tuple(answer.fields[f"x-headrace-{name}"] for name in ("version", "variant", "generation"))      # type: ignore[return-value]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Routed]:
    with Routed(tmp_path) as loop:
        yield loop


def counted(reading: PlanReading) -> dict[str, int]:
    return {arm.name: arm.assigned for arm in reading.arms if arm.assigned}


# --- answers say where they come from ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_a_plan_the_default_answers(loop: Routed, protocol: str) -> None:
    loop.publish(None)
    assert origin(loop.ask(protocol)) == ("1", "1", "0")
    assert origin(loop.ask(protocol, "3")) == ("3", "3", "0")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_with_a_plan_the_arm_answers(loop: Routed, protocol: str) -> None:
    loop.publish(spec_of({"1": 0, "2": 10_000}, generation=41))
    assert origin(loop.ask(protocol)) == ("2", "v2", "41")
    assert origin(loop.ask(protocol, "1")) == ("1", "explicit", "41")
    assert origin(loop.ask(protocol, "beta")) == ("3", "explicit", "41")
    assert counted(loop.reading()) == {"v2": 1, "explicit": 2}


def test_an_error_says_where_it_comes_from(loop: Routed) -> None:
    loop.publish(spec_of({"2": 10_000}, generation=3))
    answer = loop.http().ask(http_infer(np.array([[99]], np.float32)))
    assert answer.status == 400
    assert origin(answer) == ("2", "v2", "3")
    unknown = loop.http().ask(http_infer(X, number="9"))
    assert unknown.status == 404
    assert "x-headrace-variant" not in unknown.fields
    assert counted(loop.reading()) == {"v2": 1}


def test_a_repeated_origin_costs_three_bytes(loop: Routed) -> None:
    """HPACK indexes it: a second answer of the same arm is shorter by the texts."""
    loop.publish(spec_of({"1": 10_000}, generation=1234567))
    client = loop.h2()
    sizes = []
    for _ in range(4):
        before = loop.total("bytes_sent")
        client.read(client.grpc(grpc_message(), "/inference.GRPCInferenceService/ModelInfer", ("x-request-id", "same")))
        wait_until(lambda: loop.total("live_calls") == 0, "the call to be over")
        sizes.append(loop.total("bytes_sent") - before)
    text = sum(len(name) for name in ("x-headrace-version", "x-headrace-variant", "x-headrace-generation")) * 6 // 8
    assert sizes[2] == sizes[3] <= sizes[0] - text


def test_messages_of_a_stream_are_routed_one_by_one(loop: Routed) -> None:
    loop.publish(spec_of(HALVES, sticky=PARAMETER))
    assert loop.plan is not None
    keys = [f"user-{i}" for i in range(30)]
    client = loop.h2()
    answer = client.read(client.grpc(b"".join(grpc_message("", {"user": key}) for key in keys), GRPC_STREAM))
    responses = [messages.ModelStreamInferResponse.FromString(message).infer_response for message in unframe(answer.body)]
    assert [f"v{response.model_version}" for response in responses] == [loop.plan.assign(key.encode()) for key in keys]
    assert len({response.model_version for response in responses}) == 2


# --- who goes where ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("source", [HEADER, PARAMETER])
def test_a_sticky_key_decides(loop: Routed, protocol: str, source: Source) -> None:
    loop.publish(spec_of(HALVES, sticky=source))
    assert loop.plan is not None
    for key in ("ann", "bob", "cleo", "dan", "eva", "ann"):
        answer = loop.ask(protocol, header=key) if source is HEADER else loop.ask(protocol, parameters={"user": key})
        assert origin(answer)[1] == loop.plan.assign(key.encode())
    assert sum(arm.keyed for arm in loop.reading().arms) == 6


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("value", "text"), [(7, b"7"), (-(2**63), b"-9223372036854775808"), (True, b"true"), (False, b"false")])
def test_numbers_and_booleans_are_keys_as_json_writes_them(loop: Routed, protocol: str, value: Any, text: bytes) -> None:
    for salt in ("a", "b", "c", "d"):
        loop.publish(spec_of(HALVES, sticky=PARAMETER, salt=salt))
        assert loop.plan is not None
        assert origin(loop.ask(protocol, parameters={"user": value}))[1] == loop.plan.assign(text)
        assert sum(arm.keyed for arm in loop.reading().arms) == 1


def test_large_unsigned_numbers_are_keys(loop: Routed) -> None:
    loop.publish(spec_of(HALVES, sticky=PARAMETER, salt="a"))
    assert loop.plan is not None
    assert origin(loop.ask("json", parameters={"user": 2**64 - 1}))[1] == loop.plan.assign(b"18446744073709551615")


@pytest.mark.parametrize("value", [1.5, None, {"a": 1}, ["x"]])
def test_other_values_are_no_keys(loop: Routed, value: Any) -> None:
    loop.publish(spec_of(HALVES, sticky=PARAMETER))
    loop.ask("json", parameters={"user": value})
    assert sum(arm.keyed for arm in loop.reading().arms) == 0


def test_keys_of_one_request_do_not_stay_for_the_next(loop: Routed) -> None:
    """Requests are used again."""
    loop.publish(spec_of(HALVES, sticky=PARAMETER))
    for parameters in ({"user": "ann"}, None, {"user": ""}, {"other": "ann"}):
        loop.ask("json", parameters=parameters)
        loop.ask("grpc", parameters=parameters)
    assert sum(arm.keyed for arm in loop.reading().arms) == 2


def test_more_parameters_than_are_kept(loop: Routed) -> None:
    """256 are kept. Of JSON the first ones; a protobuf map has no order."""
    kept, left = Override(Source("parameter", "p255"), "x", "2"), Override(Source("parameter", "p256"), "x", "3")
    loop.publish(spec_of({"1": 10_000}, overrides=(kept, left)))
    parameters = {f"p{i}": "-" for i in range(255)}
    for protocol in ("json", "grpc"):
        assert origin(loop.ask(protocol, parameters={**parameters, "p255": "x"}))[0] == "2"
    assert origin(loop.ask("json", parameters={**parameters, "p255": "-", "p256": "x"}))[0] == "1"
    assert loop.ask("grpc", parameters={f"p{i}": "-" for i in range(500)}).status == 200


def test_of_a_header_sent_twice_the_first_counts(loop: Routed) -> None:
    loop.publish(spec_of(HALVES, sticky=HEADER))
    assert loop.plan is not None
    keys = [f"k{i}" for i in range(8)]
    for key, other in itertools.pairwise(keys):
        answer = loop.http().ask(http_infer(X, "m", "", f"X-User-Id: {key}", f"x-user-id: {other}"))
        assert origin(answer)[1] == loop.plan.assign(key.encode())


def test_without_a_key_each_request_is_drawn_by_itself(loop: Routed) -> None:
    """3,000 requests at 30 %, within the binomial's 99.99 %; none of them is keyed."""
    loop.publish(spec_of({"1": 7000, "2": 3000}, sticky=HEADER))
    client, n = loop.http(), 3000
    arms: Counter[str] = Counter()
    for _ in range(n // 100):
        client.send(http_infer(X) * 100)
        arms.update(origin(client.read())[1] for _ in range(100))
    low, high = stats.binom.interval(0.9999, n, 0.3)
    assert low <= arms["v2"] <= high
    assert counted(loop.reading()) == arms
    assert sum(arm.keyed for arm in loop.reading().arms) == 0


def test_overrides_go_before_everything_but_a_version(loop: Routed) -> None:
    """The first that matches wins; neither segment nor coverage nor weights matter then."""
    force = Source("header", "x-user-id")
    loop.publish(spec_of({"1": 10_000, "2": 0}, coverage_bp=0, segment=Segment(HEADER, ("nobody",)), overrides=(
        Override(PARAMETER, "tester", "3"), Override(force, "beta", "2"), Override(force, "beta", "1"))))
    assert origin(loop.ask("json", header="beta"))[:2] == ("2", "forced")
    assert origin(loop.ask("grpc", header="beta", parameters={"user": "tester"}))[:2] == ("3", "forced")
    assert origin(loop.ask("json", "1", header="beta"))[:2] == ("1", "explicit")
    assert origin(loop.ask("json", header="bet"))[:2] == ("1", "outside")
    assert counted(loop.reading()) == {"forced": 2, "explicit": 1, "outside": 1}


def test_only_a_segment_is_drawn(loop: Routed) -> None:
    loop.publish(spec_of({"1": 0, "2": 10_000}, stable="v1", segment=Segment(PARAMETER, ("gold", "silver"))))
    for value, arm in (("gold", "v2"), ("silver", "v2"), ("bronze", "outside"), ("", "outside"), ("goldd", "outside")):
        for protocol in ("json", "grpc"):
            answer = loop.ask(protocol, parameters={"user": value})
            assert origin(answer)[:2] == ("2" if arm == "v2" else "1", arm)
    assert origin(loop.ask("json"))[1] == "outside"


def test_coverage_and_holdout_keep_units_on_stable(loop: Routed) -> None:
    loop.publish(spec_of({"1": 0, "2": 10_000}, stable="v1", sticky=HEADER, coverage_bp=6000, holdout_bp=3000))
    assert loop.plan is not None
    keys = [f"user-{i}" for i in range(60)]
    expected = [loop.plan.assign(key.encode()) for key in keys]
    client = loop.http()
    found = [origin(client.ask(http_infer(X, "m", "", f"x-user-id: {key}"))) for key in keys]
    assert [arm for _, arm, _ in found] == expected
    assert set(expected) == {"outside", "holdout", "v2"}
    assert {number for number, arm, _ in found if arm != "v2"} == {"1"}


def test_weight_zero_and_an_abort_mean_the_very_next_request(loop: Routed) -> None:
    """Over one connection: after the swap no request more goes to the version, however many are pipelined."""
    client = loop.http()
    for generation in range(1, 41):
        spec = spec_of({"1": 0, "2": 10_000} if generation % 2 else {"1": 10_000, "2": 0}, generation=generation)
        loop.publish(spec)
        client.send(http_infer(X) * 5)
        wanted = ("2", "v2") if generation % 2 else ("1", "v1")
        assert {origin(client.read()) for _ in range(5)} == {(*wanted, str(generation))}


# --- many plans under traffic -------------------------------------------------------------------------------------------------

def test_plan_changes_under_traffic_lose_and_misroute_nothing(tmp_path: Path) -> None:
    """Each answer says a generation, and is of a version and arm that this generation allows; the plans have counted just the answers."""
    with Routed(tmp_path, io_threads=2) as loop:
        known: list[NativePlan] = []
        seen: list[Counter[tuple[str, str, str]]] = [Counter() for _ in range(2)]
        loop.publish(spec_of({"1": 10_000}, generation=0))
        assert loop.plan is not None
        known.append(loop.plan)
        stop = threading.Event()

        def traffic(thread: int) -> None:
            client = loop.http(thread)
            while not stop.is_set():
                client.send(http_infer(X) * 20)
                seen[thread].update(origin(client.read()) for _ in range(20))

        threads = [threading.Thread(target=traffic, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for generation in range(1, 1001):
            other = str(2 + generation % 2)
            loop.publish(spec_of({"1": 5000, other: 5000} if generation % 3 else {"1": 10_000, other: 0}, generation=generation))
            assert loop.plan is not None
            known.append(loop.plan)
            loop.table.reclaim()
        stop.set()
        for thread in threads:
            thread.join()
        total = seen[0] + seen[1]
        wait_until(lambda: loop.table.reclaim() == 0, "retired snapshots to be free")
        assert not loop.table.holds(known[0])
        assert loop.table.holds(known[-1])
        counts = {(arm.version, arm.name, str(plan.spec.generation)): arm.assigned
                  for plan in known for arm in plan.read(True).arms if arm.assigned}
        assert counts == dict(total)
        ended = [(arm.assigned, arm.success) for plan in known for arm in plan.read(True).arms]
        assert all(assigned == success for assigned, success in ended)
        for number, arm, generation_text in total:
            allowed = {a.name: a.version for a in known[int(generation_text)].spec.arms if a.weight}
            assert allowed[arm] == number
