"""What requests of the admin API say in their headers: who asks, why, and which generation they have seen."""

import re
from typing import Annotated

from fastapi import Depends, Header, Request

from serve.api.routing_ports import Actor
from serve.errors import InvalidArgument, PreconditionRequired, StaleGeneration

MAX_ACTOR_CHARACTERS = 256
MAX_REASON_CHARACTERS = 1024

_TAG = re.compile(r'(W/)?"([^"]*)"|([0-9]{1,18})')


async def actor(
    request: Request,
    name: Annotated[str | None, Header(alias="x-headrace-actor", description="Who asks; default: anonymous@ and the address.")] = None,
    reason: Annotated[str, Header(alias="x-headrace-reason", description="Why, in a sentence; goes to the audit.")] = "",
) -> Actor:
    """Raises InvalidArgument for names and reasons that are too long or hold control characters."""
    peer = request.client.host if request.client else "unknown"
    return Actor(
        name=_text("x-headrace-actor", name or "", MAX_ACTOR_CHARACTERS) or f"anonymous@{peer}",
        reason=_text("x-headrace-reason", reason, MAX_REASON_CHARACTERS),
    )


By = Annotated[Actor, Depends(actor)]
IfMatch = Annotated[str | None, Header(alias="if-match", description="The generation that the change starts from: the ETag of a GET.",
                                       examples=['"3"'])]


def expected_generation(if_match: str | None, current: int) -> int:
    """The generation that If-Match names, with or without quotes; `*` and lists as RFC 9110 has them.

    Raises PreconditionRequired without the header, InvalidArgument for what is no entity tag, StaleGeneration for tags never ours.
    """
    if if_match is None or not if_match.strip():
        raise PreconditionRequired(f'send If-Match with the generation that the change starts from; now it is "{current}"')
    if if_match.strip() == "*":
        return current
    seen = []
    for part in if_match.split(","):
        tag = _TAG.fullmatch(part.strip())
        if tag is None:
            raise InvalidArgument(f'If-Match {if_match!r} is no generation; send one like "{current}"')
        is_weak, quoted, bare = tag.groups()
        text = quoted if bare is None else bare
        if not is_weak and re.fullmatch(r"[0-9]{1,18}", text):
            seen.append(int(text))
    if not seen:
        raise StaleGeneration(f'If-Match {if_match} matches nothing: the generation is "{current}"')
    return current if current in seen else seen[0]


def etag(generation: int) -> dict[str, str]:
    """The header of an answer."""
    return {"etag": f'"{generation}"'}


def _text(name: str, value: str, limit: int) -> str:
    # Header values arrive as Latin-1, whatever they were; ours are UTF-8.
    text = value.encode("latin-1", "replace").decode("utf-8", "replace").strip()
    if len(text) > limit:
        raise InvalidArgument(f"{name} has {len(text)} characters; the limit is {limit}")
    if not text.isprintable():
        raise InvalidArgument(f"{name} holds a control character")
    return text
