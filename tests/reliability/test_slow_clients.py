"""Clients that take their time, to send or to read: they are shown the door, and until then they cost next to nothing."""

import contextlib
import select
import time
from collections.abc import Iterator
from typing import Self

import pytest

from tests.reliability import clients, models
from tests.reliability.clients import INFER, STREAM, Http
from tests.reliability.raw_http2 import DATA, PREFACE, SETTINGS, Http2, frame, settings
from tests.reliability.service import Service, assert_nothing_is_held, eventually, faults, serving

HEADER_S, IDLE_S, SLACK_S = 1.0, 2.0, 4.0
MB = 1 << 20
ECHO = clients.message("echo", b"\0\0\x80\x3f", [1], name="n").SerializeToString()
SETTLED_S = 20.0


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """quick; echo, whose answers are of 1 MB."""
    folder = tmp_path_factory.mktemp("impatient")
    models.quick(folder / "repository")
    models.echo(folder / "repository")
    limits = ("--header-timeout", str(HEADER_S), "--idle-timeout", str(IDLE_S), "--min-body-rate", "100000",
              "--max-body-bytes", str(2 * MB), "--max-in-flight-bytes", str(64 * MB))
    with serving(folder / "service", str(folder / "repository"), *limits) as service:
        yield service
        assert service.stop() == 0
        assert faults(service) == []


@pytest.fixture(autouse=True)
def _nothing_is_left(impatient: Service) -> Iterator[None]:
    yield
    assert_nothing_is_held(impatient)


def test_a_slow_header_is_408_however_it_drips(impatient: Service) -> None:
    with Http(impatient.http) as connection:
        start = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in clients.quick(1.0)[:100]:
                connection.send(bytes([byte]))
                if select.select([connection.socket], [], [], HEADER_S / 10)[0]:
                    break
        answer = connection.answer()
        assert (answer.status, answer.closes) == (408, True)
        assert HEADER_S <= time.monotonic() - start < HEADER_S + SLACK_S


def test_silent_and_idle_connections_are_closed(impatient: Service) -> None:
    start = time.monotonic()
    with Http(impatient.http) as silent, Http(impatient.http) as idle, Http2(impatient.grpc) as http2, Http2(impatient.grpc) as torn:
        assert idle.ask(clients.LIVE).status == 200
        torn.send(frame(SETTINGS)[:3])
        assert silent.is_closed()
        assert time.monotonic() - start >= HEADER_S
        assert idle.is_closed()
        http2.frames_until_closed()
        torn.frames_until_closed()
        assert IDLE_S <= time.monotonic() - start < IDLE_S + SLACK_S


def test_a_header_block_that_never_ends_closes_the_connection(impatient: Service) -> None:
    with Http2(impatient.grpc) as connection:
        start = time.monotonic()
        begun = connection.headers(1, INFER, content_type="application/grpc")
        connection.send(begun[:4] + b"\0" + begun[5:])      # without END_HEADERS
        connection.frames_until_closed()
        assert HEADER_S <= time.monotonic() - start < HEADER_S + SLACK_S


def test_slow_bodies_are_refused(impatient: Service) -> None:
    """Grace of 5 s, then at least 100 kB/s: a trickle is not enough."""
    with Http(impatient.http) as plain, Http(impatient.http) as chunked, Http2(impatient.grpc) as http2:
        start = time.monotonic()
        plain.send(clients.quick(1.0)[:-2])
        chunked.send(b"POST /v2/models/quick/infer HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"inp")
        http2.send(http2.headers(1, INFER, content_type="application/grpc", te="trailers") + frame(DATA, stream=1, payload=b"\0\0"))
        for connection in (plain, chunked):
            answer = connection.answer()
            assert (answer.status, answer.closes) == (408, True)
        assert http2.status(1)["grpc-status"] == "4"
        assert 5.0 <= time.monotonic() - start < 5.0 + SLACK_S
        # The connection is not to blame for one stream.
        http2.send(http2.grpc(3, INFER, clients.quick_message().SerializeToString()))
        assert http2.status(3)["grpc-status"] == "0"


def test_a_thousand_half_open_connections_disturb_nobody(impatient: Service) -> None:
    memory = impatient.worker().memory_info().rss
    half_open = [Http(impatient.http) for _ in range(1000)]
    try:
        for at, connection in enumerate(half_open):
            connection.send((b"POST /v2/mod", PREFACE[:5], PREFACE + b"\0\0")[at % 3])
        with Http(impatient.http) as connection:
            for _ in range(100):
                assert connection.ask(clients.quick(1.0)).status == 200
        assert impatient.worker().memory_info().rss - memory < 64 * MB
        eventually(lambda: impatient.metric("headrace_connections") == 0, HEADER_S + IDLE_S + SLACK_S, "all of them closed")
    finally:
        for connection in half_open:
            connection.close()


class Flood:
    """Asks for answers of 1 MB for as long as the server takes questions, and reads nothing."""

    def __init__(self, service: Service, protocol: str) -> None:
        self._stream = -1
        self._out = b""
        self._http2 = Http2(service.grpc, settings(_4=0)) if protocol == "http2" else None      # no window for answers
        self._socket = self._http2.socket if self._http2 else Http(service.http).socket
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self) -> None:
        """As much as the server takes now, if it is still there."""
        with contextlib.suppress(OSError):
            for _ in range(16):
                self._out = self._out or b"".join(self._question() for _ in range(16))
                self._out = self._out[self._socket.send(self._out):]

    def _question(self) -> bytes:
        if self._http2 is None:
            return clients.infer("echo", [1.0], [1], name="n", parameters={"binary_data_output": True})
        self._stream += 2
        return self._http2.grpc(self._stream, INFER, ECHO)


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_a_client_that_never_reads_its_answers_costs_little_and_is_closed(impatient: Service, protocol: str) -> None:
    """Answers that cannot be sent count as bytes in flight; who takes none for the idle time-out is closed."""
    worker = impatient.worker()
    memory, peak = worker.memory_info().rss, 0
    with contextlib.ExitStack() as stack:
        floods = [stack.enter_context(Flood(impatient, protocol)) for _ in range(4)]
        for _ in range(50):
            for flood in floods:
                flood.ask()
            peak = max(peak, worker.memory_info().rss - memory)
        # Seen from the server: its farewell waits behind what nobody reads.
        eventually(lambda: impatient.metric("headrace_connections") == 0, IDLE_S + SETTLED_S, "all of them closed")
    assert peak < 200 * MB


def test_an_inference_stream_that_is_never_read_does_not_grow_without_end(impatient: Service) -> None:
    worker = impatient.worker()
    memory = worker.memory_info().rss
    with Http2(impatient.grpc, settings(_4=0)) as connection:
        connection.socket.settimeout(1.0)
        connection.send(connection.grpc(1, STREAM, end=False))
        with contextlib.suppress(OSError):
            for _ in range(2000):       # for 2 GB of answers
                connection.send(frame(DATA, stream=1, payload=b"\0" + len(ECHO).to_bytes(4, "big") + ECHO))
        eventually(lambda: impatient.metric("headrace_in_flight") == 0, SETTLED_S, "all of them run or refused")
        assert worker.memory_info().rss - memory < 200 * MB


def test_who_reads_slowly_gets_everything(impatient: Service) -> None:
    """Slow is not stalled: each piece that is read buys time."""
    with Http(impatient.http) as connection:
        connection.send(clients.infer("echo", [1.0], [1], name="n", parameters={"binary_data_output": True}) * 8)
        start, n = time.monotonic(), 0
        while time.monotonic() - start < IDLE_S + 1.0:
            n += len(connection.socket.recv(16384))
            time.sleep(0.02)        # this is the slowness
        while n < 8 * MB:
            data = connection.socket.recv(1 << 16)
            assert data, f"closed after {n} bytes"
            n += len(data)
