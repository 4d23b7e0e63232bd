"""Models come, change and go under load: who asks for a model that stays does not notice."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.reliability import clients, models
from tests.reliability.clients import INFER, Http
from tests.reliability.load import Load
from tests.reliability.service import Service, assert_nothing_is_held, eventually, faults, serving

N_FEW, N_MANY = 10, 100
MB = 1 << 20


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """stays: factor 2; changes: version n has factor n; comes_and_goes."""
    root = tmp_path / "repository"
    models.quick(root, "stays")
    models.quick(root, "changes", 1, 1.0)
    models.quick(root, "comes_and_goes")
    return root


@pytest.fixture
def service(repository: Path, tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "service", str(repository), "--model-control", "explicit") as running:
        yield running


def over_http(service: Service, model: str, check: Callable[[Load, int, float], None]) -> Callable[[Load], None]:
    def ask(load: Load) -> None:
        with Http(service.http) as connection:
            while not load.stopping:
                answer = connection.ask(clients.quick(1.0, model))
                check(load, answer.status, answer.json["outputs"][0]["data"][0] if answer.status == 200 else 0.0)

    return ask


def over_grpc(service: Service, model: str, check: Callable[[Load, int, float], None]) -> Callable[[Load], None]:
    def ask(load: Load) -> None:
        with clients.channel(service.grpc) as channel:
            call = clients.method(channel, INFER)
            while not load.stopping:
                try:
                    check(load, 200, clients.float_of(call(clients.quick_message(1.0, model), timeout=20)))
                except grpc.RpcError as error:
                    code = error.code()     # type: ignore[attr-defined]
                    check(load, {grpc.StatusCode.UNAVAILABLE: 503, grpc.StatusCode.NOT_FOUND: 404}.get(code, code.value[0]), 0.0)

    return ask


def test_reloads_under_load_fail_no_request(service: Service, repository: Path) -> None:
    served = {1.0}      # factors of `changes` that may be answered

    def stays(load: Load, status: int, value: float) -> None:
        assert (status, value) == (200, 2.0)
        load.count(status)

    def changes(load: Load, status: int, value: float) -> None:
        assert status == 200
        assert value in served
        load.count(value)

    def comes_and_goes(load: Load, status: int, value: float) -> None:
        assert status in (200, 503)
        load.count(status)

    checks = (("stays", stays), ("changes", changes), ("comes_and_goes", comes_and_goes))
    loads = [Load(1, over(service, model, check)) for model, check in checks for over in (over_http, over_grpc)]
    worker = service.worker()
    with Http(service.http) as operator:
        for load in loads:
            load.start()
        try:
            _cycles(service, repository, operator, served, range(2, 2 + N_FEW))
            memory, threads, descriptors = worker.memory_info().rss, worker.num_threads(), worker.num_fds()
            _cycles(service, repository, operator, served, range(2 + N_FEW, 2 + N_FEW + N_MANY))
            assert worker.memory_info().rss - memory < 16 * MB
            assert worker.num_threads() <= threads + 8      # pools that grow when they are used, to a few each
            assert worker.num_fds() <= descriptors + 2
        finally:
            for load in loads:
                load.stop()
    last = 1.0 + N_FEW + N_MANY
    for load in loads[2:4]:
        assert load.counts[last] or load.counts[last - 1], "the newest version is what is asked"
    for load in loads[4:]:
        assert load.counts[200]
        assert load.counts[503]
    assert_nothing_is_held(service)
    assert service.lines("Traceback") == []
    assert service.stop() == 0
    assert faults(service) == []


def _cycles(service: Service, repository: Path, operator: Http, served: set[float], versions: range) -> None:
    for version in versions:
        models.quick(repository, "changes", version, float(version))
        served.add(float(version))
        assert operator.ask(clients.post("/v2/repository/models/changes/load")).status == 200
        shutil.rmtree(repository / "changes" / str(version - 1))
        with Http(service.http) as new:
            assert clients.value_of(new.ask(clients.quick(1.0, "changes"))) == version
        verb = "unload" if version % 2 else "load"
        assert operator.ask(clients.post(f"/v2/repository/models/comes_and_goes/{verb}")).status == 200


def test_a_load_that_fails_leaves_what_serves(service: Service, repository: Path) -> None:
    broken = (b"", b"\0" * 100, b"not a model" * 1000, (repository / "stays" / "1" / "model.onnx").read_bytes()[:-20])

    def asked(load: Load, status: int, value: float) -> None:
        assert (status, value) == (200, 1.0)
        load.count(status)

    with Load(1, over_http(service, "changes", asked)) as http, Load(1, over_grpc(service, "changes", asked)) as grpc_load, \
            Http(service.http) as operator:
        for at in range(3 * len(broken)):
            path = models.place(repository, "changes", 2)
            path.write_bytes(broken[at % len(broken)])
            answer = operator.ask(clients.post("/v2/repository/models/changes/load"))
            assert answer.status >= 400
            assert "failed to load 'changes', version 2" in answer.json["error"]
        eventually(lambda: min(http.counts[200], grpc_load.counts[200]) > 0, 10, "answers")
    assert service.stop() == 0


def test_an_unload_waits_for_what_it_was_asked_before(service: Service, repository: Path) -> None:
    models.waiting(repository)
    with Http(service.http) as operator, Http(service.http) as first, Http(service.http) as second:
        assert operator.ask(clients.post("/v2/repository/models/waiting/load")).status == 200
        first.send(clients.waiting())
        eventually(lambda: service.metric("headrace_queue_depth", model="waiting") == 1, 10, "the request in the queue")
        second.send(clients.waiting()[:-1])
        operator.send(clients.post("/v2/repository/models/waiting/unload"))
        with Http(service.http) as other:
            eventually(lambda: other.ask(clients.waiting()).status == 503, 10, "no new requests")
        second.send(clients.waiting()[-1:])
        # What came before its end is too late for this table; the one in the queue runs alone, at its own time, or is answered now.
        assert second.answer().status == 503
        first.reset()
        assert operator.answer().status == 200
    assert service.stop() == 0
