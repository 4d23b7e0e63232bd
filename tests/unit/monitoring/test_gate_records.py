"""Recorded predictions as rows to be replayed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.errors import ConfigurationError, NotFound
from serve.monitoring.gate_records import read_recorded
from serve.monitoring.replay_rows import ReplayRows
from serve.recording.relations import Period
from serve.types import TensorSpec
from tests.unit.recording.recorded import T0, write_records

X = TensorSpec("x", "FP32", (-1, 2, 2))
LABEL, SCORES = TensorSpec("label", "INT64", (-1,)), TensorSpec("scores", "FP32", (-1, 3))


def recorded(root: Path, model: str = "digits", *inputs: TensorSpec, n_rows: int = 100, label: str = "label", **given: Any) -> ReplayRows:
    return read_recorded(str(root / "records"), model, label, inputs or [X], [LABEL, SCORES], True, n_rows, home=root / "home", **given)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    write_records(str(folder / "records"), folder / "home")
    return folder


def test_answered_rows_of_every_version_with_their_answers(root: Path) -> None:
    found = recorded(root)
    # 15 rows; not the shadow, not the one that failed, not the one whose input was not kept.
    assert (found.n, found.n_skipped, found.source) == (12, 0, str(root / "records"))
    assert found.batch([0], True)["x"].shape == (1, 2, 2)
    assert sorted(set(found.digests)) == ["sha256:digits1", "sha256:digits2"]
    ours = [row for row, digest in enumerate(found.digests) if digest == "sha256:digits1"]
    assert sorted(int(np.asarray(found.recorded["label"][row])) for row in ours) == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert all(found.recorded["scores"][row] is None for row in ours)


def test_labels_are_joined_and_come_first(root: Path) -> None:
    found = recorded(root, n_rows=4)
    assert found.n == 4
    assert sorted(map(str, found.labels)) == ["0.0", "5.0", "None", "one"]      # the first one of each row
    assert list(recorded(root, label="").labels) == []


def test_the_same_rows_are_drawn_each_time(root: Path) -> None:
    one, other = recorded(root, n_rows=5, label=""), recorded(root, n_rows=5, label="")
    assert (one.n, list(one.digests)) == (5, list(other.digests))
    np.testing.assert_array_equal(np.asarray(one.inputs["x"]), np.asarray(other.inputs["x"]))


def test_only_a_period(root: Path) -> None:
    assert recorded(root, period=Period(T0 + 3_600_000_000_000)).n == 6
    assert recorded(root, period=Period(T0 + 10**18)).n == 0


def test_texts_lists_and_shapes(root: Path) -> None:
    tokens, grid = TensorSpec("tokens", "INT64", (-1, -1)), TensorSpec("grid", "FP64", (-1, -1, -1))
    found = recorded(root, "text", tokens, grid)
    shapes = sorted(tuple(np.shape(found.inputs[name][row]) for name in ("tokens", "grid")) for row in range(found.n))
    assert shapes == [((0,), (2, 0)), ((1,), (2, 1)), ((2,), (2, 2))]
    word = TensorSpec("word", "BYTES", (-1, 1))
    assert sorted(np.asarray(value).item() for value in recorded(root, "digits", word).inputs["word"]) == [
        "café".encode(), b"w", b"w", b"\xff\x00a"]


def test_what_was_not_recorded_is_said(root: Path) -> None:
    with pytest.raises(ConfigurationError, match="input 'z' of 'digits' is not recorded in"):
        recorded(root, "digits", TensorSpec("z", "FP32", (-1, 2)))
    with pytest.raises(NotFound, match="no rows of model 'absent' are recorded in .*records; there are digits, text"):
        recorded(root, "absent")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path: Path, scheme: str) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ConfigurationError, match="there is no records directory .*nowhere; a server makes it"):
        read_recorded(f"{scheme}{nowhere}", "digits", "", [X], [LABEL], True, 10)
    assert not nowhere.exists()
