"""Small clients that send and read plain bytes: HTTP/1.1, HTTP/2 with h2, and the messages of an inference."""

import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np

from serve.protocol import messages

GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"
GRPC_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass
class Answer:
    """Of HTTP: status, fields in lower case, body. Of gRPC, fields has the trailers as well."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


class HttpClient:
    """HTTP/1.1 over one connection, pipelining at will."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.received = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the server closed the connection")
        self.received += data

    def read(self, *, head_only: bool = False) -> Answer:
        """One answer."""
        while b"\r\n\r\n" not in self.received:
            self.more()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = 0 if head_only else int(fields.get("content-length", 0))
        while len(self.received) < length:
            self.more()
        body, self.received = self.received[:length], self.received[length:]
        assert first.startswith("HTTP/1.1 "), first
        return Answer(int(first.split(" ")[1]), fields, body)

    def ask(self, data: bytes) -> Answer:
        self.send(data)
        return self.read()

    def is_closed(self) -> bool:
        """Whether the server closes, having sent nothing more. Waits for it."""
        return self.received == b"" and self.socket.recv(1) == b""


def http_request(path: str, body: bytes = b"", method: str = "POST", *fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def http_infer(array: np.ndarray[Any, Any], model: str = "m", number: str = "", *fields: str, name: str = "x") -> bytes:
    """A request with one binary FP32 tensor, its answer to be binary too."""
    header = json.dumps({
        "inputs": [{"name": name, "datatype": "FP32", "shape": list(array.shape), "parameters": {"binary_data_size": array.nbytes}}],
        "parameters": {"binary_data_output": True},
    }).encode()
    path = f"/v2/models/{model}" + (f"/versions/{number}" if number else "") + "/infer"
    return http_request(path, header + array.tobytes(), "POST", f"Inference-Header-Content-Length: {len(header)}", *fields)


def http_tensor(answer: Answer) -> np.ndarray[Any, Any]:
    """The one FP32 tensor of a binary answer."""
    assert answer.status == 200, answer
    length = int(answer.fields["inference-header-content-length"])
    (output,) = json.loads(answer.body[:length])["outputs"]
    return np.frombuffer(answer.body[length:], np.float32).reshape(output["shape"])


def frame(message: bytes, packed: bool = False) -> bytes:
    """A gRPC message behind its prefix."""
    return bytes([packed]) + len(message).to_bytes(4, "big") + message


def unframe(data: bytes) -> list[bytes]:
    """The gRPC messages."""
    found = []
    while data:
        length = int.from_bytes(data[1:5], "big")
        assert len(data) >= 5 + length, "a torn message"
        found.append(data[5:5 + length])
        data = data[5 + length:]
    return found


def grpc_infer(array: np.ndarray[Any, Any], model: str = "m", number: str = "", *, request_id: str = "", name: str = "x") -> bytes:
    """ModelInferRequest, framed."""
    request = messages.ModelInferRequest(model_name=model, model_version=number, id=request_id)
    request.inputs.add(name=name, datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return frame(request.SerializeToString())


def grpc_tensor(message: bytes) -> np.ndarray[Any, Any]:
    answer = messages.ModelInferResponse.FromString(message)
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)


class H2Client:
    """HTTP/2 over one connection with h2. Answers are collected by stream."""

    def __init__(self, connection: socket.socket, *, preface: bool = True) -> None:
        self.socket = connection
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.answers: dict[int, Answer] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.closed = False
        self.is_half_closed = False
        self.received = b""
        if preface:
            self.h2.initiate_connection()
            self.h2.increment_flow_control_window(1 << 30)
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
            self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if not self.is_half_closed:
            self.socket.sendall(data)

    def half_close(self) -> None:
        """Say nothing more, not even window updates."""
        self.flush()
        self.socket.shutdown(socket.SHUT_WR)
        self.is_half_closed = True

    def open(self, path: str, *fields: tuple[str, str], method: str = "POST", end: bool = False) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer(0)
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
        self.h2.send_headers(stream, [*pseudo, *fields], end_stream=end)
        return stream

    def open_grpc(self, path: str = GRPC_INFER, *fields: tuple[str, str]) -> int:
        return self.open(path, ("content-type", "application/grpc"), ("te", "trailers"), *fields)

    def data(self, stream: int, body: bytes, *, end: bool = True) -> None:
        """As flow control lets it, and until the server says that it wants no more."""
        while stream not in self.ended and stream not in self.resets:
            n = min(len(body), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            self.h2.send_data(stream, body[:n], end_stream=end and n == len(body))
            self.flush()
            body = body[n:]
            if not body:
                return
            while stream not in self.resets and self.h2.local_flow_control_window(stream) == 0:
                self.pump()

    def grpc(self, body: bytes, path: str = GRPC_INFER, *fields: tuple[str, str]) -> int:
        """A call with its whole body; returns the stream."""
        stream = self.open_grpc(path, *fields)
        self.data(stream, body)
        return stream

    def pump(self) -> None:
        """Read once."""
        data = self.socket.recv(1 << 20)
        if not data:
            self.closed = True
            return
        self.received += data
        # Frame by frame: what follows GOAWAY counts as well, see note.
        while len(self.received) >= 9 and len(self.received) >= (length := 9 + int.from_bytes(self.received[:3], "big")):
            one, self.received = self.received[:length], self.received[length:]
            for event in self.h2.receive_data(one):
                self.note(event)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):        # the server may have closed behind what it said
            self.flush()

    def note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=int(stream), headers=list(fields)):
                answer = self.answers[stream]
                answer.fields.update({str(name): str(value) for name, value in fields})
                answer.status = int(answer.fields[":status"])
            case h2.events.DataReceived(stream_id=int(stream), data=bytes(data), flow_controlled_length=int(length)):
                self.answers[stream].body += data
                self.h2.acknowledge_received_data(length, stream)
            case h2.events.TrailersReceived(stream_id=int(stream), headers=list(fields)):
                self.answers[stream].fields.update({str(name): str(value) for name, value in fields})
            case h2.events.StreamEnded(stream_id=int(stream)):
                self.ended.add(stream)
            case h2.events.StreamReset(stream_id=int(stream), error_code=code):
                self.resets[stream] = int(code or 0)
            case h2.events.ConnectionTerminated(error_code=code):
                self.goaway = int(code or 0)
                # h2 takes GOAWAY for the end; the streams that it covers go on (RFC 9113, 6.8).
                self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            case _:
                pass

    def read(self, stream: int) -> Answer:
        """The answer of a stream that ends."""
        self.flush()
        while stream not in self.ended and stream not in self.resets:
            assert not self.closed, f"closed before stream {stream} was answered; GOAWAY {self.goaway}"
            self.pump()
        return self.answers[stream]
