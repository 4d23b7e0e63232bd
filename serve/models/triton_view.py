"""A model's configuration as clients of Triton read it: the protobuf-JSON shape of ModelConfig, snake_case, enumerations by name.

64-bit numbers are numbers, as in Triton's own answers. `triton_config.from_override` reads the result back.
"""

from typing import Any

from serve.models.config import LatestPolicy, ModelConfig, SpecificPolicy
from serve.models.repository import MODEL_FILE
from serve.models.triton_config import BACKEND, OWN_PARAMETERS, datatype_to_triton
from serve.types import ModelDescription, TensorSpec


def triton_config(description: ModelDescription, config: ModelConfig, *, instances: int, device: str) -> dict[str, Any]:
    """The configuration of one loaded version. instances, device: as it runs ("cpu", "cuda:0")."""
    is_batched = description.max_batch_size > 0
    view: dict[str, Any] = {
        "name": description.name,
        "platform": description.platform,
        "backend": BACKEND,
        "version_policy": _version_policy(config),
        "max_batch_size": description.max_batch_size,
        "input": [_input(spec, is_batched) for spec in description.inputs],
        "output": [_output(spec, is_batched, config) for spec in description.outputs],
        "batch_input": [],
        "batch_output": [],
        "instance_group": [_instance_group(description.name, instances, device)],
        "default_model_filename": MODEL_FILE,
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {key: {"string_value": value} for key, value in {**config.parameters, **_identity(description)}.items()},
        "model_warmup": [],
        "model_transaction_policy": {"decoupled": False},
    }
    return view | ({"dynamic_batching": _dynamic_batching(config)} if is_batched else {})


def _identity(description: ModelDescription) -> dict[str, str]:
    """What the version is and where it comes from. No parameter of the operator: `from_override` leaves these out."""
    if not description.digest:
        return {}
    provenance = {f"{OWN_PARAMETERS}provenance.{key}": value for key, value in description.provenance.items()}
    return {f"{OWN_PARAMETERS}digest": description.digest, **provenance}


def _version_policy(config: ModelConfig) -> dict[str, Any]:
    policy = config.version_policy
    if isinstance(policy, LatestPolicy):
        return {"latest": {"num_versions": policy.latest}}
    if isinstance(policy, SpecificPolicy):
        return {"specific": {"versions": [int(version) for version in policy.specific]}}
    return {"all": {}}


def _tensor(spec: TensorSpec, is_batched: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": datatype_to_triton(spec.datatype),
        "dims": list(spec.shape[1:] if is_batched else spec.shape),
        "is_shape_tensor": False,
    }


def _input(spec: TensorSpec, is_batched: bool) -> dict[str, Any]:
    return _tensor(spec, is_batched) | {"format": "FORMAT_NONE", "allow_ragged_batch": False, "optional": False}


def _output(spec: TensorSpec, is_batched: bool, config: ModelConfig) -> dict[str, Any]:
    labels = config.class_labels.get(spec.name, "")
    return _tensor(spec, is_batched) | {"label_filename": labels if isinstance(labels, str) else ""}


def _dynamic_batching(config: ModelConfig) -> dict[str, Any]:
    return {
        "preferred_batch_size": list(config.preferred_batch_sizes),
        "max_queue_delay_microseconds": config.max_queue_delay_us,
        "preserve_ordering": False,
        "priority_levels": 0,
        "default_priority_level": 0,
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": config.default_queue_timeout_us,
            "allow_timeout_override": True,
            "max_queue_size": config.max_queue_size,
        },
        "priority_queue_policy": {},
    }


def _instance_group(name: str, instances: int, device: str) -> dict[str, Any]:
    is_gpu = device != "cpu"
    gpus = [int(device.partition(":")[2] or 0)] if is_gpu else []
    return {"name": name, "kind": "KIND_GPU" if is_gpu else "KIND_CPU", "count": instances, "gpus": gpus}


__all__ = ["triton_config"]
