import os
import threading
from collections.abc import Iterator

import pytest

from serve.telemetry.line_writer import MAX_BYTES, MAX_LINES, LineWriter, dropped_line


class Pipe:
    """A pipe whose reading end is only read when told."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def read_all(self) -> list[str]:
        """All lines until the writing end, ours included, is closed."""
        os.close(self.writer)
        data = b""
        while piece := os.read(self.reader, 1 << 20):
            data += piece
        return data.decode().splitlines()

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            try:
                os.close(fd)
            except OSError:
                continue


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_everything_is_written_in_order_by_the_time_it_is_closed(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    lines = [f"line {i}" for i in range(2000)]
    for line in lines:
        writer.write(line + "\n")
    writer.close(10)
    writer.write("too late\n")
    assert pipe.read_all() == lines
    assert writer.n_dropped == 0


def test_whoever_writes_never_waits_and_what_is_missing_is_said_in_its_place(pipe: Pipe) -> None:
    """Nobody reads: the pipe takes 64 KiB, the queue its share, the rest is dropped. All of it from one thread, which is never blocked."""
    writer = LineWriter(pipe.writer)
    total = MAX_LINES + 5000
    for i in range(total):
        writer.write(f"{i:039d}\n")
    n_dropped = writer.n_dropped
    assert 0 < n_dropped <= 5000
    reading = Reading(pipe.reader, total)
    reading.thread.join(30)
    assert reading.n_dropped == n_dropped
    assert reading.at == total
    writer.write("goes on\n")
    writer.close(10)
    assert pipe.read_all() == ["goes on"]


class Reading:
    """Reads numbered lines, and how many are missing at which place, until `total` are accounted for."""

    def __init__(self, fd: int, total: int) -> None:
        self.at = self.n_dropped = 0
        self.fd, self.total = fd, total
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        rest = b""
        while self.at < self.total:
            *lines, rest = (rest + os.read(self.fd, 1 << 16)).split(b"\n")
            for line in lines:
                self.take(line.decode())

    def take(self, line: str) -> None:
        if line == f"{self.at:039d}":
            self.at += 1
            return
        n_missing = int(line.split()[1])
        assert line == dropped_line(n_missing)
        self.at += n_missing
        self.n_dropped += n_missing


def pipe_lines(fd: int, count: int) -> list[str]:
    data = b""
    while data.count(b"\n") < count:
        data += os.read(fd, 1 << 16)
    return data.decode().splitlines()


def test_bytes_are_bounded_as_well_as_lines(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    line = "x" * (1 << 20) + "\n"
    for _ in range(8):
        writer.write(line)
    assert writer.n_dropped in (4, 5)       # one may have left the queue already
    assert MAX_BYTES // len(line) == 3


def test_a_close_does_not_wait_for_nobody(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    writer.write("x" * (1 << 20) + "\n")
    closing = threading.Thread(target=writer.close, args=(0.05,))
    closing.start()
    closing.join(5)
    assert not closing.is_alive()


def test_a_reader_that_has_left_costs_its_lines_only(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    os.close(pipe.reader)
    writer.write("nobody hears this\n")
    writer.write("nor this \udcff\n")
    writer.close(10)


def test_a_descriptor_that_others_made_non_blocking(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = LineWriter(pipe.writer)
    lines = ["y" * 1000] * 200
    for line in lines:
        writer.write(line + "\n")
    assert pipe_lines(pipe.reader, 200) == lines
    writer.close(10)
