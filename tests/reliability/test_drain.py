"""SIGTERM: what was accepted is answered, everybody is told to go, and nobody new is let in."""

import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import grpc
import pytest

from serve.protocol import messages
from tests.reliability import clients, models
from tests.reliability.clients import INFER, STREAM, WATCH, Http
from tests.reliability.load import REFUSED, TOLD, Load, fresh, keep_alive
from tests.reliability.raw_http2 import ACK, DATA, END_STREAM, GOAWAY, HEADERS, LAST_POSSIBLE_STREAM, PING, Http2, frame, last_stream
from tests.reliability.service import Service, eventually, serving

QUICK_EXIT_S = 5.0


@pytest.fixture
def other_half(service: Service) -> Iterator["OtherHalf"]:
    with OtherHalf(service) as half:
        yield half


class OtherHalf:
    """A request that has come but for its last byte. What waits for it in the queue of `waiting` is in flight until then."""

    def __init__(self, service: Service) -> None:
        self._connection = Http(service.http)
        self._connection.send(clients.waiting()[:-1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def release(self) -> None:
        """Its last byte: both are answered."""
        self._connection.send(clients.waiting()[-1:])
        answer = self._connection.answer()
        assert (clients.value_of(answer), answer.closes) == (1.0, True)
        assert self._connection.is_closed()


def in_flight(service: Service, model: str, count: int) -> None:
    """Waits until so many requests are accepted and not answered."""
    eventually(lambda: service.metric("headrace_in_flight", model=model) >= count, 10, f"{count} requests in flight")


def wait_draining(service: Service) -> None:
    eventually(lambda: service.lines("headrace: draining"), 10, "draining")


def test_nobody_notices_a_drain_under_load(service: Service) -> None:
    kept = Load(3, keep_alive(service.http, clients.quick()))
    new = Load(2, fresh(service.grpc, clients.quick()))
    with kept, new, Load(2, _grpc_calls(service)) as calls:
        eventually(lambda: min(load.counts[200] for load in (kept, new, calls)) > 100, 20, "answers")
        service.send_signal(signal.SIGTERM)
        # They end by themselves: each is told to close, comes back, and is refused.
        for load in (kept, new, calls):
            load.join()
    assert service.wait(QUICK_EXIT_S) == 0
    assert set(kept.counts) == {200, TOLD, REFUSED}
    assert kept.counts[TOLD] >= 3
    assert set(new.counts) == {200, REFUSED}
    assert set(calls.counts) == {200, REFUSED}


def _grpc_calls(service: Service) -> Callable[[Load], None]:
    """Eight calls in flight on a channel, until one cannot connect. Any other failure is counted by its text."""

    def ask(load: Load) -> None:
        def one() -> None:
            while not load.stopping and not refused.is_set():
                try:
                    assert clients.float_of(call(clients.quick_message(3.0), timeout=20)) == 6.0
                    load.count(200)
                except grpc.RpcError as error:
                    text = str(error.details())     # type: ignore[attr-defined]
                    load.count(REFUSED if "Connection refused" in text else text)
                    refused.set()

        refused = threading.Event()
        with clients.channel(service.grpc) as channel:
            call = clients.method(channel, INFER)
            threads = [threading.Thread(target=one) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    return ask


def test_long_requests_finish_and_nobody_new_is_let_in(service: Service, other_half: OtherHalf) -> None:
    with Http(service.grpc) as connection:
        connection.send(clients.waiting())
        in_flight(service, "waiting", 1)
        service.send_signal(signal.SIGTERM)
        eventually(lambda: _refused(service.http) and _refused(service.grpc), 10, "connections refused")
        assert not select.select([connection.socket], [], [], 0)[0]
        other_half.release()
        answer = connection.answer()
        assert (clients.value_of(answer), answer.closes) == (1.0, True)
        assert connection.is_closed()
    assert service.wait(QUICK_EXIT_S) == 0


def _refused(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=0.1):
            return False
    except TimeoutError:        # between the two the handshake is not answered
        return False
    except ConnectionRefusedError:
        return True


def test_pipelined_requests_are_all_answered(service: Service, other_half: OtherHalf) -> None:
    n = 20
    with Http(service.http) as connection:
        before = service.metric("headrace_requests_total", protocol="http")
        connection.send(clients.waiting() + b"".join(clients.quick(i) for i in range(n)))
        eventually(lambda: service.metric("headrace_requests_total", protocol="http") >= before + n + 1, 10, "all of them are received")
        service.send_signal(signal.SIGTERM)
        eventually(lambda: _refused(service.http), 10, "connections refused")
        other_half.release()
        answers = [connection.answer() for _ in range(n + 1)]
        assert connection.is_closed()
    assert [clients.value_of(answer) for answer in answers[1:]] == [2.0 * i for i in range(n)]
    assert [answer.closes for answer in answers] == [False] * n + [True]
    assert service.wait(QUICK_EXIT_S) == 0


def test_a_client_that_never_stops_pipelining_is_told_to_close(service: Service) -> None:
    with Http(service.http) as connection:
        ahead = 4
        connection.send(clients.quick() * ahead)
        connection.answer()
        service.send_signal(signal.SIGTERM)
        answer, end = connection.answer(), time.monotonic() + 10
        while not answer.closes:
            assert time.monotonic() < end
            connection.send(clients.quick())
            answer = connection.answer()
            assert answer.status == 200
    assert service.wait(QUICK_EXIT_S) == 0


def test_idle_connections_are_closed(service: Service) -> None:
    used, silent = Http(service.http), Http(service.http)
    used.ask(clients.LIVE)
    with used, silent, Http2(service.grpc) as http2:
        assert http2.is_alive()
        start = time.monotonic()
        service.send_signal(signal.SIGTERM)
        assert used.is_closed()
        assert silent.is_closed()
        assert [last_stream(one) for one in http2.frames_until_closed() if one.kind == GOAWAY] == [LAST_POSSIBLE_STREAM, 0]
        assert service.wait(QUICK_EXIT_S) == 0
        assert time.monotonic() - start < QUICK_EXIT_S


def test_a_stream_opened_before_the_final_goaway_is_answered(service: Service, other_half: OtherHalf) -> None:
    with Http2(service.grpc) as connection:
        connection.send(connection.grpc(1, INFER, clients.waiting_message().SerializeToString()))
        in_flight(service, "waiting", 1)
        service.send_signal(signal.SIGTERM)
        assert last_stream(connection.wait_for(GOAWAY)) == LAST_POSSIBLE_STREAM
        question = connection.wait_for(PING)
        connection.send(connection.grpc(3, INFER, clients.quick_message().SerializeToString()) + frame(PING, ACK, payload=question.payload))
        assert connection.wait_for(DATA, 3)
        assert connection.status(3)["grpc-status"] == "0"
        assert last_stream(connection.wait_for(GOAWAY)) == 3
        other_half.release()
        assert connection.wait_for(DATA, 1)
        assert connection.status(1)["grpc-status"] == "0"
        assert not [one for one in connection.frames_until_closed() if one.kind in (DATA, HEADERS, GOAWAY)]
    assert service.wait(QUICK_EXIT_S) == 0


def test_health_watches_end(service: Service, other_half: OtherHalf) -> None:
    with clients.channel(service.grpc) as channel, Http(service.http) as long:
        watch = clients.method(channel, WATCH)(messages.HealthCheckRequest())
        assert next(watch).status == messages.HealthCheckResponse.SERVING
        long.send(clients.waiting())
        in_flight(service, "waiting", 1)
        service.send_signal(signal.SIGTERM)
        states, status = clients.until_error(watch)
        assert status is grpc.StatusCode.UNAVAILABLE
        assert {state.status for state in states} <= {messages.HealthCheckResponse.NOT_SERVING}
        assert not select.select([long.socket], [], [], 0)[0], "they end at once, not with the process"
        other_half.release()
        assert clients.value_of(long.answer()) == 1.0
    assert service.wait(QUICK_EXIT_S) == 0


def test_inference_streams_answer_what_they_have_and_end(service: Service, other_half: OtherHalf) -> None:
    with clients.channel(service.grpc) as channel:
        done = threading.Event()

        def asked(*requests: object) -> object:
            yield from requests
            done.wait(30)

        idle = clients.method(channel, STREAM)(asked(clients.quick_message(2.0)))
        working = clients.method(channel, STREAM)(asked(clients.waiting_message(), clients.quick_message(5.0)))
        assert clients.float_of(next(idle).infer_response) == 4.0
        in_flight(service, "waiting", 1)
        service.send_signal(signal.SIGTERM)
        for stream, values in ((idle, []), (working, [1.0, 10.0])):
            got, status = clients.until_error(stream)
            assert [clients.float_of(answer.infer_response) for answer in got] == values
            assert status is grpc.StatusCode.UNAVAILABLE
            if stream is idle:
                other_half.release()
        assert service.wait(QUICK_EXIT_S) == 0
        done.set()


def test_the_pre_stop_delay_serves_on_while_not_ready(repository: Path, tmp_path: Path) -> None:
    delay = 1.0
    with serving(tmp_path / "service", str(repository), "--pre-stop-delay", str(delay)) as service:
        start = time.monotonic()
        service.send_signal(signal.SIGTERM)
        wait_draining(service)
        with Http(service.http) as kept:
            eventually(lambda: kept.ask(clients.READY).status == 503, 5, "not ready")
            assert kept.ask(clients.LIVE).status == 200
            answer = kept.ask(clients.quick(2.0))
            assert (clients.value_of(answer), answer.closes) == (4.0, False)
            with Http(service.http) as new:
                assert clients.value_of(new.ask(clients.quick(3.0))) == 6.0
            assert time.monotonic() - start < delay, "the machine is too slow for this test"
        assert service.wait(delay + QUICK_EXIT_S) == 0
        assert time.monotonic() - start >= delay


@pytest.mark.parametrize("model", ["busy", "waiting"])
def test_the_drain_ends_after_its_time_out(repository: Path, tmp_path: Path, model: str) -> None:
    with serving(tmp_path / "service", str(repository), "--drain-timeout", "0.5") as service, Http(service.http) as connection:
        connection.send(clients.busy(100_000_000) if model == "busy" else clients.waiting())
        in_flight(service, model, 1)
        start = time.monotonic()
        service.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):
            connection.answer()
        assert service.wait(0.5 + 5.0 + QUICK_EXIT_S) in ({"busy": (137,), "waiting": (0,)}[model])
        assert time.monotonic() - start >= 0.5


def test_a_second_signal_ends_at_once(service: Service) -> None:
    with Http(service.http) as connection:
        connection.send(clients.busy(100_000_000))
        in_flight(service, "busy", 1)
        worker = service.worker()
        service.send_signal(signal.SIGTERM)
        wait_draining(service)
        service.send_signal(signal.SIGTERM)
        assert service.wait(QUICK_EXIT_S) == 130
        assert not worker.is_running()


def test_a_service_that_is_still_loading_ends_as_well(tmp_path: Path) -> None:
    models.tardy(tmp_path / "repository")
    service = Service(tmp_path / "service", str(tmp_path / "repository"))
    try:
        eventually(lambda: list((service.state / "marks" / "loading").glob("tardy*")), 20, "the load")
        assert service.stop(5.0 + QUICK_EXIT_S) == 0
    finally:
        service.close()


def test_a_connection_that_dies_during_the_drain_holds_nothing_up(service: Service) -> None:
    with Http(service.http) as half:
        half.send(clients.quick()[:40])
        connection = Http(service.http)
        connection.send(clients.waiting())
        in_flight(service, "waiting", 1)
        service.send_signal(signal.SIGTERM)
        wait_draining(service)
        connection.reset()
        half.reset()
        assert service.wait(QUICK_EXIT_S) == 0


def test_a_request_whose_body_is_on_its_way_is_answered(service: Service) -> None:
    request = clients.quick(2.0)
    with Http(service.http) as connection, Http2(service.grpc) as http2:
        connection.send(request[:-5])
        message = clients.quick_message(4.0).SerializeToString()
        body = b"\0" + struct.pack(">I", len(message)) + message
        head = http2.headers(1, INFER, content_type="application/grpc", te="trailers")
        http2.send(head + frame(DATA, stream=1, payload=body[:-5]))
        eventually(lambda: service.metric("headrace_requests_total", protocol="grpc") >= 1, 5, "the headers")
        service.send_signal(signal.SIGTERM)
        wait_draining(service)
        assert last_stream(http2.wait_for(GOAWAY)) == LAST_POSSIBLE_STREAM
        http2.send(frame(PING, ACK, payload=http2.wait_for(PING).payload))
        assert last_stream(http2.wait_for(GOAWAY)) == 1
        connection.send(request[-5:])
        http2.send(frame(DATA, END_STREAM, 1, body[-5:]))
        answer = connection.answer()
        assert (clients.value_of(answer), answer.closes) == (4.0, True)
        assert http2.wait_for(DATA, 1)
        assert http2.status(1)["grpc-status"] == "0"
    assert service.wait(QUICK_EXIT_S) == 0
