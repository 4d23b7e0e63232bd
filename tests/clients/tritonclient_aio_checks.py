"""tritonclient's asyncio clients, over HTTP and gRPC. Usage: tritonclient_aio_checks.py ADDRESSES http|grpc"""

import asyncio
import shutil
import sys
from types import ModuleType
from typing import Any

import harness
import numpy as np
import tritonclient.grpc.aio
import tritonclient.http.aio
from harness import raised_by, same, values

FLOATS = np.array([[1.5, -2.0, 3.25, 0.0]], np.float32)


class Session:
    """Makes a client inside each check's event loop."""

    def __init__(self, library: ModuleType, protocol: str) -> None:
        self.library, self.protocol = library, protocol

    def client(self) -> Any:
        return self.library.InferenceServerClient(harness.addresses()[self.protocol])

    def input(self, array: Any, datatype: str = "FP32", name: str = "x") -> Any:
        return self.library.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


async def check_health_and_metadata(session: Session) -> None:
    async with session.client() as client:
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("mlp") is True
        assert await client.is_model_ready("absent") is False
        for call in (client.get_server_metadata, client.get_model_repository_index, client.get_log_settings):
            assert await call(), call
        for call in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
            assert await call("mlp"), call


async def check_load_and_unload(session: Session) -> None:
    name = f"loaded_aio_{session.protocol}"
    folder = harness.write_model(name)
    async with session.client() as client:
        await client.load_model(name)
        assert await client.is_model_ready(name) is True
        await client.unload_model(name)
        assert await client.is_model_ready(name) is False
        harness.break_model(folder)
        assert f"failed to load '{name}'" in (await raised_by(client.load_model(name))).message()
        shutil.rmtree(folder)       # other servers start from the same repository


async def check_every_datatype(session: Session) -> None:
    async with session.client() as client:
        for datatype in harness.NUMPY_TYPES:
            x = values(datatype)
            y = (await client.infer(f"identity_{datatype.lower()}", [session.input(x, datatype)])).as_numpy("y")
            assert same(x, y), datatype


async def check_many_at_once(session: Session) -> None:
    arrays = [np.full((1, 64), value, np.float32) for value in range(200)]
    async with session.client() as client:
        results = await asyncio.gather(*(client.infer("identity_fp32", [session.input(array)]) for array in arrays))
    assert all(same(result.as_numpy("y"), array) for result, array in zip(results, arrays, strict=True))


async def check_errors(session: Session) -> None:
    async with session.client() as client:
        error = await raised_by(client.infer("absent", [session.input(FLOATS)]))
        assert error.message().startswith("Request for unknown model: 'absent' is not found")
        assert "shape" in (await raised_by(client.infer("scores", [session.input(FLOATS[:, :3])]))).message()
        expired = await raised_by(client.infer("waits", [session.input(np.ones(1, np.float32))], timeout=20_000))
        assert "timeout expired" in expired.message()
        assert same((await client.infer("scores", [session.input(FLOATS)])).as_numpy("y"), FLOATS)


async def check_cancelled_infer(session: Session) -> None:
    """A task that is cancelled takes its queued request with it."""
    def infer(client: Any, value: float) -> Any:
        return client.infer("waits", [session.input(np.full(1, value, np.float32))])

    async with session.client() as client:
        task = asyncio.create_task(infer(client, 1))
        assert not (await asyncio.wait({task}, timeout=0.2))[0]
        task.cancel()
        await asyncio.wait({task})
        results = await asyncio.gather(infer(client, 5), infer(client, 6))
        assert [result.as_numpy("y").tolist() for result in results] == [[5.0], [6.0]]


async def check_compression(session: Session) -> None:
    x = harness.packable()
    options: list[dict[str, str]] = [{"compression_algorithm": name} for name in ("gzip", "deflate")]
    if session.protocol == "http":
        options = [{"request_compression_algorithm": one, "response_compression_algorithm": two}
                   for one, two in (("gzip", "deflate"), ("deflate", "gzip"))]
    async with session.client() as client:
        for chosen in options:
            assert same((await client.infer("identity_fp32", [session.input(x)], **chosen)).as_numpy("y"), x), chosen


async def check_only_grpc_stream(session: Session) -> None:
    async def requests() -> Any:
        for value in range(20):
            yield {"model_name": "scores", "inputs": [session.input(np.full((1, 4), value, np.float32))], "request_id": str(value)}
        yield {"model_name": "absent", "inputs": [session.input(FLOATS)]}

    async with session.client() as client:
        answers = [answer async for answer in client.stream_infer(requests())]
    assert [result.get_response().id for result, _ in answers[:20]] == [str(value) for value in range(20)]
    assert [result.as_numpy("y")[0, 0] for result, _ in answers[:20]] == list(range(20))
    assert answers[20][1].message().startswith("Request for unknown model: 'absent' is not found")


if __name__ == "__main__":
    protocol = sys.argv[2]
    harness.run(globals(), Session({"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}[protocol], protocol))
