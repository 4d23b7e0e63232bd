"""More than the server can or may take: refused quickly, with a reason, and counted; what was let in is not disturbed."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.reliability import clients, models
from tests.reliability.clients import INFER, Http
from tests.reliability.raw_http2 import Http2
from tests.reliability.service import Service, assert_nothing_is_held, eventually, faults, serving

QUICKLY_S = 2.0     # an answer that waits for nothing, on a machine that is busy with something else
QUEUE = 4
MB = 1 << 20


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """quick, busy; waiting, whose queue takes four and which runs at 64."""
    folder = tmp_path_factory.mktemp("limited")
    models.quick(folder / "repository")
    models.busy(folder / "repository")
    models.waiting(folder / "repository", rows=64, max_queue_size=QUEUE)
    limits = ("--max-body-bytes", str(MB), "--max-in-flight-bytes", str(4 * MB), "--max-connections", "64", "--max-deadline", "30")
    with serving(folder / "service", str(folder / "repository"), *limits) as service:
        yield service
        assert service.stop() == 0
        assert faults(service) == []


@pytest.fixture(autouse=True)
def _nothing_is_left(limited: Service) -> Iterator[None]:
    yield
    assert_nothing_is_held(limited)


def rejections(service: Service, reason: str) -> float:
    return service.metric("headrace_rejections_total", reason=reason)


def failure(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    return error.code(), error.details()        # type: ignore[attr-defined]


def test_a_full_queue_refuses_at_once_over_both_protocols(limited: Service) -> None:
    refused, cancelled = rejections(limited, "queue_full"), rejections(limited, "cancelled")
    runs = limited.metric("headrace_executions_total", model="waiting")
    queued = [Http(limited.http) for _ in range(QUEUE)]
    for connection in queued:
        connection.send(clients.waiting())
    eventually(lambda: limited.metric("headrace_queue_depth") == QUEUE, 10, "a full queue")
    start = time.monotonic()
    with Http(limited.http) as connection, clients.channel(limited.grpc) as channel:
        answer = connection.ask(clients.waiting())
        assert (answer.status, answer.json["error"]) == (503, "Exceeds maximum queue size")
        assert int(answer.headers["retry-after"]) >= 1
        with pytest.raises(grpc.RpcError) as error:
            clients.method(channel, INFER)(clients.waiting_message(), timeout=10)
        assert failure(error.value) == (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        assert time.monotonic() - start < QUICKLY_S
        # A full queue is its model's affair.
        assert clients.value_of(connection.ask(clients.quick(4.0))) == 8.0
    assert rejections(limited, "queue_full") == refused + 2
    # Whoever queues and goes away, politely or not, is never run.
    for at, connection in enumerate(queued):
        connection.reset() if at % 2 else connection.close()
    eventually(lambda: limited.metric("headrace_queue_depth") == 0, 10, "an empty queue")
    assert rejections(limited, "cancelled") == cancelled + QUEUE
    assert limited.metric("headrace_executions_total", model="waiting") == runs


def test_a_cancelled_call_leaves_the_queue(limited: Service) -> None:
    cancelled = rejections(limited, "cancelled")
    with clients.channel(limited.grpc) as channel:
        call = clients.method(channel, INFER).future(clients.waiting_message())
        eventually(lambda: limited.metric("headrace_queue_depth") == 1, 10, "the request in the queue")
        call.cancel()
        eventually(lambda: limited.metric("headrace_queue_depth") == 0, 10, "an empty queue")
    assert rejections(limited, "cancelled") == cancelled + 1


def test_a_deadline_is_answered_when_it_comes_although_the_instance_is_busy(limited: Service) -> None:
    late = rejections(limited, "deadline")
    with Http(limited.http) as hog, Http(limited.http) as header, Http(limited.http) as parameter, clients.channel(limited.grpc) as channel:
        hog.send(clients.busy(200_000))         # more than a second
        eventually(lambda: limited.metric("headrace_in_flight", model="busy") == 1, 10, "a busy instance")
        start = time.monotonic()
        header.send(clients.busy(1, x_request_timeout_ms="300"))
        parameter.send(clients.busy(1, parameters={"timeout": 300_000}))
        with pytest.raises(grpc.RpcError) as error:
            clients.method(channel, INFER)(clients.busy_message(1, timeout=300_000), timeout=20)
        assert failure(error.value) == (grpc.StatusCode.UNAVAILABLE, "Request timeout expired")
        by_header, by_parameter = header.answer(), parameter.answer()
        assert 0.3 <= time.monotonic() - start < 0.3 + QUICKLY_S
        assert by_header.status == 504
        assert (by_parameter.status, by_parameter.json["error"]) == (503, "Request timeout expired")
        # One that is being taken from the queue at that moment is counted when it comes back.
        eventually(lambda: rejections(limited, "deadline") == late + 3, 10, "all of them counted")
        # They were not run, and so had not to wait for this one.
        assert clients.value_of(hog.answer()) == 200_000
        assert time.monotonic() - start > 0.3


def test_a_deadline_that_comes_during_the_run_is_answered_ahead_of_its_end(limited: Service) -> None:
    late = rejections(limited, "deadline")
    with Http(limited.http) as connection, Http2(limited.grpc) as http2:
        start = time.monotonic()
        connection.send(clients.busy(200_000, x_request_timeout_ms="200"))
        eventually(lambda: limited.metric("headrace_in_flight", model="busy") == 1, 10, "the run")
        answer = connection.answer()
        assert 0.2 <= time.monotonic() - start < 0.2 + QUICKLY_S
        assert (answer.status, answer.json["error"]) == (504, "Request timeout expired")
        assert limited.metric("headrace_in_flight", model="busy") == 1, "the machine is too fast for this test"
        # The connection goes on, and so does the run: no second one is begun beside it, and its result goes nowhere.
        assert connection.ask(clients.LIVE).status == 200
        http2.send(http2.grpc(1, INFER, clients.busy_message(1).SerializeToString(), grpc_timeout="1m"))
        assert http2.status(1)["grpc-status"] == "4"
        assert clients.value_of(connection.ask(clients.busy(7))) == 7
    assert rejections(limited, "deadline") == late + 2


def test_a_grpc_deadline_is_the_servers_too(limited: Service) -> None:
    """Seen on the wire: a client's own timer would hide what the server says."""
    with Http2(limited.grpc) as connection:
        start = time.monotonic()
        connection.send(connection.grpc(1, INFER, clients.waiting_message().SerializeToString(), grpc_timeout="200m"))
        assert connection.status(1)["grpc-status"] == "4"
        assert 0.2 <= time.monotonic() - start < 0.2 + QUICKLY_S


def test_bytes_in_flight_are_bounded(limited: Service) -> None:
    refused = rejections(limited, "in_flight_bytes")
    request = clients.post("/v2/models/quick/infer", b" " * (MB - 1))
    arriving = [Http(limited.http, timeout_s=0.5) for _ in range(8)]
    try:
        outcomes = [_offer(connection, request[:-1]) for connection in arriving]
        # Each is taken up to its last byte until the next does not fit.
        assert outcomes[:3] == [None] * 3
        assert 503 in outcomes
        assert limited.metric("headrace_in_flight_bytes") <= 5 * MB
        assert rejections(limited, "in_flight_bytes") > refused
        with Http(limited.http) as other:
            assert other.ask(clients.LIVE).status == 200
    finally:
        for connection in arriving:
            connection.close()


def _offer(connection: Http, data: bytes) -> int | None:
    """The status of an early answer, None when more is waited for."""
    try:
        return connection.ask(data).status
    except TimeoutError:
        return None


def test_connections_are_bounded(limited: Service) -> None:
    refused = rejections(limited, "connections")
    kept = [Http(limited.http) for _ in range(64)]
    for connection in kept:
        assert connection.ask(clients.LIVE).status == 200
    with Http(limited.http) as one_too_many:
        assert one_too_many.is_closed()
    assert rejections(limited, "connections") == refused + 1
    assert kept[0].ask(clients.LIVE).status == 200
    kept.pop().close()
    eventually(lambda: limited.metric("headrace_connections") == 63, 10, "room for another")
    with Http(limited.http) as another:
        assert another.ask(clients.LIVE).status == 200
    for connection in kept:
        connection.close()


def test_clients_that_vanish_leave_nothing(limited: Service) -> None:
    worker = limited.worker()
    _vanish(limited, 300)
    descriptors, memory = worker.num_fds(), worker.memory_info().rss
    _vanish(limited, 3000)
    assert worker.num_fds() <= descriptors + 2
    assert worker.memory_info().rss - memory < 4 * MB


def _vanish(service: Service, count: int) -> None:
    """In the middle of a head, of a body, or of the queue."""
    whole = clients.waiting()
    for at in range(count):
        connection = Http(service.http)
        connection.send((whole, whole[:40], whole[:-5], clients.quick(1.0))[at % 4])
        connection.reset()
    eventually(lambda: service.metric("headrace_connections") == 0, 10, "all closed")


def test_without_descriptors_left_nothing_spins_and_who_waits_is_served_later(repository: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "service", str(repository)) as service:
        worker = service.worker()
        kept = [Http(service.http) for _ in range(20)]
        for connection in kept:
            assert connection.ask(clients.LIVE).status == 200
        before = worker.rlimit(resource.RLIMIT_NOFILE)
        worker.rlimit(resource.RLIMIT_NOFILE, (worker.num_fds(), before[1]))
        waiting = [Http(service.http) for _ in range(10)]
        for connection in waiting:
            connection.send(clients.LIVE)
        assert kept[0].ask(clients.quick(1.0)).status == 200
        start, burnt = time.monotonic(), sum(worker.cpu_times()[:2])
        while time.monotonic() - start < 1.0:
            assert kept[0].ask(clients.LIVE).status == 200
            time.sleep(0.1)     # not to wait for anything: so that whoever spins is seen against an idle process
        assert sum(worker.cpu_times()[:2]) - burnt < 0.2 * (time.monotonic() - start)
        worker.rlimit(resource.RLIMIT_NOFILE, before)
        for connection in waiting:
            assert connection.answer().status == 200
        for connection in (*kept, *waiting):
            connection.close()
        assert service.stop() == 0


def test_a_low_limit_of_descriptors_lowers_that_of_connections(repository: Path, tmp_path: Path) -> None:
    """What the worker needs for itself stays free: metrics are answered although the data ports are full."""
    service = Service(tmp_path / "service", str(repository), descriptors=256)
    try:
        service.wait_ready()
        kept = [Http(service.http) for _ in range(200)]
        eventually(lambda: rejections(service, "connections") > 0, 10, "the limit")
        assert service.metric("headrace_connections") >= 50
        assert service.lines("max_connections")
        for connection in kept:
            connection.close()
        assert service.stop() == 0
    finally:
        service.close()
