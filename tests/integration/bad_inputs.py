"""What must be refused, with which status and which words: one table for HTTP, one for gRPC."""

import gzip
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve.protocol import messages
from tests.integration.payloads import FLOATS, INFER, binary_request, grpc_request, json_request

Request = messages.ModelInferRequest
Tensor = messages.ModelInferRequest.InferInputTensor
Contents = messages.InferTensorContents

LONG = "x" * 100_000


@dataclass(frozen=True)
class Bad:
    """A request over HTTP. text: what the error must say."""

    name: str
    body: bytes
    status: int = 400
    text: str = ""
    path: str = INFER
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BadCall:
    """A message over gRPC. code: gRPC's number."""

    name: str
    message: bytes
    code: int = 3
    text: str = ""
    method: str = "ModelInfer"


def _with(**changes: Any) -> bytes:
    """The good request with its one input changed; None takes a key out."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.5, -2.0, 3.25, 0.0], **changes}
    return json.dumps({"inputs": [{key: value for key, value in tensor.items() if value is not None}]}).encode()


def _identity(datatype: str, shape: list[Any], data: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]}).encode()


def _path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def _binary(length: object = None, size: object = 16, body: bytes = FLOATS.tobytes()) -> dict[str, Any]:
    """body and headers of a request whose one tensor is behind the JSON."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return {"body": head + body, "headers": {"inference-header-content-length": str(len(head) if length is None else length)}}


def _texts(content: bytes, shape: list[int]) -> dict[str, Any]:
    tensor = {"name": "x", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return {"path": _path("identity_bytes"), "body": head + content, "headers": {"inference-header-content-length": str(len(head))}}


BODIES = [
    Bad("empty", b"", text="JSON"),
    Bad("no_json", b"\x00\x01\x02", text="JSON"),
    Bad("truncated", json_request()[:-5], text="JSON"),
    Bad("array", b"[]", text="must be an object"),
    Bad("two_documents", json_request() + b"{}", text="JSON"),
    Bad("deep", b'{"inputs":' + b"[" * 200 + b"]" * 200 + b"}", text="deeper than 100"),
    Bad("very_deep", b"[" * 500_000, text="JSON"),
    Bad("utf16", json_request().decode().encode("utf-16"), text="JSON"),
    Bad("bad_utf8", json_request().replace(b'"x"', b'"\xff\xfe"'), text="JSON"),
    Bad("lone_surrogate", json_request().replace(b'"x"', b'"\\ud800"'), text="JSON"),
    Bad("duplicate_key", b'{"inputs":[],"inputs":[]}', text="more than once"),
    Bad("no_inputs", b"{}", text="no 'inputs'"),
    Bad("inputs_empty", b'{"inputs":[]}', text="input"),
    Bad("inputs_no_array", b'{"inputs":{}}', text="an array"),
    Bad("input_no_object", b'{"inputs":[1]}', text="an object"),
    Bad("inputs_too_many", json.dumps({"inputs": [json.loads(_with())["inputs"][0]] * 200}).encode(), text="128"),
    Bad("id_number", json_request(id=7), text="'id' must be a string"),
    Bad("parameters_array", json_request(parameters=[]), text="an object"),
    Bad("timeout_text", json_request(parameters={"timeout": "soon"}), text="timeout"),
    Bad("timeout_negative", json_request(parameters={"timeout": -1}), text="negative"),
    Bad("reserved_parameter", json_request(parameters={"triton_x": 1}), text="triton_"),
    Bad("sequence", json_request(parameters={"sequence_id": 7}), text="sequence"),
    Bad("shared_memory", _with(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 16}), 501, "shared memory"),
    Bad("output_unknown", json_request(outputs=[{"name": "z"}]), text="'z'"),
    Bad("output_twice", json_request(outputs=[{"name": "y"}, {"name": "y"}]), text="'y'"),
    Bad("output_no_name", json_request(outputs=[{}]), text="name"),
    Bad("classes_negative", json_request(outputs=[{"name": "y", "parameters": {"classification": -1}}]), text="negative"),
    Bad("classes_of_text", json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}],
                                       "outputs": [{"name": "y", "parameters": {"classification": 1}}]}).encode(), text="BYTES",
        path=_path("identity_bytes")),
]

TENSORS = [
    Bad("name_missing", _with(name=None), text="'name'"),
    Bad("name_number", _with(name=7), text="a string"),
    Bad("name_unknown", _with(name="wrong"), text="'wrong'"),
    Bad("name_long", _with(name=LONG), text="xxxx"),
    Bad("name_twice", json.dumps({"inputs": [json.loads(_with())["inputs"][0]] * 2}).encode(), text="'x'"),
    Bad("one_missing", _identity("FP32", [1, 2], [1, 2]).replace(b'"x"', b'"a"'), text="input", path=_path("two_by_two")),
    Bad("datatype_missing", _with(datatype=None), text="'datatype'"),
    Bad("datatype_unknown", _with(datatype="FP8"), text="FP8"),
    Bad("datatype_lower_case", _with(datatype="fp32"), text="fp32"),
    Bad("datatype_wrong", _with(datatype="INT32", data=[1, 2, 3, 4]), text="FP32"),
    Bad("shape_missing", _with(shape=None), text="'shape'"),
    Bad("shape_text", _with(shape="1,4"), text="an array"),
    Bad("shape_of_text", _with(shape=["1", 4]), text="an integer"),
    Bad("shape_of_fractions", _with(shape=[1.5, 4]), text="an integer"),
    Bad("shape_negative", _with(shape=[-1, 4]), text="-1"),
    Bad("shape_empty", _with(shape=[], data=[1]), text="shape"),
    Bad("shape_wrong", _with(shape=[1, 3], data=[1, 2, 3]), text="[-1,4]"),
    Bad("shape_of_wrong_rank", _with(shape=[4]), text="[-1,4]"),
    Bad("shape_too_long", _with(shape=[1] * 17), text="16"),
    Bad("shape_huge", _identity("FP32", [1, 1 << 62], [1]), path=_path("identity_fp32")),
    Bad("shape_overflowing", _identity("FP64", [2, (1 << 63) - 1], [1]), path=_path("identity_fp64")),
    Bad("shape_over_64_bits", _identity("FP64", [1, 1 << 64], [1]), path=_path("identity_fp64")),
    Bad("shape_huge_of_text", _identity("BYTES", [1, 1 << 40], ["a"]), path=_path("identity_bytes")),
    Bad("batch_too_large", _identity("FP32", [65, 1], [0] * 65), text="64", path=_path("identity_fp32")),
    Bad("batch_of_nothing", _identity("FP32", [0, 1], []), path=_path("identity_fp32")),
    Bad("data_short", _with(data=[1, 2, 3]), text="'x'"),
    Bad("data_long", _with(data=[1, 2, 3, 4, 5]), text="'x'"),
    Bad("data_ragged", _with(data=[[1, 2], [3], 4]), text="'x'"),
    Bad("data_text", _with(data=["a", "b", "c", "d"]), text="'x'"),
    Bad("data_null", _with(data=[1, 2, None, 4]), text="'x'"),
    Bad("data_object", _with(data={"a": 1}), text="'x'"),
    Bad("data_missing", _with(data=None), text="'data'"),
    Bad("data_both_ways", _with(parameters={"binary_data_size": 16}), text="either"),
    Bad("data_over_range", _identity("INT8", [1, 1], [300]), text="'x'", path=_path("identity_int8")),
    Bad("data_under_range", _identity("UINT8", [1, 1], [-1]), text="'x'", path=_path("identity_uint8")),
    Bad("data_fraction", _identity("INT32", [1, 1], [1.5]), text="'x'", path=_path("identity_int32")),
    Bad("data_bool", _identity("BOOL", [1, 1], [2]), text="'x'", path=_path("identity_bool")),
    Bad("data_number_for_text", _identity("BYTES", [1, 1], [5]), text="'x'", path=_path("identity_bytes")),
    Bad("data_half", _identity("FP16", [1, 1], [1.0]), text="FP16", path=_path("identity_fp16")),
]

BINARY = [
    Bad("json_length_text", **{**_binary("abc"), "text": "Inference-Header-Content-Length"}),
    Bad("json_length_negative", **{**_binary("-1"), "text": "Inference-Header-Content-Length"}),
    Bad("json_length_huge", **{**_binary("99999999999999999999"), "text": "Inference-Header-Content-Length"}),
    Bad("json_length_over_body", **{**_binary(5000), "text": "Inference-Header-Content-Length"}),
    Bad("json_length_short", **{**_binary(10), "text": "JSON"}),
    Bad("json_length_empty", **{**_binary(""), "text": "Inference-Header-Content-Length"}),
    Bad("size_over_body", **{**_binary(size=17), "text": "binary_data_size"}),
    Bad("size_of_everything", **{**_binary(size=(1 << 64) - 1), "text": "binary_data_size"}),
    Bad("size_negative", **{**_binary(size=-1), "text": "negative"}),
    Bad("size_text", **{**_binary(size="16"), "text": "an integer"}),
    Bad("size_short", **{**_binary(size=12), "text": "4 bytes"}),
    Bad("size_of_nothing", **{**_binary(size=0, body=b""), "text": "'x'"}),
    Bad("bytes_left", **{**_binary(body=FLOATS.tobytes() + b"more"), "text": "4 bytes"}),
    Bad("raw_body_of_two_inputs", b"1234", headers={"inference-header-content-length": "0"}, path=_path("two_by_two")),
    Bad("raw_body_short", b"123", headers={"inference-header-content-length": "0"}),
    Bad("text_length_lies", text="'x'", **_texts(struct.pack("<I", 0xFFFFFFFF) + b"abc", [1, 1])),
    Bad("text_truncated", text="'x'", **_texts(b"\x01\x00", [1, 1])),
    Bad("text_count_short", text="'x'", **_texts(struct.pack("<I", 1) + b"a", [1, 2])),
    Bad("text_count_long", text="'x'", **_texts((struct.pack("<I", 1) + b"a") * 3, [1, 2])),
]

_GOOD, _HEADERS = binary_request()
_BOMB = gzip.compress(bytes(70 << 20))

ENCODINGS = [
    Bad("encoding_unknown", json_request(), 501, "gzip", headers={"content-encoding": "br"}),
    Bad("gzip_that_is_none", json_request(), text="compressed body", headers={"content-encoding": "gzip"}),
    Bad("gzip_truncated", gzip.compress(json_request())[:-9], headers={"content-encoding": "gzip"}),
    Bad("gzip_corrupt", gzip.compress(json_request())[:-8] + b"\x00" * 8, headers={"content-encoding": "gzip"}),
    Bad("gzip_with_rest", gzip.compress(json_request()) + b"rest", headers={"content-encoding": "gzip"}),
    Bad("deflate_without_zlib", zlib.compress(json_request())[2:-4], headers={"content-encoding": "deflate"}),
    Bad("gzip_bomb", _BOMB, 413, "unpacks", headers={"content-encoding": "gzip"}),
    Bad("gzip_bomb_on_the_slow_path", _BOMB, 413, "unpacks", "/v2/repository/index", headers={"content-encoding": "gzip"}),
    Bad("gzip_json_length", gzip.compress(_GOOD), headers={"content-encoding": "gzip", "inference-header-content-length": "100000"}),
]

ROUTES = [
    Bad("unknown_model", json_request(), 404, "Request for unknown model: 'absent' is not found", _path("absent")),
    Bad("unknown_version", json_request(), 404, "version 9", "/v2/models/scores/versions/9/infer"),
    Bad("unknown_label", json_request(), 404, "nope", "/v2/models/scores/labels/nope/infer"),
    Bad("model_long", json_request(), 404, "xxxx", _path("x" * 5000)),
    Bad("model_with_nul", json_request(), 404, "", _path("a%00b")),
    Bad("model_not_utf8", json_request(), 404, "", _path("%ff%fe")),
    Bad("percent_torn", json_request(), 400, "%", _path("scores%2")),
    Bad("percent_no_digits", json_request(), 400, "%", _path("scores%zz")),
    Bad("label_of_digits", json_request(), 404, "", "/v2/models/scores/labels/1/infer"),
    Bad("metadata_of_label_of_digits", b"", 404, "never all digits", "/v2/models/scores/labels/1", "GET"),
    Bad("path_traversal", json_request(), 404, "", _path("..%2f..%2fetc%2fpasswd")),
    Bad("wrong_verb", b"", 405, "Method Not Allowed", INFER, "GET"),
    Bad("wrong_verb_of_health", b"", 405, "Method Not Allowed", "/v2/health/ready", "DELETE"),
    Bad("no_route", b"", 404, "Not Found", "/v3/models", "GET"),
    Bad("no_route_either", json_request(), 404, "Not Found", "/v2/models/scores/infer/more"),
    Bad("index_no_json", b"{", 400, "JSON", "/v2/repository/index"),
    Bad("index_array", b"[]", 400, "object", "/v2/repository/index"),
    Bad("index_unknown", b'{"x":1}', 400, "'x'", "/v2/repository/index"),
    Bad("index_wrong_kind", b'{"ready":1}', 400, "true or false", "/v2/repository/index"),
    Bad("index_deep", b"[" * 200_000, 400, "JSON", "/v2/repository/index"),
    Bad("index_large", b" " * (2 << 20), 413, "1048576", "/v2/repository/index"),
    Bad("load_unknown", b"", 404, "failed to load 'absent'", "/v2/repository/models/absent/load"),
    Bad("load_parameters", b'{"parameters":[]}', 400, "object", "/v2/repository/models/scores/load"),
    Bad("load_files", b'{"parameters":{"config":"{}","file:1/model.onnx":"eA=="}}', 400, "failed to load 'scores'",
        "/v2/repository/models/scores/load"),
    Bad("unload_unknown", b"", 404, "absent", "/v2/repository/models/absent/unload"),
    Bad("repository_named", b"", 501, "repository", "/v2/repository/other/index"),
    Bad("generate", b"{}", 501, "not implemented", "/v2/models/scores/generate"),
    Bad("shared_memory_status", b"", 501, "not implemented", "/v2/systemsharedmemory/status", "GET"),
    Bad("logging_unknown", b'{"x":1}', 400, "x", "/v2/logging"),
]

HTTP = [*BODIES, *TENSORS, *BINARY, *ENCODINGS, *ROUTES]


def _call(tensors: list[Tensor], raw: list[bytes] = [], model: str = "scores", **fields: Any) -> bytes:     # noqa: B006 - never changed
    return Request(model_name=model, inputs=tensors, raw_input_contents=raw, **fields).SerializeToString()


_X = Tensor(name="x", datatype="FP32", shape=[1, 4])
_RAW = FLOATS.tobytes()


def _parameters(**values: Any) -> dict[str, messages.InferParameter]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
    return {name: messages.InferParameter(**{kinds[type(value)]: value}) for name, value in values.items()}


GRPC = [
    BadCall("empty", b"", 5, "Request for unknown model"),
    BadCall("malformed", b"\x0a\xff\xff\xff\xff\xff", text="malformed"),
    BadCall("truncated", grpc_request()[:-3], text="malformed"),
    BadCall("group_that_never_ends", b"\x0b" * 5000, text="malformed"),
    BadCall("unknown_model", grpc_request("absent"), 5, "Request for unknown model: 'absent' is not found"),
    BadCall("unknown_version", grpc_request(model_version="9"), 5, "version 9"),
    BadCall("model_long", grpc_request("x" * 100_000), 5, "xxxx"),
    BadCall("model_not_utf8", b"\x0a\x02\xff\xfe", text="UTF-8"),
    BadCall("no_inputs", _call([]), text="input"),
    BadCall("name_unknown", grpc_request(name="wrong"), text="'wrong'"),
    BadCall("name_twice", _call([_X, _X], [_RAW, _RAW]), text="'x'"),
    BadCall("one_missing", _call([Tensor(name="a", datatype="FP32", shape=[1, 2])], [bytes(8)], "two_by_two"), text="input"),
    BadCall("datatype_unknown", grpc_request(datatype="FP8"), text="FP8"),
    BadCall("datatype_wrong", grpc_request(datatype="INT32"), text="FP32"),
    BadCall("datatype_none", grpc_request(datatype=""), text="datatype"),
    BadCall("shape_wrong", grpc_request(array=FLOATS[:, :3]), text="[-1,4]"),
    BadCall("shape_of_wrong_rank", grpc_request(array=FLOATS[0]), text="[-1,4]"),
    BadCall("shape_negative", _call([Tensor(name="x", datatype="FP32", shape=[-1, 4])], [_RAW]), text="-1"),
    BadCall("shape_huge", _call([Tensor(name="x", datatype="FP32", shape=[1, 1 << 62])], [_RAW], "identity_fp32")),
    BadCall("shape_overflowing", _call([Tensor(name="x", datatype="FP64", shape=[1 << 62, 1 << 62])], [_RAW], "identity_fp64")),
    BadCall("shape_too_long", _call([Tensor(name="x", datatype="FP32", shape=[1] * 17)], [_RAW]), text="16"),
    BadCall("batch_too_large", grpc_request("identity_fp32", np.ones((65, 1), np.float32)), text="64"),
    BadCall("batch_of_nothing", grpc_request("identity_fp32", np.ones((0, 1), np.float32))),
    BadCall("raw_short", _call([_X], [_RAW[:-1]]), text="'x'"),
    BadCall("raw_long", _call([_X], [_RAW + b"1"]), text="'x'"),
    BadCall("raw_missing", _call([_X]), text="'x'"),
    BadCall("raw_too_many", _call([_X], [_RAW, _RAW]), text="raw_input_contents"),
    BadCall("raw_and_typed", _call([Tensor(name="x", datatype="FP32", shape=[1, 4], contents=Contents(fp32_contents=[1] * 4))], [_RAW]),
            text="contents field must not be specified when using raw_input_contents for 'x' for model 'scores'"),
    BadCall("typed_short", _call([Tensor(name="x", datatype="FP32", shape=[1, 4], contents=Contents(fp32_contents=[1] * 3))]), text="'x'"),
    BadCall("typed_of_another_kind", _call([Tensor(name="x", datatype="FP32", shape=[1, 4], contents=Contents(int_contents=[1] * 4))]),
            text="'x'"),
    BadCall("typed_half", _call([Tensor(name="x", datatype="FP16", shape=[1, 1], contents=Contents(fp32_contents=[1]))], [],
                                "identity_fp16"), text="FP16"),
    BadCall("typed_over_range", _call([Tensor(name="x", datatype="INT8", shape=[1, 1], contents=Contents(int_contents=[300]))], [],
                                      "identity_int8"), text="'x'"),
    BadCall("text_length_lies", _call([Tensor(name="x", datatype="BYTES", shape=[1, 1])], [struct.pack("<I", 0xFFFFFFFF)],
                                      "identity_bytes"), text="'x'"),
    BadCall("output_unknown", grpc_request(outputs=[Request.InferRequestedOutputTensor(name="z")]), text="'z'"),
    BadCall("output_twice", grpc_request(outputs=[Request.InferRequestedOutputTensor(name="y")] * 2), text="'y'"),
    BadCall("reserved_parameter", grpc_request(parameters=_parameters(triton_x=1)), text="triton_"),
    BadCall("sequence", grpc_request(parameters=_parameters(sequence_id=7)), text="sequence"),
    BadCall("shared_memory", _call([Tensor(name="x", datatype="FP32", shape=[1, 4], parameters=_parameters(shared_memory_region="r"))]), 12,
            "shared memory"),
    BadCall("metadata_malformed", b"\xff\xff", 3, "failed to parse", "ModelMetadata"),
    BadCall("metadata_unknown", messages.ModelMetadataRequest(name="absent").SerializeToString(), 5, "unknown model", "ModelMetadata"),
    BadCall("statistics_of_no_model", messages.ModelStatisticsRequest(version="1").SerializeToString(), 3, "without a model",
            "ModelStatistics"),
    BadCall("load_unknown", messages.RepositoryModelLoadRequest(model_name="absent").SerializeToString(), 5, "failed to load 'absent'",
            "RepositoryModelLoad"),
    BadCall("load_nothing", b"", 3, "model", "RepositoryModelLoad"),
    BadCall("shared_memory_status", b"", 12, "unknown method", "SystemSharedMemoryStatus"),
]
