"""The slow path over HTTP: a routing table and the one place where errors become answers."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from serve.api import http_handlers, json_shapes
from serve.api.faults import client_error
from serve.api.feedback_ports import Labels
from serve.api.http_handlers import HttpHandlers
from serve.api.http_message import HttpRequest, HttpResponse, json_response
from serve.api.ports import ApiSettings, Models
from serve.api.readiness import Readiness
from serve.api.router import Route, Router
from serve.errors import http_status
from serve.telemetry.logs import Logs

__all__ = ["HttpApi", "HttpRequest", "HttpResponse", "routes"]

Handler = Callable[..., Awaitable[HttpResponse]]

_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"
_LABEL = _MODEL + "/labels/{label}"


def routes(handlers: HttpHandlers) -> list[Route[Handler]]:
    """The whole routing table."""
    return [*_server_routes(handlers), *_model_routes(handlers), *_repository_routes(handlers), *_routes_not_implemented()]


def _server_routes(handlers: HttpHandlers) -> list[Route[Handler]]:
    return [
        Route("GET", "/v2", handlers.server_metadata),
        Route("GET", "/v2/health/live", handlers.live),
        Route("GET", "/v2/health/ready", handlers.ready),
        Route("GET", "/v2/logging", handlers.log_settings),
        Route("POST", "/v2/logging", handlers.update_log_settings),
        Route("GET", "/v2/openapi.json", handlers.openapi),
        Route("GET", "/v2/docs", handlers.docs),
    ]


def _model_routes(handlers: HttpHandlers) -> list[Route[Handler]]:
    views: dict[str, Handler] = {
        "": handlers.model_metadata, "/ready": handlers.model_ready, "/config": handlers.model_config, "/stats": handlers.model_statistics,
    }
    lines: list[Route[Handler]] = [
        Route("GET", "/v2/models", handlers.models),
        Route("GET", "/v2/models/stats", handlers.model_statistics),
        Route("POST", _MODEL + "/feedback", handlers.feedback),
    ]
    for view, handler in views.items():
        lines += [Route("GET", base + view, handler) for base in (_MODEL, _VERSION)]
        lines += [Route("GET", _LABEL + view, partial(http_handlers.by_label, handler))]
    lines += [Route("POST", base + "/infer", http_handlers.inference_elsewhere) for base in (_MODEL, _VERSION)]
    lines += [Route("POST", _LABEL + "/infer", partial(http_handlers.by_label, http_handlers.inference_elsewhere))]
    return lines


def _repository_routes(handlers: HttpHandlers) -> list[Route[Handler]]:
    named = "/v2/repository/{repository}"
    return [
        Route("POST", "/v2/repository/index", handlers.index),
        Route("POST", "/v2/repository/models/{model}/load", handlers.load),
        Route("POST", "/v2/repository/models/{model}/unload", handlers.unload),
        Route("POST", named + "/index", http_handlers.repository_name_refused),
        Route("POST", named + "/models/{model}/load", http_handlers.repository_name_refused),
        Route("POST", named + "/models/{model}/unload", http_handlers.repository_name_refused),
    ]


def _routes_not_implemented() -> list[Route[Handler]]:
    lines = [("POST", base + verb) for base in (_MODEL, _VERSION) for verb in ("/generate", "/generate_stream")]
    lines += [(method, base + "/trace/setting") for base in ("/v2", _MODEL) for method in ("GET", "POST")]
    for memory in ("/v2/systemsharedmemory", "/v2/cudasharedmemory"):
        for base in (memory, memory + "/region/{region}"):
            lines += [("GET", base + "/status"), ("POST", base + "/register"), ("POST", base + "/unregister")]
    return [Route(method, template, http_handlers.not_implemented) for method, template in lines]


class HttpApi:
    """Answers every HTTP request that is not an inference. labels: where feedback is kept; None: nothing is recorded."""

    def __init__(
        self, models: Models, readiness: Readiness, logs: Logs, settings: ApiSettings, labels: Labels | None = None,
    ) -> None:
        self._router = Router(routes(HttpHandlers(models, readiness, logs, settings, labels)))

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """The answer; never raises but CancelledError. What goes wrong is answered as {"error": text} under the error's status."""
        try:
            return await self._dispatch(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, the client gets an answer
            return _fault(error, f"{request.method} {request.path}")

    async def _dispatch(self, request: HttpRequest) -> HttpResponse:
        match = self._router.match(request.path)
        if match is None:
            hint = ": the API is described at /v2/docs" if request.path == "/" else ""
            return json_response(json_shapes.error(f"Not Found{hint}"), 404)
        # RFC 9110, 9.3.2: HEAD is GET, and the sender leaves the body out.
        handler = match.targets.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            return json_response(json_shapes.error("Method Not Allowed"), 405, {"allow": match.allow})
        return await handler(request, *match.parameters)


def _fault(error: Exception, where: str) -> HttpResponse:
    # A function of its own: a frame that held the error, and was held by its traceback, would keep the request's body until a collection.
    shown = client_error(error, where)
    return json_response(json_shapes.error(str(shown)), http_status(shown))
