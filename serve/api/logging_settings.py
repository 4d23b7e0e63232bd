"""The logging extension's settings: what a client sends, checked, for either protocol.

Source: Triton's logging extension. A setting that is not sent, or sent as null, stays as it is. `log_file` is always reported empty and
never accepted: a client must not choose a path on the server.
"""

from collections.abc import Callable, Mapping

from serve.errors import InvalidArgument, NotImplementedHere
from serve.telemetry.logs import LOG_FORMATS, LogSettings

Value = bool | int | str


def settings_as_mapping(settings: LogSettings) -> dict[str, Value]:
    """All settings, in the order and with the types that the extension gives them."""
    return {
        "log_file": "",
        "log_info": settings.log_info,
        "log_warning": settings.log_warning,
        "log_error": settings.log_error,
        "log_verbose_level": settings.log_verbose_level,
        "log_format": settings.log_format,
    }


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(f"the log setting '{name}' must be true or false, got {value!r}")
    return value


def _level(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise InvalidArgument(f"the log setting '{name}' must be an integer from 0 to 2147483647, got {value!r}")
    return value


def _format(name: str, value: object) -> str:
    if not isinstance(value, str) or value not in LOG_FORMATS:
        raise InvalidArgument(f"invalid argument for --{name}, got: {value}; choose {' or '.join(LOG_FORMATS)}")
    return value


_CHECKS: Mapping[str, Callable[[str, object], Value]] = {
    "log_info": _flag, "log_warning": _flag, "log_error": _flag, "log_verbose_level": _level, "log_format": _format,
}


def updated_settings(settings: LogSettings, changes: Mapping[str, object]) -> LogSettings:
    """The settings with the changes made: all of them, or none.

    Raises InvalidArgument for an unknown setting or a value of the wrong type, and NotImplementedHere for a log file.
    """
    if changes.get("log_file") not in (None, ""):
        raise NotImplementedHere("log file location can not be updated through network protocol; choose where logs go at start")
    unknown = sorted(changes.keys() - _CHECKS.keys() - {"log_file"})
    if unknown:
        raise InvalidArgument(f"unknown log setting '{unknown[0]}'; known are log_file, {', '.join(_CHECKS)}")
    checked = {name: _CHECKS[name](name, value) for name, value in changes.items() if name in _CHECKS and value is not None}
    return settings.model_copy(update=checked)
