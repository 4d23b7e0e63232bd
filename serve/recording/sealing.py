"""A closed journal becomes sealed files: exactly once, wherever the process dies.

    1. an abandoned journal is called closed           <epoch>-<n>.open -> <epoch>-<n>.journal
    2. its rows are written into staging               one file for each hour
    3. each file is put where it belongs               the name a function of the journal: put twice, there is one
    4. the manifest says `sealed`                      from here on the files are the rows, before it the journal is
    5. the journal is removed                          or kept as <epoch>-<n>.bad when frames of it did not check

Whoever begins again does what is left: before 4 everything once more, which writes the same files; after 4 only 5.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from serve.errors import Conflict
from serve.recording.home import Home
from serve.recording.jobs import Message
from serve.recording.journal import JournalContents, read_journal
from serve.recording.layout import JournalName
from serve.recording.manifest import Line, ManifestState
from serve.recording.manifest_file import Manifest, read_manifest
from serve.recording.parquet_parts import StagedPart, stage_parts
from serve.recording.store_port import RecordsStore

_FIRST_DELAY_NS = 1_000_000_000
_LAST_DELAY_NS = 300 * _FIRST_DELAY_NS


@dataclass(slots=True)
class _Failures:
    """Of one journal, in a row. A journal that cannot be sealed does not stand in the way of the others."""

    number: int = 0
    retry_ns: int = 0


@dataclass(slots=True)
class Sealer:
    """Seals the closed journals of a home. epoch: the one that is running, None when none is. Its caller holds the lock of the home."""

    store: RecordsStore
    manifest: Manifest
    home: Home
    epoch: int | None
    _failures: dict[tuple[int, int], _Failures] = field(default_factory=dict)

    def due(self, now_ns: int) -> list[JournalName]:
        """Closed journals whose turn it is, in the order in which they were begun. now_ns: since the epoch."""
        return [name for name in self.home.closed(self.epoch) if self._failures.get(name.key, _Failures()).retry_ns <= now_ns]

    def seal(self, name: JournalName, now_ns: int) -> list[Message]:
        """One journal, from whatever step it is at. Returns `sealed`, or nothing when it was.

        Raises what stood in the way; the journal is tried again, later each time.
        """
        with self._counted(name, now_ns):
            if name.state == "open":
                name = self.home.close(name)
            contents = read_journal(self.home.file(name))
            if (known := self._known(name, contents)) is not None:
                _check_same(name, contents, known.epochs[name.epoch].sealed_ns)
                self.home.finish(name, is_bad=contents.bad_frames > 0)
                return []
            line = self._put(name, contents, now_ns)
            self.manifest.append(line)
            self.home.finish(name, is_bad=line["bad_frames"] > 0)
            return [{name: value for name, value in line.items() if name != "retention_days"}]

    def _known(self, name: JournalName, contents: JournalContents) -> ManifestState | None:
        """The manifest that calls it sealed: ours, or that of the name which this home had when it was recorded."""
        if self.manifest.state.is_sealed(*name.key):
            return self.manifest.state
        if contents.header is None or contents.header.replica == self.manifest.replica:
            return None
        earlier = read_manifest(self.store, contents.header.replica)
        return earlier if earlier.home_id == self.home.identity() and earlier.is_sealed(*name.key) else None

    def _put(self, name: JournalName, contents: JournalContents, now_ns: int) -> Line:
        """Steps 2 and 3; the line for step 4."""
        staged: list[StagedPart] = []
        if contents.header is not None:
            staged = stage_parts(contents.read(), contents.header, self.home.staging, self.manifest.replica)
        try:
            self.manifest.confirm()
            for one in staged:
                self.store.adopt(one.file, one.part.path)
        finally:
            _remove(one.file for one in staged)
        return _sealed_line(name, contents, staged, now_ns)

    @contextmanager
    def _counted(self, name: JournalName, now_ns: int) -> Iterator[None]:
        try:
            yield
        except Exception:       # whatever it is, it is counted and goes on
            failures = self._failures.setdefault(name.key, _Failures())
            failures.retry_ns = now_ns + min(_LAST_DELAY_NS, _FIRST_DELAY_NS << min(failures.number, 16))
            failures.number += 1
            raise
        self._failures.pop(name.key, None)


def _check_same(name: JournalName, contents: JournalContents, sealed_ns: int) -> None:
    """A name is given out once, unless the home was put back from a copy: then what is sealed is another journal, and this one stays.

    sealed_ns: when the last journal of the epoch was sealed, 0: not known.
    """
    if contents.header is not None and 0 < sealed_ns < contents.header.created_ns:
        raise Conflict(
            f"{name.file} was begun after the journal of that name was sealed: the state directory was put back from a copy. Its rows are"
            " in no table; give another --replica-id")


def _sealed_line(name: JournalName, contents: JournalContents, staged: list[StagedPart], now_ns: int) -> Line:
    header = contents.header
    return {
        "type": "sealed", "table": header.table if header else "records", "epoch": name.epoch, "journal": name.number,
        "model": header.model if header else "", "version": header.version if header else "",
        "rows": contents.rows, "torn_rows": contents.torn_rows, "bad_rows": contents.bad_rows, "bad_frames": contents.bad_frames,
        "parts": [asdict(one.part) for one in staged], "retention_days": header.retention_days if header else None, "at_ns": now_ns,
    }


def _remove(files: Iterator[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink(missing_ok=True)


__all__ = ["Sealer"]
