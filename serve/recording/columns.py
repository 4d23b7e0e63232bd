"""Recorded requests as Arrow batches: records are taken apart into columns, and these become a batch without a copy.

How a column's buffers become an array depends on its type alone, so it is settled once for each set of tensors: a batch of few rows must
not cost more to put together than its rows cost to record.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import pyarrow as pa

from serve._core.record_block import RecordBlock
from serve._core.record_columns import RecordColumns
from serve.recording.arrow_schema import journal_schema
from serve.records import RecordedTensor

# Rows, nulls, bitmap, and the buffers behind it in Arrow's order, depth first -> the array; takes the buffers that are its own.
_Builder: TypeAlias = Callable[[int, int, pa.Buffer | None, Iterator[pa.Buffer]], pa.Array]


def batch_of(tensors: tuple[RecordedTensor, ...], columns: RecordColumns) -> pa.RecordBatch:
    """What the columns hold, as a batch of journal_schema(tensors), which owns their memory; the columns start anew.

    tensors: those that the columns were made with. Raises MemoryError.
    """
    schema, builders = _plan(tensors)
    n_rows = columns.n_rows
    arrays = []
    for build, (null_count, buffers) in zip(builders, columns.take(), strict=True):
        bitmap = None if buffers[0] is None else pa.py_buffer(buffers[0])
        arrays.append(build(n_rows, null_count, bitmap, map(pa.py_buffer, buffers[1:])))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def batches_of(tensors: tuple[RecordedTensor, ...], blocks: Iterable[memoryview]) -> Iterator[pa.RecordBatch]:
    """The rows of blocks of records, in batches of several thousand. tensors: of their stream. Raises MemoryError, ValueError for a block
    that is none.
    """
    columns = RecordColumns(tensors)
    for block in blocks:
        length, at = len(block), 0
        while (at := columns.add(block, at)) < length:
            yield batch_of(tensors, columns)
    if columns.n_rows:
        yield batch_of(tensors, columns)


def first_of(
    tensors: tuple[RecordedTensor, ...], block: RecordBlock, columns: RecordColumns, n_rows: int, most: int,
) -> Iterator[pa.RecordBatch]:
    """The first n_rows rows of a block, in batches of about `most`. columns: of the block's stream, empty. Raises MemoryError."""
    if columns.n_rows:      # a look for which memory was out left them
        columns.take()
    at, n_rows = 0, min(n_rows, block.n_rows)
    while n_rows > 0:
        at = columns.add(block.records, at, min(n_rows, most))
        batch = batch_of(tensors, columns).slice(0, n_rows)     # a request of several rows is taken apart whole
        n_rows -= batch.num_rows
        yield batch


@functools.lru_cache(maxsize=1024)
def _plan(tensors: tuple[RecordedTensor, ...]) -> tuple[pa.Schema, tuple[_Builder, ...]]:
    schema = journal_schema(tensors)
    return schema, tuple(_builder(kind) for kind in schema.types)


def _builder(kind: pa.DataType) -> _Builder:
    """What is inside a tensor is never null, and has no bitmap."""
    if pa.types.is_struct(kind):
        return _struct_builder(kind, [_builder(one.type) for one in kind])
    if pa.types.is_list(kind):
        return _list_builder(kind, _builder(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return _fixed_size_list_builder(kind, kind.list_size, _builder(kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return lambda n, nulls, bitmap, rest: pa.Array.from_buffers(kind, n, [bitmap, next(rest), next(rest)], nulls)
    return lambda n, nulls, bitmap, rest: pa.Array.from_buffers(kind, n, [bitmap, next(rest)], nulls)


def _struct_builder(kind: pa.DataType, parts: list[_Builder]) -> _Builder:
    def build(n: int, nulls: int, bitmap: pa.Buffer | None, rest: Iterator[pa.Buffer]) -> pa.Array:
        children = [part(n, 0, None, rest) for part in parts]
        return pa.Array.from_buffers(kind, n, [bitmap], nulls, children=children)

    return build


def _list_builder(kind: pa.DataType, element: _Builder) -> _Builder:
    def build(n: int, nulls: int, bitmap: pa.Buffer | None, rest: Iterator[pa.Buffer]) -> pa.Array:
        offsets = next(rest)
        n_elements = memoryview(offsets).cast("i")[n]
        return pa.Array.from_buffers(kind, n, [bitmap, offsets], nulls, children=[element(n_elements, 0, None, rest)])

    return build


def _fixed_size_list_builder(kind: pa.DataType, size: int, element: _Builder) -> _Builder:
    def build(n: int, nulls: int, bitmap: pa.Buffer | None, rest: Iterator[pa.Buffer]) -> pa.Array:
        return pa.Array.from_buffers(kind, n, [bitmap], nulls, children=[element(n * size, 0, None, rest)])

    return build


__all__ = ["batch_of", "batches_of", "first_of"]
