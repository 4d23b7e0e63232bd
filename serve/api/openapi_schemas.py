"""Schemas (JSON Schema 2020-12, as OpenAPI 3.1 wants them) and examples of the bodies on the HTTP port.

A model's configuration is left open: its full shape is `inference.ModelConfig`, which gRPC server reflection tells.
"""

from typing import Any, Final

from serve.api.json_shapes import DURATIONS
from serve.types import VersionState

Json = dict[str, Any]

DATATYPES: Final = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES",
)


def _object(properties: Json, required: tuple[str, ...] | None = None, *, is_open: bool = False, description: str = "") -> Json:
    """An object whose properties are all required unless told otherwise."""
    names = tuple(properties) if required is None else required
    return {
        "type": "object", "properties": properties,
        **({"required": list(names)} if names else {}),
        **({} if is_open else {"additionalProperties": False}),
        **({"description": description} if description else {}),
    }


def _array(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _text(description: str = "") -> Json:
    return {"type": "string", **({"description": description} if description else {})}


_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_FLAG: Final[Json] = {"type": "boolean"}
_DATATYPE: Final[Json] = {"type": "string", "enum": list(DATATYPES)}
_SHAPE: Final[Json] = _array({"type": "integer", "minimum": 0})
_DATA: Final[Json] = {"type": "array", "items": {}, "description": "Elements in row-major order, flat or nested as the shape is."}
_PARAMETERS: Final[Json] = {"type": "object", "additionalProperties": {"type": ["boolean", "integer", "number", "string"]}}
_LOG_SETTINGS: Final[Json] = {
    "log_file": _text("Always empty: where logs go is chosen at start."),
    "log_info": _FLAG, "log_warning": _FLAG, "log_error": _FLAG,
    "log_verbose_level": {**_COUNT, "description": "0 none, 1 debug records, 2 everything"},
    "log_format": {"type": "string", "enum": ["default", "ISO8601"]},
}

_SERVER: Final[Json] = {
    "Error": _object({"error": _text("What is wrong, the limit, and what to do.")}),
    "ServerMetadata": _object({"name": _text(), "version": _text(), "extensions": _array(_text())}),
    "Health": _object({"name": _text(), "live": _FLAG, "ready": _FLAG}),
    "LogSettings": _object(_LOG_SETTINGS),
    "LogSettingsChange": _object(_LOG_SETTINGS, (), description="What is absent stays as it is."),
    "AnyObject": {"type": "object"},
}

_MODELS: Final[Json] = {
    "ModelList": _object({"models": _array(_text())}),
    "TensorMetadata": _object({
        "name": _text(), "datatype": _DATATYPE,
        "shape": _array({"type": "integer", "minimum": -1}, description="-1 is a dimension of any size; the batch comes first.")}),
    "ModelMetadata": _object({
        "name": _text(), "versions": _array(_text()), "platform": _text(),
        "inputs": _array(_ref("TensorMetadata")), "outputs": _array(_ref("TensorMetadata")),
        "headrace": _object({
            "version": _text("The one described."), "digest": _text("SHA-256 over its files."),
            "provenance": {"type": "object", "additionalProperties": _text(), "description": "Where it comes from, by model.yaml."}})},
        ("name", "versions", "platform", "inputs", "outputs")),
    "ModelReady": _object({"name": _text(), "ready": _FLAG}),
    "ModelConfig": _object({"name": _text(), "max_batch_size": _COUNT}, is_open=True, description="`inference.ModelConfig` as JSON."),
    "Duration": _object({"count": _COUNT, "ns": {**_COUNT, "description": "Nanoseconds, all together."}}),
    "BatchStatistics": _object({
        "batch_size": _COUNT, **{name: _ref("Duration") for name in ("compute_input", "compute_infer", "compute_output")}}),
    "VersionStatistics": _object({
        "name": _text(), "version": _text(),
        "last_inference": {**_COUNT, "description": "Milliseconds since the epoch."},
        "inference_count": {**_COUNT, "description": "Rows."},
        "execution_count": {**_COUNT, "description": "Runs of the model."},
        "inference_stats": _object({name: _ref("Duration") for name in DURATIONS}),
        "response_stats": _ref("AnyObject"),
        "batch_stats": _array(_ref("BatchStatistics")),
        "memory_usage": _array(_ref("AnyObject"))}),
    "Statistics": _object({"model_stats": _array(_ref("VersionStatistics"))}),
}

_REPOSITORY: Final[Json] = {
    "IndexRequest": _object({"ready": {**_FLAG, "description": "Only what is ready."}}, ()),
    "IndexEntry": _object({
        "name": _text(), "version": _text(), "state": {"type": "string", "enum": [str(state) for state in VersionState]},
        "reason": _text("Why it is not ready.")}, ("name", "state")),
    "Index": _array(_ref("IndexEntry")),
    "LoadRequest": _object({"parameters": _object({
        "config": _text("A model configuration, JSON in a string, instead of the file's.")}, ())}, ()),
    "UnloadRequest": _object({"parameters": _object({"unload_dependents": _FLAG}, ())}, ()),
}

_INFERENCE: Final[Json] = {
    "InferInput": _object({
        "name": _text(), "shape": _SHAPE, "datatype": _DATATYPE, "data": _DATA,
        "parameters": {**_PARAMETERS, "description": "`binary_data_size`: bytes of this tensor behind the JSON, instead of `data`."},
    }, ("name", "shape", "datatype")),
    "RequestedOutput": _object({
        "name": _text(), "parameters": {**_PARAMETERS, "description": "`binary_data`, or `classification`: the k best classes."},
    }, ("name",)),
    "InferRequest": _object({
        "id": _text("Comes back in the answer."),
        "parameters": {**_PARAMETERS, "description": "`timeout` in microseconds; `binary_data_output` for all outputs."},
        "inputs": _array(_ref("InferInput"), minItems=1),
        "outputs": _array(_ref("RequestedOutput"), description="Absent: all of them."),
    }, ("inputs",)),
    "InferOutput": _object(
        {"name": _text(), "shape": _SHAPE, "datatype": _DATATYPE, "data": _DATA, "parameters": _PARAMETERS}, ("name", "shape", "datatype")),
    "InferResponse": _object({
        "id": _text(), "model_name": _text(), "model_version": _text(), "parameters": _PARAMETERS, "outputs": _array(_ref("InferOutput")),
    }, ("model_name", "model_version", "outputs")),
}

_FEEDBACK_ITEM: Final[Json] = {
    "request_id": _text("Of the request: its `id`, or `x-request-id` of its answer."),
    "row": {**_COUNT, "description": "Of the answer; default 0."},
    "label": {"type": ["number", "string", "boolean"], "description": "The truth. Give this or `reward`."},
    "reward": {"type": "number", "description": "What the answer was worth."},
    "name": _text("Of the label or reward; default `label`, `reward`."),
    "time": {"type": ["string", "integer"], "description": "When it was known: RFC 3339 with its zone, or nanoseconds since 1970."},
}

_FEEDBACK: Final[Json] = {
    "FeedbackItem": _object(_FEEDBACK_ITEM, ("request_id",)),
    "Feedback": _object({
        "feedback": _array(_ref("FeedbackItem"), minItems=1, maxItems=10_000, description="All of them are kept, or none."),
        **_FEEDBACK_ITEM,
    }, (), description="One item, or `feedback` alone with many."),
    "FeedbackAccepted": _object({"accepted": {**_COUNT, "description": "Items that are kept."}}),
}

SCHEMAS: Final[Json] = {**_INFERENCE, **_FEEDBACK, **_MODELS, **_REPOSITORY, **_SERVER}

EXAMPLES: Final[Json] = {
    "InferRequest": {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]},
    "InferResponse": {
        "model_name": "iris", "model_version": "1", "outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [0]}]},
    "Feedback": {"feedback": [{"request_id": "01890a5d-ac96-774b-bcce-b302099a8057", "row": 0, "label": 7}]},
    "FeedbackAccepted": {"accepted": 1},
    "IndexRequest": {"ready": False},
    "LoadRequest": {},
    "UnloadRequest": {},
    "LogSettingsChange": {"log_verbose_level": 1},
    "Error": {"error": "Request for unknown model: 'iris' is not found"},
}
