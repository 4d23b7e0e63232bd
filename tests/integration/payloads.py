"""Requests that tests send as bytes, and what they expect back."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.protocol import messages

FLOATS = np.array([[1.5, -2.0, 3.25, 0.0]], np.float32)
INFER = "/v2/models/scores/infer"


def json_request(array: NDArray[Any] = FLOATS, datatype: str = "FP32", name: str = "x", **fields: Any) -> bytes:
    """An inference with its data in the JSON."""
    tensor = {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def binary_request(array: NDArray[Any] = FLOATS, datatype: str = "FP32", name: str = "x") -> tuple[bytes, dict[str, str]]:
    """An inference with its data behind the JSON, in and out: body and headers."""
    tensor = {"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": {"binary_data_size": array.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), {"inference-header-content-length": str(len(head))}


def grpc_request(model: str = "scores", array: NDArray[Any] = FLOATS, datatype: str = "FP32", name: str = "x", **fields: Any) -> bytes:
    """A ModelInferRequest."""
    tensor = messages.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=list(array.shape))
    request = messages.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()], **fields)
    return request.SerializeToString()


def grpc_answer(message: bytes) -> bytes:
    """The one tensor of a ModelInferResponse."""
    (content,) = messages.ModelInferResponse.FromString(message).raw_output_contents
    return content
