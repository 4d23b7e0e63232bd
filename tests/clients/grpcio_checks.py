"""Plain grpcio stubs, generated from protos/ by whoever starts this. Usage: grpcio_checks.py ADDRESSES (with "stubs": their folder)"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import harness
import numpy as np
from harness import raised
from numpy.typing import NDArray

sys.path.insert(0, harness.addresses()["stubs"])

import health_pb2
import health_pb2_grpc
import model_config_pb2
import open_inference_pb2 as oip
import open_inference_pb2_grpc as oip_grpc
import reflection_pb2
import reflection_pb2_grpc

Stub = oip_grpc.GRPCInferenceServiceStub
FLOATS = np.array([[1.5, -2.0, 3.25, 0.0]], np.float32)


@contextlib.contextmanager
def _channel(*options: tuple[str, Any]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(harness.addresses()["grpc"], options=[*options, ("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


@contextlib.contextmanager
def _stub(*options: tuple[str, Any]) -> Iterator[Any]:
    with _channel(*options) as channel:
        yield Stub(channel)


def _request(model: str, array: NDArray[Any], datatype: str = "FP32", name: str = "x", **fields: Any) -> Any:
    tensor = oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=array.shape)
    return oip.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()], **fields)


def _slow(trips: int) -> Any:
    return _request("slow", np.array([trips], np.int64), "INT64", "trips")


def _statistics(stub: Any, model: str) -> Any:
    (statistics,) = stub.ModelStatistics(oip.ModelStatisticsRequest(name=model)).model_stats
    return statistics


def check_every_method() -> None:
    harness.write_model("loaded_raw")
    with _stub() as stub:
        assert stub.ServerLive(oip.ServerLiveRequest()).live
        assert stub.ServerReady(oip.ServerReadyRequest()).ready
        assert stub.ModelReady(oip.ModelReadyRequest(name="mlp")).ready
        assert not stub.ModelReady(oip.ModelReadyRequest(name="absent")).ready
        assert stub.ServerMetadata(oip.ServerMetadataRequest()).name == "headrace"
        assert stub.ModelMetadata(oip.ModelMetadataRequest(name="mlp")).inputs[0].shape == [-1, 64]
        config = stub.ModelConfig(oip.ModelConfigRequest(name="mlp")).config
        assert (config.max_batch_size, config.input[0].data_type) == (64, model_config_pb2.TYPE_FP32)
        assert stub.ModelInfer(_request("scores", FLOATS)).raw_output_contents[0] == FLOATS.tobytes()
        assert _statistics(stub, "scores").inference_stats.success.count > 0
        assert any(one.name == "mlp" for one in stub.RepositoryIndex(oip.RepositoryIndexRequest()).models)
        stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="loaded_raw"))
        stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="loaded_raw"))
        assert "log_info" in stub.LogSettings(oip.LogSettingsRequest()).settings
        (answer,) = stub.ModelStreamInfer(iter([_request("scores", FLOATS)]))
        assert answer.infer_response.raw_output_contents[0] == FLOATS.tobytes()


def check_typed_contents() -> None:
    fields = {"BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
              "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
              "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}
    with _stub() as stub:
        for datatype, field in fields.items():
            x = harness.values(datatype)
            contents = oip.InferTensorContents(**{field: x.ravel().tolist()})
            tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=x.shape, contents=contents)
            answer = stub.ModelInfer(oip.ModelInferRequest(model_name=f"identity_{datatype.lower()}", inputs=[tensor]))
            raw = b"".join(len(one).to_bytes(4, "little") + one for one in x.ravel()) if datatype == "BYTES" else x.tobytes()
            assert answer.raw_output_contents[0] == raw, datatype
            assert list(answer.outputs[0].shape) == [2, 3]
            assert answer.outputs[0].datatype == datatype


def check_typed_and_raw_together_are_refused() -> None:
    request = _request("scores", FLOATS)
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    with _stub() as stub:
        error = raised(lambda: stub.ModelInfer(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "contents field must not be specified when using raw_input_contents for 'x' for model 'scores'"


def check_labels_and_versions() -> None:
    x = np.ones((1, 2), np.float32)
    with _stub() as stub:
        for version, factor, number in (("", 1, "1"), ("2", 2, "2"), ("canary", 3, "3"), ("stable", 1, "1")):
            answer, call = stub.ModelInfer.with_call(_request("scaled", x, model_version=version))
            assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [factor, factor]
            assert (answer.model_version, dict(call.initial_metadata())["x-headrace-version"]) == (number, number)
        error = raised(lambda: stub.ModelInfer(_request("scaled", x, model_version="nope")))
        assert error.code() is grpc.StatusCode.NOT_FOUND


def check_metadata() -> None:
    with _stub() as stub:
        _, call = stub.ModelInfer.with_call(_request("scores", FLOATS), metadata=[("x-request-id", "abc-1"), ("x-bin-bin", b"\x00\xff")])
        assert dict(call.initial_metadata())["x-request-id"] == "abc-1"
        _, call = stub.ServerReady.with_call(oip.ServerReadyRequest(), metadata=[("x-request-id", "abc-2")])
        assert dict(call.initial_metadata())["x-request-id"] == "abc-2"
        ids = {dict(stub.ModelInfer.with_call(_request("scores", FLOATS))[1].initial_metadata())["x-request-id"] for _ in range(20)}
        assert len(ids) == 20


def check_deadlines() -> None:
    with _stub() as stub:
        started = time.monotonic()
        error = raised(lambda: stub.ModelInfer(_request("waits", np.ones(1, np.float32)), timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.1 < time.monotonic() - started < 5


def check_cancelled_call_that_is_queued_never_runs() -> None:
    with _stub() as stub:
        before = _statistics(stub, "waits")
        call = stub.ModelInfer.future(_request("waits", np.ones(1, np.float32)))
        call.cancel()
        pair = [stub.ModelInfer.future(_request("waits", np.full(1, value, np.float32))) for value in (5, 6)]
        assert [np.frombuffer(one.result(timeout=10).raw_output_contents[0], np.float32)[0] for one in pair] == [5, 6]
        after = _statistics(stub, "waits")
    assert after.inference_count - before.inference_count == 2
    assert after.execution_count - before.execution_count == 1


def check_cancelled_calls_behind_a_running_one_never_run() -> None:
    with _stub() as stub:
        stub.ModelInfer(_slow(100))
        started = time.monotonic()
        stub.ModelInfer(_slow(1000))
        trips = int(1000 / (time.monotonic() - started))        # about a second
        before = _statistics(stub, "slow")
        running = stub.ModelInfer.future(_slow(trips))
        queued = [stub.ModelInfer.future(_slow(trips)) for _ in range(4)]
        # Answered by the same I/O thread behind them: they have arrived.
        assert stub.ServerLive(oip.ServerLiveRequest()).live
        for call in queued:
            call.cancel()
        assert running.result(timeout=15).raw_output_contents
        stub.ModelInfer(_slow(1))
        after = _statistics(stub, "slow")
    assert after.execution_count - before.execution_count == 2


def check_cancelled_while_it_runs() -> None:
    with _stub() as stub:
        call = stub.ModelInfer.future(_slow(20_000))
        assert stub.ServerLive(oip.ServerLiveRequest()).live
        call.cancel()
        assert isinstance(raised(call.result), grpc.FutureCancelledError)
        assert stub.ModelInfer(_slow(1), timeout=15).raw_output_contents


def check_streams() -> None:
    with _stub() as stub:
        answers = list(stub.ModelStreamInfer(_request("scores", FLOATS + i, id=str(i)) for i in range(50)))
        assert [answer.infer_response.id for answer in answers] == [str(i) for i in range(50)]
        assert [answer.infer_response.raw_output_contents[0] for answer in answers] == [(FLOATS + i).tobytes() for i in range(50)]
        assert list(stub.ModelStreamInfer(iter([]))) == []


def check_stream_errors_say_whose_they_are() -> None:
    with _stub() as stub:
        (answer,) = stub.ModelStreamInfer(iter([_request("absent", FLOATS, id="seven")]))
    assert answer.error_message.startswith("Request for unknown model: 'absent' is not found")
    assert answer.infer_response.id == "seven"
    assert not answer.infer_response.outputs


def check_stream_that_goes_both_ways() -> None:
    """Each answer comes before the next request is sent."""
    answered = threading.Semaphore(1)

    def requests() -> Iterator[Any]:
        for i in range(10):
            assert answered.acquire(timeout=10)
            yield _request("scores", FLOATS, id=str(i))

    with _stub() as stub:
        n_answers = 0
        for answer in stub.ModelStreamInfer(requests()):
            assert answer.infer_response.id == str(n_answers)
            n_answers += 1
            answered.release()
    assert n_answers == 10


def check_compressed_messages() -> None:
    x = harness.packable()
    with _stub() as stub:
        for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            assert stub.ModelInfer(_request("identity_fp32", x), compression=algorithm).raw_output_contents[0] == x.tobytes()
            assert stub.ServerReady(oip.ServerReadyRequest(), compression=algorithm).ready
            assert stub.ModelMetadata(oip.ModelMetadataRequest(name="mlp"), compression=algorithm).name == "mlp"


def check_unknown_methods() -> None:
    with _channel() as channel:
        for path in ("/inference.GRPCInferenceService/Nothing", "/inference.GRPCInferenceService/ModelInferX", "/other.Service/Call", "/x"):
            error = raised(lambda path=path: channel.unary_unary(path)(b"", timeout=5))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED, path
            assert path in error.details()


def check_malformed_messages() -> None:
    with _channel() as channel:
        for method in ("ModelInfer", "ModelMetadata", "RepositoryIndex"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            error = raised(lambda call=call: call(b"\x0a\xff\xff\xff\xff", timeout=5))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (method, error)
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        assert raised(lambda: call(iter([]), timeout=5)).code() is grpc.StatusCode.INVALID_ARGUMENT
        message = _request("scores", FLOATS).SerializeToString()
        assert raised(lambda: call(iter([message, message]), timeout=5)).code() is grpc.StatusCode.INVALID_ARGUMENT


def check_health() -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    with _channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == serving
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
            assert next(watch).status == serving
            watch.cancel()
        assert raised(lambda: stub.Check(health_pb2.HealthCheckRequest(service="x"))).code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="x"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=5) for _ in range(50)]
        assert all(next(one).status == serving for one in watches)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=0.3)
        assert next(watch).status == serving
        assert raised(lambda: next(watch)).code() is grpc.StatusCode.DEADLINE_EXCEEDED


def check_reflection() -> None:
    requests = [reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
                reflection_pb2.ServerReflectionRequest(file_by_filename="nothing.proto")]
    with _channel() as channel:
        listed, described, missing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(requests))
    services = {one.name for one in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= services
    assert described.file_descriptor_response.file_descriptor_proto
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def check_keepalive_pings() -> None:
    """A ping every 100 ms for a while, without calls in between: the server must not take it amiss."""
    options = [("grpc.keepalive_time_ms", 100), ("grpc.keepalive_timeout_ms", 2000), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0), ("grpc.http2.min_time_between_pings_ms", 100)]
    states: list[grpc.ChannelConnectivity] = []
    with _channel(*options) as channel:
        stub = Stub(channel)
        assert stub.ServerLive(oip.ServerLiveRequest()).live
        channel.subscribe(states.append)
        # A call that waits for 1 s of pings.
        raised(lambda: stub.ModelInfer(_request("waits", np.ones(1, np.float32)), timeout=1))
        assert stub.ServerLive(oip.ServerLiveRequest()).live
    assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states


def check_many_channels_and_calls() -> None:
    with contextlib.ExitStack() as stack:
        stubs = [stack.enter_context(_stub(("grpc.use_local_subchannel_pool", 1))) for _ in range(8)]
        calls = [(i, stubs[i % 8].ModelInfer.future(_request("identity_fp32", np.full((1, 16), i, np.float32)))) for i in range(400)]
        assert all(call.result(timeout=15).raw_output_contents[0] == np.full((1, 16), i, np.float32).tobytes() for i, call in calls)


def check_large_metadata_is_refused() -> None:
    with _stub() as stub:
        for extra in ([("x-large", "x" * 40_000), ("x-larger", "y" * 40_000)], [(f"x-{i}", "y") for i in range(120)]):
            error = raised(lambda extra=extra: stub.ModelInfer(_request("scores", FLOATS), metadata=extra, timeout=5))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
        assert stub.ServerLive(oip.ServerLiveRequest()).live


if __name__ == "__main__":
    assert Path(harness.addresses()["stubs"], "open_inference_pb2.py").is_file()
    harness.run(globals())
