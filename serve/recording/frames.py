"""The frames that a journal is made of: bytes to frames and back. Pure.

    offset  bytes
         0      4  magic, "HJNL"
         4      1  kind: 1 header, 2 batch, 3 end, 4 filler, 5 records
         5      3  zero
         8      8  bytes of the payload
        16      4  rows in the payload
        20      4  rows of the journal before this frame, modulo 2^32
        24      8  XXH3-64, seeded, of these 32 bytes with this field zero and the payload
        32         payload, then zeros up to a multiple of 8

Little-endian. The header's seed is 0; that of a frame at offset o is the header's hash + o. A frame is thus valid only in the journal, and
at the place, where it was written: not one of a file that was there before, and not bytes of a client inside a payload. Where frames were
damaged, the count before the next good one says how many rows they had. A filler, of zeros, puts the next frame at a disk's block.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

MAGIC = b"HJNL"
HEADER, BATCH, END, FILLER, RECORDS = 1, 2, 3, 4, 5
# Kinds that have rows.
ROWS = frozenset({BATCH, RECORDS})
OVERHEAD = 32

_LAYOUT = struct.Struct("<4sB3xQIIQ")
_HASH = struct.Struct("<Q")
_HASH_AT = 24
_COUNTS = 1 << 32
_SEEDS = 1 << 64


@dataclass(frozen=True, slots=True)
class Frame:
    """offset, end: in the journal. before: rows of the journal before it, modulo 2^32."""

    kind: int
    offset: int
    end: int
    rows: int
    before: int
    payload: memoryview


def frame_bytes(n_payload: int) -> int:
    """Bytes of a frame with such a payload."""
    return OVERHEAD + n_payload + -n_payload % 8


def encode(kind: int, payload: memoryview, *, rows: int, before: int, seed: int, offset: int) -> tuple[bytes, bytes]:
    """What goes before and after the payload. before: rows, any number. seed: 0 of a header, else the header's hash."""
    plain = _LAYOUT.pack(MAGIC, kind, len(payload), rows, before % _COUNTS, 0)
    return plain[:_HASH_AT] + _HASH.pack(_hash(plain, payload, seed, offset)), bytes(-len(payload) % 8)


def filler(n_bytes: int, *, before: int, seed: int, offset: int) -> bytes:
    """A whole frame without rows. n_bytes: a multiple of 8, OVERHEAD at least."""
    payload = bytes(n_bytes - OVERHEAD)
    head, _ = encode(FILLER, memoryview(payload), rows=0, before=before, seed=seed, offset=offset)
    return head + payload


def hash_of(head: bytes | memoryview) -> int:
    """The hash that a frame's first 32 bytes say: the seed of a journal, when they are its header's."""
    return int(_HASH.unpack_from(head, _HASH_AT)[0])


def decode(data: memoryview, offset: int, seed: int) -> Frame | None:
    """The frame at `offset`, or None when what is there does not check."""
    claimed = claim(data, offset)
    if claimed is None or claimed.end > len(data):
        return None
    head, after = data[offset : offset + OVERHEAD], data[offset + OVERHEAD + len(claimed.payload) : claimed.end]
    if hash_of(head) != _hash(bytes(head[:_HASH_AT]) + bytes(8), claimed.payload, seed, offset) or any(after):
        return None
    return claimed


def true_hash(data: memoryview) -> int | None:
    """The hash that the header at the front should say, by its content; None when there is no whole one."""
    claimed = claim(data, 0)
    if claimed is None or claimed.end > len(data):
        return None
    return _hash(bytes(data[:_HASH_AT]) + bytes(8), claimed.payload, 0, 0)


def claim(data: memoryview, offset: int) -> Frame | None:
    """What the bytes at `offset` say that they are, unchecked: `end` may lie behind the data. None when they are no frame's."""
    if offset + OVERHEAD > len(data):
        return None
    magic, kind, n_payload, rows, before, _ = _LAYOUT.unpack_from(data, offset)
    if magic != MAGIC or not HEADER <= kind <= RECORDS or (kind not in ROWS and rows) or (kind == END and n_payload):
        return None
    start = offset + OVERHEAD
    return Frame(kind, offset, offset + frame_bytes(n_payload), rows, before, data[start : start + n_payload])


def valid_frames(data: memoryview, offset: int, seed: int) -> Iterator[Frame]:
    """Every frame from `offset` on that checks, in order; between them, and after the last, is what does not."""
    while offset + OVERHEAD <= len(data):
        frame = decode(data, offset, seed)
        if frame is not None:
            yield frame
            offset = frame.end
        else:
            offset = _next_magic(data, offset + 8)


def _next_magic(data: memoryview, offset: int) -> int:
    """Where the next frame may begin: frames lie at multiples of 8."""
    whole: bytes = data.obj  # type: ignore[assignment]  # bytes or an mmap, either of which finds
    while True:
        offset = whole.find(MAGIC, offset)
        if offset < 0:
            return len(data)
        if offset % 8 == 0:
            return offset
        offset += 1


def _hash(plain: bytes, payload: memoryview, seed: int, offset: int) -> int:
    state = xxhash.xxh3_64(plain, seed=(seed + offset) % _SEEDS)
    state.update(payload)
    return state.intdigest()


__all__ = [
    "BATCH", "END", "FILLER", "HEADER", "MAGIC", "OVERHEAD", "RECORDS", "ROWS", "Frame", "claim", "decode", "encode", "filler",
    "frame_bytes", "hash_of", "true_hash", "valid_frames",
]
