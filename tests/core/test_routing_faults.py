"""What a review found in routing and shadows: each was so once."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve._core.routing_plan import NativePlan
from serve.traffic import ArmReading, JudgeCounting
from tests.core.loopback import scaled, wait_until
from tests.core.plain_clients import http_infer
from tests.core.plans import looks_up, spec_of
from tests.core.test_shadow import Shadowed, thinks

ALL = 10_000
X = np.ones((1, 4), np.float32)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Shadowed]:
    with Shadowed(tmp_path) as loop:
        yield loop


def arm(loop: Shadowed, name: str) -> ArmReading:
    return next(arm for arm in loop.plan.read().arms if arm.name == name)


def test_what_is_published_holds_for_the_very_next_request(loop: Shadowed) -> None:
    """Also while the turn that reads it has begun before: it takes a while to read what other connections have sent."""
    for number in ("1", "2"):
        loop.add(number, scaled(loop.folder, float(number)), 4)
    busy, client = loop.http(), loop.http()
    request, n = http_infer(X), 60
    loop.publish(spec_of({"1": ALL, "2": 0}, generation=1))
    for generation in range(2, 400):
        weights = {"1": ALL, "2": 0} if generation % 2 else {"1": 0, "2": ALL}
        plan = NativePlan("m", spec_of(weights, generation=generation), loop.versions)
        busy.send(request * n)
        client.send(request)
        loop.table.publish({"m": (loop.versions, loop.versions["1"], plan), "gate": ({"1": loop.gate}, loop.gate, None)})
        client.send(request)
        for _ in range(n):
            busy.read()
        client.read()
        assert client.read().fields["x-headrace-generation"] == str(generation)


def test_a_run_past_its_deadline_counts_when_its_client_is_told(loop: Shadowed) -> None:
    """Not when it comes back: a version that hangs would never be counted."""
    loop.add("1", looks_up(loop.folder / "1.onnx", 10), 1)
    loop.add("2", thinks(loop.folder / "2.onnx", 5), 1)
    loop.publish(spec_of({"1": 0, "2": ALL}, stable="v1", counting=JudgeCounting("r", "v1", "v2")))
    answer = loop.http().ask(http_infer(np.array([[1]], np.float32), "m", "", "x-request-timeout-ms: 10"))
    assert answer.status == 504
    assert arm(loop, "v2").errors == 1
    wait_until(lambda: loop.total("live_requests") == 0, "the run")
    assert (arm(loop, "v2").assigned, arm(loop, "v2").errors) == (1, 1)


def test_a_failed_run_counts_whoever_has_left(loop: Shadowed) -> None:
    loop.add("1", looks_up(loop.folder / "1.onnx", 10), 1)
    loop.add("2", thinks(loop.folder / "2.onnx", 5), 1)
    loop.publish(spec_of({"1": 0, "2": ALL}, stable="v1", counting=JudgeCounting("r", "v1", "v2")))
    client = loop.http()
    client.send(http_infer(np.array([[7]], np.float32)))
    # While it is queued a client that leaves takes it back, and it is refused.
    wait_until(lambda: not loop.versions["2"].is_idle() and loop.versions["2"].statistics().queue_depth == 0, "the run")
    client.socket.close()
    wait_until(lambda: loop.total("live_requests") == 0, "the end of the run")
    reading = arm(loop, "v2")
    assert (reading.assigned, reading.errors, reading.refused) == (1, 1, 0)


def test_shadows_of_another_thread_get_no_client_refused(tmp_path: Path) -> None:
    with Shadowed(tmp_path, io_threads=2, max_in_flight=1 << 20, max_body=1 << 20) as loop:
        for number in ("1", "2"):
            loop.add(number, scaled(tmp_path, 1.0, ("batch", "width")), 4)
        loop.shadow()
        gate = loop.close_gate()
        client = loop.http(0)
        for _ in range(12):
            assert client.ask(http_infer(np.ones((1, 2000), np.float32))).status == 200
        assert loop.counts().sampled == 12
        large = http_infer(np.ones((1, (1_040_000 - 20_000) // 4), np.float32))
        assert loop.http(1).ask(large).status == 200
        loop.open_gate(gate)


@pytest.mark.parametrize("how", ["plain", "draining", "Connection: close"])
def test_a_client_that_left_costs_nothing_more(loop: Shadowed, how: str) -> None:
    loop.table.publish({"gate": ({"1": loop.gate}, loop.gate, None)})
    client = loop.http()
    fields = [how] if how.startswith("Connection") else []
    client.send(http_infer(X, "gate", "", *fields))
    wait_until(lambda: loop.gate.statistics().queue_depth == 1, "the request")
    if how == "draining":
        loop.server.drain()
        time.sleep(0.6)
    client.socket.close()
    left = time.monotonic()
    wait_until(lambda: loop.gate.statistics().queue_depth == 0, "its request to be taken back")
    assert time.monotonic() - left < 0.5
