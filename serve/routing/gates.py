"""Reports of release gates in the store, and the rollouts that ask for one.

A report is kept for each version and digest: the newest. What it says counts for the files that it was made of, and for no others.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from serve.errors import Conflict
from serve.routing.rollout_state import RolloutState
from serve.store.audit import AuditEntry, rfc3339
from serve.store.port import Change, ConfigStore, Document

KIND = "gate"
FORMAT = 1
# Of one version: digests come and go while a candidate is worked on.
MAX_REPORTS = 16

PASS = "pass"  # noqa: S105  a word of the report


class Digests(Protocol):
    """Of the models, what this needs."""

    async def disk_digest(self, name: str, version: str) -> str:
        """sha256:<hex> of the version's files as they lie in the repository now. Raises NotFound."""


class Asker(Protocol):
    """Who stores a report, and why."""

    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> str: ...


async def put_gate(store: ConfigStore, model: str, report: Mapping[str, Any], by: Asker, wall_ns: int) -> Mapping[str, Any]:
    """Stores a report (serve.monitoring.gate_report.GateReport as JSON), with an audit row; what the store has of it now."""
    version, digest = report["candidate"]["version"], report["candidate"]["digest"]
    stored = {"format": FORMAT, "model": model, "version": version, "digest": digest, "received": rfc3339(wall_ns), "report": dict(report)}
    key = _key(model, version, digest)
    before = await store.get(KIND, key)
    told = {"verdict": report["verdict"], "checks": {check["name"]: check["status"] for check in report["checks"]}}
    entry = AuditEntry("dev.headrace.gate.reported", model, by.name, by.reason, None if before is None else _told(before), told,
                       digests={version: digest})
    others = [one for one in await _reports(store, model, version) if one.key != key]
    stale = sorted(others, key=lambda one: one.revision)[:max(0, len(others) + 1 - MAX_REPORTS)]
    await store.commit([Change(KIND, key, stored, None), *(Change(KIND, one.key, None, None) for one in stale)], [entry])
    return stored


async def gates(store: ConfigStore, model: str, version: str = "") -> Sequence[Mapping[str, Any]]:
    """Stored reports of a model, or of one version of it, the newest first."""
    found = await _reports(store, model, version)
    return [one.content for one in sorted(found, key=lambda one: -one.revision)]


async def check_gate(store: ConfigStore, digests: Digests, state: RolloutState, loaded: str, wall_ns: int) -> None:
    """Whether a rollout whose plan asks for a gate may go on. loaded: digest of the candidate in memory, "" before it is loaded.

    Raises Conflict, which says what is missing.
    """
    plan, model, version = state.plan, state.model, state.candidate
    if not plan.require_gate:
        return
    digest = loaded or await digests.disk_digest(model, version)
    document = await store.get(KIND, _key(model, version, digest))
    ask = f"run `headrace gate {model} {version} --data FILE --submit` (or --records DIR)"
    if document is None:
        others = [one.content["digest"] for one in await _reports(store, model, version)]
        made = f"; there is one of {', '.join(others)}, other files under the same number" if others else ""
        raise Conflict(f"the plan has require_gate, and there is no gate report of version {version} of '{model}' as it is now "
                       f"({digest}){made}: {ask}")
    report = document.content["report"]
    if report["verdict"] != PASS:
        said = f"{report['verdict']}: {_why(report)}"
        raise Conflict(f"the plan has require_gate, and the gate of version {version} of '{model}' says {said}")
    # A clock that is ahead, of whoever made the report, does not keep it young.
    age_s = wall_ns / 1e9 - min(datetime.fromisoformat(text).timestamp() for text in (report["finished"], document.content["received"]))
    if plan.gate_max_age_seconds is not None and age_s > plan.gate_max_age_seconds:
        raise Conflict(f"the gate report of version {version} of '{model}' is {age_s:,.0f} s old; the plan takes at most "
                       f"{plan.gate_max_age_seconds:,.0f} s: {ask}")


def _why(report: Mapping[str, Any]) -> str:
    worst = [check["text"] for check in report["checks"] if check["status"] == report["verdict"]]
    return "; ".join(worst[:3]) or "no check says why"


def _told(document: Document) -> Mapping[str, Any]:
    return {"verdict": document.content["report"]["verdict"], "received": document.content["received"]}


async def _reports(store: ConfigStore, model: str, version: str) -> list[Document]:
    return [one for one in await store.list(KIND)
            if one.content["model"] == model and version in ("", one.content["version"])]


def _key(model: str, version: str, digest: str) -> str:
    return f"{model}@{version}@{digest}"


__all__ = ["KIND", "Digests", "check_gate", "gates", "put_gate"]
