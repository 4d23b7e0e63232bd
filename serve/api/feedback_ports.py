"""What feedback needs of the recorder: somebody who keeps labels. `serve.recording.label_writer.LabelWriter` in production."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from serve.records import Label


class Labels(Protocol):
    """Where labels are kept, in the order in which they are given."""

    def submit(self, model: str, labels: Sequence[Label], *, durable: bool = False) -> "Future[None]":
        """Done when all of them are in the journal (durable: on the disk), or none is and it says why: Unavailable, InvalidArgument.

        Never blocks. Raises Unavailable when too many wait already.
        """


__all__ = ["Labels"]
