"""YAML, read so that nothing is lost silently: one document, a mapping, no key twice."""

from collections.abc import Hashable
from typing import Any

import yaml

from serve.errors import ConfigurationError


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; an operator meant one of them, and we do not know which."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """The one mapping in `text`; {} when the text is empty. `where` names the file in errors. Raises ConfigurationError."""
    try:
        data = _UniqueKeyLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigurationError(f"{where}: nested too deeply") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"{where}: expected a mapping of keys to values, found {type(data).__name__}")
    return data
