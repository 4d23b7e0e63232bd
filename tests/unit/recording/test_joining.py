"""Labels find their predictions wherever those lie, each label once, and what is not joined is counted."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.errors import Unavailable
from serve.monitors import MonitoringSpec
from serve.recording import join_source, join_state, joining
from serve.recording.compaction import SETTLE_NS, CompactionJob
from serve.recording.home import Home
from serve.recording.join_outcomes import OutcomeCounter
from serve.recording.joined_rows import JoinedRows
from serve.recording.layout import JournalName
from serve.recording.outcome_sql import OutcomeEvaluator, OutcomeExpression, OutcomeTooSlow
from serve.records import RecordedTensor
from tests.unit.recording.joining_bench import HOUR, NOW, TENSORS, JoiningBench, S, Sink, predicted, truth, uuid7


@pytest.fixture
def bench(tmp_path: Path) -> JoiningBench:
    return JoiningBench(tmp_path)


class TestOnce:
    def test_from_journals_and_sealed_files_alike(self, bench: JoiningBench) -> None:
        predicted(bench, 3)
        bench.seal()
        predicted(bench, 3)
        bench.label(truth(0), truth(1), truth(4), truth(5, value=0.0))
        messages = bench.run()
        assert bench.tallies(messages)[3, "1", "accuracy"] == (4, 3.0)
        assert bench.counts(messages) == {"joined": 4}
        assert bench.run() == []

    def test_sums_are_cumulative_and_told_anew_by_a_new_keeper(self, bench: JoiningBench) -> None:
        predicted(bench)
        bench.label(truth(0), truth(1))
        bench.run()
        bench.label(truth(2), truth(3, value=0.0))
        assert bench.tallies(bench.run())[3, "1", "accuracy"] == (4, 3.0)
        bench.restart()
        messages = bench.run()
        assert bench.tallies(messages)[3, "1", "accuracy"] == (4, 3.0)
        assert bench.counts(messages) == {"joined": 4}
        assert bench.run() == []

    @pytest.mark.parametrize("is_restarted", [False, True])
    def test_labels_are_not_read_again_when_they_are_sealed_and_merged(self, bench: JoiningBench, is_restarted: bool) -> None:
        predicted(bench)
        bench.label(truth(0))
        bench.run()
        bench.label(truth(1))
        bench.run()
        bench.seal()
        bench.now_ns += HOUR + SETTLE_NS
        assert CompactionJob(bench.job.keeping).run(bench.now_ns)
        if is_restarted:
            bench.restart()
        bench.label(truth(2))
        messages = bench.run()
        assert bench.counts(messages) == {"joined": 3}
        assert bench.tallies(messages)[3, "1", "accuracy"] == (3, 3.0)

    def test_a_journal_that_grows_is_read_on(self, bench: JoiningBench, monkeypatch: pytest.MonkeyPatch) -> None:
        predicted(bench)
        bench.label(truth(0))
        bench.run()
        reads: list[Any] = []
        read = join_source.read_journal
        monkeypatch.setattr(join_source, "read_journal", lambda file: reads.append(file.name) or read(file))
        bench.run()
        assert reads == []      # nothing has changed
        bench.label(truth(1))
        assert bench.counts(bench.run()) == {"joined": 2}
        assert len(reads) == 1

    def test_a_sink_that_fails_leaves_everything_as_it_was(self, bench: JoiningBench, monkeypatch: pytest.MonkeyPatch) -> None:
        predicted(bench)
        bench.label(truth(0), truth(1))

        def fail(_: Sink, rows: JoinedRows) -> None:
            raise RuntimeError("no")

        with monkeypatch.context() as patched:
            patched.setattr(Sink, "take", fail)
            with pytest.raises(RuntimeError):
                bench.run()
        messages = bench.run()
        assert bench.tallies(messages)[3, "1", "accuracy"] == (2, 2.0)
        assert [len(rows) for rows in bench.sink.taken] == [2]
        assert bench.sink.taken[0].batch == 1

    @pytest.mark.parametrize("fails", ["_write", "sync_folder"])
    def test_a_state_that_cannot_be_saved_is_that_of_before(
        self, bench: JoiningBench, monkeypatch: pytest.MonkeyPatch, fails: str,
    ) -> None:
        predicted(bench)
        bench.label(truth(0))
        bench.run()
        bench.label(truth(1), truth(2))

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(join_state, fails, fail)
            with pytest.raises(OSError, match="No space"):
                bench.run()
        bench.restart()
        messages = bench.run()
        assert bench.counts(messages) == {"joined": 3}
        assert bench.tallies(messages)[3, "1", "accuracy"] == (3, 3.0)

    def test_a_lost_state_joins_everything_anew(self, bench: JoiningBench) -> None:
        predicted(bench)
        bench.label(truth(0), truth(1))
        bench.run()
        bench.seal()
        (bench.home.path / join_state.FILE).unlink()
        bench.restart()
        assert bench.tallies(bench.run())[3, "1", "accuracy"] == (2, 2.0)

    def test_a_state_of_a_later_release_is_refused(self, bench: JoiningBench) -> None:
        (bench.home.path / join_state.FILE).write_text('{"format": 2}')
        with pytest.raises(Unavailable, match="has format 2, this release reads 1"):
            bench.run()

    def test_many_labels_take_several_runs(self, bench: JoiningBench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(join_source, "MAX_LABELS", 4)
        predicted(bench, 20)
        bench.label(*(truth(i) for i in range(6)))
        bench.label(*(truth(i) for i in range(6, 10)))
        bench.run()
        assert bench.job.interval_s == 0
        while bench.job.interval_s == 0:
            messages = bench.run()
        bench.restart()
        messages = bench.run()
        assert bench.counts(messages) == {"joined": 10}
        assert bench.tallies(messages)[3, "1", "accuracy"] == (10, 10.0)


    @pytest.mark.parametrize("seed", range(5))
    def test_whatever_happens_in_between(self, bench: JoiningBench, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        """Predictions, labels, sealing, merging, restarts and failures in any order: in the end each label counts once."""
        rng = np.random.default_rng(seed)
        truths: dict[int, float] = {}
        n_labels = 0

        def predict() -> None:
            bench.predict([{"out_label": int(label)} for label in rng.integers(0, 2, 3)])

        def label() -> None:
            nonlocal n_labels
            rows = [int(row) for row in rng.integers(0, bench.next_seq, 3)] if bench.next_seq else []
            for row in rows:
                truths.setdefault(row, float(rng.integers(0, 2)))
            if rows:
                bench.label(*(truth(row, value=truths[row]) for row in rows))
            n_labels += len(rows)

        def compact() -> None:
            bench.seal()
            CompactionJob(bench.job.keeping).run(bench.now_ns + HOUR + SETTLE_NS)

        def fail(*_: Any) -> None:
            raise OSError(5, "Input/output error")

        def run_and_fail() -> None:
            where = [(joining.JoinStep, "take"), (join_state, "_write"), (Sink, "take"), (OutcomeCounter, "add")][rng.integers(0, 4)]
            with monkeypatch.context() as patched, contextlib.suppress(OSError):
                patched.setattr(*where, fail)
                bench.run()

        for _ in range(40):
            rng.choice(np.array([predict, label, bench.seal, compact, bench.run, run_and_fail, bench.restart], dtype=object))()
        bench.run()
        bench.restart()
        messages = bench.run()
        assert bench.counts(messages).get("joined", 0) == len(truths)
        assert bench.counts(messages).get("duplicate", 0) == n_labels - len(truths)
        assert bench.tallies(messages).get((3, "1", "label"), (0, 0.0)) == (len(truths), sum(truths.values()))


    def test_generations_of_a_lost_home_are_nobodys(self, tmp_path: Path) -> None:
        """The state directory is gone, and with it the plans that were numbered; the next ones get the same numbers."""
        lost = JoiningBench(tmp_path)
        predicted(lost, 4)
        lost.label(truth(0), truth(1))
        lost.seal()
        shutil.rmtree(lost.home.path)
        bench = JoiningBench(tmp_path, next_seq=4, next_label=2, epoch=2)
        predicted(bench, 2)
        bench.label(truth(2), truth(4), truth(5, value=0.0))
        messages = bench.run()
        assert bench.counts(messages) == {"joined": 5}
        assert bench.tallies(messages)[3, "1", "accuracy"] == (2, 1.0)
        assert sorted(generation for rows in bench.sink.taken for generation in rows.generation.tolist()) == [0, 0, 0, 3, 3]


class TestFates:
    def test_duplicates(self, bench: JoiningBench) -> None:
        predicted(bench)
        bench.label(truth(0), truth(0, value=1.0), truth(0, name="other"), truth(0, row=1))
        messages = bench.run()
        assert bench.counts(messages) == {"joined": 2, "duplicate": 1, "waiting": 1}
        bench.label(truth(0))
        bench.restart()
        assert bench.counts(bench.run()) == {"joined": 2, "duplicate": 2, "waiting": 1}
        bench.label(truth(0, row=1))        # of one that waits
        assert bench.counts(bench.run()) == {"joined": 2, "duplicate": 3, "waiting": 1}

    def test_a_row_may_come_after_its_label(self, bench: JoiningBench) -> None:
        bench.label(truth(0), {"request_id": "mine", "value": 1.0})
        assert bench.counts(bench.run()) == {"waiting": 2}
        bench.now_ns += 60 * S
        bench.predict([{"out_label": 0, "ts_ns": NOW}, {"out_label": 1, "ts_ns": NOW, "request_id": "mine"}])
        assert bench.counts(bench.run()) == {"joined": 2}

    def test_unknown_after_two_minutes(self, bench: JoiningBench) -> None:
        predicted(bench)
        bench.label(truth(77), {"request_id": "nobody's", "value": 1.0}, model="m")
        bench.label({"request_id": uuid7(NOW, 1), "value": 1.0}, model="another")
        bench.run()
        bench.now_ns += joining.PATIENCE_NS - 1
        assert bench.run() == []
        bench.now_ns += 1
        messages = bench.run()
        assert bench.counts(messages) == {"unknown": 2}
        assert bench.counts(messages, "another") == {"unknown": 1}
        bench.restart()
        assert bench.counts(bench.run()) == {"unknown": 2}

    def test_labels_that_wait_outlive_the_keeper(self, bench: JoiningBench) -> None:
        bench.label(truth(0))
        bench.run()
        bench.seal()
        bench.restart()
        predicted(bench, 1)
        assert bench.counts(bench.run()) == {"joined": 1}

    @pytest.mark.parametrize("name", ["", "mine"])
    def test_late(self, bench: JoiningBench, name: str) -> None:
        bench.spec = MonitoringSpec(label_window_s=3600.0)
        ids = {"request_id": name} if name else {}
        bench.predict([{"out_label": 0, **ids}])
        bench.seal()
        bench.now_ns = NOW + HOUR + 1
        bench.label({**truth(0), **ids})
        assert bench.counts(bench.run()) == {"late": 1}
        assert bench.sink.taken == []

    def test_the_last_moment_is_not_late(self, bench: JoiningBench) -> None:
        bench.spec = MonitoringSpec(label_window_s=3600.0)
        predicted(bench, 1)
        bench.now_ns = NOW + HOUR
        bench.label(truth(0))
        assert bench.counts(bench.run()) == {"joined": 1}

    def test_an_id_that_says_it_is_too_old_is_late_without_a_look(self, bench: JoiningBench) -> None:
        bench.spec = MonitoringSpec(label_window_s=3600.0)
        bench.label({"request_id": uuid7(NOW - 10 * HOUR), "value": 1.0})
        assert bench.counts(bench.run()) == {"late": 1}

    def test_a_window_between_two_uses_of_an_id_takes_the_one_inside(self, bench: JoiningBench) -> None:
        bench.spec = MonitoringSpec(label_window_s=3600.0)
        bench.predict([{"out_label": 0, "request_id": "again", "ts_ns": NOW - 2 * HOUR}, {"out_label": 1, "request_id": "again"}])
        bench.label({"request_id": "again", "value": 1.0})
        messages = bench.run()
        assert bench.counts(messages) == {"joined": 1}
        assert bench.tallies(messages)[3, "1", "accuracy"] == (1, 1.0)


class TestWhereItLooks:
    def test_only_files_of_the_time_that_an_id_says_are_opened(self, bench: JoiningBench) -> None:
        bench.predict([{"out_label": 0, "ts_ns": NOW - 5 * HOUR}])
        bench.predict([{"out_label": 1, "ts_ns": NOW}])
        bench.seal()
        for part in bench.sealer.manifest.state.parts.values():
            if part.max_ts_ns < NOW - HOUR:
                bench.store.delete(part.path)       # whoever opens it fails
        bench.label(truth(1))
        assert bench.counts(bench.run()) == {"joined": 1}

    def test_other_ids_are_looked_for_everywhere_a_step_at_a_time(self, bench: JoiningBench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(joining, "MAX_SCANNED_ROWS", 1)
        for hours in range(5):
            bench.predict([{"out_label": 1, "request_id": f"id-{hours}", "ts_ns": NOW - hours * HOUR}])
            bench.seal()
        bench.label(*({"request_id": f"id-{hours}", "value": 1.0} for hours in (0, 3, 9)))
        told = [bench.run() for _ in range(5)]
        assert [bool(messages) for messages in told] == [True, False, False, True, False]       # the newest file first
        assert bench.counts(told[3]) == {"joined": 2, "waiting": 1}
        bench.label({"request_id": "id-4", "value": 1.0})
        bench.now_ns += joining.PATIENCE_NS
        assert bench.counts(bench.run()) == {"joined": 2, "unknown": 1, "waiting": 1}
        told = [bench.run() for _ in range(4)]
        assert bench.counts(told[3]) == {"joined": 3, "unknown": 1}

    def test_in_an_object_store(self, tmp_path: Path) -> None:
        bench = JoiningBench(tmp_path, url=f"memory://joining-{tmp_path.name}")
        predicted(bench)
        bench.label(truth(0), {"request_id": "x", "value": 1.0})
        bench.seal()
        predicted(bench, 1, request_id="x")
        assert bench.counts(bench.run()) == {"joined": 2}

    def test_a_journal_that_is_closed_while_it_looks(self, bench: JoiningBench, monkeypatch: pytest.MonkeyPatch) -> None:
        predicted(bench)
        bench.label(truth(0))
        listed = Home.all_journals
        calls: list[int] = []

        def stale(home: Home) -> list[JournalName]:
            calls.append(1)
            found = listed(home)
            return [JournalName(name.epoch, name.number, "open") for name in found] if len(calls) == 1 else found

        monkeypatch.setattr(Home, "all_journals", stale)
        assert bench.counts(bench.run()) == {"joined": 1}
        monkeypatch.setattr(Home, "all_journals", lambda home: [JournalName(1, 99, "open")])
        bench.restart()
        with pytest.raises(Unavailable, match="were renamed during each of 5 tries"):
            bench.run()


class TestReplicas:
    def test_a_label_that_another_replica_received(self, tmp_path: Path) -> None:
        here, there = JoiningBench(tmp_path), JoiningBench(tmp_path, replica="r-1")
        predicted(here, 2)
        there.label(truth(0), truth(1, value=0.0))
        there.run()
        assert bench_counts(here) == {}
        there.seal()        # from now on others can see it
        here.now_ns = there.now_ns = NOW + joining.PATIENCE_NS
        messages = here.run()
        assert here.counts(messages) == {"foreign": 2}
        assert here.tallies(messages)[3, "1", "accuracy"] == (2, 1.0)
        assert there.counts(there.run()) == {"unknown": 2}

    def test_rows_of_another_replica_are_its_own(self, tmp_path: Path) -> None:
        here, there = JoiningBench(tmp_path), JoiningBench(tmp_path, replica="r-1")
        predicted(there, 1)
        there.seal()
        here.label(truth(0))
        assert here.counts(here.run()) == {"waiting": 1}


def bench_counts(bench: JoiningBench) -> dict[str, int]:
    return bench.counts(bench.run())


class TestOutcomes:
    def test_every_built_in_metric_of_a_binary_model(self, bench: JoiningBench) -> None:
        rng = np.random.default_rng(6)
        scores = rng.random(400).round(2)
        said = (scores >= 0.5).astype(int)
        true = (rng.random(400) < scores).astype(int)
        bench.predict([{"out_label": int(p), "out_scores": [1 - s, s]} for p, s in zip(said, scores, strict=True)])
        bench.label(*({"request_id": uuid7(NOW, i), "value": float(t)} for i, t in enumerate(true)))
        found = bench.tallies(bench.run())
        assert found[3, "1", "accuracy"] == (400, float((said == true).sum()))
        both, either = int((said & true).sum()), int((said | true).sum())
        assert found[3, "1", "f1"] == (either, float(both))
        brier = found[3, "1", "brier"]
        assert brier[1] / brier[0] == pytest.approx(((scores - true) ** 2).mean(), abs=1e-6)
        n, won = found[3, "1", "auc"]
        positive, negative = scores[true == 1], scores[true == 0]
        assert n == min(len(positive), len(negative))
        pairs = positive[:n] - negative[:n]
        assert won == float((pairs > 0).sum() + 0.5 * (pairs == 0).sum())

    def test_regression(self, bench: JoiningBench) -> None:
        tensors = (RecordedTensor("out", "y", "FP32", (1,), 0),)
        bench.predict([{"out_y": 1.5}, {"out_y": 2.0}], tensors=tensors)
        bench.label(truth(0, value=1.0), truth(1, value=4.0), truth(1, value=None, text="four", name="note"))
        found = bench.tallies(bench.run())
        assert (found[3, "1", "mae"], found[3, "1", "mse"]) == ((2, 2.5), (2, 4.25))
        (rows,) = bench.sink.taken
        assert (rows.task, rows.prediction.tolist(), rows.label.tolist()) == ("regression", [1.5, 2.0], [1.0, 4.0])

    def test_rewards_and_named_numbers_are_metrics_of_their_own(self, bench: JoiningBench) -> None:
        predicted(bench)
        bench.label(truth(0, value=None, reward=2.5, name="revenue"), truth(1, value=None, reward=-0.5, name="revenue"),
                    truth(1, value=1.0, name="clicked"), truth(2, value=None, text="cat", name="note"))
        messages = bench.run()
        assert bench.tallies(messages) == {(3, "1", "revenue"): (2, 2.0), (3, "1", "clicked"): (1, 1.0)}
        assert bench.sink.taken == []

    def test_one_request_counts_once_and_the_sink_gets_every_row(self, bench: JoiningBench) -> None:
        bench.predict([{"out_label": 1, "request_id": "pair", "row": row} for row in range(3)])
        bench.label(*({"request_id": "pair", "row": row, "value": 1.0} for row in (1, 2)))
        assert bench.tallies(bench.run())[3, "1", "accuracy"] == (1, 1.0)
        bench.label({"request_id": "pair", "row": 0, "value": 1.0})
        assert bench.counts(bench.run()) == {"joined": 3}
        assert [rows.row.tolist() for rows in bench.sink.taken] == [[1, 2], [0]]

    def test_a_sticky_unit_counts_once_in_its_scope(self, bench: JoiningBench) -> None:
        bench.predict([{"out_label": 1, "unit": unit, "generation": generation}
                       for generation, unit in ((3, 7), (3, 7), (4, 7), (3, 8), (9, 7))])
        bench.job.tell({"type": "scopes", "model": "m", "scope": "m-r1.1", "generations": [3, 4]})
        bench.label(*(truth(i, value=1.0) for i in (0, 1)))
        assert bench.tallies(bench.run())[3, "1", "accuracy"] == (1, 1.0)
        bench.restart()
        bench.label(*(truth(i, value=1.0) for i in (2, 3, 4)))
        found = bench.tallies(bench.run())
        assert found[3, "1", "accuracy"] == (2, 2.0)        # unit 8
        assert (4, "1", "accuracy") not in found            # the rollout has unit 7 already
        assert found[9, "1", "accuracy"] == (1, 1.0)        # of nobody: a scope of its own

    def test_what_no_draw_assigned_counts_nowhere(self, bench: JoiningBench) -> None:
        bench.predict([{"out_label": 1, "variant": variant, "generation": generation}
                       for variant, generation in (("shadow", 3), ("explicit", 3), ("holdout", 3), ("", 0))])
        bench.label(*(truth(i, value=1.0) for i in range(4)))
        messages = bench.run()
        assert bench.counts(messages) == {"joined": 4}
        assert bench.tallies(messages) == {}
        assert sorted(bench.sink.taken[0].variant.tolist()) == ["", "explicit", "holdout", "shadow"]

    def test_a_label_counts_for_the_answer_and_for_its_shadow_in_the_sink(self, bench: JoiningBench) -> None:
        predicted(bench, 1)
        bench.predict([{"out_label": 1, "variant": "shadow", "request_id": uuid7(NOW, 0)}], version="2")
        bench.label(truth(0))
        assert bench.tallies(bench.run())[3, "1", "accuracy"] == (1, 1.0)
        assert {(rows.version, rows.prediction[0], rows.label[0]) for rows in bench.sink.taken} == {("1", "0", "0"), ("2", "1", "0")}

    def test_expressions(self, bench: JoiningBench) -> None:
        bench.spec = MonitoringSpec(outcomes={
            "cost": "CASE WHEN label = out_label THEN 0 ELSE 5 * in_x[1] END", "profit": "reward - 1",
            "sure": "if(label = 1, out_scores[2], NULL)"})
        bench.predict([{"out_label": 1, "in_x": [2.0, 0.0]}, {"out_label": 0, "in_x": [3.0, 0.0]}])
        bench.label(truth(0, value=1.0), truth(1, value=1.0), truth(0, value=None, reward=4.0, name="paid"))
        found = bench.tallies(bench.run())
        assert found[3, "1", "cost"] == (2, 15.0)
        assert found[3, "1", "profit"] == (1, 3.0)
        assert found[3, "1", "sure"][0] == 2
        assert found[3, "1", "sure"][1] == pytest.approx(0.9, abs=1e-6)

    def test_a_label_adds_nothing_to_an_expression_of_its_name(self, bench: JoiningBench) -> None:
        bench.spec = MonitoringSpec(outcomes={"cost": "label * 10"})
        predicted(bench, 2)
        bench.label(truth(0, value=1.0), truth(1, value=1.0), truth(0, name="cost", value=777.0), truth(0, name="other", value=5.0))
        tallies = bench.tallies(bench.run())
        assert (tallies[3, "1", "cost"], tallies[3, "1", "other"]) == ((2, 20.0), (1, 5.0))

    def test_an_expression_that_cannot_be_is_told_and_costs_nothing_else(self, bench: JoiningBench) -> None:
        bench.spec = MonitoringSpec(outcomes={"cost": "out_other * 2"})
        predicted(bench)
        bench.label(truth(0))
        messages = bench.run()
        assert bench.tallies(messages)[3, "1", "accuracy"] == (1, 1.0)
        assert 'Referenced column "out_other" not found' in messages[-1]["problems"]["m"]
        bench.spec = MonitoringSpec(outcomes={"cost": "sum(label)"})
        bench.label(truth(1))
        messages = bench.run()
        assert "sum() is not possible in an outcome" in messages[-1]["problems"]["m"]
        bench.spec = MonitoringSpec()
        bench.label(truth(2))
        assert bench.run()[-1]["problems"] == {}

    def test_an_expression_that_takes_too_long_is_evaluated_once(self, bench: JoiningBench, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def evaluate(_: OutcomeEvaluator, expression: OutcomeExpression, rows: Any) -> Any:
            asked.append(expression.sql)
            raise OutcomeTooSlow(f"{expression.sql} took more than 10 s")

        monkeypatch.setattr(OutcomeEvaluator, "evaluate", evaluate)
        bench.spec = MonitoringSpec(outcomes={"cost": "label"})
        predicted(bench)
        for name in ("label", "cost"):
            bench.label(truth(0, name=name))
            messages = bench.run()
        assert (asked, messages[-1]["problems"]) == (["label"], {"m": "label took more than 10 s"})
        assert (3, "1", "cost") not in bench.tallies(messages)      # its name is nobody else's all the same

    def test_versions_with_other_outputs(self, bench: JoiningBench) -> None:
        bench.spec = MonitoringSpec(classes=("cat", "dog"))
        predicted(bench, 2)
        bench.predict([{"out_animal": b"dog"}], version="2", tensors=(TENSORS[0], RecordedTensor("out", "animal", "BYTES", (1,), 0)))
        bench.predict([{"out_p": [0.2, 0.8]}], version="3", tensors=(TENSORS[0], RecordedTensor("out", "p", "FP32", (-1,), 0)))
        bench.predict([{}], version="4", tensors=(TENSORS[0],))
        bench.label(*({"request_id": uuid7(NOW, i), "text": name} for i, name in enumerate(["cat", "cat", "dog", "dog", "dog"])))
        messages = bench.run()
        assert bench.counts(messages) == {"joined": 5, "without_answer": 1}
        assert bench.tallies(messages)[3, "1", "accuracy"] == (4, 3.0)
        assert {rows.version: rows.prediction.tolist() for rows in bench.sink.taken} == {"1": ["cat", "dog"], "2": ["dog"], "3": ["dog"]}
