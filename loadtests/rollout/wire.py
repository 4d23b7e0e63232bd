"""Requests with a key each, many at a time, and which arm answered them. HTTP/1.1 pipelined; gRPC over HTTP/2 by hand.

By hand because a key a request is what load clients cannot send over gRPC, and because gRPC libraries in Python need a minute for what this
does in seconds: header blocks are written without compression (RFC 7541, section 6.2.2), and each different answer block is decoded once.
"""

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import hpack

TIMEOUT_S = 30.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3})[^\r]*\r\n(.*?)\r\n\r\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """Where one request went. status: HTTP's, or gRPC's with 0 as 200. Times in ns of CLOCK_REALTIME: before sending, after reading."""

    status: int
    version: str
    variant: str
    generation: int
    key: str
    sent_ns: int
    received_ns: int


def _answer(status: int, headers: dict[str, str], key: str, sent_ns: int, received_ns: int) -> Answer:
    return Answer(status, headers.get("x-headrace-version", ""), headers.get("x-headrace-variant", ""),
                  int(headers.get("x-headrace-generation", "-1")), key, sent_ns, received_ns)


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def read_more(self) -> None:
        """Raises ConnectionError when the server has closed."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer += data


class HttpPipeline(_Connection):
    """POSTs of one body; `header` carries the key."""

    def __init__(self, port: int, path: str, body: bytes, header: str = "x-user-id") -> None:
        super().__init__(port)
        self._head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()
        self._body, self._header = body, header.encode()

    def ask(self, keys: Sequence[str]) -> list[Answer]:
        """One batch: all sent, then all answers, in order. An empty key sends no header."""
        parts = [b"%s%s\r\n%s" % (self._head, b"%s: %s\r\n" % (self._header, key.encode()) if key else b"", self._body) for key in keys]
        sent_ns = time.time_ns()
        self.socket.sendall(b"".join(parts))
        return [self._one(key, sent_ns) for key in keys]

    def _one(self, key: str, sent_ns: int) -> Answer:
        while (found := _HEAD.match(self.buffer)) is None:
            self.read_more()
        headers = dict(line.split(": ", 1) for line in found[2].decode("latin-1").lower().split("\r\n"))
        status, end = int(found[1]), found.end() + int(headers["content-length"])
        del found       # it holds the buffer
        while len(self.buffer) < end:
            self.read_more()
        del self.buffer[:end]
        return _answer(status, headers, key, sent_ns, time.time_ns())


class GrpcPipeline(_Connection):
    """ModelInfer calls of one message frame; `header` carries the key."""

    def __init__(self, port: int, frame: bytes, header: str = "x-user-id") -> None:
        super().__init__(port)
        self._message, self._header = frame, header
        fixed = {":method": "POST", ":scheme": "http", ":path": GRPC_PATH, ":authority": "bench", "content-type": "application/grpc",
                 "te": "trailers", "x-request-id": "bench"}
        self._fixed = b"".join(_literal(name, value) for name, value in fixed.items())
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 0
        self._known: dict[bytes, dict[str, str]] = {}
        self._next = 1
        self._window = 65_535
        # No dynamic table: equal answers have equal bytes. Windows wide open.
        settings = struct.pack(">HIHI", 1, 0, 4, (1 << 31) - 1)
        self.socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 65_536)))

    def ask(self, keys: Sequence[str]) -> list[Answer]:
        """One batch on streams of its own; answers in the order of the keys."""
        while self._window < len(keys) * len(self._message):
            for kind, flags, stream, payload in self._frames():
                self._control(kind, flags, stream, payload)
        first, out = self._next, bytearray()
        for key in keys:
            block = self._fixed + _literal(self._header, key) if key else self._fixed
            out += _frame(HEADERS, END_HEADERS, self._next, block) + _frame(DATA, END_STREAM, self._next, self._message)
            self._next += 2
        self._window -= len(keys) * len(self._message)
        sent_ns = time.time_ns()
        self.socket.sendall(out)
        heads: dict[int, dict[str, str]] = {}
        done: dict[int, Answer] = {}
        while len(done) < len(keys):
            for kind, flags, stream, payload in self._frames():
                if kind == HEADERS:
                    heads.setdefault(stream, {}).update(self._decoded(payload))
                    if flags & END_STREAM:
                        head = heads.pop(stream)
                        status = 200 if head.get("grpc-status") == "0" else int(head.get("grpc-status", "2"))
                        done[stream] = _answer(status, head, keys[(stream - first) // 2], sent_ns, time.time_ns())
                else:
                    self._control(kind, flags, stream, payload)
        return [done[first + 2 * i] for i in range(len(keys))]

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        self.read_more()
        at, buffer = 0, self.buffer
        while len(buffer) - at >= 9:
            length = int.from_bytes(buffer[at:at + 3], "big")
            if len(buffer) - at < 9 + length:
                break
            yield buffer[at + 3], buffer[at + 4], int.from_bytes(buffer[at + 5:at + 9], "big"), bytes(buffer[at + 9:at + 9 + length])
            at += 9 + length
        del buffer[:at]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.socket.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind in (RESET, GOAWAY):
            raise ConnectionError(f"frame of type {kind} on stream {stream}: {payload!r}")

    def _decoded(self, block: bytes) -> dict[str, str]:
        if block not in self._known:
            self._known[block] = {str(name): str(value) for name, value in self._decoder.decode(block)}
        return self._known[block]


def _literal(name: str, value: str) -> bytes:
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def ask_all(connect: Callable[[], HttpPipeline | GrpcPipeline], keys: Sequence[str], batch: int = 100) -> list[Answer]:
    """Every key once, in order."""
    with connect() as connection:
        return [answer for at in range(0, len(keys), batch) for answer in connection.ask(keys[at:at + batch])]


__all__ = ["Answer", "GrpcPipeline", "HttpPipeline", "ask_all"]
