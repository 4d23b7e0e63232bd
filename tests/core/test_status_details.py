"""grpc-status-details-bin against messages of google.rpc, declared here because no client's package brings them to this environment."""

import base64

import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from serve._core import status_details

FIELD = descriptor_pb2.FieldDescriptorProto


def _messages() -> dict[str, type]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name="rpc.proto", package="google.rpc", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=FIELD.TYPE_INT32, label=FIELD.LABEL_OPTIONAL)
    status.field.add(name="message", number=2, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    status.field.add(name="details", number=3, type=FIELD.TYPE_MESSAGE, type_name=".google.protobuf.Any", label=FIELD.LABEL_REPEATED)
    info = file.message_type.add(name="ErrorInfo")
    info.field.add(name="reason", number=1, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    info.field.add(name="domain", number=2, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}")) for name in ("Status", "ErrorInfo")}


MESSAGES = _messages()


def _decoded(value: bytes) -> object:
    assert b"=" not in value
    return MESSAGES["Status"].FromString(base64.b64decode(value + b"=" * (-len(value) % 4)))


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)


@given(st.integers(1, 16), TEXT, st.sampled_from([b"UNAVAILABLE", b"X"]))
def test_protobuf_reads_the_same(code: int, text: str, reason: bytes) -> None:
    status = _decoded(status_details.status_details_for_test(code, text.encode(), reason))
    assert (status.code, status.message, len(status.details)) == (code, text, 1)
    assert status.details[0].type_url == "type.googleapis.com/google.rpc.ErrorInfo"
    info = MESSAGES["ErrorInfo"].FromString(status.details[0].value)
    assert (info.reason, info.domain) == (reason.decode(), "headrace")


@pytest.mark.parametrize("text", ["", "a", "ab", "abc"])
def test_without_a_reason_there_are_no_details(text: str) -> None:
    status = _decoded(status_details.status_details_for_test(5, text.encode()))
    assert (status.code, status.message, len(status.details)) == (5, text, 0)
