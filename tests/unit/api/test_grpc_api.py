"""Every RPC of the slow path, as bytes in and bytes out, through the classes that a client would use."""

import io
import json
from typing import Any

import pytest
from google.protobuf.message import Message

import serve
from serve.api.grpc import GrpcApi, unknown_method
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.errors import HeadraceError, InternalError, InvalidArgument, NotFound, NotImplementedHere, Unavailable, grpc_code
from serve.protocol import messages as m
from serve.protocol.service import METHODS
from serve.telemetry.logs import Logs
from tests.unit.api.fakes import FakeModels

SERVICE = "/inference.GRPCInferenceService/"
INFERENCE = {SERVICE + "ModelInfer", SERVICE + "ModelStreamInfer"}


async def call(grpc: GrpcApi, name: str, request: Message) -> Any:
    path = name if name.startswith("/") else SERVICE + name
    handler = grpc.unary(path)
    assert handler is not None, path
    return METHODS[path].output_class.FromString(await handler(request.SerializeToString()))


def test_every_method_of_the_protocol_has_one_handler(grpc: GrpcApi) -> None:
    for path, method in METHODS.items():
        is_stream = method.client_streaming or method.server_streaming
        assert (grpc.unary(path) is not None) == (path not in INFERENCE and not is_stream), path
        assert (grpc.stream(path) is not None) == (path not in INFERENCE and is_stream), path


@pytest.mark.parametrize("path", [
    SERVICE + "TraceSetting", SERVICE + "SystemSharedMemoryStatus", SERVICE + "SystemSharedMemoryRegister",
    SERVICE + "CudaSharedMemoryUnregister",
    SERVICE + "serverLive", "/inference.ModelRepositoryService/RepositoryIndex", "/", "", "ServerLive",
])
def test_an_unknown_method_is_unimplemented(grpc: GrpcApi, path: str) -> None:
    assert grpc.unary(path) is None
    assert grpc.stream(path) is None
    error = unknown_method(path)
    assert isinstance(error, NotImplementedHere)
    assert grpc_code(error) == 12
    assert path in str(error)


async def test_live_and_ready(grpc: GrpcApi, models: FakeModels) -> None:
    assert (await call(grpc, "ServerLive", m.ServerLiveRequest())).live
    assert (await call(grpc, "ServerReady", m.ServerReadyRequest())).ready
    models.ready = False
    assert (await call(grpc, "ServerLive", m.ServerLiveRequest())).live
    assert not (await call(grpc, "ServerReady", m.ServerReadyRequest())).ready


@pytest.mark.parametrize(("name", "version", "ready"), [
    ("digits", "", True), ("digits", "1", True), ("digits", "canary", True), ("broken", "", False), ("nobody", "", False),
    ("digits", "9", False),
])
async def test_model_ready_of_an_unknown_model_is_false(grpc: GrpcApi, name: str, version: str, ready: bool) -> None:
    assert (await call(grpc, "ModelReady", m.ModelReadyRequest(name=name, version=version))).ready is ready


async def test_server_metadata(grpc: GrpcApi) -> None:
    metadata = await call(grpc, "ServerMetadata", m.ServerMetadataRequest())
    assert (metadata.name, metadata.version) == ("headrace", serve.__version__)
    assert "statistics" in metadata.extensions
    assert "logging" in metadata.extensions


async def test_model_metadata(grpc: GrpcApi) -> None:
    metadata = await call(grpc, "ModelMetadata", m.ModelMetadataRequest(name="digits", version="canary"))
    tensor = m.ModelMetadataResponse.TensorMetadata
    assert metadata == m.ModelMetadataResponse(
        name="digits", versions=["1", "2"], platform="onnxruntime_onnx", inputs=[tensor(name="x", datatype="FP32", shape=[-1, 64])],
        outputs=[tensor(name="label", datatype="INT64", shape=[-1]), tensor(name="scores", datatype="FP32", shape=[-1, 10])])


async def test_model_config(grpc: GrpcApi) -> None:
    config = (await call(grpc, "ModelConfig", m.ModelConfigRequest(name="digits"))).config
    assert (config.name, config.max_batch_size, config.backend) == ("digits", 64, "onnxruntime")
    assert config.HasField("dynamic_batching")
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("x", m.TYPE_FP32, [64])]


async def test_a_configuration_that_is_none_is_our_fault(grpc: GrpcApi, models: FakeModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "config", lambda name, version: {"max_batch_size": "many"})
    with pytest.raises(InternalError, match="the configuration of 'digits' is no ModelConfig"):
        await call(grpc, "ModelConfig", m.ModelConfigRequest(name="digits"))


async def test_model_statistics(grpc: GrpcApi) -> None:
    (stats,) = (await call(grpc, "ModelStatistics", m.ModelStatisticsRequest(name="digits", version="2"))).model_stats
    duration = m.StatisticDuration
    assert stats == m.ModelStatistics(
        name="digits", version="2", last_inference=1_700_000_000_123, inference_count=12, execution_count=5,
        inference_stats=m.InferStatistics(
            success=duration(count=9, ns=9_000_500), fail=duration(count=1, ns=100_000), queue=duration(count=9, ns=1_000_000),
            compute_input=duration(count=9, ns=200_000), compute_infer=duration(count=9, ns=3_000_000),
            compute_output=duration(count=9, ns=300_000), cache_hit=duration(), cache_miss=duration()),
        batch_stats=[m.InferBatchStatistics(batch_size=4, compute_input=duration(count=2, ns=20), compute_infer=duration(count=2, ns=40),
                                            compute_output=duration(count=2, ns=60))])
    everything = (await call(grpc, "ModelStatistics", m.ModelStatisticsRequest())).model_stats
    assert [(s.name, s.version) for s in everything] == [("digits", "1"), ("digits", "2")]
    assert everything[0].inference_stats.HasField("cache_miss"), "all eight are there, the empty ones too"


async def test_a_version_without_a_name(grpc: GrpcApi) -> None:
    with pytest.raises(InvalidArgument, match="version '1' is given without a model name"):
        await call(grpc, "ModelStatistics", m.ModelStatisticsRequest(version="1"))


async def test_repository_index(grpc: GrpcApi) -> None:
    entry = m.RepositoryIndexResponse.ModelIndex
    ready = [entry(name="digits", version="1", state="READY"), entry(name="digits", version="2", state="READY")]
    everything = await call(grpc, "RepositoryIndex", m.RepositoryIndexRequest())
    assert list(everything.models) == [
        entry(name="broken", version="1", state="UNAVAILABLE", reason="model.onnx is not an ONNX model"), *ready,
        entry(name="later", state="UNKNOWN")]
    assert list((await call(grpc, "RepositoryIndex", m.RepositoryIndexRequest(ready=True))).models) == ready
    with pytest.raises(NotImplementedHere, match="'repository_name' specification is not supported"):
        await call(grpc, "RepositoryIndex", m.RepositoryIndexRequest(repository_name="mine"))


async def test_load_and_unload_as_triton_and_as_kserve_name_the_model(grpc: GrpcApi, models: FakeModels) -> None:
    parameter = m.ModelRepositoryParameter
    await call(grpc, "RepositoryModelLoad", m.RepositoryModelLoadRequest(
        model_name="later", parameters={"config": parameter(string_param='{"max_batch_size":8}')}))
    # KServe's model_name is field 1, which is repository_name here.
    await call(grpc, "RepositoryModelLoad", m.RepositoryModelLoadRequest(repository_name="digits"))
    await call(grpc, "RepositoryModelUnload", m.RepositoryModelUnloadRequest(
        model_name="later", parameters={"unload_dependents": parameter(bool_param=False)}))
    await call(grpc, "RepositoryModelUnload", m.RepositoryModelUnloadRequest(repository_name="digits"))
    assert models.calls == [("load", "later", '{"max_batch_size":8}'), ("load", "digits"), ("unload", "later"), ("unload", "digits")]


@pytest.mark.parametrize(("request_", "error", "text"), [
    (m.RepositoryModelLoadRequest(repository_name="r", model_name="m"), NotImplementedHere,
     "'repository_name' specification is not supported"),
    (m.RepositoryModelLoadRequest(), InvalidArgument, "the request names no model"),
    (m.RepositoryModelLoadRequest(model_name="nobody"), NotFound, "Request for unknown model: 'nobody' is not found"),
    (m.RepositoryModelLoadRequest(model_name="broken"), Unavailable, "failed to load 'broken'"),
    (m.RepositoryModelLoadRequest(model_name="m", parameters={"file:1/model.onnx": m.ModelRepositoryParameter(bytes_param=b"x")}),
     InvalidArgument, "model files are not accepted over the network"),
    (m.RepositoryModelLoadRequest(model_name="m", parameters={"config": m.ModelRepositoryParameter(bool_param=True)}),
     InvalidArgument, "must be a string that holds JSON, got bool"),
])
async def test_a_bad_load(grpc: GrpcApi, models: FakeModels, request_: Message, error: type[HeadraceError], text: str) -> None:
    with pytest.raises(error, match=text):
        await call(grpc, "RepositoryModelLoad", request_)
    assert models.calls == []


@pytest.mark.parametrize("name", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_loading_is_for_explicit_model_control(models: FakeModels, readiness: Readiness, logs: Logs, name: str) -> None:
    grpc = GrpcApi(models, readiness, logs, ApiSettings())
    with pytest.raises(InvalidArgument, match="explicit model load / unload is not allowed if polling is enabled"):
        await call(grpc, name, METHODS[SERVICE + name].input_class(model_name="later"))


def settings_of(response: m.LogSettingsResponse) -> dict[str, tuple[str, Any]]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in response.settings.items()}
    return {name: (member, getattr(response.settings[name], member)) for name, member in chosen.items()}


async def test_log_settings(grpc: GrpcApi, logs: Logs) -> None:
    default = {
        "log_file": ("string_param", ""), "log_info": ("bool_param", True), "log_warning": ("bool_param", True),
        "log_error": ("bool_param", True), "log_verbose_level": ("uint32_param", 0), "log_format": ("string_param", "default"),
    }
    assert settings_of(await call(grpc, "LogSettings", m.LogSettingsRequest())) == default
    value = m.LogSettingsRequest.SettingValue
    changed = await call(grpc, "LogSettings", m.LogSettingsRequest(settings={
        "log_info": value(bool_param=False), "log_verbose_level": value(uint32_param=1), "log_format": value(string_param="ISO8601"),
        "log_error": value()}))
    assert settings_of(changed) == {
        **default, "log_info": ("bool_param", False), "log_verbose_level": ("uint32_param", 1), "log_format": ("string_param", "ISO8601")}
    assert logs.settings.log_verbose_level == 1


@pytest.mark.parametrize(("name", "value", "error"), [
    ("log_file", {"string_param": "/etc/passwd"}, NotImplementedHere), ("log_info", {"uint32_param": 1}, InvalidArgument),
    ("log_verbose_level", {"uint32_param": 4_000_000_000}, InvalidArgument), ("log_format", {"bool_param": True}, InvalidArgument),
    ("log_files", {}, InvalidArgument),
])
async def test_a_bad_log_setting(grpc: GrpcApi, logs: Logs, name: str, value: dict[str, Any], error: type[HeadraceError]) -> None:
    before = logs.settings
    with pytest.raises(error):
        await call(grpc, "LogSettings", m.LogSettingsRequest(settings={name: m.LogSettingsRequest.SettingValue(**value)}))
    assert logs.settings == before


@pytest.mark.parametrize("name", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_an_unknown_model(grpc: GrpcApi, name: str) -> None:
    with pytest.raises(NotFound, match=r"^Request for unknown model: 'nobody' is not found"):
        await call(grpc, name, METHODS[SERVICE + name].input_class(name="nobody"))


async def test_bytes_that_are_no_message(grpc: GrpcApi) -> None:
    handler = grpc.unary(SERVICE + "ModelMetadata")
    assert handler is not None
    with pytest.raises(InvalidArgument, match=r"failed to parse the request of /inference\.GRPCInferenceService/ModelMetadata"):
        await handler(b"\x0a\xff")


async def test_our_own_fault_is_an_id_to_the_client(grpc: GrpcApi, models: FakeModels, log_stream: io.StringIO) -> None:
    models.failure = RuntimeError("the secret")
    with pytest.raises(InternalError) as caught:
        await call(grpc, "ModelReady", m.ModelReadyRequest(name="digits"))
    record = json.loads(log_stream.getvalue())
    assert record["error_id"] in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert record["operation"] == SERVICE + "ModelReady"
