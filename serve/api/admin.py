"""The admin API: what operators and the dashboard ask. Served on its own port, on loopback unless told otherwise."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint

import serve
from serve.api.faults import client_error
from serve.api.ports import ApiSettings, Models
from serve.api.readiness import Readiness
from serve.errors import http_status
from serve.types import IndexEntry, ModelDescription, TensorSpec, VersionState, VersionStatistics


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HealthView(_View):
    """State of the server."""

    name: str
    version: str
    live: bool
    ready: bool


class TensorView(_View):
    """One input or output; -1 in the shape is a dimension of any size."""

    name: str
    datatype: str
    shape: list[int]


class StatisticsView(_View):
    """Counters since the version was loaded. Rows are inferred; requests succeed or fail; executions are runs of the model."""

    inference_count: int
    execution_count: int
    success_count: int
    failure_count: int
    success_ns: int
    last_inference_ms: int
    queue_depth: int
    in_flight: int


class VersionView(_View):
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


class ModelsView(_View):
    """All versions, ordered by model name and version."""

    models: list[VersionView]


def admin_app(models: Models, readiness: Readiness, settings: ApiSettings) -> FastAPI:
    """The ASGI application. Its document is at /admin/v1/openapi.json; FastAPI's pages are off, as they load scripts from elsewhere."""
    app = FastAPI(title=f"{settings.server_name} admin", version=serve.__version__, docs_url=None, redoc_url=None,
                  openapi_url="/admin/v1/openapi.json")
    app.add_exception_handler(HTTPException, _routing_error)
    app.middleware("http")(_answer_faults)

    def health() -> HealthView:
        return HealthView(name=settings.server_name, version=serve.__version__, live=True, ready=readiness.is_ready())

    Health = Annotated[HealthView, Depends(health)]  # noqa: N806 - a type

    @app.get("/admin/v1/health/live", summary="Whether the process answers")
    async def live(view: Health) -> HealthView:
        return view

    @app.get("/admin/v1/health/ready", summary="Whether every start-up model is ready", responses={503: {"model": HealthView}})
    async def ready(view: Health) -> JSONResponse:
        return JSONResponse(view.model_dump(mode="json"), 200 if view.ready else 503)

    @app.get("/admin/v1/models", summary="Every version, its state and its counters")
    async def list_models() -> ModelsView:
        return ModelsView(models=[_version(models, entry) for entry in await models.index(ready_only=False)])

    return app


def _version(models: Models, entry: IndexEntry) -> VersionView:
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


async def _routing_error(_request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _answer_faults(request: Request, call_next: RequestResponseEndpoint) -> Response:
    # A handler for Exception would do, but the framework raises the error again after it, and it would be logged twice.
    try:
        return await call_next(request)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, the client gets an answer
        shown = client_error(error, f"{request.method} {request.url.path}")
        return JSONResponse({"error": str(shown)}, http_status(shown))
