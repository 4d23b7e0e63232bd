"""Models on a CUDA device: the same answers as on the CPU, through page-locked buffers, and no silent fallback.

Run with `pytest -m gpu` on a machine with a GPU and onnxruntime-gpu.
"""

import threading

import numpy as np
import pytest
from onnx import helper, numpy_helper

from serve._core import ort, runner
from serve.errors import ConfigurationError, HeadraceError
from serve.models import runtime
from tests.core import onnx_models as models

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def device():
    """The first GPU, with everything loaded."""
    try:
        if runtime.resolve_device("auto") == "cpu":
            pytest.skip("no CUDA device, or no CUDA provider")
    except ConfigurationError as error:
        pytest.skip(str(error))
    return runtime.start_runtime("cuda:0")


def outputs(session, max_batch, requests):
    answers = runner.run_for_test(session, max_batch, [[models.to_wire(array) for array in request] for request in requests])
    return [[models.from_wire(datatype, shape, content) for _, datatype, shape, content in answer] for answer in answers]


def both(path, device, **options):
    return ort.Session(str(path)), ort.Session(str(path), device, disable_cpu_fallback=True, **options)


def test_mlp_equals_the_cpu(tmp_path, device):
    cpu, cuda = both(models.mlp(tmp_path / "m.onnx"), device, cuda={"use_tf32": 0})
    assert (cuda.device, cuda.device_id, cuda.inputs) == (device, 0, cpu.inputs)
    harness = runner.RunnerHarness(cuda, 64)
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for sizes in ([1], [64], [3, 5, 20], [1] * 64, [64]):
        parts = np.split(x[: sum(sizes)], np.cumsum(sizes)[:-1])
        answers, _ = harness.run([[models.to_wire(part)] for part in parts])
        got = np.concatenate([models.from_wire(*answer[0][1:]) for answer in answers])
        np.testing.assert_allclose(got, models.mlp_in_numpy(x[: sum(sizes)]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dims", [("n", 3), ("n", "k")], ids=str)
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16", "INT64", "INT32", "BOOL", "UINT8"])
def test_identity_of_a_batch(tmp_path, device, datatype, dims):
    cuda = ort.Session(str(models.identity(tmp_path / "m.onnx", datatype, dims)), device)
    batch = [models.random_array(datatype, [rows, 3], rows) for rows in (1, 4, 2)]
    for _ in range(2):
        for [got], expected in zip(outputs(cuda, 8, [[array] for array in batch]), batch, strict=True):
            assert models.to_wire(got) == models.to_wire(expected)


def test_several_tensors_and_dynamic_outputs(tmp_path, device):
    cpu, cuda = (ort.Session(str(models.two_by_two(tmp_path / "m.onnx")), place) for place in ("cpu", device))
    requests = [[models.random_array("FP32", (n, 2), n), models.random_array("INT64", (n, 2, 3), n)] for n in (2, 1, 4)]
    for got, expected in zip(outputs(cuda, 8, requests), outputs(cpu, 8, requests), strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_strings_stay_on_the_cpu(tmp_path, device):
    cuda = ort.Session(str(models.exclaim(tmp_path / "m.onnx")), device)
    x = models.random_array("BYTES", (3, 2))
    assert models.to_wire(outputs(cuda, 8, [[x]])[0][0]) == models.to_wire(x + b"!")


def test_a_node_for_the_cpu_alone_is_refused_when_fallback_is(tmp_path, device):
    path = models.exclaim(tmp_path / "m.onnx")
    ort.Session(str(path), device)
    with pytest.raises(HeadraceError, match="fallback"):
        ort.Session(str(path), device, disable_cpu_fallback=True)


def test_convolutions_of_changing_batches(tmp_path, device):
    weights = numpy_helper.from_array(models.random_array("FP32", (4, 3, 3, 3)), "w")
    path = models.save(tmp_path / "m.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
                       [models.info("x", "FP32", ["n", 3, 16, 16])], [models.info("y", "FP32", ["n", 4, 16, 16])], [weights])
    cpu, cuda = both(path, device, cuda={"use_tf32": 0})
    for rows in (1, 8, 3, 8):
        x = models.random_array("FP32", (rows, 3, 16, 16), rows)
        np.testing.assert_allclose(outputs(cuda, 8, [[x]])[0][0], outputs(cpu, 8, [[x]])[0][0], rtol=1e-3, atol=1e-3)


def test_an_unknown_device_and_unknown_options_are_refused(tmp_path, device):
    path = str(models.identity(tmp_path / "m.onnx"))
    with pytest.raises(HeadraceError):
        ort.Session(path, "cuda:99")
    with pytest.raises(ConfigurationError, match="ONNX Runtime: "):
        ort.Session(path, device, cuda={"no_such_option": 1})


def test_runners_of_one_session_run_at_the_same_time_and_leave_nothing(tmp_path, device):
    _, cuda = both(models.mlp(tmp_path / "m.onnx"), device, cuda={"use_tf32": 0})
    x = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    expected = models.mlp_in_numpy(x)
    before, wrong = runner.live_objects(), []

    def work(seed):
        harness = runner.RunnerHarness(cuda, 64)
        for rows in np.random.default_rng(seed).integers(1, 65, 20):
            [[answer]], _ = harness.run([[models.to_wire(x[:rows])]], repeat=5)
            if not np.allclose(models.from_wire(*answer[1:]), expected[:rows], rtol=1e-3, atol=1e-4):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert runner.live_objects() == before
