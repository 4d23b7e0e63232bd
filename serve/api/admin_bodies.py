"""Bodies of the admin API: JSON or YAML, bounded, read so that nothing is lost silently."""

import asyncio
import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from serve.errors import InvalidArgument, TooLarge, Unprocessable
from serve.routing.documents import MAX_DOCUMENT_BYTES as MAX_BODY_BYTES
from serve.routing.documents import read_document as read_text

JSON_TYPES = ("application/json",)
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


async def read_document(request: Request) -> dict[str, Any]:
    """The body, one object. No content type means JSON.

    Raises TooLarge, InvalidArgument for what is not JSON or YAML or has a key twice, and HTTPException 415 for another content type.
    """
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type not in JSON_TYPES + YAML_TYPES:
        raise HTTPException(415, f"a body of type {content_type!r}; send application/json or application/yaml")
    body = await _read(request)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the body is not UTF-8: byte {error.start}") from error
    if content_type in JSON_TYPES:
        return parse_json(text)
    return await asyncio.to_thread(parse_yaml, text)    # a megabyte of YAML takes seconds


def parse_json(text: str, *, any_text: bool = False) -> dict[str, Any]:
    """One JSON object without repeated keys. any_text: with halves of surrogate pairs, which stand for bytes. Raises InvalidArgument."""
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise InvalidArgument("the body is nested too deeply") from error
    except ValueError as error:
        raise InvalidArgument(f"the body is no JSON: {error}") from error
    if "\\u" in text and not any_text:
        _check_unicode(document)
    if not isinstance(document, dict):
        raise InvalidArgument(f"the body must be an object, not {type(document).__name__}")
    return document


def parse_yaml(text: str) -> dict[str, Any]:
    """One YAML mapping that JSON could say: no key twice, no aliases. Raises InvalidArgument."""
    try:
        return read_text(text)
    except Unprocessable as error:
        raise InvalidArgument(f"the body is {error}") from error


async def _read(request: Request) -> bytes:
    parts = []
    n_bytes = 0
    async for part in request.stream():
        n_bytes += len(part)
        if n_bytes > MAX_BODY_BYTES:
            raise TooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidArgument(f"key {key!r} is given twice")
        found[key] = value
    return found


def _check_unicode(document: Any) -> None:
    # Half a surrogate pair is legal JSON and no text: it could not be stored, or shown.
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except ValueError as error:
        raise InvalidArgument(f"the body holds half a surrogate pair: {error}") from error


def _no_number(text: str) -> Any:
    raise InvalidArgument(f"{text} is no JSON number")
