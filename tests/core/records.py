"""Records as an I/O thread writes them into its ring (ext/serve/_core/record.pxd), built and taken apart by Python."""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve.records import RecordedTensor

# RecordHeader, with what a C compiler pads at its end; RecordedPart.
HEADER = struct.Struct("<Ii q QQQQ IIIi h BB h HHHH 6x 4x")
PART = struct.Struct("<Qii")

DTYPES = {
    "BOOL": np.uint8, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "BF16": np.uint16, "FP32": np.float32, "FP64": np.float64,
}


@dataclass
class Part:
    """A tensor of a record: its bytes, and the shape of a row where that is dynamic. None: left out."""

    data: bytes | None
    dims: tuple[int, ...] = ()


@dataclass
class Record:
    """A recorded request; the fields are RecordHeader's. unit None: it has none."""

    rows: int = 1
    parts: list[Part] = field(default_factory=list)
    stream: int = 0
    ts_ns: int = 1_700_000_000_000_000_000
    seq: int = 0
    batch_id: int = 7
    generation: int = 3
    unit: int | None = None
    queue_us: int = 10
    compute_us: int = 200
    total_us: int = 230
    status: int = 200
    protocol: int = 0
    error: int = 0
    request_id: bytes = b"0192f0c1-0000-7000-8000-000000000001"
    variant: bytes = b"2"
    trace_id: bytes = b""
    tags: bytes = b""

    def pack(self, **lies: int) -> bytes:
        """The record's bytes. lies: what its header says instead of the truth."""
        texts = self.request_id + self.variant + self.trace_id + self.tags
        body = padded(texts) + b"".join(pack_part(part) for part in self.parts)
        said: dict[str, int] = {
            "length": HEADER.size + len(body), "rows": self.rows, "id_length": len(self.request_id), "variant_length": len(self.variant),
            "trace_length": len(self.trace_id), "tags_length": len(self.tags), **lies,
        }
        return HEADER.pack(
            said["length"], self.stream, self.ts_ns, self.seq, self.batch_id, self.generation, self.unit or 0, self.queue_us,
            self.compute_us, self.total_us, said["rows"], self.status, self.protocol, self.unit is not None, self.error, said["id_length"],
            said["variant_length"], said["trace_length"], said["tags_length"],
        ) + body

    def expected(self, tensors: tuple[RecordedTensor, ...]) -> list[dict[str, Any]]:
        """The rows of the journal that it should become: the oracle of the kernel."""
        common = {
            "ts_ns": self.ts_ns, "batch_id": self.batch_id, "request_id": self.request_id.decode(), "variant": self.variant.decode(),
            "trace_id": self.trace_id.decode() or None, "protocol": self.protocol, "status": self.status, "error": self.error,
            "generation": self.generation, "unit": self.unit, "queue_us": self.queue_us, "compute_us": self.compute_us,
            "total_us": self.total_us, "tags": self.tags or None,
        }
        if self.rows == 0:
            return [{**common, "seq": self.seq, "row": -1, **{tensor.column: None for tensor in tensors}}]
        columns = {one.column: row_values(one, part, self.rows) for one, part in zip(tensors, self.parts, strict=True)}
        return [
            {**common, "seq": self.seq + row, "row": row, **{name: values[row] for name, values in columns.items()}}
            for row in range(self.rows)
        ]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def pack_part(part: Part) -> bytes:
    if part.data is None:
        return PART.pack(0, 1, 0)
    return PART.pack(len(part.data), 0, len(part.dims)) + struct.pack(f"<{len(part.dims)}q", *part.dims) + padded(part.data)


def framed(elements: list[bytes]) -> bytes:
    """BYTES as they are on the wire."""
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def unframed(data: bytes) -> list[bytes]:
    elements = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        elements.append(data[4 : 4 + length])
        data = data[4 + length :]
    return elements


def flat_values(datatype: str, data: bytes) -> list[Any]:
    """Every element as Arrow's to_pylist shows it."""
    if datatype == "BYTES":
        return unframed(data)
    values = np.frombuffer(data, DTYPES[datatype])
    if datatype == "BOOL":
        return [bool(one) for one in values]
    if datatype == "BF16":
        return [float(one) for one in (values.astype(np.uint32) << 16).view(np.float32)]
    return [one.item() for one in values]


def row_values(tensor: RecordedTensor, part: Part, rows: int) -> list[Any]:
    """The tensor's value in each row of the journal."""
    if part.data is None:
        return [None] * rows
    flat = flat_values(tensor.datatype, part.data)
    each = len(flat) // rows
    values = [flat[row * each : (row + 1) * each] for row in range(rows)]
    n_dynamic = sum(size < 0 for size in tensor.shape)
    if n_dynamic > 1:
        return [{"data": one, "shape": list(part.dims)} for one in values]
    if n_dynamic == 0 and each == 1:
        return [one[0] for one in values]
    return values
