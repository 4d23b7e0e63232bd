"""Requests in JSON for the tests of json_codec, and what became of them."""

import json
import struct
from typing import Any

from serve._core import json_codec

OK, INVALID_ARGUMENT, NOT_IMPLEMENTED = 0, 2, 9


def decode(body: bytes, json_length: int = -1) -> dict[str, Any]:
    fields, kind, text, _ = json_codec.decode_for_test(body, json_length)
    assert (kind, text) == (OK, "")
    assert fields is not None
    return fields


def refusal(body: bytes, json_length: int = -1) -> tuple[int, str]:
    fields, kind, text, _ = json_codec.decode_for_test(body, json_length)
    assert fields is None
    assert text
    return kind, text


def body_of(data: object, shape: object, datatype: object = "FP32", **others: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **others}).encode()


def framed(strings: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(s.encode())) + s.encode() for s in strings)
