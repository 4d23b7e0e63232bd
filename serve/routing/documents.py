"""Documents as text: JSON or YAML in, plain values out, so that nothing is lost silently; and what is wrong with them, by field."""

import json
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from serve.errors import Unprocessable

MAX_DOCUMENT_BYTES = 1 << 20
# Keys and values of a YAML text. No document of ours has so many, and a text full of them would keep the control plane busy for seconds.
MAX_YAML_NODES = 20_000

_Model = TypeVar("_Model", bound=BaseModel)


class _PlainLoader(yaml.SafeLoader):
    """What JSON could say: no key twice, no aliases (they grow exponentially), no dates (the field that wants one reads it itself)."""

    n_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.n_nodes += 1
        if self.n_nodes > MAX_YAML_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_YAML_NODES:,} keys and values", self.get_mark())
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias is not allowed: write the value out", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text: quote it", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_document(text: str) -> dict[str, Any]:
    """The one mapping in `text`, JSON or YAML; {} when the text is empty. Raises Unprocessable."""
    size = len(text.encode())
    if size > MAX_DOCUMENT_BYTES:
        raise Unprocessable(f"the document has {size:,} bytes; the limit is {MAX_DOCUMENT_BYTES:,}")
    try:
        data = _PlainLoader(text).get_single_data()
        json.dumps(data, allow_nan=False)   # tags such as !!binary make values that no document of ours has
    except yaml.YAMLError as error:
        raise Unprocessable(f"not valid YAML or JSON: {' '.join(str(error).split())}") from error
    except (RecursionError, TypeError, ValueError) as error:
        raise Unprocessable(f"not what JSON could say: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise Unprocessable(f"expected a mapping of keys to values, found {type(data).__name__}")
    return data


def validated(kind: type[_Model], document: Mapping[str, Any]) -> _Model:
    """`document` as a value of `kind`. Raises Unprocessable, which names every field that is wrong by its path."""
    try:
        return kind.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise Unprocessable(explained(error)) from error


def explained(error: ValidationError) -> str:
    """Every fault as `path: what is wrong`, for example `steps.0.weight: Input should be less than or equal to 9999, got 12000`."""
    faults = []
    for fault in error.errors(include_url=False):
        path = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            said = "unknown field"
        elif fault["type"] == "value_error":
            said = str(fault["ctx"]["error"])
        elif fault["type"] == "missing":
            said = "is missing"
        else:
            said = f"{fault['msg']}, got {json.dumps(fault['input'], default=str)[:80]}"
        faults.append(f"{path}: {said}" if path else said)
    return "; ".join(faults)


__all__ = ["MAX_DOCUMENT_BYTES", "explained", "read_document", "validated"]
