"""Small sealed files of an hour that is over become few large ones. What to merge is decided apart from merging.

The files that were merged leave the table with the manifest's line that names the new one, and the disk after a grace period, in which
whoever took a snapshot before can read them. The new file's name is in the manifest, as one to delete, before it is made: a crash leaves
nothing behind that nobody knows of. An hour that gets late rows is merged again.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from serve.errors import InternalError
from serve.recording.jobs import Keeping, Message
from serve.recording.layout import HOUR_NS, compacted_path
from serve.recording.manifest import Part, compacted_line, deleted_line, started_line
from serve.recording.parquet_parts import ROW_GROUP_BYTES, ROW_GROUP_ROWS, PartFile, StagedPart, open_part

# A file of at least MIN_BYTES is large enough; none is made larger than MAX_BYTES.
MIN_BYTES = 256 << 20
MAX_BYTES = 512 << 20
# After the end of an hour, for journals that are not sealed yet.
SETTLE_NS = 600_000_000_000
# How long merged and purged files stay for readers.
GRACE_NS = 600_000_000_000
# A merge that failed, of a file that is gone or damaged say, does not stand in the way of others for so long.
RETRY_NS = HOUR_NS


@dataclass(frozen=True, slots=True)
class Merge:
    """Files of one hour and one schema, in the order of their first rows."""

    parts: tuple[Part, ...]


def plan_merges(parts: Iterable[Part], now_ns: int) -> list[Merge]:
    """What to merge now, the earliest hour first; nothing twice. parts: of one replica. now_ns: since the epoch."""
    alike: dict[tuple[tuple[str, ...], str], list[Part]] = {}
    for part in parts:
        name = part.name
        if name.hour_ns + HOUR_NS + SETTLE_NS <= now_ns and part.bytes < MIN_BYTES:
            alike.setdefault((name.partition, part.schema), []).append(part)
    merges = [merge for group in alike.values() for merge in _merges(sorted(group, key=lambda part: (part.min_ts_ns, part.path)))]
    return sorted(merges, key=lambda merge: (merge.parts[0].name.hour_ns, merge.parts[0].path))


def _merges(parts: Iterable[Part]) -> list[Merge]:
    groups: list[list[Part]] = [[]]
    n_bytes = 0
    for part in parts:
        if groups[-1] and (n_bytes >= MIN_BYTES or n_bytes + part.bytes > MAX_BYTES):
            groups.append([])
            n_bytes = 0
        groups[-1].append(part)
        n_bytes += part.bytes
    return [Merge(tuple(group)) for group in groups if len(group) > 1]


@dataclass(slots=True)
class CompactionJob:
    """One merge a run, and whatever files have outlived their grace period."""

    keeping: Keeping
    name: str = "compaction"
    interval_s: float = 60.0
    _retry_ns: dict[Merge, int] = field(default_factory=dict)      # when one that failed is tried again

    def run(self, now_ns: int) -> list[Message]:
        """`compacted` messages. Raises as the store, InternalError for files that are not as the manifest says."""
        self.keeping.manifest.shorten()
        messages = delete_doomed(self.keeping, now_ns - GRACE_NS, now_ns)
        self._retry_ns = {merge: at_ns for merge, at_ns in self._retry_ns.items() if at_ns > now_ns}
        merges = [merge for merge in plan_merges(self.keeping.manifest.state.parts.values(), now_ns) if merge not in self._retry_ns]
        if merges:
            messages.append(self._try(merges[0], now_ns))
        self.interval_s = 0.0 if len(merges) > 1 else 60.0
        return messages

    def _try(self, merge: Merge, now_ns: int) -> Message:
        try:
            return self._merge(merge, now_ns)
        except Exception:       # whatever it is, it is remembered and goes on
            self._retry_ns[merge] = now_ns + RETRY_NS
            raise

    def _merge(self, merge: Merge, now_ns: int) -> Message:
        store, paths = self.keeping.store, [part.path for part in merge.parts]
        path = compacted_path(self.keeping.replica, paths)
        self.keeping.manifest.append(started_line(path, now_ns))
        file = self.keeping.home.staging / Path(path).name
        try:
            staged = _merged(self.keeping, merge, path, file)
            if staged.part.rows != (expected := sum(part.rows for part in merge.parts)):
                raise InternalError(
                    f"{len(paths)} files from {paths[0]} on have {staged.part.rows} rows, not {expected} as the manifest says")
            self.keeping.manifest.confirm()
            store.adopt(file, path)
        finally:
            file.unlink(missing_ok=True)        # of a merge that failed: it would count against the budget
        line = compacted_line(staged.part, paths, now_ns)
        self.keeping.manifest.append(line)
        return line


def delete_doomed(keeping: Keeping, before_ns: int, now_ns: int) -> list[Message]:
    """Removes files that have not been in the table since `before_ns`; `deleted` if there were any."""
    paths = [path for path, at_ns in keeping.manifest.state.doomed.items() if at_ns <= before_ns]
    if not paths:
        return []
    for path in paths:
        keeping.store.delete(path)
    line = deleted_line(paths, now_ns)
    keeping.manifest.append(line)
    return [line]


def _merged(keeping: Keeping, merge: Merge, path: str, file: Path) -> StagedPart:
    """The rows of all, in row groups of full size, written to `file`."""
    writer: PartFile | None = None
    schema: pa.Schema | None = None
    with ExitStack() as cleaning:
        group: list[pa.Table] = []
        for table in _row_groups(keeping, merge.parts):
            if writer is None:
                # Without the field ids that reading a Parquet file adds.
                schema = pa.schema([column.remove_metadata() for column in table.schema], table.schema.metadata)
                writer = open_part(path, file, table)
                cleaning.callback(writer.writer.close)
            group.append(table.cast(schema))
            if sum(one.num_rows for one in group) >= ROW_GROUP_ROWS or sum(one.nbytes for one in group) >= ROW_GROUP_BYTES:
                writer.write(pa.concat_tables(group))
                group = []
        assert writer is not None, merge
        if group:
            writer.write(pa.concat_tables(group))
        return writer.finish(schema)


def _row_groups(keeping: Keeping, parts: Iterable[Part]) -> Iterable[pa.Table]:
    for part in parts:
        with keeping.store.open(part.path) as source, pq.ParquetFile(source) as file:
            for i in range(file.num_row_groups):
                yield file.read_row_group(i, use_threads=False)


__all__ = ["GRACE_NS", "MAX_BYTES", "MIN_BYTES", "SETTLE_NS", "CompactionJob", "Merge", "delete_doomed", "plan_merges"]
