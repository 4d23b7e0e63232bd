"""Memory that sealing keeps for its next row group, and gives back when there is none."""

import subprocess
import sys

import pytest

from serve.recording import spare_memory
from serve.recording.spare_memory import IDLE_NS, SpareMemory

NOW = 1_800_000_000_000_000_000

# Takes and frees 8 MiB, twice, as Arrow and as Python do; prints how many pages the kernel had to find the second time, then MiB that are
# resident before and after giving back.
USES = """
import resource, sys
import pyarrow as pa
from serve.recording import spare_memory
{keep}
def use():
    arrow = pa.allocate_buffer(8 << 20)
    memoryview(arrow).cast("B")[:] = own = bytearray(8 << 20)
    large = [b"x" * (1 << 20) for _ in range(64)]
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) >> 8
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
spare_memory.give_back()
print(faults, held, resident())
"""


def used(keep: str) -> tuple[int, int, int]:
    done = subprocess.run([sys.executable, "-c", USES.format(keep=keep)], capture_output=True, text=True, check=True)
    faults, held, left = map(int, done.stdout.split())
    return faults, held, left


def test_memory_that_is_kept_is_not_asked_for_again_and_given_back_at_last() -> None:
    without, _, _ = used("")
    faults, held, left = used("spare_memory.keep_freed()")
    assert faults < without / 4
    assert left < held - 32


def test_it_is_given_back_once_when_nothing_was_sealed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(spare_memory, "give_back", lambda: given.append(1))
    memory = SpareMemory()
    memory.rest(NOW)
    memory.use(NOW)
    memory.rest(NOW + IDLE_NS - 1)
    assert not given
    memory.use(NOW + IDLE_NS - 1)
    memory.rest(NOW + IDLE_NS)
    assert not given
    memory.rest(NOW + 2 * IDLE_NS)
    memory.rest(NOW + 3 * IDLE_NS)
    assert given == [1]
