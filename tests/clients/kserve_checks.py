"""kserve's InferenceRESTClient and InferenceGRPCClient. Usage: kserve_checks.py ADDRESSES rest|grpc"""

import logging
import sys
from typing import Any

import grpc
import harness
import httpx
import numpy as np
from harness import raised_by, same, values
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.grpc.grpc_predict_v2_pb2 import RepositoryModelLoadRequest, RepositoryModelUnloadRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve.protocol.infer_type import RequestedOutput

FLOATS = np.array([[1.5, -2.0, 3.25, 0.0]], np.float32)
# kserve's codec knows no BF16.
DATATYPES = [name for name in harness.NUMPY_TYPES if name != "BF16"]


class Rest:
    """The REST client behind the gRPC client's methods."""

    def __init__(self) -> None:
        self.base = f"http://{harness.addresses()['http']}"

    async def __aenter__(self) -> Any:
        self.client = InferenceRESTClient(RESTConfig(protocol="v2"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def is_server_live(self) -> Any:
        return await self.client.is_server_live(self.base)

    async def is_server_ready(self) -> Any:
        return await self.client.is_server_ready(self.base)

    async def is_model_ready(self, model: str) -> Any:
        return await self.client.is_model_ready(self.base, model)

    async def infer(self, request: InferRequest, **options: Any) -> Any:
        return await self.client.infer(self.base, request, model_name=request.model_name, **options)


def make_rest() -> Any:
    return Rest()


def make_grpc() -> Any:
    return InferenceGRPCClient(harness.addresses()["grpc"])


def _request(model: str, array: Any, datatype: str = "FP32", *, name: str = "x", binary: bool = True, **options: Any) -> InferRequest:
    tensor = InferInput(name, list(array.shape), datatype, parameters={})
    tensor.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model, [tensor], **options)


async def check_health(make: Any) -> None:
    async with make() as client:
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("mlp") is True
        assert await client.is_model_ready("absent") is False


async def check_every_datatype(make: Any) -> None:
    async with make() as client:
        for datatype in DATATYPES:
            x = values(datatype)
            options = {"parameters": {"binary_data_output": True}} if make is make_rest else {}
            if datatype == "BYTES" and make is make_rest:
                x = np.array([[b"", b"a", b"b c"]], np.object_)       # its REST client turns every answer into text
            response = await client.infer(_request(f"identity_{datatype.lower()}", x, datatype, **options))
            y = response.outputs[0].as_numpy()
            if datatype == "BYTES" and make is make_rest:
                y = np.vectorize(str.encode, otypes=[object])(y)
            assert same(x, y.reshape(x.shape)), (datatype, x, y)


async def check_data_that_is_not_binary(make: Any) -> None:
    """JSON over REST, typed contents over gRPC."""
    async with make() as client:
        for datatype in [name for name in DATATYPES if name not in ("FP16", "BYTES")]:
            x = np.array([[0, 1, 1]]).astype(harness.NUMPY_TYPES[datatype])
            response = await client.infer(_request(f"identity_{datatype.lower()}", x, datatype, binary=False))
            assert same(x, response.outputs[0].as_numpy().reshape(x.shape)), datatype
        response = await client.infer(InferRequest("normalise", [InferInput("text", [1, 1], "BYTES", data=["schön so"])]))
        text = response.outputs[0].as_numpy().ravel()[0]
        assert (text.decode() if isinstance(text, bytes) else text) == "SCHÖN SO"
        assert response.outputs[1].as_numpy().tolist() == [[2]]


async def check_names_ids_and_requested_outputs(make: Any) -> None:
    a, b = InferInput("a", [1, 2], "FP32", parameters={}), InferInput("b", [1, 2, 3], "INT64", parameters={})
    a.set_data_from_numpy(np.array([[1.0, 2.0]], np.float32))
    b.set_data_from_numpy(np.arange(6, dtype=np.int64).reshape(1, 2, 3))
    async with make() as client:
        response = await client.infer(InferRequest("two_by_two", [a, b], request_id="mine", request_outputs=[RequestedOutput("sum")]))
    assert (response.model_name, response.id) == ("two_by_two", "mine")
    assert [output.name for output in response.outputs] == ["sum"]
    assert response.outputs[0].as_numpy().tolist() == [3.0]


async def check_errors(make: Any) -> None:
    async with make() as client:
        unknown = await raised_by(client.infer(_request("absent", FLOATS)))
        shape = await raised_by(client.infer(_request("scores", FLOATS[:, :3])))
    if make is make_rest:
        assert isinstance(unknown, httpx.HTTPStatusError)
        assert (unknown.response.status_code, shape.response.status_code) == (404, 400)
        assert "Request for unknown model: 'absent' is not found" in str(unknown)
        assert "shape" in str(shape)
    else:
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        assert unknown.details().startswith("Request for unknown model: 'absent' is not found")
        assert shape.code() is grpc.StatusCode.INVALID_ARGUMENT


async def check_timeouts(make: Any) -> None:
    async with make() as client:
        error = await raised_by(client.infer(_request("waits", np.ones(1, np.float32)), timeout=0.2))
        expired = await raised_by(client.infer(_request("waits", np.ones(1, np.float32), parameters={"timeout": 20_000})))
    if make is make_rest:
        assert isinstance(error, httpx.TimeoutException)
        assert expired.response.status_code == 503
    else:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert expired.code() is grpc.StatusCode.UNAVAILABLE


async def check_only_grpc_load_and_unload(make: Any) -> None:
    """kserve's messages have the model's name where Triton's have the repository's."""
    harness.write_model("loaded_kserve")
    async with make() as client:
        stub = GRPCInferenceServiceStub(client._channel)
        await stub.RepositoryModelLoad(RepositoryModelLoadRequest(model_name="loaded_kserve"))
        assert await client.is_model_ready("loaded_kserve") is True
        await stub.RepositoryModelUnload(RepositoryModelUnloadRequest(model_name="loaded_kserve"))
        assert await client.is_model_ready("loaded_kserve") is False


if __name__ == "__main__":
    logging.disable(logging.ERROR)      # it logs every error that it raises
    harness.run(globals(), {"rest": make_rest, "grpc": make_grpc}[sys.argv[2]])
