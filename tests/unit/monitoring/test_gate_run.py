"""Gates over real models: each kind of wrong candidate is found, by its own check."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import clock
from serve.errors import ConfigurationError, NotFound
from serve.models.offline import OfflineModel
from serve.models.runtime import start_runtime
from serve.monitoring.gate_report import GateReport, Verdict
from serve.monitoring.gate_run import Clock, load_versions, run_gate
from serve.monitoring.gate_settings import GateSettings
from serve.monitoring.replay_rows import ReplayRows
from serve.routing.documents import validated
from tests.unit.monitoring.gated_models import WEIGHTS, classifier, failing_over, regressor, rows, write_repository

CLOCK = Clock(clock.monotonic_ns, clock.wall_ns)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    start_runtime("cpu")
    return write_repository(tmp_path_factory.mktemp("gate"))


def gated(repository: Path, model: str, candidate: str, replayed: ReplayRows, **given: Any) -> GateReport:
    settings = validated(GateSettings, {"latency": None, **given})
    versions = load_versions(OfflineModel(repository, model), candidate, settings, "cpu")
    return run_gate(versions, replayed, settings, CLOCK, lambda stage, done, of: None)


def labelled(n: int = 1500) -> ReplayRows:
    x, truth = rows(n)
    return ReplayRows(n, {"x": x}, "rows of a test", truth.tolist())


def unlabelled(n: int = 600) -> ReplayRows:
    return ReplayRows(n, {"x": rows(n)[0]}, "rows of a test")


def failures(report: GateReport) -> list[str]:
    return [check.name for check in report.checks if check.status == "fail"]


def test_a_version_that_is_as_good_passes_and_the_report_says_which(repository: Path) -> None:
    report = gated(repository, "classes", "2", labelled())
    assert (report.verdict, failures(report)) == (Verdict.PASS, [])
    assert report.stable is not None
    assert (report.candidate.version, report.stable.version) == ("2", "1")
    assert report.candidate.digest != report.stable.digest
    assert (report.data.rows, report.data.labelled, report.data.source) == (1500, 1500, "rows of a test")
    assert report.started <= report.finished
    assert GateReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(("candidate", "failed"), [
    ("3", ["agreement"]), ("4", ["self_test", "not_finite", "agreement"]), ("5", ["schema"]), ("6", ["consistency", "agreement"]),
    ("7", ["failed"])])
def test_each_wrong_candidate_is_found(repository: Path, candidate: str, failed: list[str]) -> None:
    report = gated(repository, "classes", candidate, unlabelled())
    assert (report.verdict, failures(report)) == (Verdict.FAIL, failed)


def test_a_worse_one_is_found_by_its_labels(repository: Path) -> None:
    report = gated(repository, "classes", "3", labelled(), metrics={"accuracy": {"max_drop": 0.01}, "f1": {"max_drop": 0.01}})
    assert failures(report) == ["accuracy_vs_stable", "f1_vs_stable"]


def test_few_rows_are_not_enough(repository: Path) -> None:
    assert gated(repository, "classes", "2", unlabelled(50)).verdict is Verdict.NOT_ENOUGH_DATA
    assert gated(repository, "classes", "2", ReplayRows(0, {})).verdict is Verdict.NOT_ENOUGH_DATA


def test_numbers_are_held_against_numbers(repository: Path) -> None:
    x, _ = rows(500)
    truth = (x @ WEIGHTS[:, 0]).tolist()
    replayed = ReplayRows(500, {"x": x}, labels=truth)
    assert failures(gated(repository, "numbers", "2", replayed, stable="1")) == ["mae_vs_stable"]
    report = gated(repository, "numbers", "1", replayed, stable="2", metrics={"mae": {"max": 1e-4, "max_rise": 0}})
    assert (report.verdict, failures(report)) == (Verdict.PASS, [])


def test_numbers_that_are_none_fail(tmp_path: Path) -> None:
    for version, weights in (("1", WEIGHTS[:, :1]), ("2", WEIGHTS[:, :1] * np.nan), ("3", WEIGHTS[:, :1] * np.inf)):
        regressor(tmp_path / "m" / version / "model.onnx", weights)
    x, _ = rows(300)
    replayed = ReplayRows(300, {"x": x}, labels=(x @ WEIGHTS[:, 0]).tolist())
    for candidate in ("2", "3"):
        report = gated(tmp_path, "m", candidate, replayed, stable="1", metrics={"mae": {"max": 9.0, "max_rise": 0.1}})
        assert {"self_test", "not_finite"} <= set(failures(report))
        assert {check.status for check in report.checks if check.name.startswith("mae")} <= {"not_enough_data", "fail"}


def test_auc_of_a_class_against_the_rest(repository: Path) -> None:
    report = gated(repository, "classes", "2", labelled(), metrics={"auc": {"min": 0.6, "max_drop": 0.02}}, positive="2")
    checks = {check.name: check for check in report.checks}
    assert (report.verdict, checks["auc"].details) == (Verdict.PASS, {"positive": "2"})


def test_by_itself(repository: Path) -> None:
    report = gated(repository, "classes", "2", labelled(), stable="none", metrics={"accuracy": {"min": 0.8}})
    assert (report.verdict, report.stable) == (Verdict.PASS, None)


def test_answers_that_were_recorded_are_repeated(repository: Path) -> None:
    x, _ = rows(300)
    start = OfflineModel(repository, "classes").load("1", "cpu")
    scores = np.vstack([start.run({"x": x[at:at + 10]})["scores"] for at in range(0, 300, 10)])
    recorded = {"scores": scores, "label": scores.argmax(axis=1)}
    ours = ReplayRows(300, {"x": x}, recorded=recorded, digests=[start.digest] * 300)
    checks = {check.name: check for check in gated(repository, "classes", "2", ours).checks}
    assert (checks["recorded"].status, checks["recorded"].n) == ("pass", 300)
    wrong = ReplayRows(300, {"x": x}, recorded={**recorded, "label": 1 - recorded["label"]}, digests=[start.digest] * 300)
    assert failures(gated(repository, "classes", "2", wrong)) == ["recorded"]
    others = ReplayRows(300, {"x": x}, recorded=recorded, digests=["sha256:another"] * 300)
    assert "recorded" not in {check.name for check in gated(repository, "classes", "2", others).checks}


def test_a_row_none_of_whose_outputs_was_recorded_repeats_nothing(repository: Path) -> None:
    x, _ = rows(300)
    digest = OfflineModel(repository, "classes").load("1", "cpu").digest
    label: list[Any] = [None] * 299 + [np.array(9)]
    replayed = ReplayRows(300, {"x": x}, recorded={"label": label}, digests=[digest] * 300)
    found = {check.name: check for check in gated(repository, "classes", "2", replayed).checks}["recorded"]
    assert (found.status, found.n, found.value) == ("fail", 1, 0.0)


def test_a_candidate_that_cannot_answer_its_largest_batch_fails(tmp_path: Path) -> None:
    classifier(tmp_path / "m" / "1" / "model.onnx")
    failing_over(tmp_path / "m" / "2" / "model.onnx", 300)
    (tmp_path / "m" / "model.yaml").write_text("max_batch_size: 512\n")
    report = gated(tmp_path, "m", "2", unlabelled(), latency={"runs": 10, "max_median_ratio": None})
    assert failures(report) == ["batch_512"]
    # Where the stable version is the one that cannot, there is nothing to compare with.
    report = gated(tmp_path, "m", "1", unlabelled(), stable="2", latency={"runs": 10, "max_median_ratio": None})
    assert failures(report) == []
    names = [check.name for check in report.checks]
    assert "latency_median_512" in names
    assert "latency_median_512_vs_stable" not in names


def test_labels_that_are_no_classes_of_the_model_are_no_truth(repository: Path) -> None:
    x, truth = rows(1500)
    named = ReplayRows(1500, {"x": x}, labels=[["cat", "dog", "owl"][one] for one in truth])
    with pytest.raises(ConfigurationError, match="labels are 'cat', 'dog', 'owl'; classes are '0', '1', '2'"):
        gated(repository, "classes", "3", named)


def test_empty_labels_are_none(repository: Path) -> None:
    x, truth = rows(1500)
    some = ReplayRows(1500, {"x": x}, labels=[str(one) if at % 3 else "" for at, one in enumerate(truth)])
    report = gated(repository, "classes", "2", some)
    assert (report.data.labelled, report.verdict) == (1000, Verdict.PASS)


def test_a_stable_version_without_the_prediction_is_told(repository: Path, tmp_path: Path) -> None:
    classifier(tmp_path / "m" / "1" / "model.onnx", score="logits")
    classifier(tmp_path / "m" / "2" / "model.onnx")
    (tmp_path / "m" / "model.yaml").write_text("version_policy: all\n")
    with pytest.raises(ConfigurationError, match="output 'scores' is the prediction, and the stable version has none of that name"):
        gated(tmp_path, "m", "2", labelled(), allow_schema_change=True)


def test_agreement_of_an_output_that_there_is_not(repository: Path) -> None:
    with pytest.raises(ConfigurationError, match="agreement.outputs names 'score'; version 2 has label, scores"):
        gated(repository, "classes", "2", unlabelled(), agreement={"outputs": ["label", "score"]})


def test_time_is_measured_at_each_batch_size(repository: Path) -> None:
    limits = {"runs": 60, "seconds": 5.0, "max_median_ratio": 50.0}
    report = gated(repository, "classes", "2", unlabelled(), latency=limits)
    found = {check.name: check for check in report.checks if check.name.startswith("latency_median")}
    assert list(found) == [name for size in (1, 8, 16) for name in (f"latency_median_{size}", f"latency_median_{size}_vs_stable")]
    assert all((check.value or 0) > 0 and check.n == 60 for check in found.values())
    assert report.verdict is Verdict.PASS


@pytest.mark.parametrize(("model", "candidate", "given", "text"), [
    ("classes", "1", {}, "version 1 is the stable version itself; name another one with --stable"),
    ("classes", "9", {}, "version 9 of 'classes' is not in"),
    ("classes", "2", {"stable": "8"}, "version 8 of 'classes' is not in"),
    ("absent", "2", {}, "no model 'absent' in"),
])
def test_what_cannot_be_asked_is_said(repository: Path, model: str, candidate: str, given: dict[str, Any], text: str) -> None:
    with pytest.raises((ConfigurationError, NotFound), match=text):
        gated(repository, model, candidate, unlabelled(), **given)


def test_the_only_version_is_gated_by_itself_only_when_that_is_asked_for(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "1").symlink_to(repository / "numbers" / "1")
    with pytest.raises(ConfigurationError, match="say --stable none to gate it by itself"):
        gated(tmp_path, "m", "1", unlabelled())
    assert gated(tmp_path, "m", "1", unlabelled(), stable="none").verdict is Verdict.PASS
