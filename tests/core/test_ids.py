"""UUIDs of version 7: format, bits, order by time, no repetition; the generator against its authors' algorithm."""

import uuid

import pytest

from serve._core import ids

MASK = 2**64 - 1


def test_format_and_bits():
    generator = ids.Generator()
    for ms in (0, 1, 0x017F22E279B0, 1_700_000_000_000, 2**48 - 1):
        text = generator.uuid7(ms)
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == ms


def test_the_words_of_the_generator_fill_the_random_bits():
    words = (0x0123456789ABCDEF, 0xFEDCBA9876543210, 0x0F1E2D3C4B5A6978, 0x8796A5B4C3D2E1F0)
    state = list(words)
    a, b = xoshiro256(state), xoshiro256(state)
    value = uuid.UUID(ids.Generator(words).uuid7(5)).int
    assert value >> 64 & 0xFFF == a >> 52
    assert value & (1 << 62) - 1 == b >> 50 << 48 | b & (1 << 48) - 1


def xoshiro256(s: list[int]) -> int:
    """xoshiro256** as Blackman and Vigna print it, on integers without bounds."""
    def rotate(x: int, n: int) -> int:
        return (x << n | x >> (64 - n)) & MASK
    result = rotate(s[1] * 5 & MASK, 7) * 9 & MASK
    t = s[1] << 17 & MASK
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = rotate(s[3], 45)
    return result


def test_the_generator_is_the_published_one():
    state = [1, 2, 3, 4]
    generator = ids.Generator(tuple(state))
    numbers = [generator.next() for _ in range(1000)]
    assert numbers[:4] == [11520, 0, 1509978240, 1215971899390074240], "the published vector of seed 1, 2, 3, 4"
    assert numbers == [xoshiro256(state) for _ in range(1000)]


def test_order_by_millisecond():
    generator = ids.Generator()
    texts = [generator.uuid7(1_700_000_000_000 + i * i) for i in range(1, 2000)]
    assert texts == sorted(texts)


@pytest.mark.parametrize("n_generators", [1, 4])
def test_no_id_comes_twice(n_generators: int):
    generators = [ids.Generator() for _ in range(n_generators)]
    n = 100_000 // n_generators
    assert len({generator.uuid7(1_700_000_000_000) for generator in generators for _ in range(n)}) == n * n_generators


def test_random_bits_are_balanced():
    """74 free bits over 4,000 ids: each is set in half of them, within seven standard deviations."""
    generator, n = ids.Generator((1, 2, 3, 4)), 4000
    values = [uuid.UUID(generator.uuid7(0)).int for _ in range(n + 50)][50:]
    free = [bit for bit in range(76) if bit not in (62, 63)]
    assert all(abs(sum(value >> bit & 1 for value in values) - n / 2) < 7 * (n / 4) ** 0.5 for bit in free)
