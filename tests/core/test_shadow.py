"""Shadows in a running server: what they are compared to, what they may never touch, and that every sampled one is accounted for."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serve._core.engine import NativeVersion
from serve._core.routing_plan import NativePlan
from serve._core.runner import live_objects
from serve.traffic import CompareRule, Override, RoutingSpec, Shadow, ShadowReading, Source
from tests.core import onnx_models
from tests.core.loopback import Loopback, scaled, version, wait_until
from tests.core.plain_clients import GRPC_STREAM, HttpClient, grpc_infer, grpc_tensor, http_infer, http_request, http_tensor, unframe
from tests.core.plans import looks_up, spec_of

Array = np.ndarray[Any, Any]
ALL = 10_000
MINUTE_US = 60_000_000
SIZES = {"1": 10, "2": 5}           # of looks_up: 5 to 9 is answered by version 1 and fails version 2


def matrix(path: Path, weights: Array) -> Path:
    """y = x weights."""
    return onnx_models.single_node(path, "MatMul", [onnx_models.info("x", "FP32", ["batch", weights.shape[0]])],
                                   [onnx_models.info("y", "FP32", ["batch", weights.shape[1]])], [numpy_helper.from_array(weights, "w")])


def thinks(path: Path, size: int) -> Path:
    """As looks_up, only that a few dozen milliseconds pass before it fails or answers."""
    def value(name: str, kind: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["still"]), helper.make_node("MatMul", ["at", "matrix"], ["next"])], "body",
        [value("trip", TensorProto.INT64, []), value("going", TensorProto.BOOL, []), value("at", TensorProto.FLOAT, [64, 64])],
        [value("still", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [64, 64])])
    nodes = [helper.make_node("Loop", ["count", "always", "matrix"], ["product"], body=body),
             helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0), helper.make_node("Mul", ["sum", "nothing"], ["zero"]),
             helper.make_node("Add", ["x", "zero"], ["same"]), helper.make_node("Cast", ["same"], ["i"], to=TensorProto.INT64),
             helper.make_node("Gather", ["table", "i"], ["y"])]
    constants = {"count": np.array(4000), "always": np.array(True), "matrix": np.eye(64, dtype=np.float32),
                 "nothing": np.array(0, np.float32), "table": np.arange(size, dtype=np.float32)}
    return onnx_models.save(path, nodes, [onnx_models.info("x", "FP32", ["batch", 1])], [onnx_models.info("y", "FP32", ["batch", 1])],
                            [numpy_helper.from_array(array, name) for name, array in constants.items()])


class Shadowed(Loopback):
    """Model m with versions to shadow each other, and model gate, whose request in the queue keeps the device from shadows."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.versions: dict[str, NativeVersion] = {}
        self.gate = version(scaled(folder, 3.0), self.pool, "gate", max_queue_delay_us=MINUTE_US)
        self.plan: NativePlan
        self.n_plans = 0

    def add(self, number: str, path: Path, width: int, **options: Any) -> None:
        self.versions[number] = version(path, self.pool, "m", number, **{"warm": {"x": (width,)}, **options})

    def publish(self, spec: RoutingSpec) -> NativePlan:
        self.plan = NativePlan("m", spec, self.versions)
        self.table.publish({"m": (self.versions, self.versions["1"], self.plan), "gate": ({"1": self.gate}, self.gate, None)})
        return self.plan

    def shadow(self, sample_bp: int = ALL, rules: tuple[CompareRule, ...] = (), **options: Any) -> NativePlan:
        """Version 1 answers, version 2 is its shadow."""
        return self.publish(spec_of({"1": ALL}, shadows=(Shadow("2", sample_bp, rules),), **options))

    def close_gate(self) -> HttpClient:
        client = self.http()
        client.send(http_infer(np.ones((1, 4), np.float32), "gate"))
        wait_until(lambda: self.gate.statistics().queue_depth == 1, "the gate to be closed")
        return client

    def open_gate(self, client: HttpClient) -> None:
        client.socket.close()
        wait_until(lambda: self.gate.statistics().queue_depth == 0, "the gate to be open")

    def counts(self) -> ShadowReading:
        (reading,) = self.plan.read().shadows
        return reading

    def settled(self) -> ShadowReading:
        """Once every sampled one is accounted for."""
        def is_settled() -> bool:
            reading = self.counts()
            return reading.sampled == reading.compared + sum(reading.dropped.values())
        wait_until(is_settled, "every shadow to be compared or dropped")
        return self.counts()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Shadowed]:
    with Shadowed(tmp_path) as loop:
        yield loop


def scalings(loop: Shadowed, first: float = 1.0, second: float = 1.0, **options: Any) -> None:
    loop.add("1", scaled(loop.folder, first), 4)
    loop.add("2", scaled(loop.folder, second), 4, **options)


def inputs(n: int, seed: int = 1) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((int(random.integers(1, 5)), 4)).astype(np.float32) for _ in range(n)]


def ask_all(loop: Shadowed, xs: list[Array]) -> None:
    """Every answer is version 1's."""
    client = loop.http()
    client.send(b"".join(http_infer(x) for x in xs))
    for x in xs:
        answer = client.read()
        assert answer.fields["x-headrace-version"] == "1"
        np.testing.assert_array_equal(http_tensor(answer), x)


# --- comparing ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("by", ["I/O thread", "instance threads"])
def test_identical_versions_agree_over_every_protocol(loop: Shadowed, by: str) -> None:
    scalings(loop, **({"max_queue_delay_us": 1} if by == "instance threads" else {}))
    loop.shadow()
    xs = inputs(40)
    ask_all(loop, xs)
    client = loop.h2()
    streams = [(client.grpc(grpc_infer(x)), x) for x in xs[:10]]
    stream = client.grpc(b"".join(grpc_infer(x) for x in xs[:10]), GRPC_STREAM)
    for number, x in streams:
        (message,) = unframe(client.read(number).body)
        np.testing.assert_array_equal(grpc_tensor(message), x)
    assert len(unframe(client.read(stream).body)) == 10
    reading = loop.settled()
    assert (reading.version, reading.sampled, reading.compared, reading.disagreement, reading.failed) == ("2", 60, 60, 0.0, 0)
    assert reading.dropped == {"capacity": 0, "late": 0, "primary": 0, "gone": 0}


def test_a_shifted_model_disagrees_as_numpy_says(loop: Shadowed) -> None:
    random = np.random.default_rng(11)
    weights = random.standard_normal((4, 3)).astype(np.float32)
    shifted = weights + 0.7 * random.standard_normal((4, 3)).astype(np.float32)
    loop.add("1", matrix(loop.folder / "1.onnx", weights), 4)
    loop.add("2", matrix(loop.folder / "2.onnx", shifted), 4)
    loop.shadow()                                           # the default is argmax
    xs = inputs(100)
    client = loop.http()
    client.send(b"".join(http_infer(x) for x in xs))
    for _ in xs:
        client.read()
    reading = loop.settled()
    expected = [np.mean(np.argmax(x @ weights, 1) != np.argmax(x @ shifted, 1)) for x in xs]
    assert reading.compared == 100
    assert 0.1 < np.mean(expected) < 0.9
    assert abs(reading.disagreement - sum(expected)) <= 100e-6


def test_the_rules_of_the_plan_decide(loop: Shadowed) -> None:
    scalings(loop, 1.0, 1.25)
    xs = inputs(20)
    for rules, share in [((CompareRule("y", "tolerance", rtol=0.3),), 0.0), ((CompareRule("y", "tolerance", rtol=0.2),), 1.0),
                         ((CompareRule("y", "exact"),), 1.0), ((), 0.0)]:
        loop.shadow(rules=rules)
        ask_all(loop, xs)
        reading = loop.settled()
        assert (reading.compared, reading.disagreement) == (20, 20 * share)


def test_raw_bodies_are_bound_again(loop: Shadowed) -> None:
    loop.add("1", onnx_models.exclaim(loop.folder / "1.onnx", ("n", 1)), 1)
    loop.add("2", onnx_models.exclaim(loop.folder / "2.onnx", ("n", 1)), 1)
    loop.shadow()
    client = loop.http()
    for text in (b"a", b"many bytes", b""):
        answer = client.ask(http_request("/v2/models/m/infer", text, "POST", "Inference-Header-Content-Length: 0"))
        assert answer.status == 200
        assert text + b"!" in answer.body
    reading = loop.settled()
    assert (reading.sampled, reading.compared, reading.disagreement, reading.failed) == (3, 3, 0.0, 0)


def test_sampling_takes_its_share_by_unit(loop: Shadowed) -> None:
    """The same units each time, those that positions tells; a version is not its own shadow."""
    scalings(loop)
    spec = spec_of({"1": 5000, "2": 5000}, shadows=(Shadow("2", 3000),), sticky=Source("header", "user"))
    plan = loop.publish(spec)
    client = loop.http()
    keys = [f"unit-{i}" for i in range(200)]
    for _ in range(2):
        client.send(b"".join(http_infer(np.ones((1, 4), np.float32), "m", "", f"user: {key}") for key in keys))
        for _ in keys:
            assert client.read().status == 200
    drawn = [key for key in keys if plan.assign(key.encode()) == "v1" and plan.positions(key.encode())["shadow"] < 0.3]
    assert 10 < len(drawn) < 60
    assert loop.settled().sampled == 2 * len(drawn)


def test_two_shadows_have_shares_of_their_own(loop: Shadowed) -> None:
    scalings(loop)
    loop.add("3", scaled(loop.folder, 1.0), 4)
    plan = loop.publish(spec_of({"1": ALL}, shadows=(Shadow("2", 2500), Shadow("3", 7500))))
    ask_all(loop, inputs(200))
    wait_until(lambda: sum(s.compared + sum(s.dropped.values()) for s in plan.read().shadows) == 200, "all of them")
    first, second = plan.read().shadows
    assert first.sampled + second.sampled == 200
    assert 20 <= first.sampled <= 85                        # of 200 with probability 1/4: 50, give or take 5.7 standard deviations


def test_requests_that_no_draw_has_assigned_are_not_sampled(loop: Shadowed) -> None:
    scalings(loop)
    loop.shadow(overrides=(Override(Source("header", "qa"), "yes", "1"),), coverage_bp=0)
    client = loop.http()
    x = np.ones((1, 4), np.float32)
    for request in (http_infer(x, "m", "1"), http_infer(x, "m", "", "qa: yes"), http_infer(x)):
        assert client.ask(request).status == 200
    assert loop.counts().sampled == 0


# --- failures -----------------------------------------------------------------------------------------------------------

def test_a_shadow_that_fails_is_counted_and_nobody_sees_it(loop: Shadowed) -> None:
    """One of a batch that fails does not take the others with it."""
    for number, size in SIZES.items():
        loop.add(number, looks_up(loop.folder / f"{number}.onnx", size), 1)
    loop.shadow()
    gate = loop.close_gate()
    client = loop.http()
    client.send(b"".join(http_infer(np.array([[i % 10]], np.float32)) for i in range(10)))
    for i in range(10):
        np.testing.assert_array_equal(http_tensor(client.read()), [[i % 10]])
    loop.open_gate(gate)
    reading = loop.settled()
    assert (reading.sampled, reading.compared, reading.failed, reading.disagreement) == (10, 10, 5, 5.0)


def test_a_shadow_that_refuses_the_input_has_failed(loop: Shadowed) -> None:
    loop.add("1", scaled(loop.folder, 1.0), 4)
    loop.add("2", scaled(loop.folder, 1.0, ("batch", 5)), 5)
    loop.shadow()
    ask_all(loop, inputs(8))
    reading = loop.settled()
    assert (reading.compared, reading.failed, reading.disagreement) == (8, 8, 8.0)


def test_where_the_primary_fails_nothing_is_compared(loop: Shadowed) -> None:
    loop.add("1", looks_up(loop.folder / "1.onnx", 5), 1)
    loop.add("2", looks_up(loop.folder / "2.onnx", 10), 1)
    loop.shadow()
    client = loop.http()
    assert [client.ask(http_infer(np.array([[i]], np.float32))).status for i in (1, 7, 2)] == [200, 400, 200]
    reading = loop.settled()
    assert (reading.sampled, reading.compared, reading.failed, reading.dropped["primary"]) == (3, 2, 0, 1)


def test_the_books_of_both_versions_are_those_without_a_shadow(loop: Shadowed) -> None:
    scalings(loop)
    loop.shadow()
    xs = inputs(50)
    ask_all(loop, xs)
    assert loop.settled().compared == 50
    first, second = loop.versions["1"].statistics(), loop.versions["2"].statistics()
    assert (first.success.count, first.inference_count, first.in_flight) == (50, sum(map(len, xs)), 0)
    assert (second.success.count, second.fail.count, second.in_flight, second.queue_depth) == (0, 0, 0, 0)
    assert second.inference_count == sum(map(len, xs))
    assert not any(sum(histogram.counts) for histogram in second.stages.values())
    assert loop.versions["1"].run_reading().runs
    assert loop.versions["2"].run_reading().runs == {}
    assert sum(loop.versions["2"].run_reading().waits) == 0


# --- pressure -----------------------------------------------------------------------------------------------------------

def test_shadows_wait_for_the_device_and_no_more_than_there_is_room_for(loop: Shadowed) -> None:
    scalings(loop)
    loop.shadow()
    gate = loop.close_gate()
    ask_all(loop, inputs(300))
    reading = loop.counts()
    assert (reading.sampled, reading.compared, reading.dropped["capacity"]) == (300, 0, 44)     # 256 wait
    assert loop.total("live_requests") == 257
    assert loop.total("held_bytes") > 256 * 16
    loop.open_gate(gate)
    reading = loop.settled()
    assert (reading.compared, reading.disagreement) == (256, 0.0)
    wait_until(lambda: loop.total("live_requests") == 0, "every request to be freed")


def test_what_waits_too_long_is_dropped(loop: Shadowed) -> None:
    scalings(loop)
    loop.shadow()
    gate = loop.close_gate()
    began = time.monotonic()
    ask_all(loop, inputs(20))
    reading = loop.settled()
    assert time.monotonic() - began >= 1.0
    assert (reading.compared, reading.dropped["late"]) == (0, 20)
    loop.open_gate(gate)


def test_waiting_shadows_give_their_bytes_to_clients(tmp_path: Path) -> None:
    """The budget is 1 MiB, and what waits may hold an eighth of it; a request of nearly 1 MiB is let in all the same."""
    with Shadowed(tmp_path, max_in_flight=1 << 20, max_body=1 << 20) as loop:
        loop.add("1", scaled(tmp_path, 1.0, ("batch", "width")), 4)
        loop.add("2", scaled(tmp_path, 1.0, ("batch", "width")), 4)
        loop.shadow()
        gate = loop.close_gate()
        small = np.ones((1, 2000), np.float32)
        client = loop.http()
        for _ in range(12):
            np.testing.assert_array_equal(http_tensor(client.ask(http_infer(small))), small)
        reading = loop.counts()
        waiting = reading.sampled - reading.dropped["capacity"]
        assert 1 <= waiting < 12
        assert waiting * small.nbytes <= loop.total("held_bytes") <= 1 << 17
        large = np.ones((1, (1_040_000 - 40_000) // 4), np.float32)
        np.testing.assert_array_equal(http_tensor(client.ask(http_infer(large))), large)
        assert loop.total("refused_in_flight") == 0
        loop.open_gate(gate)
        reading = loop.settled()
        assert reading.sampled == 13


def test_under_saturation_clients_are_served_and_shadows_accounted_for(tmp_path: Path) -> None:
    """Two versions, each the other's shadow, that take a while; four connections that have asked for everything before they read."""
    sizes = (4, 1200, 1200, 4)
    with Shadowed(tmp_path, io_threads=2) as loop:
        for number in ("1", "2"):
            loop.add(number, onnx_models.mlp(tmp_path / f"{number}.onnx", sizes), 4, max_batch_size=8)
        plan = loop.publish(spec_of({"1": 5000, "2": 5000}, shadows=(Shadow("1", 5000), Shadow("2", 5000))))
        clients = [loop.http(i % 2) for i in range(4)]
        xs = inputs(600)
        for client in clients:
            client.send(b"".join(http_infer(x) for x in xs))
        expected = np.split(onnx_models.mlp_in_numpy(np.concatenate(xs), sizes), np.cumsum([len(x) for x in xs])[:-1])
        for client in clients:
            for y in expected:
                np.testing.assert_allclose(http_tensor(client.read()), y, rtol=1e-3, atol=1e-3)
        wait_until(lambda: all(s.sampled == s.compared + sum(s.dropped.values()) for s in plan.read().shadows), "the last of them")
        readings = plan.read().shadows
        sampled = sum(reading.sampled for reading in readings)
        assert abs(sampled - 1200) < 6 * np.sqrt(600)
        assert sum(reading.compared for reading in readings) > 0
        assert sum(reading.dropped["capacity"] for reading in readings) > 0
        assert [reading.failed for reading in readings] == [0, 0]
        assert sum(native.statistics().success.count for native in loop.versions.values()) == 2400
        wait_until(lambda: loop.total("live_requests") == 0, "every request to be freed")


def test_shadows_that_fail_together_make_way_before_they_run_one_by_one(loop: Shadowed) -> None:
    loop.add("1", looks_up(loop.folder / "1.onnx", 10), 1)
    loop.add("2", thinks(loop.folder / "2.onnx", 5), 1, max_batch_size=4)
    loop.shadow()
    client, reading = loop.http(), loop.counts()
    for _ in range(5):
        gate = loop.close_gate()
        client.send(b"".join(http_infer(np.array([[i]], np.float32)) for i in (1, 2, 7)))
        assert [client.read().status for _ in range(3)] == [200, 200, 200]
        loop.open_gate(gate)
        wait_until(lambda: not loop.versions["2"].is_idle(), "the shadows to run")
        gate = loop.close_gate()                            # while the three run together; or, rarely, before: then they are late
        reading = loop.settled()
        loop.open_gate(gate)
        if reading.dropped["capacity"]:
            break
    assert (reading.compared, reading.dropped["capacity"]) == (0, 3)


# --- going away ---------------------------------------------------------------------------------------------------------

def test_a_version_is_unloaded_when_its_last_shadow_is_done(loop: Shadowed) -> None:
    scalings(loop)
    loop.add("3", scaled(loop.folder, 2.0), 4)
    before = live_objects()["runners"]
    plan = loop.shadow()
    gate = loop.close_gate()
    ask_all(loop, inputs(20))
    del loop.versions["2"]
    loop.publish(spec_of({"1": ALL}, generation=2))
    assert loop.table.reclaim() == 1                        # the shadows that wait hold it
    loop.open_gate(gate)
    wait_until(lambda: loop.table.reclaim() == 0, "the old snapshot to be free")
    (reading,) = plan.read().shadows
    assert (reading.sampled, reading.compared) == (20, 20)
    del plan, reading
    assert live_objects()["runners"] == before - 1


def test_unloading_under_load_loses_nothing(loop: Shadowed) -> None:
    scalings(loop)
    plans = [loop.shadow(5000)]
    clients = [loop.http() for _ in range(3)]
    xs = inputs(30)
    for generation in range(20):
        for client in clients:
            client.send(b"".join(http_infer(x) for x in xs))
        plans.append(loop.shadow(5000, generation=generation + 2))
        loop.add("2", scaled(loop.folder, 1.0), 4)
        for client in clients:
            for x in xs:
                np.testing.assert_array_equal(http_tensor(client.read()), x)
    wait_until(lambda: loop.table.reclaim() == 0, "the old snapshots to be free")
    loop.settled()
    readings = [plan.read().shadows[0] for plan in plans]
    assert all(reading.sampled == reading.compared + sum(reading.dropped.values()) for reading in readings)
    assert sum(reading.compared for reading in readings) > 0
    assert sum(reading.disagreement for reading in readings) == 0


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_shadows_that_wait_when_the_server_goes_are_gone(tmp_path: Path, how: str) -> None:
    with Shadowed(tmp_path) as loop:
        scalings(loop)
        loop.shadow()
        gate = loop.close_gate()
        ask_all(loop, inputs(10))
        if how == "drain":
            loop.server.drain()
            reading = loop.settled()
        else:
            loop.stop()
            reading = loop.counts()
        assert (reading.sampled, reading.compared, reading.dropped["gone"]) == (10, 0, 10)
        gate.socket.close()


def test_a_client_that_leaves_does_not_matter_to_its_shadow(loop: Shadowed) -> None:
    scalings(loop)
    loop.shadow()
    gate = loop.close_gate()
    ask_all(loop, inputs(5))
    loop.clients[-1].close()
    loop.open_gate(gate)
    assert loop.settled().compared == 5


def test_deep_outputs_are_kept_and_compared(loop: Shadowed) -> None:
    """Two outputs, of floats and of integers, both sides in one order."""
    path = onnx_models.two_by_two(loop.folder / "m.onnx")
    nodes = [helper.make_node("Add", ["a", "a"], ["doubled_a"]), helper.make_node("Identity", ["b"], ["negated_b"]),
             helper.make_node("ReduceSum", ["a", "last"], ["sum"], keepdims=0)]
    info = onnx_models.info
    other = onnx_models.save(loop.folder / "other.onnx", nodes, [info("a", "FP32", ["n", 2]), info("b", "INT64", ["n", 2, 3])],
                             [info("doubled_a", "FP32", ["n", 2]), info("negated_b", "INT64", ["n", 2, 3]), info("sum", "FP32", ["n"])],
                             [numpy_helper.from_array(np.array([-1], np.int64), "last")])
    for number, of in (("1", path), ("2", other)):
        loop.versions[number] = version(of, loop.pool, "m", number, warm={"a": (2,), "b": (2, 3)})
    loop.shadow()
    b = np.zeros((4, 2, 3), np.int64)
    b[2] = 1                                                # -1 is not 1, and 0 is 0
    body = ('{"inputs":[{"name":"a","datatype":"FP32","shape":[4,2],"data":[1,2,3,4,5,6,7,8]},'
            f'{{"name":"b","datatype":"INT64","shape":[4,2,3],"data":{b.ravel().tolist()}}}]}}').encode()
    assert loop.http().ask(http_request("/v2/models/m/infer", body)).status == 200
    reading = loop.settled()
    assert (reading.compared, reading.disagreement) == (1, 0.25)
