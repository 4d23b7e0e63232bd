"""What a keeper does over and over, one step at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from serve.recording.home import Home
from serve.recording.manifest_file import Manifest
from serve.recording.store_port import RecordsStore

# A JSON object for the worker, with its "type".
Message = dict[str, Any]


class Job(Protocol):
    """name: in messages about its failures. interval_s: from the end of a run to the next one; read after each run, 0 when more waits."""

    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float: ...

    def run(self, now_ns: int) -> list[Message]:
        """One bounded step: seconds, not minutes. now_ns: since the epoch. Whatever it raises is reported, and it is tried again."""
        ...


@runtime_checkable
class Listener(Protocol):
    """A job that wants to know what the worker tells its keeper."""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Between two runs; every message, of whatever type."""
        ...


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the jobs of one keeper share; they run one after another. epoch: of the worker, None when none runs."""

    store: RecordsStore
    manifest: Manifest
    home: Home
    replica: str
    epoch: int | None


__all__ = ["Job", "Keeping", "Listener", "Message"]
