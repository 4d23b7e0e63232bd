"""Rollout plans: defaults, what is refused up front, and how errors name the field."""

from datetime import UTC, datetime
from typing import Any

import pytest

from serve.errors import Unprocessable
from serve.routing.judge.settings import JudgeSettings
from serve.routing.rollout_plan import Holdback, RolloutPlan, ShadowStage, load_rollout_plan, rollout_plan


def refused(**fields: Any) -> str:
    with pytest.raises(Unprocessable) as caught:
        rollout_plan({"to": "2", **fields})
    return str(caught.value)


def test_defaults() -> None:
    plan = load_rollout_plan("to: 2")
    assert [step.weight for step in plan.steps] == [100, 500, 2_500, 5_000]
    assert {(step.seconds, step.requests, step.pause, step.pause_seconds) for step in plan.steps} == {(60.0, 500, False, None)}
    assert plan.shadow == ShadowStage(sample=1_000, seconds=60.0, requests=500)
    assert (plan.step_timeout_seconds, plan.on_timeout, plan.holdback, plan.dry_run) == (1_800.0, "hold", None, False)
    assert plan.judge == JudgeSettings()


def test_candidate_may_come_from_the_command_line() -> None:
    assert load_rollout_plan("steps: [{weight: 100}]", to="3").to == "3"
    assert load_rollout_plan("to: 3", to="3").to == "3"
    with pytest.raises(Unprocessable, match="to: the plan says version 2, the command version 3"):
        load_rollout_plan("to: 2", to="3")


def test_everything_that_a_plan_can_say_and_back() -> None:
    plan = load_rollout_plan("""
        to: 2
        stable: 1
        shadow: {sample: 2000, seconds: 120, requests: 1000, pause: true, compare: [{output: p, rule: argmax}]}
        steps:
        - {weight: 100, seconds: 300}
        - {weight: 1000, requests: 10000, pause_seconds: 600}
        - {weight: 5000, seconds: null, requests: null, pause: true}
        sticky: {header: X-User-Id}
        overrides: [{header: x-beta, value: "1", version: 2}]
        segment: {header: x-country, values: [de]}
        salt: pepper
        judge: {warmup_requests: 10}
        start_at: 2026-12-01T09:30:00+01:00
        step_timeout_seconds: 3600
        on_timeout: rollback
        holdback: {weight: 100, seconds: 86400}
        dry_run: true
        allow_schema_change: true
    """)
    assert plan.start_at == datetime(2026, 12, 1, 8, 30, tzinfo=UTC)
    assert plan.holdback == Holdback(weight=100, seconds=86_400.0)
    assert plan.judge.warmup_requests == 10
    assert RolloutPlan.model_validate_json(plan.model_dump_json()) == plan
    assert RolloutPlan.model_validate(plan.model_dump(mode="json")) == plan, "what the API reads is JSON as Python values"


@pytest.mark.parametrize(("fields", "said"), [
    ({"colour": "red"}, "colour: unknown field"),
    ({"steps": [{"weight": 100, "colour": "red"}]}, "steps.0.colour: unknown field"),
    ({"judge": {"errors": {"colour": 1}}}, "judge.errors.colour: unknown field"),
    ({"shadow": {"sample": 100, "version": "2"}}, "shadow.version: unknown field"),
    ({"to": "two"}, "to: String should match pattern"),
    ({"to": "2", "stable": "2"}, "to: version 2 is the stable version itself"),
    ({"steps": [{"weight": 0}]}, "steps.0.weight: Input should be greater than or equal to 1, got 0"),
    ({"steps": [{"weight": 10_000}]}, "steps.0.weight: Input should be less than or equal to 9999, got 10000"),
    ({"steps": [{"weight": 100}, {"weight": 100}]}, "steps.1.weight: 100 does not exceed the 100 before it; weights ascend"),
    ({"steps": [{"weight": 500}, {"weight": 100}]}, "steps.1.weight: 100 does not exceed the 500 before it"),
    ({"steps": [], "shadow": None}, "give steps, shadow or both"),
    ({"steps": [{"weight": 100, "seconds": 0}]}, "steps.0.seconds"),
    ({"steps": [{"weight": 100, "requests": 0}]}, "steps.0.requests"),
    ({"steps": [{"weight": 100, "seconds": None, "requests": None}]}, "steps.0: give seconds, requests or pause"),
    ({"steps": [{"weight": 100, "pause": True, "pause_seconds": 5}]}, "steps.0: give pause"),
    ({"steps": [{"weight": 100, "seconds": 1_800}]}, "steps.0.seconds: 1800 is not below step_timeout_seconds, 1800"),
    ({"shadow": {"seconds": 4_000}}, "shadow.seconds: 4000 is not below step_timeout_seconds"),
    ({"step_timeout_seconds": 0}, "step_timeout_seconds"),
    ({"step_timeout_seconds": -5}, "step_timeout_seconds"),
    ({"on_timeout": "continue"}, "on_timeout: Input should be 'hold', 'rollback' or 'promote'"),
    ({"start_at": "2026-12-01T09:30:00"}, "start_at: '2026-12-01T09:30:00' is not a time by RFC 3339 with its zone"),
    ({"start_at": "tomorrow"}, "start_at: 'tomorrow' is not a time by RFC 3339"),
    ({"start_at": "2026-13-01T09:30:00Z"}, "start_at: "),
    ({"start_at": 1_764_000_000}, "start_at: "),
    ({"holdback": {"weight": 0, "seconds": 5}}, "holdback.weight"),
    ({"holdback": {"weight": 5_001, "seconds": 5}}, "holdback.weight: Input should be less than or equal to 5000, got 5001"),
    ({"holdback": {"weight": 100}}, "holdback.seconds: is missing"),
    ({"steps": [{"weight": 9_950}], "holdback": {"weight": 100, "seconds": 5}}, "holdback.weight: 100 on stable would put the"),
    ({"overrides": [{"header": "a", "value": "b", "version": "1"}, {"header": "A", "value": "b", "version": "2"}]}, "header a = b"),
    ({"dry_run": "yes"}, "dry_run"),
])
def test_refused_up_front(fields: dict[str, Any], said: str) -> None:
    assert said in refused(**fields)


def test_all_time_zones_and_fractions_of_rfc_3339() -> None:
    for text in ("2026-12-01T09:30:00Z", "2026-12-01t09:30:00z", "2026-12-01 10:30:00.123456789+01:00"):
        start = rollout_plan({"to": "2", "start_at": text}).start_at
        assert start is not None
        assert start.astimezone(UTC).replace(microsecond=0) == datetime(2026, 12, 1, 9, 30, tzinfo=UTC)
