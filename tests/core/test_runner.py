"""Batches through the runner against numpy, against single runs and against ONNX Runtime's own Python package."""

import gc
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from serve._core import batch_tensor, ort_library, runner
from serve.errors import InternalError, InvalidArgument
from tests.core import onnx_models as models

DATATYPES = list(models.ONNX_TYPES)
FIXED = [datatype for datatype in DATATYPES if datatype != "BYTES"]


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """Every runner and every OrtValue that a test made is gone when it ends; what an earlier failure still holds may go too."""
    gc.collect()
    before = runner.live_objects()
    yield
    if runner.live_objects() != before:
        gc.collect()
    assert all(count <= before[kind] for kind, count in runner.live_objects().items())


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return models.session(models.mlp(tmp_path_factory.mktemp("mlp") / "mlp.onnx"))


def arrays(answer):
    """The outputs of one request, by name."""
    return {name: models.from_wire(datatype, shape, content) for name, datatype, shape, content in answer}


def run(session, max_batch, requests):
    """requests: lists of arrays. Outputs of each, by name."""
    return [arrays(answer) for answer in runner.run_for_test(session, max_batch, [[models.to_wire(a) for a in r] for r in requests])]


def test_modules_are_compiled():
    for module in (runner, batch_tensor):
        assert module.__file__.endswith(".so")


def assert_same(got, expected):
    """Equal shape and bits; NaN included."""
    assert models.to_wire(got) == models.to_wire(expected)


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("dims", [("n", 3), ("n",), ("n", "k"), ("n", "k", 2), ("n", 0)], ids=str)
def test_identity_of_a_batch(tmp_path, datatype, dims):
    session = models.session(models.identity(tmp_path / "m.onnx", datatype, dims))
    tail = [4 if isinstance(dim, str) else dim for dim in dims[1:]]
    batch = [models.random_array(datatype, [rows, *tail], rows) for rows in (1, 3, 2)]
    for got, expected in zip(run(session, 8, [[a] for a in batch]), batch, strict=True):
        assert_same(got["y"], expected)


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize(("dims", "shape"), [((), ()), ((2, 3), (2, 3)), (("n", 3), (5, 3)), (("n",), (0,)), ((0, 4), (0, 4))], ids=str)
def test_identity_without_batching(tmp_path, datatype, dims, shape):
    session = models.session(models.identity(tmp_path / "m.onnx", datatype, dims))
    expected = np.asarray(models.random_array(datatype, shape), models.NUMPY_TYPES[datatype])
    [got] = run(session, 0, [[expected]])
    assert_same(got["y"], expected)


@pytest.mark.parametrize("datatype", FIXED)
def test_every_bit_pattern_survives(tmp_path, datatype):
    session = models.session(models.identity(tmp_path / "m.onnx", datatype, ("n", 32)))
    size = np.dtype(models.NUMPY_TYPES[datatype]).itemsize
    content = np.random.default_rng(3).integers(0, 2 if datatype == "BOOL" else 256, 32 * size, np.uint8).tobytes()
    [[answer]] = runner.run_for_test(session, 4, [[((1, 32), content)]])
    assert answer == ("y", datatype, (1, 32), content)


@pytest.mark.parametrize("dims", [("n", 4), ("n", "k")], ids=str)
def test_bool_bytes_are_normalised(tmp_path, dims):
    session = models.session(models.identity(tmp_path / "m.onnx", "BOOL", dims))
    [[answer]] = runner.run_for_test(session, 4, [[((1, 4), b"\x00\x01\x02\xff")]])
    assert answer[3] == b"\x00\x01\x01\x01"


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=20).filter(lambda sizes: sum(sizes) <= 64), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_mlp_batches_equal_single_rows(mlp, sizes, seed):
    rows = np.random.default_rng(seed).standard_normal((sum(sizes), 64)).astype(np.float32)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    batched = np.concatenate([answer["y"] for answer in run(mlp, 64, [[part] for part in parts])])
    single = np.concatenate([run(mlp, 64, [[row[None]]])[0]["y"] for row in rows])
    np.testing.assert_allclose(batched, models.mlp_in_numpy(rows), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batched, single, rtol=0, atol=2e-6)


def test_mlp_of_every_batch_size_on_one_runner(mlp):
    harness = runner.RunnerHarness(mlp, 64)
    rows = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    expected = models.mlp_in_numpy(rows)
    for n in [*range(1, 65), 64, 1, 33]:
        [[answer]], _ = harness.run([[models.to_wire(rows[:n])]])
        np.testing.assert_allclose(arrays([answer])["y"], expected[:n], rtol=1e-4, atol=1e-5)


def test_equals_the_python_package_bit_for_bit(tmp_path):
    models.mlp(tmp_path / "mlp.onnx")
    models.two_by_two(tmp_path / "two.onnx")
    rows = {n: np.random.default_rng(n).standard_normal((n, 64)).astype(np.float32) for n in (1, 7, 64)}
    a, b = models.random_array("FP32", (5, 2)), models.random_array("INT64", (5, 2, 3))
    np.savez(tmp_path / "in.npz", a=a, b=b, **{f"x{n}": x for n, x in rows.items()})
    script = """
import sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
given = np.load(sys.argv[1] + "/in.npz")
mlp, two = (onnxruntime.InferenceSession(f"{sys.argv[1]}/{name}.onnx", options, ["CPUExecutionProvider"]) for name in ("mlp", "two"))
answers = {name: mlp.run(None, {"x": given[name]})[0] for name in given if name.startswith("x")}
answers |= dict(zip([o.name for o in two.get_outputs()], two.run(None, {"a": given["a"], "b": given["b"]}), strict=True))
np.savez(sys.argv[1] + "/out.npz", **answers)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=50)
    expected = np.load(tmp_path / "out.npz")
    session = models.session(tmp_path / "mlp.onnx")
    for n, x in rows.items():
        assert_same(run(session, 64, [[x]])[0]["y"], expected[f"x{n}"])
    [got] = run(models.session(tmp_path / "two.onnx"), 64, [[a, b]])
    for name, array in got.items():
        assert_same(array, expected[name])


def test_several_inputs_and_outputs(tmp_path):
    session = models.session(models.two_by_two(tmp_path / "m.onnx"))
    requests = [[models.random_array("FP32", (n, 2), n), models.random_array("INT64", (n, 2, 3), n)] for n in (2, 1, 4)]
    for got, (a, b) in zip(run(session, 8, requests), requests, strict=True):
        assert list(got) == ["doubled_a", "negated_b", "sum"]
        assert_same(got["doubled_a"], a + a)
        assert_same(got["negated_b"], -b)
        np.testing.assert_allclose(got["sum"], a.sum(axis=1), rtol=1e-5)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_strings_keep_their_rows(data):
    width = data.draw(st.integers(1, 3))
    elements = st.binary(max_size=12)
    batch = []
    for rows in data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)):
        batch.append(np.empty(rows * width, object))
        batch[-1][:] = data.draw(st.lists(elements, min_size=rows * width, max_size=rows * width))
        batch[-1] = batch[-1].reshape(rows, width)
    for got, given_ in zip(run(STRINGS[width], 32, [[a] for a in batch]), batch, strict=True):
        assert_same(got["y"], given_ + b"!")


STRINGS = {}


@pytest.fixture(scope="module", autouse=True)
def string_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strings")
    STRINGS.update({width: models.session(models.exclaim(folder / f"{width}.onnx", ("n", width))) for width in (1, 2, 3)})
    yield
    STRINGS.clear()


def framed(*elements):
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@pytest.mark.parametrize("content", [
    framed(b"a"), framed(b"a", b"b", b"c"), framed(b"a") + b"\x00", framed(b"a") + struct.pack("<I", 2) + b"b", b"",
    struct.pack("<I", 0xFFFFFFFF) + b"ab" * 8,
], ids=["few", "many", "torn length", "torn element", "empty", "huge"])
def test_strings_that_do_not_fill_their_shape_are_refused(content):
    harness = runner.RunnerHarness(STRINGS[2], 4)
    with pytest.raises(InvalidArgument, match="input 'x' does not hold the BYTES elements of its shape"):
        harness.run([[((1, 2), content)]])
    [[answer]], _ = harness.run([[((1, 2), framed(b"a", b"\x00b"))]])
    assert answer[3] == framed(b"a!", b"\x00b!")


def test_requests_of_different_shapes_do_not_share_a_batch(tmp_path):
    session = models.session(models.identity(tmp_path / "m.onnx", "FP32", ("n", "j", "k")))
    for other in (np.zeros((1, 3, 2), np.float32), np.zeros((1, 6), np.float32), np.zeros((1, 2, 4), np.float32)):
        with pytest.raises(InternalError, match="requests of different shapes in one batch"):
            run(session, 8, [[np.zeros((1, 2, 3), np.float32)], [other]])


@pytest.mark.parametrize("dims", [("n", 3), ("n", "k")], ids=str)
def test_bytes_that_do_not_match_the_shape_are_refused(tmp_path, dims):
    session = models.session(models.identity(tmp_path / "m.onnx", "FP32", dims))
    good = ((1, 3), bytes(12))
    for bad in (((1, 3), bytes(11)), ((1, 3), bytes(16)), ((1, 3), b"")):
        with pytest.raises(InternalError, match="input 'x' "):
            runner.run_for_test(session, 8, [[good], [bad]])
    with pytest.raises(InternalError, match=r"input 'x' (does not hold the bytes of its shape|holds 8 bytes)"):
        runner.run_for_test(session, 8, [[((1, 2**40), bytes(8))]])


@pytest.mark.parametrize(("max_batch", "rows"), [(4, [5]), (4, [2, 3]), (4, [0]), (4, [-1]), (4, []), (4, [2**62, 2**62]), (0, [1, 1])])
def test_batches_that_do_not_fit_are_refused(tmp_path, max_batch, rows):
    session = models.session(models.identity(tmp_path / "m.onnx"))
    harness = runner.RunnerHarness(session, max_batch)
    with pytest.raises(InternalError, match="batch"):
        harness.run([[((1, 3), bytes(12))] for _ in rows], rows=rows)


def test_slices_out_of_the_batch_are_refused(mlp):
    harness = runner.RunnerHarness(mlp, 8)
    with pytest.raises(InternalError, match="no output 0 to slice"):
        harness.slice(0, 0, 1)
    harness.run([[((3, 64), bytes(768))]])
    assert harness.slice(0, 2, 1)[2] == (1, 10)
    for first, rows in ((0, 4), (3, 1), (-1, 1), (0, 0), (1, 2**63 - 1)):
        with pytest.raises(InternalError, match="of a batch of 3"):
            harness.slice(0, first, rows)
    for index in (-1, 1):
        with pytest.raises(InternalError, match=f"no output {index} to slice"):
            harness.slice(index, 0, 1)
    harness.release()
    with pytest.raises(InternalError, match="no output 0"):
        harness.slice(0, 0, 1)


@pytest.mark.parametrize("width", [4, "k"])
def test_an_output_with_other_rows_is_refused_by_name(tmp_path, width):
    path = models.save(tmp_path / "m.onnx", [helper.make_node("Concat", ["x", "x"], ["twice"], axis=0)],
                       [models.info("x", "FP32", ["n", width])], [models.info("twice", "FP32", ["m", width])])
    session = models.session(path)
    harness = runner.RunnerHarness(session, 8)
    for rows in (3, 1, 3):
        with pytest.raises(InternalError, match=f"output 'twice' with {2 * rows} rows for a batch of {rows}: .* max_batch_size to 0"):
            harness.run([[models.to_wire(np.zeros((rows, 4), np.float32))]])
    assert run(session, 0, [[np.ones((3, 4), np.float32)]])[0]["twice"].shape == (6, 4)
    ort_library.drain_log()


def test_an_output_that_loses_its_rows_is_refused_by_name(tmp_path):
    inputs = [models.info("x", "FP32", ["n", 4]), models.info("shape", "INT64", ["n"])]
    path = models.single_node(tmp_path / "m.onnx", "Reshape", inputs, [models.info("y", "FP32", ["m", "k"])])
    with pytest.raises(InternalError, match="returned output 'y' with 4 rows for a batch of 2"):
        run(models.session(path), 8, [[np.zeros((2, 4), np.float32), np.array([4, 2])]])


def test_a_declared_shape_that_is_wrong_does_not_stop_an_unbatched_model(tmp_path):
    inputs = [models.info("x", "FP32", [2, 3]), models.info("shape", "INT64", ["rank"])]
    path = models.single_node(tmp_path / "m.onnx", "Reshape", inputs, [models.info("y", "FP32", [2, 3])])
    harness = runner.RunnerHarness(models.session(path), 0)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for shape in ([3, 2], [6], [1, 1, 6]):
        [[answer]], _ = harness.run([[models.to_wire(x), models.to_wire(np.array(shape))]])
        assert_same(arrays([answer])["y"], x.reshape(shape))
    ort_library.drain_log()


def gather_model(tmp_path):
    inputs = [models.info("table", "FP32", ["n", 2]), models.info("index", "INT64", ["n"])]
    return models.session(models.single_node(tmp_path / "m.onnx", "Gather", inputs, [models.info("y", "FP32", ["n", 2])]))


def test_an_error_of_the_run_is_told_and_the_runner_goes_on(tmp_path):
    harness = runner.RunnerHarness(gather_model(tmp_path), 8)
    table = models.random_array("FP32", (2, 2))
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=r"running Gather node.*idx=9 must be within"):
            harness.run([[models.to_wire(table), models.to_wire(np.array([0, 9]))]])
        with pytest.raises(InternalError, match="no output 0"):
            harness.slice(0, 0, 1)
        [[answer]], _ = harness.run([[models.to_wire(table), models.to_wire(np.array([1, 0]))]])
        assert_same(arrays([answer])["y"], table[::-1])
    assert [severity for severity, text in ort_library.drain_log() if "Gather" in text] == ["error"] * 3


def test_the_log_is_bounded_and_counts_what_it_drops(tmp_path):
    harness = runner.RunnerHarness(gather_model(tmp_path), 8)
    good, bad = ([models.to_wire(models.random_array("FP32", (1, 2))), models.to_wire(np.array([index]))] for index in (0, 5))
    harness.run([good])
    ort_library.drain_log()
    for _ in range(300):
        with pytest.raises(InvalidArgument):
            harness.run([bad])
    lines = ort_library.drain_log()
    assert len(lines) == 257
    assert lines[-1] == ("warning", "44 more messages of ONNX Runtime were dropped")
    assert ort_library.drain_log() == []


def test_a_model_without_inputs_runs(tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.arange(6, dtype=np.int32).reshape(2, 3)))
    path = models.save(tmp_path / "m.onnx", [constant, helper.make_node("Identity", ["c"], ["y"])], [], [models.info("y", "INT32", [2, 3])])
    session = models.session(path)
    assert not session.batchable
    assert_same(run(session, 0, [[]])[0]["y"], np.arange(6, dtype=np.int32).reshape(2, 3))


def test_an_input_can_be_an_output_and_a_constant_too(tmp_path):
    constant = numpy_helper.from_array(np.full((2, 2), 5, np.float32), "c")
    path = models.save(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])], [models.info("x", "FP32", [2, 2])],
                       [models.info(name, "FP32", [2, 2]) for name in "xyc"], [constant])
    x = models.random_array("FP32", (2, 2))
    [got] = run(models.session(path), 0, [[x]])
    assert_same(got["x"], x)
    assert_same(got["y"], -x)
    assert_same(got["c"], np.full((2, 2), 5, np.float32))


def test_steady_runs_create_nothing(mlp):
    harness = runner.RunnerHarness(mlp, 64)
    request = [((8, 64), bytes(2048))]
    harness.run([request])
    before = runner.live_objects()["values"]
    harness.run([request], repeat=100)
    assert runner.live_objects()["values"] == before
    harness.run([request, request])
    assert runner.live_objects()["values"] == before + 2


def test_a_dynamic_output_lives_until_the_next_run_or_its_release(tmp_path):
    harness = runner.RunnerHarness(models.session(models.identity(tmp_path / "m.onnx", "FP32", ("n", "k"))), 8)
    before = runner.live_objects()["values"]
    for width in (3, 5):
        harness.run([[((2, width), bytes(8 * width))]])
        assert runner.live_objects()["values"] == before + 1
    harness.release()
    assert runner.live_objects()["values"] == before


@pytest.mark.parametrize("dims", [("n", 1 << 20), ("n", "k")], ids=str)
def test_a_large_buffer_is_given_back(tmp_path, dims):
    harness = runner.RunnerHarness(models.session(models.identity(tmp_path / "m.onnx", "FP32", dims)), 64)
    width = 1 << 20
    large, small = [((10, width), bytes(40 * width))], [((1, width), bytes(4 * width))]
    harness.run([large])
    assert harness.buffer_bytes()[0] == 40 * width
    harness.run([small], repeat=15)
    assert harness.buffer_bytes()[0] == 40 * width, "an alternating load keeps its buffer"
    harness.run([large])
    harness.run([small], repeat=16)
    assert harness.buffer_bytes()[0] == 4 * width
    [[answer]], _ = harness.run([large])
    assert answer[3] == large[0][1]


def test_buffers_grow_and_keep_their_values_right(tmp_path):
    harness = runner.RunnerHarness(models.session(models.identity(tmp_path / "m.onnx", "FP32", ("n", 70_000))), 16)
    for rows in (1, 2, 1, 9, 3, 16, 1):
        x = models.random_array("FP32", (rows, 70_000), rows)
        [[answer]], _ = harness.run([[models.to_wire(x)]])
        assert answer[3] == x.tobytes()
    assert harness.buffer_bytes() == (16 * 280_000, 16 * 280_000)


def test_runners_of_one_session_run_at_the_same_time(mlp):
    rows = np.random.default_rng(5).standard_normal((64, 64)).astype(np.float32)
    expected = models.mlp_in_numpy(rows)
    wrong = []

    def work(seed):
        harness = runner.RunnerHarness(mlp, 64)
        for n in np.random.default_rng(seed).integers(1, 65, 50):
            [[answer]], _ = harness.run([[models.to_wire(rows[:n])]], repeat=20)
            if not np.allclose(arrays([answer])["y"], expected[:n], rtol=1e-4, atol=1e-5):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_the_model_of_a_shared_pool_of_two_threads_gives_the_same(tmp_path):
    path = models.mlp(tmp_path / "m.onnx", (64, 512, 10))
    x = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32)
    for options in ({"intra_op_threads": 2}, {}):
        [got] = run(models.session(path, **options), 64, [[x]])
        np.testing.assert_allclose(got["y"], models.mlp_in_numpy(x, (64, 512, 10)), rtol=1e-4, atol=1e-5)
