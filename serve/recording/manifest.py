"""What a replica has sealed, as the fold of its manifest's lines. Pure: `manifest_file.py` does the reading and writing.

    {"type":"replica","format":1,"replica","host","home","home_id","created_ns"}
    {"type":"sealed","table","epoch","journal","model","version","rows","torn_rows","bad_rows","parts":[Part],"retention_days","at_ns"}
    {"type":"started","path","at_ns"}                   a file that may be there from now on; nobody's until a line names it
    {"type":"compacted","table","part":Part,"replaces":[path],"at_ns"}
    {"type":"purged","paths":[path],"rows","why":"retention"|"disk_budget","at_ns"}
    {"type":"deleted","paths":[path],"at_ns"}           their files are gone too
    {"type":"epoch","epoch","assigned","appended","dropped":{reason:rows},"lost","torn_rows","bad_rows","at_ns"}
    {"type":"carried",…} {"type":"part","part":Part}    what `lines_of` makes of the lines that a rewrite leaves out

A journal is sealed, and its parts are in the table, from its `sealed` line on; a part is in the table until a `compacted` line replaces it
or a `purged` line removes it, and doomed from then until its file is deleted. A line that was applied before changes nothing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from serve.errors import Unavailable
from serve.recording.layout import TABLES, PartName, Table, part_name

FORMAT = 1

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A sealed file. bytes: its size. sha256: hex, of the file. min, max: inclusive. schema: 16 hex digits; those of one may be merged."""

    path: str
    rows: int
    bytes: int
    sha256: str
    min_ts_ns: int
    max_ts_ns: int
    min_seq: int
    max_seq: int
    schema: str = ""

    @property
    def name(self) -> PartName:
        """Its path, taken apart."""
        found = part_name(self.path)
        assert found is not None, self.path
        return found


@dataclass(slots=True)
class RowCounts:
    """Rows of one table since the replica's first. sealed: taken by a part. torn: of frames that were cut off. bad: of frames that fail."""

    sealed: int = 0
    torn: int = 0
    bad: int = 0
    purged: int = 0


@dataclass(slots=True)
class EpochState:
    """One start of the worker. journals: the numbers of the sealed ones. records: rows of its sealed journals of that table, purged left 0.

    end: its `epoch` line, None while it is not accounted for. sealed_ns: when the last of its journals was, 0: not known.
    """

    journals: set[int] = field(default_factory=set)
    records: RowCounts = field(default_factory=RowCounts)
    end: Line | None = None
    sealed_ns: int = 0


@dataclass(slots=True)
class ManifestState:
    """host, home: where the journals are, "" before the first line; home_id: of that folder, wherever it is moved. since_epoch: up to it,
    epochs are of a home that was lost. parts: what is in the table, by path. doomed: files that are not, and are to be deleted: path ->
    since when (ns).

    retention_days: by model, as its last journal said; None: the server's. n_lines: that were read; n_damaged: of them, unreadable.
    """

    replica: str = ""
    host: str = ""
    home: str = ""
    home_id: str = ""
    since_epoch: int = 0
    created_ns: int = 0
    parts: dict[str, Part] = field(default_factory=dict)
    doomed: dict[str, int] = field(default_factory=dict)
    epochs: dict[int, EpochState] = field(default_factory=dict)
    rows: dict[Table, RowCounts] = field(default_factory=lambda: {table: RowCounts() for table in TABLES})
    retention_days: dict[str, int | None] = field(default_factory=dict)
    n_lines: int = 0
    n_damaged: int = 0

    def is_sealed(self, epoch: int, journal: int) -> bool:
        """Whether the rows of a journal are in parts, or were."""
        return epoch in self.epochs and journal in self.epochs[epoch].journals

    def epoch(self, epoch: int) -> EpochState:
        """The state of an epoch, made when nothing was known of it."""
        return self.epochs.setdefault(epoch, EpochState())


def replica_line(replica: str, host: str, home: str, home_id: str, now_ns: int) -> Line:
    """The first line of a manifest, and one more whenever the replica moves."""
    return {
        "type": "replica", "format": FORMAT, "replica": replica, "host": host, "home": home, "home_id": home_id, "created_ns": now_ns,
    }


def started_line(path: str, now_ns: int) -> Line:
    """A file is about to be made: should nothing come of it, it is deleted."""
    return {"type": "started", "path": path, "at_ns": now_ns}


def compacted_line(part: Part, replaces: Iterable[str], now_ns: int) -> Line:
    """`part` holds the rows of `replaces`, which leave the table."""
    return {"type": "compacted", "table": part.name.table, "part": asdict(part), "replaces": list(replaces), "at_ns": now_ns}


def purged_line(parts: Iterable[Part], why: Literal["retention", "disk_budget"], now_ns: int) -> Line:
    """Rows that are no more."""
    parts = list(parts)
    return {"type": "purged", "paths": [part.path for part in parts], "rows": sum(part.rows for part in parts), "why": why, "at_ns": now_ns}


def deleted_line(paths: Iterable[str], now_ns: int) -> Line:
    """The files of doomed parts are gone."""
    return {"type": "deleted", "paths": list(paths), "at_ns": now_ns}


def part_of(values: Mapping[str, Any]) -> Part:
    """A Part as it stands in a line; keys of a later release are left out."""
    return Part(**{name: values[name] for name in Part.__slots__ if name in values})


def encode(lines: Iterable[Line]) -> bytes:
    """Each line as compact JSON with a line end."""
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def decode(content: bytes) -> tuple[list[Line | None], bool]:
    """The lines of a manifest, None for one that is not JSON; and whether its last line was cut off, which is left out."""
    *whole, rest = content.split(b"\n")
    return [_decode_line(line) for line in whole if line], bool(rest)


def _decode_line(line: bytes) -> Line | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("type"), str) else None


def fold(lines: Iterable[Line | None]) -> ManifestState:
    """The state after all lines. None and lines without what their type needs are counted; unknown types are passed over.

    Raises Unavailable for a manifest of a later format.
    """
    state = ManifestState()
    for line in lines:
        apply(state, line)
    return state


def apply(state: ManifestState, line: Line | None) -> None:
    """One more line. Raises Unavailable as `fold`."""
    state.n_lines += 1
    if line is None:
        state.n_damaged += 1
        return
    change = _CHANGES.get(line["type"])
    if change is None:
        return
    try:
        change(state, line)
    except (KeyError, TypeError, ValueError, AttributeError):
        state.n_damaged += 1


def _replica(state: ManifestState, line: Line) -> None:
    if line["format"] > FORMAT:
        raise Unavailable(
            f"the manifest of replica {line['replica']} has format {line['format']}, this release reads up to {FORMAT}; use a newer one")
    if state.home_id not in ("", line["home_id"]):
        state.since_epoch = max(state.epochs, default=0)
    state.since_epoch = line.get("since_epoch", state.since_epoch)
    state.replica, state.host, state.home, state.home_id = line["replica"], line["host"], line["home"], line["home_id"]
    state.created_ns = state.created_ns or line["created_ns"]


def _sealed(state: ManifestState, line: Line) -> None:
    parts = [part_of(part) for part in line["parts"]]
    more = RowCounts(line["rows"], line["torn_rows"], line["bad_rows"])
    epoch = state.epoch(line["epoch"])
    if line["journal"] in epoch.journals:
        return
    epoch.journals.add(line["journal"])
    epoch.sealed_ns = max(epoch.sealed_ns, line["at_ns"])
    for counts in (state.rows[line["table"]], *([epoch.records] if line["table"] == "records" else [])):
        counts.sealed += more.sealed
        counts.torn += more.torn
        counts.bad += more.bad
    state.parts.update((part.path, part) for part in parts)
    if line["model"]:
        state.retention_days[line["model"]] = line.get("retention_days")


def _started(state: ManifestState, line: Line) -> None:
    if line["path"] not in state.parts:
        state.doomed[line["path"]] = line["at_ns"]


def _compacted(state: ManifestState, line: Line) -> None:
    part = part_of(line["part"])
    if not all(path in state.parts for path in line["replaces"]):
        return      # applied before
    state.parts[part.path] = part
    state.doomed.pop(part.path, None)
    _doom(state, line["replaces"], line["at_ns"])


def _purged(state: ManifestState, line: Line) -> None:
    for path in line["paths"]:
        if path in state.parts:
            state.rows[state.parts[path].name.table].purged += state.parts[path].rows
    _doom(state, line["paths"], line["at_ns"])


def _doom(state: ManifestState, paths: Iterable[str], at_ns: int) -> None:
    for path in paths:
        if state.parts.pop(path, None) is not None:
            state.doomed[path] = at_ns


def _deleted(state: ManifestState, line: Line) -> None:
    for path in line["paths"]:
        state.doomed.pop(path, None)


def _epoch(state: ManifestState, line: Line) -> None:
    state.epoch(line["epoch"]).end = line


def _carried(state: ManifestState, line: Line) -> None:
    if "epoch" in line:
        epoch = state.epoch(line["epoch"])
        for first, last in line["journals"]:
            epoch.journals.update(range(first, last + 1))
        epoch.records, epoch.sealed_ns = RowCounts(**line["records"]), line.get("sealed_ns", 0)
    else:
        state.rows.update((table, RowCounts(**line["rows"][table])) for table in TABLES)
        state.retention_days.update(line["retention_days"])
        state.doomed.update(line["doomed"])


def _part(state: ManifestState, line: Line) -> None:
    part = part_of(line["part"])
    state.parts[part.path] = part


_CHANGES = {
    "replica": _replica, "sealed": _sealed, "started": _started, "compacted": _compacted, "purged": _purged, "deleted": _deleted,
    "epoch": _epoch, "carried": _carried, "part": _part,
}


def lines_of(state: ManifestState) -> list[Line]:
    """As few lines as make the same state."""
    first = replica_line(state.replica, state.host, state.home, state.home_id, state.created_ns)
    lines: list[Line] = [{**first, "since_epoch": state.since_epoch}]
    lines.append({
        "type": "carried", "rows": {table: asdict(counts) for table, counts in state.rows.items()},
        "retention_days": state.retention_days, "doomed": state.doomed,
    })
    for number, epoch in sorted(state.epochs.items()):
        lines.append({"type": "carried", "epoch": number, "journals": _ranges(epoch.journals), "records": asdict(epoch.records),
                      "sealed_ns": epoch.sealed_ns})
        if epoch.end is not None:
            lines.append(epoch.end)
    return lines + [{"type": "part", "part": asdict(part)} for part in state.parts.values()]


def _ranges(numbers: set[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


__all__ = [
    "FORMAT", "EpochState", "Line", "ManifestState", "Part", "RowCounts", "apply", "compacted_line", "decode", "deleted_line", "encode",
    "fold", "lines_of", "part_of", "purged_line", "replica_line", "started_line",
]
