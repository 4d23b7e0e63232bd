"""Shares as people type them, in percent, and the plan that they change. Pure.

A plan is replaced as a whole on the server; what the command does not name is taken over from the plan that was read.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

WHOLE_BP = 10_000

Plan = dict[str, Any]

_SHARE = re.compile(r"([1-9][0-9]{0,17})=([0-9]{1,3}(?:\.[0-9]{1,2})?)%?")


def parse_share(text: str) -> tuple[str, int]:
    """("2", 1050) of "2=10.5": a version and basis points. Raises ValueError."""
    found = _SHARE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no VERSION=PERCENT with at most two decimals, like 2=10 or 2=0.25")
    points = int(Decimal(found[2]) * 100)
    if points > WHOLE_BP:
        raise ValueError(f"{text!r} is more than 100 %")
    return found[1], points


def parse_shares(texts: Sequence[str]) -> dict[str, int]:
    """Version to basis points, in the order given. Raises ValueError for a version that is named twice and a sum that is not 100 %."""
    shares = _apart(texts)
    total = sum(shares.values())
    if total != WHOLE_BP:
        raise ValueError(f"the shares sum to {percent(total)}; want 100 %")
    return shares


def parse_shadows(texts: Sequence[str]) -> dict[str, int]:
    """As parse_shares, without a sum; 0 ends a shadow."""
    return {version: points for version, points in _apart(texts).items() if points}


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """Label to version, "" to remove the label. Raises ValueError."""
    found: dict[str, str] = {}
    for text in texts:
        label, is_given, version = text.partition("=")
        if not label or not is_given:
            raise ValueError(f"{text!r} is no LABEL=VERSION, like stable=1")
        if label in found:
            raise ValueError(f"label {label} is given twice")
        found[label] = version
    return found


def percent(points: float) -> str:
    """Basis points for people: 1050 is "10.5 %"."""
    return f"{points / 100:.4g} %"


def edited_plan(
    current: Mapping[str, Any] | None, shares: Mapping[str, int], sticky: Mapping[str, str] | None = None, is_sticky_given: bool = False,
    shadows: Mapping[str, int] | None = None,
) -> Plan:
    """The plan to send. current: the one in force, None to begin anew: its names, sticky key, overrides, segment, coverage, holdout,
    shadows and salt stay unless given. shadows: None leaves them, {} ends them.
    """
    plan: Plan = dict(current or {})
    names = {variant["version"]: variant["name"] for variant in plan.get("variants", ()) if variant.get("name")}
    plan["variants"] = [
        {"version": version, "weight": points} | ({"name": names[version]} if version in names else {})
        for version, points in shares.items()
    ]
    if is_sticky_given:
        plan.pop("sticky", None)
        if sticky:
            plan["sticky"] = dict(sticky)
    if shadows is not None:
        before = {shadow["version"]: shadow for shadow in plan.pop("shadows", ())}
        plan["shadows"] = [{**before.get(version, {}), "version": version, "sample": points} for version, points in shadows.items()]
    return plan


def _apart(texts: Sequence[str]) -> dict[str, int]:
    shares: dict[str, int] = {}
    for text in texts:
        version, points = parse_share(text)
        if version in shares:
            raise ValueError(f"version {version} is given twice")
        shares[version] = points
    return shares
