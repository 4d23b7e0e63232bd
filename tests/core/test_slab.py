"""The slab allocator: whatever the order of operations, bytes keep, memory is counted, and nothing stays behind."""

from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core import slab

SIZES = st.integers(1, 5000) | st.sampled_from([1, 63, 64, 65, 2047, 2048, 2049, 1 << 17])
OPERATION = st.tuples(st.sampled_from(["malloc", "calloc", "realloc", "free"]), st.integers(0, 63), SIZES)


@settings(max_examples=200)
@given(st.lists(OPERATION, max_size=60))
def test_bytes_keep_and_blocks_are_counted(operations: list[tuple[str, int, int]]) -> None:
    held: set[int] = set()
    for name, slot, _ in operations:
        (held.discard if name == "free" else held.add)(slot)
    assert slab.exercise_for_test(operations) == (len(held), 0)


def test_a_block_is_used_again_with_other_bytes() -> None:
    again = [("malloc", 0, 100), ("free", 0, 1), ("calloc", 1, 100), ("malloc", 2, 100), ("realloc", 1, 3000)]
    assert slab.exercise_for_test(again) == (2, 0)
