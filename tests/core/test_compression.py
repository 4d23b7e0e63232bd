"""compression: against Python's zlib and gzip, and against its own bounds."""

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core import compression

IDENTITY, GZIP, DEFLATE, UNKNOWN = 0, 1, 2, -1
OK, INVALID_ARGUMENT, TOO_LARGE = 0, 2, 6
MIB = 1 << 20

PACK: dict[int, Callable[[bytes], bytes]] = {GZIP: gzip.compress, DEFLATE: zlib.compress}
UNPACK: dict[int, Callable[[bytes], bytes]] = {GZIP: gzip.decompress, DEFLATE: zlib.decompress}
ENCODINGS = pytest.mark.parametrize("encoding", [GZIP, DEFLATE])


def inflate(encoding: int, data: bytes, limit: int = 64 * MIB, padding: int = 64, before: bytes = b"") -> bytes:
    got, kind, text = compression.inflate_bytes(encoding, data, limit, padding, before)
    assert (kind, text) == (OK, "")
    return got


def refusal(encoding: int, data: bytes, limit: int = 64 * MIB) -> int:
    got, kind, text = compression.inflate_bytes(encoding, data, limit, 64, b"kept")
    assert got == b"kept"
    assert text
    return kind


@ENCODINGS
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=3000), repeat=st.integers(1, 40), before=st.binary(max_size=9), padding=st.integers(0, 64))
def test_inflate_is_what_python_packed(encoding: int, data: bytes, repeat: int, before: bytes, padding: int) -> None:
    body = data * repeat
    assert inflate(encoding, PACK[encoding](body), padding=padding, before=before) == before + body


@ENCODINGS
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=3000), repeat=st.integers(1, 200), before=st.binary(max_size=9))
def test_python_unpacks_what_deflate_packed(encoding: int, data: bytes, repeat: int, before: bytes) -> None:
    packed = compression.deflate_bytes(encoding, data * repeat, before)
    assert packed[: len(before)] == before
    assert UNPACK[encoding](packed[len(before) :]) == data * repeat


def test_deflate_uses_the_level_of_speed() -> None:
    data = bytes(i * i % 251 for i in range(50_000))
    assert compression.deflate_bytes(DEFLATE, data, b"") == zlib.compress(data, 1)


@ENCODINGS
def test_a_stream_torn_anywhere_is_refused(encoding: int) -> None:
    packed = PACK[encoding](b"headrace " * 40 + bytes(range(256)))
    for end in range(len(packed)):
        assert refusal(encoding, packed[:end]) == INVALID_ARGUMENT


@ENCODINGS
def test_a_wrong_checksum_is_refused(encoding: int) -> None:
    packed = bytearray(PACK[encoding](b"headrace"))
    packed[-1 if encoding == DEFLATE else -5] ^= 1
    assert refusal(encoding, bytes(packed)) == INVALID_ARGUMENT


@ENCODINGS
@pytest.mark.parametrize("tail", [b"\0", b"x", b"\x1f", b"\x1f\x8b\x08garbage", bytes(600)])
def test_bytes_behind_the_end_are_refused(encoding: int, tail: bytes) -> None:
    assert refusal(encoding, PACK[encoding](b"headrace") + tail) == INVALID_ARGUMENT


def test_gzip_members_are_joined_and_zlib_streams_are_not() -> None:
    members = [b"one", b"", b"three" * 1000]
    assert inflate(GZIP, b"".join(map(gzip.compress, members))) == b"".join(members)
    assert refusal(DEFLATE, zlib.compress(b"one") * 2) == INVALID_ARGUMENT


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(zlib.compress(b"headrace"), id="zlib as gzip"),
        pytest.param(zlib.compress(b"headrace")[2:-4], id="raw deflate"),
        pytest.param(b"plain text", id="plain"),
        pytest.param(b"\x1f\x8b\x07" + bytes(20), id="unknown method"),
    ],
)
def test_other_framings_are_not_gzip(data: bytes) -> None:
    assert refusal(GZIP, data) == INVALID_ARGUMENT


def test_raw_deflate_and_preset_dictionaries_are_not_deflate() -> None:
    assert refusal(DEFLATE, zlib.compress(b"headrace")[2:-4]) == INVALID_ARGUMENT
    with_dictionary = zlib.compressobj(zdict=b"headrace")
    assert refusal(DEFLATE, with_dictionary.compress(b"headrace") + with_dictionary.flush()) == INVALID_ARGUMENT


@ENCODINGS
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_the_limit_is_exact(encoding: int, size: int) -> None:
    body = random.Random(size).randbytes(size)
    packed = PACK[encoding](body)
    assert inflate(encoding, packed, limit=size) == body
    if size:
        assert refusal(encoding, packed, limit=size - 1) == TOO_LARGE


@ENCODINGS
def test_ratio_applies_from_1_mib_on(encoding: int) -> None:
    assert inflate(encoding, PACK[encoding](bytes(MIB))) == bytes(MIB)
    assert refusal(encoding, PACK[encoding](bytes(MIB + 1))) == TOO_LARGE


def test_ratio_is_exact() -> None:
    noise = random.Random(1).randbytes(12_000)

    def packed(n_zeros: int) -> bytes:
        return zlib.compress(noise + bytes(n_zeros))

    fits = max(n for n in range(1_100_000, 2_000_000, 5000) if n + len(noise) <= 100 * len(packed(n)))
    assert inflate(DEFLATE, packed(fits)) == noise + bytes(fits)
    assert refusal(DEFLATE, packed(fits + 50_000)) == TOO_LARGE


@ENCODINGS
def test_a_bomb_is_refused_early(encoding: int) -> None:
    assert refusal(encoding, PACK[encoding](bytes(64 * MIB))) == TOO_LARGE


def test_a_bomb_of_members_is_refused() -> None:
    assert refusal(GZIP, gzip.compress(bytes(60_000)) * 100) == TOO_LARGE
    assert inflate(GZIP, gzip.compress(b"") * 3000) == b""


@settings(max_examples=100, deadline=None)
@given(
    encoding=st.sampled_from([GZIP, DEFLATE]),
    data=st.binary(max_size=200),
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=3),
)
def test_damage_is_refused_or_harmless(encoding: int, data: bytes, flips: list[tuple[int, int]]) -> None:
    packed = bytearray(PACK[encoding](data))
    for at, mask in flips:
        packed[at % len(packed)] ^= mask
    got, kind, _ = compression.inflate_bytes(encoding, bytes(packed), 64 * MIB, 0, b"")
    # Only header fields without a checksum (time, system) may differ unnoticed.
    assert (kind, got) == (OK, data) or kind in (INVALID_ARGUMENT, TOO_LARGE)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        (b"", IDENTITY), (b"identity", IDENTITY), (b"gzip", GZIP), (b"GZip", GZIP), (b"x-gzip", GZIP), (b"deflate", DEFLATE),
        (b"br", UNKNOWN), (b"gzip, deflate", UNKNOWN), (b"gzip ", UNKNOWN), (b"gzi", UNKNOWN), (b"gzip\0", UNKNOWN), (b"*", UNKNOWN),
    ],
)  # fmt: skip
def test_encoding_from_name(name: bytes, encoding: int) -> None:
    assert compression.name_to_encoding(name) == encoding


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (b"", IDENTITY),
        (b"gzip", GZIP),
        (b"deflate", DEFLATE),
        (b"gzip, deflate", GZIP),
        (b"deflate, gzip", GZIP),
        (b"GZIP", GZIP),
        (b"br, zstd", IDENTITY),
        (b"br, gzip", GZIP),
        (b"gzip;q=0.5, deflate;q=0.7", DEFLATE),
        (b"gzip;q=0.5,deflate ; q=0.500", GZIP),
        (b"gzip;q=0, deflate", DEFLATE),
        (b"gzip;q=0, deflate;q=0.0", IDENTITY),
        (b"gzip;q=0.3, identity;q=0.6", IDENTITY),
        (b"gzip, identity", GZIP),
        (b"gzip;q=0.5, identity;q=0", GZIP),
        (b"*", GZIP),
        (b"*;q=0", IDENTITY),
        (b"gzip;q=0, *", DEFLATE),
        (b"gzip;q=0.2, *;q=0.1", GZIP),
        (b"identity;q=0, *;q=0", IDENTITY),
        (b"gzip;q=2", IDENTITY),
        (b"gzip;q=-1", IDENTITY),
        (b"gzip;q=x", IDENTITY),
        (b"gzip;q=0.1234", IDENTITY),
        (b"gzip;Q=1.000", GZIP),
        (b"gzip;q=1.001", IDENTITY),
        (b", ,gzip;;,", IDENTITY),
        (b" \t gzip \t ", GZIP),
        (b"gzip;q=", IDENTITY),
        (b"gzip;q=0.", IDENTITY),
        (b"gzip;q=1.", GZIP),
    ],
)
def test_encoding_accepted(accept: bytes, encoding: int) -> None:
    assert compression.accept_to_encoding(accept) == encoding


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="gzipdeflatn*;,q=.01 \t", max_size=40))
def test_any_list_gives_an_encoding_we_can_send(accept: str) -> None:
    assert compression.accept_to_encoding(accept.encode()) in (IDENTITY, GZIP, DEFLATE)
