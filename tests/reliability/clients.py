"""Clients that see what the wire says: HTTP/1.1 over a plain socket, gRPC through grpcio."""

import json
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from serve.protocol import messages
from serve.protocol.service import METHODS

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Http:
    """One HTTP/1.1 connection; requests may be sent ahead of answers."""

    def __init__(self, address: tuple[str, int], timeout_s: float = TIMEOUT_S) -> None:
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes) -> Answer:
        self.send(data)
        return self.answer()

    def answer(self) -> Answer:
        """The next one. Raises ConnectionError when the server closes instead."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, self._rest = self._rest.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        while len(self._rest) < int(headers["content-length"]):
            self._more()
        body, self._rest = self._rest[:int(headers["content-length"])], self._rest[int(headers["content-length"]):]
        return Answer(int(first.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Waits for the server to close; True when nothing more came."""
        try:
            return not self._rest and self.socket.recv(1) == b""
        except ConnectionResetError:
            return not self._rest

    def reset(self) -> None:
        """Go away without a word: the server sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._rest += data


def post(path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


LIVE = get("/v2/health/live")
READY = get("/v2/health/ready")


def infer(model: str, data: list[float] | list[int], shape: list[int], name: str = "x", datatype: str = "FP32",
          parameters: dict[str, object] | None = None, **headers: str) -> bytes:
    """An inference in JSON."""
    request: dict[str, object] = {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}
    if parameters:
        request["parameters"] = parameters
    return post(f"/v2/models/{model}/infer", json.dumps(request).encode(), **headers)


def quick(value: float = 1.0, model: str = "quick") -> bytes:
    return infer(model, [value], [1, 1])


def waiting(model: str = "waiting", parameters: dict[str, object] | None = None, **headers: str) -> bytes:
    return infer(model, [1.0], [1], parameters=parameters, **headers)


def busy(trips: int, model: str = "busy", parameters: dict[str, object] | None = None, **headers: str) -> bytes:
    return infer(model, [trips], [1], name="trips", datatype="INT64", parameters=parameters, **headers)


def value_of(answer: Answer) -> Any:
    """The first element of the first output; the answer must be a success."""
    assert answer.status == 200, (answer.status, answer.body)
    return answer.json["outputs"][0]["data"][0]


# --- gRPC ---------------------------------------------------------------------------------------------------------------

def channel(address: tuple[str, int]) -> grpc.Channel:
    """A connection of its own. Only what the server never saw is sent again, as every gRPC client does: it has no retry policy."""
    return grpc.insecure_channel(f"{address[0]}:{address[1]}", options=[("grpc.use_local_subchannel_pool", 1)])


def method(connection: grpc.Channel, path: str) -> Any:
    """A callable for one of the service's methods."""
    about = METHODS[path]
    kind = {(False, False): connection.unary_unary, (False, True): connection.unary_stream, (True, True): connection.stream_stream}
    make: Any = kind[about.client_streaming, about.server_streaming]
    return make(path, request_serializer=about.input_class.SerializeToString, response_deserializer=about.output_class.FromString)


INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
WATCH = "/grpc.health.v1.Health/Watch"


def message(model: str, raw: bytes, shape: list[int], name: str = "x", datatype: str = "FP32", **parameters: Any) -> Any:
    request = messages.ModelInferRequest(model_name=model, raw_input_contents=[raw])
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    for key, value in parameters.items():
        request.parameters[key].int64_param = value
    return request


def quick_message(value: float = 1.0, model: str = "quick") -> Any:
    return message(model, struct.pack("<f", value), [1, 1])


def waiting_message(model: str = "waiting", **parameters: Any) -> Any:
    return message(model, struct.pack("<f", 1.0), [1], **parameters)


def busy_message(trips: int, model: str = "busy", **parameters: Any) -> Any:
    return message(model, struct.pack("<q", trips), [1], name="trips", datatype="INT64", **parameters)


def until_error(stream: Any) -> tuple[list[Any], grpc.StatusCode]:
    """The messages of a stream that ends with an error, and its status."""
    got: list[Any] = []
    try:
        got.extend(stream)
    except grpc.RpcError as error:
        return got, error.code()        # type: ignore[attr-defined]
    raise AssertionError("the stream ended without an error")


def float_of(response: Any) -> float:
    value: float = struct.unpack_from("<f", response.raw_output_contents[0])[0]
    return value
