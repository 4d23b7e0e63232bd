"""Triton's model configuration, read: config.pbtxt files, and the `config` parameter of a load request.

A field that is set and cannot be honoured is refused by its name, or warned of when lenient. What Triton's shape can say is listed in
wire order in `_HONOURED`; everything else of its schema is not honoured.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.message import Message

from serve.errors import ConfigurationError
from serve.models.config import ModelConfig, model_config_from
from serve.models.repository import MODEL_FILE
from serve.protocol import messages

_log = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"

# Parameters that the server adds when it tells a configuration begin so; they are not the operator's, and not read back.
OWN_PARAMETERS = "headrace."

_Tree = Mapping[str, Any]
_LEAF: _Tree = {}
_HONOURED: _Tree = {
    "name": _LEAF,
    "platform": _LEAF,
    "backend": _LEAF,
    "max_batch_size": _LEAF,
    "input": {"name": _LEAF, "data_type": _LEAF, "dims": _LEAF},
    "output": {"name": _LEAF, "data_type": _LEAF, "dims": _LEAF, "label_filename": _LEAF},
    "version_policy": {"latest": {"num_versions": _LEAF}, "all": {}, "specific": {"versions": _LEAF}},
    "dynamic_batching": {
        "preferred_batch_size": _LEAF,
        "max_queue_delay_microseconds": _LEAF,
        "default_queue_policy": {"max_queue_size": _LEAF, "default_timeout_microseconds": _LEAF, "allow_timeout_override": _LEAF},
    },
    # The name of a group is for people.
    "instance_group": {"name": _LEAF, "count": _LEAF, "kind": _LEAF, "gpus": _LEAF},
    "default_model_filename": _LEAF,
    "parameters": {"string_value": _LEAF},
}
# Messages that ask for something only by a field that is set in them: `response_cache { enable: false }` asks for nothing.
_INERT_WHEN_EMPTY = frozenset({"optimization", "model_transaction_policy", "response_cache", "model_metrics", "model_operations"})

# Our keys in errors, as the operator wrote them.
_KEYS = {
    "inputs": "input",
    "outputs": "output",
    "preferred_batch_sizes": "dynamic_batching.preferred_batch_size",
    "max_queue_delay_us": "dynamic_batching.max_queue_delay_microseconds",
    "max_queue_size": "dynamic_batching.default_queue_policy.max_queue_size",
    "default_queue_timeout_us": "dynamic_batching.default_queue_policy.default_timeout_microseconds",
    "instances": "instance_group.count",
    "device": "instance_group.kind",
    "class_labels": "output.label_filename",
}
# Triton's shape cannot say these, so an override keeps what is on disk.
_KEPT_BY_OVERRIDE = ("description", "labels", "warmup", "recording", "monitoring", "provenance")


def read_config_pbtxt(text: str, where: str, model_name: str, *, lenient: bool = False) -> ModelConfig:
    """Reads the text of a config.pbtxt. `where` names it in errors. Raises ConfigurationError."""
    message = messages.ModelConfig()
    try:
        text_format.Parse(text, message, allow_unknown_field=lenient)
    except text_format.ParseError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    return _model_config(message, where, model_name, lenient)


def from_override(json_text: str, model_name: str, base: ModelConfig) -> ModelConfig:
    """Reads the `config` parameter of a load request, Triton's shape in JSON, as ModelConfig answers it.

    It replaces the configuration on disk, `base`, but for what Triton's shape cannot say. Raises ConfigurationError.
    """
    where = "parameter 'config'"
    message = messages.ModelConfig()
    try:
        json_format.ParseDict(_json_object(json_text), message)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        # The first line says what is wrong; the next ones list the whole schema.
        raise ConfigurationError(f"{where}: not a model configuration in JSON: {str(error).partition(chr(10))[0]}") from error
    config = _model_config(message, where, model_name, lenient=False)
    kept = {key: getattr(base, key) for key in _KEPT_BY_OVERRIDE}
    return config.model_copy(update={**kept, "class_labels": {**base.class_labels, **config.class_labels}})


def _json_object(text: str) -> dict[str, Any]:
    """json_format itself takes a list for an object, keeps the last of equal keys in places, and breaks on lone surrogates."""
    data = json.loads(text, object_pairs_hook=_unique_keys)
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, found {type(data).__name__}")
    json.dumps(data, ensure_ascii=False).encode()
    return data


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' is given twice")
    return dict(pairs)


def _model_config(message: messages.ModelConfig, where: str, model_name: str, lenient: bool) -> ModelConfig:
    refused = list(_unhonoured(message, _HONOURED, ""))
    if refused and not lenient:
        raise ConfigurationError(f"{where}: {', '.join(refused)} cannot be honoured; remove what is not needed")
    for field in refused:
        _log.warning("%s: %s cannot be honoured and is ignored", where, field)
    _expect("name", message.name, model_name, where)
    _expect("platform", message.platform, PLATFORM, where)
    _expect("backend", message.backend, BACKEND, where)
    _expect("default_model_filename", message.default_model_filename, MODEL_FILE, where)
    data = {
        **_tensors(message, where),
        **_batching(message.dynamic_batching),
        **_instances(message.instance_group, where, lenient),
        **_version_policy(message.version_policy),
        "class_labels": {output.name: output.label_filename for output in message.output if output.label_filename},
        "parameters": {key: value.string_value for key, value in message.parameters.items() if not key.startswith(OWN_PARAMETERS)},
    }
    return model_config_from(data, where, _KEYS)


def _unhonoured(message: Message, honoured: _Tree, prefix: str) -> Iterator[str]:
    """Dotted names of the set fields that `honoured` lacks, each once, in wire order."""
    seen: set[str] = set()
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if field.name not in honoured:
            if not (field.name in _INERT_WHEN_EMPTY and _says_nothing(value)):
                yield name
            continue
        for part in _messages_in(value):
            for found in _unhonoured(part, honoured[field.name], f"{name}."):
                if found not in seen:
                    seen.add(found)
                    yield found


def _messages_in(value: Any) -> Sequence[Message]:
    if isinstance(value, Message):
        return (value,)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return [item for item in items if isinstance(item, Message)]


def _says_nothing(value: Any) -> bool:
    return isinstance(value, Message) and all(_says_nothing(part) for _, part in value.ListFields())


def _expect(field: str, value: str, wanted: str, where: str) -> None:
    if value not in ("", wanted):
        raise ConfigurationError(f"{where}: {field} = '{value}': only '{wanted}' can be served here")


def _tensors(message: messages.ModelConfig, where: str) -> dict[str, Any]:
    if not (message.max_batch_size or message.input or message.output):
        # A configuration this short is to be completed from the graph, as Triton does.
        return {}
    batch = [-1] if message.max_batch_size else []
    return {
        "max_batch_size": message.max_batch_size,
        "inputs": [_declaration("input", tensor, batch, where) for tensor in message.input],
        "outputs": [_declaration("output", tensor, batch, where) for tensor in message.output],
    }


def _declaration(kind: str, tensor: messages.ModelInput | messages.ModelOutput, batch: list[int], where: str) -> dict[str, Any]:
    if tensor.data_type == messages.TYPE_INVALID:
        raise ConfigurationError(f"{where}: {kind} '{tensor.name}' has no data_type")
    return {"name": tensor.name, "datatype": datatype_from_triton(tensor.data_type), "shape": [*batch, *tensor.dims]}


def datatype_from_triton(number: int) -> str:
    """OIP name of a number of Triton's DataType."""
    name = messages.DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def datatype_to_triton(datatype: str) -> str:
    """Triton's enumeration name of an OIP datatype."""
    return f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}"


def _batching(batching: messages.ModelDynamicBatching) -> dict[str, Any]:
    policy = batching.default_queue_policy
    data: dict[str, Any] = {
        "preferred_batch_sizes": sorted(set(batching.preferred_batch_size)),
        "max_queue_delay_us": batching.max_queue_delay_microseconds,
        "default_queue_timeout_us": policy.default_timeout_microseconds,
    }
    # 0 is "no bound" there; here every queue has one.
    return data | ({"max_queue_size": policy.max_queue_size} if policy.max_queue_size else {})


def _instances(groups: Sequence[messages.ModelInstanceGroup], where: str, lenient: bool) -> dict[str, Any]:
    if not groups:
        return {}
    group = groups[0]
    if len(groups) > 1 or len(group.gpus) > 1 or group.kind == messages.ModelInstanceGroup.KIND_MODEL:
        found = f"{len(groups)} group(s) with gpus {list(group.gpus)} and {messages.ModelInstanceGroup.Kind.Name(group.kind)}"
        text = f"{where}: instance_group: one group on the CPU or on one GPU can be honoured, not {found}"
        if not lenient:
            raise ConfigurationError(text)
        _log.warning("%s; the first is taken", text)
    data: dict[str, Any] = {"instances": group.count} if group.count else {}
    if group.kind == messages.ModelInstanceGroup.KIND_CPU:
        return data | {"device": "cpu"}
    if group.gpus:
        return data | {"device": f"cuda:{group.gpus[0]}"}
    return data | ({"device": "cuda"} if group.kind == messages.ModelInstanceGroup.KIND_GPU else {})


def _version_policy(policy: messages.ModelVersionPolicy) -> dict[str, Any]:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return {"version_policy": "all"}
        case "latest":
            return {"version_policy": {"latest": policy.latest.num_versions}}
        case "specific":
            return {"version_policy": {"specific": list(policy.specific.versions)}}
        case _:
            return {}


__all__ = ["BACKEND", "OWN_PARAMETERS", "PLATFORM", "datatype_from_triton", "datatype_to_triton", "from_override", "read_config_pbtxt"]
