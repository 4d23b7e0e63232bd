"""What supervisor and worker say to each other: one JSON object a line over a socket pair.

The supervisor speaks first (`Start`, with all settings); the pair is the worker's standard input. Descriptors are inherited, so a
`Sockets` names numbers that are valid in the worker.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from serve.config import Settings
from serve.errors import InternalError

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid")
MAX_LINE_BYTES = 16 << 20


class Sockets(BaseModel):
    """Descriptors of listening sockets, non-blocking. http and grpc: one for each I/O thread, empty when off."""

    model_config = _STRICT
    http: tuple[int, ...] = ()
    grpc: tuple[int, ...] = ()
    metrics: int | None = None
    admin: int | None = None

    def all(self) -> tuple[int, ...]:
        return (*self.http, *self.grpc, *(fd for fd in (self.metrics, self.admin) if fd is not None))


class Start(BaseModel):
    """First line to a worker. epoch counts this supervisor's workers from 1; restarts those of them that replaced a dead one."""

    model_config = _STRICT
    do: Literal["start"] = "start"
    settings: Settings
    sockets: Sockets
    epoch: int
    restarts: int
    supervisor_pid: int


class Drain(BaseModel):
    """Turn not ready, serve on for pre_stop_delay_s, then finish what is in flight within timeout_s, say Drained, exit with 0."""

    model_config = _STRICT
    do: Literal["drain"] = "drain"
    pre_stop_delay_s: float
    timeout_s: float


class Ping(BaseModel):
    """Are you there? The worker's channel answers with Pong by itself."""

    model_config = _STRICT
    do: Literal["ping"] = "ping"


class InputLine(BaseModel):
    """An input as the banner needs it: enough for an example request. shape: -1 for a dynamic dimension."""

    model_config = _STRICT
    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelLine(BaseModel):
    """A model of the start-up set. versions: the ready ones, ascending; digests: version -> sha256:<hex> of its files; problem: why some or
    all are not ready, else "".
    """

    model_config = _STRICT
    name: str
    versions: tuple[str, ...] = ()
    digests: Mapping[str, str] = {}
    inputs: tuple[InputLine, ...] = ()
    problem: str = ""


class Started(BaseModel):
    """The worker's Python is up and has read its settings; it loads models next."""

    model_config = _STRICT
    event: Literal["started"] = "started"
    pid: int


class Ready(BaseModel):
    """The worker accepts connections. device: "cpu", "cuda:0", ..."""

    model_config = _STRICT
    event: Literal["ready"] = "ready"
    models: tuple[ModelLine, ...] = ()
    device: str = "cpu"


class Failed(BaseModel):
    """The worker cannot serve and is about to exit. exit: 1 configuration, 3 no model loaded; never tried again."""

    model_config = _STRICT
    event: Literal["failed"] = "failed"
    exit: Literal[1, 3]
    text: str


class Drained(BaseModel):
    """Nothing is in flight any more; the worker exits with 0 next."""

    model_config = _STRICT
    event: Literal["drained"] = "drained"


class Pong(BaseModel):
    """The answer to Ping."""

    model_config = _STRICT
    event: Literal["pong"] = "pong"


Command = Start | Drain | Ping
Event = Started | Ready | Failed | Drained | Pong

_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="do")])
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def encode(message: Command | Event) -> bytes:
    """One line, newline included."""
    return message.model_dump_json().encode() + b"\n"


def decode_command(line: bytes) -> Command:
    """Raises InternalError: both ends are of one version, so an unknown line is our own fault."""
    try:
        return _COMMAND.validate_json(line)
    except ValidationError as error:
        raise InternalError(f"the supervisor sent a line that is no command: {error}") from error


def decode_event(line: bytes) -> Event:
    """Raises InternalError: both ends are of one version, so an unknown line is our own fault."""
    try:
        return _EVENT.validate_json(line)
    except ValidationError as error:
        raise InternalError(f"the worker sent a line that is no event: {error}") from error


class Lines:
    """Cuts a byte stream into lines. At most MAX_LINE_BYTES are kept of an unfinished one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise InternalError(f"a control line is longer than {MAX_LINE_BYTES} bytes")
        return lines
