"""Our messages against those that the clients' generated stubs carry, field by field. Each client in an interpreter of its own."""

import base64
import json
import pathlib
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2

from serve.protocol import FILE_NAMES, POOL

ROOT = pathlib.Path(__file__).resolve().parents[2]
Field = descriptor_pb2.FieldDescriptorProto

PRINT_FILES = """
import base64, importlib, json, sys
print(json.dumps([base64.b64encode(importlib.import_module(name).DESCRIPTOR.serialized_pb).decode() for name in sys.argv[1:]]))
"""

CLIENTS = {
    "tritonclient": ["tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2"],
    "kserve": ["kserve.protocol.grpc.grpc_predict_v2_pb2"],
}

# What tritonclient has and we leave out because we do not implement it; a call gets UNIMPLEMENTED.
LEFT_OUT = ("SystemSharedMemory", "CudaSharedMemory", "TraceSetting")

# Where kserve's stubs differ from tritonclient's, whose side we take; (message, field) -> (theirs, ours), number and type.
# A request of kserve's names the model in field 1, our repository_name: serve/api reads it as the model when model_name is empty.
KSERVE_DIFFERENCES = {
    ("RepositoryModelLoadRequest", "model_name"): (1, 2),
    ("RepositoryModelUnloadRequest", "model_name"): (1, 2),
    ("RepositoryModelLoadResponse", "model_name"): (1, None),
    ("RepositoryModelLoadResponse", "isLoaded"): (2, None),
    ("RepositoryModelUnloadResponse", "model_name"): (1, None),
    ("RepositoryModelUnloadResponse", "isUnloaded"): (2, None),
}


def client_files(name):
    """The client's FileDescriptorProtos; skips the test where the client is not installed."""
    for python in (ROOT / ".venv-clients" / name / "bin" / "python", pathlib.Path(sys.executable)):
        if python.exists():
            done = subprocess.run([python, "-c", PRINT_FILES, *CLIENTS[name]], capture_output=True, text=True, timeout=50, check=False)
            if done.returncode == 0:
                files = json.loads(done.stdout.splitlines()[-1])
                return [descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(file)) for file in files]
            assert "ModuleNotFoundError" in done.stderr, done.stderr
    pytest.skip(f"{name} is not installed: tools/client_venvs.sh makes an environment for it")


def our_files():
    names = [name for name in FILE_NAMES if POOL.FindFileByName(name).package == "inference"]
    return [descriptor_pb2.FileDescriptorProto.FromString(POOL.FindFileByName(name).serialized_pb) for name in names]


def described(field, message):
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
    return field.number, Field.Type.Name(field.type), Field.Label.Name(field.label), field.type_name.removeprefix(".inference."), oneof


def flatten(files):
    """messages: {name: {field: (number, type, label, type name, oneof)}}, enumerations: {name: {value: number}}, methods."""
    messages, enums, methods = {}, {}, {}

    def walk(message, prefix):
        name = prefix + message.name
        messages[name] = {field.name: described(field, message) for field in message.field}
        for enum in message.enum_type:
            enums[f"{name}.{enum.name}"] = {value.name: value.number for value in enum.value}
        for nested in message.nested_type:
            walk(nested, f"{name}.")

    for file in files:
        assert (file.package, file.syntax) == ("inference", "proto3")
        enums.update({enum.name: {value.name: value.number for value in enum.value} for enum in file.enum_type})
        for message in file.message_type:
            walk(message, "")
        for service in file.service:
            for method in service.method:
                streaming = method.client_streaming, method.server_streaming
                methods[f"{service.name}.{method.name}"] = method.input_type, method.output_type, *streaming
    return messages, enums, methods


def implemented(table):
    return {name: value for name, value in table.items() if not name.removeprefix("GRPCInferenceService.").startswith(LEFT_OUT)}


@pytest.mark.client
def test_tritonclient():
    theirs, ours = flatten(client_files("tritonclient")), flatten(our_files())
    for their_table, our_table in zip(theirs, ours, strict=True):
        assert implemented(their_table) == our_table


@pytest.mark.client
def test_kserve():
    (their_messages, their_enums, their_methods), (messages, _, methods) = flatten(client_files("kserve")), flatten(our_files())
    assert not their_enums
    assert their_methods == {name: methods[name] for name in their_methods}
    differences = {}
    for name, fields in their_messages.items():
        for field, description in fields.items():
            our_description = messages[name].get(field)
            if our_description != description:
                differences[name, field] = (description[0], our_description and our_description[0])
    assert differences == KSERVE_DIFFERENCES


def test_every_rpc_of_the_wire_contract_is_there():
    _, _, methods = flatten(our_files())
    assert {name.removeprefix("GRPCInferenceService.") for name in methods} == {
        "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer", "ModelConfig",
        "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "LogSettings",
    }
