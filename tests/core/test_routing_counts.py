"""What becomes of routed requests, counted by arm, and what of it counts for the judge."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve._core.engine import NativeVersion
from serve._core.routing_plan import NativePlan
from serve._core.units import UnitMemory
from serve.traffic import Arm, ArmReading, JudgeCounting, JudgedOutput, RoutingSpec, Source
from tests.core import onnx_models
from tests.core.loopback import Loopback, version, wait_until
from tests.core.plain_clients import GRPC_INFER, HttpClient, grpc_infer, http_infer, http_request
from tests.core.plans import lookups, spec_of
from tests.integration.models import slow

HEADER = Source("header", "user")
HALVES = {"1": 5000, "2": 5000}
MINUTE_US = 60_000_000
# Versions 1 and 2 answer 0 to 9 and 0 to 4: 7 is an error of version 2 only.
SIZES = {"1": 10, "2": 5}
GOOD, BAD = 1, 7


class Counted(Loopback):
    """Model m with versions 1 and 2, the candidate, and the plan in force."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__()
        self.versions: dict[str, NativeVersion] = lookups(folder, self.pool, SIZES, **options)
        self.plan: NativePlan

    def publish(self, spec: RoutingSpec, units: UnitMemory | None = None) -> None:
        self.plan = NativePlan("m", spec, self.versions, units)
        self.table.publish({"m": (self.versions, self.versions["1"], self.plan)})

    def arm(self, name: str) -> ArmReading:
        return {arm.name: arm for arm in self.plan.read().arms}[name]

    def keys_of(self, arm: str, n: int) -> list[str]:
        """So many sticky keys that are drawn to the arm."""
        keys = (f"unit-{i}" for i in range(100_000))
        return [key for key, _ in zip((key for key in keys if self.plan.assign(key.encode()) == arm), range(n), strict=False)]


def ask(client: HttpClient, value: float, key: str = "") -> int:
    """The status."""
    fields = [f"user: {key}"] if key else []
    return client.ask(http_infer(np.array([[value]], np.float32), "m", "", *fields)).status


def ends(arm: ArmReading) -> tuple[int, int, int, int]:
    return arm.assigned, arm.success, arm.errors, arm.refused


def judged_spec(weights: dict[str, int] | None = None, *, warmup: int = 0, output: JudgedOutput | None = None,
                **options: Any) -> RoutingSpec:
    return spec_of(weights or HALVES, stable="v1", counting=JudgeCounting("r", "v1", "v2", warmup, output), **options)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Counted]:
    with Counted(tmp_path) as loop:
        yield loop


# --- how requests end -------------------------------------------------------------------------------------------------------

def test_runs_that_fail_are_errors_of_their_arm(loop: Counted) -> None:
    loop.publish(judged_spec({"1": 0, "2": 10_000}))
    client = loop.http()
    assert [ask(client, value) for value in (GOOD, BAD, GOOD, BAD, BAD)] == [200, 400, 200, 400, 400]
    arm = loop.arm("v2")
    assert ends(arm) == (5, 2, 3, 0)
    assert sum(arm.total_counts) == 2
    assert ends(loop.arm("v1")) == (0, 0, 0, 0)


def test_only_the_culprit_of_a_batch_is_an_error(loop: Counted) -> None:
    loop.publish(judged_spec({"1": 0, "2": 10_000}))
    client = loop.http()
    values = [GOOD, BAD, GOOD, GOOD, BAD, GOOD] * 10
    client.send(b"".join(http_infer(np.array([[value]], np.float32)) for value in values))
    assert [client.read().status for _ in values] == [200 if value == GOOD else 400 for value in values]
    assert ends(loop.arm("v2")) == (60, 40, 20, 0)
    assert loop.arm("v2").judged_errors == 20


def test_what_the_client_did_wrong_is_refused(loop: Counted) -> None:
    """A shape that the version does not take; what cannot be decoded or names no model is not routed at all."""
    loop.publish(judged_spec({"1": 0, "2": 10_000}))
    client = loop.http()
    elsewhere = http_infer(np.ones((1, 1), np.float32), "n")
    client.send(http_infer(np.ones((1, 3), np.float32)) + http_request("/v2/models/m/infer", b"{") + elsewhere)
    assert [client.read().status for _ in range(3)] == [400, 400, 404]
    assert ends(loop.arm("v2")) == (1, 0, 0, 1)
    assert loop.arm("v2").judged == 0


def test_a_full_queue_a_deadline_in_it_and_a_client_that_left_are_refused(tmp_path: Path) -> None:
    with Counted(tmp_path, max_queue_delay_us=MINUTE_US, max_queue_size=1, max_batch_size=4) as loop:
        loop.publish(judged_spec({"1": 0, "2": 10_000}))
        first, second = loop.http(), loop.http()
        first.send(http_infer(np.ones((1, 1), np.float32)))
        wait_until(lambda: loop.versions["2"].statistics().queue_depth == 1, "a queued request")
        assert ask(second, GOOD) == 503
        first.socket.close()
        wait_until(lambda: loop.versions["2"].statistics().queue_depth == 0, "its cancellation")
        late = second.ask(http_infer(np.ones((1, 1), np.float32), "m", "", "x-request-timeout-ms: 20"))
        assert late.status == 504
        assert ends(loop.arm("v2")) == (3, 0, 0, 3)
        assert loop.arm("v2").judged == 0


def test_a_run_that_its_deadline_finds_running_is_an_error(tmp_path: Path) -> None:
    with Loopback() as loop:
        native = version(slow(tmp_path / "slow.onnx"), loop.pool, max_batch_size=0, warm={"trips": (1,)})
        plan = NativePlan("m", RoutingSpec(5, "s", (Arm("a", "1", 10_000),), "a"), {"1": native})
        loop.table.publish({"m": ({"1": native}, native, plan)})
        body = json.dumps({"inputs": [{"name": "trips", "datatype": "INT64", "shape": [1], "data": [30_000]}]}).encode()
        answer = loop.http().ask(http_request("/v2/models/m/infer", body, "POST", "x-request-timeout-ms: 30"))
        assert (answer.status, answer.fields["x-headrace-variant"], answer.fields["x-headrace-generation"]) == (504, "a", "5")
        wait_until(lambda: plan.read().arms[0].errors == 1, "the run to come back")
        assert ends(plan.read().arms[0]) == (1, 0, 1, 0)


def test_a_run_whose_client_left_still_counts_as_it_ended(tmp_path: Path) -> None:
    with Loopback() as loop:
        native = version(slow(tmp_path / "slow.onnx"), loop.pool, max_batch_size=0, warm={"trips": (1,)})
        plan = NativePlan("m", RoutingSpec(5, "s", (Arm("a", "1", 10_000),), "a"), {"1": native})
        loop.table.publish({"m": ({"1": native}, native, plan)})
        body = json.dumps({"inputs": [{"name": "trips", "datatype": "INT64", "shape": [1], "data": [3000]}]}).encode()
        client = loop.http()
        client.send(http_request("/v2/models/m/infer", body))
        wait_until(lambda: native.statistics().in_flight == 1 and native.statistics().queue_depth == 0, "the run")
        loop.table.publish({"m": ({"1": native}, native, None)})
        client.socket.close()
        loop.table.reclaim()
        assert loop.table.holds(plan)                           # the request does
        wait_until(lambda: loop.table.reclaim() == 0, "the run to come back")
        assert not loop.table.holds(plan)
        assert ends(plan.read(True).arms[0]) == (1, 1, 0, 0)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_protocol_counts(loop: Counted, protocol: str) -> None:
    loop.publish(judged_spec())
    client, grpc = loop.http(), loop.h2()
    for i in range(40):
        value = np.array([[BAD if i % 4 == 0 else GOOD]], np.float32)
        if protocol == "http":
            client.ask(http_infer(value))
        else:
            grpc.read(grpc.grpc(grpc_infer(value), GRPC_INFER))
    one, two = loop.arm("v1"), loop.arm("v2")
    assert (one.success + two.success + two.errors, one.errors, one.refused + two.refused) == (40, 0, 0)
    assert (one.judged, two.judged) == (one.assigned, two.assigned)
    assert two.judged_errors == two.errors <= 10


# --- what the judge is told -------------------------------------------------------------------------------------------------

def test_only_the_two_arms_are_judged(loop: Counted) -> None:
    loop.versions["3"] = loop.versions["1"]
    loop.publish(judged_spec({"1": 0, "3": 10_000, "2": 0}))
    client = loop.http()
    for _ in range(5):
        ask(client, GOOD)
    client.ask(http_infer(np.array([[BAD]], np.float32), "m", "2"))
    assert (loop.arm("v3").success, loop.arm("v3").judged) == (5, 0)
    assert (loop.arm("explicit").errors, loop.arm("explicit").judged, loop.arm("v2").judged_errors) == (1, 0, 0)
    loop.publish(spec_of({"1": 0, "2": 10_000}, generation=2))
    ask(client, BAD)
    assert (loop.arm("v2").errors, loop.arm("v2").judged) == (1, 0)


def test_the_warm_up_takes_the_candidates_answers_and_counts_neither_arm(loop: Counted) -> None:
    loop.publish(judged_spec(warmup=3, sticky=HEADER))
    (stable,), (candidate,) = loop.keys_of("v1", 1), loop.keys_of("v2", 1)
    client = loop.http()
    for _ in range(5):
        ask(client, GOOD, stable)
    assert (loop.arm("v1").judged, loop.plan.read().warmup_left) == (0, 3)
    for value in (BAD, GOOD, BAD):
        ask(client, value, candidate)
    assert (loop.arm("v2").errors, loop.arm("v2").judged, loop.plan.read().streak, loop.plan.read().warmup_left) == (2, 0, 0, 0)
    for key in (stable, candidate, candidate):
        ask(client, GOOD, key)
    assert (loop.arm("v1").judged, loop.arm("v2").judged, loop.arm("v2").judged_errors) == (1, 2, 0)


def test_refused_requests_do_not_warm_up(loop: Counted) -> None:
    loop.publish(judged_spec({"1": 0, "2": 10_000}, warmup=2))
    client = loop.http()
    client.ask(http_infer(np.ones((1, 3), np.float32)))
    assert loop.plan.read().warmup_left == 2


def test_without_units_each_error_counts(loop: Counted) -> None:
    loop.publish(judged_spec(sticky=HEADER))
    client = loop.http()
    for key in loop.keys_of("v2", 2) * 3:
        ask(client, BAD, key)
    assert (loop.arm("v2").judged, loop.arm("v2").judged_errors) == (6, 6)


def test_with_units_each_units_first_error_counts_once_in_a_rollout(loop: Counted) -> None:
    """Across generations, and after what was remembered is read back."""
    units = UnitMemory()
    loop.publish(judged_spec(sticky=HEADER), units)
    client = loop.http()
    keys = loop.keys_of("v2", 4)
    for key in keys[:3] * 4:
        ask(client, BAD, key)
    arm = loop.arm("v2")
    assert (arm.errors, arm.judged, arm.judged_errors, units.n_failing) == (12, 12, 3, 3)
    loop.publish(judged_spec({"1": 4000, "2": 6000}, generation=2, sticky=HEADER), units)
    for key in keys:
        ask(client, BAD, key)
    assert (loop.arm("v2").errors, loop.arm("v2").judged_errors) == (4, 1)
    read_back = UnitMemory()
    read_back.restore(units.failing_bytes(), units.seen_bytes())
    loop.publish(judged_spec({"1": 4000, "2": 6000}, generation=3, sticky=HEADER), read_back)
    for key in keys:
        ask(client, BAD, key)
    assert (loop.arm("v2").errors, loop.arm("v2").judged_errors) == (4, 0)


def test_requests_without_a_key_are_units_of_their_own(loop: Counted) -> None:
    units = UnitMemory()
    loop.publish(judged_spec({"1": 0, "2": 10_000}, sticky=HEADER), units)
    client = loop.http()
    for _ in range(5):
        ask(client, BAD)
    assert (loop.arm("v2").judged_errors, loop.arm("v2").keyed, units.n_failing) == (5, 0, 0)


def test_streaks(loop: Counted) -> None:
    loop.publish(judged_spec({"1": 0, "2": 10_000}))
    client = loop.http()
    seen = []
    for value in (BAD, BAD, GOOD, BAD, BAD, BAD, GOOD, BAD):
        ask(client, value)
        reading = loop.plan.read()
        seen.append((reading.streak, reading.longest_streak))
    assert seen == [(1, 1), (2, 2), (0, 2), (1, 2), (2, 2), (3, 3), (0, 3), (1, 3)]


def test_a_unit_that_failed_before_neither_adds_to_the_streak_nor_breaks_it(loop: Counted) -> None:
    loop.publish(judged_spec(sticky=HEADER), UnitMemory())
    first, second, third = loop.keys_of("v2", 3)
    (stable,) = loop.keys_of("v1", 1)
    client = loop.http()
    streaks = []
    for key, value in ((first, BAD), (first, BAD), (second, BAD), (stable, GOOD), (first, BAD), (third, GOOD), (third, BAD)):
        ask(client, value, key)
        streaks.append(loop.plan.read().streak)
    assert streaks == [1, 1, 2, 2, 2, 0, 1]


def test_outputs_are_counted_by_bin_and_each_units_first_only(loop: Counted) -> None:
    units = UnitMemory()
    loop.publish(judged_spec(sticky=HEADER, output=JudgedOutput("y", "float")), units)
    client = loop.http()
    one, two = loop.keys_of("v2", 2)
    for key, value in ((one, 1), (one, 2), (two, 2), (two, 1), (one, BAD)):
        ask(client, value, key)
    outputs = loop.arm("v2").outputs
    assert sorted(outputs.values()) == [1, 1]
    assert (units.n_seen, units.n_failing) == (2, 1)
    loop.publish(judged_spec({"1": 0, "2": 10_000}, generation=2, output=JudgedOutput("y", "float")))
    for value in (1, 1, 2, 2, 2, BAD):
        ask(client, value)
    again = loop.arm("v2").outputs
    assert set(again) == set(outputs)
    assert sorted(again.values()) == [2, 3]
    assert loop.arm("v1").outputs == {}


@pytest.mark.parametrize(("check_finite", "errors"), [(True, 2), (False, 0)])
def test_an_answer_that_is_not_finite_is_an_error_though_it_is_delivered(tmp_path: Path, check_finite: bool, errors: int) -> None:
    """y = 1 / x."""
    path = onnx_models.single_node(tmp_path / "m.onnx", "Reciprocal", [onnx_models.info("x", "FP32", ["batch", 1])],
                                   [onnx_models.info("y", "FP32", ["batch", 1])])
    with Loopback() as loop:
        versions = {number: version(path, loop.pool, "m", number, warm={"x": (1,)}) for number in ("1", "2")}
        spec = spec_of({"1": 0, "2": 10_000}, stable="v1", counting=JudgeCounting("r", "v1", "v2", check_finite=check_finite))
        plan = NativePlan("m", spec, versions)
        loop.table.publish({"m": (versions, versions["1"], plan)})
        client = loop.http()
        assert [ask(client, value) for value in (2, 0, 4, 0)] == [200] * 4
        arm = plan.read().arms[1]
        assert (arm.errors, arm.judged_errors, arm.success, arm.judged) == (errors, errors, 4 - errors, 4)
