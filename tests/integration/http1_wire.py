"""HTTP/1.1 by hand: exactly the bytes that a test wants to send, and answers read strictly."""

import json
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Response:
    """headers: names in lower case; a name that comes twice is an error."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Http1Connection:
    """One connection. Every wait is bounded."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Response:
        """One exchange; the body has a Content-Length unless the headers say otherwise."""
        self.send(request_bytes(method, path, body, headers))
        return self.response(has_body=method != "HEAD")

    def response(self, has_body: bool = True) -> Response:
        """The next answer, interim ones included."""
        line = self._reader.readline()
        assert line, "the server closed the connection"
        version, status, _ = line.split(b" ", 2)
        assert version == b"HTTP/1.1", line
        headers: dict[str, str] = {}
        while (field := self._reader.readline()) != b"\r\n":
            assert field.endswith(b"\r\n"), (line, headers, field)
            name, _, value = field.decode("latin-1").rstrip("\r\n").partition(": ")
            assert name.lower() not in headers, f"{name} comes twice"
            headers[name.lower()] = value
        body = b""
        if has_body and int(status) >= 200:
            length = int(headers["content-length"])
            body = self._reader.read(length)
            assert len(body) == length, f"{len(body)} of {length} bytes of the body"
        return Response(int(status), headers, body)

    def is_closed(self) -> bool:
        """Waits for the server to end the connection; False when it sends something instead."""
        try:
            return self._reader.read(1) == b""
        except ConnectionResetError:
            return True


def request_bytes(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A request as it goes over the wire."""
    fields = {"Host": "test", **(headers or {})}
    if body and "Transfer-Encoding" not in fields and "Content-Length" not in fields:
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
