"""The keeper's process: what it says, what it obeys, and that it may be killed at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from serve import keeper
from serve.errors import ConfigurationError, Conflict
from serve.keeper import Rota, WorkerPipe, _Turn, seal_once
from serve.recording.home import Home
from serve.recording.keeper_link import keeper_command
from serve.recording.keeper_settings import KeeperSettings
from serve.recording.layout import JournalName
from serve.recording.manifest import ManifestState
from serve.recording.manifest_file import Manifest, read_manifest
from serve.recording.page import RecordPage
from serve.recording.snapshot import snapshot
from serve.recording.store_port import RecordsStore
from serve.recording.stores import open_store
from tests.unit.recording.journals import seqs_in, simple_journal


@dataclass
class Place:
    home: Home
    store: RecordsStore
    settings: KeeperSettings

    def state(self) -> ManifestState:
        return read_manifest(self.store, "r")

    def seqs(self) -> list[int]:
        return seqs_in(self.store, self.state().parts.values())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    home, url = Home(tmp_path / "home"), str(tmp_path / "records")
    return Place(home, open_store(url), KeeperSettings(records=url, home=str(home.path), replica="r", epoch=9, parent_pid=os.getpid()))


@contextmanager
def running(settings: KeeperSettings) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(keeper_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write(settings.to_json().encode() + b"\n")
    process.stdin.flush()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def hear(process: subprocess.Popen[bytes], kind: str, n: int = 1) -> list[dict[str, Any]]:
    """Messages up to the n-th of a kind."""
    assert process.stdout
    heard: list[dict[str, Any]] = []
    while sum(message["type"] == kind for message in heard) < n:
        line = process.stdout.readline()
        assert line, heard
        heard.append(json.loads(line))
    return heard


def test_a_keeper_seals_what_waits_and_what_comes_and_ends_with_its_input(place: Place) -> None:
    simple_journal(place.home, 1, range(10), closed=False)
    page = RecordPage(place.home.path, 1)
    page.release()
    with running(place.settings) as process:
        assert process.stdin
        heard = hear(process, "epoch")
        assert heard[0] == {
                "type": "started", "jobs": ["sealing", "recovery", "retention", "compaction", "status", "joining", "performance"]}
        assert [message["rows"] for message in heard if message["type"] == "sealed"] == [10]
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        simple_journal(place.home, 1, range(10, 20), epoch=9)
        [message] = [message for message in hear(process, "sealed") if message["type"] == "sealed"]
        assert (message["epoch"], message["rows"]) == (9, 10)
        os.kill(process.pid, signal.SIGTERM)     # the worker decides when it ends
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(10) == 0
    assert place.seqs() == list(range(20))
    assert {name: getattr(place.state(), name) for name in ("host", "home")} == {"host": os.uname().nodename, "home": str(place.home.path)}
    with snapshot(place.store) as found:
        assert found.warnings == ()


def test_a_keeper_says_how_things_are(place: Place) -> None:
    with running(replace(place.settings, disk_budget_bytes=1 << 20)) as process:
        heard = {message["type"]: message for message in hear(process, "status")}
    assert heard["status"]["rows"]["records"] == {"sealed": 0, "torn": 0, "bad": 0, "purged": 0}
    assert (heard["status"]["journals"], heard["status"]["used_bytes"], heard["room"]["room"]) == (0, 0, True)


def test_a_second_keeper_waits_for_the_first_to_go(place: Place) -> None:
    with place.home.locked(), running(place.settings) as process:
        [message] = hear(process, "error")
        assert f"another keeper has {place.home.path}" in message["text"]
        assert process.stdin
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_keeper_dies_with_its_worker(place: Place) -> None:
    script = (
        "import os, subprocess, sys\n"
        f"keeper = subprocess.Popen({keeper_command()!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        f"settings = {place.settings.to_json()!r}.replace('\"parent_pid\":{os.getpid()}', f'\"parent_pid\":{{os.getpid()}}')\n"
        "keeper.stdin.write(settings.encode() + b'\\n'); keeper.stdin.flush()\n"
        "keeper.stdout.readline(); print(keeper.pid, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        pid = int(worker.stdout.readline())
        watch = os.pidfd_open(pid)
        worker.kill()
    try:
        assert keeper.select.select([watch], [], [], 10)[0], "the keeper outlived its worker"
    finally:
        os.close(watch)


@pytest.mark.parametrize("n_kills", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_kills_neither_lose_nor_double_a_row(n_kills: int, place: Place) -> None:
    """Killed at random moments while journals come; and one keeper is left to finish."""
    chance = random.Random(7)
    n_rows = 0
    for i in range(n_kills):
        for number in (2 * i + 1, 2 * i + 2):
            simple_journal(place.home, number, range(n_rows, n_rows + 40), epoch=1)
            n_rows += 40
        with running(place.settings) as process:
            hear(process, "started")
            time.sleep(chance.random() * 0.06)      # not a wait for anything: the moment of the kill is what is random
            process.kill()
    with running(replace(place.settings, epoch=9)) as process:
        while not place.state().is_sealed(1, 2 * n_kills):
            hear(process, "sealed")
    state = place.state()
    assert place.seqs() == list(range(n_rows))
    assert state.rows["records"].sealed == n_rows
    assert sorted(file.path for file in place.store.list("records")) == sorted(state.parts)


def test_sealing_once_needs_no_server(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    settings = replace(place.settings, epoch=None, delta=True)
    for number in range(1, 4):
        simple_journal(place.home, number, range(number * 5, number * 5 + 5), closed=number < 3)
    RecordPage(place.home.path, 1).release()
    place.home.file(JournalName(1, 7, "journal")).write_bytes(b"?" * 100)
    said: list[Mapping[str, Any]] = []
    seal_once(settings, said.append)
    assert [message["type"] for message in said] == ["sealed"] * 4 + ["epoch", "delta"]
    assert place.seqs() == list(range(5, 20))
    said.clear()
    seal_once(settings, said.append)
    assert said == []


def test_sealing_once_leaves_a_running_server_alone(place: Place) -> None:
    with place.home.locked(), pytest.raises(Conflict, match="a running server keeps"):
        seal_once(replace(place.settings, epoch=None), print)


def test_a_journal_that_fails_is_said_and_others_are_sealed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        simple_journal(place.home, number, range(number * 5, number * 5 + 5))
    adopt = type(place.store).adopt

    def fails(self: RecordsStore, source: Path, path: str) -> None:
        if "-1-1." in path:
            raise PermissionError(13, "Permission denied")
        adopt(self, source, path)

    monkeypatch.setattr(type(place.store), "adopt", fails)
    said: list[Mapping[str, Any]] = []
    seal_once(replace(place.settings, epoch=None), said.append)
    assert [message["type"] for message in said] == ["error", "sealed"]
    assert said[0]["text"] == "1-1.journal: PermissionError: [Errno 13] Permission denied"


def test_rows_of_another_state_directory_stop_everything(place: Place) -> None:
    other = Manifest(place.store, "r")
    other.begin("elsewhere", "/home", 0, "other")
    other.append({"type": "epoch", "epoch": 9, "assigned": 0, "appended": 0, "dropped": {}, "lost": 0, "at_ns": 0})
    with pytest.raises(ConfigurationError, match="give another --replica-id"):
        seal_once(place.settings, print)
    with running(place.settings) as process:
        [message] = hear(process, "error")
        assert "give another --replica-id; nothing is sealed until that changes" in message["text"]


@dataclass
class CountingJob:
    name: str
    interval_s: float = 1.0
    runs: list[int] = field(default_factory=list)
    fails: int = 0

    def run(self, now_ns: int) -> list[dict[str, Any]]:
        self.runs.append(now_ns)
        if len(self.runs) <= self.fails:
            raise OSError(28, "No space left on device")
        return [{"type": self.name}]


def run_until(rota: Rota, end_s: float, step_s: float = 0.0) -> list[tuple[float, str]]:
    """What was said when. step_s: how long each run takes."""
    now = 0
    said = []
    while now < end_s * 1e9:
        turn = rota.next()
        now = max(now, turn.due_ns)
        start, now = now, now + int(step_s * 1e9)
        said += [(start / 1e9, message["type"]) for message in rota.run(turn, lambda at=now: at, start)]
    return said


def test_jobs_take_turns_and_a_failing_one_waits_longer_each_time() -> None:
    rota = Rota([_Turn(CountingJob("often", 1.0)), _Turn(CountingJob("seldom", 3.0)), _Turn(CountingJob("failing", 1.0, fails=3))])
    said = run_until(rota, 10)
    assert [at for at, what in said if what == "often"] == list(range(11))
    assert [at for at, what in said if what == "seldom"] == [0, 3, 6, 9]
    assert [(at, what) for at, what in said if what in ("error", "failing")] == [
        (0, "error"), (1, "error"), (3, "error"), (7, "failing"), (8, "failing"), (9, "failing")]


def test_a_job_with_more_to_do_does_not_keep_the_others_waiting() -> None:
    said = run_until(Rota([_Turn(CountingJob("busy", 0.0)), _Turn(CountingJob("other", 2.0))]), 10, step_s=0.25)
    assert [at for at, what in said if what == "other"] == [0.25, 2.75, 5.25, 7.75]
    assert len([at for at, what in said if what == "busy"]) > 30


@dataclass
class ListeningJob(CountingJob):
    told: list[Mapping[str, Any]] = field(default_factory=list)

    def tell(self, message: Mapping[str, Any]) -> None:
        self.told.append(message)


def test_jobs_that_listen_hear_everything_even_what_was_said_while_the_home_was_anothers(place: Place) -> None:
    down, up = os.pipe(), os.pipe()
    job = ListeningJob("listening", 0.01)
    pipe = WorkerPipe(down[0], up[1])
    makers: list[keeper.JobMaker] = [lambda settings, keeping: [job], lambda settings, keeping: []]
    thread = threading.Thread(target=keeper.keep, args=(pipe, place.settings, makers))
    with os.fdopen(up[0]) as said:
        with place.home.locked():
            thread.start()
            assert "another keeper has" in said.readline()
            os.write(down[1], b'{"type":"a"}\n')
        assert json.loads(said.readline())["jobs"][-1] == "listening"
        os.write(down[1], b'{"type":"b"}\n{"type":"c"}\n')
        while len(job.told) < 3:
            assert said.readline()
        os.close(down[1])
        thread.join(20)
    assert [message["type"] for message in job.told] == ["a", "b", "c"]
    assert not thread.is_alive()
    os.close(down[0])
    os.close(up[1])


def test_messages_that_name_very_many_files_are_cut_short() -> None:
    reads, writes = os.pipe()
    WorkerPipe(0, writes).send([{"type": "purged", "paths": [f"p{i}" for i in range(5000)], "rows": 3}, {"type": "x", "paths": ["a"]}])
    os.close(writes)
    with os.fdopen(reads) as file:
        long, short = map(json.loads, file)
    assert (long["paths"], long["n_paths"], long["rows"]) == ([f"p{i}" for i in range(100)], 5000, 3)
    assert short == {"type": "x", "paths": ["a"]}


def test_the_pipe_gives_settings_then_messages_then_the_end(place: Place) -> None:
    reads, writes = os.pipe()
    pipe = WorkerPipe(reads, 1)
    os.write(writes, place.settings.to_json().encode() + b'\n{"type":"a"}\n{"ty')
    assert pipe.settings() == place.settings
    assert pipe.messages(0) == [{"type": "a"}]
    assert pipe.messages(0) == []
    os.write(writes, b'pe":"b"}\n')
    assert pipe.messages(5) == [{"type": "b"}]
    os.close(writes)
    assert pipe.messages(5) is None
    os.close(reads)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"records": 1'])
def test_settings_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="are no settings of a keeper"):
        KeeperSettings.from_json(text)
