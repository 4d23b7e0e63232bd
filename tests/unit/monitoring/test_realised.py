"""Realised performance in the keeper: sums against exact metrics, once each whatever fails, and detectors that outlive a restart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import Unavailable
from serve.monitoring.alerts import Kind
from serve.monitoring.baseline import Baseline, MetricBaseline
from serve.monitoring.performance import class_metrics, confusion_of, number_metrics, roc_auc
from serve.monitoring.realised import RealisedPerformance
from serve.monitoring.realised_store import ALERT_DELTA, Detectors, RealisedStore
from serve.monitoring.realised_sums import SLOTS, RealisedSums, slots_of, sums_of
from serve.monitoring.realised_window import realised_window
from serve.monitors import MonitoringSpec
from serve.recording.join_specs import monitoring_message
from serve.recording.joined_rows import JoinedRows

S = 10**9
START = 1_769_860_800 * S
WINDOW = 300 * S
SPEC = MonitoringSpec(window_s=300, min_rows=100)


def joined(
    n: int, batch: int = 1, at_ns: int = START, wrong: float = 0.2, seed: int = 0, first: int = 0, variant: str = "1", spread_ns: int = 0,
    **more: Any,
) -> JoinedRows:
    draw = np.random.default_rng(seed)
    label = draw.integers(2, size=n)
    is_wrong = draw.random(n) < wrong
    prediction = np.where(is_wrong, 1 - label, label)
    score = np.clip(np.where(prediction == 1, 0.75, 0.25) + draw.normal(0, 0.1, n), 0, 1)
    ts = at_ns + np.arange(n, dtype=np.int64) * (spread_ns // max(1, n))
    made: dict[str, Any] = {
        "batch": batch, "model": "m", "version": "1", "task": "classification",
        "request_id": np.array([f"r{first + i}" for i in range(n)], object), "row": np.zeros(n, np.int32),
        "variant": np.full(n, variant, object), "generation": np.zeros(n, np.int64), "unit": np.zeros(n, np.uint64),
        "has_unit": np.zeros(n, np.bool_), "ts_ns": ts, "received_ns": ts + S, "known_ns": ts + S,
        "prediction": prediction.astype(str).astype(object), "label": label.astype(str).astype(object), "score": score, "positive": "1"}
    return JoinedRows(**{**made, **more})


def keeper(home: Path, spec: MonitoringSpec = SPEC) -> RealisedPerformance:
    made = RealisedPerformance(home)
    made.tell(json.loads(json.dumps(monitoring_message("m", spec))))
    return made


def commit(home: Path, batch: int) -> None:
    (home / "joining.json").write_text(json.dumps({"batches": batch}))


def labelled(messages: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [((one["from_ns"] - START) // WINDOW, one["labelled"]) for one in messages]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 400), st.integers(1, 5), st.integers(0, 99))
def test_sums_of_parts_are_the_metrics_of_the_whole(n: int, parts: int, seed: int) -> None:
    rows = joined(n, seed=seed)
    total = RealisedSums("classification")
    for part in np.array_split(np.arange(n), parts):
        one = RealisedSums("classification")
        one.add_rows(rows.where(np.isin(np.arange(n), part)))
        total.add(sums_of(json.loads(json.dumps(one.as_document()))))
    found = total.metrics()
    assert rows.score is not None
    true, predicted = (values.astype(int) for values in (rows.label, rows.prediction))
    has_both = len(set(true) | set(predicted)) == 2
    exact = class_metrics(confusion_of(true, predicted, 2), 1) if has_both else {"accuracy": float(np.mean(true == predicted))}
    assert {name: found[name] for name in exact} == pytest.approx(exact)
    area = roc_auc(true == 1, slots_of(rows.score) / SLOTS)
    assert found.get("auc") == (pytest.approx(area) if area is not None else None)


def test_numbers() -> None:
    rows = joined(200, task="regression", prediction=np.arange(200.0), label=np.arange(200.0) * 1.1, score=None, positive="")
    sums = RealisedSums("regression")
    sums.add_rows(rows)
    assert sums.metrics() == pytest.approx(number_metrics(np.arange(200.0) * -0.1))
    assert RealisedSums("regression").metrics() == {}


def test_windows_are_of_the_prediction_and_grow_while_labels_come(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    one.take(joined(600, 1, spread_ns=3 * WINDOW))
    commit(tmp_path, 1)
    assert labelled(one.run(0)) == [(0, 200), (1, 200), (2, 200)]
    assert one.run(0) == [], "nothing has changed"
    one.take(joined(30, 2, at_ns=START + WINDOW, first=600, variant="2"))
    one.take(joined(50, 2, at_ns=START + WINDOW, first=700))
    messages = one.run(0)
    assert [(message["variant"], message["labelled"]) for message in messages] == [("1", 250), ("2", 30)]
    assert messages[0]["to_ns"] - messages[0]["from_ns"] == WINDOW
    assert set(messages[0]["metrics"]) == {"accuracy", "precision", "recall", "f1", "auc"}
    one.close()


def test_a_new_worker_is_told_of_the_newest_windows(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    one.take(joined(600, 1, spread_ns=3 * WINDOW))
    one.run(0)
    commit(tmp_path, 1)
    one.close()
    again = keeper(tmp_path)
    assert labelled(again.run(0)) == [(0, 200), (1, 200), (2, 200)]
    again.close()


def test_a_join_that_fails_and_comes_again_counts_once(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    one.take(joined(100, 1))
    one.take(joined(100, 1))                        # the join failed, and is made again in the same process
    one.take(joined(120, 1))                        # with labels that have come meanwhile
    assert labelled(one.run(0)) == [(0, 120)]
    one.close()
    again = keeper(tmp_path)                        # killed before the join was durable: all of it comes again
    assert again.run(0) == []
    again.take(joined(120, 1))
    commit(tmp_path, 1)
    again.close()
    last = keeper(tmp_path)                         # killed after it
    last.take(joined(80, 2, first=500))
    assert labelled(last.run(0)) == [(0, 200)]
    last.close()


def test_joins_that_begin_anew_are_counted_anew(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    for batch in (1, 2, 3):
        one.take(joined(100, batch, first=1000 * batch))
        commit(tmp_path, batch)
    one.close()
    (tmp_path / "joining.json").unlink()
    again = keeper(tmp_path)
    again.take(joined(300, 1))
    assert labelled(again.run(0)) == [(0, 300)]
    again.close()


def test_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.monitoring.realised_store.MAX_WINDOWS", 5)
    one = keeper(tmp_path)
    one.take(joined(120, 1, spread_ns=12 * WINDOW))
    commit(tmp_path, 1)
    one.run(0)
    assert sorted((start - START) // WINDOW for _, start in RealisedStore(tmp_path).newest(99)) == [7, 8, 9, 10, 11]
    one.close()


def test_errors_that_become_more_frequent_are_found_in_the_window_of_the_prediction(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    for batch in range(1, 9):
        wrong = 0.1 if batch <= 4 else 0.5
        one.take(joined(300, batch, START + (batch - 1) * WINDOW, wrong, seed=batch, first=1000 * batch))
        commit(tmp_path, batch)
        if batch == 3:          # detectors go on where they were
            one.close()
            one = keeper(tmp_path)
    messages = one.run(0)
    fired = {(message["from_ns"] - START) // WINDOW: {one["detector"] for one in message["detections"]} for message in messages
             if message["detections"]}
    assert set(fired) <= {4, 5, 6, 7}
    assert "adwin" in fired[4]
    risen = [one for message in messages for one in message["detections"] if one["detector"] == "adwin"]
    assert all(one["after"] > one["before"] + 0.1 for one in risen)
    one.close()


def test_errors_that_become_fewer_are_no_alarm(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    for batch in range(1, 7):
        one.take(joined(300, batch, START + batch * WINDOW, 0.5 if batch <= 3 else 0.05, seed=batch, first=1000 * batch))
        commit(tmp_path, batch)
    assert [message["detections"] for message in one.run(0)] == [[]] * 6
    one.close()


def test_a_model_that_is_not_watched(tmp_path: Path) -> None:
    one = keeper(tmp_path, MonitoringSpec(enabled=False))
    one.take(joined(100))
    assert one.run(0) == []
    one.close()


# What the worker makes of it

BASELINE = Baseline(
    model="m", version="1", digest="sha256:" + "0" * 64, source="training", created_ns=0, rows=1000, task="classification",
    performance={"accuracy": MetricBaseline(0.95, 0.95, 0.01, 200, 5)})


def message(labelled: int, accuracy: float, detections: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"type": "performance", "model": "m", "version": "1", "variant": "1", "from_ns": START, "to_ns": START + WINDOW,
            "labelled": labelled, "metrics": {"accuracy": accuracy}, "detections": list(detections)}


@pytest.mark.parametrize(("labelled", "accuracy", "expected"), [
    (200, 0.95, {Kind.REALISED_PERFORMANCE: False, Kind.CONCEPT_DRIFT: False}),
    (200, 0.90, {Kind.REALISED_PERFORMANCE: True, Kind.CONCEPT_DRIFT: False}),
    (99, 0.50, {})])
def test_what_is_concluded(labelled: int, accuracy: float, expected: dict[Kind, bool]) -> None:
    row, judged = realised_window(message(labelled, accuracy), SPEC, BASELINE)
    assert {kind: one.is_bad for kind, one in judged.items()} == expected
    assert (row.start_ns, row.document["labelled"]) == (START, labelled)
    low, high = row.document["bands"]["accuracy"]
    reach = 0.03 * max(1.0, (200 / labelled) ** 0.5)
    assert (low, high) == pytest.approx((0.95 - reach, 0.95 + reach)), "wider for fewer labels"


ADWIN = {"detector": "adwin", "ts_ns": START + S, "before": 0.1, "after": 0.4}
PAGE_HINKLEY = {"detector": "page_hinkley", "ts_ns": START + 2 * S, "mean": 0.12, "risen": 50.3, "threshold": 50.0}


def test_a_detector_needs_no_window_full_of_labels_and_says_what_it_saw() -> None:
    _, judged = realised_window(message(20, 0.5, (ADWIN, PAGE_HINKLEY)), SPEC, None)
    assert set(judged) == {Kind.CONCEPT_DRIFT}
    assert judged[Kind.CONCEPT_DRIFT].is_bad
    assert judged[Kind.CONCEPT_DRIFT].evidence == {
        "detections": [ADWIN, PAGE_HINKLEY], "said": "the mean error rose from 0.1 to 0.4 (ADWIN; Page-Hinkley has fired too)"}
    _, judged = realised_window(message(20, 0.5, (ADWIN,)), SPEC, None)
    assert judged[Kind.CONCEPT_DRIFT].evidence["said"] == "the mean error rose from 0.1 to 0.4 (ADWIN)"


def test_detectors_of_an_older_version_go_on_with_the_delta_of_this_one(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    one.take(joined(100, 1))
    one._store.detectors["m", "1", "1"].adwin.delta = 0.002
    commit(tmp_path, 1)
    one.take(joined(100, 2, first=500))
    one.close()
    again = keeper(tmp_path)
    adwin = again._store.detectors["m", "1", "1"].adwin
    assert (adwin.delta, adwin.n) == (ALERT_DELTA, 100)
    again.close()


@pytest.mark.parametrize(("labelled", "expected"), [(20, {}), (200, {Kind.CONCEPT_DRIFT: False})])
def test_page_hinkley_alone_is_shown_and_is_no_alert(labelled: int, expected: dict[Kind, bool]) -> None:
    mixed = {"detector": "page_hinkley", "ts_ns": START, "before": 0.1, "after": 0.4}       # of a file of an older version
    for fired in (PAGE_HINKLEY, mixed):
        row, judged = realised_window(message(labelled, 0.5, (fired,)), SPEC, None)
        assert {kind: one.is_bad for kind, one in judged.items()} == expected
        assert row.document["detections"] == [fired]


@pytest.mark.parametrize(("rate", "seed"), [(0.1, 2), (0.22, 1), (0.3, 1)])
def test_errors_that_stay_as_frequent_as_they_are_alert_nobody(rate: float, seed: int) -> None:
    detectors, found = Detectors(), []
    for at, is_wrong in enumerate((np.random.default_rng(seed).random(20_000) < rate).astype(float).tolist()):
        found += detectors.update(is_wrong, at)
    assert {one["detector"] for one in found} == {"page_hinkley"}, "streams on which it alarms"
    _, judged = realised_window(message(200, 1 - rate, tuple(found)), SPEC, None)
    assert not judged[Kind.CONCEPT_DRIFT].is_bad, found


def test_a_rise_is_told_as_the_mean_before_and_after_it_by_one_detector() -> None:
    draw = np.random.default_rng(5)
    errors = np.concatenate([draw.random(5000) < 0.1, draw.random(2000) < 0.3])
    detectors = Detectors()
    found = [one for at, is_wrong in enumerate(errors.astype(float).tolist()) for one in detectors.update(is_wrong, at)
             if one["detector"] == "adwin"]
    assert 5000 <= found[0]["ts_ns"] < 5300
    assert found[0]["before"] == pytest.approx(errors[:5000].mean(), abs=0.005), "without what came after the change"
    assert found[0]["after"] == pytest.approx(0.3, abs=0.1)


def test_the_operators_bound_counts_without_a_baseline() -> None:
    spec = MonitoringSpec(min_rows=100, metric="accuracy", min_metric=0.97)
    _, judged = realised_window(message(200, 0.96), spec, None)
    assert judged[Kind.REALISED_PERFORMANCE].evidence["said"] == "accuracy 0.96, at least 0.97 was expected"
    assert Kind.REALISED_PERFORMANCE not in realised_window(message(200, 0.96), SPEC, None)[1], "nothing to hold it against"


# What must not distort it

def answers(label: list[str], prediction: list[str], **more: Any) -> JoinedRows:
    return joined(len(label), label=np.array(label, object), prediction=np.array(prediction, object), score=None, **more)


def test_mistakes_beyond_the_pairs_that_are_kept_stay_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.monitoring.realised_sums.MAX_PAIRS", 10)
    label = [f"c{i}" for i in range(100)]
    rows = answers(label, [f"c{i}" if i % 4 == 0 else f"d{i}" for i in range(100)])
    whole, parts = RealisedSums("classification"), RealisedSums("classification")
    whole.add_rows(rows)
    for at in range(0, 100, 10):
        one = RealisedSums("classification")
        one.add_rows(rows.where((np.arange(100) >= at) & (np.arange(100) < at + 10)))
        parts.add(one)
    for sums in (whole, parts):
        assert sums.metrics()["accuracy"] == 0.25
        assert len(sums.pairs) <= 12


def test_one_label_that_is_no_class_does_not_change_what_precision_means() -> None:
    rows = joined(400)
    clean, dirty = RealisedSums("classification"), RealisedSums("classification")
    clean.add_rows(rows)
    label = rows.label.copy()
    label[np.flatnonzero((rows.label == "0") & (rows.prediction == "0"))[0]] = "not sure"
    dirty.add_rows(joined(400, label=label))
    wanted = ("precision", "recall", "f1")
    assert [dirty.metrics()[name] for name in wanted] == [clean.metrics()[name] for name in wanted]


def test_a_window_without_the_positive_class_says_nothing_of_it() -> None:
    sums = RealisedSums("classification")
    sums.add_rows(joined(50, label=np.full(50, "0", object), prediction=np.full(50, "0", object)))
    assert sums.metrics() == {"accuracy": 1.0}


def test_an_infinite_prediction_is_bad_and_breaks_no_document() -> None:
    found = {**message(200, 0.0), "metrics": {"mae": float("inf"), "bias": 1.0}}
    row, judged = realised_window(found, MonitoringSpec(min_rows=100, metric="mae", min_metric=2.0), None)
    assert judged[Kind.REALISED_PERFORMANCE].is_bad
    assert row.document["metrics"] == {"bias": 1.0}


def test_a_join_that_cannot_be_kept_is_kept_at_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = keeper(tmp_path)
    one.take(joined(100, 1))
    commit(tmp_path, 1)
    store, do = one._store, one._store._do

    def full(statement: str, *values: Any) -> list[Any]:
        if statement == "COMMIT":
            store._connection.execute("ROLLBACK")
            raise Unavailable("the disk is full")
        return do(statement, *values)

    monkeypatch.setattr(store, "_do", full)
    with pytest.raises(Unavailable):
        one.take(joined(60, 2, first=500))
    monkeypatch.setattr(store, "_do", do)
    one.take(joined(60, 2, first=500))
    assert labelled(one.run(0)) == [(0, 160)]
    one.close()


def test_a_version_without_labels_for_a_month_is_forgotten(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    month = 31 * 86_400 * S // WINDOW * WINDOW
    one.take(joined(100, 1, variant="old"))
    commit(tmp_path, 1)
    one.run(0)
    one.take(joined(100, 2, at_ns=START + month, first=500))
    commit(tmp_path, 2)
    one.run(0)
    assert RealisedStore(tmp_path).newest(99) == {(("m", "1", "1"), START + month)}
    assert set(one._store.detectors) == {("m", "1", "1")}
    one.close()


def test_a_damaged_file_is_set_aside_and_does_not_end_the_keeper(tmp_path: Path) -> None:
    (tmp_path / "realised.db").write_bytes(b"no database" * 1000)
    one = keeper(tmp_path)
    one.take(joined(100, 1))
    assert labelled(one.run(0)) == [(0, 100)]
    assert len(list(tmp_path.glob("realised.damaged-*"))) == 1
    one.close()
