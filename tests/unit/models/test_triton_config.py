"""Triton's model configuration, read."""

import pytest

from serve.errors import ConfigurationError
from serve.models.config import LatestPolicy, ModelConfig, SpecificPolicy, TensorDeclaration
from serve.models.triton_config import datatype_from_triton, datatype_to_triton, read_config_pbtxt
from serve.protocol import messages

FULL = """
name: "digits"
platform: "onnxruntime_onnx"
backend: "onnxruntime"
max_batch_size: 32
default_model_filename: "model.onnx"
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] },
  { name: "text" data_type: TYPE_STRING dims: [ 1 ] }
]
output { name: "y" data_type: TYPE_INT64 dims: [ 10 ] label_filename: "labels.txt" }
version_policy { specific { versions: [ 1, 3 ] } }
dynamic_batching {
  preferred_batch_size: [ 16, 8 ]
  max_queue_delay_microseconds: 500
  default_queue_policy { max_queue_size: 100 default_timeout_microseconds: 20000 timeout_action: REJECT allow_timeout_override: true }
}
instance_group [ { name: "main" count: 2 kind: KIND_GPU gpus: [ 1 ] } ]
parameters { key: "owner" value { string_value: "vision" } }
response_cache { enable: false }
optimization { cuda { graphs: false } }
model_transaction_policy { decoupled: false }
"""


def read(text: str, *, lenient: bool = False) -> ModelConfig:
    return read_config_pbtxt(text, "digits/config.pbtxt", "digits", lenient=lenient)


def tensor(name: str, datatype: str, *shape: int) -> TensorDeclaration:
    return TensorDeclaration.model_validate({"name": name, "datatype": datatype, "shape": shape})


def test_everything_that_is_honoured() -> None:
    assert read(FULL) == ModelConfig(
        max_batch_size=32,
        inputs=(tensor("x", "FP32", -1, 3, -1), tensor("text", "BYTES", -1, 1)),
        outputs=(tensor("y", "INT64", -1, 10),),
        class_labels={"y": "labels.txt"},
        version_policy=SpecificPolicy(specific=("1", "3")),
        preferred_batch_sizes=(8, 16),
        max_queue_delay_us=500,
        max_queue_size=100,
        default_queue_timeout_us=20000,
        instances=2,
        device="cuda:1",
        parameters={"owner": "vision"},
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ModelConfig()),
        ('platform: "onnxruntime_onnx"', ModelConfig()),
        ("max_batch_size: 4", ModelConfig(max_batch_size=4)),
        # Declared tensors say what the shapes are: without a batch dimension.
        (
            'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] }',
            ModelConfig(max_batch_size=0, inputs=(tensor("x", "FP32", -1, 3),)),
        ),
        ("version_policy { all {} }", ModelConfig(version_policy="all")),
        ("version_policy { latest { num_versions: 2 } }", ModelConfig(version_policy=LatestPolicy(latest=2))),
        ("dynamic_batching {}", ModelConfig()),
        ("instance_group {}", ModelConfig()),
        ("instance_group { kind: KIND_CPU count: 4 }", ModelConfig(instances=4, device="cpu")),
        ("instance_group { kind: KIND_GPU }", ModelConfig(device="cuda")),
        ("instance_group { gpus: 2 }", ModelConfig(device="cuda:2")),
    ],
)
def test_small_configurations(text: str, expected: ModelConfig) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("ensemble_scheduling {}", "ensemble_scheduling"),
        ("sequence_batching {}", "sequence_batching"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy"),
        ("response_cache { enable: true }", "response_cache"),
        ("optimization { cuda { graphs: true } }", "optimization"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 1 reshape { shape: [] } }', "input.reshape"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 1 optional: true }', "input.optional"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 1 format: FORMAT_NCHW }', "input.format"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true }', "input.allow_ragged_batch"),
        ("dynamic_batching { priority_levels: 2 }", "dynamic_batching.priority_levels"),
        ("dynamic_batching { preserve_ordering: true }", "dynamic_batching.preserve_ordering"),
        ("dynamic_batching { default_queue_policy { timeout_action: DELAY } }", "dynamic_batching.default_queue_policy.timeout_action"),
        ("instance_group { passive: true }", "instance_group.passive"),
        ('cc_model_filenames { key: "7.5" value: "m" }', "cc_model_filenames"),
        ('metric_tags { key: "a" value: "b" }', "metric_tags"),
        ('model_warmup { name: "w" }', "model_warmup"),
        ("batch_input {}", "batch_input"),
    ],
)
def test_other_fields_are_refused_by_name_or_warned_of(text: str, field: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError) as error:
        read(text)
    assert str(error.value) == f"digits/config.pbtxt: {field} cannot be honoured; remove what is not needed"
    assert not caplog.records
    read(text, lenient=True)
    assert [record.getMessage() for record in caplog.records] == [f"digits/config.pbtxt: {field} cannot be honoured and is ignored"]


def test_several_unhonoured_fields_are_named_together_each_once() -> None:
    with pytest.raises(ConfigurationError, match=r": input\.optional, batch_output cannot be honoured"):
        read(
            'input [{ name: "a" data_type: TYPE_FP32 dims: 1 optional: true }, { name: "b" data_type: TYPE_FP32 dims: 1 optional: true }]\n'
            "batch_output {}"
        )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('name: "other"', "name = 'other': only 'digits' can be served here"),
        ('platform: "tensorrt_plan"', "platform = 'tensorrt_plan': only 'onnxruntime_onnx' can be served here"),
        ('backend: "python"', "backend = 'python': only 'onnxruntime' can be served here"),
        ('default_model_filename: "m.onnx"', "default_model_filename = 'm.onnx': only 'model.onnx' can be served here"),
        ("max_batch_size: -1", "max_batch_size = -1: Input should be greater than or equal to 0"),
        ('input { name: "x" dims: 1 }', "input 'x' has no data_type"),
        ('output { name: "y" dims: 1 }', "output 'y' has no data_type"),
        ("version_policy { latest {} }", "version_policy.latest = 0: Input should be greater than or equal to 1"),
        ("version_policy { specific {} }", "version_policy.specific = []: Tuple should have at least 1 item"),
        ("version_policy { specific { versions: 0 } }", "version_policy.specific.0 = 0: a version is a positive integer"),
        ("instance_group [{}, {}]", "instance_group: one group on the CPU or on one GPU can be honoured, not 2 group(s)"),
        ("instance_group { gpus: [0, 1] }", "not 1 group(s) with gpus [0, 1] and KIND_AUTO"),
        ("instance_group { kind: KIND_MODEL }", "not 1 group(s) with gpus [] and KIND_MODEL"),
        ("instance_group { count: -1 }", "instance_group.count = -1: Input should be greater than or equal to 1"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }",
            "preferred_batch_sizes = [8]: none may be larger than max_batch_size, which is 4",
        ),
        (
            "dynamic_batching { max_queue_delay_microseconds: 99999999 }",
            "dynamic_batching.max_queue_delay_microseconds = 99999999: Input should be less than or equal to 60000000",
        ),
        (
            'output { name: "y" data_type: TYPE_FP32 dims: 1 label_filename: "../x" }',
            'output.label_filename.y = "../x": a file is named relative to the model\'s folder',
        ),
        ("max_batch: 3", 'no field named "max_batch"'),
        ("max_batch_size: many", "Couldn't parse integer"),
        ("input {", "1:"),
    ],
)
def test_refusals(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(text)
    assert str(raised.value).startswith("digits/config.pbtxt: ")
    assert error in str(raised.value)


def test_lenient_ignores_fields_that_nobody_knows() -> None:
    assert read("max_batch: 3\nmax_batch_size: 2", lenient=True).max_batch_size == 2


def test_lenient_takes_the_first_instance_group(caplog: pytest.LogCaptureFixture) -> None:
    assert read("instance_group [{ count: 2 }, { count: 3 }]", lenient=True).instances == 2
    assert "the first is taken" in caplog.text


def test_datatypes_go_both_ways() -> None:
    for number in messages.DataType.values():
        if number != messages.TYPE_INVALID:
            assert messages.DataType.Value(datatype_to_triton(datatype_from_triton(number))) == number
