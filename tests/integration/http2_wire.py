"""HTTP/2 by hand, on the h2 library: streams, windows and frames as a test wants them."""

import contextlib
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.settings

TIMEOUT_S = 15.0


@dataclass
class Stream:
    """What has come on one stream. reset: error code of RST_STREAM."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers[":status"])

    @property
    def grpc_status(self) -> int:
        return int((self.trailers or self.headers)["grpc-status"])

    def json(self) -> Any:
        return json.loads(self.body)

    def messages(self) -> list[bytes]:
        """Of a gRPC answer."""
        found, at = [], 0
        while at < len(self.body):
            packed, length = struct.unpack_from(">BI", self.body, at)
            assert packed == 0
            found.append(self.body[at + 5:at + 5 + length])
            assert len(found[-1]) == length
            at += 5 + length
        return found


class Http2Connection:
    """One connection. reads_windows: whether window updates are sent for what is received."""

    def __init__(self, address: tuple[str, int], settings: dict[int, int] | None = None, reads_windows: bool = True) -> None:
        self.socket = socket.create_connection(address, TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False))
        if settings:
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self.h2.initiate_connection()
        self.streams: dict[int, Stream] = {}
        self.events: list[h2.events.Event] = []
        self.goaway: int | None = None
        self.reads_windows = reads_windows
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def open(self, method: str, path: str, headers: dict[str, str] | None = None, end: bool = False) -> int:
        """Send HEADERS; the stream's number."""
        stream_id = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test"), *(headers or {}).items()]
        self.h2.send_headers(stream_id, fields, end_stream=end)
        self.streams[stream_id] = Stream()
        self.flush()
        return stream_id

    def send(self, stream_id: int, data: bytes, end: bool = True, padding: int | None = None) -> None:
        """DATA, not empty, in pieces that the windows and the frame size allow; waits for window updates where they do not."""
        while data:
            room = min(self.h2.local_flow_control_window(stream_id) - (padding + 1 if padding is not None else 0),
                       self.h2.max_outbound_frame_size - 300)
            if room <= 0:
                self.receive()
                if self.streams[stream_id].reset is not None:
                    return
                continue
            piece, data = data[:room], data[room:]
            self.h2.send_data(stream_id, piece, end_stream=end and not data, pad_length=padding)
            self.flush()

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Stream:
        """One exchange."""
        stream_id = self.open(method, path, headers, end=not body)
        if body:
            self.send(stream_id, body)
        return self.wait(stream_id)

    def call(self, method: str, message: bytes, headers: dict[str, str] | None = None) -> Stream:
        """A unary gRPC call of the inference service."""
        return self.request("POST", f"/inference.GRPCInferenceService/{method}", framed(message), {**GRPC, **(headers or {})})

    def wait(self, stream_id: int) -> Stream:
        """Until the stream is over."""
        stream = self.streams[stream_id]
        self.wait_for(lambda: stream.ended or stream.reset is not None)
        return stream

    def wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.receive(), "the server closed the connection"

    def wait_for_event(self, kind: type[h2.events.Event]) -> Any:
        self.wait_for(lambda: any(isinstance(event, kind) for event in self.events))
        return next(event for event in self.events if isinstance(event, kind))

    def is_closed(self) -> bool:
        """Reads until the server ends the connection."""
        try:
            while self.receive():
                pass
        except ConnectionResetError:
            pass
        return True

    def receive(self) -> bool:
        """Take what there is; False at the end of the connection."""
        data = self.socket.recv(1 << 16)
        if not data:
            return False
        for event in self.h2.receive_data(data):
            self._take(event)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):    # what the server has sent before is still to be read
            self.flush()
        return True

    def _take(self, event: h2.events.Event) -> None:
        self.events.append(event)
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            stream.headers = dict(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
            if self.reads_windows and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code or 0)


GRPC = {"content-type": "application/grpc", "te": "trailers"}


def framed(message: bytes, packed: bool = False) -> bytes:
    """A gRPC message behind its prefix."""
    return struct.pack(">BI", packed, len(message)) + message
