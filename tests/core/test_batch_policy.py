"""When a batch is sealed, and how large, against the rules spelled out one row at a time."""

from hypothesis import given
from hypothesis import strategies as st

from serve._core.queue_harness import decide_for_test

FOREVER = 2**62


def oracle(max_batch: int, preferred: list[int], delay_ns: int, waiting: int, oldest_ns: int, now: int) -> int:
    """Rows to seal now; 0: wait until the oldest has waited for the delay."""
    if waiting >= max_batch:
        return max_batch
    reached = [size for size in preferred if size <= waiting]
    if reached:
        return max(reached)
    if delay_ns > 0 and now - oldest_ns < delay_ns:
        return 0
    return waiting


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, list[int], int, int, int, int]:
    max_batch = draw(st.integers(1, 200))
    preferred = sorted(draw(st.sets(st.integers(1, max_batch), max_size=16)))
    oldest = draw(st.integers(0, 2**50))
    delay = draw(st.sampled_from([0, 1, 1000, 10**9]) | st.integers(0, 10**10))
    # Around the moment when the delay ends, and before the oldest was queued: clocks of threads differ.
    now = max(0, oldest + delay + draw(st.sampled_from([-1, 0, 1]) | st.integers(-(10**10), 10**10)))
    return max_batch, preferred, delay, draw(st.integers(1, 400)), oldest, now


@given(cases())
def test_decision_is_the_oracles(case: tuple[int, list[int], int, int, int, int]) -> None:
    max_batch, preferred, delay, waiting, oldest, now = case
    rows, wait_until = decide_for_test(max_batch, preferred, delay, waiting, oldest, now)
    assert rows == oracle(max_batch, preferred, delay, waiting, oldest, now)
    assert wait_until == (0 if rows else oldest + delay)


@given(cases())
def test_whoever_looks_again_at_the_time_named_finds_a_batch(case: tuple[int, list[int], int, int, int, int]) -> None:
    max_batch, preferred, delay, waiting, oldest, now = case
    rows, wait_until = decide_for_test(max_batch, preferred, delay, waiting, oldest, now)
    if rows == 0:
        assert wait_until > now
        assert decide_for_test(max_batch, preferred, delay, waiting, oldest, wait_until)[0] == waiting
    assert rows <= min(waiting, max_batch)


def test_without_a_delay_nothing_waits() -> None:
    for waiting in range(1, 20):
        assert decide_for_test(8, [], 0, waiting, FOREVER, 0) == (min(waiting, 8), 0)


def test_a_full_batch_goes_whatever_is_preferred() -> None:
    assert decide_for_test(8, [4], 10**9, 8, 0, 0) == (8, 0)
    assert decide_for_test(8, [4], 10**9, 7, 0, 0) == (4, 0)
    assert decide_for_test(8, [4], 10**9, 3, 0, 0) == (0, 10**9)
