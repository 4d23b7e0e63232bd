"""From recorded rows and labels on a disk to a verdict: the join's own messages, the board, and the real driver."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from serve.routing.outcome_board import OutcomeBoard
from tests.unit.recording.joining_bench import NOW, JoiningBench, uuid7
from tests.unit.routing.rollout_bench import Bench, start

JUDGE = {"rollback_alpha": 0.03, "outcomes": [{"name": "accuracy", "worse": "lower", "action": "rollback", "promote_margin": 0.1}]}


class Served:
    """A rollout on the one side, its records and labels on the other."""

    def __init__(self, folder: Path) -> None:
        self.records = JoiningBench(folder)
        self.board = OutcomeBoard(self.records.job.tell)
        self.routing = Bench(folder / "routing", outcomes=self.board)
        self.rng = np.random.default_rng(11)
        self.n = 0

    def predict(self, n: int, rates: dict[str, float]) -> list[tuple[str, float]]:
        """n answers by the weights in force, right at these rates by version. Ids and truths."""
        spec = self.routing.models.spec
        assert spec is not None
        names = [arm.name for arm in spec.arms]
        arms = self.rng.choice(names, n, p=[arm.weight / 10_000 for arm in spec.arms])
        truths = self.rng.integers(0, 2, n)
        is_right = self.rng.random(n) < np.array([rates[arm] for arm in arms])
        first, self.n = self.n, self.n + n
        drawn = enumerate(zip(truths, is_right, arms, strict=True), first)
        self.records.predict([
            {"out_label": int(truth if right else 1 - truth), "variant": str(arm), "generation": spec.generation,
             "request_id": uuid7(NOW, i), "unit": i} for i, (truth, right, arm) in drawn])
        return [(uuid7(NOW, first + i), float(truth)) for i, truth in enumerate(truths)]

    def label(self, truths: list[tuple[str, float]]) -> None:
        self.records.label(*({"request_id": name, "value": truth} for name, truth in truths))

    def join(self) -> None:
        for message in self.records.run():
            if message["type"] == "outcomes":
                self.board.take(message)


@pytest.fixture
async def served(tmp_path: Path):
    (tmp_path / "routing").mkdir()
    served = Served(tmp_path)
    await served.routing.open()
    yield served
    await served.routing.service.close()
    await served.routing.store.close()


async def test_a_worse_candidate_is_rolled_back_by_its_labels(served: Served) -> None:
    bench = served.routing
    await start(bench, judge=JUDGE, steps=[{"weight": 3000, "seconds": 1e5, "requests": 10**9}], step_timeout_seconds=1e6)
    await bench.until(lambda: bench.models.weights() == {"1": 7000, "2": 3000}, "the step")
    truths = served.predict(3000, {"1": 0.9, "2": 0.75})
    await asyncio.sleep(0.05)
    assert bench.phase() == "stepping"      # nobody knows yet
    served.label(truths)
    served.join()
    await bench.until(lambda: bench.phase() == "rolled_back", "the rollback")
    assert bench.models.weights() == {"1": 10_000}
    assert "accuracy: candidate differs by -0.1" in bench.service.rollout("m-r1")["why"]


async def test_a_sound_candidate_waits_for_late_labels_and_goes_through(served: Served) -> None:
    bench = served.routing
    await start(bench, judge=JUDGE, sticky={"header": "x-user"})
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000}, "the first step")
    early = served.predict(3000, {"1": 0.9, "2": 0.9})
    bench.serve(20_000)
    await bench.until(lambda: bench.models.weights() == {"1": 5000, "2": 5000}, "the second step")
    late = served.predict(3000, {"1": 0.9, "2": 0.9})
    for _ in range(6):
        bench.serve(200_000)
        await asyncio.sleep(0.03)
    assert bench.phase() == "stepping"
    # The labels of the first step come when the second one runs: they count under the first one's share.
    served.label(early)
    served.records.seal()
    served.records.restart()
    served.board._tell = served.records.job.tell
    served.board.repeat_scopes()
    served.join()
    (live,) = bench.service.live()
    await bench.until(lambda: bool(live.judge.outcomes), "the labels")
    assert [totals.share for totals in live.judge.outcomes] == [0.1]
    assert sum(totals.stable.n + totals.candidate.n for totals in live.judge.outcomes) == 3000
    served.label(late)
    served.join()
    await bench.until(lambda: bench.phase() == "succeeded", "the end")
    assert set(served.records.job._open[0].scopes.values()) == {"m-r1.1"}
