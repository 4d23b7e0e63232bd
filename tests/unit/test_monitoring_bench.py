"""The bench of monitoring: its scores and its streams, and that its cases run."""

import json
from pathlib import Path

import numpy as np
import pytest

from loadtests.judge.tables import Scale
from loadtests.monitoring import __main__ as bench
from loadtests.monitoring import plots, published
from loadtests.monitoring.annotated import score
from loadtests.monitoring.clean import alerts_at
from loadtests.monitoring.streams import CONCEPTS, COVARIATES, drifting


def test_f1_of_change_points() -> None:
    people = {"a": [100], "b": [100, 200], "c": []}
    assert score([100, 200], people, 5, is_late=False) == pytest.approx(1.0)
    assert score([96, 205], people, 5, is_late=False) == pytest.approx(1.0)
    assert score([96, 205], people, 5, is_late=True) < 1
    nothing = score([], people, 5, is_late=False)       # the first value alone: precision 1, recall the mean of 1/2, 1/3 and 1
    assert nothing == pytest.approx(2 * (11 / 18) / (1 + 11 / 18))
    assert score(list(range(10, 500, 10)), people, 5, is_late=False) < nothing


def test_an_alert_is_raised_once_while_it_stands() -> None:
    assert alerts_at([False, True, False, True, True, True]) == [3]
    assert alerts_at([True, True, False, False, False, True, True]) == [1, 6]
    assert alerts_at([True, False, False, True, False, False]) == []


@pytest.mark.parametrize("generator", [*CONCEPTS, *COVARIATES[:2]], ids=lambda one: one.name)
def test_streams_turn_into_others_at_their_place(generator: object) -> None:
    x, y = drifting(generator, 300, 200, 1, 3)      # type: ignore[arg-type]
    again, _ = drifting(generator, 300, 200, 1, 3)      # type: ignore[arg-type]
    gradual, _ = drifting(generator, 300, 200, 50, 3)       # type: ignore[arg-type]
    assert x.shape == gradual.shape
    assert len(y) == 300
    assert np.array_equal(x, again)


def test_cases_run_and_write_their_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert bench.main(["annotated", "--quick"]) == 0
    page = (tmp_path / "reports" / "monitoring-quick.md").read_text()
    assert "| RunLog | 376 | 0 to 9 |" in page
    assert "Not run yet: car-loans, census, clean" in page
    assert list(json.loads((tmp_path / "reports" / "monitoring-quick.json").read_text())["cases"]) == ["annotated"]


def test_without_the_data_sets_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"run tools/datasets\.sh"):
        published.car_loans(Scale(1, 1, lambda line: None))


def test_the_picture_names_what_it_shows() -> None:
    drawn = plots.car_loans({"estimated": [0.97] * 10, "realised": [0.96] * 10, "published": published.ESTIMATED, "band": published.BAND})
    assert drawn.startswith("<svg")
    assert "estimated, as published" in drawn
