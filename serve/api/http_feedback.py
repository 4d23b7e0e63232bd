"""POST /v2/models/{model}/feedback. docs/feedback.md."""

import asyncio
from urllib.parse import parse_qs

from serve.api import feedback
from serve.api.feedback_desk import FeedbackDesk
from serve.api.http_message import HttpRequest, HttpResponse, json_response
from serve.errors import InvalidArgument
from serve.records import Label

# 10,000 items of 800 bytes.
BODY_LIMIT_BYTES = 8 << 20
# What is parsed in a thread, so that judges and health checks go on beside it.
LARGE_BYTES = 64 << 10


class FeedbackHandler:
    """Answers 202 {"accepted": n} when the journal has all items, with ?durable=true when the disk has them."""

    def __init__(self, desk: FeedbackDesk) -> None:
        self._desk = desk

    async def __call__(self, request: HttpRequest, model: str) -> HttpResponse:
        """Raises NotFound, Conflict (recording is off), InvalidArgument, TooLarge, Unavailable; nothing was kept then."""
        self._desk.check(model)
        query = parse_qs(request.query, keep_blank_values=True)
        if unknown := next((name for name in query if name != "durable"), None):
            raise InvalidArgument(f"unknown query parameter {unknown!r}; known is 'durable'")
        durable = feedback.flag_of(lambda name: query.get(name, []), "durable")
        if len(request.body) > LARGE_BYTES:
            labels = await asyncio.to_thread(_labels, request)
        else:
            labels = _labels(request)
        return json_response({"accepted": await self._desk.take(model, labels, durable)}, 202)


def _labels(request: HttpRequest) -> list[Label]:
    if not request.body:
        raise InvalidArgument('the body is empty: send one item, {"request_id": ..., "label": ...}, or {"feedback": [item, ...]}')
    items, place = feedback.items_of(request.json_object(BODY_LIMIT_BYTES))
    return feedback.labels_of(items, place)


__all__ = ["FeedbackHandler"]
