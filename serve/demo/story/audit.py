"""Act 6, what is written down: the chain has what happened, in the order in which it happened, and so have those who were told."""

import itertools
import json
from datetime import UTC, datetime

from serve.demo.story.commands import Headrace, Places
from serve.demo.story.mending import BAD
from serve.demo.story.narration import Narrator
from serve.demo.story.on_event import events_in
from serve.demo.story.retrain import VERSION
from serve.demo.story.server import RunningServer
from serve.demo.story.stage import DEGRADED, DRIFT, GATE, PATIENCE_S, RETRAIN, Document, Stage
from serve.demo.story.waiting import until

_ROLLOUT = "dev.headrace.rollout."
PROMOTED = f"{_ROLLOUT}succeeded"
_IN_ORDER = (DRIFT, RETRAIN, GATE, *(f"{_ROLLOUT}{phase}" for phase in ("created", "shadowing", "stepping", "promoting")), PROMOTED)
# What the webhook asks for.
_TOLD = (DRIFT, DEGRADED, RETRAIN)


def audited(stage: Stage, event: Document, rollout: Document) -> None:
    """The chain is whole, and tells the story."""
    narrator = stage.narrator
    done = stage.headrace.run("audit", "verify", "--admin", stage.server.admin, codes=(0, 1))
    narrator.check("nobody has touched the audit", done.code == 0, done.output.strip())
    rows = [row for row in stage.admin.all_audit() if row["type"] in (*_TOLD, GATE)
            or (row["type"].startswith(_ROLLOUT) and row["type"] != f"{_ROLLOUT}verdict")]
    narrator.table(("time", "what", "about", "by", "why"), [
        (row["time"][11:19], row["type"].removeprefix("dev.headrace."), row["subject"], row["data"]["actor"],
         _why(row)) for row in rows])
    types = [row["type"] for row in rows]
    places = [types.index(type_) if type_ in types else -1 for type_ in _IN_ORDER]
    narrator.check("drift, retrain request, gate, rollout and promotion are there, in this order",
                   places[0] >= 0 and all(before < after for before, after in itertools.pairwise(places)))
    by_version = {version: row["data"]["after"]["verdict"] for row in rows if row["type"] == GATE for version in row["data"]["digests"]}
    narrator.check(f"the gate passed version {VERSION} and failed version {BAD}", by_version == {VERSION: "pass", BAD: "fail"})
    ends = [row["subject"] for row in rows if row["type"] == PROMOTED]
    narrator.check("one rollout was begun, and it succeeded", ends == [rollout["id"]] and types.count(f"{_ROLLOUT}created") == 1)
    requests = [row["id"] for row in rows if row["type"] == RETRAIN]
    inbox = [one["id"] for one in events_in(stage.places.inbox, RETRAIN)]
    narrator.check("retraining was asked for once, and is one row of the audit", requests == inbox == [event["id"]], event["id"])
    _delivered(stage, {row["id"] for row in rows if row["type"] in _TOLD})


def _why(row: Document) -> str:
    data = row["data"]
    if row["type"] == GATE:
        return f"version {', '.join(data['digests'])}: {data['after']['verdict']}"
    return str(data["reason"])


def _delivered(stage: Stage, wanted: set[str]) -> None:
    receiver = stage.receiver
    until(lambda: len(receiver.events) >= len(wanted), "every alert at the webhook", PATIENCE_S, stage.server.fault)
    stage.narrator.check("the webhook was told of each alert once, signed",
                         not receiver.refused and sorted(one["id"] for one in receiver.events) == sorted(wanted), f"{len(wanted)} events")


def ended(narrator: Narrator, headrace: Headrace, places: Places, server: RunningServer) -> None:
    """After the server has ended: its state directory and its records, as they lie there."""
    done = headrace.run("records", "verify", "--records", places.records, "--state-dir", places.state, "--format", "json", codes=(0, 1))
    found = json.loads(done.output)
    (account,) = found["accounts"]
    n_numbers, n_found = account["assigned"], account["found"]["rows"]
    narrator.check("the records are intact, and every number that was given to a row is there", bool(found["is_intact"])
                   and n_found == n_numbers, f"{n_numbers:,} numbers, {n_found:,} rows")
    done = headrace.run("audit", "verify", "--state-dir", places.state, codes=(0, 1))
    narrator.check("so is the audit in the state directory", done.code == 0, done.output.strip())
    errors = server.errors()
    narrator.check("the server's log has no error", not errors, "; ".join(errors[:2])[:300])


def times_ns(stage: Stage, type_: str, subject: str = "") -> list[int]:
    """When rows of this type were written, nanoseconds since 1970, to the microsecond. subject: "" is all."""
    return [when_ns(row["time"]) for row in stage.admin.all_audit() if row["type"] == type_ and subject in ("", row["subject"])]


def when_ns(text: str) -> int:
    """Nanoseconds since 1970 of RFC 3339."""
    since = datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


__all__ = ["PROMOTED", "audited", "ended", "times_ns", "when_ns"]
