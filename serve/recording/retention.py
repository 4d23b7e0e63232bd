"""What is kept and for how long: by age, by legal hold, and by the disk. What to purge is decided apart from purging.

Age: rows of a model go `retention_days` after they were recorded, its own or the server's. Disk: home and what this replica has sealed into
a local records directory together stay within a budget; the oldest sealed rows go first. What is sealed into an object store needs no room.
Journals that are not sealed are never purged: when there is nothing left to purge, the worker is told that there is no room, and counts
what it then drops. Held rows stay, whatever the cost. A purge is a line of the manifest before it happens.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from serve.recording.compaction import delete_doomed
from serve.recording.holds import Hold, is_held, read_holds
from serve.recording.home import HomeBytes
from serve.recording.jobs import Keeping, Message
from serve.recording.layout import DAY_NS, JournalName
from serve.recording.manifest import Line, ManifestState, Part, purged_line

# There is room again when this share of the budget is free.
_FREE = 0.05


def expired(state: ManifestState, holds: Iterable[Hold], default_days: int, now_ns: int) -> list[Part]:
    """Parts whose last row is too old, the oldest first."""
    holds = list(holds)
    gone = [part for part in state.parts.values() if part.max_ts_ns < now_ns - _days(state, part, default_days) * DAY_NS]
    return sorted((part for part in gone if not is_held(part, holds)), key=_age)


def to_free(parts: Iterable[Part], holds: Iterable[Hold], n_bytes: int) -> list[Part]:
    """The oldest parts that together have at least n_bytes; all that may go when they have not."""
    holds, chosen = list(holds), []
    for part in sorted(parts, key=_age):
        if n_bytes <= 0:
            break
        if not is_held(part, holds):
            chosen.append(part)
            n_bytes -= part.bytes
    return chosen


def _age(part: Part) -> tuple[int, str]:
    return part.max_ts_ns, part.path


def _days(state: ManifestState, part: Part, default_days: int) -> int:
    own = state.retention_days.get(part.name.model)
    return default_days if own is None else own


@dataclass(slots=True)
class RetentionJob:
    """Purges by age, then by budget, and watches the room. default_days: of models that say nothing. budget: bytes.

    Messages: `purged` as in the manifest; `room` at first and when it changes: {"room": bool, "bytes", "budget"}.
    """

    keeping: Keeping
    default_days: int
    budget: int
    name: str = "retention"
    interval_s: float = 10.0
    _has_room: bool | None = None
    _faults: list[str] = field(default_factory=list)

    def run(self, now_ns: int) -> list[Message]:
        """Raises as the store."""
        holds, faults = read_holds(self.keeping.store)
        messages: list[Message] = [{"type": "error", "job": self.name, "text": text} for text in faults if text not in self._faults]
        self._faults = faults
        if gone := expired(self.keeping.manifest.state, holds, self.default_days, now_ns):
            messages.append(self._purge(purged_line(gone, "retention", now_ns)))
        messages += self._purge_bad(holds, now_ns)
        messages += self._keep_budget(holds, now_ns)
        return messages

    def used(self) -> int:
        """Bytes of what the budget is for."""
        return self._home().total + self._sealed_here()

    def _keep_budget(self, holds: list[Hold], now_ns: int) -> list[Message]:
        messages: list[Message] = []
        if (over := self.used() - self.budget) > 0 and self.keeping.store.root is not None:
            # What is doomed anyway goes first: a reader whose file is gone takes another snapshot.
            messages += delete_doomed(self.keeping, now_ns, now_ns)
            over = self.used() - self.budget
            if parts := to_free(self.keeping.manifest.state.parts.values(), holds, over):
                messages.append(self._purge(purged_line(parts, "disk_budget", now_ns)))
                messages += delete_doomed(self.keeping, now_ns, now_ns)
        return messages + self._room()

    def _room(self) -> list[Message]:
        used = self.used()
        has_room = used <= self.budget * (1 - _FREE if self._has_room is False else 1)
        if has_room == self._has_room:
            return []
        self._has_room = has_room
        return [{"type": "room", "room": has_room, "bytes": used, "budget": self.budget}]

    def _purge_bad(self, holds: list[Hold], now_ns: int) -> list[Message]:
        """Journals that were kept for what could not be read of them: by age as rows are, at once when the disk needs it."""
        if holds:
            return []       # nobody knows whose rows are in them
        home = self.keeping.home
        kept = [name for name in home.all_journals() if name.state == "bad"]
        over = self.used() - self.budget
        gone: list[JournalName] = []
        for name in kept:
            status = home.file(name).stat()
            if over > 0 or status.st_mtime_ns < now_ns - self.default_days * DAY_NS:
                gone.append(name)
                over -= status.st_size
        if not gone:
            return []
        why = "disk_budget" if self.used() > self.budget else "retention"
        line = {"type": "purged", "paths": [f"journals/{name.file}" for name in gone], "rows": 0, "why": why, "at_ns": now_ns}
        self._purge(line)
        for name in gone:
            home.file(name).unlink()
        return [line]

    def _purge(self, line: Line) -> Message:
        self.keeping.manifest.append(line)
        return line

    def _home(self) -> HomeBytes:
        return self.keeping.home.n_bytes()

    def _sealed_here(self) -> int:
        store, state = self.keeping.store, self.keeping.manifest.state
        if store.root is None:
            return 0
        n_bytes = sum(part.bytes for part in state.parts.values())
        for path in state.doomed:
            with suppress(FileNotFoundError):
                n_bytes += store.size(path)
        return n_bytes


__all__ = ["RetentionJob", "expired", "to_free"]
