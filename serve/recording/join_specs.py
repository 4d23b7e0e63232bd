"""What a worker tells its keeper of a model's `monitoring`, by which labels are compared with answers."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from serve.monitors import MonitoringSpec
from serve.recording.jobs import Message

MONITORING = "monitoring"

_KNOWN = frozenset(one.name for one in fields(MonitoringSpec))


def monitoring_message(model: str, spec: MonitoringSpec) -> Message:
    """{"type": "monitoring", "model", "spec"}: to be told when a version is loaded, and to every new keeper."""
    return {"type": MONITORING, "model": model, "spec": asdict(spec)}


def told_spec(message: Mapping[str, Any]) -> tuple[str, MonitoringSpec]:
    """The inverse; keys of a later release are left out. Raises KeyError or TypeError for what is no such message."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in message["spec"].items()
                              if name in _KNOWN}
    return str(message["model"]), MonitoringSpec(**values)


__all__ = ["MONITORING", "monitoring_message", "told_spec"]
