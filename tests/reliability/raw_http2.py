"""An HTTP/2 client that says exactly what it is told to, sensible or not."""

import contextlib
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_ERROR, CANCEL = 0, 8
LAST_POSSIBLE_STREAM = 2**31 - 1


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes
    fields: dict[str, str] = field(default_factory=dict)        # of HEADERS


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """SETTINGS by number: settings(_4=0) sets INITIAL_WINDOW_SIZE."""
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", int(name[1:]), value) for name, value in values.items()))


class Http2:
    """One connection with the preface sent. Nothing is answered by itself, not even SETTINGS."""

    def __init__(self, address: tuple[str, int], first: bytes = frame(SETTINGS), timeout_s: float = 30.0) -> None:
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder, self.decoder = Encoder(), Decoder()
        self._rest = b""
        self._passed_over: list[Frame] = []
        self.send(PREFACE + first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def headers(self, stream: int, path: str, method: str = "POST", end: bool = False, **fields: str) -> bytes:
        """A HEADERS frame; names with _ for -."""
        block = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
        block += [(name.replace("_", "-"), value) for name, value in fields.items()]
        return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, self.encoder.encode(block))

    def request(self, stream: int, path: str, body: bytes, **fields: str) -> bytes:
        """A whole request."""
        return self.headers(stream, path, **fields) + frame(DATA, END_STREAM, stream, body)

    def grpc(self, stream: int, path: str, *messages: bytes, end: bool = True, **fields: str) -> bytes:
        """A gRPC call with its messages."""
        body = b"".join(b"\0" + struct.pack(">I", len(one)) + one for one in messages)
        head = self.headers(stream, path, content_type="application/grpc", te="trailers", **fields)
        return head + frame(DATA, END_STREAM if end else 0, stream, body)

    def frame(self) -> Frame | None:
        """The next one; None once the server has closed."""
        while len(self._rest) < 9 or len(self._rest) < 9 + int.from_bytes(self._rest[:3], "big"):
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._rest += data
        length = int.from_bytes(self._rest[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self._rest[3:9])
        payload, self._rest = self._rest[9:9 + length], self._rest[9 + length:]
        fields = {str(name): str(value) for name, value in self.decoder.decode(payload)} if kind == HEADERS else {}
        return Frame(kind, flags, stream & LAST_POSSIBLE_STREAM, payload, fields)

    def wait_for(self, kind: int, stream: int | None = None) -> Frame:
        """The first frame of this kind (and stream) that was not asked for before."""
        for got in self._passed_over:
            if got.kind == kind and stream in (None, got.stream):
                self._passed_over.remove(got)
                return got
        while (new := self.frame()) is not None:
            if new.kind == kind and stream in (None, new.stream):
                return new
            self._passed_over.append(new)
        raise ConnectionError(f"the server closed before a frame of kind {kind}")

    def frames_until_closed(self) -> list[Frame]:
        """All that were not asked for."""
        while (got := self.frame()) is not None:
            self._passed_over.append(got)
        return self._passed_over

    def status(self, stream: int) -> dict[str, str]:
        """The last header block of a gRPC call: grpc-status, grpc-message."""
        while "grpc-status" not in (header := self.wait_for(HEADERS, stream)).fields:
            pass
        return header.fields

    def is_alive(self) -> bool:
        """Whether a PING comes back."""
        with contextlib.suppress(OSError):
            self.send(frame(PING, payload=b"alive?!!"))
            while (got := self.frame()) is not None:
                if got.kind == PING and got.flags & ACK and got.payload == b"alive?!!":
                    return True
        return False


def last_stream(goaway: Frame) -> int:
    (number,) = struct.unpack_from(">I", goaway.payload)
    return int(number) & LAST_POSSIBLE_STREAM


def error_code(goaway: Frame) -> int:
    (code,) = struct.unpack_from(">I", goaway.payload, 4)
    return int(code)
