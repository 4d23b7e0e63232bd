r"""The column `tags` of a journal, "name\0value\0...", as the map that queries see. Pure, and vectorised: no row becomes an object."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_MAP = pa.map_(pa.string(), pa.string())


def tags_to_map(blobs: pa.Array) -> pa.Array:
    """binary of UTF-8 -> map<string, string> of the same length; null stays null, and so becomes what is no such list of pairs."""
    if blobs.null_count == len(blobs):
        return pa.nulls(len(blobs), _MAP)
    filled = pc.fill_null(blobs, b"")
    offsets, data = _bytes_of(filled)
    ends = np.flatnonzero(data == 0)
    at = np.searchsorted(ends, offsets)                     # pieces before each row
    is_whole = _is_whole(offsets, data, at)
    if not is_whole.all():
        return tags_to_map(pc.if_else(pa.array(is_whole), blobs, pa.scalar(None, pa.binary())))
    # Without its NULs, piece i begins where i NULs are gone.
    starts = np.concatenate([np.zeros(1, np.int32), (ends - np.arange(len(ends))).astype(np.int32)])
    pieces = pa.StringArray.from_buffers(len(ends), pa.py_buffer(starts), pa.py_buffer(data[data != 0]))
    names = np.arange(0, len(ends), 2)
    return pa.MapArray.from_arrays(
        pa.array((at // 2).astype(np.int32)), pieces.take(pa.array(names)), pieces.take(pa.array(names + 1)),
        mask=blobs.is_null() if blobs.null_count else None,
    )


def _bytes_of(blobs: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    _, offsets, data = blobs.buffers()
    starts = np.frombuffer(offsets, np.int32)[blobs.offset : blobs.offset + len(blobs) + 1]
    every = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return starts - starts[0], every[starts[0] : starts[-1]]


def _is_whole(offsets: npt.NDArray[np.int32], data: npt.NDArray[np.uint8], at: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Of each row, whether it is pairs of texts that each end with a NUL."""
    is_empty = offsets[1:] == offsets[:-1]
    last = data[np.maximum(offsets[1:], 1) - 1] if len(data) else np.zeros(len(is_empty), np.uint8)
    is_whole: npt.NDArray[np.bool_] = is_empty | (last == 0) & (np.diff(at) % 2 == 0)
    return is_whole


__all__ = ["tags_to_map"]
