"""The admin API: what operators and the dashboard ask. Served on its own port, on loopback only: it has no authentication."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import serve
from serve.api.admin_documents import install_openapi, problems
from serve.api.admin_gates import gate_routes
from serve.api.admin_guard import RefuseForeigners
from serve.api.admin_monitoring import Monitoring, monitoring_routes
from serve.api.admin_plans import PlanReader
from serve.api.admin_problems import AnswerFaults, invalid_parameters, refused_by_framework
from serve.api.admin_records import record_routes
from serve.api.admin_rollouts import experiment_routes, rollout_routes
from serve.api.admin_traffic import traffic_routes
from serve.api.admin_views import HealthView, ModelsView, version_view
from serve.api.ports import ApiSettings, Models
from serve.api.readiness import Readiness
from serve.api.routing_ports import Routing


def admin_app(
    models: Models, readiness: Readiness, settings: ApiSettings, routing: Routing | None = None, monitoring: Monitoring | None = None,
) -> FastAPI:
    """The ASGI application. Its document is at /admin/v1/openapi.json; FastAPI's pages are off, as they load scripts from elsewhere.

    routing: None leaves out everything that changes traffic. monitoring: None where nothing is recorded.
    """
    app = FastAPI(title=f"{settings.server_name} admin", version=serve.__version__, docs_url=None, redoc_url=None,
                  openapi_url="/admin/v1/openapi.json")
    app.add_exception_handler(HTTPException, refused_by_framework)
    app.add_exception_handler(RequestValidationError, invalid_parameters)
    app.add_middleware(AnswerFaults)
    app.add_middleware(RefuseForeigners)        # the last one added is asked first
    app.include_router(_server_routes(models, readiness, settings))
    if routing is not None:
        plans = PlanReader(models, routing)
        for router in (traffic_routes(routing, plans), rollout_routes(routing, plans), experiment_routes(routing), gate_routes(routing),
                       record_routes(routing)):
            app.include_router(router)
    if monitoring is not None:
        app.include_router(monitoring_routes(monitoring))
    install_openapi(app)
    return app


def _server_routes(models: Models, readiness: Readiness, settings: ApiSettings) -> APIRouter:
    router = APIRouter(prefix="/admin/v1", tags=["server"])

    async def health() -> HealthView:
        return HealthView(name=settings.server_name, version=serve.__version__, live=True, ready=readiness.is_ready())

    Health = Annotated[HealthView, Depends(health)]  # noqa: N806 - a type

    @router.get("/health/live", summary="Whether the process answers", responses=problems())
    async def live(view: Health) -> HealthView:
        return view

    @router.get("/health/ready", summary="Whether every start-up model is ready",
                responses={200: {"model": HealthView}, 503: {"model": HealthView}, **problems()})
    async def ready(view: Health) -> JSONResponse:
        return JSONResponse(view.model_dump(mode="json"), 200 if view.ready else 503)

    @router.get("/models", summary="Every version, its state and its counters", responses=problems(503))
    async def list_models() -> ModelsView:
        return ModelsView(models=[version_view(models, entry) for entry in await models.index(ready_only=False)])

    return router
