"""A version with a guard behind the server: what it refuses is answered with 400 and counted, over HTTP and gRPC, and is never run."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve._core.engine import NativeVersion
from serve.models.guard_limits import InputLimits, native_guard
from serve.types import TensorSpec
from tests.core import onnx_models
from tests.core.loopback import Loopback, version
from tests.core.plain_clients import grpc_infer, http_infer

TEXT = "input 'x' for model 'm': row 1, element 2 is 9; allowed is -1 to 1, the range of its baseline"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Loopback, NativeVersion]]:
    """y = x FP32 [batch, 3], each element from -1 to 1."""
    with Loopback() as loop:
        native = version(onnx_models.identity(tmp_path / "m.onnx"), loop.pool, warm={"x": (3,)})
        guard = native_guard(native.inputs, native.max_batch_size, {"x": InputLimits(low=[-1] * 3, high=[1] * 3)}, ("range",))
        assert guard is not None
        native.guard(guard)
        loop.table.publish({"m": ({"1": native}, native, None)})
        yield loop, native


def test_a_value_outside_is_refused_and_one_inside_is_not(served: tuple[Loopback, NativeVersion]) -> None:
    loop, native = served
    client, grpc = loop.http(), loop.h2()
    good, bad = np.array([[0, 0.5, 1]], np.float32), np.array([[0, 0, 0], [0, 0, 9]], np.float32)
    for array, status in ((good, 200), (bad, 400), (good, 200)):
        client.send(http_infer(array))
        answer = client.read()
        assert answer.status == status
        assert status == 200 or answer.json()["error"] == TEXT
    failed = grpc.read(grpc.grpc(grpc_infer(bad)))
    assert (failed.fields["grpc-status"], failed.fields["grpc-message"]) == ("3", TEXT)
    statistics = native.statistics()
    assert (statistics.success.count, statistics.rejected["invalid"], statistics.execution_count) == (2, 2, 2)


def test_a_guard_of_other_inputs_is_refused(served: tuple[Loopback, NativeVersion]) -> None:
    _, native = served
    other = native_guard((TensorSpec("z", "FP32", (-1, 3)),), 64, {"z": InputLimits(low=[0], high=[1])}, ("range",))
    assert other is not None
    with pytest.raises(ValueError, match="the guard is for the inputs"):
        native.guard(other)
