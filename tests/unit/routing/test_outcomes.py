"""Feedback in routing: from what the keeper tells to the judge's verdict and an experiment's read-out."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.routing import experiment_driver
from serve.routing.deltas import Arms, outcome_news
from serve.routing.experiment import ExperimentPlan, ExperimentState, begin, fold, put_in_force, read_out, resume
from serve.routing.judge.observations import OutcomeCounts, OutcomeSums
from serve.routing.judge.outcome import OutcomeTotals, find_outcome, log_not_worse
from serve.routing.judge.settings import OutcomeSettings
from serve.routing.outcome_board import OutcomeBoard
from serve.routing.rollout_plan import RolloutPlan
from serve.traffic import OutcomeReading, OutcomeTally
from tests.unit.routing.rollout_bench import BY, Bench, start

ARMS = Arms("1", "2", "2", {7: 0.1, 8: 0.5, 9: 1.0})


def tally(n: int, right: int) -> OutcomeTally:
    return OutcomeTally(n, float(right), float(right), right)


def said(generation: int, name: str = "accuracy", **arms: tuple[int, int]) -> dict[str, Any]:
    """The keeper's message. arms: v1=(values, hits)."""
    readings = [{"generation": generation, "name": name, "variant": arm[1:], "n": n, "total": float(hits), "squares": float(hits),
                 "hits": hits} for arm, (n, hits) in arms.items()]
    return {"type": "outcomes", "model": "m", "readings": readings}


class TestBoard:
    def test_what_is_told_replaces_what_was(self) -> None:
        board = OutcomeBoard()
        board.take(said(7, v1=(10, 9), v2=(5, 4)))
        board.take(said(8, v1=(1, 1)))
        board.take(said(7, v2=(6, 5)))
        assert board.outcome_readings("m") == [
            OutcomeReading(7, "accuracy", {"1": tally(10, 9), "2": tally(6, 5)}), OutcomeReading(8, "accuracy", {"1": tally(1, 1)})]
        assert board.outcome_readings("other") == []

    def test_what_is_no_message_changes_nothing(self) -> None:
        board = OutcomeBoard()
        message = said(7, v1=(10, 9), v2=(5, 4))
        del message["readings"][1]["hits"]
        with pytest.raises(KeyError):
            board.take(message)
        assert board.outcome_readings("m") == []

    def test_shared_units_are_told_once_and_again_to_a_new_keeper(self) -> None:
        told: list[Mapping[str, Any]] = []
        board = OutcomeBoard(told.append)
        board.share_units("m", [4, 3], "m-r1.1")
        board.share_units("m", [3], "m-r1.1")
        board.share_units("m", [3, 4, 5], "m-r1.1")
        assert [message["generations"] for message in told] == [[3, 4], [3, 4, 5]]
        board.repeat_scopes()
        assert told[2] == {"type": "scopes", "model": "m", "scope": "m-r1.1", "generations": [3, 4, 5]}


class TestNews:
    def test_only_what_came_since_counts_under_the_share_of_its_answers(self) -> None:
        first = [OutcomeReading(7, "accuracy", {"1": tally(90, 80), "2": tally(10, 9)}), OutcomeReading(7, "other", {"1": tally(1, 1)})]
        counts, taken = outcome_news(first, {}, ARMS, {"accuracy"})
        assert counts == (OutcomeCounts("accuracy", 0.1, OutcomeSums(90, 80, 80), OutcomeSums(10, 9, 9)),)
        assert outcome_news(first, taken, ARMS, {"accuracy"}) == ((), taken)
        late = [OutcomeReading(7, "accuracy", {"1": tally(90, 80), "2": tally(12, 9)}), OutcomeReading(8, "accuracy", {"2": tally(1, 1)})]
        counts, _ = outcome_news(late, taken, ARMS, {"accuracy"})
        assert counts == (OutcomeCounts("accuracy", 0.1, OutcomeSums(), OutcomeSums(2, 0, 0)),
                          OutcomeCounts("accuracy", 0.5, OutcomeSums(), OutcomeSums(1, 1, 1)))

    def test_a_join_that_began_anew_has_no_news_until_it_has_caught_up(self) -> None:
        _, taken = outcome_news([OutcomeReading(7, "a", {"1": tally(90, 80), "2": tally(10, 9)})], {}, ARMS, {"a"})
        assert outcome_news([OutcomeReading(7, "a", {"1": tally(20, 10), "2": tally(30, 1)})], taken, ARMS, {"a"}) == ((), taken)
        (counts,), _ = outcome_news([OutcomeReading(7, "a", {"1": tally(91, 81), "2": tally(10, 9)})], taken, ARMS, {"a"})
        assert counts.stable == OutcomeSums(1, 1, 1)

    def test_generations_without_two_arms_compare_nothing(self) -> None:
        readings = [OutcomeReading(g, "a", {"1": tally(90, 80), "2": tally(10, 9)}) for g in (1, 9)]
        assert outcome_news(readings, {}, ARMS, {"a"}) == ((), {})


class TestPromotion:
    RULE = OutcomeSettings(name="accuracy", worse="lower", promote_margin=0.03, min_values=100)

    def totals(self, stable: float, candidate: float, n: int) -> list[OutcomeTotals]:
        sums = [OutcomeSums(n, n * rate, n * rate) for rate in (stable, candidate)]
        return [OutcomeTotals("accuracy", 0.5, *sums)]

    def test_no_worse_is_shown_by_enough_labels_only(self) -> None:
        few, many = (log_not_worse(self.totals(0.9, 0.9, n), self.RULE, 0.05) for n in (200, 8000))
        assert few < np.log(20) < many
        assert log_not_worse(self.totals(0.9, 0.85, 8000), self.RULE, 0.05) <= 0
        assert log_not_worse([], self.RULE, 0.05) == 0

    def test_a_candidate_at_the_margin_is_let_pass_under_alpha(self) -> None:
        rng = np.random.default_rng(5)
        passed = 0
        for _ in range(300):
            stable, candidate = (np.cumsum(rng.random(4000) < rate) for rate in (0.9, 0.87))
            totals = ([OutcomeTotals("accuracy", 0.5, OutcomeSums(n, s, s), OutcomeSums(n, c, c))]
                      for n in (100, 300, 1000, 2000, 4000) for s, c in [(float(stable[n - 1]), float(candidate[n - 1]))])
            passed += any(log_not_worse(one, self.RULE, 0.05) >= np.log(20) for one in totals)
        assert passed <= 15

    def test_a_better_candidate_is_no_suspicion(self) -> None:
        found = find_outcome(self.totals(0.8, 0.9, 4000), self.RULE)
        assert not found.is_tripped
        assert found.e_value is not None
        assert found.e_value <= 1


class TestPairsAndOverlap:
    """AUC by disjoint pairs and F1 by the overlap J hold their level at all looks, and see a worse candidate."""

    N = 6000
    LOOKS = (300, 1000, 3000, 6000)

    def scored(self, rng: np.random.Generator, separation: float) -> tuple[Any, Any]:
        truth = rng.random(self.N) < 0.3
        return truth, rng.normal(size=self.N) + separation * truth

    def pairs(self, truth: Any, scores: Any, n: int) -> OutcomeSums:
        positive, negative = scores[:n][truth[:n]], scores[:n][~truth[:n]]
        k = min(len(positive), len(negative))
        won = (positive[:k] > negative[:k]).astype(float)
        return OutcomeSums(k, won.sum(), won.sum())

    def overlap(self, truth: Any, scores: Any, n: int) -> OutcomeSums:
        called = scores[:n] > 0.5
        both, either = (called & truth[:n]).sum(), (called | truth[:n]).sum()
        return OutcomeSums(int(either), float(both), float(both))

    @pytest.mark.parametrize(("name", "of"), [("auc", pairs), ("f1", overlap)])
    def test_level_and_power(self, name: str, of: Any) -> None:
        rng = np.random.default_rng(8)
        rule = OutcomeSettings(name=name, worse="lower", alpha=0.05)

        def trips(separation: float) -> bool:
            stable, candidate = self.scored(rng, 1.0), self.scored(rng, separation)
            return any(find_outcome([OutcomeTotals(name, 0.5, of(self, *stable, n), of(self, *candidate, n))], rule).is_tripped
                       for n in self.LOOKS)

        assert sum(trips(1.0) for _ in range(200)) <= 10
        assert sum(trips(0.5) for _ in range(20)) >= 18


class FakeOutcomes:
    """Cumulative tallies that a test sets; remembers which generations share units."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[int, str], dict[str, OutcomeTally]] = {}
        self.shared: list[tuple[str, tuple[int, ...], str]] = []

    def outcome_readings(self, model: str) -> Sequence[OutcomeReading]:
        return [OutcomeReading(generation, name, dict(arms)) for (generation, name), arms in sorted(self.tallies.items())]

    def share_units(self, model: str, generations: Iterable[int], scope: str) -> None:
        self.shared.append((model, tuple(sorted(generations)), scope))

    def label(self, generation: int, name: str = "accuracy", **arms: tuple[int, int]) -> None:
        """So many values more, and hits among them."""
        held = self.tallies.setdefault((generation, name), {})
        for arm, (n, hits) in arms.items():
            old = held.get(arm[1:], OutcomeTally())
            held[arm[1:]] = tally(old.n + n, old.hits + hits)


class OutcomeBench(Bench):
    async def open_with(self, outcomes: FakeOutcomes) -> None:
        self.outcomes = outcomes
        await self.open()


def gate(**changes: Any) -> dict[str, Any]:
    rule = {"name": "accuracy", "worse": "lower", **changes}
    return {"rollback_alpha": 0.03, "outcomes": [rule]}


@pytest.fixture
async def labelled(tmp_path: Path) -> Any:
    bench = OutcomeBench(tmp_path)
    await bench.open_with(FakeOutcomes())
    yield bench
    assert bench.service is not None
    assert bench.store is not None
    await bench.service.close()
    await bench.store.close()


def generation_of(bench: Bench) -> int:
    assert bench.models.spec is not None
    return bench.models.spec.generation


async def test_a_candidate_that_is_less_accurate_is_rolled_back(labelled: OutcomeBench) -> None:
    await start(labelled, judge=gate(action="rollback"))
    await labelled.until(lambda: labelled.models.weights() == {"1": 9000, "2": 1000}, "the first step")
    labelled.serve(20_000)
    labelled.outcomes.label(generation_of(labelled), v1=(9000, 8100), v2=(1000, 700))
    await labelled.until(lambda: labelled.phase() == "rolled_back", "the rollback")
    assert labelled.models.weights() == {"1": 10_000}
    assert labelled.service is not None
    assert "accuracy: candidate differs by -0.2" in labelled.service.rollout("m-r1")["why"]
    evidence = (await labelled.service.evidence("m-r1"))[-1]
    finding = next(f for f in evidence["judgement"]["findings"] if f["test"] == "outcome")
    assert finding["counts"] == {"candidate": 1000, "stable": 9000}


async def test_a_holding_outcome_keeps_the_step(labelled: OutcomeBench) -> None:
    await start(labelled, judge=gate())
    await labelled.until(lambda: labelled.models.weights() == {"1": 9000, "2": 1000}, "the first step")
    labelled.outcomes.label(generation_of(labelled), v1=(9000, 8100), v2=(1000, 700))
    await labelled.until(lambda: labelled.verdicts[-1:] == ["hold"], "the hold")
    labelled.serve(20_000)
    await asyncio.sleep(0.1)
    assert labelled.models.weights() == {"1": 9000, "2": 1000}


async def test_equal_accuracy_is_promoted_and_labels_that_come_late_count_where_their_answers_were_given(labelled: OutcomeBench) -> None:
    await start(labelled, judge=gate(action="rollback", promote_margin=0.05))
    await labelled.until(lambda: labelled.models.weights() == {"1": 9000, "2": 1000}, "the first step")
    first = generation_of(labelled)
    labelled.serve(20_000)
    await labelled.until(lambda: labelled.models.weights() == {"1": 5000, "2": 5000}, "the second step")
    for _ in range(6):
        labelled.serve(200_000)
        await asyncio.sleep(0.03)
    assert labelled.phase() == "stepping"       # everything else is shown; nothing is known of accuracy
    assert labelled.service is not None
    assert "accuracy worse by less than 0.05: not shown yet" in labelled.service.rollout("m-r1")["verdict_why"]
    labelled.outcomes.label(first, v1=(9000, 8100), v2=(1000, 900))
    await asyncio.sleep(0.05)
    (live,) = labelled.service.live()
    assert [(t.share, t.stable.n, t.candidate.n) for t in live.judge.outcomes] == [(0.1, 9000, 1000)]
    labelled.outcomes.label(generation_of(labelled), v1=(5000, 4500), v2=(5000, 4500))
    await labelled.until(lambda: labelled.phase() == "succeeded", "the end")
    assert labelled.models.weights() == {"2": 10_000}


async def test_what_was_taken_is_not_taken_again_after_a_restart(tmp_path: Path) -> None:
    bench, outcomes = OutcomeBench(tmp_path), FakeOutcomes()
    await bench.open_with(outcomes)
    await start(bench, judge=gate(), sticky={"header": "x-user"})
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    generation = generation_of(bench)
    assert ("m", (generation,), "m-r1.1") in [(m, tuple(g for g in gs if g == generation), s) for m, gs, s in outcomes.shared]
    outcomes.label(generation, v1=(90, 80), v2=(10, 9))
    assert bench.service is not None
    assert bench.store is not None
    service = bench.service
    await bench.until(lambda: bool(service.live()[0].judge.outcomes), "the labels")
    await service.close()
    await bench.store.close()
    bench.models.readings = []
    outcomes.label(generation, v2=(1, 1))
    await bench.open_with(outcomes)
    again = bench.service
    await bench.until(lambda: again.live()[0].judge.outcomes[0].candidate.n == 11, "the new label")
    (totals,) = again.live()[0].judge.outcomes
    assert (totals.stable, totals.candidate) == (OutcomeSums(90, 80, 80), OutcomeSums(11, 10, 10))
    await again.close()
    await bench.store.close()


async def test_labelled_traffic_of_two_equal_versions_does_not_trip(labelled: OutcomeBench) -> None:
    rng = np.random.default_rng(3)
    await start(labelled, judge=gate(action="rollback"), steps=[{"weight": 5000, "seconds": 1e5, "requests": 10**9}],
                step_timeout_seconds=1e6)
    await labelled.until(lambda: labelled.models.weights() == {"1": 5000, "2": 5000}, "the step")
    assert labelled.service is not None
    for _ in range(40):
        labelled.serve(400, seconds=0.1)
        labelled.outcomes.label(generation_of(labelled), v1=(200, int(rng.binomial(200, 0.9))), v2=(200, int(rng.binomial(200, 0.9))))
        (live,) = labelled.service.live()
        before = sum(t.candidate.n for t in live.judge.outcomes)
        await labelled.until(lambda before=before, live=live: sum(t.candidate.n for t in live.judge.outcomes) > before, "a look")
        assert labelled.phase() == "stepping"
        assert labelled.verdicts[-1:] != ["hold"]


class TestExperiments:
    def started(self, **changes: Any) -> ExperimentState:
        plan = ExperimentPlan.model_validate({
            "variants": [{"version": "1", "weight": 5000}, {"version": "2", "weight": 5000}], "seconds": 60.0, **changes})
        return put_in_force(begin(plan), 1, plan.weights())

    def test_means_of_any_values_are_compared(self) -> None:
        rng = np.random.default_rng(2)
        errors = {"1": rng.exponential(2.0, 5000), "2": rng.exponential(1.7, 5000)}
        arms = {arm: OutcomeTally(5000, float(v.sum()), float((v**2).sum()), 5000) for arm, v in errors.items()}
        read = read_out(fold(self.started(primary="outcome:mae", better="lower"), (), [OutcomeReading(1, "mae", arms)]))
        (found,) = read["comparisons"]
        assert (found["verdict"], found["ratio"]) == ("better", None)
        assert found["difference"][0] == pytest.approx(errors["2"].mean() - errors["1"].mean(), abs=0.05)
        assert found["difference"][2] < 0
        assert "%" not in found["sentence"]
        assert read["variants"][0]["metrics"]["outcome:mae"]["mean"] == pytest.approx(errors["1"].mean())

    def test_equal_means_are_told_apart_under_alpha_at_all_looks(self) -> None:
        rng = np.random.default_rng(4)
        wrong = 0
        for _ in range(100):
            values = rng.exponential(1.0, (2, 2000))
            state = self.started(primary="outcome:mae", better="lower")
            verdicts = set()
            for n in (100, 300, 1000, 2000):
                arms = {arm: OutcomeTally(n, float(v[:n].sum()), float((v[:n]**2).sum()), n) for arm, v in zip("12", values, strict=True)}
                state = fold(state, (), [OutcomeReading(1, "mae", arms)])
                verdicts.add(read_out(state)["comparisons"][0]["verdict"])
            wrong += verdicts != {"undecided"}
        assert wrong <= 5

    def test_outcomes_are_durable_over_a_restart(self) -> None:
        told = OutcomeReading(1, "mae", {"1": OutcomeTally(3, -4.5, 9.25, 3), "2": OutcomeTally(2, 1.5, 1.25, 2)})
        state = fold(self.started(primary="outcome:mae"), (), [told])
        again = resume(ExperimentState.from_document(json.loads(json.dumps(state.as_document()))))
        assert again == state
        assert fold(again, (), [told]).metrics == state.metrics
        fewer = OutcomeReading(1, "mae", {"1": OutcomeTally(1, 1.0, 1.0, 1)})
        assert fold(again, (), [fewer]) == again

    @pytest.mark.parametrize("name", ["auc", "f1"])
    def test_what_is_no_value_of_a_unit_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="is no value of each unit"):
            self.started(primary=f"outcome:{name}")


async def test_an_experiment_counts_what_is_fed_back(labelled: OutcomeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment_driver, "TICK_S", 0.01)
    assert labelled.service is not None
    service = labelled.service
    plan = ExperimentPlan.model_validate({
        "variants": [{"version": "1", "weight": 5000}, {"version": "2", "weight": 5000, "name": "new"}], "seconds": 3600.0,
        "primary": "outcome:accuracy", "sticky": {"header": "x-user"}})
    await service.create_experiment("m", plan, BY)
    await labelled.until(lambda: len(labelled.models.weights()) == 2, "the weights")
    generation = generation_of(labelled)
    labelled.outcomes.tallies[generation, "accuracy"] = {"1": tally(4000, 3000), "new": tally(4000, 3400)}
    labelled.outcomes.label(generation + 9, v1=(5, 5))      # of another one
    for _ in range(200):
        read = (await service.experiment("m-e1"))["read_out"]
        if read["comparisons"][0]["verdict"] == "better":
            break
        await asyncio.sleep(0.01)
    assert (read["comparisons"][0]["variant"], read["comparisons"][0]["verdict"]) == ("new", "better")
    assert [variant["metrics"]["outcome:accuracy"]["n"] for variant in read["variants"]] == [4000, 4000]
    assert ("m", (generation,), "m-e1") in labelled.outcomes.shared


def test_a_plan_may_ask_for_outcomes() -> None:
    plan = RolloutPlan.model_validate({"to": "2", "judge": gate(action="hold", promote_margin=0.01)})
    assert plan.judge.outcomes[0].promote_margin == 0.01
