"""A journal's rows as Parquet files, one for each UTC hour (and model, of labels): zstd, statistics where queries prune, dictionaries where
values repeat, differences where they grow. Row groups are written as they are made, so that memory holds one of them.

Tensors of numbers that zstd makes little of are most of what is sealed and cost most: a sample of each is compressed, and where that saves
less than _WORTHWHILE, zstd's fastest level takes the column, which finds repetitions and leaves the rest alone.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serve.recording.arrow_schema import to_table
from serve.recording.layout import HOUR_NS, part_path
from serve.recording.manifest import Part
from serve.recording.stream_header import METADATA_KEY, StreamHeader

ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 64 << 20

_LEVEL, _FAST_LEVEL = 1, -1
_SAMPLE_BYTES = 64 << 10
_WORTHWHILE = 0.15

_DICTIONARIES = frozenset({
    "model", "version", "variant", "replica", "protocol", "digest", "status", "row", "sampling", "epoch", "generation", "name",
})
_STATISTICS = frozenset({"ts_ns", "seq", "request_id"})
# Numbers that are near their neighbours': packed differences are smaller, and cheaper than compression.
_DELTAS = frozenset({"ts_ns", "seq", "batch_id", "queue_us", "compute_us", "total_us"})


@dataclass(frozen=True, slots=True)
class StagedPart:
    """part: as the manifest will say, its path that of the store. file: where it lies until then."""

    part: Part
    file: Path


@dataclass(slots=True)
class PartFile:
    """A file that is being written. path: what it will be in the store. ranges: of ts_ns and seq, the least and the greatest so far."""

    path: str
    file: Path
    writer: pq.ParquetWriter
    rows: int = 0
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)

    def write(self, table: pa.Table) -> None:
        """Rows of the schema that it was opened with. Raises OSError, ArrowException."""
        self.writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self.rows += table.num_rows
        for name in ("ts_ns", "seq"):
            low, high = _min_max(table[name])
            before = self.ranges.get(name, (low, high))
            self.ranges[name] = min(low, before[0]), max(high, before[1])

    def finish(self, schema: pa.Schema) -> StagedPart:
        """The whole file, with at least one row. schema: with the stream's metadata. Raises as `write`."""
        self.writer.close()
        with self.file.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        (min_ts, max_ts), (min_seq, max_seq) = self.ranges["ts_ns"], self.ranges["seq"]
        n_bytes = self.file.stat().st_size
        return StagedPart(Part(self.path, self.rows, n_bytes, digest, min_ts, max_ts, min_seq, max_seq, fingerprint(schema)), self.file)


def stage_parts(batches: Iterable[pa.RecordBatch], header: StreamHeader, staging: Path, replica: str) -> list[StagedPart]:
    """Writes the rows of a journal into files of `staging`, which exists; what is there of an earlier try is written over.

    replica: whose manifest will name them; not the header's when the replica was renamed before its journals were sealed.

    Returns one for each hour that has rows. Raises OSError, ArrowException; files may be left behind.
    """
    writing: dict[tuple[str, int], PartFile] = {}
    schema = to_table([], header).schema
    try:
        for group in row_groups(batches):
            for (model, hour_ns), rows in _by_hour(to_table(group, header), header):
                at = (model, hour_ns)
                if at not in writing:
                    path = part_path(header.table, model, header.version, hour_ns, replica, header.epoch, header.journal)
                    writing[at] = open_part(path, staging / f"{header.epoch}-{header.journal}-{len(writing)}.parquet", rows)
                writing[at].write(rows)
        return [one.finish(schema) for one in writing.values()]
    finally:
        for one in writing.values():
            one.writer.close()


def row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Runs of batches that make a row group each."""
    group: list[pa.RecordBatch] = []
    rows = n_bytes = 0
    for batch in batches:
        group.append(batch)
        rows += batch.num_rows
        n_bytes += batch.nbytes
        if rows >= ROW_GROUP_ROWS or n_bytes >= ROW_GROUP_BYTES:
            yield group
            group, rows, n_bytes = [], 0, 0
    if rows:
        yield group


def open_part(path: str, file: Path, sample: pa.Table) -> PartFile:
    """A file to be filled with rows such as the sample's."""
    names = set(sample.schema.names)
    levels = {column: level for name in sample.schema.names for column, level in _levels(name, sample[name])}
    writer = pq.ParquetWriter(
        file, sample.schema, compression="zstd", compression_level=levels, use_dictionary=sorted(_DICTIONARIES & names),
        write_statistics=sorted(_STATISTICS & names), column_encoding=dict.fromkeys(_DELTAS & names, "DELTA_BINARY_PACKED"),
    )
    return PartFile(path, file, writer)


def fingerprint(schema: pa.Schema) -> str:
    """16 hex digits: equal for files that may be merged, which have the same columns of the same stream.

    By names: reading a Parquet file back gives some nested types other words for their fields.
    """
    stream = json.loads(schema.metadata[METADATA_KEY])
    same = {name: value for name, value in stream.items() if name not in {"epoch", "journal", "created_ns", "retention_days"}}
    return hashlib.sha256(json.dumps([schema.names, same], sort_keys=True).encode()).hexdigest()[:16]


def _by_hour(table: pa.Table, header: StreamHeader) -> Iterator[tuple[tuple[str, int], pa.Table]]:
    """Rows of each model and hour; mostly that is all of them at once, and nothing is copied."""
    models = [header.model] if header.table == "records" else sorted(table["model"].unique().to_pylist())
    for model in models:
        of_model = table if len(models) == 1 else table.filter(pc.equal(table["model"].cast(pa.string()), model))
        low, high = _min_max(of_model["ts_ns"])
        first, last = low // HOUR_NS, high // HOUR_NS
        if first == last:
            yield (model, first * HOUR_NS), of_model
            continue
        hours = pc.divide(of_model["ts_ns"], HOUR_NS)
        for hour in sorted(pc.unique(hours).to_pylist()):
            yield (model, hour * HOUR_NS), of_model.filter(pc.equal(hours, hour))


def _min_max(column: pa.ChunkedArray) -> tuple[int, int]:
    found = pc.min_max(column)
    return found["min"].as_py(), found["max"].as_py()


def _levels(name: str, column: pa.ChunkedArray) -> Iterator[tuple[str, int]]:
    """zstd's level for each leaf of a column, by its path in Parquet."""
    kind = column.type.storage_type if isinstance(column.type, pa.BaseExtensionType) else column.type
    is_tensor = name.startswith(("in_", "out_"))
    if pa.types.is_struct(kind):
        yield f"{name}.shape.list.element", _LEVEL
        yield f"{name}.data.list.element", _level_of(pc.struct_field(column, "data")) if is_tensor else _LEVEL
    elif pa.types.is_map(kind):
        yield from ((f"{name}.key_value.{leaf}", _LEVEL) for leaf in ("key", "value"))
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield f"{name}.list.element", _level_of(column) if is_tensor else _LEVEL
    else:
        yield name, _level_of(column) if is_tensor else _LEVEL


def _level_of(column: pa.ChunkedArray) -> int:
    values = next((chunk for chunk in column.chunks if len(chunk) > chunk.null_count), None)
    if values is None:
        return _LEVEL
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    data = values.buffers()[-1]
    if data is None or not data.size:
        return _LEVEL
    sample = data.slice(0, min(data.size, _SAMPLE_BYTES))
    saved = 1 - pa.compress(sample, codec="zstd").size / sample.size
    return _LEVEL if saved >= _WORTHWHILE else _FAST_LEVEL


__all__ = ["ROW_GROUP_BYTES", "ROW_GROUP_ROWS", "PartFile", "StagedPart", "fingerprint", "open_part", "row_groups", "stage_parts"]
