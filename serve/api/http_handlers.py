"""The handlers behind the HTTP routing table. Each takes the request and the path's parameters and returns the answer or raises."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from serve.api import json_shapes, openapi
from serve.api.feedback_desk import FeedbackDesk
from serve.api.feedback_ports import Labels
from serve.api.http_feedback import FeedbackHandler
from serve.api.http_message import HttpRequest, HttpResponse, json_response
from serve.api.logging_settings import settings_as_mapping, updated_settings
from serve.api.ports import ApiSettings, Models
from serve.api.readiness import Readiness
from serve.api.repository import REPOSITORY_NAME_REFUSED, check_model_control, check_unload_parameters, load_override
from serve.errors import InternalError, InvalidArgument, NotFound, NotImplementedHere
from serve.telemetry.logs import Logs

_DOCS_PAGE = "static/docs.html"
# The page's own script and style are inline, and it calls nobody but this server.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; form-action 'none'"
)


class HttpHandlers:
    """Open Inference Protocol over HTTP, less inference. Source: wire contract 2.3, 2.4 and 2.7. labels: None: nothing is recorded."""

    def __init__(
        self, models: Models, readiness: Readiness, logs: Logs, settings: ApiSettings, labels: Labels | None = None,
    ) -> None:
        self.feedback = FeedbackHandler(FeedbackDesk(models, labels))
        self._models = models
        self._readiness = readiness
        self._logs = logs
        self._settings = settings
        self._openapi = openapi.document(settings)
        self._docs_page = resources.files("serve.api").joinpath(_DOCS_PAGE).read_bytes()

    async def server_metadata(self, _request: HttpRequest) -> HttpResponse:
        """GET /v2."""
        return json_response(json_shapes.server_metadata(self._settings))

    async def live(self, _request: HttpRequest) -> HttpResponse:
        """GET /v2/health/live: who answers is alive."""
        return json_response(json_shapes.health(self._settings, self._readiness.is_ready()))

    async def ready(self, _request: HttpRequest) -> HttpResponse:
        """GET /v2/health/ready."""
        is_ready = self._readiness.is_ready()
        return json_response(json_shapes.health(self._settings, is_ready), self._ready_status(is_ready))

    async def models(self, _request: HttpRequest) -> HttpResponse:
        """GET /v2/models."""
        return json_response(json_shapes.model_names(await self._models.index(ready_only=False)))

    async def model_metadata(self, _request: HttpRequest, model: str, version: str = "") -> HttpResponse:
        """GET /v2/models/{model}[/versions/{version}]."""
        return json_response(json_shapes.model_body(self._models.describe(model, version)))

    async def model_ready(self, _request: HttpRequest, model: str, version: str = "") -> HttpResponse:
        """GET …/ready."""
        is_ready = self._models.is_ready(model, version)
        return json_response({"name": model, "ready": is_ready}, self._ready_status(is_ready))

    async def model_config(self, _request: HttpRequest, model: str, version: str = "") -> HttpResponse:
        """GET …/config."""
        return json_response(dict(self._models.config(model, version)))

    async def model_statistics(self, _request: HttpRequest, model: str = "", version: str = "") -> HttpResponse:
        """GET …/stats and GET /v2/models/stats."""
        return json_response(json_shapes.model_statistics(self._models.statistics(model, version)))

    async def index(self, request: HttpRequest) -> HttpResponse:
        """POST /v2/repository/index."""
        body = request.json_object()
        ready_only = body.pop("ready", False)
        if body:
            raise InvalidArgument(f"unknown index parameter '{next(iter(body))}'; known is 'ready'")
        if not isinstance(ready_only, bool):
            raise InvalidArgument(f"the index parameter 'ready' must be true or false, got {ready_only!r}")
        return json_response(json_shapes.repository_index(await self._models.index(ready_only)))

    async def load(self, request: HttpRequest, model: str) -> HttpResponse:
        """POST /v2/repository/models/{model}/load: answers when the model is ready."""
        check_model_control(self._settings)
        await self._models.load(model, load_override(model, _parameters(request)))
        return HttpResponse(200)

    async def unload(self, request: HttpRequest, model: str) -> HttpResponse:
        """POST /v2/repository/models/{model}/unload."""
        check_model_control(self._settings)
        check_unload_parameters(model, _parameters(request))
        await self._models.unload(model)
        return HttpResponse(200)

    async def log_settings(self, _request: HttpRequest) -> HttpResponse:
        """GET /v2/logging."""
        return json_response(settings_as_mapping(self._logs.settings))

    async def update_log_settings(self, request: HttpRequest) -> HttpResponse:
        """POST /v2/logging: answers with all settings as they are then."""
        self._logs.apply(updated_settings(self._logs.settings, request.json_object()))
        return await self.log_settings(request)

    async def openapi(self, _request: HttpRequest) -> HttpResponse:
        """GET /v2/openapi.json."""
        return json_response(self._openapi)

    async def docs(self, _request: HttpRequest) -> HttpResponse:
        """GET /v2/docs."""
        return HttpResponse(200, self._docs_page, {
            "content-type": "text/html; charset=utf-8", "content-security-policy": _DOCS_POLICY, "x-content-type-options": "nosniff"})

    def _ready_status(self, is_ready: bool) -> int:
        return 200 if is_ready else self._settings.not_ready_status


def _parameters(request: HttpRequest) -> Mapping[str, Any]:
    parameters = request.json_object().get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidArgument(f"'parameters' must be a JSON object, got {type(parameters).__name__}")
    return parameters


async def by_label(handler: Any, request: HttpRequest, model: str, label: str) -> HttpResponse:
    """Call a handler with a label in a version's place."""
    if label.isdecimal():
        raise NotFound(f"Request for unknown model: '{model}' has no label '{label}': a label is never all digits, a version is")
    response: HttpResponse = await handler(request, model, label)
    return response


async def inference_elsewhere(_request: HttpRequest, *parameters: str) -> HttpResponse:
    """Inferences are answered before they reach these handlers; the routes exist so that a wrong verb is told which is right."""
    raise InternalError(f"an inference for '{parameters[0]}' was handed to the control plane")


async def repository_name_refused(_request: HttpRequest, *_parameters: str) -> HttpResponse:
    """/v2/repository/{repository}/…: there is one repository."""
    raise NotImplementedHere(REPOSITORY_NAME_REFUSED)


async def not_implemented(request: HttpRequest, *_parameters: str) -> HttpResponse:
    """Parts of Triton's interface that clients may ask for and this server does not have."""
    raise NotImplementedHere(f"{request.method} {request.path} is not implemented by this server")
