"""A rollout, drawn: where it stands, who gets how much, what the judge sees. Functions of the admin API's documents."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from serve.commands.shares import WHOLE_BP, percent
from serve.commands.traffic_view import arms_of, observed_shares, plain_table

Document = Mapping[str, Any]

BAR_WIDTH = 24
_COLOURS = {"rollback": "bold red", "hold": "yellow", "promote": "bold green", "continue": "cyan"}
_PHASES = {"succeeded": "bold green", "rolled_back": "bold red", "failed": "bold red", "rolling_back": "red", "paused": "yellow"}


@dataclass(frozen=True, slots=True)
class Look:
    """What was asked at one moment. note: of the watcher, for instance that the server does not answer."""

    rollout: Document
    traffic: Document
    counters: Sequence[Document] = field(default=())
    note: str = ""


def rollout_picture(look: Look) -> RenderableType:
    """All of it."""
    rollout = look.rollout
    judgement = rollout.get("judgement")
    parts: list[RenderableType] = [_stages(rollout), _progress(rollout), Text(), _arms(look)]
    if judgement:
        parts += [Text(), findings_table(judgement["findings"]), Text(), verdict_text(judgement["verdict"], judgement["why"])]
    if rollout.get("why"):
        parts.append(Text(rollout["why"], "bold"))
    if look.note:
        parts.append(Text(look.note, "yellow"))
    title = Text.assemble((f"{rollout['model']} ", "bold"), f"{rollout['stable']} to {rollout['candidate']}  ",
                          (_said(rollout["phase"]), _PHASES.get(rollout["phase"], "bold cyan")))
    return Panel(Group(*parts), title=title, title_align="left", subtitle=Text(_subtitle(rollout), "dim"), subtitle_align="right")


def line_of(look: Look) -> str:
    """The same in one line, for a log."""
    rollout = look.rollout
    judgement = rollout.get("judgement")
    said = f"{judgement['verdict']}: {judgement['why']}" if judgement else "not judged yet"
    evidence = " ".join(f"{one['test']}={_number(one['e_value'])}/{_number(one['limit'])}" for one in (judgement or {}).get("findings", ())
                        if one.get("e_value") is not None and one.get("limit") is not None)
    parts = [rollout["id"], _said(rollout["phase"]), rollout.get("described", ""), f"{rollout['step_requests']:,} requests", evidence, said]
    if look.note:
        parts.append(look.note)
    return "  ".join(part for part in parts if part)


def rollouts_table(rollouts: Sequence[Document]) -> Table:
    """A line for each."""
    table = plain_table("rollout", "model", "from", "to", "phase", "verdict", "")
    for one in rollouts:
        table.add_row(one["id"], Text(one["model"]), one["stable"], one["candidate"],
                      Text(_said(one["phase"]), _PHASES.get(one["phase"], "cyan")), one["verdict"] or "", Text(one.get("described", "")))
    return table


def evidence_picture(evidence: Sequence[Document]) -> RenderableType:
    """Each judgement with its tests, oldest first."""
    if not evidence:
        return Text("not judged yet")
    parts: list[RenderableType] = []
    for one in evidence:
        judgement = one["judgement"]
        share = "" if one.get("candidate_bp") is None else f", candidate {percent(one['candidate_bp'])}"
        parts += [Text(f"{one['time']}  {_said(one['phase'])}, step {one['step']}{share}", "bold"),
                  verdict_text(judgement["verdict"], judgement["why"]), findings_table(judgement["findings"]), Text()]
    return Group(*parts[:-1])


def evidence_bar(e_value: float, limit: float, width: int = BAR_WIDTH) -> str:
    """How far evidence has come towards its limit, both on a logarithmic scale: empty at 1 and below, full at the limit."""
    share = math.log(e_value) / math.log(limit) if e_value > 1 and limit > 1 else 0.0
    return _bar(share, width)


def _stages(rollout: Document) -> Text:
    """The plan's stages in a row; those behind are ticked, the present one stands out."""
    plan = rollout["plan"]
    names = [f"shadow {percent(plan['shadow']['sample'])}"] if plan.get("shadow") else []
    names += [percent(step["weight"]) for step in plan["steps"]]
    if plan.get("holdback"):
        names.append(f"holdback {percent(plan['holdback']['weight'])}")
    names.append(percent(WHOLE_BP))
    now = _position(rollout, len(names))
    text = Text()
    for at, name in enumerate(names):
        if at:
            text.append("  >  ", "dim")
        style = "green" if at < now else "bold reverse" if at == now else "dim"
        text.append(f"{name} done" if at < now else f" {name} " if at == now else name, style)
    return text


def _position(rollout: Document, n_stages: int) -> int:
    """Index of the stage that the rollout is in; -1 before the first and after a rollback, n_stages when all are behind it."""
    plan = rollout["plan"]
    phase = rollout["paused_from"] if rollout["phase"] == "paused" else rollout["phase"]
    offset = 1 if plan.get("shadow") else 0
    if phase == "succeeded":
        return n_stages
    if phase == "promoting":
        return offset + len(plan["steps"])
    if phase == "stepping":
        return offset + int(rollout["step"]) - 1
    return 0 if phase == "shadowing" else -1


def _progress(rollout: Document) -> RenderableType:
    """What the stage still wants: time and requests."""
    stage = _stage(rollout)
    if stage is None:
        return Text(str(rollout.get("described", "")), "dim")
    table = Table.grid(padding=(0, 2))
    if stage.get("seconds"):
        table.add_row("time", _bar(rollout["elapsed_s"] / stage["seconds"], BAR_WIDTH),
                      f"{rollout['elapsed_s']:,.0f} of {stage['seconds']:,.0f} s")
    if stage.get("requests"):
        what = "compared pairs" if "sample" in stage else "requests of the candidate"
        table.add_row("samples", _bar(rollout["step_requests"] / stage["requests"], BAR_WIDTH),
                      f"{rollout['step_requests']:,} of {stage['requests']:,} {what}")
    return table


def _stage(rollout: Document) -> Document | None:
    phase = rollout["paused_from"] if rollout["phase"] == "paused" else rollout["phase"]
    if phase == "shadowing":
        return rollout["plan"].get("shadow")        # type: ignore[no-any-return]
    if phase == "stepping":
        return rollout["plan"]["steps"][rollout["step"] - 1]        # type: ignore[no-any-return]
    return None


def _arms(look: Look) -> Table:
    """Both arms: set and observed share, and what they were asked in this generation; the shadow's pairs where there is one."""
    table = plain_table("", "version", "set", "observed", "requests", "errors", "refused")
    for column in table.columns[2:]:
        column.justify = "right"
    plan = look.traffic.get("plan") or {"variants": []}
    arms = arms_of(look.counters, look.traffic["generation"])
    by_version = {variant["version"]: variant for variant in plan["variants"]}
    names = {variant["version"]: variant.get("name") or variant["version"] for variant in plan["variants"]}
    observed = observed_shares(arms, list(names.values()))
    for role, version, style in (("stable", look.rollout["stable"], ""), ("candidate", look.rollout["candidate"], "bold")):
        arm = arms.get(names.get(version, ""))
        share = observed.get(names.get(version, ""))
        counted = [f"{arm[key]:,}" for key in ("assigned", "errors", "refused")] if arm else ["", "", ""]
        table.add_row(Text(role, style), version, percent(by_version[version]["weight"] if version in by_version else 0),
                      "" if share is None else f"{100 * share:.2f} %", *counted)
    for reading in look.counters:
        if reading["generation"] == look.traffic["generation"]:
            for shadow in reading["shadows"]:
                dropped = sum(shadow["dropped"].values())
                table.add_row("shadow", shadow["version"], "", "", f"{shadow['compared']:,} pairs", f"{shadow['failed']:,}",
                              f"{dropped:,} dropped")
    return table


def findings_table(findings: Sequence[Document]) -> Table:
    """A line for each test: evidence as a bar against its limit, in figures, and its sentence."""
    table = plain_table("test", "evidence against its limit", "", "", "")
    table.columns[2].min_width = len("trips")      # so that nothing moves when a test trips
    table.columns[3].justify = "right"
    for one in findings:
        said, style = _standing(one)
        e_value, limit = _float(one.get("e_value")), _float(one.get("limit"))
        if e_value is None or limit is None:
            bar, figures = "", ""
        else:
            bar, figures = evidence_bar(e_value, limit), f"{_number(e_value)} / {_number(limit)}"
        table.add_row(Text(one["test"], style), Text(bar, style or "cyan"), Text(said, style), figures,
                      Text(one["sentence"], style or "dim"))
    return table


def _standing(finding: Document) -> tuple[str, str]:
    """Word and colour. A test of promotion that has reached its limit is good news: it shows that the candidate is no worse."""
    if not finding["is_tripped"]:
        return "", ""
    return ("shown", "green") if finding["test"] == "promotion" else ("trips", _COLOURS.get(finding["action"], ""))


def verdict_text(verdict: str, why: str) -> Text:
    """The verdict in its colour, and its sentence."""
    return Text.assemble((verdict, _COLOURS.get(verdict, "")), f"  {why}")


def _subtitle(rollout: Document) -> str:
    verbs = rollout.get("possible") or ()
    minutes, seconds = divmod(int(rollout["total_elapsed_s"]), 60)
    return f"{rollout['id']}  {minutes} min {seconds:02d} s" + (f"  {' | '.join(verbs)}" if verbs else "")


def _bar(share: float, width: int) -> str:
    filled = round(width * min(max(share, 0.0), 1.0))
    return "█" * filled + "░" * (width - filled)


def _said(phase: str) -> str:
    return phase.replace("_", " ")


def _float(value: object) -> float | None:
    """Numbers that JSON lacks come as text."""
    return None if value is None else float(str(value))


def _number(value: object) -> str:
    number = _float(value)
    assert number is not None
    return f"{number:.2g}" if number < 100 or number >= 1e9 else f"{number:,.0f}"
