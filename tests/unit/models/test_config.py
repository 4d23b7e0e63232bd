"""model.yaml: what is accepted, and every way of being refused."""

import json
import pathlib

import pytest
from pydantic import ValidationError

from serve.errors import ConfigurationError
from serve.models.config import LatestPolicy, ModelConfig, SpecificPolicy, TensorDeclaration, parse_model_yaml
from serve.models.schema import model_schema

FULL = """
description: Digits
max_batch_size: 32
preferred_batch_sizes: [8, 16]
max_queue_delay_us: 500
max_queue_size: 100
default_queue_timeout_us: 20000
instances: 2
device: cuda:1
version_policy: {specific: [1, "3"]}
labels: {stable: 1, canary: "3"}
inputs: [{name: x, datatype: FP32, shape: [-1, 3]}]
outputs: [{name: y, datatype: INT64, shape: [-1]}]
class_labels: {y: labels.txt, z: [cat, dog]}
warmup: {x: [3]}
parameters: {owner: vision}
"""


def parse(text: str) -> ModelConfig:
    return parse_model_yaml(text, "m/model.yaml")


def test_everything() -> None:
    assert parse(FULL) == ModelConfig(
        description="Digits",
        max_batch_size=32,
        preferred_batch_sizes=(8, 16),
        max_queue_delay_us=500,
        max_queue_size=100,
        default_queue_timeout_us=20000,
        instances=2,
        device="cuda:1",
        version_policy=SpecificPolicy(specific=("1", "3")),
        labels={"stable": "1", "canary": "3"},
        inputs=(TensorDeclaration(name="x", datatype="FP32", shape=(-1, 3)),),
        outputs=(TensorDeclaration(name="y", datatype="INT64", shape=(-1,)),),
        class_labels={"y": "labels.txt", "z": ("cat", "dog")},
        warmup={"x": (3,)},
        parameters={"owner": "vision"},
    )


@pytest.mark.parametrize("text", ["", "# nothing", "{}", "---\n"])
def test_an_empty_file_is_the_default(text: str) -> None:
    config = parse(text)
    assert config == ModelConfig()
    assert (config.max_batch_size, config.max_queue_size, config.version_policy) == (None, 4096, LatestPolicy(latest=1))


@pytest.mark.parametrize(
    ("text", "expected"), [("all", "all"), ("{latest: 3}", LatestPolicy(latest=3)), ("{specific: [2]}", SpecificPolicy(specific=("2",)))]
)
def test_version_policies(text: str, expected: object) -> None:
    assert parse(f"version_policy: {text}").version_policy == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_batchsize: 1", "unknown key 'max_batchsize'; allowed: description, max_batch_size, preferred_batch_sizes,"),
        ("max_batch_size: -1", "max_batch_size = -1: Input should be greater than or equal to 0"),
        ("max_batch_size: 65537", "max_batch_size = 65537: Input should be less than or equal to 65536"),
        ("max_batch_size: '8'", 'max_batch_size = "8": Input should be a valid integer'),
        ("max_batch_size: 8.0", "max_batch_size = 8.0: Input should be a valid integer"),
        ("max_batch_size: yes", "max_batch_size = true: Input should be a valid integer"),
        ("max_queue_size: 0", "max_queue_size = 0: Input should be greater than or equal to 1"),
        ("max_queue_delay_us: 60000001", "max_queue_delay_us = 60000001: Input should be less than or equal to 60000000"),
        ("instances: 0", "instances = 0: Input should be greater than or equal to 1"),
        ("device: gpu", 'device = "gpu": String should match pattern'),
        ("device: gpu", "; allowed: cpu, cuda or cuda:<index>"),
        ("preferred_batch_sizes: [4, 2]", "preferred_batch_sizes = [4, 2]: give each size once, ascending"),
        ("preferred_batch_sizes: [2, 2]", "preferred_batch_sizes = [2, 2]: give each size once, ascending"),
        ("preferred_batch_sizes: [0]", "preferred_batch_sizes.0 = 0: Input should be greater than or equal to 1"),
        (
            "{max_batch_size: 8, preferred_batch_sizes: [4, 16]}",
            "preferred_batch_sizes = [4, 16]: none may be larger than max_batch_size, which is 8",
        ),
        (
            "{max_batch_size: 0, preferred_batch_sizes: [4]}",
            "preferred_batch_sizes = [4]: none may be larger than max_batch_size, which is 0",
        ),
        ("{max_batch_size: 0, max_queue_delay_us: 5}", "max_queue_delay_us = 5: a model with max_batch_size 0 has no batch to wait for"),
        ("version_policy: newest", "version_policy = \"newest\": Input should be 'all'; allowed: all, {latest: <count>} or"),
        ("version_policy: {latest: 0}", "version_policy.latest = 0: Input should be greater than or equal to 1; allowed: all,"),
        ("version_policy: {oldest: 1}", "unknown key 'version_policy.oldest'; allowed: all, {latest: <count>}"),
        ("version_policy: {specific: []}", "version_policy.specific = []: Tuple should have at least 1 item"),
        ("version_policy: {specific: ['01']}", 'version_policy.specific.0 = "01": a version is a positive integer without leading zeros'),
        ("version_policy: [1]", "version_policy = [1]: Input should be an object; allowed: all,"),
        ("labels: {stable: newest}", 'labels.stable = "newest": a version is a positive integer'),
        ("labels: {stable: true}", "labels.stable = true: Input should be a valid string"),
        ("labels: {12: 1}", 'labels.12 = "12": a label is named like a model, but not all digits'),
        ("labels: {a/b: 1}", 'labels.a/b = "a/b": a label is named like a model'),
        ("inputs: [{name: x, datatype: FLOAT, shape: [1]}]", "inputs.0.datatype = \"FLOAT\": Input should be 'BOOL', 'UINT8',"),
        ("inputs: [{name: x, datatype: FP32}]", "inputs.0.shape = "),
        ("inputs: [{name: x, datatype: FP32, shape: [-2]}]", "inputs.0.shape.0 = -2: Input should be greater than or equal to -1"),
        ("inputs: [{name: x, datatype: FP32, shape: [1], optional: true}]", "unknown key 'inputs.0.optional'; allowed: a list of"),
        (
            "outputs: [{name: x, datatype: FP32, shape: [1]}, {name: x, datatype: FP32, shape: [1]}]",
            "outputs: 'x' is declared more than once",
        ),
        ("class_labels: {y: ../labels.txt}", "a file is named relative to the model's folder and lies inside it"),
        ("class_labels: {y: /etc/passwd}", "a file is named relative to the model's folder and lies inside it"),
        ("class_labels: {y: ''}", "a file is named relative to the model's folder and lies inside it"),
        ("class_labels: {y: 1}", "class_labels.y = 1: Input should be a valid array; allowed: by output, a file name or a list of names"),
        ("class_labels: {y: []}", "class_labels.y = []: Tuple should have at least 1 item"),
        ("warmup: {x: [0]}", "warmup.x.0 = 0: Input should be greater than or equal to 1"),
        ("parameters: {a: 1}", "parameters.a = 1: Input should be a valid string"),
        ("description: " + "x" * 100 + "\nlabels: 1", "labels = 1: Input should be an object"),
        ("max_batch_size: .inf", "Out of range float values"),
        ("description: 2020-01-01", "Object of type date is not JSON serializable; values are text, numbers,"),
        ("- 1", "expected a mapping of keys to values, found list"),
        ("text", "expected a mapping of keys to values, found str"),
        ("a: {", "not valid YAML:"),
        ("a: 1\n---\nb: 1", "not valid YAML: expected a single document"),
        ("instances: 1\ninstances: 2", "not valid YAML: key 'instances' is given twice"),
        ("labels: {a: 1, a: 2}", "not valid YAML: key 'a' is given twice"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
        ("a: &a [*a]", "Circular reference"),
        ("a: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_refusals_name_file_key_value_and_what_is_allowed(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    assert str(raised.value).startswith("m/model.yaml: ")
    assert error in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        ModelConfig().instances = 3  # type: ignore[misc]


def test_the_schema_in_the_documentation_is_current() -> None:
    path = pathlib.Path(__file__).parents[3] / "docs" / "model.schema.json"
    assert path.read_text() == model_schema(), "run: python -m serve.models.schema > docs/model.schema.json"


def test_every_key_is_described_with_its_unit() -> None:
    properties = json.loads(model_schema())["properties"]
    assert all(described.get("description") for described in properties.values())
