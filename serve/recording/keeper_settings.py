"""What a keeper is told when it starts: one JSON object on its standard input."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Self

from serve.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperSettings:
    """records: folder or URL. home: STATE_DIR/records. epoch: the worker's, None when none runs. host: this machine's name; "": as it says.

    retention_days, disk_budget_bytes: as the flags. delta: keep Delta tables. parent_pid: the worker's, with which the keeper ends; 0: of
    nobody.
    """

    records: str
    home: str
    replica: str
    epoch: int | None = None
    host: str = ""
    retention_days: int = 184
    disk_budget_bytes: int = 8 << 30
    delta: bool = False
    parent_pid: int = 0

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises ConfigurationError for what to_json did not write."""
        try:
            values = json.loads(text)
            return cls(**{one.name: values[one.name] for one in fields(cls)})
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(f"{text[:100]!r} are no settings of a keeper: {error!r}") from error


__all__ = ["KeeperSettings"]
