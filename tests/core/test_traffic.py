"""Many requests over many connections: batching, who gets which rows, and counters that are right to the last one."""

import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve._core.engine import NativeVersion
from serve._core.runner import live_objects
from serve.protocol import messages
from tests.core.loopback import Loopback, scaled, version, wait_until
from tests.core.plain_clients import GRPC_STREAM, H2Client, HttpClient, frame, grpc_infer, grpc_tensor, http_infer, http_tensor, unframe

Array = np.ndarray[Any, Any]


@dataclass
class Expected:
    """What clients asked of a version, and got."""

    requests: int = 0
    rows: int = 0
    by_protocol: Counter[str] = field(default_factory=Counter)


class Traffic:
    """Requests with values of their own, over many connections, and the answers that they must get."""

    def __init__(self, factors: dict[tuple[str, str], float], default: dict[str, str], widths: dict[str, tuple[int, ...]]) -> None:
        self.factors, self.default, self.widths = factors, default, widths
        self.random = np.random.default_rng(3)
        self.next_value = 1
        self.expected = {key: Expected() for key in factors}

    def request(self, protocol: str) -> tuple[str, str, Array, Array]:
        """(model, version asked for, input, output)."""
        model, number = list(self.factors)[self.random.integers(len(self.factors))]
        asked = "" if self.default[model] == number and self.random.integers(2) else number
        rows, width = int(self.random.integers(1, 6)), int(self.random.choice(self.widths[model]))
        # Whole numbers below 2^24: exact in FP32, also after the multiplication by a small power of two.
        x = (np.arange(rows * width, dtype=np.float32) + self.next_value).reshape(rows, width)
        self.next_value = (self.next_value + rows * width) % 2**20
        expected = self.expected[model, number]
        expected.requests += 1
        expected.rows += rows
        expected.by_protocol[protocol] += 1
        return model, asked, x, x * np.float32(self.factors[model, number])

    def over_http(self, client: HttpClient, n: int) -> list[Array]:
        asked = [self.request("http") for _ in range(n)]
        client.send(b"".join(http_infer(x, model, number) for model, number, x, _ in asked))
        return [y for *_, y in asked]

    def over_grpc(self, client: H2Client, n: int) -> list[tuple[int, Array]]:
        streams = []
        for _ in range(n):
            model, number, x, y = self.request("grpc")
            stream = client.open_grpc()
            client.h2.send_data(stream, grpc_infer(x, model, number), end_stream=True)
            streams.append((stream, y))
        client.flush()
        return streams

    def over_stream(self, client: H2Client, n: int) -> tuple[int, list[Array]]:
        asked = [self.request("grpc") for _ in range(n)]
        stream = client.grpc(b"".join(grpc_infer(x, model, number) for model, number, x, _ in asked), GRPC_STREAM)
        return stream, [y for *_, y in asked]


def check_grpc(client: H2Client, stream: int, y: Array) -> None:
    answer = client.read(stream)
    assert answer.fields["grpc-status"] == "0", answer
    (message,) = unframe(answer.body)
    np.testing.assert_array_equal(grpc_tensor(message), y)


def run_rounds(loop: Loopback, traffic: Traffic, rounds: int, n: int) -> None:
    """Each round: `n` requests at once on each of eight connections, four of each protocol, then one stream; then all the answers."""
    https = [loop.http(i % 2) for i in range(4)]
    grpcs = [loop.h2(i % 2) for i in range(4)]
    for _ in range(rounds):
        of_http = [(client, traffic.over_http(client, n)) for client in https]
        of_grpc = [(client, traffic.over_grpc(client, n)) for client in grpcs]
        stream, of_stream = traffic.over_stream(grpcs[0], n)
        for client, outputs in of_http:
            for y in outputs:
                np.testing.assert_array_equal(http_tensor(client.read()), y)
        for grpc, streams in of_grpc:
            for number, y in streams:
                check_grpc(grpc, number, y)
        found = [stream_tensor(message) for message in unframe(grpcs[0].read(stream).body)]
        for x, y in zip(found, of_stream, strict=True):
            np.testing.assert_array_equal(x, y)


def stream_tensor(message: bytes) -> Array:

    answer = messages.ModelStreamInferResponse.FromString(message)
    assert answer.error_message == ""
    return grpc_tensor(answer.infer_response.SerializeToString())


def check_books(native: NativeVersion, expected: Expected) -> None:
    """Every answer is counted once, every row once, and nothing is on its way."""
    statistics = native.statistics()
    assert statistics.success.count == expected.requests
    assert statistics.inference_count == expected.rows
    assert sum(batch.batch_size * batch.compute_infer.count for batch in statistics.batch_stats) == expected.rows
    assert sum(batch.compute_infer.count for batch in statistics.batch_stats) == statistics.execution_count
    assert sum(statistics.batch_sizes.counts) == statistics.execution_count
    assert statistics.batch_sizes.sum == expected.rows
    assert max(batch.batch_size for batch in statistics.batch_stats) <= max(1, native.max_batch_size)
    for (protocol, stage), histogram in statistics.stages.items():
        assert sum(histogram.counts) == expected.by_protocol[protocol], (protocol, stage)
    assert (statistics.queue_depth, statistics.in_flight) == (0, 0)
    assert sum(statistics.rejected.values()) == 0
    assert native.is_idle()


@pytest.mark.parametrize("by", ["whoever is free", "instance threads", "cold"])
def test_rows_are_never_mixed_and_every_one_is_counted(tmp_path: Path, by: str) -> None:
    """Mixed sizes, shapes, models and versions over eight connections of two I/O threads."""
    with Loopback(io_threads=2, instances=3) as loop:
        factors = {("fixed", "1"): 1.0, ("fixed", "2"): 2.0, ("fixed", "3"): 4.0, ("free", "1"): -1.0}
        paths = {key: scaled(tmp_path, factor, ("batch", 4 if key[0] == "fixed" else "width")) for key, factor in factors.items()}
        options = {"max_batch_size": 16, "instances": 2, "warm": None if by == "cold" else {"x": (4,)}}
        if by == "instance threads":
            options["max_queue_delay_us"] = 1
        versions = {key: version(path, loop.pool, *key, **options) for key, path in paths.items()}
        default = {"fixed": "3", "free": "1"}
        loop.table.publish({
            model: ({number: native for (name, number), native in versions.items() if name == model}, versions[model, number], None)
            for model, number in default.items()
        })
        traffic = Traffic(factors, default, {"fixed": (4,), "free": (1, 4, 9)})
        run_rounds(loop, traffic, rounds=20, n=20)
        total = sum(expected.requests for expected in traffic.expected.values())
        assert total == 20 * 9 * 20
        for key, native in versions.items():
            wait_until(native.is_idle, "the last run to be over")
            check_books(native, traffic.expected[key])
        assert sum(native.statistics().execution_count for native in versions.values()) < total
        inline = loop.total("inline_batches")
        assert inline == 0 if by == "instance threads" else inline >= 0
        assert loop.total("http_requests") + loop.total("grpc_requests") == 20 * (8 * 20 + 1)


def test_what_arrives_together_runs_together(tmp_path: Path) -> None:
    """32 requests in one segment are one turn of the loop: they become a batch, not 32."""
    with Loopback() as loop:
        native = version(scaled(tmp_path, 2), loop.pool, max_batch_size=64, warm={"x": (4,)})
        loop.table.publish({"m": ({"1": native}, native, None)})
        client = loop.http()
        one = np.ones((1, 4), np.float32)
        client.send(b"".join(http_infer(one * i) for i in range(32)))
        for i in range(32):
            np.testing.assert_array_equal(http_tensor(client.read()), one * 2 * i)
        statistics = native.statistics()
        assert statistics.success.count == 32
        assert statistics.execution_count <= 4                  # a segment may be torn on its way


def test_versions_are_replaced_under_traffic(tmp_path: Path) -> None:
    """Each answer is of a version that was published; replaced versions end."""
    paths = [scaled(tmp_path, factor) for factor in (1.0, 2.0, 4.0)]
    before = live_objects()["runners"]
    with Loopback(io_threads=2) as loop:
        clients = [loop.http(0), loop.http(1)]
        x = np.arange(4, dtype=np.float32).reshape(1, 4) + 1
        for generation in range(40):
            native = version(paths[generation % 3], loop.pool, "m", "1", warm={"x": (4,)} if generation % 2 else None)
            asked = b"".join(http_infer(x) for _ in range(8))
            for client in clients:
                client.send(asked if generation else b"")
            loop.table.publish({"m": ({"1": native}, native, None)})
            for client in clients:
                for _ in range(8 if generation else 0):
                    answer = http_tensor(client.read())
                    assert any(np.array_equal(answer, x * factor) for factor in (2.0 ** (generation % 3), 2.0 ** ((generation - 1) % 3)))
        wait_until(lambda: loop.table.reclaim() == 0, "the old tables to be free")
        del native
        assert live_objects()["runners"] == before + 1
    assert live_objects()["runners"] == before


def test_permutations_of_sizes_share_a_batch_without_mixing(tmp_path: Path) -> None:
    """Every order of requests of 1, 2, 3 and 5 rows, which do not all fit one batch of eight."""
    with Loopback() as loop:
        native = version(scaled(tmp_path, 2), loop.pool, max_batch_size=8, max_queue_delay_us=1, warm={"x": (4,)})
        loop.table.publish({"m": ({"1": native}, native, None)})
        client, value = loop.http(), 0
        for sizes in itertools.permutations((1, 2, 3, 5)):
            inputs = [np.full((rows, 4), value + i, np.float32) for i, rows in enumerate(sizes)]
            value += len(sizes)
            client.send(b"".join(map(http_infer, inputs)))
            for x in inputs:
                np.testing.assert_array_equal(http_tensor(client.read()), x * 2)
        assert native.statistics().inference_count == 24 * 11


def test_the_probe_frames_what_it_sends() -> None:
    assert unframe(frame(b"a") + frame(b"")) == [b"a", b""]
