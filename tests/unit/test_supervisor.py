"""The supervisor: its decisions by themselves, then with real sockets and a worker that misbehaves to order."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import supervision as sv
from serve.config import Settings, load_settings
from serve.control import Ready
from serve.errors import ConfigurationError, InternalError
from serve.listeners import PortInUse, Ports, bind_listeners
from serve.supervisor import _worker_command, _worker_environment, supervise

MS = sv.MS
EVENTS = (sv.WorkerReady(), sv.WorkerFailed(3, "no"), sv.WorkerDrained(), sv.WorkerPong(), sv.WorkerExited(-9), sv.Stop(1000), sv.Tick())
FAKE = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]


def serving(now_ns: int = 0, deaths: int = 0) -> sv.State:
    state, _ = sv.step(sv.State(deaths=deaths), sv.WorkerReady(), now_ns)
    return state


def said(actions: tuple[sv.Action, ...]) -> tuple[sv.Action, ...]:
    return tuple(a for a in actions if not isinstance(a, sv.Say))


def test_a_worker_that_dies_before_it_is_ready_is_replaced_after_a_delay_that_doubles() -> None:
    state, now, delays = sv.State(), 0, []
    for _ in range(10):
        state, actions = sv.step(state, sv.WorkerExited(-11), now)
        assert (state.phase, said(actions)) == (sv.Phase.BACKOFF, ())
        assert state.wake_ns is not None
        delays.append(state.wake_ns - now)
        now = state.wake_ns
        state, actions = sv.step(state, sv.Tick(), now)
        assert actions == (sv.Spawn(restarts=state.restarts),)
    assert [d // MS for d in delays] == [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000, 10000]
    assert state.restarts == 10


def test_a_worker_that_was_ready_is_replaced_at_once() -> None:
    state = serving(now_ns=5, deaths=7)
    for restart in range(1, 10):
        state, _ = sv.step(state, sv.WorkerExited(-9), restart)
        assert (state.deaths, state.wake_ns) == (1, restart + sv.FIRST_DELAY_NS)
        state, _ = sv.step(state, sv.Tick(), restart + sv.FIRST_DELAY_NS)
        state, _ = sv.step(state, sv.WorkerReady(), restart)


@pytest.mark.parametrize("code", [1, 3])
def test_what_would_fail_again_is_not_tried_again(code: int) -> None:
    announced, actions = sv.step(sv.State(), sv.WorkerFailed(code, "why"), 1)
    assert actions == (sv.Say("why"),)
    assert sv.step(announced, sv.WorkerExited(code), 2)[1] == (sv.Exit(code),)
    assert sv.step(sv.State(), sv.WorkerExited(code), 2)[1] == (sv.Exit(code),)
    assert sv.step(serving(), sv.WorkerExited(code), 2)[0].phase is sv.Phase.BACKOFF     # it has served: an accident


@pytest.mark.parametrize(("status", "drained", "code"), [(0, False, 0), (0, True, 0), (-9, False, 137), (-11, True, 0), (7, False, 7)])
def test_exit_codes_of_a_drain(status: int, drained: bool, code: int) -> None:
    state, actions = sv.step(serving(), sv.Stop(drain_ns=30_000 * MS), 10)
    assert said(actions) == (sv.Drain(),)
    assert state.wake_ns == 10 + 30_000 * MS + sv.KILL_GRACE_NS
    if drained:
        state, _ = sv.step(state, sv.WorkerDrained(), 11)
    assert sv.step(state, sv.WorkerExited(status), 12)[1] == (sv.Exit(code),)


def test_a_drain_that_takes_too_long_is_ended() -> None:
    state, _ = sv.step(serving(), sv.Stop(drain_ns=0), 0)
    state, actions = sv.step(state, sv.Tick(), sv.KILL_GRACE_NS)
    assert said(actions) == (sv.Kill(),)
    assert sv.step(state, sv.WorkerExited(-9), sv.KILL_GRACE_NS + 1)[1] == (sv.Exit(137),)


def test_a_second_stop_ends_at_once() -> None:
    state, _ = sv.step(serving(), sv.Stop(drain_ns=10**12), 0)
    state, actions = sv.step(state, sv.Stop(drain_ns=10**12), 1)
    assert said(actions) == (sv.Kill(), sv.Exit(130))
    assert state.phase is sv.Phase.OVER


def test_stopped_between_two_workers_nothing_is_left_to_drain() -> None:
    state, _ = sv.step(serving(), sv.WorkerExited(-9), 0)
    assert sv.step(state, sv.Stop(0), 1)[1] == (sv.Exit(0),)


def test_a_silent_worker_is_killed_and_one_pong_spares_it() -> None:
    for pong_after in (None, 3):
        state, kills = serving(), 0
        for tick in range(1, sv.SILENT_TICKS + 2):
            assert state.wake_ns is not None
            state, actions = sv.step(state, sv.Tick(), state.wake_ns)
            kills += sv.Kill() in actions
            if tick == pong_after:
                state, _ = sv.step(state, sv.WorkerPong(), state.wake_ns or 0)
        assert kills == (pong_after is None)


def test_a_suspended_machine_costs_one_ping_not_a_worker() -> None:
    state, actions = sv.step(serving(), sv.Tick(), 3600 * 1000 * MS)
    assert (actions, state.unanswered) == ((sv.Ping(),), 1)


def test_every_other_event_raises() -> None:
    for phase in sv.Phase:
        for event in EVENTS:
            state = sv.State(phase=phase, wake_ns=0)
            if (phase, type(event)) not in sv._TRANSITIONS:
                with pytest.raises(InternalError):
                    sv.step(state, event, 1)
    with pytest.raises(InternalError):
        sv.step(serving(now_ns=100), sv.Tick(), 101)


@given(st.lists(st.sampled_from(EVENTS), max_size=60))
def test_any_history_ends_in_one_exit(events: list[sv.Event]) -> None:
    state, actions = sv.begin()
    now, alive = 0, True
    for event in events:
        if (state.phase, type(event)) not in sv._TRANSITIONS or (isinstance(event, sv.Tick) and state.wake_ns is None):
            continue
        now = max(now + 1, state.wake_ns or 0)
        alive = alive and not isinstance(event, sv.WorkerExited)
        state, actions = sv.step(state, event, now)
        spawns = sum(isinstance(a, sv.Spawn) for a in actions)
        assert not (spawns and alive)                 # never two workers
        alive = alive or bool(spawns)
        assert (state.phase is sv.Phase.OVER) == any(isinstance(a, sv.Exit) for a in actions)
        if state.phase is sv.Phase.OVER:
            break
        assert alive or state.wake_ns is not None     # something will happen by itself


def settings(tmp_path: Path, role: str, **flags: object) -> Settings:
    ports = {"http_port": "0", "grpc_port": "none", "metrics_port": "none", "admin_port": "none"}
    return load_settings(ports | {"paths": [tmp_path / f"{role}.onnx"], "state_dir": str(tmp_path)} | flags, {})


def run(configured: Settings, on_ready: list[tuple[Ready, Ports]] | None = None) -> int:
    seen = on_ready if on_ready is not None else []
    return supervise(configured, lambda ready, ports: seen.append((ready, ports)), FAKE)


def test_a_drained_worker_ends_the_service_with_0(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(settings(tmp_path, "drains", drain_timeout="7", pre_stop_delay="0.5")) == 0
    assert "order 0.5 7" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("role", "code"), [("fails", 3), ("raises", 1)])
def test_a_worker_that_cannot_serve_is_not_restarted(tmp_path: Path, role: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    ready: list[tuple[Ready, Ports]] = []
    assert run(settings(tmp_path, role), ready) == code
    text = capfd.readouterr().err
    assert text.count("started") == 1
    assert (role == "fails") == ("no model loaded: m: broken" in text)
    assert ready == []


def test_connections_outlive_a_killed_worker(tmp_path: Path) -> None:
    connections: list[socket.socket] = []

    def announce(ready: Ready, ports: Ports) -> None:
        for first_bytes in (b"die", b"hello"):
            connections.append(socket.create_connection(("127.0.0.1", ports.http or 0), timeout=20))
            connections[-1].sendall(first_bytes)

    assert supervise(settings(tmp_path, "crashes", io_threads="1"), announce, FAKE) == 0
    assert connections[1].recv(100) == b"epoch 2 restarts 1"
    for one in connections:
        one.close()


def test_a_worker_that_ignores_the_drain_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sv, "KILL_GRACE_NS", 50 * MS)
    assert run(settings(tmp_path, "ignores", drain_timeout="0")) == 137


@pytest.mark.parametrize("role", ["hangs", "babbles"])
def test_a_worker_beyond_reason_is_replaced(tmp_path: Path, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sv, "PING_NS", 10 * MS)
    assert run(settings(tmp_path, role)) == 0


def test_a_worker_that_answers_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sv, "PING_NS", 5 * MS)
    monkeypatch.setattr(sv, "SILENT_TICKS", 15)     # fewer than the pings that it answers, more than a slow machine swallows
    assert run(settings(tmp_path, "answers")) == 0
    assert capfd.readouterr().err.count("started") == 1


def test_the_worker_dies_with_its_supervisor(tmp_path: Path) -> None:
    script = (f"from serve.config import load_settings; from serve.supervisor import _worker_command, _worker_environment, supervise; "
              f"supervise(load_settings({{'paths': ['idles.onnx'], 'state_dir': {str(tmp_path)!r}, 'http_port': '0', 'grpc_port': 'none', "
              f"'metrics_port': 'none', 'admin_port': 'none'}}, {{}}), lambda ready, ports: None, {FAKE!r})")
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=_worker_environment()) as service:
        assert service.stderr is not None
        line = service.stderr.readline()
        assert line.startswith("headrace: worker 1 started, pid ")
        worker = os.pidfd_open(int(line.rsplit(" ", 1)[1]))
        try:
            service.kill()
            assert select.select([worker], [], [], 20)[0]
        finally:
            os.close(worker)


def test_the_worker_is_not_taken_in_by_the_folder_it_starts_in(tmp_path: Path) -> None:
    for name in ("serve", "yaml", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')", encoding="utf-8")
    python, *flags, module = _worker_command()
    assert (flags, module) == (["-P", "-m"], "serve.app")
    told = subprocess.run([python, "-P", "-c", "import yaml, json, serve; print(serve.__file__)"], cwd=tmp_path, env=_worker_environment(),
                          capture_output=True, text=True, timeout=30, check=True)
    assert Path(told.stdout.strip()) == Path(sv.__file__).with_name("__init__.py")


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    def announce(ready: Ready, ports: Ports) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    assert supervise(settings(tmp_path, "ignores"), announce, FAKE) == 130


def test_all_sockets_of_a_port_share_it_and_nobody_else_does(tmp_path: Path) -> None:
    configured = settings(tmp_path, "x", io_threads="3", grpc_port="0", metrics_port="0", admin_port="0")
    listeners = bind_listeners(configured)
    try:
        ports = listeners.ports()
        assert {s.getsockname()[1] for s in listeners.http} == {ports.http}
        assert (len(listeners.http), len(listeners.grpc), len(set(listeners.sockets().all()))) == (3, 3, 8)
        assert not any(s.getblocking() for s in listeners.http)
        with pytest.raises(PortInUse, match=f"http port {ports.http} on 127.0.0.1 is in use; choose another with --http-port"):
            bind_listeners(configured.model_copy(update={"http_port": ports.http}))
        # All that are in use are told at once.
        with pytest.raises(PortInUse, match=f"http port {ports.http} on .*; metrics port {ports.metrics} on .* --metrics-port"):
            bind_listeners(configured.model_copy(update={"http_port": ports.http, "metrics_port": ports.metrics}))
        # All of them are served: the kernel spreads by connection.
        clients = [socket.create_connection(("127.0.0.1", ports.http or 0)) for _ in range(64)]
        accepted = [_accept_all(s) for s in listeners.http]
        assert sum(accepted) == 64
        assert all(accepted)
        for one in clients:
            one.close()
    finally:
        listeners.close()
    bind_listeners(configured.model_copy(update={"http_port": ports.http})).close()


def _accept_all(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_an_address_that_is_not_ours_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1 port 0 \(http\)"):
        bind_listeners(settings(tmp_path, "x", host="192.0.2.1"))
