"""Keeps web pages off the admin API. It has no authentication, so that a page in a browser on this machine could otherwise steer it.

Two ways in are closed: a page of another origin that sends requests here (it carries its Origin), and a name under an attacker's control
that is made to resolve to the loopback address, so that the page seems to be of our origin (DNS rebinding: the Host is that name).
"""

import ipaddress
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.api.admin_problems import MEDIA_TYPE


def refusal(host: str | None, origin: str | None) -> str:
    """Why a request with these headers is refused; "" where it is not. Origin: none, or the very address that Host names."""
    if host is not None and not _is_loopback(host):
        return f"Host {host!r} is no loopback name; ask 127.0.0.1, [::1] or localhost"
    if origin is not None and (host is None or origin.lower() != f"http://{host.lower()}"):
        return f"Origin {origin!r} is another site; pages of other sites may not use the admin API"
    return ""


class RefuseForeigners:
    """Middleware: 403 for what `refusal` names."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if reason := refusal(headers.get("host"), headers.get("origin")):
                body = {"type": "urn:headrace:problem:foreign", "title": "Forbidden", "status": 403, "detail": reason}
                await JSONResponse(body, 403, media_type=MEDIA_TYPE)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    name = name.removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
