"""Baselines: what they hold of rows, and that a changed file is noticed."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from serve.errors import ConfigurationError, InvalidArgument
from serve.monitoring.baseline import Baseline, MetricBaseline, baseline_of, baseline_of_json
from serve.monitoring.baseline_answers import binary_names
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.observer import Observer
from serve.monitors import MonitoringSpec
from serve.recording.answers import answer_columns, answers
from serve.recording.views import columns_of
from serve.records import RecordedTensor
from tests.unit.monitoring.small_model import SPEC, TENSORS, baseline, lists, rows

MADE = baseline()


DEFAULT = MonitoringSpec()


def built(
    table: pa.Table, tensors: list[RecordedTensor], spec: MonitoringSpec = DEFAULT, labels: list[object] | None = None,
) -> Baseline:
    return build_baseline(table, tensors, spec, model="m", version="1", digest="d", source="training", created_ns=1, labels=labels)


def scalar(kind: str, name: str, datatype: str, index: int = 0) -> RecordedTensor:
    return RecordedTensor(kind, name, datatype, (1,), index)       # type: ignore[arg-type]


def test_what_is_kept_of_numbers() -> None:
    table, _ = rows(4000, 1)
    x = table["in_x"].chunk(0).values.to_numpy().reshape(-1, 4)
    assert [one.name for one in MADE.numeric] == ["x[0]", "x[1]", "x[2]", "x[3]"]
    for i, one in enumerate(MADE.numeric):
        assert (one.column, one.index, one.datatype, one.rows, one.nulls, one.nans, one.infinites) == ("in_x", i, "FP32", 4000, 0, 0, 0)
        assert (one.minimum, one.maximum) == (x[:, i].min(), x[:, i].max())
        assert one.mean == pytest.approx(x[:, i].mean(dtype=np.float64), abs=1e-6)
        assert one.std == pytest.approx(x[:, i].std(dtype=np.float64), abs=1e-5)
        want = np.bincount(np.searchsorted(one.edges, x[:, i], side="right"), minlength=32)
        assert one.counts == tuple(want.tolist())
        assert np.dot(one.counts, one.means) / 4000 == pytest.approx(one.mean, abs=1e-6)
        assert all(np.diff(one.means) >= 0)


def test_what_is_kept_of_categories_vectors_and_answers() -> None:
    (colour,), (vector,), found = MADE.categories, MADE.embeddings, MADE.answers
    assert set(colour.values) == {"red", "green", "blue"}
    assert sum(colour.counts) == 4000
    assert colour.is_complete
    assert (vector.size, vector.rows) == (16, 4000)
    assert vector.bandwidth == pytest.approx(np.sqrt(2 * 16), rel=0.05)
    assert found is not None
    assert found.classes == ("0", "1", "2")
    assert (found.positive, found.scored, found.first_scored) == ("", (0, 1, 2), 0)
    assert np.sum(found.confusion) == 4000
    assert MADE.performance["accuracy"].value == pytest.approx(np.trace(found.confusion) / 4000)
    assert all(one.is_calibrated and all(np.diff(one.values) >= -1e-12) for one in (*found.maps, found.confidence) if one is not None)


def test_the_file_comes_back_and_is_pinned() -> None:
    text = MADE.to_json()
    back = baseline_of_json(text)
    assert back == MADE
    assert back.sha256 == MADE.sha256
    assert back.id.startswith("1-")
    document = json.loads(text)
    with pytest.raises(InvalidArgument, match="it was changed"):
        baseline_of({**document, "rows": 5})
    with pytest.raises(InvalidArgument, match="format = 2"):
        baseline_of({**document, "format": 2})
    with pytest.raises(InvalidArgument, match="surprise"):
        baseline_of({**document, "surprise": 1})
    with pytest.raises(InvalidArgument, match=r"numeric\.0\.edges"):
        baseline_of({**document, "numeric": [{**document["numeric"][0], "edges": ["x"]}]})
    broken = {**document, "numeric": [{**document["numeric"][0], "edges": [1.0, 0.0]}]}
    del broken["sha256"]
    with pytest.raises(InvalidArgument, match="ascending"):
        baseline_of(broken)
    assert replace(MADE, created_ns=2).sha256 != MADE.sha256


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"', "[" * 100_000])
def test_what_is_no_baseline_is_refused(content: str) -> None:
    with pytest.raises(InvalidArgument, match="the baseline is"):
        baseline_of_json(content)


def test_too_few_rows_and_labels_of_other_rows_are_refused() -> None:
    table, true = rows(29)
    with pytest.raises(InvalidArgument, match="29 rows make no baseline"):
        built(table, list(TENSORS))
    with pytest.raises(InvalidArgument, match="28 labels for 29 rows"):
        built(table, list(TENSORS), labels=list(true[:28]))
    with pytest.raises(ConfigurationError, match="'nope' is not recorded"):
        built(rows(50)[0], list(TENSORS), MonitoringSpec(features=("nope",)))


def test_failed_requests_are_not_in_it() -> None:
    table, true = rows(60)
    marked = table.append_column("row", pa.array([-1 if i < 10 else 0 for i in range(60)], pa.int32()))
    found = built(marked, list(TENSORS), labels=list(true))
    assert found.rows == 50
    assert found.numeric[0].rows == 50
    assert np.sum(found.answers.confusion if found.answers else 0) == 50


def test_columns_of_other_shapes_and_missing_ones_are_left_out_with_a_reason() -> None:
    table, _ = rows(50)
    tensors = [*TENSORS, RecordedTensor("in", "words", "BYTES", (3,), 3), RecordedTensor("in", "free", "FP32", (-1,), 4),
               RecordedTensor("in", "gone", "FP32", (2,), 5)]
    found = built(table.append_column("in_free", pa.array([[1.0]] * 50)), tensors, SPEC)
    assert set(found.skipped) == {"in_words", "in_free", "in_gone"}
    assert len(found.numeric) == 4


@pytest.mark.parametrize(("datatype", "column"), [
    ("BOOL", pa.array([True, False, True, None] * 20)), ("BYTES", pa.array([b"a", b"b", b"\xff", None] * 20)),
    ("BYTES", pa.array(["a", "b", "ÿ", None] * 20).dictionary_encode()),
])
def test_categories_of_every_kind(datatype: str, column: pa.Array) -> None:
    found = built(pa.table({"in_c": column}), [scalar("in", "c", datatype)])
    (one,) = found.categories
    assert (one.nulls, one.rows, one.others) == (20, 80, 0)
    cells = found.cells()
    Observer(found).observe(pa.table({"in_c": column.slice(1, 70)}), cells)
    assert cells.categories["in_c"].counts[-2] == 0
    assert cells.categories["in_c"].counts.sum() == 70


def test_only_the_most_frequent_categories_are_named() -> None:
    values = [f"v{i}" for i in range(300) for _ in range(2 if i < 255 else 1)]
    (one,) = built(pa.table({"in_c": pa.array(values)}), [scalar("in", "c", "BYTES")]).categories
    assert len(one.values) == 255
    assert set(one.counts) == {2}
    assert one.others == 45
    assert not one.is_complete


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 3), pa.list_(pa.float32()), pa.fixed_shape_tensor(pa.float32(), (3,))])
def test_lists_of_every_kind_with_nulls(kind: pa.DataType) -> None:
    values = [[float(i), None if i == 7 and not isinstance(kind, pa.FixedShapeTensorType) else 1.0, -float(i)] for i in range(60)]
    given: list[object] = [None if i % 5 == 0 else value for i, value in enumerate(values)]
    column = pa.array(given, kind.storage_type if isinstance(kind, pa.FixedShapeTensorType) else kind)
    if isinstance(kind, pa.FixedShapeTensorType):
        column = pa.ExtensionArray.from_storage(kind, column)
    found = built(pa.table({"in_x": column}), [RecordedTensor("in", "x", "FP32", (3,), 0)])
    assert [one.nulls for one in found.numeric] == [12] * 3
    assert [one.nans for one in found.numeric] == [0, 0 if isinstance(kind, pa.FixedShapeTensorType) else 1, 0]
    assert [(one.minimum, one.maximum) for one in found.numeric] == [(1, 59), (1, 1), (-59, -1)]


def test_a_feature_without_a_finite_value_is_kept_and_never_judged() -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    x[:, 1] = np.nan
    found = built(pa.table({"in_x": lists(x)}), [RecordedTensor("in", "x", "FP64", (2,), 0)])
    assert found.numeric[1].edges == ()
    assert found.numeric[1].nans == 50
    assert baseline_of_json(found.to_json()) == found


def test_numbers_at_the_ends_of_their_type_make_a_file() -> None:
    x = np.random.default_rng(0).normal(size=(50, 1))
    x[0], x[1] = 1.7e308, -1.7e308
    found = built(pa.table({"in_x": pa.array(x.ravel())}), [scalar("in", "x", "FP64")])
    assert baseline_of_json(found.to_json()).numeric[0].maximum == 1.7e308


def test_many_elements_are_a_vector_unless_they_are_named() -> None:
    x = np.random.default_rng(0).normal(size=(60, 300)).astype(np.float32)
    tensors = [RecordedTensor("in", "x", "FP32", (3, 100), 0)]
    assert [one.name for one in built(pa.table({"in_x": lists(x)}), tensors, MonitoringSpec()).embeddings] == ["x"]
    assert len(built(pa.table({"in_x": lists(x)}), tensors, MonitoringSpec(features=("x",))).numeric) == 300


def test_a_regression_watches_what_it_predicts() -> None:
    stream = np.random.default_rng(1)
    y = stream.normal(10, 2, 400)
    table = pa.table({"in_x": pa.array(stream.normal(size=400)), "out_x": pa.array((y + 0.5).astype(np.float32))})
    found = built(table, [scalar("in", "x", "FP64"), scalar("out", "x", "FP32")], MonitoringSpec(), labels=[*y.tolist()[:399], None])
    assert (found.task, found.prediction, found.answers) == ("regression", "out_x", None)
    assert [one.name for one in found.numeric] == ["x", "out_x"]
    assert found.performance["mae"].value == pytest.approx(0.5, abs=1e-6)
    assert found.performance["bias"].value == pytest.approx(0.5, abs=1e-6)


SCORES = np.random.default_rng(2).dirichlet([1.0, 1.0], 200).astype(np.float32)


@pytest.mark.parametrize(("spec", "tensors", "column"), [
    (MonitoringSpec(), [RecordedTensor("out", "p", "FP32", (2,), 0)], lists(SCORES)),
    (MonitoringSpec(classes=("no", "yes")), [RecordedTensor("out", "p", "FP32", (2,), 0)], lists(SCORES)),
    (MonitoringSpec(classes=("no", "yes"), positive="no"), [RecordedTensor("out", "p", "FP32", (2,), 0)], lists(SCORES)),
    (MonitoringSpec(task="classification"), [scalar("out", "p", "FP32")], pa.array(SCORES[:, 1])),
    (MonitoringSpec(positive="bad"), [scalar("out", "p", "FP32")], pa.array(SCORES[:, 1])),
    (MonitoringSpec(classes=("no", "yes"), positive="no"), [scalar("out", "p", "FP32")], pa.array(SCORES[:, 1])),
    (MonitoringSpec(classes=("a", "b")), [scalar("out", "p", "INT32")], pa.array((SCORES[:, 1] > 0.3).astype(np.int32))),
    (MonitoringSpec(), [scalar("out", "p", "INT64")], pa.array((SCORES[:, 1] * 20).astype(np.int64))),
    (MonitoringSpec(), [scalar("out", "p", "BYTES")], pa.array(["x" if p > 0.6 else "y" for p in SCORES[:, 1]])),
    (MonitoringSpec(), [scalar("out", "p", "BOOL")], pa.array((SCORES[:, 1] > 0.3).tolist())),
    (MonitoringSpec(task="classification", prediction="p"), [RecordedTensor("out", "p", "INT64", (2,), 0)],
     lists((SCORES * 9).astype(np.int64))),
])
def test_answers_are_read_as_labels_are_joined(spec: MonitoringSpec, tensors: list[RecordedTensor], column: pa.Array) -> None:
    """The classes that are counted are those that serve.recording.answers names, row by row."""
    table = pa.table({"out_p": column})
    found = built(table, tensors, spec).answers
    said = answers(table, answer_columns(columns_of(tensors), spec), spec)
    assert found is not None
    assert found.positive == (said.positive if len(found.classes) == 2 and said.positive else found.positive)
    counted = dict(zip(found.classes, found.counts, strict=True))
    names, want = np.unique(said.prediction.astype(str), return_counts=True)
    assert {name: count for name, count in counted.items() if count} == dict(zip(names.tolist(), want.tolist(), strict=True))
    if said.score is not None and found.maps:
        whole = np.array(found.maps[0].counts).sum(axis=0)
        slots = np.searchsorted(found.maps[0].edges, said.score.astype(np.float32), side="right")
        assert whole.tolist() == np.bincount(slots, minlength=len(whole)).tolist()


@pytest.mark.parametrize("spec", [
    MonitoringSpec(task="classification"), MonitoringSpec(positive="bad"), MonitoringSpec(classes=("no", "yes")),
    MonitoringSpec(classes=("no", "yes"), positive="no"), MonitoringSpec(positive="0")])
def test_the_two_classes_of_one_score_are_those_that_are_recorded(spec: MonitoringSpec) -> None:
    table, spec = pa.table({"out_p": pa.array([0.1, 0.9])}), replace(spec, task="classification")
    said = answers(table, answer_columns(columns_of([scalar("out", "p", "FP32")]), spec), spec)
    assert list(binary_names(spec)) == said.prediction.tolist()


def test_the_band_is_three_deviations_and_wider_for_fewer_rows() -> None:
    one = MADE.performance["accuracy"]
    low, high = one.band(one.chunk_rows)
    assert (low + high) / 2 == pytest.approx(one.chunk_mean)
    assert (high - low) / 6 == pytest.approx(one.chunk_std)
    assert one.band(100 * one.chunk_rows) == (low, high)
    narrow = one.band(one.chunk_rows // 4)
    assert narrow[1] - narrow[0] == pytest.approx(min(2 * (high - low), 2.0), rel=1e-6)
    assert one.band(1)[0] == 0.0


def test_a_uniform_feature_has_a_chi_squared_fit_to_its_own_bins() -> None:
    """What a window of the same law brings is spread over the bins as the baseline is."""
    cells = MADE.cells()
    Observer(MADE, 1).observe(rows(3000, 77)[0], cells)
    p = [stats.chi2_contingency([np.array(one.counts)[1:-1], cells.numeric["in_x"].binned(one.index, len(one.edges))[1:-1]]).pvalue
         for one in MADE.numeric]
    assert min(p) > 1e-3


def test_one_error_in_a_window_is_no_alert_where_the_baseline_had_none() -> None:
    perfect = MetricBaseline(value=1.0, chunk_mean=1.0, chunk_std=0.0, chunk_rows=100, n_chunks=5)
    assert perfect.band(500) == (1 - 3 / 500, 1.0)
    unbounded = replace(perfect, lowest=0.0, highest=None)
    assert unbounded.band(500) == (1.0, 1.0)


@pytest.mark.parametrize(("part", "change", "said"), [
    ("numeric", {"counts": [1, 2]}, "edges"), ("numeric", {"means": [0.5]}, "means"), ("numeric", {"index": 5}, "elements"),
    ("numeric", {"scale": 0.0}, "scale"), ("categories", {"counts": [1]}, "values"), ("embeddings", {"mean": []}, "random features"),
    ("answers", {"counts": [1]}, "counts"), ("answers", {"confusion": [[1]]}, "confusion"), ("answers", {"positive": "x"}, "positive")])
def test_parts_that_do_not_fit_each_other(part: str, change: dict[str, object], said: str) -> None:
    document = MADE.as_document()
    del document["sha256"]
    old = document[part]
    document[part] = {**old, **change} if isinstance(old, dict) else [{**old[0], **change}, *old[1:]]
    with pytest.raises(InvalidArgument, match=said):
        baseline_of(document)


def test_labels_of_a_regression_that_are_no_numbers_are_unknown() -> None:
    tensors = [scalar("out", "y", "FP32")]
    table = pa.table({"out_y": pa.array(np.arange(100, dtype=np.float32))})
    labels: list[object] = [float(i) + 1 for i in range(100)]
    labels[3], labels[4] = "n/a", True
    made = built(table, tensors, MonitoringSpec(task="regression"), labels)
    assert made.performance["mae"].value == pytest.approx((98 + 3) / 99)
