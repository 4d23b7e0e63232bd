"""The judge's bench: every case runs, its arithmetic is right, and what it draws is a picture."""

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from loadtests.judge import detection, null, plots, report, runtimes, streams, tables, whole
from loadtests.judge.__main__ import CASES, SLOW_FIRST, run_case
from loadtests.judge.tables import Bound, Scale, Table
from serve.routing.judge.judgement import Verdict

SAID: list[str] = []
TINY = Scale(40, 2, SAID.append)
QUICK_CASES = sorted(set(CASES) - {"whole", "run-times", "experiments"})


@pytest.mark.parametrize("case", QUICK_CASES)
def test_every_case_fills_its_tables(case: str) -> None:
    for table in CASES[case](TINY):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.headers)}
        assert all(math.isfinite(bound.value) for bound in table.bounds)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["whole", "run-times", "experiments"])
def test_every_slow_case_fills_its_tables(case: str) -> None:
    for table in run_case(case, 40, 1):
        assert {len(row) for row in table.rows} == {len(table.headers)}


def test_cases_repeat_themselves() -> None:
    """Seeds are fixed: the page can be made again."""
    first, second = (CASES["slow-answers"](Scale(40, 1, SAID.append)) for _ in range(2))
    assert first == second
    assert set(SLOW_FIRST) <= set(CASES)


def test_a_tenfold_candidate_is_found_in_tens_of_errors() -> None:
    stops = detection.simulate(0.5, 10, 200, tables.seeded(1))
    assert (stops.requests > stops.errors).all()
    assert (stops.errors >= stops.candidate_errors).all()
    assert 10 <= np.median(stops.errors) <= 18


def test_quantiles_count_runs_that_never_stopped() -> None:
    values = np.array([10, 20, 30, -1])
    assert detection.quantiles(values)[0] == 30
    assert math.isnan(detection.quantiles(values)[1])


@pytest.mark.parametrize(("hits", "runs"), [(0, 100), (3, 1_000), (20, 10_000), (999, 1_000)])
def test_upper_bound_is_clopper_pearson(hits: int, runs: int) -> None:
    assert tables.upper_bound(hits, runs) == pytest.approx(stats.beta.ppf(0.95, hits + 1, runs - hits), rel=1e-6)


def test_first_crossing() -> None:
    log_e = np.log([[1, 5, 100, 2], [1, 2, 3, 4]])
    assert null.first_crossing(log_e, 100).tolist() == [2, -1]


def test_the_swing_is_tenfold_and_the_ramp_has_equal_steps() -> None:
    rate = null.swinging_rate(np.linspace(0, 1, 1001))
    assert rate.max() / rate.min() == pytest.approx(10)
    assert np.bincount(null.ramp_step(np.linspace(0, null.DAYS, 4001))[:-1]).tolist() == [1000] * 4


def test_z_test_is_scipys() -> None:
    table = np.array([[30, 970], [50, 950]])
    chi2 = stats.chi2_contingency(table, correction=False)
    z = math.sqrt(chi2.statistic)
    alarms = [bool(null.z_alarms(np.array([50]), 1000.0, np.array([30]), 1000.0, critical)[0]) for critical in (z - 1e-6, z + 1e-6)]
    assert alarms == [True, False]


def test_first_errors_of_users() -> None:
    assert null._is_first(np.array([[3, 3, 1, 3, 1, 2]])).tolist() == [[True, False, True, False, False, True]]


@pytest.mark.parametrize("psi", [0.025, 0.1, 0.38])
def test_tilt_has_the_index_asked_for(psi: float) -> None:
    a = streams.tilted(psi)
    assert a.sum() == pytest.approx(1)
    assert ((a - 0.1) * np.log(a / 0.1)).sum() == pytest.approx(psi)


def test_a_doubled_tail_is_doubled() -> None:
    plain, doubled = runtimes.cumulative(), runtimes.cumulative(doubled_tail=0.99)
    edge = int(np.searchsorted(plain, 0.99))
    assert 1 - plain[edge] == pytest.approx(runtimes.TAIL, rel=0.01)
    assert 1 - doubled[edge] == pytest.approx(2 * (1 - plain[edge]))
    assert (np.diff(doubled) >= 0).all()


@pytest.mark.parametrize("name", list(whole.FIXTURES))
def test_fixtures(name: str) -> None:
    candidate, baseline, wanted, _ = whole.FIXTURES[name]
    assert whole.judged(candidate, baseline).verdict is wanted


def test_no_errors_at_all_are_no_rollback() -> None:
    assert whole.judged((0,) * 5, (0,) * 5).verdict is Verdict.CONTINUE


def test_bounds() -> None:
    assert Bound("x", 1.0, 0.9, 1.1).is_met
    assert not Bound("x", 1.2, 0.9, 1.1).is_met
    assert not Bound("x", 0.8, least=0.9).is_met
    assert not Bound("x", math.nan, most=1.0).is_met
    assert report.bound_line(Bound("x", 1.2, most=1.0)).endswith("at most 1: MISSED")


def test_page_json_and_pictures(tmp_path: Path) -> None:
    made = CASES["ramp"](TINY) + CASES["errors"](TINY) + [Table("t", ["a"], [["x|y"]], ["Note."], [Bound("b", 2.0, most=1.0)])]
    page = report.write(tmp_path, {"runs": "40"}, made).read_text()
    assert "missed: " in page
    assert "x\\|y" in page
    assert "![requests by error ratio](judge-requests.svg)" in page
    read = json.loads((tmp_path / "judge.json").read_text())
    assert [table["title"] for table in read["tables"]] == [table.title for table in made]
    for name in report.PICTURES:
        root = ET.fromstring((tmp_path / f"{name}.svg").read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_pictures_stay_inside_their_frame() -> None:
    series = CASES["errors"](TINY)[0].series
    root = ET.fromstring(plots.requests_to_rollback(series))
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2 * len(detection.REFERENCE) + 4
    for circle in circles:
        assert 0 < float(circle.attrib["cx"]) < 720
        assert 0 < float(circle.attrib["cy"]) < 440
