"""What routing needs of the rest of the worker. `app.py` fills these; tests fill them with fakes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from serve.traffic import OutcomeReading, PlanReading, RoutingSpec, RunReading
from serve.types import ModelDescription


class Units(Protocol):
    """What a rollout remembers of its sticky units: whose first error, and whose first answer, has been counted."""

    @property
    def n_failing(self) -> int: ...

    def failing_bytes(self) -> bytes: ...

    def seen_bytes(self) -> bytes: ...

    def restore(self, failing: bytes, seen: bytes) -> None: ...


class Models(Protocol):
    """The models of this worker; `serve.models.lifecycle.ModelManager` in production."""

    def served(self, name: str) -> tuple[str, ...]:
        """Versions that serve, ascending; none of a model that is not known."""

    def default_version(self, name: str) -> str:
        """What a request that names no version gets; "" when nothing. Raises NotFound."""

    def natural_default(self, name: str) -> str:
        """What a request that names no version would get without a plan: label `stable`, else the latest. Raises NotFound."""

    async def on_disk(self, name: str) -> tuple[str, ...]:
        """Versions in the repository, ascending."""

    def describe(self, name: str, version: str = "") -> ModelDescription: ...

    async def disk_digest(self, name: str, version: str) -> str:
        """sha256:<hex> of a version's files as they lie in the repository now. Raises NotFound."""

    async def load_version(self, name: str, version: str) -> None:
        """Makes one version serve beside the others, whatever the policy. Raises HeadraceError."""

    async def prove(self, name: str, version: str) -> None:
        """Runs a loaded version's self-test. Raises HeadraceError."""

    def schema_change(self, name: str, before: str, after: str) -> str:
        """What differs in the inputs and outputs of two loaded versions; "" when nothing does."""

    def check_route(self, name: str, routing: RoutingSpec | None, labels: Mapping[str, str]) -> None:
        """Whether `route` can do it with the versions that serve now. Raises InvalidArgument."""

    def route(self, name: str, routing: RoutingSpec | None, labels: Mapping[str, str]) -> None:
        """In force from the very next request on. Never blocks."""

    def plan_readings(self, name: str) -> Sequence[PlanReading]: ...

    def run_reading(self, name: str, version: str) -> RunReading: ...


class Counters(Protocol):
    """What the native threads remember for routing; `serve.models.native_engine.NativeEngine` in production."""

    def assignment(self, model: str, key: str) -> str:
        """The arm that a sticky key is drawn to now. Raises NotFound where no routing is in force."""

    def units(self, rollout: str) -> Units: ...

    def forget_units(self, rollout: str) -> None: ...


class Outcomes(Protocol):
    """What feedback brought; `serve.routing.outcome_board.OutcomeBoard` in production."""

    def outcome_readings(self, model: str) -> Sequence[OutcomeReading]: ...

    def share_units(self, model: str, generations: Iterable[int], scope: str) -> None:
        """Under all of these generations together a sticky unit counts once. scope: of whom. May be said again at each look."""
