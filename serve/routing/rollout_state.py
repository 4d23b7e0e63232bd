"""Where a rollout stands, as a value that is stored with every step, and the traffic that belongs to it.

Time never comes from a clock: `Tick` events bring seconds.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from serve.errors import InternalError
from serve.routing.judge.judgement import Verdict
from serve.routing.judge.observations import Progress
from serve.routing.rollout_plan import RolloutPlan, ShadowStage, Step
from serve.traffic import WHOLE_BP

DOCUMENT_VERSION = 1


class Phase(StrEnum):
    PENDING = "pending"
    WARMING = "warming"
    SHADOWING = "shadowing"
    STEPPING = "stepping"
    PAUSED = "paused"
    PROMOTING = "promoting"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


# What ends a rollout; the values are the outcomes that people and pipelines see.
ENDED = frozenset({Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED})
# The candidate may answer or be shadowed, so that it can be judged.
LIVE = frozenset({Phase.SHADOWING, Phase.STEPPING, Phase.PAUSED, Phase.PROMOTING})


class PauseReason(StrEnum):
    """gate: the stage's manual gate. timer: the stage's pause_seconds. timeout: on_timeout is hold."""

    GATE = "gate"
    TIMER = "timer"
    OPERATOR = "operator"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"


class Traffic(NamedTuple):
    """Basis points: that the candidate answers, that are shadowed on it, that stay on stable because of the holdback.

    Where all three are 0 the candidate gets nothing, the plan's overrides included; else the overrides are in force.
    """

    candidate_bp: int = 0
    shadow_bp: int = 0
    holdback_bp: int = 0


NO_TRAFFIC = Traffic()
ALL_TRAFFIC = Traffic(candidate_bp=WHOLE_BP)


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One rollout.

    step: 0 before and in the shadow stage, else 1 to len(plan.steps). elapsed_s: in this stage since its traffic is in force (promoting: of
    the holdback); waited_s: in this stage before that; paused_s: of a timed pause; total_elapsed_s: since warming began. step_requests:
    what the stage's `requests` counts. is_applied: the wanted traffic is in force. is_gate_passed: the stage's pause is over. paused_from:
    the phase that a resume goes back to. deaths: of workers while the candidate had traffic, in this attempt; seconds_since_resume: since
    the resume after such a death. attempt: 1, then one more with each retry. verdict, verdict_why: the judge's newest. why: of this pause
    or end. generation: the newest plan that was put in force for it.
    """

    id: str
    model: str
    plan: RolloutPlan
    stable: str
    candidate: str
    phase: Phase = Phase.PENDING
    step: int = 0
    elapsed_s: float = 0.0
    waited_s: float = 0.0
    paused_s: float = 0.0
    total_elapsed_s: float = 0.0
    step_requests: int = 0
    is_applied: bool = False
    is_gate_passed: bool = False
    paused_from: Phase | None = None
    pause_reason: PauseReason | None = None
    deaths: int = 0
    seconds_since_resume: float | None = None
    attempt: int = 1
    verdict: Verdict | None = None
    verdict_why: str = ""
    why: str = ""
    generation: int = 0

    def as_document(self) -> dict[str, Any]:
        """What JSON can say; from_document reads it back to an equal state."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"document": DOCUMENT_VERSION, **fields, "plan": self.plan.model_dump(mode="json")}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RolloutState":
        """Raises InternalError for a document that another version of the server wrote, or nobody."""
        fields = dict(document)
        version = fields.pop("document", None)
        if version != DOCUMENT_VERSION:
            raise InternalError(f"a rollout's state of document version {version!r}; this server reads {DOCUMENT_VERSION}")
        try:
            fields["plan"] = RolloutPlan.model_validate_json(json.dumps(fields["plan"]))
            fields["phase"] = Phase(fields["phase"])
            for name, kind in (("paused_from", Phase), ("pause_reason", PauseReason), ("verdict", Verdict)):
                fields[name] = None if fields[name] is None else kind(fields[name])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise InternalError(f"not the state of a rollout: {error}") from error


def create(rollout_id: str, model: str, plan: RolloutPlan, stable: str) -> RolloutState:
    """A rollout that waits for its start. stable: the version that answers now. Raises ValueError: that is the candidate."""
    stable = plan.stable or stable
    if stable == plan.to:
        raise ValueError(f"version {plan.to} is the stable version already")
    return RolloutState(id=rollout_id, model=model, plan=plan, stable=stable, candidate=plan.to)


def stage_of(state: RolloutState) -> Step | ShadowStage | None:
    """The stage that the state is in or was paused in; None before the first and after the last."""
    phase = state.paused_from if state.phase is Phase.PAUSED else state.phase
    if phase is Phase.SHADOWING:
        return state.plan.shadow
    if phase is Phase.STEPPING:
        return state.plan.steps[state.step - 1]
    return None


def is_last_stage(state: RolloutState) -> bool:
    """Whether 100 percent comes next."""
    return state.step == len(state.plan.steps)


def planned_traffic(state: RolloutState) -> Traffic:
    """The traffic of the state, for a dry run what it would be."""
    phase = state.phase
    if phase is Phase.PAUSED and state.pause_reason is not PauseReason.WORKER_DIED:
        phase = state.paused_from or phase
    if phase is Phase.SHADOWING and state.plan.shadow:
        return Traffic(shadow_bp=state.plan.shadow.sample)
    if phase is Phase.STEPPING:
        return Traffic(candidate_bp=state.plan.steps[state.step - 1].weight)
    if phase is Phase.PROMOTING and not is_holdback_over(state):
        held = state.plan.holdback.weight if state.plan.holdback else 0
        return Traffic(candidate_bp=WHOLE_BP - held, holdback_bp=held)
    if phase in {Phase.PROMOTING, Phase.SUCCEEDED}:
        return ALL_TRAFFIC
    return NO_TRAFFIC


def wanted_traffic(state: RolloutState) -> Traffic | None:
    """What a driver has to have in force, also after a restart; None for a dry run: it leaves the model's traffic as it is."""
    return None if state.plan.dry_run else planned_traffic(state)


def is_holdback_over(state: RolloutState) -> bool:
    """Whether a rollout that promotes has watched for as long as its plan says."""
    return state.plan.holdback is None or state.elapsed_s >= state.plan.holdback.seconds


def progress(state: RolloutState) -> Progress:
    """What the judge has to know of where the rollout stands."""
    stage = stage_of(state)
    return Progress(
        step=state.step,
        is_last_step=is_last_stage(state),
        elapsed_s=state.elapsed_s,
        candidate_requests=state.step_requests,
        needed_s=(stage.seconds or 0.0) if stage else 0.0,
        needed_requests=(stage.requests or 0) if stage else 0,
        is_shadow_stage=isinstance(stage, ShadowStage),
    )


def percent(bp: int) -> str:
    """Basis points for people: 250 is `2.5 %`."""
    return f"{bp / 100:g} %"


def described(state: RolloutState) -> str:
    """One sentence for people."""
    version, why = f"version {state.candidate} of {state.model}", f": {state.why}" if state.why else ""
    match state.phase:
        case Phase.PENDING:
            begins = f"begins at {state.plan.start_at.isoformat()}" if state.plan.start_at else "begins"
            return f"the rollout of {version} {begins}{why}"
        case Phase.WARMING:
            return f"{version} is being loaded"
        case Phase.SHADOWING:
            return f"{percent(planned_traffic(state).shadow_bp)} of the requests are shadowed on {version}"
        case Phase.STEPPING:
            return f"step {state.step} of {len(state.plan.steps)}: {percent(planned_traffic(state).candidate_bp)} to {version}"
        case Phase.PAUSED:
            return f"the rollout of {version} is paused at {percent(planned_traffic(state).candidate_bp)}{why}"
        case Phase.PROMOTING:
            return f"{version} gets {percent(planned_traffic(state).candidate_bp)}{why}"
        case Phase.ROLLING_BACK:
            return f"{version} is taken back{why}"
        case Phase.SUCCEEDED:
            return f"{version} is promoted{why}"
        case Phase.ROLLED_BACK:
            return f"{version} was taken back{why}"
        case Phase.FAILED:
            return f"the rollout of {version} failed{why}"
