import socket

from typing_extensions import disjoint_base

from serve._core.control_queue import ControlQueue
from serve._core.model_table import ModelTable
from serve._core.recorder import NativeRecorder

COUNTS_TENSOR_COPIES: bool

@disjoint_base
class Server:
    count: int
    sockets: tuple[list[socket.socket], list[socket.socket]]
    table: ModelTable
    control: ControlQueue
    def __init__(
        self,
        http: list[socket.socket],
        grpc: list[socket.socket],
        table: ModelTable,
        control: ControlQueue,
        *,
        max_body: int = ...,
        max_in_flight: int = ...,
        max_connections: int = 2000,
        max_streams: int = 1000,
        header_timeout_s: float = 10,
        idle_timeout_s: float = 75,
        deadline_cap_s: float = 60,
        min_body_rate: int = 1024,
        busy_poll_us: int = 200,
        cores_are_scarce: bool = True,
        access_log: bool = False,
        recorder: NativeRecorder | None = None,
    ) -> None: ...
    def start(self) -> None: ...
    def drain(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def is_accepting(self) -> bool: ...
    @property
    def connections(self) -> int: ...
    def counters(self) -> list[dict[str, int]]: ...
    def drain_access_log(self) -> list[dict[str, str | int]]: ...

def stop_all() -> None: ...
def forget_all() -> None: ...
