"""Which labels have not been joined yet: in this replica's journals and, of all replicas, in sealed files.

A label is known by (replica, epoch, seq); the ranges of those that were taken decide, not the order in which files appear. Of another
replica labels are seen when they are sealed.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serve.errors import Unavailable
from serve.recording.arrow_schema import LABELS_TABLE, to_table
from serve.recording.jobs import Keeping
from serve.recording.journal import read_journal
from serve.recording.layout import JournalName
from serve.recording.manifest import Part
from serve.recording.manifest_file import list_replicas, read_manifest
from serve.recording.relations import journal_header
from serve.recording.seq_ranges import SeqRanges
from serve.recording.snapshot import OpenJournal
from serve.recording.stream_header import StreamHeader

# Labels that one join takes; the rest waits for the next.
MAX_LABELS = 100_000
# Between two looks at what other replicas have sealed.
OTHERS_EVERY_NS = 60_000_000_000

Source = tuple[str, int]  # replica, epoch
Taken = Mapping[Source, SeqRanges]

_TRIES = 5
_NUMBERED = re.compile(r"part-(.+)-(\d+)-\d+\.parquet")
# Words instead of dictionaries.
_PLAIN = pa.schema([one.with_type(pa.string()) if pa.types.is_dictionary(one.type) else one for one in LABELS_TABLE])


@dataclass(frozen=True, slots=True)
class OwnJournals:
    """Journals of this replica that are not sealed, open for reading, with their headers; closed when the block ends."""

    found: tuple[tuple[OpenJournal, StreamHeader], ...]
    opened: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def of(self, table: str, model: str = "") -> list[OpenJournal]:
        """Of one table, and of one model where it is given."""
        return [journal for journal, header in self.found if header.table == table and model in ("", header.model)]


@dataclass(slots=True)
class JoinSource:
    """keeping: of the keeper whose job it is: nothing is sealed while it looks."""

    keeping: Keeping
    _headers: dict[tuple[int, int], StreamHeader] = field(default_factory=dict)
    _read_bytes: dict[tuple[int, int], int] = field(default_factory=dict)
    _read_parts: set[str] = field(default_factory=set)
    _others: list[Part] = field(default_factory=list)
    _others_ns: int | None = None

    def forget(self) -> None:
        """What was read was not used after all."""
        self._read_bytes.clear()
        self._read_parts.clear()

    def journals(self) -> OwnJournals:
        """Raises Unavailable when they are renamed faster than they can be opened, and as the disk."""
        for _ in range(_TRIES):
            with ExitStack() as opened:
                try:
                    found = list(self._open(opened))
                except FileNotFoundError:       # the worker closed it meanwhile
                    continue
                return OwnJournals(tuple(found), opened.pop_all())
        where = self.keeping.home.journals
        raise Unavailable(f"journals in {where} were renamed during each of {_TRIES} tries to read them; it is tried again")

    def _open(self, opened: ExitStack) -> Iterator[tuple[OpenJournal, StreamHeader]]:
        home, state = self.keeping.home, self.keeping.manifest.state
        names = [name for name in home.all_journals() if name.state != "bad" and not state.is_sealed(*name.key)]
        keys = {name.key for name in names}
        self._headers = {key: header for key, header in self._headers.items() if key in keys}
        self._read_bytes = {key: n_bytes for key, n_bytes in self._read_bytes.items() if key in keys}
        for name in names:
            file = opened.enter_context(home.file(name).open("rb"))
            journal = OpenJournal(name.epoch, name.number, home.file(name), file)
            header = self._headers.get(name.key) or self._learn(name, journal)
            if header is not None:
                yield journal, header

    def _learn(self, name: JournalName, journal: OpenJournal) -> StreamHeader | None:
        header = journal_header(journal.file)
        if header is not None:
            self._headers[name.key] = header
        return header

    def parts(self, now_ns: int) -> list[Part]:
        """Sealed labels, of this replica and, as of a minute ago, of the others."""
        if self._others_ns is None or now_ns - self._others_ns >= OTHERS_EVERY_NS:
            store, replica = self.keeping.store, self.keeping.replica
            others = [read_manifest(store, name) for name in list_replicas(store) if name != replica]
            self._others = [part for state in others for part in state.parts.values() if part.name.table == "labels"]
            self._others_ns = now_ns
        own = [part for part in self.keeping.manifest.state.parts.values() if part.name.table == "labels"]
        return own + self._others

    def new_labels(self, journals: OwnJournals, parts: list[Part], taken: Taken, horizon_ns: int) -> tuple[pa.Table, bool]:
        """Rows of LABELS_TABLE (with plain words) that were not taken, and whether that is all there are. horizon_ns: of what was received
        before, files whose names say no epoch hold nothing new.
        """
        tables: list[pa.Table] = []
        n = 0
        for table in self._unread(journals, parts, taken, horizon_ns):
            new = table.filter(pa.array(_is_new(table, taken)))
            tables.append(new.slice(0, MAX_LABELS - n))
            n += new.num_rows
            if n > MAX_LABELS:
                return _together(tables), False     # this one is not marked as read
        return _together(tables), True

    def _unread(self, journals: OwnJournals, parts: list[Part], taken: Taken, horizon_ns: int) -> Iterator[pa.Table]:
        """Reading goes on when the rows before have been taken."""
        for part in sorted(parts, key=lambda part: part.min_ts_ns):
            if part.path in self._read_parts or _has_all(part, taken) or (part.name.compacted and part.max_ts_ns < horizon_ns):
                continue
            with self.keeping.store.open(part.path) as file:
                table = pq.read_table(file, columns=LABELS_TABLE.names, use_threads=False)
            yield table.cast(_PLAIN)
            self._read_parts.add(part.path)
        self._read_parts &= {part.path for part in parts}
        for journal in journals.of("labels"):
            key, n_bytes = (journal.epoch, journal.number), os.fstat(journal.file.fileno()).st_size
            if self._read_bytes.get(key) == n_bytes:
                continue
            contents = read_journal(journal.file)
            if contents.header is not None:
                yield to_table(list(contents.read()), contents.header).cast(_PLAIN)
            self._read_bytes[key] = contents.n_bytes


def _together(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([_PLAIN.empty_table(), *(table.replace_schema_metadata(None) for table in tables)])


def _is_new(table: pa.Table, taken: Taken) -> "np.typing.NDArray[np.bool_]":
    seqs, epochs = table["seq"].to_numpy(), table["epoch"].to_numpy()
    replicas = np.array(table["replica"].to_pylist(), dtype=object)
    is_new = np.ones(table.num_rows, np.bool_)
    for replica, epoch in set(zip(replicas.tolist(), epochs.tolist(), strict=True)):
        ranges = taken.get((replica, epoch))
        if ranges is not None:
            chosen = (replicas == replica) & (epochs == epoch)
            is_new[chosen] = ~ranges.has(seqs[chosen])
    return is_new


def _has_all(part: Part, taken: Taken) -> bool:
    named = _NUMBERED.fullmatch(part.path.rpartition("/")[2])
    ranges = taken.get((named[1], int(named[2]))) if named else None
    return ranges is not None and ranges.covers(part.min_seq, part.max_seq)


__all__ = ["MAX_LABELS", "JoinSource", "OwnJournals", "Source", "Taken"]
