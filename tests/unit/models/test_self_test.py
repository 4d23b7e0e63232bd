"""Self-tests: what a case says, what passes it, and what is told when it fails."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from serve.client.tensors import Array
from serve.errors import InternalError
from serve.models.self_test import Case, SelfTestFailed, check_answer, check_cases, read_cases, schema_change
from serve.types import TensorSpec

X = TensorSpec("x", "FP32", (-1, 2))
Y = TensorSpec("y", "FP32", (-1, 2))
T = TensorSpec("t", "BYTES", (-1,))


def double(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    return {"y": inputs["x"] * 2}


def test_no_folder_is_no_case(tmp_path: Path) -> None:
    assert read_cases(tmp_path / "tests", [X], [Y]) == []


def test_cases_in_json_and_npz(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"inputs": {"x": [[1, 2]]}, "outputs": {"y": [[2, 4]]}, "atol": 0.5}))
    np.savez(tmp_path / "b.npz", **{"input.x": np.ones((1, 2), np.float32), "output.y": np.full((1, 2), 2, np.float32), "rtol": 0.1})
    (tmp_path / "notes.txt").write_text("not a case")
    first, second = read_cases(tmp_path, [X], [Y])
    assert (first.name, first.atol, first.rtol) == ("a.json", 0.5, 1e-3)
    assert first.inputs["x"].dtype == np.float32
    assert (second.name, second.rtol) == ("b.npz", 0.1)
    check_cases([first, second], double)


@pytest.mark.parametrize(("content", "why"), [
    ("{", "Expecting property name"),
    ('{"inputs": {"x": [[1, 2]]}}', 'want an object with "inputs"'),
    ('{"inputs": {"z": [[1, 2]]}, "outputs": {}}', "no input or output 'z'"),
    ('{"inputs": {"x": [["a", "b"]]}, "outputs": {}}', "no FP32"),
    ('{"inputs": {}, "outputs": {}, "tolerance": 1}', "want an object"),
])
def test_a_case_that_cannot_be_read_is_said(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SelfTestFailed, match=why) as caught:
        read_cases(tmp_path, [X], [Y])
    assert "a.json" in str(caught.value)


def test_what_differs_is_said_with_its_place() -> None:
    case = Case("a.json", {"x": np.array([[1, 2]], np.float32)}, {"y": np.array([[2, 5]], np.float32)})
    with pytest.raises(SelfTestFailed, match=r"a.json: output 'y' differs in 1 of 2 values, first at 1: .*4.*expected .*5"):
        check_cases([case], double)
    shape = Case("b.json", case.inputs, {"y": np.array([[2, 4, 6]], np.float32)})
    with pytest.raises(SelfTestFailed, match=r"shape \[1, 2\]; expected \[1, 3\]"):
        check_cases([shape], double)


def test_a_case_that_does_not_run_fails() -> None:
    def refuse(_: Mapping[str, Array]) -> Mapping[str, Array]:
        raise InternalError("index out of range")

    with pytest.raises(SelfTestFailed, match=r"a.json failed to run: index out of range"):
        check_cases([Case("a.json", {}, {})], refuse)


def test_text_is_compared_exactly() -> None:
    case = Case("a.json", {}, {"t": np.array(["yes", "no"], dtype=object)})
    check_cases([case], lambda _: {"t": np.array([b"yes", b"no"], dtype=object)})
    with pytest.raises(SelfTestFailed, match="first at 1"):
        check_cases([case], lambda _: {"t": np.array([b"yes", b"No"], dtype=object)})


def test_nan_where_nan_is_expected() -> None:
    nan = np.array([[np.nan, 1]], np.float32)
    check_cases([Case("a", {"x": nan}, {"y": nan})], lambda inputs: {"y": inputs["x"]})


def test_a_made_up_answer_has_the_declared_rank_and_is_finite() -> None:
    check_answer({"y": np.zeros((1, 2), np.float32), "t": np.array([b""], dtype=object)}, [Y, T])
    with pytest.raises(SelfTestFailed, match="rank 1; declared is 2"):
        check_answer({"y": np.zeros(2, np.float32)}, [Y])
    with pytest.raises(SelfTestFailed, match="not finite"):
        check_answer({"y": np.array([[np.inf, 0]], np.float32)}, [Y])
    with pytest.raises(SelfTestFailed, match="no output 't'"):
        check_answer({}, [T])


@pytest.mark.parametrize(("after", "said"), [
    (((X,), (Y,)), ""),
    (((TensorSpec("x", "FP32", (-1, 9)),), (Y,)), ""),
    (((X, T), (Y,)), "input 't' is new"),
    (((), (Y,)), "input 'x' is gone"),
    (((X,), (TensorSpec("y", "FP64", (-1, 2)),)), "output 'y' is FP64, was FP32"),
    (((X,), (TensorSpec("y", "FP32", (-1,)),)), "output 'y' has rank 1, had 2"),
])
def test_schema_changes(after: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]], said: str) -> None:
    assert schema_change(((X,), (Y,)), after) == said
