"""Well-behaved and ill-behaved clients at once, and models that come and go under them: right answers, nothing left behind."""

import contextlib
import json
import random
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.integration.bad_inputs import GRPC as BAD_CALLS
from tests.integration.bad_inputs import HTTP as BAD_REQUESTS
from tests.integration.http1_wire import Http1Connection, Response, request_bytes
from tests.integration.http2_wire import GRPC, Http2Connection, framed
from tests.integration.payloads import FLOATS, INFER, grpc_answer, grpc_request, json_request
from tests.integration.running_server import RunningServer, running_server

Action = Callable[[RunningServer, random.Random], None]


def _floats(answer: Response) -> bytes:
    return np.array(answer.json()["outputs"][0]["data"], np.float32).tobytes()


def _http(server: RunningServer, dice: random.Random) -> None:
    with Http1Connection(server.http) as connection:
        for _ in range(dice.randrange(1, 20)):
            x = np.full((dice.randrange(1, 5), 4), dice.random(), np.float32)
            assert _floats(connection.request("POST", INFER, json_request(x))) == x.tobytes()


def _grpc(server: RunningServer, dice: random.Random) -> None:
    with Http2Connection(server.grpc) as connection:
        arrays = [np.full((1, 4), dice.random(), np.float32) for _ in range(dice.randrange(1, 40))]
        numbers = [connection.open("POST", "/inference.GRPCInferenceService/ModelInfer", GRPC) for _ in arrays]
        for number, x in zip(numbers, arrays, strict=True):
            connection.send(number, framed(grpc_request(array=x)))
        for number, x in zip(numbers, arrays, strict=True):
            assert grpc_answer(connection.wait(number).messages()[0]) == x.tobytes()


def _bad(server: RunningServer, dice: random.Random) -> None:
    bad, call = dice.choice(BAD_REQUESTS), dice.choice(BAD_CALLS)
    with Http1Connection(server.http) as one, Http2Connection(server.grpc) as two:
        assert one.request(bad.method, bad.path, bad.body, bad.headers).status == bad.status
        assert two.call(call.method, call.message).grpc_status == call.code


def _hang_up(server: RunningServer, dice: random.Random) -> None:
    """In the middle of a request, behind it, or without reading the answers."""
    request = request_bytes("POST", dice.choice([INFER, "/v2/models/waits/infer", "/v2/repository/index"]),
                            dice.choice([json_request(), json_request(np.ones(1, np.float32))]))
    with Http1Connection(server.http) as connection:
        connection.send(request * dice.randrange(0, 50) + request[:dice.randrange(1, len(request))])


def _reset(server: RunningServer, dice: random.Random) -> None:
    with Http2Connection(server.grpc) as connection:
        for _ in range(dice.randrange(1, 10)):
            method = dice.choice(["/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer",
                                  "/grpc.health.v1.Health/Watch", "/inference.GRPCInferenceService/ModelConfig"])
            number = connection.open("POST", method, GRPC)
            connection.send(number, framed(grpc_request(dice.choice(["scores", "waits"]))), end=dice.random() < 0.5)
            if dice.random() < 0.7:
                connection.h2.reset_stream(number)
                connection.flush()


def _come_and_go(server: RunningServer, dice: random.Random) -> None:
    """Answered rightly or not at all: the model that is loaded and unloaded by another thread."""
    x = np.full((1, 2), dice.random(), np.float32)
    with Http1Connection(server.http) as connection:
        for _ in range(20):
            answer = connection.request("POST", "/v2/models/moving/versions/2/infer", json_request(x))
            if answer.status == 200:
                assert _floats(answer) == (2 * x).tobytes()
            else:
                assert answer.status in (404, 503), answer.json()


def _move(server: RunningServer, dice: random.Random) -> None:
    with Http1Connection(server.http) as connection:
        connection.request("POST", f"/v2/repository/models/moving/{dice.choice(['load', 'load', 'unload'])}")


ACTIONS: list[Action] = [_http, _grpc, _bad, _hang_up, _reset, _come_and_go]


def _work(server: RunningServer, actions: list[Action], seed: int, until: float, failures: list[BaseException]) -> None:
    dice = random.Random(seed)
    try:
        while time.monotonic() < until and not failures:
            dice.choice(actions)(server, dice)
    except BaseException as error:
        failures.append(error)


def _in_flight(server: RunningServer) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['admin']}/admin/v1/models", timeout=10) as response:
        models = json.load(response)["models"]
    return sum(one["statistics"]["in_flight"] + one["statistics"]["queue_depth"] for one in models if one["statistics"])


@pytest.fixture(params=[(1, 1), (3, 2)], ids=lambda counts: "{}-io-{}-instances".format(*counts))
def turmoil_server(repository: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    io_threads, instances = request.param
    flags = ("--model-control", "explicit", "--io-threads", str(io_threads), "--instances", str(instances))
    with running_server(repository, tmp_path, *flags) as running:
        yield running


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(120)])])
def test_turmoil(turmoil_server: RunningServer, seconds: float) -> None:
    server = turmoil_server
    with contextlib.suppress(FileExistsError):
        shutil.copytree(server.repository / "scaled", server.repository / "moving")
    worker = server.worker()
    before = worker.memory_info().rss
    failures: list[BaseException] = []
    until = time.monotonic() + seconds
    work = [ACTIONS] * 6 + [[_move]]
    threads = [threading.Thread(target=_work, args=(server, actions, seed, until, failures)) for seed, actions in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    # Hang-ups are noticed within a few turns of the loop.
    while _in_flight(server):
        assert time.monotonic() < until + 10, "requests whose clients have gone are still there"
    assert worker.is_running()
    assert server.worker().pid == worker.pid, "the worker was restarted"
    grown = worker.memory_info().rss - before
    assert grown < 96 << 20, f"{grown} bytes more than before"
    with Http2Connection(server.grpc) as connection:
        assert grpc_answer(connection.call("ModelInfer", grpc_request()).messages()[0]) == FLOATS.tobytes()
    assert server.errors() == []
