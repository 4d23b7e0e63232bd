"""The report: well-formed, self-contained, escaped, and saying what the document says."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.monitoring.report.drift_plots import MAX_CELLS, MAX_ROWS, heat_class, heat_map
from serve.monitoring.report.page import report_html
from serve.monitoring.report.plots import Period, alerts_plot, performance_plot, traffic_plot
from serve.monitoring.report.svg import NS, Scale, mark, nice_ticks, number, path, time_ticks
from tests.unit.monitoring.documents import START_NS, WINDOW_NS, document, edges

MADE = "2026-01-31 16:02 UTC"
_VOID = {"meta", "br", "i", "link"}


class Reader(HTMLParser):
    """Collects elements, and finds what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page() -> Reader:
    return Reader(report_html(document(), MADE))


def numbers(elements: list[dict[str, str | None]], *names: str) -> Iterator[float]:
    for attrs in elements:
        yield from (float(attrs[name] or "nan") for name in names)


def test_nothing_comes_from_anywhere_else() -> None:
    text = report_html(document(), MADE)
    assert not re.findall(r"https?:|url\(|<script|<link|<img|@import|src=", text)
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 2_000_000


def test_what_it_says(page: Reader) -> None:
    for words in ("digits", "3 alerts standing", "2026-01-31 12:00 to 2026-01-31 16:00 UTC", "accuracy, version 1 stable",
                  "Drift, version 1 stable", "against 1,437 rows of training", "Version 2 canary against stable", "Data validation",
                  "out of range", "4,120", "Embeddings, version 1 stable", "input[23] (PSI 1.39) and 20 more", "ada", MADE):
        assert words in page.text, words


def test_every_mark_is_inside_its_plot(page: Reader) -> None:
    boxes = [attrs["viewbox"] for tag, attrs in page.elements if tag == "svg" and attrs.get("role") == "img"]
    assert len(boxes) == 1 + 4 + 2 + 10 + 1, "alerts, performance, heat maps, distributions, traffic"
    for attrs in page.of_class("now"):
        if "x" in attrs:
            assert 0 <= float(attrs["x"] or 0) <= 256
            assert float(attrs["height"] or 0) >= 0
    cells = [attrs for css in ("h0", "h1", "h2", "h3", "h4", "h5") for attrs in page.of_class(css) if "x" in attrs]
    assert len(cells) > 1000
    assert all(138 <= x <= 1072 for x in numbers(cells, "x"))
    assert all(width > 0 for width in numbers(cells, "width", "height"))


def open_windows(made: dict[str, Any]) -> dict[str, Any]:
    """The document while labels come in: of the window that is still open many, of one much later 2, both wrong."""
    for index, labelled, accuracy in ((48, 300, 0.94), (60, 2, 0.0)):
        made["realised"].append({"version": "1", "variant": "stable", **edges(index), "labelled": labelled,
                                 "metrics": {"accuracy": accuracy}, "bands": {"accuracy": [0.93, 0.98]}})
    return made


def test_a_window_that_is_still_open_stays_inside_the_plot() -> None:
    page = Reader(report_html(open_windows(document()), MADE))
    lines = [attrs["d"] for attrs in page.of_class("line") if "realised" in (attrs["class"] or "") and attrs["d"]]
    places = [float(x) for line in lines for x in re.findall(r"[ML](-?[0-9.]+) ", line)]
    assert len(places) > 30
    assert all(138 <= x <= 1070 for x in places), max(places)
    dots = [attrs for attrs in page.of_class("realised") if "cx" in attrs]
    assert all(138 <= x <= 1070 for x in numbers(dots, "cx"))
    assert "2026-01-31 12:00 to 2026-01-31 17:05 UTC" in page.text, "the period of the plots"


def test_two_labels_do_not_stretch_the_axis() -> None:
    spread = []
    for made in (document(), open_windows(document())):
        dots = [attrs for attrs in Reader(report_html(made, MADE)).of_class("realised") if attrs["class"] == "dot realised"]
        heights = list(numbers(dots, "cy"))
        spread.append(max(heights) - min(heights))
    assert spread[1] == pytest.approx(spread[0], rel=0.1)


def test_lines_and_dots_are_clipped_to_the_plot() -> None:
    made = open_windows(document())
    plot = performance_plot(Period(START_NS, START_NS + 20 * WINDOW_NS), "accuracy", [], made["realised"])
    page = Reader(f"<html>{plot}</html>")
    clips = [attrs for tag, attrs in page.elements if tag == "svg"][1:]
    assert [attrs["class"] for attrs in clips] == ["clip"]
    left, _, width, _ = map(float, (clips[0]["viewbox"] or "").split())
    assert 130 <= left <= 138
    assert 1070 <= left + width <= 1078
    inner = plot[plot.index('class="clip"'):]
    assert "<circle" not in plot[:plot.index('class="clip"')]
    assert inner.count("<path") == 2
    sizes = re.findall(r"([a-z.]*svg[a-z.]*) \{[^}]*overflow: (\w+)", report_html(made, MADE))
    assert ("svg.clip", "hidden") in sizes


def test_only_few_labels_are_drawn_too() -> None:
    few = [one | {"labelled": 9, "bands": {}} for one in document()["realised"]]
    page = Reader(f"<html>{performance_plot(Period(START_NS, START_NS + 48 * WINDOW_NS), 'accuracy', [], few)}</html>")
    assert all(12 <= y <= 192 for y in numbers(page.of_class("few"), "cy"))
    assert len(page.of_class("few")) > 30


def test_alerts_say_what_their_version_is() -> None:
    made = document(n_windows=6)
    made["alerts"] = [made["alerts"][0] | {"version": "1", "variant": "1"}, made["alerts"][0] | {"version": "2", "variant": "canary"}]
    text = report_html(made, MADE)
    assert "<td>1</td>" in text
    assert "<td>2 canary</td>" in text
    assert "1 1<" not in text
    assert "version 1 (1)" not in text
    assert "version, variant" in text


def test_colours_change_where_drift_begins() -> None:
    assert [heat_class(psi, 0.1) for psi in (0.0, 0.019, 0.02, 0.05, 0.0999, 0.1, 0.2, 0.5, 9.0)] == [
        "h0", "h0", "h1", "h2", "h2", "h3", "h4", "h5", "h5"]


def test_a_heat_map_of_many_features_and_windows_stays_readable() -> None:
    made = document(n_windows=600, n_features=200, drift_from=300)
    windows = [one for one in made["windows"] if one["version"] == "1"]
    page = Reader(f"<html>{heat_map(Period(START_NS, START_NS + 600 * WINDOW_NS), windows, 0.1)}</html>")
    assert len(page.of_class("feature")) == MAX_ROWS
    assert len([1 for css in range(6) for _ in page.of_class(f"h{css}")]) <= MAX_ROWS * MAX_CELLS


def test_names_cannot_break_out() -> None:
    made = document(n_windows=4)
    nasty = "<script>alert(1)</script>&\"'"
    for one in made["windows"]:
        one["features"] = {nasty: next(iter(one["features"].values()))}
    made["model"] = nasty
    made["alerts"][0]["evidence"] = {"said": nasty}
    made["violations"] = [{"version": "1", "feature": nasty, "kind": "missing", "count": 1}]
    shares = {"baseline": [0.5, 0.5], "current": [1.0, 0.0]}
    made["series"][0]["distributions"] = [
        {"feature": nasty, "kind": "input", "labels": [nasty] * 2, **shares, "psi": 1.0, "drifted": True}]
    text = report_html(made, nasty)
    assert "<script" not in text
    assert nasty in Reader(text).text


@pytest.mark.parametrize("change", ["nothing", "no window", "too few", "no performance", "one window", "no baseline", "no alerts"])
def test_documents_with_holes(change: str) -> None:
    made: dict[str, Any] = document(n_windows=1 if change == "one window" else 6)
    if change == "no window":
        made["windows"] = []
    if change == "too few":
        for one in made["windows"]:
            one |= {"concluded": False, "features": {}, "predictions": {}, "embeddings": {}, "estimated": {}, "bands": {}}
    if change == "no performance":
        made["realised"] = []
        for one in made["windows"]:
            one["estimated"] = one["bands"] = {}
    if change == "no baseline":
        made["series"][0] |= {"baseline": None, "latest": None, "distributions": []}
    if change == "no alerts":
        made["alerts"] = []
    page = Reader(report_html(made, MADE))
    assert ("no window has been closed" in page.text.lower()) == (change == "no window")
    if change == "no alerts":
        assert "no alerts" not in page.text
        assert "0 alerts standing" in page.text


def test_an_alert_that_stands_reaches_the_end() -> None:
    made = document()
    page = Reader(f"<html>{alerts_plot(Period(START_NS, START_NS + 48 * WINDOW_NS), made['alerts'])}</html>")
    ends = [float(attrs["x"] or 0) + float(attrs["width"] or 0) for attrs in page.of_class("alert")]
    assert [round(end) for end in ends].count(1070) == 3
    assert len(ends) == 4


def test_traffic_is_stacked_without_gaps() -> None:
    windows = [one for one in document()["windows"] if one["from_ns"] == START_NS + 30 * WINDOW_NS]
    page = Reader(f"<html>{traffic_plot(Period(START_NS, START_NS + 48 * WINDOW_NS), windows)}</html>")
    (lower,), (upper,) = page.of_class("series0"), page.of_class("series1")
    assert float(upper["y"] or 0) + float(upper["height"] or 0) == pytest.approx(float(lower["y"] or 0), abs=0.11)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_within_the_range_and_not_too_many(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert len(ticks) <= 6
    assert all(low - width * 1e-6 <= tick <= low + width * 1.000001 for tick in ticks)


@given(st.integers(0, 2**61), st.integers(10, 400 * 86_400))
def test_times_are_round_and_few(start: int, span_s: int) -> None:
    ticks = time_ticks(start, start + span_s * NS)
    assert len(ticks) <= 15
    assert all(start <= at <= start + span_s * NS and at % (5 * NS) == 0 for at, _ in ticks)


@pytest.mark.parametrize(("value", "said"), [(12345, "12,345"), (0.91234, "0.912"), (1.2e-7, "1.2e-07"), (float("nan"), "none"),
                                             (12345.6, "12,346"), (0.0, "0")])
def test_numbers(value: float, said: str) -> None:
    assert number(value) == said


def test_marks() -> None:
    assert mark("rect", x=1.04, class_="a<b", text_anchor="end") == '<rect x="1" class="a&lt;b" text-anchor="end"/>'
    assert path([(0, 1), (2, 3.26), None, (4, 5)]) == "M0 1L2 3.3M4 5"
    assert Scale(5, 5, 0, 10)(5) == 5
