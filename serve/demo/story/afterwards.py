# ruff: noqa: S608  -- names of our own
"""Act 6: the accuracy is back, and the clients, the records and monitoring know the same of it."""

from collections import Counter
from typing import Any

import yaml

from serve.client import Client
from serve.demo.story.audit import PROMOTED, times_ns
from serve.demo.story.mending import BAD
from serve.demo.story.retrain import VERSION
from serve.demo.story.stage import GATE, PATIENCE_S, Document, Stage, Story, estimated, realised, standing, windows_of
from serve.demo.story.traffic import accuracy, n_rows
from serve.demo.story.versions import MODEL
from serve.demo.story.waiting import pause, until
from serve.demo.story.watching import CLOSE
from serve.store.audit import rfc3339

_REGAINED, _BETTER = 0.85, 0.1
_EXACTLY = 1e-9
# What may be said of a candidate that answers otherwise than the stable version; its rollout was the judge of that.
_OF_CANARIES = {"canary_drift"}
_ROWS = ("SELECT version, variant, count(*) AS rows, count(DISTINCT request_id) AS requests, min(digest) AS digest, "
         "count(DISTINCT digest) AS digests, min(ts_ns) AS first_ns, max(ts_ns) AS last_ns FROM records GROUP BY ALL ORDER BY first_ns")
_ACCURACY = (f"SELECT version, epoch_ns(time_bucket(INTERVAL '5 seconds', ts)) AS at_ns, count(*) AS rows, "
             f"count(*) FILTER (out_label = label) AS rights FROM records_{MODEL}_labelled WHERE variant <> 'shadow' "
             "GROUP BY ALL ORDER BY at_ns, version")


def played(stage: Stage) -> None:
    """Version 2 answers alone for some windows; then the traffic ends."""
    stage.narrator.act("6  Afterwards: the scanner is as broken as before")
    pause((stage.scale.after_windows + 1) * stage.scale.window_s)
    stage.traffic.stop()
    failures = stage.traffic.ledger.failures()
    stage.narrator.check("no request has failed, and no label was refused, in the whole story", not failures, "; ".join(failures[:3]))


def counted(stage: Stage) -> None:
    """What the clients know, the records know too, to the row."""
    ledger, narrator = stage.traffic.ledger, stage.narrator
    asked = Counter[tuple[str, str]]()
    for one in ledger.asked():
        asked[one.version, one.variant] += len(one.truth)

    def recorded() -> list[dict[str, Any]]:
        rows = stage.headrace.query(_ROWS)
        return rows if sum(row["rows"] for row in rows if row["variant"] != "shadow") >= asked.total() else []

    narrator.command(f'headrace records query "{_ROWS}" --records records --state-dir state')
    rows = until(recorded, f"{asked.total():,} recorded rows", PATIENCE_S, stage.server.fault)
    narrator.table(("version", "variant", "rows", "requests", "digest", "first", "last"), [
        (row["version"], row["variant"], f"{row['rows']:,}", f"{row['requests']:,}", row["digest"][:19], _clock(row["first_ns"]),
         _clock(row["last_ns"])) for row in rows])
    answered = {(row["version"], row["variant"]): row["rows"] for row in rows if row["variant"] != "shadow"}
    narrator.check("every row that a client was answered with is recorded, once, under its version and variant", answered == dict(asked),
                   f"{asked.total():,} rows")
    _digests_agree(stage, rows)
    _times_agree(stage, rows)
    _accuracies_agree(stage)


def _digests_agree(stage: Stage, rows: list[dict[str, Any]]) -> None:
    recorded = {row["version"]: row["digest"] for row in rows}
    gated = {gate["version"]: gate["digest"] for gate in stage.admin.gates(MODEL)}
    audited: dict[str, set[str]] = {}
    for event in stage.admin.all_audit():
        for version, digest in event["data"].get("digests", {}).items():
            audited.setdefault(version, set()).add(digest)
    stage.narrator.check(
        "records, gate and audit name the same files of both versions",
        all(row["digests"] == 1 for row in rows) and recorded[VERSION] == gated[VERSION] and audited.keys() >= {"1", VERSION, BAD}
        and all(audited[version] == {digest} for version, digest in {**gated, **recorded}.items()),
        ", ".join(f"{version}: {digest[:19]}" for version, digest in sorted(recorded.items())))
    stage.narrator.check(f"version {BAD} has answered nobody", BAD not in recorded)
    with Client(stage.server.url) as client:
        told = client.metadata(MODEL, VERSION)["headrace"]
    wanted = yaml.safe_load((stage.places.repository / MODEL / "model.yaml").read_text(encoding="utf-8"))["provenance"]
    stage.narrator.check(f"the server says what version {VERSION} was made of, and why", (told["digest"], told["provenance"])
                         == (recorded[VERSION], wanted), told["provenance"].get("retrain_event", "nothing"))


def _times_agree(stage: Stage, rows: list[dict[str, Any]]) -> None:
    """Each row of version 2 is later than the gate, each of version 1 earlier than the promotion."""
    passed_ns, promoted_ns = min(times_ns(stage, GATE)), max(times_ns(stage, PROMOTED))
    first = min(row["first_ns"] for row in rows if row["version"] == VERSION)
    last = max(row["last_ns"] for row in rows if row["version"] == "1")
    stage.narrator.check(f"version {VERSION} got its first request after the gate, version 1 its last before the promotion",
                         passed_ns < first and last < promoted_ns,
                         f"{_clock(first)} and {_clock(last)}; gate {_clock(passed_ns)}, promotion {_clock(promoted_ns)}")


def _accuracies_agree(stage: Stage) -> None:
    """By SQL over rows and labels, and by what the clients count themselves."""
    ledger, narrator = stage.traffic.ledger, stage.narrator
    told = ledger.labelled()

    def labelled() -> list[dict[str, Any]]:
        rows = stage.headrace.query(_ACCURACY)
        return rows if sum(row["rows"] for row in rows) >= n_rows(told) else []

    narrator.command(f'headrace records query "{_ACCURACY}" --records records --state-dir state')
    rows = until(labelled, f"{n_rows(told):,} labelled rows", PATIENCE_S, stage.server.fault)
    narrator.table(("from", "version", "labelled rows", "accuracy"), [
        (_clock(row["at_ns"]), row["version"], f"{row['rows']:,}", f"{row['rights'] / row['rows']:.3f}") for row in rows])
    for version in ("1", VERSION):
        mine = [row for row in rows if row["version"] == version]
        n, rights = sum(row["rows"] for row in mine), sum(row["rights"] for row in mine)
        theirs = [one for one in told if one.version == version]
        narrator.check(f"version {version}: rows, labels and accuracy are what its clients know", n == n_rows(theirs) > 0
                       and abs(rights / n - accuracy(theirs)) < _EXACTLY, f"{rights:,} of {n:,} right")


def regained(stage: Stage, story: Story, rollout: Document) -> None:
    """What monitoring has seen of version 2 alone, and of all labels."""
    narrator = stage.narrator
    promoted_ns = times_ns(stage, PROMOTED, rollout["id"])[-1]
    told = {version: stage.traffic.ledger.labelled(lambda one, version=version: one.version == version)     # type: ignore[misc]
            for version in ("1", VERSION)}
    found: list[Document] = []

    def has_seen() -> bool:
        found[:] = [stage.admin.monitoring(MODEL, limit=2016)]
        return (len(windows_of(found[0], VERSION, promoted_ns)) >= stage.scale.after_windows
                and all(realised(found[0], version)[1] >= n_rows(ones) for version, ones in told.items()))

    until(has_seen, f"{stage.scale.after_windows} windows of version {VERSION} and all labels", PATIENCE_S, stage.server.fault)
    for version, ones in told.items():
        share, n_labelled = realised(found[0], version)
        narrator.check(f"version {version}: its realised accuracy is what its clients know", n_labelled == n_rows(ones)
                       and abs(share - accuracy(ones)) < _EXACTLY, f"{share:.4f} of {n_labelled:,} labelled rows")
    share, n_labelled = realised(found[0], VERSION, promoted_ns)
    before, _ = realised(found[0], "1", story.broken_ns)
    guess = estimated(windows_of(found[0], VERSION, promoted_ns))
    narrator.check("the accuracy is back", share > _REGAINED and share > before + _BETTER, f"{share:.3f} by {n_labelled:,} labels; "
                   f"version 1 had {before:.3f} of the same scanner")
    narrator.check("and is what is estimated without labels", abs(share - guess) < CLOSE, f"{guess:.3f}")
    alerts = standing(found[0], VERSION).keys() - _OF_CANARIES
    narrator.check(f"no alert is about version {VERSION}", not alerts, ", ".join(sorted(alerts)))


def reported(stage: Stage) -> None:
    """The page for people."""
    path = stage.places.folder / "report.html"
    stage.headrace.run("monitor", "report", MODEL, "-o", path, "--admin", stage.server.admin)
    page = path.read_text(encoding="utf-8")
    is_whole = page.rstrip().endswith("</html>") and "<svg" in page and 'src="http' not in page and 'href="http' not in page
    stage.narrator.check("the report is one page with its plots, that needs nothing else", is_whole, f"{path}, {len(page):,} characters")


def _clock(at_ns: int) -> str:
    return rfc3339(at_ns)[11:19]


__all__ = ["counted", "played", "regained", "reported"]
