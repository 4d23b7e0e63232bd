"""Which tensors are kept, and names that the graph does not have."""

import pytest

from serve.errors import ConfigurationError
from serve.models.config import ModelConfig
from serve.models.recorded import recorded_tensors
from serve.models.resolution import resolve
from serve.records import RecordedTensor, RecordingSpec
from serve.types import TensorSpec

INPUTS = (TensorSpec("x", "FP32", (-1, 64)), TensorSpec("image", "UINT8", (-1, 3, 224, 224)), TensorSpec("ids", "INT64", (-1, -1)))
OUTPUTS = (TensorSpec("label", "BYTES", (-1, 1)), TensorSpec("wide", "FP64", (-1, 513)), TensorSpec("edge", "FP64", (-1, 512)))


def test_small_tensors_are_kept_and_those_of_unknown_size_up_to_the_limit() -> None:
    assert recorded_tensors(RecordingSpec(), INPUTS, OUTPUTS, 64) == (
        RecordedTensor("in", "x", "FP32", (64,), 0, 4096),
        RecordedTensor("in", "ids", "INT64", (-1,), 2, 4096),
        RecordedTensor("out", "label", "BYTES", (1,), 0, 4096),
        RecordedTensor("out", "edge", "FP64", (512,), 2, 4096),
    )


def test_named_tensors_are_kept_whatever_their_size_and_no_others() -> None:
    spec = RecordingSpec(inputs=("image",), outputs=())
    assert recorded_tensors(spec, INPUTS, OUTPUTS, 64) == (RecordedTensor("in", "image", "UINT8", (3, 224, 224), 1, 0),)


def test_the_order_is_the_model_s() -> None:
    kept = recorded_tensors(RecordingSpec(inputs=("ids", "x"), outputs=()), INPUTS, OUTPUTS, 64)
    assert [(tensor.name, tensor.index) for tensor in kept] == [("x", 0), ("ids", 2)]


def test_an_unbatched_request_is_one_row() -> None:
    inputs = (TensorSpec("x", "FP32", (32, 32)), TensorSpec("big", "FP32", (33, 32)), TensorSpec("scalar", "BOOL", ()))
    kept = recorded_tensors(RecordingSpec(), inputs, (), 0)
    assert [(tensor.name, tensor.shape) for tensor in kept] == [("x", (32, 32)), ("scalar", ())]


def test_a_dynamic_dimension_does_not_hide_fixed_ones_that_are_too_large() -> None:
    inputs = (TensorSpec("rgb", "FP32", (-1, 3, -1, -1)), TensorSpec("pages", "FP32", (-1, -1, 2000)))
    assert [tensor.name for tensor in recorded_tensors(RecordingSpec(), inputs, (), 8)] == ["rgb", "pages"]


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"recording": {"inputs": ("y",)}}, "recording.inputs names 'y', which the model does not have; it has 'x', 'image', 'ids'"),
        ({"recording": {"outputs": ("x",)}}, "recording.outputs names 'x', which the model does not have; it has 'label', 'wide', 'edge'"),
        ({"recording": {"redact": {"in_label": "drop"}}}, "recording.redact names 'in_label', which is not recorded; recorded are in_x,"),
        ({"recording": {"redact": {"in_image": "drop"}}}, "recording.redact names 'in_image', which is not recorded; recorded are in_x,"),
        ({"recording": {"redact": {"out_label": {"bucket": (1.0,)}}}}, "recording.redact.out_label = bucket: BYTES has drop, mask, hash"),
        ({"recording": {"redact": {"in_x": "hash"}}}, "recording.redact.in_x = hash: FP32 has drop, mask, bucket"),
        ({"monitoring": {"features": ("label",)}}, "monitoring.features names 'label', which the model does not have; it has 'x'"),
        ({"monitoring": {"embeddings": ("q",)}}, "monitoring.embeddings names 'q', which the model does not have; it has 'x'"),
        ({"monitoring": {"prediction": "x"}}, "monitoring.prediction names 'x', which the model does not have; it has 'label'"),
        ({"monitoring": {"scores": "x"}}, "monitoring.scores names 'x', which the model does not have; it has 'label'"),
    ],
)
def test_names_are_held_against_the_graph(section: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        resolve(ModelConfig.model_validate(section), INPUTS, OUTPUTS, "m/model.yaml")
    assert str(raised.value).startswith(f"m/model.yaml: {text}")


def test_names_that_are_there_pass() -> None:
    config = ModelConfig.model_validate({
        "recording": {"inputs": ("x", "ids"), "redact": {"in_ids": {"bucket": (1.0, 2.0)}, "out_label": "hash", "trace_id": "hash"}},
        "monitoring": {"features": ("x",), "embeddings": ("wide", "ids"), "prediction": "label", "scores": "wide"},
    })
    assert resolve(config, INPUTS, OUTPUTS, "m/model.yaml").max_batch_size == 64
