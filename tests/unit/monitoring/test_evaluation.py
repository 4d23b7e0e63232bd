"""A window judged: which verdicts, which words, and how much of it the history keeps."""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest

from serve.errors import InvalidArgument
from serve.monitoring.alerts import Kind
from serve.monitoring.baseline import Baseline
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.cells import Cells
from serve.monitoring.distributions import MAX_CATEGORIES, shape_of
from serve.monitoring.evaluation import MAX_DETAILED, MAX_FEATURES, MAX_NAMED, MAX_SHAPES, WindowEvaluator, performance
from serve.monitoring.observer import Observer
from serve.monitoring.ports import Evaluation
from serve.monitors import MonitoringSpec
from serve.records import RecordedTensor
from serve.store.canonical import canonical
from tests.unit.monitoring.rows import DIGEST, TENSORS, rows

SPEC = MonitoringSpec(min_rows=200)
SERIES = ("digits", "1", "1")


def built(table: pa.Table, tensors: tuple[RecordedTensor, ...] = TENSORS, spec: MonitoringSpec = SPEC, **more: object) -> Baseline:
    return build_baseline(table, tensors, spec, model="digits", version="1", digest=DIGEST, source="training", created_ns=1, **more)   # type: ignore[arg-type]


BASELINE = built(pa.Table.from_batches([rows(2000, 0, seed=99)]))


def counted(batch: pa.RecordBatch | pa.Table, baseline: Baseline = BASELINE) -> Cells:
    cells = baseline.cells()
    Observer(baseline, 1).observe(batch, cells)
    return cells


def judged(
    cells: Cells, baseline: Baseline = BASELINE, stable: tuple[Cells, Cells] | None = None, spec: MonitoringSpec = SPEC,
) -> Evaluation:
    known = {baseline.sha256: baseline}
    return WindowEvaluator(known.get)(SERIES, cells, stable, spec)


def verdicts(found: Evaluation) -> Mapping[Kind, bool]:
    return {kind: one.is_bad for kind, one in found.judged.items()}


def test_clean_rows_are_said_to_be_good() -> None:
    found = judged(counted(rows(1000, 0, seed=1)))
    assert verdicts(found) == {Kind.DRIFT: False, Kind.PREDICTION_DRIFT: False, Kind.DATA_INVALID: False}
    assert (found.document["concluded"], found.document["n_drifted"], found.document["baseline"]) == (True, 0, BASELINE.id)


def test_of_few_rows_nothing_is_said() -> None:
    found = judged(counted(rows(199, 0, seed=1, shift=3.0)))
    assert verdicts(found) == {}
    assert (found.document["concluded"], found.document["reason"]) == (False, "199 rows; 200 are needed")
    assert found.document["features"] == found.document["counts"] == {}
    assert found.violations["x[0]"]["out_of_range"] > 0, "what was counted is counted all the same"


def test_drift_is_named_with_its_size_the_worst_first() -> None:
    batch = rows(1000, 0, seed=1, shift=2.0, colours=(b"red",), missing=100)
    found = judged(counted(batch))
    assert verdicts(found) == {Kind.DRIFT: True, Kind.PREDICTION_DRIFT: True, Kind.DATA_INVALID: True}
    evidence = found.judged[Kind.DRIFT].evidence
    assert [one["feature"] for one in evidence["features"]] == ["colour", "x[0]"]
    assert evidence["features"][0]["psi"] > evidence["features"][1]["psi"] > 0.25
    assert (evidence["n_features"], evidence["baseline"], evidence["rows"]) == (2, BASELINE.id, 1000)
    assert evidence["said"].startswith("colour (PSI ")
    assert "x[1] not finite 10.00%" in found.judged[Kind.DATA_INVALID].evidence["said"]
    canonical(dict(evidence))       # JSON, as the audit wants it
    canonical(dict(found.document))


def test_a_canary_is_held_against_stable_and_not_only_against_the_baseline() -> None:
    stable = counted(rows(1000, 0, seed=1, shift=2.0))
    same = judged(counted(rows(500, 0, seed=2, shift=2.0)), stable=(counted(rows(500, 0, seed=2, shift=2.0)), stable))
    other = judged(counted(rows(500, 0, seed=2)), stable=(counted(rows(500, 0, seed=2)), stable))
    assert (verdicts(same)[Kind.DRIFT], verdicts(same)[Kind.CANARY_DRIFT]) == (True, False)
    assert (verdicts(other)[Kind.DRIFT], verdicts(other)[Kind.CANARY_DRIFT]) == (False, True)
    against = other.document["against_stable"]
    assert (against["rows"], against["stable_rows"]) == (500, 1000)
    assert next(iter(against["features"])) == "x[0]"
    few = judged(counted(rows(500, 0, seed=2)), stable=(counted(rows(500, 0, seed=2)), counted(rows(50, 0, seed=1))))
    assert Kind.CANARY_DRIFT not in verdicts(few)
    assert few.document["against_stable"]["reason"] == "50 rows to compare with; 200 are needed"


def test_cells_of_a_baseline_that_nobody_knows() -> None:
    with pytest.raises(InvalidArgument, match="is not known any more"):
        WindowEvaluator(lambda sha256: None)(SERIES, counted(rows(10, 0)), None, SPEC)


# Performance

BANDS = {"accuracy": (0.9, 0.96), "mae": (0.5, 1.5), "auc": (0.95, 1.0)}


@pytest.mark.parametrize(("metrics", "spec", "expected"), [
    ({"accuracy": 0.95, "auc": 0.1}, {}, False), ({"accuracy": 0.89}, {}, True), ({"accuracy": 0.99}, {}, False),
    ({"accuracy": 0.1, "auc": 0.97}, {"metric": "auc"}, False), ({"mae": 1.6, "rmse": 9.0}, {}, True), ({"mae": 0.1}, {}, False),
    ({"accuracy": 0.95}, {"metric": "accuracy", "min_metric": 0.96}, True), ({"mae": 1.6}, {"metric": "mae", "min_metric": 2.0}, False),
    ({"f1": 0.1}, {}, None), ({"f1": 0.1}, {"metric": "f1"}, None), ({}, {}, None)])
def test_performance(metrics: dict[str, float], spec: dict[str, object], expected: bool | None) -> None:
    found = performance(metrics, BANDS, MonitoringSpec(min_rows=100, **spec), "b", 100)    # type: ignore[arg-type]
    assert (found.is_bad if found is not None else None) == expected
    assert performance(metrics, BANDS, MonitoringSpec(min_rows=100, **spec), "b", 99) is None   # type: ignore[arg-type]


def test_what_was_expected_of_it() -> None:
    found = performance({"mae": 1.6}, BANDS, MonitoringSpec(min_rows=1), "b", 10)
    assert found is not None
    assert found.evidence == {"baseline": "b", "metric": "mae", "value": 1.6, "bound": 1.5, "rows": 10,
                              "said": "mae 1.6, at most 1.5 was expected"}


# What the history keeps

def wide(n_features: int, shifted: int, n: int = 400, seed: int = 0) -> pa.Table:
    x = np.random.default_rng(seed).normal(size=(n, n_features)).astype(np.float32)
    x[:, :shifted] += np.linspace(3, 1, shifted, dtype=np.float32)
    return pa.table({"seq": pa.array(np.arange(n)), "in_x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), n_features)})


def test_a_window_of_many_features_is_bounded_in_the_history() -> None:
    tensors = (RecordedTensor("in", "x", "FP32", (700,), 0),)
    spec = MonitoringSpec(features=("x",), min_rows=200)
    baseline = built(wide(700, 0, seed=1), tensors, spec)
    found = judged(counted(wide(700, 40), baseline), baseline, spec=spec)
    document = found.document
    assert (document["n_features"], len(document["features"]), len(document["counts"])) == (700, MAX_FEATURES, MAX_SHAPES)
    assert document["n_drifted"] >= 40
    detailed = [name for name, one in document["features"].items() if "js" in one]
    assert len(detailed) == MAX_DETAILED
    assert "x[0]" in detailed
    evidence = found.judged[Kind.DRIFT].evidence
    assert (len(evidence["features"]), evidence["n_features"]) == (MAX_NAMED, document["n_drifted"])
    assert evidence["said"].endswith(f"and {document['n_drifted'] - 4} more")
    assert len(json.dumps(document)) < 60_000


def test_embeddings_and_what_they_say() -> None:
    tensors = (RecordedTensor("in", "x", "FP32", (8,), 0),)
    spec = MonitoringSpec(embeddings=("x",), min_rows=200)
    baseline = built(wide(8, 0, n=1000, seed=1), tensors, spec)
    clean = judged(counted(wide(8, 0, n=1000, seed=2), baseline), baseline, spec=spec)
    assert verdicts(clean) == {Kind.EMBEDDING_DRIFT: False, Kind.DATA_INVALID: False}
    moved = judged(counted(wide(8, 8, n=1000, seed=2), baseline), baseline, spec=spec)
    assert verdicts(moved)[Kind.EMBEDDING_DRIFT]
    assert moved.judged[Kind.EMBEDDING_DRIFT].evidence["said"] == "x"
    assert moved.document["embeddings"]["x"]["drifted"]
    assert moved.document["counts"] == {}
    assert shape_of(baseline, "x") is None


def test_shapes_of_many_categories_are_folded() -> None:
    words = [f"w{i:02d}".encode() for i in range(60)]
    tensors = (RecordedTensor("in", "word", "BYTES", (1,), 0),)
    baseline = built(pa.table({"in_word": pa.array(words * 10, pa.binary())}), tensors, MonitoringSpec(min_rows=30))
    table = pa.table({"in_word": pa.array([words[0]] * 90 + [b"new"] * 10, pa.binary()), "seq": pa.array(range(100))})
    found = judged(counted(table, baseline), baseline, spec=MonitoringSpec(min_rows=30))
    shape = shape_of(baseline, "word")
    assert shape is not None
    assert (len(shape.labels), shape.labels[-1], sum(shape.counts)) == (MAX_CATEGORIES + 1, "others", 600)
    made = shape.document(found.document["counts"]["word"])
    assert (made["current"][0], made["current"][-1]) == (0.9, 0.1)
    assert sum(made["baseline"]) == pytest.approx(1)
    assert found.violations["word"]["unseen_category"] == 10
    assert shape_of(baseline, "nothing") is None


def finite(document: object) -> bool:
    canonical(document)     # raises for what JSON cannot say
    return True


def test_categories_of_which_each_is_rare_say_nothing_and_break_nothing() -> None:
    names = tuple(f"id-{i}".encode() for i in range(5000))
    baseline = built(pa.Table.from_batches([rows(1000, 0, seed=99, colours=names)]))
    found = judged(counted(rows(1000, 0, seed=1, colours=names), baseline), baseline)
    colour = found.document["features"]["colour"]
    assert (colour["psi"], colour["critical"], colour["drifted"]) == (0, 0, False)
    assert colour["new_share"] > 0.5
    assert finite(found.document)


def test_numbers_near_the_end_of_doubles() -> None:
    tensors = (RecordedTensor("in", "x", "FP64", (1,), 0),)
    draw = np.random.default_rng(0).normal(size=500)
    baseline = built(pa.table({"in_x": pa.array(draw)}), tensors)
    with np.errstate(over="ignore"):
        found = judged(counted(pa.table({"in_x": pa.array(np.where(draw > 0, 1.7e308, draw))}), baseline), baseline)
    assert found.document["features"]["x"]["drifted"]
    assert finite(found.document)
    assert all(finite(dict(one.evidence)) for one in found.judged.values())
