"""The metrics port: one ASGI application, one path.

The format (Prometheus text or OpenMetrics), gzip and the `name[]` filter are prometheus_client's own negotiation.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def metrics_app(registry: CollectorRegistry) -> AsgiApp:
    """An ASGI application that answers GET /metrics and nothing else; run it without lifespan events."""
    exposition = make_asgi_app(registry)

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] != "/metrics":
            await _refuse(send, 404, b"Not Found: the metrics are at /metrics\n", [])
        elif scope["method"] != "GET":
            await _refuse(send, 405, b"Method Not Allowed: use GET\n", [(b"allow", b"GET")])
        else:
            await exposition(scope, receive, send)

    return app


async def _refuse(send: Send, status: int, text: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
