"""Latency at a pace: what h2load is asked for, what is read from its log, and which rounds say something."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from loadtests.bench import paced
from loadtests.bench.measure import Run
from loadtests.bench.paced import PacedLoad, is_held
from loadtests.bench.servers import Machine
from loadtests.records.paced import SHARES, Latencies

SUMMARY = """
finished in {seconds}s, {rate} req/s, 12.34MB/s
requests: {n} total, {n} started, {n} done, {n} succeeded, 0 failed, 0 errored, 0 timeout
"""


class H2load:
    """Reaches at most so many a second without a pace, and fewer, run by run, at one; writes latencies of 1 to 100 us into its log."""

    def __init__(self, unpaced: float, at_a_pace: Sequence[float]) -> None:
        self.unpaced, self.at_a_pace = unpaced, itertools.cycle(at_a_pace)
        self.asked: list[dict[str, str]] = []

    def __call__(self, cores: str, command: list[str]) -> str:
        options = dict(zip(command[1:-1:2], command[2:-1:2], strict=True))
        self.asked.append(options)
        n = int(options["-n"])
        if "--rps" not in options:
            return SUMMARY.format(seconds=1, rate=self.unpaced, n=n)
        with Path(options["--log-file"]).open("a") as log:
            log.writelines(f"{i}\t200\t{i % 100 + 1}\n" for i in range(n))
        reached = min(next(self.at_a_pace), int(options["--rps"]) * int(options["-c"]))
        return SUMMARY.format(seconds=1, rate=reached, n=n)


@pytest.fixture
def h2load(monkeypatch: pytest.MonkeyPatch) -> H2load:
    made = H2load(unpaced=3000, at_a_pace=[2000, 1000, 2500])
    monkeypatch.setattr(paced, "run_client", made)
    monkeypatch.setattr("loadtests.bench.clients.run_client", made)
    return made


@pytest.fixture
def load(tmp_path: Path) -> PacedLoad:
    return PacedLoad(Machine("0", "1", 1, tmp_path), 1234, tmp_path / "body", tmp_path / "log", connections=4, streams=2)


def test_a_run_is_paced_over_its_connections_and_every_call_counts_for_p99(h2load: H2load, load: PacedLoad) -> None:
    load.log.write_text("0\t200\t1000000\n")
    claim = load.send(1000, 2)
    assert {name: h2load.asked[0][name] for name in ("-n", "-c", "-m", "--rps")} == {"-n": "2000", "-c": "4", "-m": "2", "--rps": "250"}
    assert claim.rate == pytest.approx(1000)
    assert claim.p99_ms == pytest.approx(0.099, abs=0.0002)


def test_the_peak_is_what_the_client_reaches_at_a_pace_and_not_what_it_does_without(h2load: H2load, load: PacedLoad) -> None:
    assert load.unpaced_peak(0.1) == pytest.approx(3000)
    assert load.peak(0.1) == pytest.approx(2000)
    assert {options.get("--rps") for options in h2load.asked[-3:]} == {"750"}


@pytest.mark.parametrize(("reached", "held"), [(1001, True), (970, True), (969, False)])
def test_a_pace_is_held_when_nearly_all_calls_were_made_in_time(reached: float, held: bool) -> None:
    assert is_held(reached, 1000) is held


def run(rate: float, p99_ms: float, *, is_void: bool = False) -> Run:
    return Run(rate, 1000.0, 100, 0, 100, is_void, p99_ms)


def latencies() -> Latencies:
    made = Latencies("off", "on", peak=1000)
    for ratio in (1.0, 1.1, 1.3):
        made.add(SHARES[0], run(700, 2.0), run(700, 2.0 * ratio))
    return made


@pytest.mark.parametrize(("before", "after"), [
    (run(600, 1.0), run(700, 9.0)), (run(600, 1.0), run(600, 9.0)), (run(700, 1.0), run(700, 9.0, is_void=True)),
])
def test_a_round_says_nothing_when_the_pace_was_not_held_without_recording(before: Run, after: Run) -> None:
    made = latencies()
    made.add(SHARES[0], before, after)
    table = made.table(2.0)
    assert [(bound.value, bound.is_met) for bound in table.bounds] == [(pytest.approx(1.1), True)]
    assert table.rows[0][0] == "70%: 700"
    assert table.rows[0][-2:] == ["70%", "3 (0, 1)"]


def test_a_server_that_is_too_slow_only_when_it_records_counts() -> None:
    made = latencies()
    for _ in range(2):
        made.add(SHARES[0], run(700, 1.0), run(600, 9.0))
    table = made.table(2.0)
    assert [(bound.value, bound.is_met) for bound in table.bounds] == [(pytest.approx(1.3), False)]
    assert table.rows[0][-1] == "5 (2, 0)"


def test_where_no_round_says_anything_there_is_no_figure_and_the_bound_is_missed() -> None:
    made = latencies()
    made.add(SHARES[1], run(700, 1.0), run(700, 1.0))
    assert made.table(2.0).rows[1] == ["85%: 850", "", "", "", "", "", "0 (0, 1)"]
    assert not Latencies("off", "on", peak=1000).table(2.0).bounds[0].is_met
