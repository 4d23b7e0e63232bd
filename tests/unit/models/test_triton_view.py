"""The configuration as clients read it, and what they send back with a load."""

import dataclasses
import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import ConfigurationError
from serve.models.config import LatestPolicy, ModelConfig, SpecificPolicy
from serve.models.resolution import resolve
from serve.models.triton_config import from_override
from serve.models.triton_view import triton_config
from serve.protocol import messages
from serve.types import ModelDescription, TensorSpec

CONFIG = ModelConfig(
    max_batch_size=32,
    class_labels={"y": "labels.txt"},
    version_policy=SpecificPolicy(specific=("1", "3")),
    preferred_batch_sizes=(8, 16),
    max_queue_delay_us=500,
    parameters={"owner": "vision"},
)
DESCRIPTION = ModelDescription(
    name="digits",
    version="3",
    versions=("1", "3"),
    labels={},
    inputs=(TensorSpec("x", "FP32", (-1, 3, -1)), TensorSpec("text", "BYTES", (-1, 1))),
    outputs=(TensorSpec("y", "INT64", (-1, 10)),),
    max_batch_size=32,
)


def test_the_view_of_a_batched_model() -> None:
    view = triton_config(DESCRIPTION, CONFIG, instances=2, device="cuda:1")
    assert view["max_batch_size"] == 32
    assert view["input"] == [
        {
            "name": "x",
            "data_type": "TYPE_FP32",
            "format": "FORMAT_NONE",
            "dims": [3, -1],
            "is_shape_tensor": False,
            "allow_ragged_batch": False,
            "optional": False,
        },
        {
            "name": "text",
            "data_type": "TYPE_STRING",
            "format": "FORMAT_NONE",
            "dims": [1],
            "is_shape_tensor": False,
            "allow_ragged_batch": False,
            "optional": False,
        },
    ]
    assert view["output"] == [
        {"name": "y", "data_type": "TYPE_INT64", "dims": [10], "label_filename": "labels.txt", "is_shape_tensor": False}
    ]
    assert view["instance_group"] == [{"name": "digits", "kind": "KIND_GPU", "count": 2, "gpus": [1]}]
    assert view["version_policy"] == {"specific": {"versions": [1, 3]}}
    assert view["dynamic_batching"]["preferred_batch_size"] == [8, 16]
    assert view["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    assert view["parameters"] == {"owner": {"string_value": "vision"}}


def test_the_view_of_an_unbatched_model_shows_every_dimension_and_no_batching() -> None:
    description = ModelDescription("m", "1", ("1",), {}, (TensorSpec("x", "FP16", (-1, 3)),), (TensorSpec("y", "BOOL", ()),), 0)
    view = triton_config(description, ModelConfig(), instances=1, device="cpu")
    assert (view["max_batch_size"], view["input"][0]["dims"], view["output"][0]["dims"]) == (0, [-1, 3], [])
    assert "dynamic_batching" not in view
    assert view["instance_group"] == [{"name": "m", "kind": "KIND_CPU", "count": 1, "gpus": []}]


def test_the_view_is_a_model_config_message() -> None:
    view = triton_config(DESCRIPTION, CONFIG, instances=2, device="cuda:1")
    message = json_format.ParseDict(view, messages.ModelConfig())
    assert (message.name, message.max_batch_size, list(message.input[0].dims)) == ("digits", 32, [3, -1])


CONFIGS = st.fixed_dictionaries(
    {
        "max_batch_size": st.none() | st.sampled_from([0, 16, 32]),
        "max_queue_size": st.integers(1, 9999),
        "default_queue_timeout_us": st.integers(0, 10**7),
        "instances": st.none() | st.integers(1, 4),
        "version_policy": st.sampled_from(["all", LatestPolicy(latest=2), SpecificPolicy(specific=("1", "3"))]),
        "class_labels": st.sampled_from([{}, {"y": "labels.txt"}, {"y": ("a", "b")}]),
        "labels": st.sampled_from([{}, {"stable": "1"}]),
        "parameters": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    }
)


@settings(max_examples=50)
@given(CONFIGS)
def test_a_client_that_reads_the_configuration_and_loads_with_it_changes_nothing(fields: dict[str, Any]) -> None:
    config = ModelConfig.model_validate(fields)
    graph = DESCRIPTION.inputs, DESCRIPTION.outputs
    settled = resolve(config, *graph, "m")
    description = ModelDescription("digits", "3", ("3",), {}, settled.inputs, settled.outputs, settled.max_batch_size)
    view = triton_config(description, config, instances=config.instances or 1, device="cpu")
    again = from_override(json.dumps(view), "digits", config)
    assert resolve(again, *graph, "m") == settled
    assert (again.labels, again.parameters, again.version_policy) == (config.labels, config.parameters, config.version_policy)
    assert again.class_labels == config.class_labels
    if settled.max_batch_size:
        assert (again.max_queue_size, again.default_queue_timeout_us) == (config.max_queue_size, config.default_queue_timeout_us)


def test_an_override_keeps_what_triton_cannot_say() -> None:
    base = ModelConfig(description="d", labels={"stable": "1"}, warmup={"x": (3,)}, instances=4, class_labels={"y": ("a",)})
    config = from_override('{"max_batch_size": 2}', "m", base)
    expected = ModelConfig(
        description="d", labels={"stable": "1"}, warmup={"x": (3,)}, class_labels={"y": ("a",)}, max_batch_size=2, inputs=(), outputs=()
    )
    assert config == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "parameter 'config': not a model configuration in JSON"),
        ("[]", "parameter 'config': not a model configuration in JSON: expected an object, found list"),
        ("null", "parameter 'config': not a model configuration in JSON: expected an object, found NoneType"),
        ('{"version_policy": "\\ud800"}', "parameter 'config': not a model configuration in JSON"),
        ("{", "parameter 'config': not a model configuration in JSON"),
        ('{"nonsense": 1}', "parameter 'config': not a model configuration in JSON: Message type \"inference.ModelConfig\" has no field"),
        ('{"max_batch_size": "many"}', "parameter 'config': not a model configuration in JSON"),
        ('{"input": [{"name": "x", "data_type": "TYPE_X"}]}', "parameter 'config': not a model configuration in JSON"),
        ('{"backend": "python"}', "parameter 'config': backend = 'python': only 'onnxruntime' can be served here"),
        ('{"ensemble_scheduling": {"step": []}}', "parameter 'config': ensemble_scheduling cannot be honoured"),
        (
            '{"max_batch_size": 1, "max_batch_size": 2}',
            "parameter 'config': not a model configuration in JSON: key 'max_batch_size' is given twice",
        ),
        ("[" * 100_000, "parameter 'config': not a model configuration in JSON"),
    ],
)
def test_bad_overrides(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        from_override(text, "m", ModelConfig())
    assert str(raised.value).startswith(error)


FIELDS = st.sampled_from([field.name for field in messages.ModelConfig.DESCRIPTOR.fields] + ["name", "dims", "latest", "count", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["TYPE_FP32", "KIND_GPU"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_whatever_a_client_sends_is_read_or_refused(data: dict[str, Any]) -> None:
    try:
        from_override(json.dumps(data), "m", ModelConfig())
    except ConfigurationError as error:
        assert str(error).startswith("parameter 'config': ")


def test_what_a_version_is_made_of_is_told_and_not_read_back() -> None:
    description = dataclasses.replace(DESCRIPTION, digest="sha256:12", provenance={"git_revision": "abc"})
    view = triton_config(description, CONFIG, instances=1, device="cpu")
    own = {"headrace.digest": {"string_value": "sha256:12"}, "headrace.provenance.git_revision": {"string_value": "abc"}}
    assert view["parameters"] == {"owner": {"string_value": "vision"}, **own}
    assert from_override(json.dumps(view), "digits", CONFIG).parameters == {"owner": "vision"}
