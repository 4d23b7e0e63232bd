"""The verdict: each check on either side of its limit, and in between, where the data do not say."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve.errors import Unprocessable
from serve.monitoring.gate import verdict
from serve.monitoring.gate_evidence import Agreed, Classified, Consistency, Estimated, Evidence, LatencySample, Scored
from serve.monitoring.gate_report import Check, CheckStatus, Verdict
from serve.monitoring.gate_settings import GateSettings
from serve.routing.documents import validated

PASS, FAIL, TOO_LITTLE, TOLD = CheckStatus.PASS, CheckStatus.FAIL, CheckStatus.NOT_ENOUGH_DATA, CheckStatus.TOLD
GOOD = Evidence(candidate="2", stable="1", rows=1000, consistency=Consistency(256, 0, 1e-7), agreement=Agreed(990, 1000))


def settings(**given: Any) -> GateSettings:
    return validated(GateSettings, given)


def checks(evidence: Evidence, **given: Any) -> dict[str, Check]:
    return {check.name: check for check in verdict(evidence, settings(**given))[1]}


def statuses(evidence: Evidence, **given: Any) -> dict[str, CheckStatus]:
    return {name: check.status for name, check in checks(evidence, **given).items()}


def classified(n: int, right: float, was_right: float) -> Classified:
    """Rows on which the candidate, and the stable version, are right for so many; the rows of the one are among those of the other."""
    truth = np.zeros(n, np.int64)
    candidate, stable = np.ones(n, np.int64), np.ones(n, np.int64)
    candidate[: round(right * n)] = 0
    stable[: round(was_right * n)] = 0
    return Classified(("a", "b"), truth, candidate, stable)


def test_a_good_candidate_passes() -> None:
    found, told = verdict(GOOD, settings())
    assert found is Verdict.PASS
    assert {check.name: check.status for check in told} == dict.fromkeys(
        ["self_test", "schema", "rows", "failed", "not_finite", "consistency", "agreement"], PASS)
    assert all(check.text for check in told)


@pytest.mark.parametrize(("changed", "name", "given"), [
    ({"self_test": "self-test case.json: output 'y' differs"}, "self_test", {}),
    ({"schema_change": "input 'x' is gone"}, "schema", {}),
    ({"failed": 1, "first_failure": "index out of range"}, "failed", {}),
    ({"failed": 11}, "failed", {"max_failed": 0.01}),
    ({"not_finite": 1}, "not_finite", {}),
    ({"consistency": Consistency(256, 1, 0.5, "by itself, output 'y' of row 3 is [1.5], was [1.]")}, "consistency", {}),
    ({"agreement": Agreed(850, 1000)}, "agreement", {}),
    ({"agreement": Agreed(940, 1000)}, "agreement", {"agreement": {"min": 0.96}}),
    ({"recorded": Agreed(9, 10)}, "recorded", {}),
])
def test_one_failure_fails_it_all(changed: dict[str, Any], name: str, given: dict[str, Any]) -> None:
    found, told = verdict(replace(GOOD, **changed), settings(**given))
    assert found is Verdict.FAIL
    assert [check.name for check in told if check.status is FAIL] == [name]


@pytest.mark.parametrize(("changed", "name", "given"), [
    ({"rows": 99}, "rows", {}),
    ({"agreement": Agreed(91, 100)}, "agreement", {}),
    ({"agreement": Agreed(0, 0)}, "agreement", {}),
    ({"consistency": None}, "consistency", {}),
    ({"labelled": None}, "accuracy", {"metrics": {"accuracy": {"min": 0.5}}}),
])
def test_too_little_is_no_success(changed: dict[str, Any], name: str, given: dict[str, Any]) -> None:
    found, told = verdict(replace(GOOD, **changed), settings(**given))
    assert found is Verdict.NOT_ENOUGH_DATA
    assert [check.name for check in told if check.status is TOO_LITTLE] == [name]


def test_a_failure_outweighs_a_doubt() -> None:
    assert verdict(replace(GOOD, rows=5, not_finite=1), settings())[0] is Verdict.FAIL


def test_nothing_at_all_is_no_success() -> None:
    found, told = verdict(Evidence(candidate="2", stable="1", rows=0), settings())
    assert found is Verdict.NOT_ENOUGH_DATA
    assert [check.name for check in told] == ["self_test", "schema", "rows"]


def test_a_changed_schema_may_be_taken() -> None:
    assert statuses(replace(GOOD, schema_change="input 'x' is gone"), allow_schema_change=True)["schema"] is TOLD


def test_agreement_is_only_told_where_labels_judge() -> None:
    evidence = replace(GOOD, agreement=Agreed(500, 1000, {"y": 500}), labelled=classified(1000, 0.9, 0.9))
    assert statuses(evidence)["agreement"] is TOLD
    assert checks(evidence)["agreement"].details == {"differing_rows": {"y": 500}}
    assert statuses(evidence, agreement={"min": 0.9})["agreement"] is FAIL


# --- limits and intervals -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("right", "status"), [(0.99, PASS), (0.95, TOO_LITTLE), (0.90, FAIL)])
def test_an_absolute_limit_wants_the_whole_interval(right: float, status: CheckStatus) -> None:
    evidence = replace(GOOD, labelled=classified(1000, right, right))
    assert statuses(evidence, metrics={"accuracy": {"min": 0.95}})["accuracy"] is status


def test_the_estimate_alone_may_decide() -> None:
    evidence = replace(GOOD, labelled=classified(1000, 0.95, 0.95))
    found = statuses(evidence, metrics={"accuracy": {"min": 0.95, "max_drop": 0}}, decide_by="estimate")
    assert (found["accuracy"], found["accuracy_vs_stable"]) == (PASS, PASS)


@pytest.mark.parametrize(("right", "was_right", "status"), [
    (0.95, 0.94, PASS), (0.95, 0.95, PASS), (0.942, 0.95, TOO_LITTLE), (0.90, 0.95, FAIL)])
def test_accuracy_is_not_to_fall_by_default(right: float, was_right: float, status: CheckStatus) -> None:
    evidence = replace(GOOD, labelled=classified(1000, right, was_right))
    found = checks(evidence)
    assert (found["accuracy"].status, found["accuracy_vs_stable"].status) == (TOLD, status)
    if right < was_right:
        assert found["accuracy_vs_stable"].details["only_stable_right"] == round(1000 * (was_right - right))


@pytest.mark.parametrize(("limits", "status", "limit"), [
    ({"min": 0.1}, FAIL, -0.01), ({"min": 0.1, "max_drop": 0.6}, PASS, -0.6), ({"min": 0.1, "max_drop": None}, TOLD, None)])
def test_an_absolute_limit_leaves_the_comparison_on(limits: dict[str, Any], status: CheckStatus, limit: float | None) -> None:
    evidence = replace(GOOD, labelled=classified(1000, 0.5, 0.95))
    found = checks(evidence, metrics={"accuracy": limits})
    assert (found["accuracy"].status, found["accuracy_vs_stable"].status, found["accuracy_vs_stable"].limit) == (PASS, status, limit)


@pytest.mark.parametrize(("limits", "status"), [({"max": 9.0}, FAIL), ({"max": 9.0, "max_rise": None}, TOLD)])
def test_so_does_that_of_numbers(limits: dict[str, Any], status: CheckStatus) -> None:
    truth, error = np.zeros(500), np.random.default_rng(5).normal(size=500)
    found = statuses(replace(GOOD, labelled=Estimated(truth, 2 * error, error)), metrics={"mae": limits})
    assert (found["mae"], found["mae_vs_stable"]) == (PASS, status)


def test_the_settings_of_the_report_are_read_back_as_they_were() -> None:
    for limits in ({"min": 0.1}, {"min": 0.1, "max_drop": None}):
        asked = settings(metrics={"accuracy": limits})
        assert GateSettings.model_validate_json(asked.model_dump_json()) == asked


def test_shares_of_the_rows_are_percentages() -> None:
    found = checks(replace(GOOD, rows=3000, agreement=Agreed(3000, 3000), recorded=Agreed(3000, 3000)))
    assert found["agreement"].text == "answers as version 1 on 100 % (99.87 % to 100 %) of 3,000 rows; at least 90 %"
    assert found["recorded"].text == "version 1 repeats its recorded answers on 100 % (99.87 % to 100 %) of 3,000 rows; at least 99 %"


def test_few_labels_say_nothing_however_good_they_are() -> None:
    found = checks(replace(GOOD, labelled=classified(99, 1.0, 1.0)))
    assert found["accuracy"].status is TOO_LITTLE
    assert found["accuracy"].text == "accuracy: 99 rows with a label; at least 100"


def test_f1_and_auc() -> None:
    random = np.random.default_rng(1)
    is_positive = np.arange(2000) < 700
    good, bad = is_positive + random.normal(0, 0.4, 2000), is_positive + random.normal(0, 2, 2000)
    truth = is_positive.astype(np.int64)
    labelled = Classified(("no", "yes"), truth, (good > 0.5).astype(np.int64), (bad > 0.5).astype(np.int64),
                          Scored("yes", is_positive, good, bad))
    metrics = {"f1": {"min": 0.8, "max_drop": 0.0}, "auc": {"min": 0.9, "max_drop": 0.0}}
    found = checks(replace(GOOD, labelled=labelled), metrics=metrics)
    assert {name: found[name].status for name in ("f1", "f1_vs_stable", "auc", "auc_vs_stable")} == dict.fromkeys(
        ["f1", "f1_vs_stable", "auc", "auc_vs_stable"], PASS)
    worse = Classified(("no", "yes"), truth, labelled.stable, labelled.candidate, Scored("yes", is_positive, bad, good))
    assert set(statuses(replace(GOOD, labelled=worse), metrics=metrics).values()) >= {FAIL}


def test_auc_wants_both_classes_and_a_score() -> None:
    labelled = classified(1000, 0.9, 0.9)
    metrics = {"auc": {"min": 0.5}}
    assert "no score of one positive class" in checks(replace(GOOD, labelled=labelled), metrics=metrics)["auc"].text
    scored = Scored("b", np.arange(1000) < 9, np.zeros(1000), np.zeros(1000))
    found = checks(replace(GOOD, labelled=replace(labelled, scored=scored)), metrics=metrics)["auc"]
    assert (found.status, "9 of 1,000 rows are 'b'" in found.text) == (TOO_LITTLE, True)


@pytest.mark.parametrize(("factor", "status"), [(0.9, PASS), (1.05, TOO_LITTLE), (1.5, FAIL)])
def test_the_error_of_numbers_is_not_to_rise(factor: float, status: CheckStatus) -> None:
    random = np.random.default_rng(2)
    truth, error = random.normal(size=2000), random.normal(size=2000)
    labelled = Estimated(truth, truth + factor * error, truth + error)
    assert statuses(replace(GOOD, labelled=labelled))["mae_vs_stable"] is status
    assert statuses(replace(GOOD, labelled=labelled), metrics={"mae": {"max": 5.0}})["mae"] is PASS


def test_a_metric_of_another_task_says_nothing() -> None:
    labelled = Estimated(np.zeros(500), np.zeros(500), np.zeros(500))
    found = checks(replace(GOOD, labelled=labelled), metrics={"accuracy": {"min": 0.9}})["accuracy"]
    assert (found.status, found.text) == (TOO_LITTLE, "accuracy: accuracy is not defined for labels that are numbers")


@pytest.mark.parametrize(("stable", "status"), [("", TOLD), ("1", TOO_LITTLE)])
def test_without_answers_to_compare_with_a_relative_limit_is_no_success(stable: str, status: CheckStatus) -> None:
    labelled = replace(classified(1000, 0.99, 0.99), stable=np.zeros(0, np.int64))
    evidence = replace(GOOD, stable=stable, agreement=None, labelled=labelled)
    assert statuses(evidence)["accuracy_vs_stable"] is status
    assert statuses(evidence, metrics={"accuracy": {"min": 0.9}})["accuracy"] is PASS


def test_agreement_that_was_asked_for_and_cannot_be_had_is_no_success() -> None:
    evidence = replace(GOOD, agreement=None)
    assert statuses(evidence, agreement={"min": 0.99})["agreement"] is TOO_LITTLE
    assert "agreement" not in statuses(evidence)
    assert "agreement" not in statuses(replace(evidence, stable=""), agreement={"min": 0.99})


# --- time ---------------------------------------------------------------------------------------------------------------

def timed(ratio: float, n: int = 500, stable_ms: float = 10.0, spread: float = 0.05) -> Evidence:
    random = np.random.default_rng(3)
    stable = stable_ms * 1e6 * random.lognormal(0, spread, n)
    candidate = ratio * stable_ms * 1e6 * random.lognormal(0, spread, n)
    return replace(GOOD, latency=(LatencySample(8, candidate, stable),))


@pytest.mark.parametrize(("ratio", "status"), [(1.0, PASS), (1.25, TOO_LITTLE), (1.5, FAIL)])
def test_the_median_is_held_against_the_stable_version_s(ratio: float, status: CheckStatus) -> None:
    assert statuses(timed(ratio))["latency_median_8_vs_stable"] is status


def test_what_nobody_waits_for_is_within_the_ratio() -> None:
    assert statuses(timed(1.6, stable_ms=0.004))["latency_median_8_vs_stable"] is PASS
    assert statuses(timed(1.6, stable_ms=0.004), latency={"slack_ms": 0.001})["latency_median_8_vs_stable"] is FAIL


def test_absolute_limits_and_quantiles_that_few_runs_cannot_bound() -> None:
    limits = {"max_median_ms": 12.0, "max_p99_ms": 15.0, "max_p99_ratio": 1.5}
    found = statuses(timed(1.0, n=3000), latency=limits)
    assert [found[f"latency_{name}"] for name in ("median_8", "p99_8", "p99_8_vs_stable")] == [PASS, PASS, PASS]
    few = checks(timed(1.0, n=100), latency=limits)
    assert (few["latency_p99_8"].status, few["latency_median_8"].status) == (TOO_LITTLE, PASS)
    assert few["latency_p99_8"].text == "p99 of batches of 8 rows: 100 runs are too few to bound it"
    assert statuses(timed(1.0, n=100))["latency_p99_8"] is TOLD


def test_a_batch_that_cannot_be_timed_fails() -> None:
    evidence = replace(GOOD, latency=(LatencySample(512, np.zeros(0), None, "out of memory"),))
    assert verdict(evidence, settings())[0] is Verdict.FAIL
    found = checks(evidence)["batch_512"]
    assert (found.status, found.text) == (FAIL, "a batch of 512 rows fails, and smaller ones with those rows do not: out of memory")


def test_time_may_be_left_out() -> None:
    assert not any(name.startswith("latency") for name in statuses(timed(9.0), latency=None))


# --- settings -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("given", "text"), [
    ({"metrics": {"mae": {"min": 1}}}, "metrics.mae.min: mae is limited by max and max_rise"),
    ({"metrics": {"auc": {"max_rise": 1}}}, "metrics.auc.max_rise: auc is limited by min and max_drop"),
    ({"metrics": {"recall": {"min": 1}}}, "metrics.recall"),
    ({"confidence": 1.0}, "confidence: Input should be less than 1"),
    ({"latency": {"runs": 367, "max_p99_ms": 20.0}}, "latency.runs: 367 are too few for latency.max_p99_ms; at least 368 bound"),
    ({"latency": {"runs": 436, "max_p99_ratio": 2.0}}, "latency.runs: 436 are too few for latency.max_p99_ratio; at least 437 bound"),
    ({"min_row": 1}, "min_row: unknown field"),
    ({"agreement": {"min": 2}}, "agreement.min: Input should be less than or equal to 1"),
    ({"metrics": {"accuracy": {"min": float("nan")}}}, "metrics.accuracy.min: Input should be a finite number"),
    ({"metrics": {"mae": {"max_rise": float("inf")}}}, "metrics.mae.max_rise: Input should be a finite number"),
])
def test_settings_are_checked(given: dict[str, Any], text: str) -> None:
    with pytest.raises(Unprocessable) as raised:
        settings(**given)
    assert text in str(raised.value)


@pytest.mark.parametrize(("runs", "limit"), [(368, {"max_p99_ms": 99.0}), (437, {"max_p99_ratio": 9.0})])
def test_the_least_runs_bound_a_99th_percentile(runs: int, limit: dict[str, float]) -> None:
    found = checks(timed(1.0, n=runs), latency={"runs": runs, **limit})
    assert {check.status for name, check in found.items() if name.startswith("latency_p99") and check.limit is not None} == {PASS}
    name = "latency_p99_8" if "max_p99_ms" in limit else "latency_p99_8_vs_stable"
    assert "too few" in checks(timed(1.0, n=runs - 1), latency={"runs": runs, **limit})[name].text


def test_a_version_may_be_written_as_a_number() -> None:
    assert settings(stable=1).stable == "1"
