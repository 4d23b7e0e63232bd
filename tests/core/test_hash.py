"""XXH3-64 against PyPI's xxhash, over every length at which the algorithm changes."""

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from serve._core.hash import hash64_for_test

SEEDS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 512, 1024, 1025, 5000])
def test_lengths_at_which_the_algorithm_changes(length: int) -> None:
    data = bytes(i * 131 % 251 for i in range(length))
    for seed in (0, 1, 2**63, 2**64 - 1):
        assert hash64_for_test(data, seed) == xxhash.xxh3_64_intdigest(data, seed)


@given(data=st.binary(max_size=2000), seed=SEEDS)
def test_any_bytes(data: bytes, seed: int) -> None:
    assert hash64_for_test(data, seed) == xxhash.xxh3_64_intdigest(data, seed)
