"""The configuration of one model: `model.yaml`, or what Triton's config.pbtxt says in the same terms.

Frozen, strict, unknown keys refused. Every error names the file, the key, the value and what is allowed.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationError, WithJsonSchema, model_validator

from serve.errors import ConfigurationError
from serve.models.config_base import Strict
from serve.models.config_recording import MonitoringSection, RecordingSection
from serve.models.names import LABEL_RULE, VERSION_RULE, is_label, is_version
from serve.models.yaml_reader import read_yaml

MAX_BATCH_SIZE_LIMIT = 65_536
DEFAULT_MAX_QUEUE_SIZE = 4_096
# The longest deadline that the server grants to anybody: waiting longer than that in a queue answers nobody.
MAX_WAIT_US = 60_000_000

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16"
]


def _version_text(value: object) -> object:
    # YAML reads `stable: 1` as a number; a version is a name that happens to look like one.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _checked_version(value: str) -> str:
    if not is_version(value):
        raise ValueError(f"a version is {VERSION_RULE}")
    return value


def _checked_label(value: str) -> str:
    if not is_label(value):
        raise ValueError(f"a label is {LABEL_RULE}")
    return value


def _checked_file(value: str) -> str:
    path = pathlib.PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\0" in value:
        raise ValueError("a file is named relative to the model's folder and lies inside it")
    return value


_VERSION_SCHEMA = {"anyOf": [{"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}, {"type": "integer", "minimum": 1}]}
Version = Annotated[str, BeforeValidator(_version_text), AfterValidator(_checked_version), WithJsonSchema(_VERSION_SCHEMA)]
Label = Annotated[str, AfterValidator(_checked_label)]
Rows = Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE_LIMIT)]
Dimension = Annotated[int, Field(ge=1)]
ProvenanceKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ProvenanceValue = Annotated[str, Field(max_length=1_024)]
DeclaredDimension = Annotated[int, Field(ge=-1)]


class LatestPolicy(Strict):
    """Load the `latest` highest version numbers."""

    latest: Annotated[int, Field(ge=1)] = 1


class SpecificPolicy(Strict):
    """Load exactly these versions."""

    specific: Annotated[tuple[Version, ...], Field(min_length=1)]


def _policy_tag(value: object) -> str:
    if isinstance(value, str):
        return "as_all"
    has_specific = isinstance(value, SpecificPolicy) or (isinstance(value, dict) and "specific" in value)
    return "as_specific" if has_specific else "as_latest"


VersionPolicy = Annotated[
    Annotated[Literal["all"], Tag("as_all")] | Annotated[LatestPolicy, Tag("as_latest")] | Annotated[SpecificPolicy, Tag("as_specific")],
    Discriminator(_policy_tag),
]


def _class_labels_tag(value: object) -> str:
    return "as_file" if isinstance(value, str) else "as_list"


ClassLabels = Annotated[
    Annotated[str, AfterValidator(_checked_file), Tag("as_file")]
    | Annotated[Annotated[tuple[str, ...], Field(min_length=1)], Tag("as_list")],
    Discriminator(_class_labels_tag),
]
# Pydantic names the branch of a union in the path of an error; the operator wrote no such key.
_TAGS = frozenset({"as_all", "as_latest", "as_specific", "as_file", "as_list", "as_word", "as_bucket"})
_ALLOWED = {
    "version_policy": "all, {latest: <count>} or {specific: [<version>, ...]}",
    "class_labels": "by output, a file name or a list of names",
    "device": "cpu, cuda or cuda:<index>",
    "inputs": "a list of {name, datatype, shape}",
    "outputs": "a list of {name, datatype, shape}",
    "recording.redact": "by column, drop, mask, hash or {bucket: [<bound>, ...]}",
    "recording.tags": "by tag, {header: <name>} or {parameter: <name>}",
}
# Their own keys are what an unknown key in them is answered with.
_SECTIONS: Mapping[str, type[Strict]] = {"recording": RecordingSection, "monitoring": MonitoringSection}


class TensorDeclaration(Strict):
    """What an input or output of the graph is expected to be; a graph that differs is refused."""

    name: Annotated[str, Field(min_length=1)]
    datatype: Datatype
    shape: Annotated[tuple[DeclaredDimension, ...], Field(max_length=16)] = Field(
        description="With the batch dimension, -1 where dynamic. A fixed number narrows a dimension that is dynamic in the graph."
    )


class ModelConfig(Strict):
    """Settings of one model, all versions alike. What is not set is decided from the graph and the machine."""

    description: str = Field(default="", description="For people; shown nowhere on the request path.")
    max_batch_size: Annotated[int, Field(ge=0, le=MAX_BATCH_SIZE_LIMIT)] | None = Field(
        default=None,
        description="Rows of a batch; 0: requests run one by one. "
        "Default 64 when the first dimension of every input and output is dynamic, else 0.",
    )
    preferred_batch_sizes: tuple[Rows, ...] = Field(
        default=(), description="Rows, ascending. A batch of such a size does not wait for more."
    )
    max_queue_delay_us: Annotated[int, Field(ge=0, le=MAX_WAIT_US)] = Field(
        default=0, description="Microseconds that a batch may wait for more rows, from the arrival of its oldest request."
    )
    max_queue_size: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        default=DEFAULT_MAX_QUEUE_SIZE, description="Requests waiting for one version; one more is refused."
    )
    default_queue_timeout_us: Annotated[int, Field(ge=0, le=MAX_WAIT_US)] = Field(
        default=0, description="Microseconds in the queue after which a request that set no timeout of its own is refused; 0: none."
    )
    instances: Annotated[int, Field(ge=1, le=1_024)] | None = Field(
        default=None, description="Concurrent executions of a version. Default 1 on a GPU, the cores left over by I/O on the CPU."
    )
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$")] | None = Field(
        default=None, description="cpu, cuda or cuda:<index>. Default the server's --device."
    )
    version_policy: VersionPolicy = Field(
        default=LatestPolicy(), description="Which versions to load: all, {latest: <count>} or {specific: [<version>, ...]}."
    )
    labels: Mapping[Label, Version] = Field(
        default={}, description="Names for versions. A labelled version stays loaded; `stable` answers requests that name no version."
    )
    inputs: tuple[TensorDeclaration, ...] = Field(default=(), description="Checked against the graph.")
    outputs: tuple[TensorDeclaration, ...] = Field(default=(), description="Checked against the graph.")
    class_labels: Mapping[str, ClassLabels] = Field(
        default={}, description="By output, the names of its classes: a list, or a file in the model's folder with one name per line."
    )
    warmup: Mapping[str, tuple[Dimension, ...]] = Field(
        default={},
        description="By input, the shape of a warm-up run, without the batch dimension when the model is batched. Default 1 where dynamic.",
    )
    parameters: Mapping[str, str] = Field(default={}, description="Free text, shown in the model's configuration.")
    recording: RecordingSection = Field(default=RecordingSection(), description="What is kept of its predictions, under --records.")
    monitoring: MonitoringSection = Field(default=MonitoringSection(), description="What is watched of them.")
    provenance: Annotated[Mapping[ProvenanceKey, ProvenanceValue], Field(max_length=64)] = Field(
        default={},
        description="Where the versions come from, kept with every recorded row: training_data, training_data_digest, git_revision, "
        "dvc_revision, mlflow_run, or whatever you name.",
    )

    @model_validator(mode="after")
    def _batching_is_consistent(self) -> Self:
        sizes = self.preferred_batch_sizes
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(f"preferred_batch_sizes = {list(sizes)}: give each size once, ascending")
        if self.max_batch_size is not None:
            check_batching(self, self.max_batch_size)
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for key, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [tensor.name for tensor in tensors]
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{key}: {repeated[0]!r} is declared more than once")
        return self


def check_batching(config: ModelConfig, max_batch_size: int) -> None:
    """Raises ValueError when the batching settings do not fit `max_batch_size` rows, given or found."""
    if config.preferred_batch_sizes and config.preferred_batch_sizes[-1] > max_batch_size:
        sizes = list(config.preferred_batch_sizes)
        raise ValueError(f"preferred_batch_sizes = {sizes}: none may be larger than max_batch_size, which is {max_batch_size}")
    if config.max_queue_delay_us and not max_batch_size:
        raise ValueError(f"max_queue_delay_us = {config.max_queue_delay_us}: a model with max_batch_size 0 has no batch to wait for")


def parse_model_yaml(text: str, where: str) -> ModelConfig:
    """Reads the text of a model.yaml; `where` names the file in errors. Raises ConfigurationError."""
    return model_config_from(read_yaml(text, where), where)


def model_config_from(data: Mapping[str, Any], where: str, keys: Mapping[str, str] | None = None) -> ModelConfig:
    """Validates plain data. `keys` renames our keys in errors to those that the operator wrote. Raises ConfigurationError."""
    try:
        # Through JSON, where pydantic's strict mode has arrays only, and so takes them for tuples.
        return ModelConfig.model_validate_json(json.dumps(data, allow_nan=False))
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(dict(detail), where, keys or {}) for detail in error.errors())) from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}; values are text, numbers, true or false, lists and mappings") from error


def _explain(detail: dict[str, Any], where: str, keys: Mapping[str, str]) -> str:
    path = [str(part) for part in detail["loc"] if part not in _TAGS and part != "[key]"]
    if not path:
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}"
    key = ".".join([keys.get(path[0], path[0]), *path[1:]])
    text = _ALLOWED.get(path[0]) or _ALLOWED.get(".".join(path[:2]), "")
    allowed = f"; allowed: {text}" if text else ""
    if detail["type"] == "extra_forbidden":
        section = _SECTIONS.get(path[0], ModelConfig)
        return f"{where}: unknown key {key!r}{allowed or '; allowed: ' + ', '.join(section.model_fields)}"
    if path[0] in _SECTIONS and len(path) == 1 and detail["type"] == "value_error":
        return f"{where}: {key}: {detail['msg'].removeprefix('Value error, ')}"
    return f"{where}: {key} = {_short(detail['input'])}: {detail['msg'].removeprefix('Value error, ')}{allowed}"


def _short(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = [
    "DEFAULT_MAX_QUEUE_SIZE",
    "LatestPolicy",
    "ModelConfig",
    "SpecificPolicy",
    "TensorDeclaration",
    "VersionPolicy",
    "check_batching",
    "model_config_from",
    "parse_model_yaml",
]
