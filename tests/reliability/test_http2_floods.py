"""Attacks on HTTP/2 itself: the connection that attacks pays, other connections and the memory do not."""

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.reliability import clients, models
from tests.reliability.clients import INFER, STREAM, Http
from tests.reliability.raw_http2 import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    Http2,
    error_code,
    frame,
)
from tests.reliability.service import Service, assert_nothing_is_held, faults, serving

MB = 1 << 20
WORST_S = 2.0           # of a victim's requests, on a machine where attacker and victim share two cores
ATTACK_S = 2.0
N_FRAMES = 100_000
PROTOCOL_ERROR, INTERNAL_ERROR, ENHANCE_YOUR_CALM = 1, 2, 11
BLOCK = 1 << 16         # bytes sent at once


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("attacked")
    models.quick(folder / "repository")
    models.waiting(folder / "repository", rows=64)
    limits = ("--header-timeout", "2", "--idle-timeout", "3")
    with serving(folder / "service", str(folder / "repository"), *limits) as service:
        yield service
        assert service.stop() == 0
        assert faults(service) == []


def rapid_reset(attacker: Http2) -> Iterator[bytes]:
    """CVE-2023-44487: open and cancel at once."""
    for stream in range(1, 2 * N_FRAMES, 2):
        head = attacker.headers(stream, INFER, content_type="application/grpc", te="trailers")
        yield head + frame(RST_STREAM, stream=stream, payload=struct.pack(">I", CANCEL))


def rapid_reset_of_whole_requests(attacker: Http2) -> Iterator[bytes]:
    """Each gets as far as the queue before it is cancelled."""
    message = clients.waiting_message().SerializeToString()
    for stream in range(1, 2 * N_FRAMES, 2):
        yield attacker.grpc(stream, INFER, message) + frame(RST_STREAM, stream=stream, payload=struct.pack(">I", CANCEL))


def made_you_reset(attacker: Http2) -> Iterator[bytes]:
    """CVE-2025-8671: the server is made to cancel, by a window update of nothing."""
    message = clients.waiting_message().SerializeToString()
    for stream in range(1, 2 * N_FRAMES, 2):
        yield attacker.grpc(stream, INFER, message) + frame(WINDOW_UPDATE, stream=stream, payload=struct.pack(">I", 0))


def continuations(attacker: Http2) -> Iterator[bytes]:
    """CVE-2024-28182: a header block without an end."""
    yield frame(HEADERS, stream=1, payload=attacker.encoder.encode([(":method", "POST")]))
    for at in range(N_FRAMES):
        yield frame(CONTINUATION, stream=1, payload=attacker.encoder.encode([(f"x-{at}", "y" * 100)]))


def empty_continuations(attacker: Http2) -> Iterator[bytes]:
    yield frame(HEADERS, stream=1, payload=attacker.encoder.encode([(":method", "POST")]))
    for _ in range(N_FRAMES):
        yield frame(CONTINUATION, stream=1)


def header_bomb(attacker: Http2) -> Iterator[bytes]:
    """A large field in the table, then one byte a copy."""
    large = attacker.encoder.encode([("x-large", "y" * 3900)])
    first = attacker.encoder.encode([(":method", "POST"), (":scheme", "http"), (":path", INFER)])
    for stream in range(1, 2 * N_FRAMES, 2):
        yield frame(HEADERS, END_HEADERS, stream, first + large + b"\xbe" * 16000)


def pings(attacker: Http2) -> Iterator[bytes]:
    """CVE-2019-9512: each is to be answered, and no answer is read."""
    for _ in range(N_FRAMES):
        yield frame(PING, payload=b"12345678")


def settings(attacker: Http2) -> Iterator[bytes]:
    """CVE-2019-9515."""
    for _ in range(N_FRAMES):
        yield frame(SETTINGS)


def empty_data(attacker: Http2) -> Iterator[bytes]:
    """CVE-2019-9518."""
    yield attacker.headers(1, STREAM, content_type="application/grpc", te="trailers")
    for _ in range(N_FRAMES):
        yield frame(DATA, stream=1)


def window_updates(attacker: Http2) -> Iterator[bytes]:
    for _ in range(N_FRAMES):
        yield frame(WINDOW_UPDATE, payload=struct.pack(">I", 1))


def priorities(attacker: Http2) -> Iterator[bytes]:
    """CVE-2019-9513: streams that never are, moved about."""
    for stream in range(1, 2 * N_FRAMES, 2):
        yield frame(PRIORITY, stream=stream, payload=struct.pack(">IB", max(0, stream - 2), 16))


def unknown_frames(attacker: Http2) -> Iterator[bytes]:
    for _ in range(N_FRAMES):
        yield frame(0xEE, payload=b"what is this")


def open_streams(attacker: Http2) -> Iterator[bytes]:
    """More than may be open at once, none of them ever ended."""
    for stream in range(1, 2 * N_FRAMES, 2):
        yield attacker.headers(stream, STREAM, content_type="application/grpc", te="trailers")


ATTACKS = (rapid_reset, rapid_reset_of_whole_requests, made_you_reset, continuations, empty_continuations, header_bomb, pings, settings,
           empty_data, window_updates, priorities, unknown_frames, open_streams)
# Those that cost the server more than they cost the client: it ends the connection.
CLOSED = {rapid_reset, rapid_reset_of_whole_requests, continuations, empty_continuations, header_bomb, pings, settings}
EITHER = {made_you_reset}       # as the version of nghttp2 sees it


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_hurts_the_attacker(attacked: Service, attack: Callable[[Http2], Iterator[bytes]]) -> None:
    worker = attacked.worker()
    memory = worker.memory_info().rss
    victim = Victim(attacked)
    with victim, Http2(attacked.grpc) as attacker:
        _send(attacker, attack)
        victim.ask_a_few_more()
        assert worker.memory_info().rss - memory < 64 * MB
        attacker.socket.settimeout(10.0)
        assert attack in EITHER or attacker.is_alive() == (attack not in CLOSED)
    assert victim.worst_s < WORST_S
    assert_nothing_is_held(attacked)


def _send(attacker: Http2, attack: Callable[[Http2], Iterator[bytes]]) -> None:
    """All of it, as far as ATTACK_S goes and the server takes it."""
    attacker.socket.settimeout(1.0)
    block, end = b"", time.monotonic() + ATTACK_S
    with contextlib.suppress(OSError):
        for data in attack(attacker):
            block += data
            if len(block) >= BLOCK:
                attacker.send(block)
                block = b""
                if time.monotonic() > end:
                    return
        attacker.send(block)


class Victim:
    """Somebody else's connection: every request is answered, and soon."""

    def __init__(self, service: Service) -> None:
        self.worst_s = 0.0
        self._connection = Http(service.http)
        self._stop = threading.Event()
        self._enough = threading.Semaphore(0)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._connection.close()
        if self._failure is not None:
            raise self._failure

    def ask_a_few_more(self) -> None:
        for _ in range(5):
            assert self._enough.acquire(timeout=20), "the victim is not answered"

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                start = time.monotonic()
                assert clients.value_of(self._connection.ask(clients.quick(2.0))) == 4.0
                self.worst_s = max(self.worst_s, time.monotonic() - start)
                self._enough.release()
        except Exception as error:
            self._failure = error


def test_the_last_word_to_who_resets_too_much_says_why(attacked: Service) -> None:
    with Http2(attacked.grpc) as attacker:
        last: Frame | None = None
        with contextlib.suppress(OSError):
            attacker.send(b"".join(data for data, _ in zip(rapid_reset(attacker), range(1500), strict=False)))
            last = attacker.wait_for(GOAWAY)
        assert last is not None
        assert error_code(last) in (ENHANCE_YOUR_CALM, INTERNAL_ERROR)


def test_streams_beyond_the_limit_are_refused_and_the_others_live(repository: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "service", str(repository), "--max-streams", "8") as service:
        _open_too_many(service)
        assert service.stop() == 0


def _open_too_many(service: Service) -> None:
    with Http2(service.grpc) as connection:
        # Before the limit is acknowledged, a client can not know better; after that it is an error of the connection.
        for stream in range(1, 25, 2):
            connection.send(connection.headers(stream, INFER, content_type="application/grpc", te="trailers"))
        refused = [connection.wait_for(RST_STREAM) for _ in range(4)]
        assert [one.stream for one in refused] == [17, 19, 21, 23]
        assert {one.payload for one in refused} == {struct.pack(">I", 7)}
        message = clients.quick_message(3.0).SerializeToString()
        connection.send(frame(DATA, 1, 1, b"\0" + struct.pack(">I", len(message)) + message))
        assert connection.status(1)["grpc-status"] == "0"
        connection.send(frame(SETTINGS, ACK) + connection.headers(25, INFER) + connection.headers(27, INFER))
        assert error_code(connection.wait_for(GOAWAY)) == PROTOCOL_ERROR
