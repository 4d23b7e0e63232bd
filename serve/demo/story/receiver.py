"""Somebody else's end of a webhook: takes events, checks their signatures."""

import base64
import contextlib
import hmac
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from serve.store.signature import key_of, signature_headers


class Receiver:
    """events: CloudEvents whose signature was right, each once, in order. refused: deliveries that were not. Of any thread."""

    def __init__(self, secret: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.refused = 0
        self._key = key_of(secret)
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def take(self, headers: dict[str, str], body: bytes) -> bool:
        """Whether it was accepted: a delivery may come twice, but must be signed."""
        name = headers.get("webhook-id", "")
        when = headers.get("webhook-timestamp", "0")
        wanted = signature_headers(self._key, name, int(when), body)["webhook-signature"] if when.isdecimal() else ""
        with self._lock:
            if not hmac.compare_digest(wanted, headers.get("webhook-signature", "-")):
                self.refused += 1
                return False
            if name not in self._seen:
                self._seen.add(name)
                self.events.append(json.loads(body))
        return True

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        with self._lock:
            return [event for event in self.events if event["type"] == type_]


@contextlib.contextmanager
def receiving(folder: Path, types: list[str]) -> Iterator[tuple[Receiver, Path]]:
    """A receiver on a free port, and the --webhooks file that sends events of these types to it."""
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    receiver = Receiver(secret)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            is_taken = receiver.take({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(204 if is_taken else 400)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """The story tells what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    (folder / "webhook.secret").write_text(secret + "\n", encoding="utf-8")
    file = folder / "webhooks.yaml"
    file.write_text(yaml.safe_dump([{"url": f"http://127.0.0.1:{server.server_port}/", "secret_file": "webhook.secret", "types": types}]),
                    encoding="utf-8")
    thread = threading.Thread(target=server.serve_forever, name="webhook receiver", daemon=True)
    thread.start()
    try:
        yield receiver, file
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


__all__ = ["Receiver", "receiving"]
