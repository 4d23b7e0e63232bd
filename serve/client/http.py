"""The client over HTTP/1.1 with keep-alive; tensors travel in binary. Paths and payloads: Open Inference Protocol, HTTP/REST.

One Client is one connection: use one for each thread.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from serve.client.connection import ClientError, Connected, Connection
from serve.client.tensors import Array, datatype_of, from_bytes, from_json, to_bytes
from serve.types import IndexEntry, VersionState

_JSON_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class InferResult:
    """outputs: name to array, in the server's order. headers: of the answer, names in lower case."""

    model_name: str
    model_version: str
    outputs: Mapping[str, Array]
    headers: Mapping[str, str]
    id: str = ""


class Client(Connected):
    """`with Client("http://127.0.0.1:8000") as client: client.infer("digits", {"input": rows})`. Every method raises ClientError."""

    def __init__(self, url: str = "http://127.0.0.1:8000", timeout_s: float = 60.0) -> None:
        self._connection = Connection(url, timeout_s, 8000)

    def infer(
        self, model: str, inputs: Mapping[str, Array], version: str | None = None, outputs: Sequence[str] | None = None,
    ) -> InferResult:
        """Inputs of any shape and dtype that OIP knows; version may be a label; outputs: those wanted, all unless given."""
        request: dict[str, Any] = {"inputs": []}
        blobs = []
        for name, array in inputs.items():
            blobs.append(to_bytes(array))
            request["inputs"].append({"name": name, "shape": list(array.shape), "datatype": datatype_of(array),
                                      "parameters": {"binary_data_size": len(blobs[-1])}})
        if outputs is None:
            request["parameters"] = {"binary_data_output": True}
        else:
            request["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        head = json.dumps(request).encode()
        answer, headers = self._call("POST", f"{_model_path(model, version)}/infer", head + b"".join(blobs),
                                     {_JSON_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"})
        try:
            return _result(answer, headers)
        except (KeyError, TypeError, ValueError) as error:
            raise ClientError(200, f"the answer is not in the protocol's form: {error!r}") from error

    def metadata(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """What the server tells about a model, or about itself."""
        return dict(self._json("GET", "/v2" if model is None else _model_path(model, version)))

    def is_ready(self, model: str | None = None, version: str | None = None) -> bool:
        path = "/v2/health/ready" if model is None else f"{_model_path(model, version)}/ready"
        try:
            self._call("GET", path)
        except ClientError as error:
            if error.status in (400, 404, 503):
                return False
            raise
        return True

    def index(self, ready: bool = False) -> list[IndexEntry]:
        """All model versions that the server knows; with `ready`, those that answer."""
        entries = self._json("POST", "/v2/repository/index", {"ready": True} if ready else {})
        return [IndexEntry(e["name"], e.get("version", ""), VersionState(e.get("state", "UNKNOWN")), e.get("reason", "")) for e in entries]

    def digests(self, index: Sequence[IndexEntry]) -> dict[tuple[str, str], str]:
        """(model, version) -> digest of its files, for the entries that are ready; without those that the server does not tell."""
        found = {}
        for entry in index:
            if entry.state is VersionState.READY:
                with contextlib.suppress(ClientError, KeyError):        # it may have been unloaded meanwhile
                    found[entry.name, entry.version] = str(self.metadata(entry.name, entry.version)["headrace"]["digest"])
        return found

    def load(self, model: str) -> None:
        self._call("POST", f"/v2/repository/models/{quote(model, safe='')}/load", b"{}")

    def unload(self, model: str) -> None:
        self._call("POST", f"/v2/repository/models/{quote(model, safe='')}/unload", b"{}")

    def feedback(
        self, model: str, request_id: str, label: float | str | bool | None = None, *, reward: float | None = None, row: int = 0,
        name: str = "", time: str | int | None = None, durable: bool = False,
    ) -> None:
        """What became true of one answer, or what it was worth. request_id: `id` of the request, or `x-request-id` of the answer's headers.

        time: when it was known: RFC 3339 with its zone, or nanoseconds since 1970. durable: the server's disk has it when this returns.
        """
        given = {"label": label, "reward": reward, "row": row or None, "name": name or None, "time": time}
        item = {key: value for key, value in given.items() if value is not None}
        self.feedback_items(model, [{"request_id": request_id, **item}], durable=durable)

    def feedback_items(self, model: str, items: Sequence[Mapping[str, Any]], *, durable: bool = False) -> int:
        """At most 10,000 items with the keys of `feedback`; all of them are kept, or none. Returns how many."""
        path = f"{_model_path(model, None)}/feedback" + ("?durable=true" if durable else "")
        return int(self._json("POST", path, {"feedback": [_plain(item) for item in items]})["accepted"])

    def _json(self, method: str, path: str, body: object = None) -> Any:
        answer, _ = self._call(method, path, None if body is None else json.dumps(body).encode())
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ClientError(200, f"{path} answered with something that is no JSON: {error}") from error

    def _call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, dict[str, str]]:
        answer = self._connection.ask(method, path, body, headers or {})
        if not 200 <= answer.status < 300:
            raise ClientError(answer.status, _error_text(answer.content, answer.reason))
        return answer.content, dict(answer.headers)


def _model_path(model: str, version: str | None) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """numpy's numbers as Python's."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in item.items()}


def _error_text(content: bytes, reason: str) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content.decode("utf-8", "replace").strip() or reason


def _result(answer: bytes, headers: dict[str, str]) -> InferResult:
    json_length = int(headers.get(_JSON_LENGTH.lower(), len(answer)))
    head = json.loads(answer[:json_length])
    outputs: dict[str, Array] = {}
    at = json_length
    for output in head["outputs"]:
        if "data" in output:
            outputs[output["name"]] = from_json(output["datatype"], output["shape"], output["data"])
            continue
        end = at + int(output["parameters"]["binary_data_size"])
        outputs[output["name"]] = from_bytes(output["datatype"], output["shape"], answer[at:end])
        at = end
    if at != len(answer):
        raise ValueError(f"{len(answer)} bytes where the outputs end at {at}")
    return InferResult(head["model_name"], str(head.get("model_version", "")), outputs, headers, head.get("id", ""))
