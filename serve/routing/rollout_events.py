"""What happens to a rollout, and what it asks its driver to do.

Facts come from the driver; a phase ignores those that it has no use for, because they may come late or twice. Verbs come from operators and
are refused where they make no sense. Every action may be repeated without harm: a driver that restarts does not know which it has done.
"""

from dataclasses import dataclass
from typing import Literal

from serve.routing.judge.judgement import Judgement
from serve.routing.rollout_state import Traffic


@dataclass(frozen=True, slots=True)
class Due:
    """start_at is reached, or there is none."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The candidate is loaded, warm, and has passed its self-test."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The candidate cannot serve: it did not load, failed its self-test, or has another schema."""

    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The traffic is in force from `generation` on. The event says which, because an answer to an older SetTraffic may come late."""

    generation: int
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Tick:
    """Since the last one: seconds that passed, answers of the candidate, pairs that were compared."""

    elapsed_s: float
    candidate_requests: int = 0
    compared: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """The judge has looked."""

    judgement: Judgement


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker that drove the rollout ended without saying so; sent once by the one that takes over."""


@dataclass(frozen=True, slots=True)
class Promote:
    """Leave this stage or gate now."""

    by: str = "an operator"


@dataclass(frozen=True, slots=True)
class PromoteFull:
    """Go to 100 percent now, whatever the judge says; while promoting: end the holdback."""

    by: str = "an operator"


@dataclass(frozen=True, slots=True)
class Pause:
    """Keep the traffic as it is."""

    by: str = "an operator"


@dataclass(frozen=True, slots=True)
class Resume:
    by: str = "an operator"


@dataclass(frozen=True, slots=True)
class Abort:
    """Take the candidate back."""

    by: str = "an operator"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """Begin again with the same plan."""

    by: str = "an operator"


Fact = Due | Loaded | LoadFailed | Applied | Tick | Judged | WorkerDied
Verb = Promote | PromoteFull | Pause | Resume | Abort | Retry
Event = Fact | Verb

FACTS: tuple[type[Fact], ...] = (Due, Loaded, LoadFailed, Applied, Tick, Judged, WorkerDied)
# As the API and the command line spell them.
VERBS: dict[str, type[Verb]] = {
    "promote": Promote, "promote-full": PromoteFull, "pause": Pause, "resume": Resume, "abort": Abort, "retry": Retry,
}


@dataclass(frozen=True, slots=True)
class Load:
    """Have the version loaded, warm and self-tested; answer with Loaded or LoadFailed."""

    version: str


@dataclass(frozen=True, slots=True)
class SetTraffic:
    """Put the traffic in force, with the plan's sticky key, segment and overrides; answer with Applied."""

    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Backup:
    """Copy the store, once what was just decided is in it."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell whoever listens. type: `rollout.` and the phase, or `rollout.would_set_traffic` in a dry run."""

    type: str
    text: str


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more will be asked for."""

    outcome: Literal["succeeded", "rolled_back", "failed"]
    why: str


Action = Load | SetTraffic | Backup | Announce | End
