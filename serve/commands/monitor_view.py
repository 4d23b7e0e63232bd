"""Monitoring, drawn for a terminal. Functions of the admin API's document."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serve.commands.traffic_view import plain_table

Document = Mapping[str, Any]

MAX_FEATURES = 10
_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 24


def status_picture(document: Document) -> RenderableType:
    """Alerts, then each version and variant: what it is compared with, its newest window, its worst features."""
    parts: list[RenderableType] = [_head(document)]
    standing = [one for one in document["alerts"] if one["state"] == "raised"]
    if standing:
        parts += [Text(), alerts_table(standing)]
    for series in document["series"]:
        parts += [Text(), *_series(document, series)]
    if not document["series"]:
        parts.append(Text("no row has been watched yet", "dim"))
    if violations := document["violations"]:
        parts += [Text(), _violations(violations)]
    return Group(*parts)


def alerts_table(alerts: Sequence[Document]) -> Table:
    """A line for each."""
    table = plain_table("alert", "about", "version", "variant", "since", "what", "seen by")
    for one in alerts:
        table.add_row(one["id"], Text(one["kind"].replace("_", " "), "bold red"), one["version"], Text(one["variant"]), one["since"][:16],
                      Text(str(one["evidence"].get("said", ""))), Text(one["acknowledged_by"]))
    return table


def baseline_picture(document: Document) -> RenderableType:
    """What a baseline holds: where it is from, what it watches, how well the version did."""
    head = Text.assemble((f"{document['model']} version {document['version']}  ", "bold"), f"baseline {document['id']}  ",
                         (f"{document['rows']:,} rows of {document['source'].replace('_', ' ')}", "dim"))
    answers = document["answers"]
    watched = {"numbers": document["numeric"], "categories": document["categories"], "embeddings": document["embeddings"]}
    said = ", ".join(f"{len(found)} {what}" for what, found in watched.items() if found) or "nothing"
    parts: list[RenderableType] = [head, Text(f"  {document['digest'][:19]}  watches {said}", "dim")]
    if answers is not None:
        maps = [*answers["maps"], *([answers["confidence"]] if answers["confidence"] else [])]
        calibrated = bool(maps) and all(one["is_calibrated"] for one in maps)
        how = "calibrated: performance can be estimated without labels" if calibrated else \
            "not calibrated: performance cannot be estimated; give --labels"
        parts.append(Text(f"  {len(answers['classes'])} classes, {f'scores {how}' if maps else 'no scores'}"))
    if document["performance"]:
        table = plain_table("  metric", "on labelled rows", "of chunks", "deviation")
        for name, one in document["performance"].items():
            table.add_row(f"  {name}", f"{one['value']:.4f}", f"{one['chunk_mean']:.4f}", f"{one['chunk_std']:.4f}")
        parts.append(table)
    parts += [Text(f"  {column} is not watched: {why}", "yellow") for column, why in document["skipped"].items()]
    return Group(*parts)


def _head(document: Document) -> Text:
    n_standing = sum(one["state"] == "raised" for one in document["alerts"])
    settings = document["settings"]
    said = Text(f"{document['model']}  ", "bold")
    said.append(f"{n_standing} alert{'' if n_standing == 1 else 's'}" if n_standing else "no alerts", "bold red" if n_standing else "green")
    return said.append(f"  windows of {settings['window_s']:g} s, {settings['alert_m']} of {settings['alert_n']} raise an alert", "dim")


def _series(document: Document, series: Document) -> list[RenderableType]:
    name = (series["version"], series["variant"])
    windows = [one for one in document["windows"] if (one["version"], one["variant"]) == name]
    realised = [one for one in document["realised"] if (one["version"], one["variant"]) == name]
    as_variant = f"as {name[1]}  " if name[1] not in ("", name[0]) else " "
    parts: list[RenderableType] = [Text.assemble((f"version {name[0]} ", "bold"), as_variant, (_baseline(series), "dim"))]
    latest = series["latest"]
    if latest is None:
        return parts
    if not latest["concluded"]:
        parts.append(Text(f"  {latest['to'][:16]}  {latest['reason']}", "yellow"))
        return parts
    drifted = Text(f"{latest['n_drifted']} of {latest['n_features']} features drifted", "red" if latest["n_drifted"] else "green")
    parts.append(Text.assemble(f"  {latest['to'][:16]}  {latest['rows']:,} rows  ", drifted))
    parts += _performance(windows, realised)
    if latest["features"]:
        parts.append(_features(latest, windows))
    return parts


def _baseline(series: Document) -> str:
    if baseline := series["baseline"]:
        return f"baseline {baseline['id']}: {baseline['rows']:,} rows of {baseline['source'].replace('_', ' ')}"
    if collecting := series["collecting"]:
        return f"no baseline yet: {collecting['rows']:,} of {collecting['wanted']:,} rows are collected for one"
    return "no baseline"


def _performance(windows: Sequence[Document], realised: Sequence[Document]) -> list[Text]:
    lines = []
    for word, found, key in (("estimated", windows, "estimated"), ("realised", realised, "metrics")):
        values = [one for one in found if one[key]]
        for metric in values[-1][key] if values else ():
            series = [one[key][metric] for one in values if metric in one[key]]
            band = values[-1].get("bands", {}).get(metric)
            is_bad = band is not None and not band[0] <= series[-1] <= band[1]
            line = Text.assemble(f"  {word} {metric} ", (f"{series[-1]:.4f}", "bold red" if is_bad else "bold"), f"  {spark(series)}")
            if band is not None:
                line.append(f"  {band[0]:.4f} to {band[1]:.4f} is as good as the baseline", "dim")
            lines.append(line)
    return lines


def _features(latest: Document, windows: Sequence[Document]) -> Table:
    table = plain_table("  feature", "PSI", "critical", "", "lately")
    worst = sorted(latest["features"].items(), key=lambda item: -item[1]["psi"])[:MAX_FEATURES]
    for name, one in worst:
        lately = [window["features"][name]["psi"] for window in windows if name in window["features"]]
        verdict = Text("drift", "bold red") if one["drifted"] else Text("")
        table.add_row(Text(f"  {name}"), f"{one['psi']:.4f}", f"{one['critical']:.4f}", verdict, spark(lately))
    return table


def _violations(violations: Sequence[Document]) -> Table:
    table = plain_table("version", "feature", "invalid values", "number")
    for one in sorted(violations, key=lambda one: -one["count"])[:MAX_FEATURES]:
        table.add_row(one["version"], Text(one["feature"]), one["kind"].replace("_", " "), f"{one['count']:,}")
    return table


def spark(values: Sequence[float]) -> str:
    """The newest values as a line of bars, from the least to the greatest of them."""
    shown = [value for value in values[-_SPARK_WIDTH:] if value == value]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    width = high - low
    return "".join(_SPARKS[round((len(_SPARKS) - 1) * (value - low) / width) if width else 0] for value in shown)


__all__ = ["alerts_table", "baseline_picture", "spark", "status_picture"]
