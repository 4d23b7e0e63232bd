"""The library and sessions: what a model is described as, and every way in which one is refused."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serve._core import ort, ort_library
from serve.errors import ConfigurationError, InvalidArgument
from serve.models.runtime import find_library, start_runtime
from serve.types import TensorSpec
from tests.core import onnx_models as models


def run_python(source: str) -> str:
    """Output of a fresh interpreter, where nothing is loaded yet."""
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_modules_are_compiled():
    for module in (ort, ort_library):
        assert module.__file__.endswith(".so")


def test_a_model_is_described(tmp_path):
    path = models.save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], [models.info("x", "FP32", ["rows", 3, None])],
                       [models.info("y", "FP32", ["rows", 3, None])], metadata={"owner": "größe", "": "empty"})
    session = models.session(path)
    assert session.inputs == (TensorSpec("x", "FP32", (-1, 3, -1)),)
    assert session.outputs == (TensorSpec("y", "FP32", (-1, 3, -1)),)
    assert session.dimensions["x"] == ("rows", "", "")
    assert session.metadata == {"owner": "größe", "": "empty"}
    assert (session.producer, session.graph_name, session.description) == ("tests", "graph of a test", "made for a test")
    assert session.model_version == 7
    assert (session.path, session.device, session.device_id, session.batchable) == (str(path), "cpu", -1, True)
    assert repr(session) == "Session('m.onnx', 'cpu', 1 inputs, 1 outputs)"


@pytest.mark.parametrize("datatype", models.ONNX_TYPES)
def test_every_datatype_has_its_name(tmp_path, datatype):
    session = models.session(models.identity(tmp_path / "m.onnx", datatype))
    assert [spec.datatype for spec in session.inputs + session.outputs] == [datatype, datatype]


def test_signature_has_the_bytes_of_a_row(tmp_path):
    session = models.session(models.two_by_two(tmp_path / "m.onnx"))
    assert ort.signature_for_test(session, 16) == (
        [("a", "FP32", [-1, 2], 8), ("b", "INT64", [-1, 2, 3], 48)],
        [("doubled_a", "FP32", [-1, 2], 8), ("negated_b", "INT64", [-1, 2, 3], 48), ("sum", "FP32", [-1], 4)],
        16,
    )
    inputs, outputs, max_batch = ort.signature_for_test(session, 0)
    assert max_batch == 0
    assert {spec[3] for spec in inputs + outputs} == {0}


def test_signature_of_a_fixed_model_has_the_bytes_of_the_tensor(tmp_path):
    session = models.session(models.identity(tmp_path / "m.onnx", "FP16", (2, 5)))
    assert not session.batchable
    assert ort.signature_for_test(session, 0)[0] == [("x", "FP16", [2, 5], 20)]


def test_strings_and_dynamic_rows_have_no_row_bytes(tmp_path):
    assert ort.signature_for_test(models.session(models.identity(tmp_path / "a.onnx", "BYTES", ("n", 3))), 4)[0][0][3] == 0
    assert ort.signature_for_test(models.session(models.identity(tmp_path / "b.onnx", "FP32", ("n", None))), 4)[0][0][3] == 0


@pytest.mark.parametrize("max_batch", [1, 64])
@pytest.mark.parametrize("dims", [(8, 3), ()])
def test_a_fixed_first_dimension_is_not_batched(tmp_path, dims, max_batch):
    session = models.session(models.identity(tmp_path / "m.onnx", "FP32", dims))
    with pytest.raises(ConfigurationError, match=r"first dimension of 'x' is not dynamic: its shape is \[.*\]; set max_batch_size to 0"):
        ort.signature_for_test(session, max_batch)


@pytest.mark.parametrize("max_batch", [-1, 65537])
def test_max_batch_is_bounded(tmp_path, max_batch):
    session = models.session(models.identity(tmp_path / "m.onnx"))
    with pytest.raises(ConfigurationError, match=f"max_batch_size is {max_batch}; it can be 0"):
        ort.signature_for_test(session, max_batch)


def test_external_data_is_found_beside_the_model(tmp_path):
    path = models.mlp(tmp_path / "m.onnx", external=True)
    assert (tmp_path / "weights.bin").stat().st_size > 64 * 64 * 4
    assert models.session(path).outputs == (TensorSpec("y", "FP32", (-1, 10)),)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InvalidArgument, match=r"failed to load m\.onnx: .*weights\.bin"):
        models.session(path)


def test_overridable_initializers_are_not_inputs(tmp_path):
    weights = numpy_helper.from_array(np.ones((3,), np.float32), "w")
    path = models.save(tmp_path / "m.onnx", [helper.make_node("Mul", ["x", "w"], ["y"])],
                       [models.info("x", "FP32", ["n", 3]), models.info("w", "FP32", [3])], [models.info("y", "FP32", ["n", 3])], [weights])
    assert [spec.name for spec in models.session(path).inputs] == ["x"]


def test_an_output_of_unknown_rank_is_served_unbatched(tmp_path):
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    path = models.save(tmp_path / "m.onnx", [node], [models.info("x", "FP32", ["n"]), models.info("shape", "INT64", ["rank"])],
                       [models.info("y", "FP32", None)])
    session = models.session(path)
    assert session.outputs == (TensorSpec("y", "FP32", ()),)
    assert not session.batchable


def refused(path: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        models.session(path)
    text = str(caught.value)
    assert text.startswith(f"failed to load {path.name}: ")
    assert str(path.parent) not in text
    return text


def test_a_sequence_output_is_refused_by_name(tmp_path):
    output = helper.make_tensor_sequence_value_info("pieces", TensorProto.FLOAT, None)
    path = models.single_node(tmp_path / "m.onnx", "SplitToSequence", [models.info("x", "FP32", ["n"])], [output])
    assert "output 'pieces' is a sequence; only tensors can be served" in refused(path)


def test_an_optional_input_is_refused_by_name(tmp_path):
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    value = helper.make_value_info("maybe", helper.make_optional_type_proto(tensor))
    path = models.single_node(tmp_path / "m.onnx", "OptionalGetElement", [value], [models.info("y", "FP32", [2])])
    assert "input 'maybe' is an optional value; only tensors can be served" in refused(path)


def test_element_types_off_the_protocol_are_refused_by_name(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT8E4M3FN, ["n"])
    path = models.single_node(tmp_path / "m.onnx", "Cast", [value], [models.info("y", "FP32", ["n"])], to=TensorProto.FLOAT)
    assert "input 'x' has elements of type float8e4m3fn, which the protocol cannot carry" in refused(path)


def test_complex_elements_are_refused(tmp_path):
    value = [helper.make_tensor_value_info(name, TensorProto.COMPLEX64, ["n"]) for name in "xy"]
    path = models.save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], value[:1], value[1:])
    assert "complex64" in refused(path)


def test_an_input_without_a_shape_is_refused(tmp_path):
    path = models.save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], [models.info("x", "FP32", None)],
                       [models.info("y", "FP32", None)])
    assert "input 'x' declares no shape; give it one" in refused(path)


def test_too_many_dimensions_are_refused(tmp_path):
    assert "input 'x' has 17 dimensions; at most 16" in refused(models.identity(tmp_path / "m.onnx", "FP32", [1] * 17))


def test_too_large_a_row_is_refused(tmp_path):
    assert "has shape [-1, 65536, 65536], which is too large" in refused(models.identity(tmp_path / "m.onnx", "FP32", ["n", 65536, 65536]))


def test_too_many_inputs_are_refused(tmp_path):
    values = [models.info(f"x{i}", "FP32", [1]) for i in range(129)]
    path = models.single_node(tmp_path / "m.onnx", "Sum", values, [models.info("y", "FP32", [1])])
    assert "it has 129 inputs and 1 outputs; at most 128 of each" in refused(path)


def test_broken_files_are_refused_in_the_words_of_the_library(tmp_path):
    good = models.mlp(tmp_path / "good.onnx").read_bytes()
    for name, content in {"empty": b"", "noise": os.urandom(64), "cut": good[: len(good) // 2]}.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        refused(tmp_path / f"{name}.onnx")
    assert "File doesn't exist" in refused(tmp_path / "absent.onnx")
    model = onnx.load(tmp_path / "good.onnx")
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, tmp_path / "unknown.onnx")
    assert "Nonsense" in refused(tmp_path / "unknown.onnx")


@pytest.mark.parametrize(("options", "text"), [
    ({"device": "tpu"}, "device is 'tpu'; it can be cpu, cuda or cuda:N"),
    ({"device": "cuda:"}, "device is 'cuda:'"),
    ({"device": "cuda:-1"}, "device is 'cuda:-1'"),
    ({"optimization": "most"}, "optimization is 'most'; it can be none, basic, extended, all"),
    ({"config": {"k" * 2000: "x"}}, "ONNX Runtime: "),
])
def test_impossible_options_are_refused(tmp_path, options, text):
    with pytest.raises(ConfigurationError, match=text):
        models.session(models.identity(tmp_path / "m.onnx"), **options)


def test_cuda_needs_the_provider(tmp_path):
    if list(find_library().parent.glob("*providers_cuda*")):
        pytest.skip("the installed ONNX Runtime has the CUDA provider")
    with pytest.raises(ConfigurationError, match=r"ONNX Runtime: .*CUDA"):
        models.session(models.identity(tmp_path / "m.onnx"), device="cuda:0")


def test_options_are_taken(tmp_path):
    path = models.mlp(tmp_path / "m.onnx")
    for options in ({"optimization": "none"}, {"intra_op_threads": 2}, {"config": {"session.intra_op.allow_spinning": "0"}}):
        assert models.session(path, **options).inputs == models.session(path).inputs


def test_loading_twice_is_harmless_and_other_settings_are_refused():
    start_runtime("cpu")
    assert ort_library.is_loaded()
    ort_library.load_library(str(find_library()))
    with pytest.raises(ConfigurationError, match="already loaded"):
        ort_library.load_library(str(find_library()), intra_op_threads=2)
    with pytest.raises(ConfigurationError, match="already loaded"):
        ort_library.load_library("/elsewhere")


def test_without_the_library_everything_says_so(tmp_path):
    models.mlp(tmp_path / "m.onnx")
    (tmp_path / "fake.c").write_text("""
        static void **get_api(unsigned version) { (void)version; return 0; }
        static const char *get_version(void) { return "1.5.2"; }
        static void *base[] = {(void *)get_api, (void *)get_version};
        void *OrtGetApiBase(void) { return base; }
    """)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / "old.so"), str(tmp_path / "fake.c")], check=True, timeout=30)
    subprocess.run(["cc", "-shared", "-o", str(tmp_path / "other.so"), "-x", "c", "/dev/null"], check=True, timeout=30)
    output = run_python(f"""
        from serve._core import ort, ort_library
        from serve.errors import ConfigurationError
        def attempt(call, *arguments, **options):
            try:
                call(*arguments, **options)
                print("accepted")
            except ConfigurationError as error:
                print(error)
        attempt(ort.Session, {str(tmp_path / "m.onnx")!r})
        attempt(ort_library.load_library, {str(tmp_path / "absent.so")!r})
        attempt(ort_library.load_library, {str(tmp_path / "other.so")!r})
        attempt(ort_library.load_library, {str(tmp_path / "old.so")!r})
        attempt(ort_library.load_library, {str(find_library())!r}, intra_op_threads=0)
        print(ort_library.is_loaded())
        attempt(ort_library.load_library, {str(find_library())!r}, intra_op_threads=2, spinning=True)
        attempt(ort.Session, {str(tmp_path / "m.onnx")!r})
        print(ort_library.is_loaded())
    """).splitlines()
    assert output[0] == "ONNX Runtime is not loaded: call load_library first"
    assert output[1].startswith("cannot open ONNX Runtime: ")
    assert output[2].endswith("other.so is not ONNX Runtime: it exports no OrtGetApiBase")
    assert output[3] == "ONNX Runtime 1.5.2 is too old: install onnxruntime or onnxruntime-gpu 1.28 or later"
    assert output[4:] == ["intra_op_threads is 0; the least is 1", "False", "accepted", "accepted", "True"]
