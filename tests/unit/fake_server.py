"""A small Open Inference Protocol server for tests of clients: echoes inputs as outputs, or says what it was told to say."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


class FakeServer(BaseHTTPRequestHandler):
    """Echoes inputs as outputs; remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str, bytes]]] = []
    canned: ClassVar[dict[str, tuple[int, bytes, dict[str, str]]]] = {}
    n_connections: ClassVar[int] = 0
    close_after: ClassVar[bool] = False

    def setup(self) -> None:
        FakeServer.n_connections += 1
        super().setup()

    def log_message(self, format: str, *args: object) -> None:      # noqa: A002 - the standard library's name
        return

    def do_GET(self) -> None:
        self._respond("GET", b"")

    def do_POST(self) -> None:
        self._respond("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def _respond(self, verb: str, body: bytes) -> None:
        self.asked.append((verb, self.path, body))
        status, content, headers = self.canned[self.path] if self.path in self.canned else self._echo(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        # Without "Connection: close": the client must find out by itself.
        self.close_connection = self.close_after

    def _echo(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        length = int(self.headers["Inference-Header-Content-Length"])
        request = json.loads(body[:length])
        head = json.dumps({"model_name": "echo", "model_version": "7", "id": "x", "outputs": request["inputs"]}).encode()
        return 200, head + body[length:], {"Inference-Header-Content-Length": str(len(head)), "X-Request-Id": "r"}


@contextmanager
def fake_server() -> Iterator[str]:
    """Its URL. Nothing is canned or remembered from before."""
    FakeServer.asked, FakeServer.canned, FakeServer.n_connections, FakeServer.close_after = [], {}, 0, False
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def can(path: str, content: object, status: int = 200, **headers: str) -> None:
    """Fixes the answer to a path."""
    FakeServer.canned[path] = (status, content if isinstance(content, bytes) else json.dumps(content).encode(), headers)
