"""Realised and estimated performance: against scikit-learn where it defines the same thing, and against the truth where none is needed."""

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.isotonic import IsotonicRegression

from serve.monitoring import cbpe
from serve.monitoring import performance as p
from serve.monitoring.calibration import fit_isotonic, pooled
from serve.monitoring.estimates import estimates, is_worse
from serve.monitoring.observer import Observer
from tests.unit.monitoring.small_model import baseline, lists, rows


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_auc_with_ties(decimals: int) -> None:
    stream = np.random.default_rng(decimals)
    score = stream.random(500).round(decimals)
    true = stream.random(500) < score
    assert p.roc_auc(true, score) == pytest.approx(sk.roc_auc_score(true, score), abs=1e-12)
    assert p.roc_auc(np.ones(5, bool), score[:5]) is None
    assert p.roc_auc(np.zeros(5, bool), score[:5]) is None


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_of_classes(classes: int) -> None:
    stream = np.random.default_rng(classes)
    true, predicted = stream.integers(0, classes, 400), stream.integers(0, classes, 400)
    true[:200] = predicted[:200]
    positive = 1 if classes == 2 else None
    average = "binary" if classes == 2 else "macro"
    found = p.class_metrics(p.confusion_of(true, predicted, classes), positive)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(true, predicted, average=average)
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((precision, recall, f1))


def test_a_class_that_is_not_there_is_no_zero_and_a_foreign_one_is_wrong() -> None:
    true, predicted = np.array([0, 0, 1, 4]), np.array([0, 1, 1, 1])     # of 3 classes: 2 never, 4 is none of them
    found = p.class_metrics(p.confusion_of(true, predicted, 3), None)
    assert found["accuracy"] == 0.5
    assert found["recall"] == pytest.approx((0.5 + 1) / 2)
    assert p.class_metrics(np.zeros((3, 3), np.int64), None) == {}


def test_losses() -> None:
    stream = np.random.default_rng(3)
    scores = stream.dirichlet([1, 1, 1], 200)
    true = stream.integers(0, 3, 200)
    assert p.log_losses(true, scores).mean() == pytest.approx(sk.log_loss(true, scores, labels=[0, 1, 2]))
    two = np.stack([1 - scores[:, 0], scores[:, 0]], axis=1)
    positive = (true == 0).astype(int)
    assert p.brier_losses(positive, two).mean() == pytest.approx(sk.brier_score_loss(positive, scores[:, 0]))
    assert p.brier_losses(np.array([0]), np.array([[0.0, 0.0, 1.0]])) == pytest.approx([1.0])
    errors = stream.normal(size=50)
    assert p.number_metrics(errors) == pytest.approx(
        {"mae": np.abs(errors).mean(), "rmse": np.sqrt((errors**2).mean()), "bias": errors.mean()})
    assert p.number_metrics(np.zeros(0)) == {}


@pytest.mark.parametrize(("n", "decimals"), [(1, 3), (2, 3), (50, 1), (2000, 2), (2000, 9)])
def test_isotonic_regression(n: int, decimals: int) -> None:
    stream = np.random.default_rng(n + decimals)
    score = stream.random(n).round(decimals)
    true = stream.random(n) < score**2
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score, true)
    at = np.linspace(-0.2, 1.2, 300)
    assert fit_isotonic(score, true)(at) == pytest.approx(theirs.predict(at), abs=1e-12)


def test_pooled_values_ascend_and_keep_their_mean() -> None:
    stream = np.random.default_rng(4)
    means, weights = stream.random(100), stream.random(100) + 0.1
    found = pooled(means, weights)
    assert all(np.diff(found) >= 0)
    assert np.average(found, weights=weights) == pytest.approx(np.average(means, weights=weights))


def test_estimates_of_calibrated_scores_are_the_truth() -> None:
    stream = np.random.default_rng(5)
    score = stream.beta(0.6, 0.8, 200_000)
    true = stream.random(200_000) < score
    called = score >= 0.4
    expected = cbpe.expected_of_rows(score, called)
    assert expected.n == pytest.approx(200_000)
    assert (expected.tp + expected.tn) / expected.n == pytest.approx(sk.accuracy_score(true, called), abs=0.003)
    assert expected.f1 == pytest.approx(sk.f1_score(true, called), abs=0.003)
    assert expected.precision == pytest.approx(sk.precision_score(true, called), abs=0.004)
    assert expected.recall == pytest.approx(sk.recall_score(true, called), abs=0.004)
    assert cbpe.auc_of_rows(score) == pytest.approx(sk.roc_auc_score(true, score), abs=0.003)


def test_binned_estimates_are_those_of_rows_where_calibration_has_steps() -> None:
    """What a slot's rows have in common is all that CBPE knows of them."""
    stream = np.random.default_rng(6)
    values = np.sort(stream.random(12))
    slot = stream.integers(0, 12, 5000)
    called = values[slot] >= 0.5
    counts = np.stack([np.bincount(slot[~called], minlength=12), np.bincount(slot[called], minlength=12)])
    rows_, binned = cbpe.expected_of_rows(values[slot], called), cbpe.expected_of_counts(counts, values)
    for name in ("tp", "fp", "fn", "tn"):
        assert getattr(binned, name) == pytest.approx(getattr(rows_, name), abs=1e-8)
    assert cbpe.binary_estimates(counts, values)["auc"] == pytest.approx(cbpe.auc_of_rows(values[slot]), abs=1e-12)


def test_a_models_estimates_follow_its_performance_before_labels_come() -> None:
    made = baseline(20_000, 3)
    assert made.answers is not None
    observer = Observer(made, 1)
    for shift in (0.0, 1.2):
        table, true = rows(20_000, 11, shift)
        cells = made.cells()
        observer.observe(table, cells)
        found = estimates(made, cells)
        assert found is not None
        predicted = table["out_label"].to_numpy()
        scores = np.array(table["out_scores"].to_pylist())
        want = {"accuracy": sk.accuracy_score(true, predicted), "f1": sk.f1_score(true, predicted, average="macro"),
                "auc": sk.roc_auc_score(true, scores / scores.sum(axis=1, keepdims=True), multi_class="ovr")}
        for name, value in want.items():
            assert found.metrics[name] == pytest.approx(value, abs=0.012), name
            assert made.performance[name].value == pytest.approx(want[name], abs=0.01) or shift


def test_a_window_that_is_worse_than_the_baseline_is_outside_its_band() -> None:
    made = baseline(10_000, 3)
    table, _ = rows(3000, 12)
    cells = made.cells()
    Observer(made, 1).observe(table, cells)
    good = estimates(made, cells)
    assert good is not None
    assert good.worse == ()
    assert good.rows == 3000
    uncertain = made.cells()
    stream = np.random.default_rng(0)
    close = stream.dirichlet([60.0] * 3, 3000).astype(np.float32)
    flat = table.set_column(table.column_names.index("out_scores"), "out_scores", lists(close))
    Observer(made, 1).observe(flat, uncertain)
    bad = estimates(made, uncertain)
    assert bad is not None
    assert "accuracy" in bad.worse


def test_without_labels_nothing_is_estimated() -> None:
    made = baseline(2000, labelled=False)
    cells = made.cells()
    Observer(made, 1).observe(rows(500, 1)[0], cells)
    assert made.performance == {}
    assert estimates(made, cells) is None
    assert estimates(baseline(2000), baseline(2000).cells()) is None      # no rows
    assert made.answers is not None
    assert not any(one.is_calibrated for one in made.answers.maps)


def test_which_side_is_bad() -> None:
    assert is_worse("accuracy", 0.8, (0.9, 1.0))
    assert not is_worse("accuracy", 1.0, (0.9, 0.95))
    assert is_worse("mae", 3.0, (1.0, 2.0))
    assert not is_worse("mae", 0.5, (1.0, 2.0))
