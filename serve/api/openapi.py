"""The OpenAPI 3.1 document of what the HTTP port answers, inference included. Pure; tests hold it against the routing table."""

from collections.abc import Iterable
from typing import Any

import serve
from serve.api.openapi_schemas import EXAMPLES, SCHEMAS
from serve.api.ports import ApiSettings

Json = dict[str, Any]

_DESCRIPTION = (
    "Open Inference Protocol (V2) over HTTP. Tensors travel as JSON or, much faster, as binary behind the JSON: "
    "see the request header `Inference-Header-Content-Length`. A version may be named by its number or by a label."
)
_TAGS = [
    {"name": "inference", "description": "Ask a model."},
    {"name": "models", "description": "What is served, and how it fares."},
    {"name": "feedback", "description": "What became true of answers; for servers that record."},
    {"name": "server", "description": "The server itself."},
    {"name": "repository", "description": "Load and unload models; only with `--model-control explicit`."},
]
# Prefix of the path, name of the parameter that it adds, and how summaries call it.
_TARGETS = (
    ("/v2/models/{model}", (), "a model"),
    ("/v2/models/{model}/versions/{version}", ("version",), "a version"),
    ("/v2/models/{model}/labels/{label}", ("label",), "a label's version"),
)
_PARAMETERS: dict[str, str] = {
    "model": "Name of the model.",
    "version": "Number of the version, or a label.",
    "label": "Label of the version, `canary` for instance.",
}


def document(settings: ApiSettings) -> Json:
    """The whole document. Errors are given once per operation, as `default`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": settings.server_name, "version": serve.__version__, "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": _TAGS,
        "paths": _paths(settings),
        "components": {"schemas": SCHEMAS},
    }


def _paths(settings: ApiSettings) -> Json:
    ready = _operation("server", "Whether every start-up model is ready", "Health")
    paths: Json = {
        "/v2": {"get": _operation("server", "Name, version and extensions", "ServerMetadata")},
        "/v2/health/live": {"get": _operation("server", "Whether the process answers", "Health")},
        "/v2/health/ready": {"get": _with_not_ready(ready, settings, "Health")},
        "/v2/models": {"get": _operation("models", "Names of all models", "ModelList")},
        "/v2/models/stats": {"get": _operation("models", "Counters of all models", "Statistics")},
        "/v2/repository/index": {"post": _operation("repository", "Every version and its state", "Index", body="IndexRequest")},
        "/v2/repository/models/{model}/load": {
            "post": _operation("repository", "Load a model, or load it again", None, body="LoadRequest", path=("model",))},
        "/v2/repository/models/{model}/unload": {
            "post": _operation("repository", "Finish a model's requests and unload it", None, body="UnloadRequest", path=("model",))},
        "/v2/logging": {
            "get": _operation("server", "Log settings", "LogSettings"),
            "post": _operation("server", "Change log settings", "LogSettings", body="LogSettingsChange")},
        "/v2/openapi.json": {"get": _operation("server", "This document", "AnyObject")},
        "/v2/docs": {"get": _docs_operation()},
    }
    paths["/v2/models/{model}/feedback"] = {"post": _feedback_operation()}
    for base, names, what in _TARGETS:
        paths |= _model_paths(base, ("model", *names), what, settings)
    return paths


def _model_paths(base: str, path: tuple[str, ...], what: str, settings: ApiSettings) -> Json:
    ready = _operation("models", f"Whether {what} is ready", "ModelReady", path=path)
    return {
        base: {"get": _operation("models", f"Inputs and outputs of {what}", "ModelMetadata", path=path)},
        base + "/ready": {"get": _with_not_ready(ready, settings, "ModelReady")},
        base + "/config": {"get": _operation("models", f"Configuration of {what}", "ModelConfig", path=path)},
        base + "/stats": {"get": _operation("models", f"Counters of {what}", "Statistics", path=path)},
        base + "/infer": {"post": _infer_operation(path, what)},
    }


def _operation(tag: str, summary: str, answer: str | None, *, body: str | None = None, path: Iterable[str] = ()) -> Json:
    """One operation. answer: name of the schema of the 200 answer, None for an empty one."""
    operation: Json = {"tags": [tag], "summary": summary, "responses": {
        "200": {"description": "Success", **({"content": _json(answer)} if answer else {})},
        "default": {"description": "Failure; the status says whose", "content": _json("Error")},
    }}
    if parameters := [_path_parameter(name) for name in path]:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"content": _json(body)}
    return operation


def _infer_operation(path: tuple[str, ...], what: str) -> Json:
    operation = _operation("inference", f"Infer with {what}", "InferResponse", body="InferRequest", path=path)
    operation["parameters"] += [
        _header("Inference-Header-Content-Length", {"type": "integer", "minimum": 0},
                "Length in bytes of the JSON at the start of the body; the tensors' bytes follow. Absent: the whole body is JSON."),
        _header("x-request-id", {"type": "string"}, "Name of this request in logs and records, where the body has no `id`."),
        _header("x-request-timeout-ms", {"type": "integer", "minimum": 1}, "Deadline; a request that cannot meet it is refused with 504."),
    ]
    binary = {"schema": {"type": "string", "format": "binary"}}
    operation["requestBody"]["required"] = True
    operation["requestBody"]["content"]["application/octet-stream"] = binary
    operation["responses"]["200"]["content"]["application/octet-stream"] = binary
    return operation


def _feedback_operation() -> Json:
    operation = _operation("feedback", "Labels and rewards of answers that were given before", None, body="Feedback", path=("model",))
    durable = "Answer when the disk has it, not only the journal."
    operation["parameters"].append({
        "name": "durable", "in": "query", "required": False, "description": durable, "schema": {"type": "boolean", "default": False}})
    operation["requestBody"]["required"] = True
    operation["responses"] |= {
        "202": {"description": "All items are kept", "content": _json("FeedbackAccepted")},
        "409": {"description": "This server records nothing", "content": _json("Error")},
        "503": {"description": "Nothing was kept: the journal cannot be appended to", "content": _json("Error")},
    }
    del operation["responses"]["200"]
    return operation


def _docs_operation() -> Json:
    operation = _operation("server", "This document as a page", None)
    operation["responses"]["200"]["content"] = {"text/html": {"schema": {"type": "string"}}}
    return operation


def _with_not_ready(operation: Json, settings: ApiSettings, answer: str) -> Json:
    operation["responses"][str(settings.not_ready_status)] = {"description": "Not ready", "content": _json(answer)}
    return operation


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": _PARAMETERS[name], "schema": {"type": "string"}}


def _header(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _json(schema: str) -> Json:
    content: Json = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if schema in EXAMPLES:
        content["example"] = EXAMPLES[schema]
    return {"application/json": content}
