"""Takes feedback, whatever the protocol it came by: a known model, recording on, in the journal before it is answered."""

import asyncio
from collections.abc import Sequence

from serve.api.feedback_ports import Labels
from serve.api.ports import Models
from serve.errors import Conflict, Unavailable
from serve.records import Label

RECORDING_IS_OFF = "this server records nothing, so that a label has no prediction to belong to: start it with --records DIR"


class FeedbackDesk:
    """labels: None while nothing is recorded. Lives on one event loop."""

    def __init__(self, models: Models, labels: Labels | None) -> None:
        self._models = models
        self._labels = labels

    def check(self, model: str) -> None:
        """Raises NotFound for an unknown model, Conflict when recording is off. A model that does not serve just now is a known one."""
        self._models.is_ready(model, "")
        if self._labels is None:
            raise Conflict(RECORDING_IS_OFF)

    async def take(self, model: str, labels: Sequence[Label], durable: bool) -> int:
        """How many, once the journal has them. Raises Unavailable when it has none of them."""
        if self._labels is None:
            raise Conflict(RECORDING_IS_OFF)
        try:
            # A client that goes away does not take back what it said: a label may be on its way to the disk.
            await asyncio.shield(asyncio.wrap_future(self._labels.submit(model, labels, durable=durable)))
        except OSError as error:
            raise Unavailable(f"the label cannot be kept: {error.strerror or error}; nothing of it was taken, try again") from error
        return len(labels)


__all__ = ["RECORDING_IS_OFF", "FeedbackDesk"]
