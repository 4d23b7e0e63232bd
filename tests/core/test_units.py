"""Sets of units: a unit counts once, threads do not lose any, and what is written can be read again."""

import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve._core.units import UnitMemory, add_for_test, has_for_test

BITS = 1 << 20
UNITS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3) | st.sampled_from([BITS - 1, BITS, BITS + 3]), max_size=60)


@given(units=UNITS, others=UNITS)
def test_a_bitmap_is_a_set_of_remainders(units: list[int], others: list[int]) -> None:
    memory, known = UnitMemory(), set[int]()
    for unit in units:
        assert add_for_test(memory, [unit]) == [unit % BITS not in known]
        known.add(unit % BITS)
    assert memory.n_failing == len(known)
    assert has_for_test(memory, others) == [unit % BITS in known for unit in others]


def test_the_two_sets_are_apart() -> None:
    memory = UnitMemory()
    add_for_test(memory, [7])
    assert (memory.n_failing, memory.n_seen) == (1, 0)


@given(units=UNITS)
def test_what_is_written_can_be_read_again(units: list[int]) -> None:
    memory, copy = UnitMemory(), UnitMemory()
    add_for_test(memory, units)
    copy.restore(memory.failing_bytes(), memory.seen_bytes())
    assert copy.n_failing == memory.n_failing
    assert all(has_for_test(copy, units))
    assert copy.failing_bytes() == memory.failing_bytes()


def test_restoring_adds_and_counts_each_bit_once() -> None:
    memory, other = UnitMemory(), UnitMemory()
    add_for_test(memory, [1, 2])
    add_for_test(other, [2, 3])
    memory.restore(other.failing_bytes(), b"")
    assert memory.n_failing == 3
    assert has_for_test(memory, [1, 2, 3, 4]) == [True, True, True, False]


@pytest.mark.parametrize("data", [b"nonsense", zlib.compress(b"short"), zlib.compress(bytes(BITS)), zlib.compress(bytes(BITS // 8))[:-3]])
def test_what_is_not_a_set_is_refused_and_changes_nothing(data: bytes) -> None:
    memory = UnitMemory()
    add_for_test(memory, [1])
    with pytest.raises(ValueError, match="not a set of units"):
        memory.restore(data, b"")
    assert memory.n_failing == 1


def test_threads_agree_on_who_was_first() -> None:
    memory, firsts = UnitMemory(), list[int]()

    def add() -> None:
        firsts.append(sum(add_for_test(memory, list(range(0, 64_000, 2)))))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(firsts) == memory.n_failing == 32_000
