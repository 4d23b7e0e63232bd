"""What feedback needs of the recorder: somebody who keeps labels. `serve.recording.label_writer.LabelWriter` in production."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Label:
    """Of the row `row` of the request `request_id`. name: of what is told, where a model has several. label_ts_ns: when the truth was
    known, wall clock, by the client. One of value, text and reward is given.
    """

    request_id: str
    row: int = 0
    name: str = "label"
    value: float | None = None
    text: str | None = None
    reward: float | None = None
    label_ts_ns: int | None = None


class Labels(Protocol):
    """Where labels are kept, in the order in which they are given."""

    def submit(self, model: str, labels: Sequence[Label], *, durable: bool = False) -> "Future[None]":
        """Done when all of them are in the journal (durable: on the disk), or none is and it says why: Unavailable, InvalidArgument.

        Never blocks. Raises Unavailable when too many wait already.
        """


__all__ = ["Label", "Labels"]
