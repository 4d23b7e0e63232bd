"""The report itself: the admin API's monitoring document of a model as one self-contained HTML page, without scripts."""

import string
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from serve.monitoring.report.drift_plots import MAX_ROWS, distribution_plot, heat_legend, heat_map
from serve.monitoring.report.plots import FEW_LABELS, Period, alerts_plot, name_of, performance_plot, series_names, traffic_plot
from serve.monitoring.report.svg import number
from serve.monitoring.report.tables import alerts_table, compared_table, embeddings_table, features_table, violations_table
from serve.records import SHADOW
from serve.store.audit import rfc3339

Document = Mapping[str, Any]

_TEMPLATE = Path(__file__).with_name("page.html")
MAX_DISTRIBUTIONS = 12


def report_html(document: Document, made: str) -> str:
    """The page. document: of GET .../monitoring. made: when, as text for people."""
    windows = document["windows"]
    model = escape(document["model"])
    if not windows:
        body = f"<h1>{model}</h1><p>No window has been closed yet: there is nothing to show. Made {escape(made)}.</p>"
        return _page(f"{model}: monitoring", body)
    # Labels may have come of a window that is still open.
    period = Period(min(one["from_ns"] for one in windows), max(one["to_ns"] for one in (*windows, *document["realised"])))
    parts: list[str] = [_head(document, period, made), _tiles(document), _alerts(document, period), _performance(document, period)]
    for series in document["series"]:
        parts += _drift(document, series, period)
    parts += [_violations(document), _traffic(period, windows), _foot(document)]
    return _page(f"{model}: monitoring", "\n".join(part for part in parts if part))


def _page(title: str, body: str) -> str:
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(title=title, body=body)


def _head(document: Document, period: Period, made: str) -> str:
    standing = [one for one in document["alerts"] if one["state"] == "raised"]
    said = f"{len(standing)} alert{'' if len(standing) == 1 else 's'} standing"
    when = f"{_when(rfc3339(period.start_ns))} to {_when(rfc3339(period.end_ns))} UTC"
    what = f"{len(document['windows']):,} windows of {number(document['settings']['window_s'])} s"
    return (f'<h1>{escape(document["model"])} <span class="chip {"bad" if standing else "good"}">{said}</span></h1>'
            f'<div class="sub">{when} · {what} · made {escape(made)}</div>')


def _tiles(document: Document) -> str:
    windows = document["windows"]
    tiles = [_tile("rows watched", f"{sum(one['rows'] for one in windows):,}", "in this period")]
    for series in (one for one in document["series"] if one["variant"] != SHADOW):
        latest, name = series["latest"], name_of(series)
        if latest and latest["n_features"]:
            bad = "bad" if latest["n_drifted"] else "good"
            tiles.append(_tile("features drifted", f"{latest['n_drifted']} of {latest['n_features']}", f"{name} · newest window", bad))
        for metric, value in _shown(document, (latest or {}).get("estimated", {})):
            band = latest["bands"].get(metric)
            tiles.append(_tile(f"estimated {metric}", number(value), f"{name}{_band(band)}", _judged(value, band)))
        realised = [one for one in document["realised"] if name_of(one) == name and one["labelled"] >= FEW_LABELS]
        for metric, value in _shown(document, realised[-1]["metrics"] if realised else {}):
            band = realised[-1]["bands"].get(metric)
            tiles.append(_tile(f"realised {metric}", number(value), f"{name} · {realised[-1]['labelled']:,} labels", _judged(value, band)))
    n_violations = sum(one["count"] for one in document["violations"])
    tiles.append(_tile("invalid values", f"{n_violations:,}", "missing, out of range, unseen", "warn" if n_violations else ""))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _shown(document: Document, metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    """The one that the model is judged by, or the first."""
    wanted = document["settings"].get("metric")
    return [(wanted, metrics[wanted])] if wanted in metrics else list(metrics.items())[:1]


def _tile(said: str, value: str, below: str = "", kind: str = "") -> str:
    return f'<div class="tile"><span>{escape(said)}</span><b class="{kind}">{escape(value)}</b><small>{escape(below)}</small></div>'


def _band(band: Sequence[float] | None) -> str:
    return f" · {number(band[0])} to {number(band[1])}" if band else ""


def _judged(value: float, band: Sequence[float] | None) -> str:
    return "" if not band else "good" if band[0] <= value <= band[1] else "bad"


def _alerts(document: Document, period: Period) -> str:
    alerts = [one for one in document["alerts"] if (one["cleared_ns"] or period.end_ns) >= period.start_ns]
    if not alerts:
        return ""
    about = "From the first bad window to where it cleared; the stroke is when it was raised."
    return _section("Alerts", about, alerts_plot(period, alerts), alerts_table(alerts))


def _performance(document: Document, period: Period) -> str:
    shown: list[str] = []
    folded: list[str] = []
    for series in document["series"]:
        name = name_of(series)
        windows = [one for one in document["windows"] if name_of(one) == name and one["estimated"]]
        # Not those before the first window that is shown, of which there may be many.
        realised = [one for one in document["realised"] if name_of(one) == name and one["metrics"] and one["from_ns"] >= period.start_ns]
        metrics = {metric: 0.0 for one in [*windows[-1:], *realised[-1:]] for metric in (one.get("estimated") or one["metrics"])}
        first = dict(_shown(document, metrics))
        for metric in metrics:
            estimated = [one for one in windows if metric in one["estimated"]]
            true = [one for one in realised if metric in one["metrics"]]
            plot = f"<h3>{escape(metric)}, version {escape(name)}</h3>" + performance_plot(period, metric, estimated, true)
            (shown if metric in first else folded).append(plot)
    if not shown:
        return ""
    legend = _legend([("estimated", "estimated without labels"), ("realised", "realised, where labels have come"),
                      ("bandkey", "as good as the baseline")])
    more = f"<details><summary>other metrics</summary>{''.join(folded)}</details>" if folded else ""
    about = (f"Estimated from the calibrated scores of each window; realised by the time of the prediction, faint where fewer than "
             f"{FEW_LABELS} labels have come.")
    return _section("Performance", about, legend, *shown, more)


def _drift(document: Document, series: Document, period: Period) -> list[str]:
    name, settings = name_of(series), document["settings"]
    windows = [one for one in document["windows"] if name_of(one) == name]
    parts = []
    if any(one["concluded"] and one["features"] for one in windows):
        baseline = series["baseline"]
        against = f"against {baseline['rows']:,} rows of {baseline['source'].replace('_', ' ')}" if baseline else ""
        about = (f"Population stability index of each window {against}. Warm colours are at or above {number(settings['min_psi'])}, "
                 f"where drift begins; a dot: the test agrees. At most {MAX_ROWS} features, the worst first.")
        legend = _legend([(css, f"PSI {said}") for css, said in heat_legend(settings["min_psi"])])
        parts.append(_section(f"Drift, version {name}", about, legend, heat_map(period, windows, settings["min_psi"]),
                              features_table(series["latest"])))
    latest = series["latest"] or {}
    if latest.get("embeddings"):
        what = "Squared maximum mean discrepancy of random Fourier features, in the newest window."
        parts.append(_section(f"Embeddings, version {name}", what, embeddings_table(latest)))
    if versus := latest.get("against_stable"):
        why = f": {versus['reason']}" if versus["reason"] else ""
        beside = f"{versus['rows']:,} rows beside {versus['stable_rows']:,} of the stable version, in the same minutes{why}."
        parts.append(_section(f"Version {name} against stable", beside, compared_table(versus["features"])))
    if series["distributions"]:
        legend = _legend([("now", "the window"), ("before", "baseline")])
        ordered = sorted(series["distributions"], key=lambda one: one["kind"] != "prediction")
        plots = "".join(_distribution(one) for one in ordered[:MAX_DISTRIBUTIONS])
        parts.append(_section(f"Distributions, version {name}", "The features of the newest window that differ most, and the predictions; "
                              "bins are quantiles of the baseline.", legend, f'<div class="many">{plots}</div>'))
    return parts


def _distribution(one: Document) -> str:
    kind = "bad" if one["drifted"] else "good"
    return (f"<figure><figcaption><b>{escape(one['feature'])}</b><span class=\"{kind}\">PSI {number(one['psi'])}</span></figcaption>"
            f"{distribution_plot(one)}</figure>")


def _violations(document: Document) -> str:
    if not document["violations"]:
        return ""
    about = "Values that the baseline does not know, since monitoring began."
    return _section("Data validation", about, violations_table(document["violations"]))


def _traffic(period: Period, windows: Sequence[Document]) -> str:
    legend = _legend([(f"series{index % 6}", name) for index, name in enumerate(series_names(windows))])
    return _section("Traffic", "Rows of each window by version and variant.", legend, traffic_plot(period, windows))


def _foot(document: Document) -> str:
    settings = document["settings"]
    rule = f"an alert is {settings['alert_m']} of {settings['alert_n']} windows of at least {settings['min_rows']:,} rows"
    lines = [f"{rule}; false discovery rate {number(settings['fdr'])} over the features of a window"]
    lines += [f"version {name_of(series)}: {_described(series['baseline'])}" for series in document["series"] if series["baseline"]]
    return f"<footer>{'<br>'.join(map(escape, lines))}</footer>"


def _described(baseline: Document) -> str:
    source = baseline["source"].replace("_", " ")
    return f"baseline {baseline['id']}, {baseline['rows']:,} rows of {source}, made {baseline['created'][:16]}, {baseline['digest'][:19]}"


def _section(title: str, about: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(about)}</p>{''.join(content)}</section>"


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    return '<div class="legend">' + "".join(f'<span><i class="{css}"></i>{escape(said)}</span>' for css, said in entries) + "</div>"


def _when(time: str) -> str:
    return escape(time[:16].replace("T", " "))


__all__ = ["MAX_DISTRIBUTIONS", "report_html"]
