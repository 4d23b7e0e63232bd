from collections.abc import Callable, Iterable
from typing import Literal, Self, TypeAlias

from typing_extensions import disjoint_base

_Events: TypeAlias = Callable[[Literal["message", "half_close", "cancel"], bytes], None]

@disjoint_base
class Exchange:
    protocol: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    deadline_ns: int
    events: _Events | None
    @property
    def finished(self) -> bool: ...
    def respond(self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None: ...
    def send(self, message: bytes) -> None: ...
    def taken(self, n_bytes: int) -> None: ...
    def finish(self, code: int = 0, text: str = "") -> None: ...

@disjoint_base
class ControlQueue:
    def __new__(cls, limit: int = 1024) -> Self: ...
    def fileno(self) -> int: ...
    def take(self) -> list[Exchange]: ...
    def release(self, exchange: Exchange) -> None: ...
