"""`inference.GRPCInferenceService`, less inference. Source: wire contract 2.2 and 2.4.

The JSON shapes have the messages' own field names, so that one description of a value serves both protocols.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from serve.api import json_shapes
from serve.api.logging_settings import Value, settings_as_mapping, updated_settings
from serve.api.ports import ApiSettings, Models
from serve.api.readiness import Readiness
from serve.api.repository import check_model_control, check_unload_parameters, load_override, refuse_repository_name
from serve.errors import InternalError, InvalidArgument, NotFound
from serve.protocol import messages
from serve.telemetry.logs import Logs

SERVICE = "inference.GRPCInferenceService"

Handler = Callable[[Any], Awaitable[Message]]


class InferenceService:
    """One method per RPC: a decoded request in, a response out, HeadraceError for what is wrong."""

    def __init__(self, models: Models, readiness: Readiness, logs: Logs, settings: ApiSettings) -> None:
        self._models = models
        self._readiness = readiness
        self._logs = logs
        self._settings = settings

    def handlers(self) -> Mapping[str, Handler]:
        """Path -> handler."""
        by_name: dict[str, Handler] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_model_load,
            "RepositoryModelUnload": self.repository_model_unload,
            "LogSettings": self.log_settings,
        }
        return {f"/{SERVICE}/{name}": handler for name, handler in by_name.items()}

    async def server_live(self, _request: messages.ServerLiveRequest) -> messages.ServerLiveResponse:
        """Who answers is alive."""
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, _request: messages.ServerReadyRequest) -> messages.ServerReadyResponse:
        """Not ready is an answer here, no error."""
        return messages.ServerReadyResponse(ready=self._readiness.is_ready())

    async def model_ready(self, request: messages.ModelReadyRequest) -> messages.ModelReadyResponse:
        """An unknown model is one that is not ready, as in Triton."""
        try:
            return messages.ModelReadyResponse(ready=self._models.is_ready(request.name, request.version))
        except NotFound:
            return messages.ModelReadyResponse(ready=False)

    async def server_metadata(self, _request: messages.ServerMetadataRequest) -> messages.ServerMetadataResponse:
        """Name, version and extensions."""
        return messages.ServerMetadataResponse(**json_shapes.server_metadata(self._settings))

    async def model_metadata(self, request: messages.ModelMetadataRequest) -> messages.ModelMetadataResponse:
        """Inputs, outputs and ready versions."""
        return messages.ModelMetadataResponse(**json_shapes.model_metadata(self._models.describe(request.name, request.version)))

    async def model_config(self, request: messages.ModelConfigRequest) -> messages.ModelConfigResponse:
        """The configuration as a message."""
        config = dict(self._models.config(request.name, request.version))
        try:
            return messages.ModelConfigResponse(config=json_format.ParseDict(config, messages.ModelConfig()))
        except json_format.ParseError as error:
            raise InternalError(f"the configuration of '{request.name}' is no ModelConfig: {error}") from error

    async def model_statistics(self, request: messages.ModelStatisticsRequest) -> messages.ModelStatisticsResponse:
        """Counters of one version, of a model's versions, or of everything where no name is given."""
        if request.version and not request.name:
            raise InvalidArgument(f"version '{request.version}' is given without a model name; give the name, or neither")
        return messages.ModelStatisticsResponse(
            **json_shapes.model_statistics(self._models.statistics(request.name, request.version)))

    async def repository_index(self, request: messages.RepositoryIndexRequest) -> messages.RepositoryIndexResponse:
        """Every known version and its state."""
        refuse_repository_name(request.repository_name)
        return messages.RepositoryIndexResponse(models=json_shapes.repository_index(await self._models.index(request.ready)))

    async def repository_model_load(self, request: messages.RepositoryModelLoadRequest) -> messages.RepositoryModelLoadResponse:
        """Answers when the model is ready."""
        check_model_control(self._settings)
        model = _model_name(request)
        await self._models.load(model, load_override(model, _chosen(request.parameters, "parameter_choice")))
        return messages.RepositoryModelLoadResponse()

    async def repository_model_unload(self, request: messages.RepositoryModelUnloadRequest) -> messages.RepositoryModelUnloadResponse:
        """Answers when the versions are freed."""
        check_model_control(self._settings)
        model = _model_name(request)
        check_unload_parameters(model, _chosen(request.parameters, "parameter_choice"))
        await self._models.unload(model)
        return messages.RepositoryModelUnloadResponse()

    async def log_settings(self, request: messages.LogSettingsRequest) -> messages.LogSettingsResponse:
        """Change what is given, answer with all settings."""
        self._logs.apply(updated_settings(self._logs.settings, _chosen(request.settings, "parameter_choice")))
        settings = settings_as_mapping(self._logs.settings)
        return messages.LogSettingsResponse(settings={name: _setting_value(value) for name, value in settings.items()})


def _model_name(request: messages.RepositoryModelLoadRequest | messages.RepositoryModelUnloadRequest) -> str:
    """The model to load or unload: KServe's stubs put it where Triton's have the repository (field 1)."""
    if not request.model_name:
        if not request.repository_name:
            raise InvalidArgument("the request names no model; set model_name")
        return request.repository_name
    refuse_repository_name(request.repository_name)
    return request.model_name


def _chosen(values: Mapping[str, Any], oneof: str) -> dict[str, Any]:
    """The member of a oneof that is set in each value of a map; None where none is."""
    chosen = {name: value.WhichOneof(oneof) for name, value in values.items()}
    return {name: None if member is None else getattr(values[name], member) for name, member in chosen.items()}


def _setting_value(value: Value) -> messages.LogSettingsResponse.SettingValue:
    if isinstance(value, bool):
        return messages.LogSettingsResponse.SettingValue(bool_param=value)
    if isinstance(value, int):
        return messages.LogSettingsResponse.SettingValue(uint32_param=value)
    return messages.LogSettingsResponse.SettingValue(string_param=value)
