"""serve.protocol: a private pool, classes by name, the service table, and the files that reflection hands out."""

import pathlib
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, text_format

from serve.errors import NotFound
from serve.protocol import FILE_NAMES, POOL, files_declaring, files_named, messages, service

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_generated_files_are_current():
    tool = [sys.executable, str(ROOT / "tools" / "generate_protocol.py"), "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


def test_the_default_pool_knows_nothing_of_it():
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
    assert messages.ModelInferRequest.DESCRIPTOR.file.pool is POOL


def test_every_public_name_of_the_stub_exists():
    stub = (ROOT / "serve" / "protocol" / "messages.pyi").read_text()
    names = [line.split("(")[0].removeprefix("class ") for line in stub.splitlines() if line.startswith("class ")]
    assert len(names) > 60
    assert all(hasattr(messages, name) for name in names)


def test_messages_round_trip():
    request = messages.ModelInferRequest(model_name="m", inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}])
    request.parameters["priority"].uint64_param = 3
    assert messages.ModelInferRequest.FromString(request.SerializeToString()) == request


def test_enumerations():
    assert messages.DataType.Value("TYPE_FP32") == messages.TYPE_FP32 == 11
    assert messages.HealthCheckResponse(status="SERVING").status == messages.HealthCheckResponse.SERVING


def test_config_pbtxt_is_read():
    config = text_format.Parse(
        """
        name: "m"
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
        output [ { name: "y" data_type: TYPE_STRING dims: [ -1 ] label_filename: "labels.txt" } ]
        dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
        instance_group [ { count: 2 kind: KIND_CPU } ]
        version_policy { latest { num_versions: 2 } }
        parameters { key: "k" value { string_value: "v" } }
        """,
        messages.ModelConfig(),
    )
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    as_json = json_format.MessageToDict(config, preserving_proto_field_name=True)
    assert as_json["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["4"]}]


def test_services_and_methods():
    assert set(service.SERVICES) == {"headrace.v1.Feedback", "inference.GRPCInferenceService", "grpc.health.v1.Health",
                                     "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
    infer = service.METHODS["/inference.GRPCInferenceService/ModelInfer"]
    assert (infer.input_class, infer.output_class) == (messages.ModelInferRequest, messages.ModelInferResponse)
    assert (infer.service, infer.name) == ("inference.GRPCInferenceService", "ModelInfer")
    streaming = {path: (method.client_streaming, method.server_streaming) for path, method in service.METHODS.items()
                 if method.client_streaming or method.server_streaming}
    assert streaming == {
        "/headrace.v1.Feedback/SubmitStream": (True, True),
        "/inference.GRPCInferenceService/ModelStreamInfer": (True, True),
        "/grpc.health.v1.Health/Watch": (False, True),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": (True, True),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": (True, True),
    }
    assert all(method.path == path for path, method in service.METHODS.items())


def test_both_reflection_services_have_the_same_messages():
    old = service.METHODS["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
    new = service.METHODS["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
    assert new.input_class is messages.ServerReflectionRequest
    assert old.input_class is not new.input_class
    for left, right in ((old.input_class, new.input_class), (old.output_class, new.output_class)):
        fields = [[(field.name, field.number, field.type) for field in cls.DESCRIPTOR.fields] for cls in (left, right)]
        assert fields[0] == fields[1]


def file_names(files):
    return [descriptor_pb2.FileDescriptorProto.FromString(data).name for data in files]


def test_files_come_with_what_they_import():
    assert file_names(files_named("open_inference.proto")) == ["open_inference.proto", "model_config.proto"]
    assert file_names(files_named("health.proto")) == ["health.proto"]


@pytest.mark.parametrize(("symbol", "file"), [
    ("inference.GRPCInferenceService", "open_inference.proto"),
    ("inference.GRPCInferenceService.ModelInfer", "open_inference.proto"),
    ("inference.ModelInferRequest.InferInputTensor", "open_inference.proto"),
    ("inference.ModelConfig.name", "model_config.proto"),
    ("inference.DataType", "model_config.proto"),
    ("grpc.health.v1.Health", "health.proto"),
    ("grpc.reflection.v1alpha.ServerReflectionRequest", "reflection_v1alpha.proto"),
])
def test_files_are_found_by_symbol(symbol, file):
    assert file_names(files_declaring(symbol))[0] == file


def test_unknown_files_and_symbols():
    with pytest.raises(NotFound, match="no file 'x.proto'; the files are"):
        files_named("x.proto")
    for symbol in ("inference.Nothing", "", "inference.GRPCInferenceService.TraceSetting"):
        with pytest.raises(NotFound, match="no symbol"):
            files_declaring(symbol)


def test_a_pool_can_be_built_of_what_reflection_hands_out():
    pool = descriptor_pool.DescriptorPool()
    for name in FILE_NAMES:
        for data in reversed(files_named(name)):
            pool.AddSerializedFile(data)
    assert pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelInfer"].input_type.name == "ModelInferRequest"
