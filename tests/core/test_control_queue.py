"""Calls that Python answers: what reaches it, what comes back, and what becomes of calls that nobody answers."""

import gc
import gzip
import select
import sys
import threading

import pytest

from serve._core.control_queue import ControlQueue, Exchange
from tests.core.loopback import Loopback, wait_until
from tests.core.plain_clients import frame, http_request, unframe

UNARY = "/inference.GRPCInferenceService/ServerReady"


def taken(loop: Loopback, n: int = 1) -> list[Exchange]:
    """The next `n` calls."""
    found: list[Exchange] = []

    def look() -> bool:
        found.extend(loop.control.take())
        return len(found) >= n

    wait_until(look, f"{n} calls on the slow path")
    assert len(found) == n
    return found


class Events(list[tuple[str, bytes]]):
    def __call__(self, kind: str, data: bytes) -> None:
        self.append((kind, data))


def test_an_http_call_and_its_answer() -> None:
    with Loopback() as loop:
        client = loop.http()
        client.send(http_request("/v2/models/a%20b?x=1&y=%00", b"body", "PUT", "X-Some: one", "X-Some: two", "X-Request-Id: me"))
        (exchange,) = taken(loop)
        assert (exchange.protocol, exchange.method, exchange.path, exchange.query) == ("http", "PUT", "/v2/models/a%20b", "x=1&y=%00")
        assert exchange.body == b"body"
        assert exchange.deadline_ns == 0
        assert exchange.headers["content-length"] == "4"
        assert sorted(exchange.headers["x-some"].split(", ")) == ["one", "two"]
        assert not exchange.finished
        exchange.respond(418, b"tea", [("content-type", "text/plain"), ("x-more", "\xe9")])
        assert exchange.finished
        answer = client.read()
        assert (answer.status, answer.body, answer.fields["content-type"], answer.fields["x-more"]) == (418, b"tea", "text/plain", "\xe9")
        assert answer.fields["x-request-id"] == "me"


def test_a_call_is_answered_once() -> None:
    with Loopback() as loop:
        client = loop.http()
        client.send(http_request("/one"))
        (exchange,) = taken(loop)
        exchange.respond(200, b"", [])
        with pytest.raises(RuntimeError, match="/one was answered before"):
            exchange.respond(200, b"", [])
        assert client.read().status == 200


@pytest.mark.parametrize("header", [("a", "b\r\nc: d"), ("a", "b\0"), ("a\n", "b")])
def test_an_answers_headers_cannot_hold_line_ends(header: tuple[str, str]) -> None:
    with Loopback() as loop:
        client = loop.http()
        client.send(http_request("/one"))
        (exchange,) = taken(loop)
        with pytest.raises(ValueError, match="a NUL or a line end"):
            exchange.respond(200, b"", [header])
        exchange.respond(200, b"", [])
        assert client.read().status == 200


def test_a_call_that_is_dropped_ends_as_an_internal_error() -> None:
    with Loopback() as loop:
        client, grpc = loop.http(), loop.h2()
        client.send(http_request("/one"))
        for exchange in taken(loop):
            loop.control.release(exchange)
        del exchange
        assert client.read().status == 500
        stream = grpc.grpc(frame(b""), UNARY)
        for exchange in taken(loop):
            loop.control.release(exchange)
        del exchange
        assert grpc.read(stream).fields["grpc-status"] == "13"


def test_a_grpc_call_brings_its_messages_and_its_end() -> None:
    with Loopback() as loop:
        client = loop.h2()
        stream = client.open_grpc("/some.Service/Method", ("grpc-timeout", "5S"))
        client.data(stream, frame(b"one") + frame(b""), end=False)
        (exchange,) = taken(loop)
        assert (exchange.protocol, exchange.path) == ("grpc", "/some.Service/Method")
        assert exchange.deadline_ns > 0
        events = Events()
        # What comes before anybody listens is kept.
        wait_until(lambda: loop.control.take() == [] and loop.total("bytes_received") > 0, "nothing more")
        exchange.events = events
        client.data(stream, frame(b"two" * 100_000))
        wait_until(lambda: loop.control.take() == [] and len(events) == 4, "all messages and the end")
        assert events == [("message", b"one"), ("message", b""), ("message", b"two" * 100_000), ("half_close", b"")]
        exchange.send(b"answer")
        exchange.send(b"")
        exchange.finish(7, "not näher")
        answer = client.read(stream)
        assert unframe(answer.body) == [b"answer", b""]
        assert (answer.fields["grpc-status"], answer.fields["grpc-message"]) == ("7", "not n%C3%A4her")
        loop.control.release(exchange)


def test_a_message_in_pieces_arrives_whole() -> None:
    with Loopback() as loop:
        client = loop.h2()
        stream = client.open_grpc("/some.Service/Method")
        data = frame(b"one") + frame(b"two")
        for i in range(len(data)):
            client.data(stream, data[i:i + 1], end=i == len(data) - 1)
        (exchange,) = taken(loop)
        events = Events()
        exchange.events = events
        wait_until(lambda: loop.control.take() == [] and len(events) == 3, "two messages and the end")
        assert events == [("message", b"one"), ("message", b"two"), ("half_close", b"")]
        exchange.finish()
        assert client.read(stream).fields["grpc-status"] == "0"
        loop.control.release(exchange)


class Reader(Events):
    """Says of each message that it is taken, while it `reads`."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self.exchange = exchange
        self.reads = True

    def __call__(self, kind: str, data: bytes) -> None:
        super().__call__(kind, data)
        if kind == "message" and self.reads:
            self.exchange.taken(len(data))


@pytest.mark.parametrize("size", [40, 8_000, 900_000])
def test_a_call_may_be_long_where_python_takes_what_it_brings(size: int) -> None:
    """16 MB, 4 windows; small messages by the thousand in a queue of 256."""
    messages = [i.to_bytes(4, "big") * (size // 4) for i in range(max(16_000_000 // size, 4) if size > 40 else 50_000)]
    with Loopback(control_limit=256) as loop:
        client = loop.h2()
        stream = client.open_grpc("/some.Service/Method")
        client.flush()
        (exchange,) = taken(loop)
        exchange.events = events = Reader(exchange)
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                loop.control.take()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            client.data(stream, b"".join(frame(message) for message in messages))
            wait_until(lambda: bool(events) and events[-1][0] == "half_close", "the end")
        finally:
            done.set()
            reader.join()
        assert events == [*(("message", message) for message in messages), ("half_close", b"")]
        assert loop.total("held_bytes") == 0
        exchange.finish()
        assert client.read(stream).fields["grpc-status"] == "0"
        loop.control.release(exchange)


@pytest.mark.parametrize("size", [100, 100_000])
def test_what_python_does_not_take_waits_with_the_client(size: int) -> None:
    """Little is held, another call of the connection goes on, and everything arrives once Python takes it."""
    n = 9_000_000 // size
    with Loopback() as loop:
        client = loop.h2()
        stream = client.open_grpc("/some.Service/Method")
        client.flush()
        (exchange,) = taken(loop)
        exchange.events = events = Reader(exchange)
        events.reads = False
        rest = b"".join(frame(b"m" * size) for _ in range(n))
        while window := min(len(rest), client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size):
            client.h2.send_data(stream, rest[:window])
            rest = rest[window:]
            client.flush()
            if not client.h2.local_flow_control_window(stream):
                other = client.grpc(frame(b""), UNARY)          # answered behind whatever window the stream was given
                wait_until(lambda: loop.answer_slow_path() == 1, "the other call")
                assert client.read(other).fields["grpc-status"] == "12"
        assert len(rest) > 2_000_000
        assert 4_000_000 < loop.total("held_bytes") < 6_500_000
        assert len(events) == min(64, (1 << 20) // size + 1)
        events.reads = True
        for _ in range(len(events)):
            exchange.taken(size)
        sender = threading.Thread(target=client.data, args=(stream, rest))
        sender.start()
        wait_until(lambda: loop.control.take() == [] and len(events) == n + 1, "all of it")
        sender.join()
        assert {kind for kind, _ in events[:-1]} == {"message"}
        assert events[-1] == ("half_close", b"")
        wait_until(lambda: loop.total("held_bytes") == 0, "what was taken to be let go")
        exchange.finish()
        exchange.taken(1)                                       # too late, and harmless
        assert client.read(stream).fields["grpc-status"] == "0"
        loop.control.release(exchange)


@pytest.mark.parametrize("packed", [False, True])
def test_a_message_over_1_mib_is_refused(packed: bool) -> None:
    """Whole or not; behind others, too."""
    with Loopback() as loop:
        client = loop.h2()
        stream = client.open_grpc("/some.Service/Method", *([("grpc-encoding", "gzip")] if packed else []))
        large = b"m" * ((1 << 20) + 1)
        client.data(stream, frame(b"small") + (b"\1" + frame(gzip.compress(large))[1:] if packed else frame(large)[:100]), end=packed)
        answer = client.read(stream)
        assert (answer.fields["grpc-status"], "1048576 bytes" in answer.fields["grpc-message"]) == ("8", True)
        for exchange in taken(loop):
            loop.control.release(exchange)


def test_python_learns_that_the_client_went_away() -> None:
    with Loopback() as loop:
        http, client = loop.http(), loop.h2()
        http.send(http_request("/one"))
        stream = client.open_grpc("/some.Service/Method")
        client.flush()
        exchanges = taken(loop, 2)
        events = [Events(), Events()]
        for exchange, sink in zip(exchanges, events, strict=True):
            exchange.events = sink
        http.socket.close()
        client.h2.reset_stream(stream)
        client.flush()
        wait_until(lambda: loop.control.take() == [] and all(events), "both to be cancelled")
        assert events == [[("cancel", b"")], [("cancel", b"")]]
        for exchange in exchanges:
            loop.control.release(exchange)
            if exchange.protocol == "http":
                exchange.respond(200, b"for nobody", [])        # harms nobody
            else:
                exchange.send(b"for nobody")
                exchange.finish()


def test_no_event_reaches_a_call_that_was_released() -> None:
    with Loopback() as loop:
        client = loop.h2()
        stream = client.open_grpc("/some.Service/Method")
        client.flush()
        (exchange,) = taken(loop)
        events = Events()
        exchange.events = events
        loop.control.release(exchange)
        exchange.finish()
        assert client.read(stream).fields["grpc-status"] == "0"
        wait_until(lambda: loop.total("live_calls") == 0, "the call to be gone")
        assert loop.control.take() == []
        assert events == []


@pytest.mark.parametrize("code", [-1, 17])
def test_only_grpc_codes_end_a_call(code: int) -> None:
    with Loopback() as loop:
        client = loop.h2()
        stream = client.grpc(frame(b""), UNARY)
        (exchange,) = taken(loop)
        with pytest.raises(ValueError, match="want 0 to 16"):
            exchange.finish(code)
        exchange.finish(16)
        assert client.read(stream).fields["grpc-status"] == "16"
        loop.control.release(exchange)


def test_a_full_queue_refuses_new_calls_and_still_tells_of_cancellations() -> None:
    with Loopback(control_limit=2) as loop:
        clients = [loop.http() for _ in range(4)]
        for i, client in enumerate(clients):
            client.send(http_request(f"/{i}"))
            wait_until(lambda n=i: loop.total("control_calls") + loop.total("refused_control") == n + 1, "the call")
        for client in clients[2:]:
            answer = client.read()
            assert (answer.status, answer.json()["error"]) == (503, "the control plane is busy; try again")
        clients[0].socket.close()
        wait_until(lambda: loop.total("live_calls") == 1, "the first call to be gone")
        exchanges = loop.control.take()
        assert [exchange.path for exchange in exchanges] == ["/0", "/1"]
        events = Events()
        exchanges[0].events = events
        assert events == [("cancel", b"")]
        exchanges[1].respond(200, b"", [])
        assert clients[1].read().status == 200
        for exchange in exchanges:
            loop.control.release(exchange)


def test_the_descriptor_is_readable_while_frames_wait() -> None:
    with Loopback() as loop:
        assert select.select([loop.control], [], [], 0)[0] == []
        client = loop.http()
        client.send(http_request("/one"))
        assert select.select([loop.control], [], [], 20)[0] == [loop.control]
        assert loop.answer_slow_path() == 1
        assert select.select([loop.control], [], [], 0)[0] == []
        assert client.read().status == 200


def test_calls_may_outlive_the_server() -> None:
    """Whoever still holds a call when the threads are gone answers nobody, and frees it."""
    with Loopback() as loop:
        client = loop.http()
        client.send(http_request("/one"))
        (exchange,) = taken(loop)
    del loop, client
    gc.collect()
    exchange.respond(200, b"for nobody", [])
    del exchange
    gc.collect()


def test_a_call_whose_handler_holds_it_may_outlive_the_server() -> None:
    """The two are a cycle, whose parts the collector clears in any order: it is freed before what it needs for that."""
    with Loopback() as loop:
        client = loop.http()
        client.send(http_request("/one"))
        (exchange,) = taken(loop)
        exchange.events = Reader(exchange)
    del loop, client, exchange
    gc.collect()
    assert not any(isinstance(one, Exchange) for one in gc.get_objects())


def test_a_queue_without_a_server_is_empty() -> None:
    assert ControlQueue().take() == []


def test_an_event_handler_that_raises_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: reported.append(found.exc_value))
    with Loopback() as loop:
        client = loop.h2()
        streams = [client.open_grpc("/some.Service/Method") for _ in range(2)]
        client.flush()
        first, second = taken(loop, 2)
        events = Events()

        def fails(kind: str, data: bytes) -> None:
            raise ValueError(kind)

        first.events, second.events = fails, events
        for stream in streams:
            client.h2.send_data(stream, frame(b"one"))
        client.h2.send_headers(client.h2.get_next_available_stream_id(), [
            (":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/third")], end_stream=True)
        received = loop.total("bytes_received")
        client.flush()
        wait_until(lambda: loop.total("control_calls") == 3 and loop.total("bytes_received") > received, "all of it")
        (third,) = taken(loop)
        assert (third.path, events, [str(error) for error in reported]) == ("/third", [("message", b"one")], ["message"])
        for exchange in (first, second, third):
            loop.control.release(exchange)
