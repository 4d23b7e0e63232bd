"""HTTP/2 from clients that break the rules at random, and from those that break off."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.loopback import Loopback, wait_until
from tests.core.plain_clients import H2Client, grpc_infer
from tests.core.test_http2 import CONTINUATION, PREFACE, SETTINGS, X, check_lives, loop, raw

__all__ = ["loop"]


def conversation() -> bytes:
    """What a well-behaved client sends: several calls, a message in pieces, a ping, a reset."""
    client = H2Client(None, preface=False)          # type: ignore[arg-type]
    client.h2.initiate_connection()
    for _ in range(2):
        stream = client.open_grpc()
        client.h2.send_data(stream, grpc_infer(X), end_stream=True)
    stream = client.open_grpc("/inference.GRPCInferenceService/ModelStreamInfer")
    message = grpc_infer(X) * 2
    client.h2.send_data(stream, message[:40])
    client.h2.ping(b"abcdefgh")
    client.h2.send_data(stream, message[40:], end_stream=True)
    client.open("/v2/health/live", method="GET", end=True)
    client.h2.reset_stream(client.open_grpc())
    client.h2.increment_flow_control_window(1 << 20)
    return client.h2.data_to_send()


def frames_of(data: bytes) -> list[bytes]:
    found, data = [data[:len(PREFACE)]], data[len(PREFACE):]
    while data:
        n = 9 + int.from_bytes(data[:3], "big")
        found.append(data[:n])
        data = data[n:]
    return found


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_frames_never_harm_the_server(loop: Loopback, data: Any) -> None:
    """Frames dropped, doubled, swapped, torn, or with bytes changed: the server answers in HTTP/2 or closes, and goes on serving others."""
    frames = frames_of(conversation())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(frames) - 1))
        match data.draw(st.sampled_from(["change", "change", "drop", "double", "swap", "tear", "junk"])):
            case "change":
                changed = bytearray(frames[at])
                if changed:
                    # Headers of frames more often than payloads: there is where the rules are.
                    i = data.draw(st.integers(0, min(8, len(changed) - 1)) | st.integers(0, len(changed) - 1))
                    changed[i] = data.draw(st.integers(0, 255))
                frames[at] = bytes(changed)
            case "drop":
                frames[at] = b""
            case "double":
                frames.insert(at, frames[at])
            case "swap":
                other = data.draw(st.integers(0, len(frames) - 1))
                frames[at], frames[other] = frames[other], frames[at]
            case "tear":
                frames[at] = frames[at][:data.draw(st.integers(0, len(frames[at])))]
            case _:
                kind, flags, stream = data.draw(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 20)))
                frames.insert(at, raw(kind, flags, stream, data.draw(st.binary(max_size=40))))
    client = loop.socket()
    received = b""
    try:
        client.sendall(b"".join(frames))
        client.shutdown(1)
        received = loop.read_all(client)
    except (ConnectionResetError, BrokenPipeError):
        received = b""
    finally:
        client.close()
        loop.clients.clear()
    check_answer(received)
    wait_until(lambda: loop.total("live_calls") == 0, "every call to be over")
    if data.draw(st.integers(0, 9)) == 0:
        check_lives(loop)
        loop.clients.clear()


def check_answer(received: bytes) -> None:
    """Nothing, HTTP/1.1 (the preface was broken), or frames of HTTP/2 that are whole and start with SETTINGS."""
    if not received or received.startswith(b"HTTP/1.1 "):
        return
    assert received[3] == SETTINGS
    while received:
        n = 9 + int.from_bytes(received[:3], "big")
        assert received[3] <= CONTINUATION
        if len(received) < n:
            return                                   # closed in the middle: nobody was reading
        received = received[n:]


def test_a_client_that_breaks_off_inside_a_frame(loop: Loopback) -> None:
    data = conversation()
    for cut in range(0, len(data), 7):
        client = loop.socket()
        client.sendall(data[:cut])
        client.close()
    loop.clients.clear()
    wait_until(lambda: loop.server.connections == 0 and loop.total("live_calls") == 0, "every call to be over")
    check_lives(loop)
