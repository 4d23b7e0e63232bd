"""Records become Arrow batches: the kernel against the oracle in tests/core/records.py, and what a record that lies may do (nothing)."""

import gc
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core.record_columns import RecordColumns, add_for_test
from serve._core.tensors import KINDS
from serve.errors import InvalidArgument
from serve.recording.arrow_schema import ELEMENTS, journal_schema
from serve.recording.columns import batch_of
from serve.records import RecordedTensor
from tests.core.records import DTYPES, HEADER, PART, Part, Record, framed

SHAPES = [(), (1,), (1, 1), (3,), (2, 5), (-1,), (2, -1), (-1, -1), (0,), (3, 0), (-1, 0)]
VECTOR = RecordedTensor("in", "x", "FP32", (4,), 0)
TEXT = RecordedTensor("in", "words", "BYTES", (-1,), 0)


def tensor(datatype: str, shape: tuple[int, ...], name: str = "x") -> RecordedTensor:
    return RecordedTensor("in", name, datatype, shape, 0)


def make_part(spec: RecordedTensor, rows: int, rng: np.random.Generator) -> Part:
    """Random values; a row's dynamic dimensions are drawn, and dims are said only where there are some, as the contract has it."""
    is_dynamic = any(size < 0 for size in spec.shape)
    dims = tuple(int(rng.integers(0, 5)) if size < 0 else size for size in spec.shape)
    n = rows * int(np.prod(dims, dtype=np.int64))
    if spec.datatype == "BYTES":
        data = framed([rng.bytes(int(rng.integers(0, 20))) for _ in range(n)])
    elif spec.datatype == "BF16":
        data = (rng.normal(size=n).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    elif spec.datatype.startswith("FP"):
        data = rng.normal(size=n).astype(DTYPES[spec.datatype]).tobytes()
    elif spec.datatype == "BOOL":
        data = rng.choice(np.array([0, 0, 1, 2, 255], np.uint8), size=n).tobytes()
    else:
        data = rng.bytes(n * np.dtype(DTYPES[spec.datatype]).itemsize)
    return Part(data, dims if is_dynamic else ())


def vector_record(rows: int = 1, **fields: Any) -> Record:
    return Record(rows=rows, parts=[Part(np.arange(4 * rows, dtype=np.float32).tobytes())], **fields)


def recorded(tensors: tuple[RecordedTensor, ...], records: list[Record], max_rows: int = 8192) -> pa.RecordBatch:
    columns = RecordColumns(tensors, max_rows)
    for record in records:
        assert add_for_test(columns, record.pack())[0] == max(record.rows, 1)
    batch = batch_of(tensors, columns)
    batch.validate(full=True)
    assert batch.schema.equals(journal_schema(tensors))
    assert columns.n_rows == 0
    return batch


def expected(tensors: tuple[RecordedTensor, ...], records: list[Record]) -> list[dict[str, Any]]:
    return [row for record in records for row in record.expected(tensors)]


# --- values -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("datatype", ELEMENTS)
def test_every_datatype_in_every_shape(datatype: str, shape: tuple[int, ...]) -> None:
    """With failed requests and left-out tensors between them, over several growths of every buffer."""
    tensors = (tensor(datatype, shape), tensor("INT16", (), "after"))
    rng = np.random.default_rng(1)
    records = []
    for number, rows in enumerate([1, 3, 1, 0, 1, 2, 70, 1, 0, 0, 9, 1, 250, 1]):
        parts = [make_part(one, rows, rng) for one in tensors] if rows else []
        if number in {4, 10}:
            parts[0] = Part(None)
        records.append(Record(rows=rows, parts=parts, seq=1000 * number))
    assert recorded(tensors, records).to_pylist() == expected(tensors, records)


def test_columns_of_a_request() -> None:
    record = vector_record(
        2, seq=40, unit=2**64 - 1, trace_id=b"ab" * 16, tags=b"country\0de\0empty\0\0", request_id="größe".encode(), variant=b"canary",
        protocol=1, status=201, queue_us=2**31 - 1,
    )
    first, second = recorded((VECTOR,), [record]).to_pylist()
    assert first == {
        "ts_ns": record.ts_ns, "seq": 40, "batch_id": 7, "row": 0, "request_id": "größe", "variant": "canary", "trace_id": "ab" * 16,
        "protocol": 1, "status": 201, "error": 0, "generation": 3, "unit": 2**64 - 1, "queue_us": 2**31 - 1, "compute_us": 200,
        "total_us": 230, "tags": b"country\0de\0empty\0\0", "in_x": [0, 1, 2, 3],
    }
    assert second == {**first, "seq": 41, "row": 1, "in_x": [4, 5, 6, 7]}


def test_times_that_no_column_holds_become_the_largest() -> None:
    (row,) = recorded((VECTOR,), [vector_record(queue_us=2**32 - 1)]).to_pylist()
    assert row["queue_us"] == 2**31 - 1


def test_failed_request_is_one_row_without_tensors() -> None:
    failed = Record(rows=0, status=503, error=KINDS["UNAVAILABLE"], batch_id=0, seq=5)
    (row,) = recorded((VECTOR, TEXT), [failed]).to_pylist()
    assert (row["row"], row["seq"], row["status"], row["error"], row["in_x"], row["in_words"]) == (-1, 5, 503, 10, None, None)


def test_nothing_is_null_and_there_are_no_bitmaps() -> None:
    columns = RecordColumns((VECTOR,))
    add_for_test(columns, vector_record(unit=1, trace_id=b"0" * 32, tags=b"a\0b\0").pack(), 100)
    assert [(nulls, buffers[0]) for nulls, buffers in columns.take()] == [(0, None)] * 17


def test_empty_columns_make_an_empty_batch() -> None:
    tensors = tuple(tensor(datatype, shape, f"{datatype}{shape}") for datatype in ELEMENTS for shape in SHAPES)
    batch = recorded(tensors[:200], [])
    assert batch.num_rows == 0


optional_text = st.sampled_from([b"", b"0123456789abcdef" * 2])


@st.composite
def streams(draw: st.DrawFn) -> tuple[tuple[RecordedTensor, ...], list[Record]]:
    tensors = tuple(
        tensor(draw(st.sampled_from(list(ELEMENTS))), draw(st.sampled_from(SHAPES)), str(number))
        for number in range(draw(st.integers(0, 4)))
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    records = []
    for _ in range(draw(st.integers(0, 20))):
        rows = draw(st.sampled_from([0, 1, 1, 1, 2, 7, 8, 9, 33]))
        parts = [make_part(one, rows, rng) if draw(st.integers(0, 4)) else Part(None) for one in tensors] if rows else []
        records.append(Record(
            rows=rows, parts=parts, seq=draw(st.integers(0, 2**62)), unit=draw(st.none() | st.integers(0, 2**64 - 1)),
            trace_id=draw(optional_text), tags=draw(optional_text), request_id=draw(st.text(max_size=40)).encode(),
            status=draw(st.integers(-(2**15), 2**15 - 1)), error=draw(st.integers(0, 11)), ts_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        ))
    return tensors, records


@settings(max_examples=200, deadline=None)
@given(streams(), st.integers(1, 3))
def test_round_trip(stream: tuple[tuple[RecordedTensor, ...], list[Record]], n_batches: int) -> None:
    """The same records, over and over: what a batch leaves behind never shows in the next."""
    tensors, records = stream
    columns = RecordColumns(tensors)
    for _ in range(n_batches):
        for record in records:
            add_for_test(columns, record.pack())
        batch = batch_of(tensors, columns)
        batch.validate(full=True)
        assert batch.to_pylist() == expected(tensors, records)


# --- room ---------------------------------------------------------------------------------------------------------------

def test_full_columns_take_no_more_until_they_are_taken() -> None:
    columns = RecordColumns((VECTOR,), 10)
    assert [add_for_test(columns, vector_record(4).pack())[0] for _ in range(3)] == [4, 4, 0]
    assert columns.n_rows == 8
    assert add_for_test(columns, vector_record(2).pack())[0] == 2
    assert add_for_test(columns, Record(rows=0).pack())[0] == 0
    assert batch_of((VECTOR,), columns).num_rows == 10
    assert add_for_test(columns, vector_record(4).pack())[0] == 4


def test_record_larger_than_a_batch_fits_into_empty_columns() -> None:
    columns = RecordColumns((VECTOR,), 10)
    large = vector_record(1000)
    assert add_for_test(columns, large.pack())[0] == 1000
    assert add_for_test(columns, vector_record().pack())[0] == 0
    assert batch_of((VECTOR,), columns).to_pylist() == large.expected((VECTOR,))


@pytest.mark.parametrize("record", [
    Record(parts=[Part(framed([bytes(12 << 20)]), (1,))]),
    Record(rows=1000, parts=[Part(framed([b""] * 1000), (1,))], tags=b"t\0" + b"v" * 12_000 + b"\0"),
], ids=["tensors", "texts that every row repeats"])
def test_batches_are_bounded_by_bytes(record: Record) -> None:
    columns = RecordColumns((TEXT,))
    added = [add_for_test(columns, record.pack())[0] for _ in range(3)]
    assert added == [record.rows, record.rows, 0]
    assert add_for_test(columns, Record(rows=0).pack())[0] == 1


def test_rows_of_large_tensors_are_few_whether_they_failed_or_not() -> None:
    """A failed row takes as much memory as any other."""
    columns = RecordColumns((tensor("FP32", (1 << 20,)),))
    good = Record(parts=[Part(bytes(4 << 20))]).pack()
    failed = Record(rows=0).pack()
    assert [add_for_test(columns, one)[0] for one in [good, failed, failed, good, failed, failed, failed, good]] == [1] * 7 + [0]
    assert columns.take()[-1][0] == 5
    assert add_for_test(columns, good)[0] == 1


def test_batch_outlives_its_columns_and_what_they_do_next() -> None:
    columns = RecordColumns((VECTOR, TEXT))
    records = [Record(parts=[Part(np.full(4, number, np.float32).tobytes()), Part(framed([b"%d" % number]), (1,))]) for number in range(3)]
    batches = []
    for record in records:
        add_for_test(columns, record.pack(), 50)
        batches.append(batch_of((VECTOR, TEXT), columns))
    del columns
    gc.collect()
    for batch, record in zip(batches, records, strict=True):
        assert [{**row, "seq": 0} for row in batch.to_pylist()] == 50 * record.expected((VECTOR, TEXT))


def test_memory_of_a_batch_comes_back() -> None:
    """From whatever thread: the next batch is written where the last but one was."""
    columns = RecordColumns((VECTOR,))
    batches: list[pa.RecordBatch] = []
    addresses = []
    for _ in range(4):
        add_for_test(columns, vector_record().pack(), 5000)
        batches.append(batch_of((VECTOR,), columns))
        addresses.append(batches[0]["in_x"].buffers()[-1].address)
        thread = threading.Thread(target=batches.clear)
        thread.start()
        thread.join()
    assert addresses == [addresses[0]] * 4


def test_a_burst_does_not_hold_its_memory_for_ever() -> None:
    """A spare over four times what is needed is let go: batches of one row come to lie in blocks of their own size."""
    columns = RecordColumns((VECTOR,))
    add_for_test(columns, vector_record(8000).pack())
    burst = batch_of((VECTOR,), columns)
    address, size = burst["in_x"].buffers()[-1].address, burst["in_x"].buffers()[-1].size
    del burst
    for _ in range(40):
        add_for_test(columns, vector_record().pack())
        last = batch_of((VECTOR,), columns)["in_x"].buffers()[-1].address
    assert not address <= last < address + size


# --- records that lie ---------------------------------------------------------------------------------------------------

def check_layout(batch: pa.RecordBatch) -> None:
    """Every offset and length is sound; a lie may have made text of what is none."""
    for column in batch.columns:
        (column.view(pa.binary()) if column.type == pa.string() else column).validate(full=True)


def mixed() -> tuple[tuple[RecordedTensor, ...], Record]:
    tensors = (VECTOR, TEXT, tensor("INT32", (-1, -1), "shaped"), tensor("BYTES", (2,), "pair"), tensor("BOOL", (9,), "flags"))
    rng = np.random.default_rng(3)
    return tensors, Record(rows=3, parts=[make_part(one, 3, rng) for one in tensors], trace_id=b"a" * 32, tags=b"t\0v\0", seq=9)


def test_record_that_ends_anywhere_is_a_failed_row() -> None:
    """The bytes end where the header says: with sanitizers, reading one more ends the test."""
    tensors, record = mixed()
    whole = record.pack()
    columns = RecordColumns(tensors)
    for length in range(HEADER.size, len(whole)):
        assert add_for_test(columns, record.pack(length=length)[:length])[0] == 1
    assert columns.n_malformed == columns.n_rows == len(whole) - HEADER.size
    for row in batch_of(tensors, columns).to_pylist():
        assert (row["row"], row["seq"], row["error"]) == (-1, 9, KINDS["INTERNAL"])
        assert [row[one.column] for one in tensors] == [None] * 5
    assert add_for_test(columns, whole)[0] == 3


@pytest.mark.parametrize("lies", [
    {"rows": -1}, {"rows": 2**31 - 1}, {"rows": (1 << 20) + 1}, {"length": 0}, {"length": 40}, {"id_length": 65535}, {"tags_length": 65535},
], ids=str)
def test_header_that_lies_is_a_failed_row(lies: dict[str, int]) -> None:
    columns = RecordColumns((VECTOR,))
    assert add_for_test(columns, vector_record(seq=3).pack(**lies))[0] == 1
    (row,) = batch_of((VECTOR,), columns).to_pylist()
    assert (row["row"], row["seq"], row["in_x"], row["error"]) == (-1, 3, None, KINDS["INTERNAL"])
    assert columns.n_malformed == 1


def test_rows_that_would_take_more_than_any_record_has_are_a_failed_row() -> None:
    spec = tensor("FP32", (1 << 14,))
    columns = RecordColumns((spec,))
    assert add_for_test(columns, Record(parts=[Part(bytes(1 << 16))]).pack(rows=1 << 20))[0] == 1
    assert batch_of((spec,), columns)["row"].to_pylist() == [-1]


def test_lie_keeps_the_error_that_the_request_had() -> None:
    columns = RecordColumns((VECTOR,))
    add_for_test(columns, vector_record(error=KINDS["DEADLINE_EXCEEDED"]).pack(rows=-5))
    assert batch_of((VECTOR,), columns)["error"].to_pylist() == [KINDS["DEADLINE_EXCEEDED"]]


@pytest.mark.parametrize(("spec", "part"), [
    (VECTOR, Part(bytes(15))), (VECTOR, Part(bytes(32))), (VECTOR, Part(b"")),
    (tensor("FP64", (-1,)), Part(bytes(16), (3,))), (tensor("FP64", (-1,)), Part(bytes(16), (-2,))),
    (tensor("FP64", (-1,)), Part(bytes(16), (2, 1))), (tensor("FP64", (-1, 2)), Part(bytes(16), (1, 1))),
    (tensor("UINT8", (-1, -1)), Part(b"", (2**31, 0))), (tensor("UINT8", (-1, -1)), Part(bytes(8), (2**16, 2**16))),
    (tensor("UINT8", (-1, -1)), Part(bytes(8), (2**62, 2**62))),
    (TEXT, Part(framed([b"abc"]), (2,))), (TEXT, Part(framed([b"a", b"b"]), (1,))), (TEXT, Part(b"\5\0\0\0abcd", (1,))),
    (TEXT, Part(b"\xff\xff\xff\xffabcd", (1,))), (TEXT, Part(b"\1\0", (1,))), (TEXT, Part(b"", (1,))), (TEXT, Part(b"x", (0,))),
], ids=repr)
def test_tensor_that_is_not_what_the_stream_says_is_null(spec: RecordedTensor, part: Part) -> None:
    """The rest of the record stands."""
    after = tensor("INT8", (), "after")
    columns = RecordColumns((spec, after))
    record = Record(parts=[part, Part(b"\7")])
    assert add_for_test(columns, record.pack())[0] == 1
    (row,) = batch_of((spec, after), columns).to_pylist()
    assert (row["row"], row[spec.column], row["in_after"], columns.n_malformed) == (0, None, 7, 1)


@pytest.mark.parametrize(("nbytes", "n_dims"), [
    (2**64 - 1, 1), (2**64 - 8, 1), (2**63, 1), (1000, 1), (8, -1), (8, 17), (8, 2**31 - 1), (8, 16),
])
def test_part_that_runs_out_of_the_record_is_a_failed_row(nbytes: int, n_dims: int) -> None:
    spec = tensor("FP64", (-1,))
    honest = Record(parts=[Part(bytes(8), (1,))]).pack()
    at = len(honest) - 8 - 8 - PART.size
    columns = RecordColumns((spec,))
    assert add_for_test(columns, honest[:at] + PART.pack(nbytes, 0, n_dims) + honest[at + PART.size :])[0] == 1
    assert batch_of((spec,), columns)["row"].to_pylist() == [-1]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(4, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_never_make_an_unsound_batch(flips: list[tuple[int, int]]) -> None:
    """Anything but the length, which the ring answers for. Rows may become so many that they do not fit beside the others."""
    tensors, record = mixed()
    columns = RecordColumns(tensors)
    add_for_test(columns, record.pack())
    flipped = bytearray(record.pack())
    for at, value in flips:
        flipped[4 + at % (len(flipped) - 4)] = value
    assert add_for_test(columns, bytes(flipped))[0] >= 0
    assert add_for_test(columns, record.pack())[0] in {0, 3}
    batch = batch_of(tensors, columns)
    check_layout(batch)
    assert batch.slice(0, 3).to_pylist() == record.expected(tensors)


def test_refused_record_is_counted_once() -> None:
    columns = RecordColumns((VECTOR,), 1)
    add_for_test(columns, vector_record().pack())
    lie = vector_record().pack(rows=-1)
    assert [add_for_test(columns, lie)[0] for _ in range(3)] == [0, 0, 0]
    assert columns.n_malformed == 0
    columns.take()
    assert add_for_test(columns, lie)[0] == 1
    assert columns.n_malformed == 1


def test_columns_are_full_when_a_record_did_not_fit() -> None:
    """By rows, or by bytes: of 40 records of 1 MiB, 31 fit into 32 MiB."""
    columns = RecordColumns((VECTOR,), 2)
    added = [(add_for_test(columns, vector_record().pack())[0], columns.is_full) for _ in range(3)]
    assert added == [(1, False), (1, False), (0, True)]
    columns.take()
    assert not columns.is_full
    large = tensor("UINT8", (-1,))
    columns, record = RecordColumns((large,)), Record(parts=[Part(bytes(1 << 20), (1 << 20,))]).pack()
    assert [add_for_test(columns, record)[0] for _ in range(40)] == [1] * 31 + [0] * 9
    assert columns.is_full
    columns.take()
    assert (add_for_test(columns, record)[0], columns.is_full) == (1, False)


def test_trimmed_columns_hold_no_memory_for_the_next_rows() -> None:
    tensors, record = mixed()
    columns = RecordColumns(tensors)
    assert columns.trim() == 0
    for _ in range(300):
        add_for_test(columns, record.pack())
    batch = batch_of(tensors, columns)
    assert columns.trim() == 0, "the batch has it"
    rows = batch.to_pylist()
    del batch
    gc.collect()
    held = columns.trim()
    assert held > 300 * len(record.pack())
    assert columns.trim() == 0
    add_for_test(columns, record.pack())
    batch = batch_of(tensors, columns)
    check_layout(batch)
    assert batch.to_pylist() == record.expected(tensors) == rows[:3]
    del batch
    gc.collect()
    assert 0 < columns.trim() < held // 10, "what comes after a long pause begins small"


@pytest.mark.parametrize(("tensors", "max_rows", "says"), [
    ((tensor("FP32", (-1,)),), 0, "batches of 0 rows"),
    ((tensor("STRING", ()),), 10, "'STRING' is no datatype"),
    ((tensor("FP32", (1,) * 17),), 10, "17 dimensions; at most 16"),
    ((tensor("UINT8", (2**16, 2**16)),), 10, "too large to be recorded"),
    ((tensor("FP64", (2**62, 2**62, 4)),), 10, "too large to be recorded"),
])
def test_columns_that_cannot_be(tensors: tuple[RecordedTensor, ...], max_rows: int, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        RecordColumns(tensors, max_rows)
