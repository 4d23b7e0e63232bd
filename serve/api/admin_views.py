"""What the admin API answers, as schemas."""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serve.api.ports import Models
from serve.api.routing_ports import TrafficState
from serve.routing.plan import RoutingPlan
from serve.traffic import PlanReading
from serve.types import IndexEntry, ModelDescription, TensorSpec, VersionState, VersionStatistics

_ARM_FIELDS = ("name", "version", "assigned", "keyed", "success", "errors", "refused", "judged", "judged_errors")


class View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HealthView(View):
    """State of the server."""

    name: str
    version: str
    live: bool
    ready: bool


class TensorView(View):
    """One input or output; -1 in the shape is a dimension of any size."""

    name: str
    datatype: str
    shape: list[int]


class StatisticsView(View):
    """Counters since the version was loaded. Rows are inferred; requests succeed or fail; executions are runs of the model."""

    inference_count: int
    execution_count: int
    success_count: int
    failure_count: int
    success_ns: int
    last_inference_ms: int
    queue_depth: int
    in_flight: int


class VersionView(View):
    """One version of one model. What only a loaded version tells is null where it is not loaded."""

    name: str
    version: str
    state: VersionState
    reason: str
    labels: list[str]
    inputs: list[TensorView] | None
    outputs: list[TensorView] | None
    max_batch_size: int | None
    statistics: StatisticsView | None


class ModelsView(View):
    """All versions, ordered by model name and version."""

    models: list[VersionView]


class TrafficView(View):
    """How a model's requests are split. `plan` leaves out what is at its default, and can be sent back as it is.

    implied: no plan was set; `plan` says where requests go all the same (null: nothing serves). generation: of plan and labels, 0 before
    the first change. state: `loading` while versions are loaded for `pending`, `failed` with the reason. owner: `rollout:<id>` or
    `experiment:<id>` where one owns the plan, else "".
    """

    model: str = Field(examples=["digits"])
    generation: int = Field(examples=[3])
    state: str = Field(examples=["in_force"])
    reason: str
    implied: bool
    labels: dict[str, str] = Field(examples=[{"stable": "1"}])
    owner: str
    plan: RoutingPlan | None = Field(examples=[{"variants": [{"version": "1", "weight": 9000}, {"version": "2", "weight": 1000}]}])
    pending: RoutingPlan | None


class LabelsView(View):
    """Names for versions, and the generation to send back in If-Match."""

    model: str = Field(examples=["digits"])
    generation: int = Field(examples=[4])
    labels: dict[str, str] = Field(examples=[{"stable": "1", "canary": "2"}])


def version_view(models: Models, entry: IndexEntry) -> VersionView:
    """Of an entry of the index."""
    is_ready = entry.state is VersionState.READY
    description = models.describe(entry.name, entry.version) if is_ready else None
    statistics = models.statistics(entry.name, entry.version) if is_ready else ()
    return VersionView(
        name=entry.name, version=entry.version, state=entry.state, reason=entry.reason,
        labels=_labels(description, entry.version),
        inputs=_tensors(description.inputs) if description else None,
        outputs=_tensors(description.outputs) if description else None,
        max_batch_size=description.max_batch_size if description else None,
        statistics=_statistics(statistics[0]) if statistics else None,
    )


def traffic_document(state: TrafficState) -> dict[str, Any]:
    """A TrafficView."""
    implied = None if state.implied is None else state.implied.model_copy(update={"salt": None})    # nobody chose it: not to be sent back
    return {
        "model": state.model, "generation": state.generation, "state": state.state, "reason": state.reason,
        "implied": state.plan is None, "labels": dict(state.labels), "owner": state.owner,
        "plan": _plan(state.plan or implied), "pending": _plan(state.pending),
    }


def reading_document(reading: PlanReading) -> dict[str, Any]:
    """One generation's counters, without the histograms: those are in the metrics."""
    return {
        "generation": reading.generation, "is_final": reading.is_final, "streak": reading.streak, "longest_streak": reading.longest_streak,
        "warmup_left": reading.warmup_left,
        "arms": [{name: getattr(arm, name) for name in _ARM_FIELDS} for arm in reading.arms],
        "shadows": [asdict(shadow) for shadow in reading.shadows],
    }


def labels_document(state: TrafficState) -> dict[str, Any]:
    """A LabelsView."""
    return {"model": state.model, "generation": state.generation, "labels": dict(state.labels)}


def _plan(plan: RoutingPlan | None) -> dict[str, Any] | None:
    return None if plan is None else plan.model_dump(mode="json", exclude_defaults=True)


def _labels(description: ModelDescription | None, version: str) -> list[str]:
    return sorted(label for label, labelled in description.labels.items() if labelled == version) if description else []


def _tensors(specs: tuple[TensorSpec, ...]) -> list[TensorView]:
    return [TensorView(name=spec.name, datatype=spec.datatype, shape=list(spec.shape)) for spec in specs]


def _statistics(version: VersionStatistics) -> StatisticsView:
    return StatisticsView(
        inference_count=version.inference_count, execution_count=version.execution_count, success_count=version.success.count,
        failure_count=version.fail.count, success_ns=version.success.ns, last_inference_ms=version.last_inference_ms,
        queue_depth=version.queue_depth, in_flight=version.in_flight,
    )
