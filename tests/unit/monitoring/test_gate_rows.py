"""Rows to be replayed: every form of a column that an input takes, what is left out, and batches of equal shapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigurationError
from serve.monitoring.arrow_rows import column_of
from serve.monitoring.gate_files import read_labelled
from serve.monitoring.replay_rows import ReplayRows, input_column, replay_rows
from serve.types import TensorSpec

X = TensorSpec("x", "FP32", (-1, 3))
WORD = TensorSpec("word", "BYTES", (-1, 1))


def told(column: Any) -> list[Any]:
    return [None if row is None else np.asarray(row).tolist() for row in column]


# --- values as inputs ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("datatype", "shape", "values", "expected"), [
    ("FP32", (3,), np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
    ("FP32", (1,), np.array([1.5, 2.5]), [[1.5], [2.5]]),
    ("FP32", (), np.array([1.5, 2.5]), [1.5, 2.5]),
    ("INT64", (), np.array([1.0, 2.0]), [1, 2]),
    ("UINT8", (2, 2), np.arange(8).reshape(2, 4), [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
    ("BOOL", (), np.array([True, False]), [True, False]),
    ("BYTES", (1,), np.array(["a", "é"], object), [[b"a"], ["é".encode()]]),
    ("BF16", (), np.array([1.0, -2.0], np.float32), [0x3F80, 0xC000]),
    ("FP32", (-1,), [np.array([1.0]), np.array([1.0, 2.0])], [[1], [1, 2]]),
    ("INT64", (-1, 2), [np.arange(4), np.arange(2)], [[[0, 1], [2, 3]], [[0, 1]]]),
    ("FP64", (-1, -1), [np.ones((2, 3)), np.ones((1, 1))], [[[1, 1, 1], [1, 1, 1]], [[1]]]),
])
def test_values_in_the_datatype_and_shape_of_an_input(datatype: str, shape: tuple[int, ...], values: Any, expected: list[Any]) -> None:
    assert told(input_column(TensorSpec("x", datatype, (-1, *shape)), True, [values])) == expected


@pytest.mark.parametrize(("datatype", "shape", "values", "expected"), [
    ("UINT8", (), np.array([1, 256, -1]), [1, None, None]),
    ("INT64", (), np.array([1.5, 2.0, np.nan]), [None, 2, None]),
    ("FP32", (2,), [np.arange(2), np.arange(3), None], [[0, 1], None, None]),
    ("FP32", (), np.array(["a", "b"], object), [None, None]),
    ("BYTES", (), np.array([1, 2]), [None, None]),
    ("FP64", (-1, -1), [np.ones(3)], [None]),
])
def test_a_value_that_does_not_fit_is_missing(datatype: str, shape: tuple[int, ...], values: Any, expected: list[Any]) -> None:
    assert told(input_column(TensorSpec("x", datatype, (-1, *shape)), True, [values])) == expected


def test_rows_with_a_missing_value_are_left_out_and_counted() -> None:
    found = replay_rows(
        [X, WORD], True, {"x": [np.ones(3), None, np.ones(3)], "w": np.array(["a", "b", "c"], object)}, {"x": ["x"], "word": ["w"]},
        ["p", "q", "r"], {"y": np.arange(3)}, ["d1", "d2", "d3"], "here")
    assert (found.n, found.n_skipped, found.source) == (2, 1, "here")
    assert (list(found.labels), list(found.digests), told(found.recorded["y"])) == (["p", "r"], ["d1", "d3"], [0, 2])
    batch = found.batch([1, 0], True)
    assert {name: value.shape for name, value in batch.items()} == {"x": (2, 3), "word": (2, 1)}
    assert batch["word"].tolist() == [[b"c"], [b"a"]]


def test_rows_of_which_none_fits_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"2 rows .* fit the inputs x FP32\[-1, 3\]: x is given 4 values a row and wants 3"):
        replay_rows([X], True, {"x": np.ones((2, 4))}, {"x": ["x"]})
    with pytest.raises(ConfigurationError, match=r"x is given 1 value a row and wants 3$"):
        replay_rows([X], True, {"x_0": [None, np.float32(1)]}, {"x": ["x_0"]})
    with pytest.raises(ConfigurationError, match=r"fit the inputs x FP32\[-1, 3\]$"):
        replay_rows([X], True, {"x": np.full((2, 3), "a", object)}, {"x": ["x"]})


@given(st.lists(st.integers(1, 3), min_size=1, max_size=40), st.integers(1, 5))
def test_batches_have_rows_of_one_shape_and_each_row_once(widths: list[int], size: int) -> None:
    rows = ReplayRows(len(widths), {"x": [np.zeros(width) for width in widths], "y": np.zeros(len(widths))})
    batches = list(rows.batches(size))
    assert sorted(row for batch in batches for row in batch) == list(range(len(widths)))
    assert all(len({widths[row] for row in batch}) == 1 and len(batch) <= size for batch in batches)
    assert all(rows.batch(batch, True)["x"].shape == (len(batch), widths[batch[0]]) for batch in batches)


def test_a_request_of_an_unbatched_model_is_a_row() -> None:
    rows = ReplayRows(2, {"x": np.arange(6).reshape(2, 3)})
    assert rows.batch([1], False)["x"].tolist() == [3, 4, 5]


# --- Arrow --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("array", "expected"), [
    (pa.array([1, 2]), [1, 2]),
    (pa.array([1, None]), [1, None]),
    (pa.array(["a", "b"]), ["a", "b"]),
    (pa.array([b"a", None]), [b"a", None]),
    (pa.array([True, False]), [True, False]),
    (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    (pa.array([[1.0, 2.0], [3.0]]), [[1, 2], [3]]),
    (pa.array([[1.0, 2.0], None]), [[1, 2], None]),
    (pa.array([[1.0, None], [2.0, 3.0]]), [None, [2, 3]]),
    (pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)), [[1, 2], [3, 4]]),
    (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), [[1, 2], None]),
    (pa.array([[[1, 2]], [[3, 4]]]), [[[1, 2]], [[3, 4]]]),
    (pa.array([{"data": [1.0, 2.0], "shape": [2, 1]}, None]), [[[1], [2]], None]),
    (pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8).reshape(2, 2, 2)), [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
])
def test_columns_of_arrow(array: pa.Array, expected: list[Any]) -> None:
    assert told(column_of(pa.chunked_array([array]))) == expected
    halves = pa.chunked_array([array.slice(0, 1), array.slice(1)])
    assert told(column_of(halves)) == expected
    assert len(column_of(pa.chunked_array([], array.type))) == 0


def test_a_type_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a column of type timestamp"):
        column_of(pa.chunked_array([pa.array([1], pa.timestamp("ns"))]))


# --- files --------------------------------------------------------------------------------------------------------------

def labelled(path: Path, *specs: TensorSpec, label: str = "y", n_rows: int = 100, **named: str) -> ReplayRows:
    return read_labelled(path, label, specs or [X], True, named, n_rows)


def test_csv_with_a_column_an_element(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 4], "b": [2, 5], "c": [3, 6], "y": ["cat", "dog"]})
    pa_csv.write_csv(table, tmp_path / "rows.csv")
    found = labelled(tmp_path / "rows.csv")
    assert (told(found.inputs["x"]), list(found.labels)) == ([[1, 2, 3], [4, 5, 6]], ["cat", "dog"])
    numbered = table.rename_columns(["x_0", "x_1", "x_2", "y"]).append_column("id", pa.array([8, 9]))
    pa_csv.write_csv(numbered, tmp_path / "numbered.csv")
    assert told(labelled(tmp_path / "numbered.csv").inputs["x"]) == [[1, 2, 3], [4, 5, 6]]


def test_parquet_with_columns_by_name(tmp_path: Path) -> None:
    table = pa.table({"in_x": [[1.0, 2, 3], [4.0, 5, 6], [7.0, 8, 9]], "text": ["a", None, "c"], "y": [0, 1, None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = labelled(tmp_path / "rows.parquet", X, WORD, word="text")
    assert (found.n, found.n_skipped, list(found.labels)) == (2, 1, [0, None])
    assert told(found.inputs["word"]) == [[b"a"], [b"c"]]


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", images=np.arange(12.0).reshape(4, 3), y=np.arange(4))
    found = labelled(tmp_path / "rows.npz")
    assert (told(found.inputs["x"])[3], list(found.labels)) == ([9, 10, 11], [0, 1, 2, 3])
    assert list(labelled(tmp_path / "rows.npz", label="", x="images").labels) == []


def test_labels_of_an_npz_may_be_a_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.ones((2, 3)), y=np.array([[3], [4]]))
    assert list(labelled(tmp_path / "rows.npz").labels) == [3, 4]
    np.savez(tmp_path / "rows.npz", x=np.ones((2, 3)), y=np.eye(2))
    with pytest.raises(ConfigurationError, match=r"'y' has shape \[2, 2\]; want one label a row"):
        labelled(tmp_path / "rows.npz")


def test_the_same_rows_are_drawn_each_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.arange(300.0).reshape(100, 3), y=np.arange(100))
    found = labelled(tmp_path / "rows.npz", n_rows=10)
    assert found.n == 10
    assert list(found.labels) == list(labelled(tmp_path / "rows.npz", n_rows=10).labels)
    assert list(found.labels) != list(range(10))


@pytest.mark.parametrize(("columns", "given_", "text"), [
    ({"x": np.ones((2, 3))}, {"label": "y"}, "has no column 'y' for --label; it has x"),
    ({"a": np.ones(2), "b": np.ones(2), "y": np.ones(2)}, {}, "no column is for input 'x' of shape [-1, 3]; there are a, b"),
    ({"x": np.ones((2, 3)), "y": np.ones(3)}, {}, "columns of 2, 3 rows; want as many rows in each"),
    ({"x": np.ones((2, 3)), "y": np.ones(2)}, {"z": "x"}, "--column z=...: the model's inputs are x"),
])
def test_what_does_not_fit_the_model_is_said(tmp_path: Path, columns: dict[str, Any], given_: dict[str, str], text: str) -> None:
    np.savez(tmp_path / "rows.npz", **columns)
    with pytest.raises(ConfigurationError) as raised:
        labelled(tmp_path / "rows.npz", **given_)
    assert text in str(raised.value)


@pytest.mark.parametrize("name", ["rows.txt", "absent.npz", "broken.npz", "broken.parquet", "broken.csv"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"\xff\xfe,\n1")
    with pytest.raises(ConfigurationError) as raised:
        labelled(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
