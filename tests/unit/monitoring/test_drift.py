"""Windows judged: what drifts is found, what does not is let be, and nothing is concluded of too few rows."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from serve.errors import InvalidArgument
from serve.monitoring.baseline import Baseline
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.cells import Cells
from serve.monitoring.drift import judge_window
from serve.monitoring.observer import Observer
from serve.monitoring.prior_shift import prior_shift
from serve.monitors import MonitoringSpec
from serve.records import RecordedTensor
from tests.unit.monitoring.small_model import SPEC, baseline, lists, rows

MADE = baseline()


def seen(n: int, seed: int, shift: float = 0.0, made: Baseline = MADE, **more: object) -> Cells:
    cells = made.cells()
    Observer(made, 1).observe(rows(n, seed, shift, **more)[0], cells)       # type: ignore[arg-type]
    return cells


def test_the_same_law_drifts_in_none_of_forty_windows() -> None:
    for seed in range(100, 140):
        found = judge_window(MADE, seen(600, seed), SPEC)
        assert found.concluded
        assert found.drifted == ()
        assert found.prediction is not None
        assert not found.prediction.drifted
        assert not any(one.drifted for one in found.embeddings)


def test_a_shift_is_found_with_its_size() -> None:
    found = judge_window(MADE, seen(2000, 7, 0.8), SPEC)
    assert [one.name for one in found.features] == ["x[0]", "x[1]", "x[2]", "x[3]", "colour"]
    assert {one.name for one in found.drifted} == {"x[0]", "x[1]", "x[2]", "x[3]"}
    for one in found.features[:4]:
        assert one.psi == pytest.approx(0.8**2, rel=0.25)
        assert one.wasserstein == pytest.approx(0.8, abs=0.08)
        assert one.wasserstein_std == pytest.approx(0.8, abs=0.08)
        assert one.ks == pytest.approx(0.311, abs=0.04)       # 2 Phi(0.4) - 1
        assert one.mean is not None
        assert one.reference_mean is not None
        assert one.mean - one.reference_mean == pytest.approx(0.8, abs=0.08)
        assert one.p_value < 1e-20
        assert one.p_adjusted >= one.p_value
        assert (one.n, one.n_reference) == (2000, 4000)
    (vector,) = found.embeddings
    assert vector.drifted
    assert vector.effect is not None
    assert vector.effect > 0.2


def test_a_tiny_shift_of_many_rows_is_significant_and_no_drift() -> None:
    found = judge_window(baseline(40_000), seen(40_000, 8, 0.1, baseline(40_000)), SPEC)
    assert max(one.p_value for one in found.features[:4]) < 1e-6
    assert found.drifted == ()


def test_an_effect_that_chance_brings_to_few_rows_is_no_drift() -> None:
    spec = replace(SPEC, min_rows=40, min_psi=0.0)
    drifted = [judge_window(MADE, seen(40, seed), spec).drifted for seed in range(200, 260)]
    large = [judge_window(MADE, seen(40, seed), spec).features[0].psi > 0.1 for seed in range(200, 260)]
    assert sum(large) > 30      # by the rule of thumb these all have drifted
    assert sum(map(bool, drifted)) <= 2


def test_new_categories_are_seen() -> None:
    found = judge_window(MADE, seen(900, 9, colours=("red", "green", "mauve")), SPEC)
    colour = found.features[-1]
    assert colour.drifted
    assert colour.new_share == pytest.approx(1 / 3, abs=0.05)
    assert colour.l_infinity == pytest.approx(1 / 3, abs=0.06)
    assert (colour.ks, colour.wasserstein, colour.mean) == (None, None, None)
    assert "ks" not in colour.as_document()
    assert colour.as_document()["psi"] == colour.psi


def test_too_few_rows_conclude_nothing_however_far_they_are() -> None:
    found = judge_window(MADE, seen(299, 10, 3.0), SPEC)
    assert (found.concluded, found.reason, found.drifted) == (False, "299 rows; 300 are needed", ())
    assert found.features[0].psi > 1
    assert not any(one.drifted for one in (*found.embeddings, found.prediction) if one is not None)
    empty = judge_window(MADE, MADE.cells(), SPEC)
    assert [one.n for one in empty.features] == [0] * 5


def test_a_canary_is_compared_with_stable_in_the_same_window() -> None:
    """Both have left the training data together: not the canary's doing."""
    stable, canary, other = seen(3000, 11, 0.8), seen(800, 12, 0.8), seen(800, 13, 1.6)
    assert len(judge_window(MADE, canary, SPEC).drifted) == 4
    assert judge_window(MADE, canary, SPEC, stable).drifted == ()
    against = judge_window(MADE, other, SPEC, stable)
    assert len(against.drifted) == 4
    assert against.features[0].n_reference == 3000
    assert against.features[0].mean == pytest.approx(1.6, abs=0.12)
    assert against.features[0].reference_mean == pytest.approx(0.8, abs=0.08)
    few = judge_window(MADE, canary, SPEC, seen(20, 14))
    assert (few.concluded, few.reason) == (False, "20 rows to compare with; 300 are needed")


def test_cells_of_another_baseline_are_refused() -> None:
    other = replace(MADE, created_ns=9)
    with pytest.raises(InvalidArgument, match="cannot be compared"):
        judge_window(other, seen(300, 1), SPEC)
    with pytest.raises(InvalidArgument, match="cannot be compared"):
        judge_window(MADE, seen(300, 1), SPEC, other.cells())


def test_a_feature_that_was_mostly_missing_is_not_concluded() -> None:
    x = np.random.default_rng(0).normal(size=(1000, 1)).astype(np.float32)
    tensors = [RecordedTensor("in", "x", "FP32", (1,), 0)]
    made = build_baseline(pa.table({"in_x": pa.array(x.ravel())}), tensors, MonitoringSpec(), model="m", version="1", digest="d",
                          source="training", created_ns=1)
    cells = made.cells()
    Observer(made).observe(pa.table({"in_x": pa.array([5.0] * 100 + [None] * 900, pa.float32())}), cells)
    found = judge_window(made, cells, MonitoringSpec())
    assert found.concluded
    assert (found.features[0].n, found.features[0].is_concluded, found.features[0].drifted) == (100, False, False)


def test_a_constant_pixel_that_begins_to_vary_has_drifted() -> None:
    tensors = [RecordedTensor("in", "x", "FP32", (2,), 0)]
    stream = np.random.default_rng(0)
    x = np.stack([np.zeros(1000), stream.normal(size=1000)], axis=1).astype(np.float32)
    made = build_baseline(pa.table({"in_x": lists(x)}), tensors, MonitoringSpec(), model="m", version="1", digest="d", source="training",
                          created_ns=1)
    cells = made.cells()
    x[:200, 0] = 0.5
    Observer(made).observe(pa.table({"in_x": lists(x)}), cells)
    assert [one.name for one in judge_window(made, cells, MonitoringSpec()).drifted] == ["x[0]"]


def test_a_shift_beyond_the_range_has_the_distance_of_its_means() -> None:
    found = judge_window(MADE, seen(1000, 15, 30.0), SPEC)
    assert found.features[0].wasserstein == pytest.approx(30, rel=0.01)


def test_the_false_discovery_rate_is_over_all_features_of_a_window() -> None:
    stream = np.random.default_rng(1)
    tensors, spec = [RecordedTensor("in", "x", "FP32", (200,), 0)], MonitoringSpec(min_psi=0.0, min_rows=100, fdr=0.05)
    known = pa.table({"in_x": lists(stream.normal(size=(2000, 200)).astype(np.float32))})
    made = build_baseline(known, tensors, spec, model="m", version="1", digest="d", source="training", created_ns=1)
    n_windows = 0
    for _ in range(20):
        cells = made.cells()
        Observer(made).observe(pa.table({"in_x": lists(stream.normal(size=(500, 200)).astype(np.float32))}), cells)
        found = judge_window(made, cells, spec)
        assert sum(one.p_value <= 0.05 for one in found.features) >= 2
        n_windows += bool(found.drifted)
    assert n_windows <= 4


def test_classes_that_become_more_frequent_are_told_from_predictions_alone() -> None:
    made = baseline(8000)
    assert made.answers is not None
    table, true = rows(20_000, 16)
    stream = np.random.default_rng(0)
    truth = np.array(true)
    drawn = np.concatenate([np.flatnonzero(truth == k)[:n] for k, n in ((0, 4000), (1, 1000), (2, 1000))])
    cells = made.cells()
    Observer(made, 1).observe(table.take(stream.permutation(drawn)), cells)
    assert cells.answers is not None
    found = prior_shift(made.answers, cells.answers)
    assert found is not None
    assert found.classes == ("0", "1", "2")
    assert found.shares == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=0.04)
    assert found.weights == pytest.approx(found.shares / found.baseline)
    prediction = judge_window(made, cells, SPEC).prediction
    assert prediction is not None
    assert prediction.drifted
    assert prediction.kind == "prediction"


def test_where_classes_cannot_be_told_apart_nothing_is_said_of_their_shares() -> None:
    assert MADE.answers is not None
    cells = seen(500, 17)
    assert cells.answers is not None
    assert prior_shift(replace(MADE.answers, confusion=None), cells.answers) is None
    assert prior_shift(replace(MADE.answers, confusion=((5, 5, 5),) * 3), cells.answers) is None
    assert prior_shift(MADE.answers, MADE.cells().answers) is None      # type: ignore[arg-type]
