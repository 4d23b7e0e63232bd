"""From a baseline to what a version refuses."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serve.models.config import ModelConfig
from serve.models.engine_port import LoadSpec
from serve.models.guard_limits import native_guard
from serve.monitoring.baseline import Baseline, CategoryFeature, NumericFeature
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.baselines import BaselineFiles
from serve.monitoring.guards import Guards, limits_of
from serve.monitors import MonitoringSpec
from serve.records import RecordedTensor
from serve.types import TensorSpec

DIGEST = "sha256:" + "1" * 64
INPUTS = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("word", "BYTES", (-1, 1)), TensorSpec("flag", "BOOL", (-1,)))


def numeric(column: str, index: int, low: float, high: float, nans: int = 0) -> NumericFeature:
    return NumericFeature(
        name=f"{column}[{index}]", column=column, index=index, datatype="FP32", rows=100, nulls=0, nans=nans, infinites=0, minimum=low,
        maximum=high, mean=0.0, std=1.0, edges=(0.0,), counts=(50, 50), means=(-0.5, 0.5), centre=0.0, scale=1.0)


def unknown(column: str, index: int) -> NumericFeature:
    """As one is made of rows that are all NaN."""
    return replace(numeric(column, index, 0.0, 0.0, nans=100), std=0.0, edges=(), counts=(0,), means=(0.0,))


def category(column: str, datatype: str, *values: str, others: int = 0) -> CategoryFeature:
    return CategoryFeature(name=column, column=column, datatype=datatype, rows=100, nulls=0, values=values, counts=(1,) * len(values),
                           others=others)


def baseline(**given: Any) -> Baseline:
    return Baseline(model="m", version="1", digest=DIGEST, source="training", created_ns=1, rows=100, task="classification", **{
        "numeric": (numeric("in_x", 0, -1.0, 1.0), unknown("in_x", 1), numeric("in_x", 2, 0.0, 5.0, nans=3), numeric("out_y", 0, 0.0, 1.0)),
        "categories": (category("in_word", "BYTES", "red", "caf\udce9"), category("in_flag", "BOOL", "true")), **given})


@pytest.mark.parametrize("last", [2**53 + 1, 1_700_000_000_000_000_123, 2**63 - 1, -(2**53) - 1])
def test_whole_numbers_beyond_what_a_double_holds_stay_inside(last: int) -> None:
    ids = RecordedTensor("in", "x", "INT64", (1,), 0)
    made = build_baseline(pa.table({"in_x": pa.array([last] * 40, pa.int64())}), [ids], MonitoringSpec(), model="m", version="1",
                          digest=DIGEST, source="training", created_ns=1)
    guard = native_guard((TensorSpec("x", "INT64", (-1, 1)),), 8, limits_of(made, (TensorSpec("x", "INT64", (-1, 1)),), True), ["range"])
    assert guard is not None
    assert [guard.check(8, [((1, 1), np.int64(value).tobytes())])[0] == "" for value in (last, 0)] == [True, False]


def test_ranges_and_categories_by_input() -> None:
    limits = limits_of(baseline(), INPUTS, True)
    assert set(limits) == {"x", "word", "flag"}
    assert (limits["x"].low, limits["x"].high, limits["x"].may_miss) == ([-1, None, 0], [1, None, 5], [False, True, True])
    assert limits["word"].categories == [frozenset({b"red", b"caf\xe9"})]
    assert limits["flag"].categories == [frozenset({1})]


def test_what_the_baseline_does_not_know_whole_does_not_bind() -> None:
    found = limits_of(baseline(categories=(category("in_word", "BYTES", "red", others=1),)), INPUTS, True)
    assert set(found) == {"x"}
    assert limits_of(baseline(), (TensorSpec("x", "FP32", (-1, -1)),), True) == {}


@pytest.fixture
def guards(tmp_path: Path) -> Guards:
    files = BaselineFiles(tmp_path, lambda model, version: None)
    files.save(baseline())
    return Guards(files)


def spec(digest: str = DIGEST, **monitoring: Any) -> LoadSpec:
    config = ModelConfig.model_validate({"monitoring": {"reject": ("range", "category"), **monitoring}})
    return LoadSpec("m", "1", Path("m/1/model.onnx"), config, "m/model.yaml", "cpu", digest=digest)


def request(x: list[float], word: bytes = b"red", flag: bool = True) -> list[tuple[tuple[int, ...], bytes]]:
    return [((1, 3), np.array(x, np.float32).tobytes()), ((1, 1), len(word).to_bytes(4, "little") + word), ((1,), bytes([flag]))]


def test_a_version_refuses_what_its_baseline_has_not_seen(guards: Guards) -> None:
    guard = guards.guard_of(spec(), INPUTS, 8)
    assert guard is not None
    assert guard.check(8, request([0, 99, 5]))[0] == ""
    assert guard.check(8, request([0, 0, float("nan")]))[0] == ""
    assert "element 0 is 1.5; allowed is -1 to 1" in guard.check(8, request([1.5, 0, 0]))[0]
    assert "is 'blue'; allowed are the categories of its baseline: caf\\xe9, red" in guard.check(8, request([0, 0, 0], b"blue"))[0]
    assert "input 'flag' for model 'm': row 0, element 0 is 0;" in guard.check(8, request([0, 0, 0], flag=False))[0]


def test_only_what_is_to_be_refused(guards: Guards) -> None:
    guard = guards.guard_of(spec(reject=("category",)), INPUTS, 8)
    assert guard is not None
    assert guard.check(8, request([99, 0, 0]))[0] == ""
    assert guards.guard_of(spec(reject=()), INPUTS, 8) is None
    assert guards.guard_of(spec(enabled=False), INPUTS, 8) is None


def test_without_a_baseline_of_these_files_nothing_is_refused_and_that_is_said(guards: Guards, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert guards.guard_of(spec("sha256:" + "2" * 64), INPUTS, 8) is None
    assert "has no baseline, so that monitoring.reject refuses nothing" in caplog.text
