"""Values that the baseline does not know: counted exactly, and an alarm where chance would not bring so many."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.cells import Cells
from serve.monitoring.observer import Observer
from serve.monitoring.validation import Violation, at_least, violations
from serve.monitors import MonitoringSpec
from serve.records import RecordedTensor

SPEC = MonitoringSpec(min_rows=200)
TENSORS = [RecordedTensor("in", "x", "FP32", (2,), 0), RecordedTensor("in", "c", "BYTES", (1,), 1)]


def table(n: int, seed: int, nulls: int = 0) -> pa.Table:
    stream = np.random.default_rng(seed)
    x = stream.normal(size=(n, 2)).astype(np.float32)
    colours = stream.choice(["a", "b"], n).tolist()
    return pa.table({
        "in_x": pa.array([None if i < nulls else row for i, row in enumerate(x.tolist())], pa.list_(pa.float32(), 2)),
        "in_c": pa.array(colours)})


MADE = build_baseline(table(1000, 0, 20), TENSORS, SPEC, model="m", version="1", digest="d", source="training", created_ns=1)


def seen(rows: pa.Table) -> Cells:
    cells = MADE.cells()
    Observer(MADE).observe(rows, cells)
    return cells


def by_kind(found: list[Violation]) -> dict[tuple[str, str], Violation]:
    return {(one.feature, one.kind): one for one in found}


@pytest.mark.parametrize(("n", "a", "b"), [(1, 1, 5), (10, 2, 3), (500, 2, 979), (5000, 1, 100)])
def test_the_law_of_values_outside_a_range(n: int, a: float, b: float) -> None:
    for k in {0, 1, 2, n // 3, n, n + 1}:
        want = stats.betabinom.pmf(np.arange(k, n + 1), n, a, b).sum()
        assert at_least(k, n, a, b) == pytest.approx(min(1.0, want), rel=1e-8, abs=1e-300)


def test_clean_windows_raise_nothing() -> None:
    bad = [one for seed in range(1, 41) for one in violations(MADE, seen(table(500, seed, 10)), SPEC) if one.is_bad]
    assert bad == []


def test_every_kind_is_counted_and_bad() -> None:
    stream = np.random.default_rng(3)
    x = stream.normal(size=(500, 2)).astype(np.float32)
    x[:30, 0], x[30:40, 0], x[40:80, 1] = np.nan, -np.inf, 50.0
    given = [None if i >= 400 else row for i, row in enumerate(x.tolist())]
    rows = pa.table({"in_x": pa.array(given, pa.list_(pa.float32(), 2)), "in_c": pa.array(["a"] * 440 + ["n1"] * 40 + ["n2"] * 20)})
    found = by_kind(violations(MADE, seen(rows), SPEC))
    assert found["x[0]", "missing"].count == found["x[1]", "missing"].count == 100
    assert found["x[0]", "missing"].expected == pytest.approx(0.02)
    assert found["x[0]", "not_finite"].count == 40
    assert ("x[1]", "not_finite") not in found
    assert found["x[1]", "out_of_range"].count >= 40
    assert found["c", "unseen_category"].count == 60
    assert found["c", "unseen_category"].unseen_values == 2
    assert found["c", "unseen_category"].share == pytest.approx(0.12)
    for key in (("x[0]", "missing"), ("x[0]", "not_finite"), ("x[1]", "out_of_range"), ("c", "unseen_category")):
        assert found[key].is_bad, key


def test_few_rows_are_counted_and_raise_nothing() -> None:
    rows = pa.table({"in_x": pa.array([None] * 100, pa.list_(pa.float32(), 2)), "in_c": pa.array([None] * 100, pa.string())})
    found = violations(MADE, seen(rows), SPEC)
    assert {one.count for one in found} == {100}
    assert not any(one.is_bad for one in found)


def test_fewer_missing_values_than_the_baseline_had_are_no_alarm() -> None:
    found = by_kind(violations(MADE, seen(table(5000, 4, 1)), SPEC))
    assert found["x[0]", "missing"].p_value == 1
    assert not found["x[0]", "missing"].is_bad


def test_a_small_share_is_no_alarm_however_certain() -> None:
    found = by_kind(violations(MADE, seen(pa.table({
        "in_x": pa.array([[100.0, 0.0]] * 90 + [[0.0, 0.0]] * 9910, pa.list_(pa.float32(), 2)), "in_c": pa.array(["a"] * 10_000)})), SPEC))
    assert found["x[0]", "out_of_range"].p_value < 0.05
    assert not found["x[0]", "out_of_range"].is_bad


def test_categories_that_the_baseline_had_too_many_of_are_never_unseen() -> None:
    values = [f"v{i}" for i in range(400)]
    made = build_baseline(pa.table({"in_c": pa.array(values)}), TENSORS[1:], SPEC, model="m", version="1", digest="d", source="training",
                          created_ns=1)
    cells = made.cells()
    Observer(made).observe(pa.table({"in_c": pa.array(["new"] * 500)}), cells)
    assert violations(made, cells, SPEC) == []


def test_what_has_no_bad_value_is_one_of_the_tests_too() -> None:
    """Benjamini-Hochberg is over all that was looked at: of 200 features, one that chance brings once in 500 is no discovery."""
    tensors = [RecordedTensor("in", "x", "FP32", (200,), 0)]
    draw = np.random.default_rng(0)

    def made(n: int, missing: int) -> pa.Table:
        x = draw.uniform(0.1, 0.9, size=(n, 200)).astype(np.float32)
        x[0], x[1] = 0, 1
        x[:missing, 7] = np.nan
        return pa.table({"in_x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 200)})

    baseline = build_baseline(made(1000, 10), tensors, SPEC, model="m", version="1", digest="d", source="training", created_ns=1)
    cells = baseline.cells()
    Observer(baseline).observe(made(300, 10), cells)
    (found,) = violations(baseline, cells, SPEC)
    assert (found.feature, found.count) == ("x[7]", 10)
    assert found.p_value < SPEC.fdr < found.p_value * 200
    assert found.share - found.expected > 0.02
    assert not found.is_bad
