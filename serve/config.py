"""Settings from flag, environment HEADRACE_<FLAG>, file and default, in that order. Frozen; unknown keys are refused.

Only the command line hands in the environment; nothing else reads it.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from serve.config_records import RecordSettings
from serve.cpus import available_cpus
from serve.errors import ConfigurationError

Port = Annotated[int | None, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]

# What the native threads' tables hold (version.pxd).
MAX_IO_THREADS = 16
MAX_INSTANCES = 64

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid")
# What a container finds in <SERVICE>_PORT for each service of its namespace (docker links: udp, sctp too).
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class Limits(BaseModel):
    """What a client may ask of a worker. Bytes in `_bytes`, seconds in `_s`."""

    model_config = _STRICT

    max_body_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1, description="Largest message or body, after decompression too.")] = 64 << 20
    max_in_flight_bytes: Annotated[int, Field(ge=1024, le=2**62, description="Bytes of all requests held at once.")] = 1 << 30
    max_connections: Annotated[Count, Field(description="Open connections of a worker.")] = 2000
    header_timeout_s: Annotated[PositiveSeconds, Field(description="A request's headers must have come by then.")] = 10.0
    idle_timeout_s: Annotated[PositiveSeconds, Field(description="A connection without a request is closed after this.")] = 75.0
    min_body_rate: Annotated[int, Field(ge=0, le=2**31 - 1, description="Bytes a second that a body must keep up; 0 is off.")] = 1024
    max_streams: Annotated[Count, Field(description="Concurrent HTTP/2 streams of a connection.")] = 1000
    max_deadline_s: Annotated[PositiveSeconds, Field(description="Longest deadline that a client may ask for.")] = 60.0

    @model_validator(mode="after")
    def _body_fits(self) -> "Limits":
        if self.max_body_bytes > self.max_in_flight_bytes:
            raise ValueError(f"max_body_bytes {self.max_body_bytes} is over max_in_flight_bytes {self.max_in_flight_bytes}")
        return self


class Settings(BaseModel):
    """Everything that can be set. A port of 0 picks a free one, None turns it off."""

    model_config = _STRICT

    paths: Annotated[tuple[Path, ...], Field(min_length=1, description="Model files, model folders and repositories.")]
    host: Annotated[str, Field(min_length=1, description="Address of the HTTP, gRPC and metrics ports.")] = "127.0.0.1"
    http_port: Annotated[Port, Field(description="HTTP port; 0 picks a free one, none turns it off.")] = 8000
    grpc_port: Annotated[Port, Field(description="gRPC port; either data port speaks both protocols.")] = 8001
    metrics_port: Annotated[Port, Field(description="Prometheus metrics port.")] = 8002
    admin_port: Annotated[Port, Field(description="Admin port.")] = 8003
    admin_host: Annotated[str, Field(min_length=1, description="Address of the admin port; a loopback address.")] = "127.0.0.1"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,3})$", description="auto, cpu, cuda or cuda:N.")] = "auto"
    io_threads: Annotated[int, Field(ge=1, le=MAX_IO_THREADS, description="I/O threads; a quarter of the cores unless given.")] = 1
    instances: Annotated[int | None, Field(ge=1, le=MAX_INSTANCES, description="Runs at a time on a device; 1 on a GPU, the cores without "
                                                                      "the I/O threads on the CPU unless given.")] = None
    busy_poll_us: Annotated[int, Field(ge=0, le=1_000_000, description="Spin this long before sleeping; adaptive is 200, 0 is off.")] = 200
    model_control: Annotated[Literal["none", "explicit"], Field(description="explicit lets clients load and unload.")] = "none"
    strict_readiness: Annotated[bool, Field(description="Ready only when every start-up model is.")] = True
    not_ready_status: Annotated[Literal[503, 400], Field(description="HTTP status of ready when not; 400 is Triton's habit.")] = 503
    lenient_config: Annotated[bool, Field(description="Warn about unknown keys of config.pbtxt instead of refusing them.")] = False
    state_dir: Annotated[Path, Field(description="Crash marks and what else must outlive a worker.")]
    audit_key_file: Annotated[Path | None, Field(description="Key of the audit's message authentication codes.")] = None
    webhooks: Annotated[Path | None, Field(description="YAML list of webhooks for changes and verdicts: url, secret_file, types.")] = None
    server_name: Annotated[str, Field(min_length=1, max_length=128, description="Name reported by /v2.")] = "headrace"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Lowest level logged.")] = "info"
    log_format: Annotated[Literal["text", "json"], Field(description="text for people, json for machines.")] = "text"
    access_log: Annotated[bool, Field(description="Log each call, of any protocol, once it has ended.")] = False
    drain_timeout_s: Annotated[Seconds, Field(description="Requests in flight may take this long after SIGTERM.")] = 30.0
    pre_stop_delay_s: Annotated[Seconds, Field(description="Not ready, yet serving, for this long before the drain.")] = 0.0
    limits: Limits = Limits()
    recording: RecordSettings = RecordSettings()

    @model_validator(mode="after")
    def _ports_differ(self) -> "Settings":
        if self.http_port is None and self.grpc_port is None:
            raise ValueError("http_port and grpc_port are both none: at least one must be on")
        taken = [port for port in (self.http_port, self.grpc_port, self.metrics_port, self.admin_port) if port]
        if len(taken) != len(set(taken)):
            raise ValueError(f"http_port, grpc_port, metrics_port and admin_port must differ, not {taken}")
        return self

    @model_validator(mode="after")
    def _admin_is_local(self) -> "Settings":
        if self.admin_port is not None and not _is_loopback(self.admin_host):
            raise ValueError(f"admin_host {self.admin_host!r} is not a loopback address: the admin plane has no authentication")
        return self


# How flag, environment and file call a setting (flags with - for _) -> its field: flat, and seconds go without saying.
_GROUPS: Mapping[str, type[BaseModel]] = {"limits": Limits, "recording": RecordSettings}
_FIELDS: Mapping[str, FieldInfo] = {
    **{name: field for name, field in Settings.model_fields.items() if name not in _GROUPS},
    **{name: field for group in _GROUPS.values() for name, field in group.model_fields.items()},
}
KEYS = {name.removesuffix("_s"): name for name in _FIELDS}


def field_of(key: str) -> FieldInfo:
    """The field behind a key of KEYS."""
    return _FIELDS[KEYS[key]]


def group_of(key: str) -> str:
    """Which settings a key of KEYS belongs to: "limits", "recording", or "" for those of the server itself."""
    return next((name for name, group in _GROUPS.items() if KEYS[key] in group.model_fields), "")


def environment_name(key: str) -> str:
    """The variable that holds a key of KEYS."""
    return f"HEADRACE_{key.upper()}"


# What --help calls the value of a key whose field's type does not say it.
_VALUES = {"host": "ADDRESS", "admin_host": "ADDRESS", "device": "auto|cpu|cuda|cuda:N", "state_dir": "DIR", "webhooks": "FILE",
           "busy_poll_us": "MICROSECONDS|adaptive", "min_body_rate": "BYTES/S", "records": "DIR_OR_URL", "replica_id": "NAME",
           "record_retention_days": "DAYS", "monitor_command": "COMMAND"}


def value_of(key: str) -> str:
    """A key's choices or unit, as --help shows them."""
    field, name = field_of(key), KEYS[key]
    if key in _VALUES:
        return _VALUES[key]
    if get_origin(field.annotation) is Literal:
        return "|".join(map(str, get_args(field.annotation)))
    if name.endswith("_port"):
        return "PORT|none"
    return "SECONDS" if name.endswith("_s") else "BYTES" if name.endswith("_bytes") else "TEXT" if isinstance(field.default, str) else "N"


class SettingError(ConfigurationError):
    """A setting that cannot be honoured. source: "flag", "environment", "file FILE" or "default"; allowed: what would do."""

    def __init__(self, source: str, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key} = {value!r} ({source}): {allowed}")
        self.source, self.key, self.value, self.allowed = source, key, value, allowed


def instances_on(settings: Settings, on_gpu: bool, cpus: int | None = None) -> int:
    """Concurrent runs of one device: as set, else 1 on a GPU, else the cores that the I/O threads leave, at least 1."""
    if settings.instances is not None:
        return settings.instances
    return 1 if on_gpu else min(MAX_INSTANCES, max(1, (cpus or available_cpus()) - settings.io_threads))


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None, cpus: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Settings:
    """Settings from flags (None: not given), environment, YAML file and defaults, the first that names a key winning.

    warn: told what is ignored: variables that Kubernetes makes of a service's name (HEADRACE_METRICS_PORT=tcp://10.0.0.1:8002).
    Raises ConfigurationError: SettingError for a value, naming its source.
    """
    sources = [("flag", {k: v for k, v in flags.items() if v is not None}), ("environment", _from_environment(environment, warn)),
               ("default", _defaults(environment, cpus))]
    if file is not None:
        sources.insert(2, (f"file {file}", _from_file(file)))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, given in sources:
        for key, value in given.items():
            if key not in values:
                values[key], origins[key] = _parsed(source, key, value), source
    try:
        return Settings.model_validate(_nested(values))
    except ValidationError as error:
        raise _setting_error(error, values, origins) from error


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {name: {} for name in ("", *_GROUPS)}
    for key, value in values.items():
        groups[group_of(key)][KEYS[key]] = value
    return groups.pop("") | groups


def _from_environment(environment: Mapping[str, str], warn: Callable[[str], None]) -> dict[str, Any]:
    # Other HEADRACE_* variables are not ours to refuse: Kubernetes makes some from a service's name.
    found = {k: environment[name] for k in KEYS if (name := environment_name(k)) in environment}
    for key in [k for k, value in found.items() if k.endswith("_port") and _SERVICE_ADDRESS.match(value)]:
        warn(f"{environment_name(key)}={found.pop(key)} is ignored: Kubernetes has set it for a service of that name (enableServiceLinks)")
    return found


def _from_file(file: Path) -> dict[str, Any]:
    import yaml

    source = f"file {file}"
    try:
        text = file.read_text(encoding="utf-8")
        content, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"--config {file}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"--config {file}: must be a mapping of settings, not {type(content).__name__}")
    assert isinstance(node, yaml.MappingNode)
    names = [key.value for key, _ in node.value]
    for key, value in content.items():
        if names.count(key) > 1:        # YAML would keep the last one
            raise SettingError(source, key, value, "is given more than once")
        if key not in KEYS:
            raise SettingError(source, str(key), value, f"no such setting; there are {', '.join(KEYS)}")
        if value is None:
            raise SettingError(source, key, value, "has no value; write none in quotes or leave the line out")
    return content


def _defaults(environment: Mapping[str, str], cpus: int | None) -> dict[str, Any]:
    state_home = environment.get("XDG_STATE_HOME", "")
    if not state_home.startswith("/"):      # the XDG specification: a relative path is to be ignored
        state_home = str(Path(environment.get("HOME", "~")).expanduser() / ".local" / "state")
    io_threads = min(MAX_IO_THREADS, max(1, (cpus or available_cpus()) // 4))
    return {"io_threads": io_threads, "state_dir": str(Path(state_home) / "headrace"), "paths": ()}


def _parsed(source: str, key: str, value: Any) -> Any:
    """What a string means for this key; everything else is left to the strict model."""
    if key == "paths":
        paths = value.split(":") if isinstance(value, str) else value
        if not isinstance(paths, list | tuple) or not all(isinstance(p, str | Path) and str(p) for p in paths):
            raise SettingError(source, key, value, "must be a list of paths")
        return tuple(Path(p).absolute() for p in paths)
    if not isinstance(value, str):
        return value
    if key in ("state_dir", "webhooks", "audit_key_file"):
        return Path(value).absolute()
    field = field_of(key)
    text = value.strip().lower()
    if key.endswith("_port") and text == "none":
        return None
    if key == "busy_poll_us" and text == "adaptive":
        return 200
    if field.annotation is bool:
        if text not in _WORDS:
            raise SettingError(source, key, value, f"must be one of {', '.join(_WORDS)}")
        return _WORDS[text]
    if key == "records" and "://" not in value:
        return str(Path(value).absolute())
    if isinstance(field.default, str) or str in get_args(field.annotation):
        return value
    return _number(source, key, value, float if isinstance(field.default, float) else int)


def _number(source: str, key: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        if "_" in text:                      # Python's own spelling, nobody else's
            raise ValueError
        return kind(text)
    except ValueError:
        also = " or none" if key.endswith("_port") else " or adaptive" if key == "busy_poll_us" else ""
        raise SettingError(source, key, text, f"must be {'an integer' if kind is int else 'a number'}{also}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _setting_error(error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]) -> ConfigurationError:
    first = error.errors()[0]
    key = next((k for part in reversed(first["loc"]) for k, field in KEYS.items() if field == part and k in values), None)
    if key is None:
        return ConfigurationError(first["msg"].removeprefix("Value error, "))
    if key == "paths":
        return SettingError(origins[key], key, [], "nothing to serve: name a model file, a model folder or a repository")
    return SettingError(origins[key], key, values[key], first["msg"].removeprefix("Input should be ").removeprefix("Value error, "))
