"""Requests as bytes, written without the server's own codecs: what is sent must not depend on what is measured.

Source: the Open Inference Protocol's ModelInferRequest (its field numbers stand beside each line below), its REST form and the
binary-tensor extension; gRPC over HTTP/2 for the 5-byte prefix.
"""

import json
import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

FloatRows = npt.NDArray[np.float32]


def varint(value: int) -> bytes:
    """Return a protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def grpc_message(model: str, name: str, rows: FloatRows) -> bytes:
    """Return a ModelInferRequest with one raw FP32 input."""
    shape = b"".join(varint(n) for n in rows.shape)
    tensor = field(1, name.encode()) + field(2, b"FP32") + field(3, shape)      # InferInputTensor: name, datatype, shape
    return field(1, model.encode()) + field(5, tensor) + field(7, rows.tobytes())   # model_name, inputs, raw_input_contents


def grpc_frame(message: bytes) -> bytes:
    """Return an uncompressed gRPC message behind its prefix."""
    return struct.pack(">BI", 0, len(message)) + message


def read_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield (number, value) of a message's fields: bytes where length-delimited, else the varint. Raises ValueError on other wire types."""
    at = 0

    def read_varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        key = read_varint()
        number, wire_type = key >> 3, key & 7
        value = read_varint()
        if wire_type == 0:
            yield number, value
        elif wire_type == 2:
            yield number, message[at : at + value]
            at += value
        else:
            raise ValueError(f"field {number} has wire type {wire_type}")


def only_bytes(message: bytes, number: int) -> list[bytes]:
    """Return every length-delimited field of that number."""
    return [value for found, value in read_fields(message) if found == number and isinstance(value, bytes)]


def raw_outputs(message: bytes) -> list[bytes]:
    """Return raw_output_contents (6) of a ModelInferResponse."""
    return only_bytes(message, 6)


def read_model_metadata(message: bytes) -> dict[str, list[dict[str, object]]]:
    """Return the inputs (4) of a ModelMetadataResponse as its REST form tells them: name (1), datatype (2), packed shape (3)."""
    inputs: list[dict[str, object]] = []
    for tensor in only_bytes(message, 4):
        (name,), (datatype,) = only_bytes(tensor, 1), only_bytes(tensor, 2)
        shape = [value for part in only_bytes(tensor, 3) for value in read_packed(part)]
        inputs.append({"name": name.decode(), "datatype": datatype.decode(), "shape": shape})
    return {"inputs": inputs}


def read_packed(data: bytes) -> list[int]:
    """Return packed int64 varints."""
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value - (1 << 64) if value >> 63 else value)
            value = shift = 0
    return values


def json_body(name: str, rows: FloatRows) -> bytes:
    """Return a REST inference request with its numbers in JSON."""
    data = [float(str(value)) for value in rows.ravel()]        # the shortest text of the float32
    return json.dumps({"inputs": [{"name": name, "datatype": "FP32", "shape": list(rows.shape), "data": data}]}).encode()


def binary_body(name: str, rows: FloatRows) -> tuple[bytes, int]:
    """Return a REST inference request with a binary tensor, and the value of Inference-Header-Content-Length."""
    head = json.dumps({
        "inputs": [{"name": name, "datatype": "FP32", "shape": list(rows.shape), "parameters": {"binary_data_size": rows.nbytes}}],
        "parameters": {"binary_data_output": True},
    }).encode()
    return head + rows.tobytes(), len(head)


def plain_json(name: str, rows: FloatRows) -> bytes:
    """Return rows as a JSON object of nested lists, for servers that do not speak the Open Inference Protocol."""
    return json.dumps({name: [[float(str(value)) for value in row] for row in rows]}).encode()
