"""Whoever started the service does not read what it logs: nothing in it waits for him."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.telemetry.line_writer import MAX_LINES
from tests.reliability.clients import Http
from tests.reliability.service import Service, eventually

TURN = 500
SECONDS = 4.0
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n"
STATISTICS = b"GET /v2/models/stats HTTP/1.1\r\nHost: t\r\n\r\n"


class Reader(threading.Thread):
    """Reads the pipe to its end, once it is started."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self.fd, self.data = fd, b""

    def run(self) -> None:
        while piece := os.read(self.fd, 1 << 16):
            self.data += piece


@pytest.fixture
def unread(repository: Path, tmp_path: Path) -> Iterator[tuple[Service, Reader]]:
    reader, writer = os.pipe()
    service = Service(tmp_path / "unread", str(repository), "--access-log", log_to=writer)
    os.close(writer)
    service.wait_ready()
    yield service, Reader(reader)
    service.close()
    os.close(reader)


def call_for(service: Service, seconds: float) -> None:
    """Many calls that the I/O threads answer, some that the loop answers which logs them all."""
    end = time.monotonic() + seconds
    n_calls = 0
    with Http(service.http, timeout_s=10) as connection:
        while time.monotonic() < end or n_calls < 2 * MAX_LINES:
            connection.send(LIVE * TURN)
            assert all(connection.answer().status == 200 for _ in range(TURN))
            assert connection.ask(STATISTICS).status == 200
            n_calls += TURN


def test_the_service_goes_on_and_says_what_is_missing(unread: tuple[Service, Reader]) -> None:
    service, reader = unread
    call_for(service, SECONDS)
    service.worker().kill()                                         # the supervisor has something to say about that
    eventually(lambda: service.supervisor.children() and service.worker().is_running(), 10, "another worker")
    with Http(service.http, timeout_s=10) as connection:
        assert connection.ask(LIVE).status == 200
    reader.start()
    eventually(lambda: b"worker 2 ready" in reader.data, 20, "the supervisor's lines, late")
    assert service.stop() == 0
    reader.join(10)


def test_what_is_missing_stands_in_its_place(unread: tuple[Service, Reader]) -> None:
    service, reader = unread
    call_for(service, SECONDS)
    reader.start()
    eventually(lambda: b" log lines dropped: nobody read them in time" in reader.data, 20, "the line that counts them")
    service.send_signal(signal.SIGTERM)
    assert service.wait(20) == 0
    reader.join(10)
    assert reader.data.rstrip().rpartition(b"\n")[2]                # nothing is torn, and the last words are there
