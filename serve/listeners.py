"""Listening sockets, bound once by the supervisor and lent to every worker."""

import contextlib
import ctypes
import errno
import resource
import socket
import struct
from dataclasses import dataclass

from serve.config import Settings
from serve.control import Sockets
from serve.errors import ConfigurationError

BACKLOG = 1024
RESERVED_DESCRIPTORS = 128      # for models, state, metrics and admin, whatever clients do
WANTED_DESCRIPTORS = 8192       # beside clients' where the limit allows: a journal for each version that is recorded
_SO_ATTACH_FILTER = 26
# Classic BPF over a TCP segment: drop it when SYN is set and ACK is not. Each line: code, jump if true, jump if false, operand.
_NO_SYN = (
    (0x30, 0, 0, 13),           # load the byte with the flags
    (0x54, 0, 0, 0x12),         # of them SYN and ACK
    (0x15, 0, 1, 0x02),         # only SYN?
    (0x06, 0, 0, 0),            # drop
    (0x06, 0, 0, 0xFFFFFFFF),   # keep
)


class PortInUse(ConfigurationError):
    """Somebody else listens there; `serve` exits with 4."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports really bound; None where one is off."""

    http: int | None
    grpc: int | None
    metrics: int | None
    admin: int | None


@dataclass(frozen=True, slots=True)
class Listeners:
    """http and grpc: one socket for each I/O thread, so that the kernel spreads connections; metrics and admin: one or none."""

    http: tuple[socket.socket, ...]
    grpc: tuple[socket.socket, ...]
    metrics: tuple[socket.socket, ...]
    admin: tuple[socket.socket, ...]

    def sockets(self) -> Sockets:
        """Their descriptors, as a worker gets them."""
        return Sockets(http=tuple(s.fileno() for s in self.http), grpc=tuple(s.fileno() for s in self.grpc),
                       metrics=self.metrics[0].fileno() if self.metrics else None, admin=self.admin[0].fileno() if self.admin else None)

    def ports(self) -> Ports:
        return Ports(*(group[0].getsockname()[1] if group else None for group in (self.http, self.grpc, self.metrics, self.admin)))

    def close(self) -> None:
        for one in (*self.http, *self.grpc, *self.metrics, *self.admin):
            one.close()


def bind_listeners(settings: Settings) -> Listeners:
    """Raises PortInUse, or ConfigurationError for an address that cannot be bound; nothing stays bound then."""
    groups: list[tuple[socket.socket, ...]] = []
    taken: list[str] = []
    wanted = [("http", settings.host, settings.http_port, settings.io_threads),
              ("grpc", settings.host, settings.grpc_port, settings.io_threads),
              ("metrics", settings.host, settings.metrics_port, 1),
              ("admin", settings.admin_host, settings.admin_port, 1)]
    try:
        for name, host, port, count in wanted:
            try:
                groups.append(() if port is None else _bind_group(name, host, port, count))
            except PortInUse as error:      # go on: all of them are told at once
                taken.append(str(error))
        if taken:
            raise PortInUse("; ".join(taken))
    except ConfigurationError:
        for one in (s for group in groups for s in group):
            one.close()
        raise
    return Listeners(*groups)


def _bind_group(name: str, host: str, port: int, count: int) -> tuple[socket.socket, ...]:
    """`count` sockets on one port. Raises as bind_listeners."""
    sockets: list[socket.socket] = []
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        for _ in range(count):
            one = socket.socket(family, kind, proto)
            sockets.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The first is bound before it may share, or a second server on this port would quietly take half of the connections.
            if one is not sockets[0]:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(address if one is sockets[0] else sockets[0].getsockname())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for one in sockets:
            one.listen(BACKLOG)
    except OSError as error:
        for one in sockets:
            one.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{name} port {port} on {host} is in use; choose another with --{name}-port, or 0 for a free one") from error
        raise ConfigurationError(f"cannot listen on {host} port {port} ({name}): {error.strerror or error}") from error
    return tuple(sockets)


def connections_allowed(wanted: int) -> int:
    """How many connections the limit of open files has room for, at most `wanted`; it is raised first, as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + WANTED_DESCRIPTORS
    if soft < enough and soft != hard:
        soft = enough if hard == resource.RLIM_INFINITY else min(hard, enough)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(1, soft - RESERVED_DESCRIPTORS))


def refuse_newcomers(listener: socket.socket) -> None:
    """No new handshake begins on a listening socket; those under way end as usual.

    Closing a listening socket resets the connections that the kernel has accepted and nobody has fetched, and more may come until the
    very moment. After this call, and the time that a handshake takes, what is fetched is all. For the last owner of the socket only:
    every process that shares it is affected. Where the kernel has no socket filters nothing happens.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _NO_SYN))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_NO_SYN), ctypes.addressof(program)))
