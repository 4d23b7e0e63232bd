"""What can be read of a records directory at one moment: its models and versions, and for each schema the sealed files and journalled rows.

Which models there are is known from the names of files and the headers of journals. What the columns of a version are says the metadata of
one file of each schema; the files themselves are DuckDB's to read, and journals that a query does not need are not read.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serve.errors import InternalError
from serve.recording import frames
from serve.recording.arrow_schema import to_table
from serve.recording.journal import JournalContents, read_journal
from serve.recording.manifest import Part
from serve.recording.sealed_files import gone
from serve.recording.snapshot import OpenJournal, Snapshot
from serve.recording.store_port import RecordsStore
from serve.recording.stream_header import METADATA_KEY, StreamHeader, TableName
from serve.recording.views import Column, columns_of

_READERS = 16

# Done, of how many.
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Period:
    """From, inclusive, to, exclusive, by ts_ns; None: open."""

    from_ns: int | None = None
    to_ns: int | None = None

    def meets(self, part: Part) -> bool:
        """Whether rows of the part may lie in it."""
        return (self.from_ns is None or part.max_ts_ns >= self.from_ns) and (self.to_ns is None or part.min_ts_ns < self.to_ns)

    def within(self, other: "Period") -> "Period | None":
        """What both have in common; None: nothing."""
        begins = [one.from_ns for one in (self, other) if one.from_ns is not None]
        ends = [one.to_ns for one in (self, other) if one.to_ns is not None]
        if begins and ends and max(begins) >= min(ends):
            return None
        return Period(max(begins, default=None), min(ends, default=None))


ALWAYS = Period()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one schema: paths of sealed files, and journalled rows as tables. columns: those of the tensors. is_batched: of the model."""

    columns: tuple[Column, ...]
    paths: tuple[str, ...]
    tables: tuple[pa.Table, ...]
    is_batched: bool = True


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells rows of one schema from others."""

    columns: tuple[Column, ...]
    is_batched: bool


@dataclass(slots=True)
class _Found:
    paths: list[str] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)


class Relations:
    """The rows of a snapshot. Where a period is asked for, sealed files that lie outside it are left out; journals never are.

    warnings: what turned out to be unreadable, for people; it grows as journals are read.
    """

    def __init__(self, store: RecordsStore, snapshot: Snapshot, progress: Progress) -> None:
        self.store = store
        self.parts = snapshot.parts
        self._progress = progress
        self.warnings = list(snapshot.warnings)
        self._contents: dict[OpenJournal, JournalContents] = {}
        self._journals = [(journal, header) for journal in snapshot.journals if (header := self._header(journal)) is not None]
        self._tables: dict[OpenJournal, pa.Table] = {}
        self._kinds: dict[tuple[str, ...], _Kind] = {}

    @cached_property
    def versions(self) -> dict[str, list[str]]:
        """Of each model, by name; numbers as numbers."""
        pairs = {(name.model, name.version) for part in self.parts if (name := part.name).table == "records"}
        pairs |= {(header.model, header.version) for _, header in self._journals if header.table == "records"}
        found: dict[str, list[str]] = {}
        for model, version in sorted(pairs, key=_by_number):
            found.setdefault(model, []).append(version)
        return found

    def of_table(self, table: TableName, period: Period) -> Rows:
        """All rows, for the columns that they have in common."""
        paths = tuple(part.path for part in self.parts if part.name.table == table and period.meets(part))
        return Rows((), paths, tuple(self._journalled(table)))

    def of_model(self, model: str, version: str | None, period: Period) -> list[Rows]:
        """One for each schema of one model, or of one version of it, whether rows of it lie in the period or not.

        Raises InternalError for a file that the recorder did not write, Unavailable for one that is gone.
        """
        versions = self.versions[model] if version is None else [version]
        parts = [part for part in self.parts if (name := part.name).table == "records" and name.model == model and name.version in versions]
        self._learn_columns(parts)
        found: dict[_Kind, _Found] = {}
        for part in parts:
            rows = found.setdefault(self._kinds[_schema(part)], _Found())
            if period.meets(part):
                rows.paths.append(part.path)
        for journal, header in self._journals:
            if header.table == "records" and header.model == model and header.version in versions:
                found.setdefault(_kind(header), _Found()).tables.append(self._table(journal))
        return [Rows(kind.columns, tuple(one.paths), tuple(one.tables), kind.is_batched) for kind, one in found.items()]

    def newest(self, n_rows: int, model: str) -> int | None:
        """A ts_ns from which on the sealed files of a model ("": of all) have n_rows rows at least, if they have so many; else None."""
        parts = [part for part in self.parts if (name := part.name).table == "records" and model in {"", name.model}]
        since = None
        for part in sorted(parts, key=lambda part: part.max_ts_ns, reverse=True):
            if n_rows <= 0:
                return since
            n_rows -= part.rows
            since = part.min_ts_ns if since is None else min(since, part.min_ts_ns)
        return None

    def spans(self, model: str) -> list[tuple[int, int, int]]:
        """The first and the last ts_ns, and the number of rows, of each file and journal of a model that has any."""
        found = [(part.min_ts_ns, part.max_ts_ns, part.rows) for part in self.parts if part.name.partition[:2] == ("records", model)]
        for journal, header in self._journals:
            if header.table == "records" and header.model == model and (rows := self._table(journal)).num_rows:
                ends = pc.min_max(rows["ts_ns"])
                found.append((ends["min"].as_py(), ends["max"].as_py(), rows.num_rows))
        return found

    def _journalled(self, table: TableName) -> Iterator[pa.Table]:
        return (self._table(journal) for journal, header in self._journals if header.table == table)

    def contents(self, journal: OpenJournal) -> JournalContents:
        """Of a journal of the snapshot, as it was when it was first asked for; it may have grown since."""
        if journal not in self._contents:
            contents = self._contents[journal] = read_journal(journal.file)
            if contents.bad_frames:
                what = f"{contents.bad_rows} rows" if contents.header else "its head and all rows"
                self.warnings.append(f"{journal.path} is damaged: {what} cannot be read; `headrace records verify` counts them")
        return self._contents[journal]

    def _table(self, journal: OpenJournal) -> pa.Table:
        if journal not in self._tables:
            contents = self.contents(journal)
            assert contents.header is not None      # it was read when the journal was opened, and a journal's head does not change
            self._tables[journal] = to_table(list(contents.read()), contents.header)
            self._contents[journal] = replace(contents, frames=())      # what was read is there twice else
        return self._tables[journal]

    def _learn_columns(self, parts: Iterable[Part]) -> None:
        """Reads the metadata of one file of each schema that is not known yet."""
        unknown = {key: part for part in parts if (key := _schema(part)) not in self._kinds}
        with ThreadPoolExecutor(_READERS) as readers:
            headers = readers.map(self._header_of, unknown.values())
            for n_done, (key, header) in enumerate(zip(unknown, headers, strict=True), 1):
                self._kinds[key] = _kind(header)
                self._progress(n_done, len(unknown))

    def _header(self, journal: OpenJournal) -> StreamHeader | None:
        return journal_header(journal.file) or self.contents(journal).header

    def _header_of(self, part: Part) -> StreamHeader:
        try:
            with self.store.open(part.path) as file:
                metadata = pq.read_metadata(file).metadata or {}
            return StreamHeader.from_json(metadata[METADATA_KEY])
        except FileNotFoundError as error:
            raise gone(self.store, part.path) from error
        except (pa.ArrowException, KeyError) as error:
            raise InternalError(f"{self.store.url}/{part.path} is not the file that was sealed; run `headrace records verify`") from error


def journal_header(file: IO[bytes]) -> StreamHeader | None:
    """What the first frame says, without reading the others; None when it does not check or is not wholly there."""
    file.seek(0)
    start = file.read(frames.OVERHEAD)
    claimed = frames.claim(memoryview(start), 0)
    if claimed is None:
        return None
    head = frames.decode(memoryview(start + file.read(claimed.end - len(start))), 0, 0)
    return None if head is None else StreamHeader.from_json(bytes(head.payload[4:4 + int.from_bytes(head.payload[:4], "little")]))


def _kind(header: StreamHeader) -> _Kind:
    return _Kind(columns_of(header.tensors), header.is_batched)


def _schema(part: Part) -> tuple[str, ...]:
    """Parts of equal keys have equal schemas."""
    name = part.name
    return name.model, name.version, part.schema or part.path


def _by_number(pair: tuple[str, str]) -> tuple[str, int, str]:
    model, version = pair
    return model, int(version) if version.isdecimal() else -1, version
