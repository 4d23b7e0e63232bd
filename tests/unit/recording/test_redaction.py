"""Redaction of every kind of column, against the same thing said row by row in Python."""

import hashlib
import hmac
import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve._core.record_columns import RecordColumns, add_for_test
from serve.errors import ConfigurationError
from serve.recording.arrow_schema import journal_schema, to_table
from serve.recording.columns import batch_of
from serve.recording.redaction import Redactor
from serve.recording.redaction_key import redaction_key
from serve.recording.stream_header import StreamHeader
from serve.records import RecordedTensor, RecordingSpec, RecordStreamSpec, Redaction
from tests.core.records import Part, Record, framed

KEY = bytes(range(32))
TENSORS = (
    RecordedTensor("in", "age", "INT64", (1,), 0), RecordedTensor("in", "pixels", "FP16", (3,), 1),
    RecordedTensor("in", "name", "BYTES", (), 2), RecordedTensor("in", "words", "BYTES", (2,), 3),
    RecordedTensor("in", "tokens", "UINT64", (-1,), 4), RecordedTensor("in", "grid", "FP64", (-1, -1), 5),
    RecordedTensor("in", "texts", "BYTES", (-1, -1), 6), RecordedTensor("out", "flag", "BOOL", (1,), 0),
)
GRID = [1.0, math.nan, -math.inf, 10.0, 9.99, math.inf]
Action = Literal["drop", "mask", "hash", "bucket"]


def rows() -> pa.RecordBatch:
    """Two requests of two rows, one whose tensors were left out, one that failed."""
    columns = RecordColumns(TENSORS)
    values = [
        Part(np.array([17, 65], np.int64).tobytes()), Part(np.arange(6, dtype=np.float16).tobytes()), Part(framed([b"Ada", b"\xff"])),
        Part(framed([b"a", b"", b"Ada", b"b"])), Part(np.array([1, 2**63, 3, 4], np.uint64).tobytes(), (2,)),
        Part(np.array(GRID).tobytes(), (1, 3)), Part(framed([b"x", b"Ada"]), (1, 1)), Part(np.array([1, 0], np.uint8).tobytes()),
    ]
    records = [
        Record(2, values, tags=b"who\0Ada\0where\0\0", trace_id=b"0af7651916cd43dd8448eb211c80319c", unit=7),
        Record(1, [Part(None)] * len(TENSORS), seq=2), Record(0, [], seq=3, status=503, error=5),
        Record(2, values, seq=4, tags=b"who\0Ada\0"),
    ]
    for record in records:
        add_for_test(columns, record.pack())
    return batch_of(TENSORS, columns)


def redacted(*redactions: Redaction) -> tuple[Redactor, pa.RecordBatch]:
    stream = RecordStreamSpec("m", "1", "sha256:00", TENSORS, RecordingSpec(redact=redactions))
    redactor = Redactor(stream, lambda: KEY)
    batch = redactor.apply(rows())
    batch.validate(full=True)
    assert batch.schema == redactor.schema == journal_schema(redactor.tensors)
    return redactor, batch


def hashed(text: bytes) -> bytes:
    return hmac.new(KEY, text, hashlib.sha256).hexdigest()[:32].encode()


def lower(value: float, bounds: tuple[float, ...]) -> float:
    if math.isnan(value):
        return value
    return max([bound for bound in bounds if value >= bound], default=-math.inf)


def of_elements(value: Any, change: Any) -> Any:
    """The oracle: `change` of each element, wherever it is."""
    if value is None:
        return None
    if isinstance(value, dict):
        return {**value, "data": [change(one) for one in value["data"]]}
    return [change(one) for one in value] if isinstance(value, list) else change(value)


def same(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)           # NaN equals itself here, and -0.0 is not 0.0


@pytest.mark.parametrize("column", ["in_name", "in_words", "in_texts"])
@pytest.mark.parametrize("action", ["drop", "mask", "hash"])
def test_text_tensors(column: str, action: Action) -> None:
    change = {"drop": None, "mask": lambda _: b"***", "hash": hashed}[action]
    redactor, batch = redacted(Redaction(column, action))
    expected = [None if change is None else of_elements(value, change) for value in rows()[column].to_pylist()]
    assert batch[column].to_pylist() == expected
    assert any(value is not None for value in expected) or action == "drop"
    assert redactor.tensors == TENSORS
    others = [name for name in batch.schema.names if name != column]
    assert same(batch.select(others).to_pylist(), rows().select(others).to_pylist())


@pytest.mark.parametrize("column", ["in_age", "in_pixels", "in_tokens", "in_grid"])
def test_buckets_of_numbers(column: str) -> None:
    bounds = (1.0, 3.0, 10.0, 65.0)
    redactor, batch = redacted(Redaction(column, "bucket", bounds))
    expected = [of_elements(value, lambda one: lower(float(one), bounds)) for value in rows()[column].to_pylist()]
    assert same(batch[column].to_pylist(), expected)
    [tensor] = [tensor for tensor in redactor.tensors if tensor.column == column]
    assert tensor.datatype == "FP64"


@pytest.mark.parametrize("column", ["in_age", "in_pixels", "in_tokens", "in_grid", "out_flag", "unit"])
@pytest.mark.parametrize("action", ["drop", "mask"])
def test_numbers_become_null(column: str, action: Action) -> None:
    _, batch = redacted(Redaction(column, action))
    assert batch[column].null_count == len(batch)
    assert batch[column].type == rows()[column].type


def test_tags_keep_their_names() -> None:
    assert redacted(Redaction("tags", "mask"))[1]["tags"].to_pylist() == [b"who\0***\0where\0***\0"] * 2 + [None] * 2 + [b"who\0***\0"] * 2
    ada = hashed(b"Ada")
    tags = redacted(Redaction("tags", "hash"))[1]["tags"].to_pylist()
    assert tags == [b"who\0" + ada + b"\0where\0" + hashed(b"") + b"\0"] * 2 + [None] * 2 + [b"who\0" + ada + b"\0"] * 2
    assert redacted(Redaction("tags", "drop"))[1]["tags"].to_pylist() == [None] * 6


def test_trace_ids() -> None:
    trace = b"0af7651916cd43dd8448eb211c80319c"
    assert redacted(Redaction("trace_id", "hash"))[1]["trace_id"].to_pylist() == [hashed(trace).decode()] * 2 + [None] * 4
    assert redacted(Redaction("trace_id", "mask"))[1]["trace_id"].to_pylist() == ["***"] * 2 + [None] * 4


def test_redacted_rows_become_the_table_like_any_other() -> None:
    redactions = (
        Redaction("tags", "hash"), Redaction("in_pixels", "bucket", (2.0,)), Redaction("in_texts", "mask"), Redaction("in_age", "drop"))
    redactor, batch = redacted(*redactions)
    header = StreamHeader(table="records", replica="r", epoch=1, journal=1, model="m", version="1", tensors=redactor.tensors)
    table = to_table([batch], header)
    table.validate(full=True)
    assert dict(table["tags"].to_pylist()[0])["who"] == hashed(b"Ada").decode()
    assert table["in_pixels"].to_pylist()[:2] == [[-math.inf, -math.inf, 2.0], [2.0] * 3]


def test_nothing_to_redact_is_nothing_done() -> None:
    assert not Redactor(RecordStreamSpec("m", "1", "sha256:00", TENSORS), no_key).is_needed


def no_key() -> bytes:
    raise AssertionError("no key is needed")


@pytest.mark.parametrize(("redaction", "message"), [
    (Redaction("request_id", "hash"), "request_id cannot be redacted: it is what labels find their rows by"),
    (Redaction("seq", "drop"), "redact names 'seq', which is not recorded or cannot be redacted"),
    (Redaction("in_nothing", "drop"), "redact names 'in_nothing'.*what can is tags, trace_id, unit, in_age"),
    (Redaction("in_age", "hash"), "'in_age' cannot be redacted by hash; use drop or mask or bucket"),
    (Redaction("in_name", "bucket", (1.0,)), "'in_name' cannot be redacted by bucket; use drop or mask or hash"),
    (Redaction("out_flag", "bucket", (1.0,)), "'out_flag' cannot be redacted by bucket; use drop or mask"),
    (Redaction("unit", "hash"), "'unit' cannot be redacted by hash; use drop or mask"),
    (Redaction("tags", "bucket", (1.0,)), "'tags' cannot be redacted by bucket"),
])
def test_what_cannot_be_done_is_refused(redaction: Redaction, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        redacted(redaction)


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.sets(FINITE, min_size=1, max_size=6))
def test_buckets_are_those_of_the_bounds(values: list[float], bounds: set[float]) -> None:
    tensor = RecordedTensor("in", "x", "FP32", (), 0)
    ascending = tuple(sorted(bounds))
    columns = RecordColumns((tensor,))
    add_for_test(columns, Record(len(values), [Part(np.array(values, np.float32).tobytes())]).pack())
    stream = RecordStreamSpec("m", "1", "", (tensor,), RecordingSpec(redact=(Redaction("in_x", "bucket", ascending),)))
    batch = Redactor(stream, no_key).apply(batch_of((tensor,), columns))
    for found, value in zip(batch["in_x"].to_pylist(), values, strict=True):
        expected = lower(value, ascending)
        assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_the_key_is_made_once_and_is_nobody_else_s(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key = redaction_key(tmp_path)
    finally:
        os.umask(before)
    path = tmp_path / "redaction.key"
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert redaction_key(tmp_path) == key
    assert redaction_key_of(tmp_path / "other") != key
    path.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="has 5 bytes instead of 32: put back the one that was there"):
        redaction_key(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be had: No such file or directory; give a writable --state-dir"):
        redaction_key(tmp_path / "nowhere")


def redaction_key_of(home: Path) -> bytes:
    home.mkdir()
    return redaction_key(home)
