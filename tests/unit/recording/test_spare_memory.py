"""Memory that sealing keeps for its next row group, and gives back when there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from serve import clock
from serve.recording import spare_memory
from serve.recording.home import Home
from serve.recording.jobs import Keeping
from serve.recording.keeper_jobs import SealingJob
from serve.recording.manifest_file import Manifest
from serve.recording.spare_memory import IDLE_NS, SpareMemory
from serve.recording.stores import open_store
from tests.unit.recording.journals import simple_journal

MIB = 1 << 20

# Takes and frees 64 MiB in pieces of one, as columns do; prints the MiB that are resident before, then, and once they are given back.
USES = """
import mmap, os
from serve.recording import spare_memory
{keep}
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE >> 20
before = resident()
pieces = [b"x" * (1 << 20) for _ in range(64)]
del pieces
held = resident()
spare_memory.give_back()
print(before, held, resident())
"""


def run(program: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_what_is_freed_stays_where_it_is_kept_until_it_is_given_back() -> None:
    before, held, _ = map(int, run(USES.format(keep="")))
    assert held < before + 32
    before, held, left = map(int, run(USES.format(keep="spare_memory.keep_freed()")))
    assert held > before + 60
    assert left < before + 32


def test_arrows_pool_gives_back_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    class Pool:
        def release_unused(self) -> None:
            given.append("arrow's")

    monkeypatch.setattr(spare_memory.pa, "default_memory_pool", Pool)
    spare_memory.give_back()
    assert given == ["arrow's"]


def test_a_keeper_keeps_what_it_frees() -> None:
    steps = "from serve import keeper; keeper.keep_freed = lambda: print('kept'); keeper._step_back(0)"
    assert run(steps) == ["kept"]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    monkeypatch.setattr(spare_memory, "give_back", lambda: made.append(1))
    return made


def test_it_is_given_back_whenever_nothing_was_sealed_for_a_while(given: list[int]) -> None:
    memory = SpareMemory()
    memory.use(IDLE_NS)
    memory.rest(2 * IDLE_NS - 1)
    memory.use(2 * IDLE_NS - 1)
    memory.rest(2 * IDLE_NS)
    assert given == []
    memory.rest(3 * IDLE_NS)
    assert given == [1]
    memory.rest(4 * IDLE_NS - 1)
    assert given == [1]
    memory.rest(4 * IDLE_NS)
    assert given == [1, 1]


def test_sealing_is_what_counts(tmp_path: Path, given: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    home, store = Home(tmp_path / "home"), open_store(str(tmp_path / "records"))
    manifest = Manifest(store, "r")
    manifest.begin("host", str(home.path), 1, home.identity())
    job = SealingJob(Keeping(store, manifest, home, "r", 9))
    now_ns = IDLE_NS
    monkeypatch.setattr(clock, "monotonic_ns", lambda: now_ns)
    simple_journal(home, 1, range(10))
    assert [message["type"] for message in job.run(clock.wall_ns())] == ["sealed"]
    now_ns += IDLE_NS - 1
    assert (job.run(clock.wall_ns()), given) == ([], [])
    now_ns += 1
    assert (job.run(clock.wall_ns()), given) == ([], [1])
