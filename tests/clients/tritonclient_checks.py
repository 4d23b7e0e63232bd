"""tritonclient's blocking clients, over HTTP and gRPC: what both of them can do. Usage: tritonclient_checks.py ADDRESSES http|grpc"""

import shutil
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import harness
import numpy as np
import tritonclient.grpc
import tritonclient.http
from harness import raised, same, values
from tritonclient.utils import InferenceServerException


@dataclass(frozen=True)
class Session:
    """A client, the module that it is from, and the protocol's name."""

    client: Any
    library: ModuleType
    protocol: str

    def input(self, name: str, array: Any, datatype: str, shape: Any = None) -> Any:
        tensor = self.library.InferInput(name, list(array.shape if shape is None else shape), datatype)
        if shape is None:
            return tensor.set_data_from_numpy(array)
        tensor._raw_content = tensor._raw_data = array.tobytes()
        if self.protocol == "http":
            tensor._parameters["binary_data_size"] = array.nbytes
        return tensor

    def infer(self, model: str, *inputs: Any, **options: Any) -> Any:
        return self.client.infer(model, list(inputs), **options)


FLOATS = np.array([[1.5, -2.0, 3.25, 0.0]], np.float32)


def check_health(session: Session) -> None:
    client = session.client
    assert client.is_server_live() is True
    assert client.is_server_ready() is True
    assert client.is_model_ready("mlp") is True
    assert client.is_model_ready("mlp", "1") is True
    assert client.is_model_ready("mlp", "9") is False
    assert client.is_model_ready("absent") is False


def check_server_metadata(session: Session) -> None:
    metadata = _json(session, session.client.get_server_metadata)
    assert metadata["name"] == "headrace"
    assert metadata["version"]
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(metadata["extensions"])


def check_model_metadata(session: Session) -> None:
    metadata = _json(session, session.client.get_model_metadata, "two_by_two")
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("two_by_two", ["1"], "onnxruntime_onnx")
    inputs = {tensor["name"]: (tensor["datatype"], [int(size) for size in tensor["shape"]]) for tensor in metadata["inputs"]}
    assert inputs == {"a": ("FP32", [-1, 2]), "b": ("INT64", [-1, 2, 3])}
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["doubled_a", "negated_b", "sum"]
    assert _json(session, session.client.get_model_metadata, "scaled")["versions"] == ["1", "2", "3"]


def check_model_config(session: Session) -> None:
    config = _json(session, session.client.get_model_config, "mlp")
    config = config.get("config", config)
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("mlp", "onnxruntime", 64)
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert [int(size) for size in config["input"][0]["dims"]] == [64]
    fixed = _json(session, session.client.get_model_config, "fixed")
    fixed = fixed.get("config", fixed)
    assert fixed.get("max_batch_size", 0) == 0
    assert [int(size) for size in fixed["input"][0]["dims"]] == [3]


def check_statistics(session: Session) -> None:
    def counted() -> Any:
        (statistics,) = _json(session, session.client.get_inference_statistics, "two_by_two")["model_stats"]
        return statistics

    def number(value: Any) -> int:
        return int(value or 0)

    before = counted()
    rows = np.ones((3, 2), np.float32), np.ones((3, 2, 3), np.int64)
    session.infer("two_by_two", session.input("a", rows[0], "FP32"), session.input("b", rows[1], "INT64"))
    after = counted()
    assert (after["name"], after["version"]) == ("two_by_two", "1")
    assert number(after["inference_count"]) - number(before.get("inference_count")) == 3
    assert number(after["execution_count"]) - number(before.get("execution_count")) == 1
    success = [number(one["inference_stats"].get("success", {}).get("count")) for one in (before, after)]
    assert success[1] - success[0] == 1
    assert number(after["last_inference"]) > 1_600_000_000_000
    assert number(after["inference_stats"]["compute_infer"]["ns"]) > 0
    names = {one["name"] for one in _json(session, session.client.get_inference_statistics)["model_stats"]}
    assert {"mlp", "two_by_two", "scaled"} <= names


def check_index(session: Session) -> None:
    answer = _json(session, session.client.get_model_repository_index)
    models = answer if isinstance(answer, list) else answer["models"]
    assert ("mlp", "1", "READY") in {(one["name"], one.get("version"), one.get("state")) for one in models}


def check_load_and_unload(session: Session) -> None:
    name = f"loaded_{session.protocol}"
    folder = harness.write_model(name)
    client = session.client
    assert client.is_model_ready(name) is False
    client.load_model(name)
    assert client.is_model_ready(name) is True
    x = session.input("x", np.array([[1.0, 2.0]], np.float32), "FP32")
    assert session.infer(name, x, model_version="2").as_numpy("y").tolist() == [[2.0, 4.0]]
    client.load_model(name, config='{"max_batch_size": 8, "version_policy": {"specific": {"versions": [3]}}}')
    config = _json(session, client.get_model_config, name)
    assert config.get("config", config)["max_batch_size"] == 8
    client.unload_model(name)
    assert client.is_model_ready(name) is False
    assert f"Request for unknown model: '{name}' has no available versions" in raised(lambda: session.infer(name, x)).message()
    harness.break_model(folder)
    assert f"failed to load '{name}'" in raised(lambda: client.load_model(name)).message()
    shutil.rmtree(folder)       # other servers start from the same repository
    assert "failed to load 'nowhere'" in raised(lambda: client.load_model("nowhere")).message()
    assert "failed to load 'mlp'" in raised(lambda: client.load_model("mlp", config="{")).message()
    assert "failed to load 'mlp'" in raised(lambda: client.load_model("mlp", config="{}", files={"file:1/model.onnx": b"x"})).message()
    assert client.is_model_ready("mlp") is True


def check_every_datatype(session: Session) -> None:
    for datatype in harness.NUMPY_TYPES:
        x = values(datatype)
        result = session.infer(f"identity_{datatype.lower()}", session.input("x", x, datatype))
        y = result.as_numpy("y")
        assert same(x, y), (datatype, x, y)


def check_several_inputs_and_outputs(session: Session) -> None:
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.arange(12, dtype=np.int64).reshape(2, 2, 3)
    inputs = session.input("a", a, "FP32"), session.input("b", b, "INT64")
    for order in (inputs, inputs[::-1]):
        result = session.infer("two_by_two", *order)
        assert same(result.as_numpy("doubled_a"), a + a)
        assert same(result.as_numpy("negated_b"), -b)
        assert same(result.as_numpy("sum"), np.array([3.0, 7.0], np.float32))
    requested = [session.library.InferRequestedOutput(name) for name in ("sum", "negated_b")]
    result = session.infer("two_by_two", *inputs, outputs=requested)
    response = result.get_response()
    listed = response["outputs"] if session.protocol == "http" else response.outputs
    assert [one["name"] if session.protocol == "http" else one.name for one in listed] == ["sum", "negated_b"]
    assert same(result.as_numpy("negated_b"), -b)
    assert result.as_numpy("doubled_a") is None


def check_bytes_model(session: Session) -> None:
    texts = np.array([["héllo wörld".encode()], [b"a b  c"]], np.object_)
    result = session.infer("normalise", session.input("text", texts, "BYTES"))
    assert result.as_numpy("normalised").tolist() == [["HÉLLO WÖRLD".encode()], [b"A B  C"]]
    assert result.as_numpy("words").tolist() == [[2], [3]]


def check_classification(session: Session) -> None:
    scores = np.array([[0.1, 0.9, 0.5, -1.0], [4.0, 3.0, 2.0, 1.0]], np.float32)
    result = session.infer("scores", session.input("x", scores, "FP32"), outputs=[session.library.InferRequestedOutput("y", class_count=2)])
    classes = result.as_numpy("y")
    assert classes.shape == (2, 2)
    assert classes.tolist() == [[b"0.900000:1:one", b"0.500000:2:two"], [b"4.000000:0:zero", b"3.000000:1:one"]]


def check_versions(session: Session) -> None:
    x = session.input("x", np.array([[1.0, 2.0]], np.float32), "FP32")
    asked = {"": 1.0, "1": 1.0, "2": 2.0, "3": 3.0}
    for version, factor in asked.items():
        assert session.infer("scaled", x, model_version=version).as_numpy("y").tolist() == [[factor, 2 * factor]]
    error = raised(lambda: session.infer("scaled", x, model_version="4"))
    assert "'scaled' version 4 is not found" in error.message()


def check_request_id(session: Session) -> None:
    x = session.input("x", FLOATS, "FP32")
    with_id, without = (session.infer("scores", x, request_id=given).get_response() for given in ("mine-7", ""))
    if session.protocol == "http":
        assert with_id["id"] == "mine-7"
        assert "id" not in without
    else:
        assert with_id.id == "mine-7"
        assert without.id == ""


def check_priority_and_custom_parameters_are_accepted(session: Session) -> None:
    x = session.input("x", FLOATS, "FP32")
    result = session.infer("scores", x, priority=3, parameters={"tenant": "a", "n": 1, "exact": True, "ratio": 0.5})
    assert same(result.as_numpy("y"), FLOATS)


def check_reserved_parameters_are_refused(session: Session) -> None:
    x = session.input("x", FLOATS, "FP32")
    error = raised(lambda: session.infer("scores", x, parameters={"triton_own": 1}))
    assert "triton_" in error.message()
    assert "sequence" in raised(lambda: session.infer("scores", x, sequence_id=7, sequence_start=True)).message()


def check_headers(session: Session) -> None:
    x = session.input("x", FLOATS, "FP32")
    assert same(session.infer("scores", x, headers={"x-tenant": "blue"}).as_numpy("y"), FLOATS)
    assert session.client.is_server_live(headers={"x-tenant": "blue"})


def check_timeout_parameter(session: Session) -> None:
    """In microseconds, in the queue: refused as overload, not as the client's deadline."""
    error = raised(lambda: session.infer("waits", session.input("x", np.ones(1, np.float32), "FP32"), timeout=20_000))
    assert "Request timeout expired" in error.message()
    assert error.status() == ("503" if session.protocol == "http" else "StatusCode.UNAVAILABLE")


def check_unknown_names(session: Session) -> None:
    x = session.input("x", FLOATS, "FP32")
    error = raised(lambda: session.infer("absent", x))
    assert isinstance(error, InferenceServerException)
    assert error.message().startswith("Request for unknown model: 'absent' is not found")
    assert error.status() == ("404" if session.protocol == "http" else "StatusCode.NOT_FOUND")
    for call in (session.client.get_model_metadata, session.client.get_model_config, session.client.get_inference_statistics):
        assert "Request for unknown model: 'absent' is not found" in raised(lambda call=call: call("absent")).message()
    wrong = session.input("wrong", FLOATS, "FP32")
    _refused(session, "'wrong'", lambda: session.infer("scores", wrong))
    outputs = [session.library.InferRequestedOutput("wrong")]
    _refused(session, "'wrong'", lambda: session.infer("scores", x, outputs=outputs))
    _refused(session, "'x'", lambda: session.infer("scores", x, x))


def check_wrong_tensors(session: Session) -> None:
    _refused(session, "shape", lambda: session.infer("scores", session.input("x", FLOATS[:, :3], "FP32")))
    _refused(session, "shape", lambda: session.infer("scores", session.input("x", FLOATS[0], "FP32")))
    _refused(session, "FP32", lambda: session.infer("scores", session.input("x", FLOATS.astype(np.float64), "FP64")))
    _refused(session, "'x'", lambda: session.infer("scores", session.input("x", FLOATS, "FP32", shape=(2, 4))))
    _refused(session, "64", lambda: session.infer("scores", session.input("x", np.ones((65, 4), np.float32), "FP32")))
    for shape in ((1 << 40, 1 << 40), (1, 1 << 62), (1, (1 << 63) - 1)):
        _refused(session, "", lambda shape=shape: session.infer("identity_fp32", session.input("x", FLOATS, "FP32", shape=shape)))
    _refused(session, "input", lambda: session.infer("two_by_two", session.input("a", np.ones((1, 2), np.float32), "FP32")))
    assert same(session.infer("scores", session.input("x", FLOATS, "FP32")).as_numpy("y"), FLOATS)


def check_large_tensors(session: Session) -> None:
    x = np.random.default_rng(1).standard_normal((1, 2 << 20)).astype(np.float32)
    assert same(session.infer("identity_fp32", session.input("x", x, "FP32")).as_numpy("y"), x)


def check_empty_tensors(session: Session) -> None:
    for datatype in ("FP32", "BYTES"):
        x = np.empty((1, 0), harness.NUMPY_TYPES[datatype])
        y = session.infer(f"identity_{datatype.lower()}", session.input("x", x, datatype)).as_numpy("y")
        assert (y.shape, y.dtype) == (x.shape, x.dtype)


def check_async_infer(session: Session) -> None:
    x = session.input("x", FLOATS, "FP32")
    bad = session.input("wrong", FLOATS, "FP32")
    if session.protocol == "http":
        pending = [session.client.async_infer("scores", [x]) for _ in range(8)]
        assert all(same(one.get_result().as_numpy("y"), FLOATS) for one in pending)
        assert "'wrong'" in raised(session.client.async_infer("scores", [bad]).get_result).message()
    else:
        import queue

        done: queue.Queue[Any] = queue.Queue()
        for tensor in (x, bad):
            session.client.async_infer("scores", [tensor], lambda result, error: done.put(error or result))
        first, second = done.get(timeout=10), done.get(timeout=10)
        error, result = (first, second) if isinstance(first, Exception) else (second, first)
        assert same(result.as_numpy("y"), FLOATS)
        assert "'wrong'" in error.message()


def check_not_implemented(session: Session) -> None:
    client = session.client
    codes = ("501", "StatusCode.UNIMPLEMENTED")
    for call in (client.get_system_shared_memory_status, client.get_cuda_shared_memory_status, client.unregister_system_shared_memory,
                 client.unregister_cuda_shared_memory, client.get_trace_settings):
        assert raised(call).status() in codes, call
    x = session.library.InferInput("x", [1, 4], "FP32")
    x.set_shared_memory("region", 16)
    assert "shared memory" in raised(lambda: session.infer("scores", x)).message()


def check_log_settings(session: Session) -> None:
    settings = _json(session, session.client.get_log_settings)
    assert {"log_file", "log_info", "log_verbose_level"} <= set(settings.get("settings", settings))
    session.client.update_log_settings({"log_info": True})


def _json(session: Session, call: Any, *arguments: Any) -> Any:
    return call(*arguments) if session.protocol == "http" else call(*arguments, as_json=True)


def _refused(session: Session, text: str, call: Any) -> None:
    error = raised(call)
    assert isinstance(error, InferenceServerException), error
    assert error.status() == ("400" if session.protocol == "http" else "StatusCode.INVALID_ARGUMENT"), error
    assert text in error.message(), error


def main() -> None:
    protocol = sys.argv[2]
    library = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    with library.InferenceServerClient(harness.addresses()[protocol]) as client:
        harness.run(globals(), Session(client, library, protocol))


if __name__ == "__main__":
    main()
