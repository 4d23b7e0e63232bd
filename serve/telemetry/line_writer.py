"""Lines to a descriptor that may not be read, from threads that must not wait for whoever reads it.

A pipe that nobody empties takes 64 KiB and then blocks its writer. Here a thread of its own is blocked; the lines wait in a bounded queue,
and those that find it full are dropped, counted, and reported in their place once the descriptor takes something again.
"""

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator

MAX_LINES = 10_000
MAX_BYTES = 4 << 20

# A write of at most this many bytes to a pipe is not torn by another process's (POSIX, write): supervisor and worker share theirs.
_CHUNK_BYTES = select.PIPE_BUF


def dropped_line(n_dropped: int) -> str:
    """The line for people that stands where lines are missing."""
    return f"headrace: {n_dropped} log lines dropped: nobody read them in time"


class LineWriter:
    """A text stream for whole lines. `write` never waits; `close` waits for at most as long as it is told.

    describe: what is written, without a line end, in the place of lines that were dropped. Errors of the descriptor (the reader has left)
    cost the lines, nothing else. The queue holds at most MAX_LINES lines and MAX_BYTES bytes; when it is full the newest are dropped.
    """

    def __init__(self, fd: int, describe: Callable[[int], str] = dropped_line) -> None:
        self.n_dropped = 0
        self._fd = fd
        self._describe = describe
        self._changed = threading.Condition()
        # A line, or how many were dropped at this point.
        self._queue: deque[bytes | int] = deque()
        self._n_bytes = 0
        self._is_writing = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue whole lines. From any thread; drops them when the queue is full or the writer closed."""
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._is_closed:
                return len(text)
            if len(self._queue) >= MAX_LINES or self._n_bytes + len(line) > MAX_BYTES:
                self._drop()
            else:
                self._queue.append(line)
                self._n_bytes += len(line)
                self._changed.notify_all()
        return len(text)

    def _drop(self) -> None:
        self.n_dropped += 1
        last = self._queue[-1] if self._queue else None
        if isinstance(last, int):
            self._queue[-1] = last + 1
        else:
            self._queue.append(1)

    def flush(self) -> None:
        """Nothing to do: a logging handler calls this after each record."""

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def close(self, timeout_s: float) -> None:
        """Wait until everything is written, for at most timeout_s; then take no more. The descriptor stays open."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue and not self._is_writing, timeout_s)
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(0 if self._queue or self._is_writing else timeout_s)

    def _run(self) -> None:
        for chunk in self._chunks():
            with contextlib.suppress(OSError):      # whoever read it has left
                self._put(memoryview(chunk))

    def _put(self, rest: memoryview) -> None:
        while rest:
            try:
                rest = rest[os.write(self._fd, rest):]
            except BlockingIOError:                 # somebody has made the shared descriptor non-blocking
                select.select([], [self._fd], [])

    def _chunks(self) -> Iterator[bytes]:
        """Whole lines, as many as a pipe takes in one piece; ends when the writer is closed."""
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if self._is_closed:
                    return
                self._is_writing = True
                lines = [self._next()]
                n_bytes = len(lines[0])
                while self._queue and isinstance(self._queue[0], bytes) and n_bytes + len(self._queue[0]) <= _CHUNK_BYTES:
                    lines.append(self._next())
                    n_bytes += len(lines[-1])
            yield b"".join(lines)

    def _next(self) -> bytes:
        first = self._queue.popleft()
        if isinstance(first, int):
            return self._describe(first).encode("utf-8", "backslashreplace") + b"\n"
        self._n_bytes -= len(first)
        return first


__all__ = ["MAX_BYTES", "MAX_LINES", "LineWriter", "dropped_line"]
