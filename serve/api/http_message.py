"""The values that HTTP handlers take and give; the native plane fills the one and sends the other."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.errors import InvalidArgument, TooLarge

# A body on the slow path is a flag, a few settings or a configuration; more only holds up the control plane's loop.
BODY_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, complete and decompressed.

    method: upper case. path: as sent, percent-encoded, without the query. query: as sent, without the question mark. headers: names in
    lower case.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json_object(self, limit_bytes: int = BODY_LIMIT_BYTES) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object. Raises InvalidArgument and TooLarge."""
        if not self.body:
            return {}
        if len(self.body) > limit_bytes:
            raise TooLarge(f"the body has {len(self.body)} bytes; {self.path} takes at most {limit_bytes}")
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"failed to parse the request JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidArgument(f"the request body must be a JSON object, not {type(value).__name__}")
        return value


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One answer. headers: names in lower case; the sender adds content-length and what belongs to the connection."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """A JSON answer, compact and in ASCII, so that no name a client sent can make it anything but JSON."""
    body = json.dumps(value, separators=(",", ":")).encode("ascii")
    return HttpResponse(status, body, {"content-type": "application/json", **(headers or {})})
