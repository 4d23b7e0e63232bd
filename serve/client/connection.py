"""One kept HTTP/1.1 connection, as the clients use it."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from serve.errors import HeadraceError


class ClientError(HeadraceError):
    """The server refused, or could not be understood or reached. status: HTTP status, 0 without an answer; text: the server's own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}" if status else text)
        self.status, self.text = status, text


@dataclass(frozen=True, slots=True)
class Answer:
    """headers: names in lower case. reason: the phrase behind the status."""

    status: int
    reason: str
    content: bytes
    headers: Mapping[str, str]


class Connected:
    """What uses one connection, as a context manager."""

    _connection: "Connection"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()


class Connection:
    """url: `http://host:port/prefix` or `host:port`. Raises ClientError with status 0 for what is no such URL, and without an answer."""

    def __init__(self, url: str, timeout_s: float, default_port: int) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port or 80
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port:
            raise ClientError(0, f"{url!r} is no URL like http://127.0.0.1:{default_port}")
        self.url = f"http://{parts.netloc}"
        self._prefix = parts.path.rstrip("/")
        self._kept = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_s)

    def close(self) -> None:
        self._kept.close()

    def ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str | bytes], *, once: bool = False) -> Answer:
        """One request and its whole answer. once: never sent a second time, for what must not happen twice."""
        if once:
            self._kept.close()
        # A kept connection may have been closed by the server meanwhile: that much is tried once more, on a new one.
        is_kept = self._kept.sock is not None
        try:
            try:
                response = self._send(method, path, body, headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._kept.close()
                if not is_kept:
                    raise
                response = self._send(method, path, body, headers)
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error) from error
        return Answer(response.status, response.reason, content, {name.lower(): value for name, value in response.getheaders()})

    def open(self, method: str, path: str, headers: Mapping[str, str | bytes]) -> http.client.HTTPResponse:
        """The answer's head; the caller reads the rest while it comes, and closes the connection."""
        self._kept.close()
        try:
            return self._send(method, path, None, headers)
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error) from error

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str | bytes]) -> http.client.HTTPResponse:
        self._kept.request(method, self._prefix + path, body, dict(headers))
        return self._kept.getresponse()

    def _failed(self, error: Exception) -> ClientError:
        self._kept.close()
        return ClientError(0, f"no answer from {self.url}: {error}")
