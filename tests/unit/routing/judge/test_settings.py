import pytest
from pydantic import ValidationError

from serve.routing.judge.settings import JudgeSettings


def settings(**document):
    return JudgeSettings.model_validate(document)


def test_defaults_are_those_of_the_design():
    default = JudgeSettings()
    assert default.rollback_shares() == {"errors": 0.006, "latency": 0.004}
    assert [default.outputs.alpha, default.ratio.alpha, default.shadow.alpha, default.promote_alpha] == [0.01, 0.01, 0.01, 0.05]
    assert {default.outputs.action, default.ratio.action, default.shadow.action, default.waits.action} == {"hold"}
    assert (default.errors.margin, default.latency.margin) == (0.0, 0.1)
    assert (default.errors.noninferiority_ratio, default.errors.noninferiority_absolute) == (1.5, 0.001)
    assert default.latency.noninferiority_ratio == 1.25
    assert default.shadow.max_disagreement == 0.01
    assert default.warmup_requests == 50
    assert (default.errors.min_failing_units, default.errors.streak.length, default.errors.streak.max_stable_error_share) == (3, 5, 0.05)


def test_a_test_that_may_roll_back_needs_a_share_of_the_budget():
    with pytest.raises(ValidationError, match=r"sum to 0\.02 \(errors 0\.006, latency 0\.004, outputs 0\.01\); rollback_alpha is 0\.01"):
        settings(outputs={"output": "label", "action": "rollback"})
    shared = settings(errors={"alpha": 0.004}, latency={"alpha": 0.003}, outputs={"output": "label", "action": "rollback", "alpha": 0.003})
    assert sum(shared.rollback_shares().values()) == pytest.approx(0.01)
    assert settings(rollback_alpha=0.02, shadow={"action": "rollback"}).rollback_shares()["shadow"] == 0.01


@pytest.mark.parametrize("document", [
    {"slo": {"quantile": 0.99, "seconds": 0.1, "action": "rollback"}},
    {"outcomes": [{"name": "clicks", "worse": "lower", "action": "rollback"}]},
    {"ratio": {"action": "rollback"}},
    {"waits": {"action": "rollback", "alpha": 0.01}},
    {"shadow": {"failures_action": "rollback"}},
    {"errors": {"alpha": 0.01}},
])
def test_every_test_is_in_the_budget(document):
    with pytest.raises(ValidationError, match="rollback_alpha"):
        settings(**document)


@pytest.mark.parametrize("document", [
    {"alpha": 0.01},
    {"errors": {"alhpa": 0.01}},
    {"errors": {"alpha": 0}},
    {"errors": {"alpha": "0.01"}},
    {"errors": {"action": "warn"}},
    {"shadow": {"max_disagreement": 0}},
    {"slo": {"quantile": 1.0, "seconds": 1.0}},
    {"latency": {"quantiles": []}},
    {"outcomes": [{"name": "a", "worse": "lower"}, {"name": "a", "worse": "higher"}]},
    {"outcomes": [{"name": "a", "worse": "lower", "low": 1.0, "high": 1.0}]},
])
def test_what_is_not_known_or_cannot_be_is_refused(document):
    with pytest.raises(ValidationError):
        settings(**document)


def test_json_round_trip():
    given = settings(slo={"quantile": 0.99, "seconds": 0.1}, outcomes=[{"name": "clicks", "worse": "lower"}], suspicion_alpha=None)
    assert JudgeSettings.model_validate_json(given.model_dump_json()) == given
    assert JudgeSettings.model_validate(given.model_dump(mode="json")) == given


def test_defaults_of_waits_survive_what_is_left_out():
    """A document that only changes one field of waits keeps the others as for waits, not as for run times."""
    changed = settings(waits={"calibration_runs": 500})
    assert changed.waits.action == "hold"
    assert changed.waits.alpha == 0.01
    assert changed.waits.floor_seconds == 0.01
