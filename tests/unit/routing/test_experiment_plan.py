"""Experiment documents: what is taken, what is refused, and the routing plan that comes of one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serve.routing.experiment import ExperimentPlan, to_plan
from serve.routing.plan import compile_plan

TWO = [{"version": "1", "weight": 7000, "name": "old"}, {"version": "2", "weight": 3000, "name": "new"}]


def document(**changes: Any) -> dict[str, Any]:
    return {"variants": TWO, "seconds": 3600.0, **changes}


def test_defaults() -> None:
    plan = ExperimentPlan.model_validate(document())
    assert (plan.control_index(), plan.primary, plan.alpha, plan.allocation.kind) == (0, "errors", 0.05, "fixed")
    assert plan.metrics() == ("errors",)


def test_json_round_trip() -> None:
    plan = ExperimentPlan.model_validate(document(start_at="2026-11-22T08:00:00+01:00", primary="outcome:click", control="new"))
    assert ExperimentPlan.model_validate_json(plan.model_dump_json()) == plan
    assert ExperimentPlan.model_validate(plan.model_dump(mode="json")) == plan
    assert plan.metrics() == ("errors", "outcome:click")


def test_a_variant_without_a_name_goes_by_its_version() -> None:
    variants = [{"version": "1", "weight": 5000}, {"version": "2", "weight": 5000}]
    plan = ExperimentPlan.model_validate(document(variants=variants, control="2"))
    assert (plan.names(), plan.control_index()) == (("1", "2"), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": [TWO[0], {"version": "2", "weight": 2999}]}, "sum to 9999"),
        ({"variants": [{"version": "1", "weight": 10_000}, {"version": "2", "weight": 0}]}, "2 has weight 0"),
        ({"variants": [{"version": "1", "weight": 10_000}]}, "at least 2"),
        ({"variants": [TWO[0], {**TWO[1], "version": "1"}]}, "version 1 is given twice"),
        ({"variants": [TWO[0], {**TWO[1], "name": "old"}]}, "name old is given twice"),
        ({"variants": [TWO[0], {**TWO[1], "name": "holdout"}]}, "kept for requests"),
        ({"control": "third"}, "no variant is named third"),
        ({"seconds": None}, "an experiment ends"),
        ({"primary": "latency_slo"}, "slo_ms"),
        ({"slo_ms": 5.0}, "slo_ms"),
        ({"primary": "latency_slo", "slo_ms": 5.0, "sticky": {"header": "x-user"}}, "one by one"),
        ({"primary": "revenue"}, "pattern"),
        ({"start_at": "2026-11-22T08:00:00"}, "timezone"),
        ({"coverage": 0}, "greater than 0"),
        ({"wieghts": []}, "Extra inputs"),
        ({"allocation": {"kind": "thompson"}, "sticky": {"header": "x-user"}}, "not drawn with the new weights"),
        ({"allocation": {"kind": "thompson", "floor": 499}}, "greater than or equal to 500"),
        ({"allocation": {"kind": "thompson", "floor": 6000}}, "exceed 10000"),
        ({"allocation": {"kind": "thompson", "floor": 4000}}, "under the floor"),
        ({"allocation": {"kind": "thompson"}, "seconds": None, "units": 100}, "wants seconds"),
        ({"allocation": {"kind": "thompson", "update_seconds": 10}, "seconds": 100_000.0}, "update_seconds of 100 or more"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExperimentPlan.model_validate(document(**changes))


def test_routing_plan() -> None:
    plan = ExperimentPlan.model_validate(
        document(sticky={"header": "X-User"}, segment={"header": "x-tier", "values": ["gold"]}, coverage=2500, control="new")
    )
    spec = compile_plan(to_plan(plan, "e1"), 7, stable="new")
    assert [(arm.name, arm.version, arm.weight) for arm in spec.arms] == [("old", "1", 7000), ("new", "2", 3000)]
    assert (spec.coverage_bp, spec.stable, spec.segment is not None, spec.sticky is not None) == (2500, "new", True, True)


def test_two_experiments_divide_the_units_differently_and_new_weights_do_not() -> None:
    plan = ExperimentPlan.model_validate(document())
    assert to_plan(plan, "e1").salt != to_plan(plan, "e2").salt
    moved = to_plan(plan, "e1", (500, 9500))
    assert moved.salt == to_plan(plan, "e1").salt
    assert [variant.weight for variant in moved.variants] == [500, 9500]
    assert to_plan(plan.model_copy(update={"salt": "mine"}), "e1").salt == "mine"


@pytest.mark.parametrize("weights", [(5000, 4999), (10_000,), (5000, 4000, 1000)])
def test_weights_that_do_not_fit_are_refused(weights: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sum to|zip\(\)"):
        to_plan(ExperimentPlan.model_validate(document()), "e1", weights)


def test_the_documented_plan_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "experiments.md").read_text()
    whole, allocation = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    plan = ExperimentPlan.model_validate_json(json.dumps(whole, default=lambda moment: moment.isoformat()))
    assert (plan.control, plan.units, plan.start_at is not None) == ("plain", 100_000, True)
    del whole["sticky"]
    whole["primary"] = "outcome:click"
    adaptive = ExperimentPlan.model_validate_json(json.dumps({**whole, **allocation}, default=lambda moment: moment.isoformat()))
    assert adaptive.optimised() == "outcome:click"
