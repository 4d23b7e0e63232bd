"""The chunked decoder: bodies as they were sent, at every split; refusals with their rule."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core import chunked
from tests.core.http1_rules import CHUNK_RULES

HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
HELLO = b"5\r\nhello\r\n"


def decode(*parts: bytes) -> tuple[int, bytes, bytes, int]:
    """(result, body, left over, chunks)."""
    result, body, left_over, n_chunks, status, reason = chunked.decode_chunks(list(parts))
    assert (status, reason) == (0, "")
    return result, body, left_over, n_chunks


@pytest.mark.parametrize(("wire", "body", "n_chunks"), [
    (END, b"", 0), (HELLO + END, b"hello", 1), (b"2\r\n\r\n\r\n" + END, b"\r\n", 1), (b"1\r\na\r\n" * 65536 + END, b"a" * 65536, 65536),
    (b"00A\r\n0123456789\r\n" + END, b"0123456789", 1), (b"000000000000000a\r\n0123456789\r\n" + END, b"0123456789", 1),
    (b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello", 1), (b'5;a="b;\\"\\\t";c=d;e\r\nhello\r\n' + END, b"hello", 1),
    (HELLO + b"0\r\nTrailer: x\r\nEmpty:\r\n\r\n", b"hello", 1), (b"5;" + b"a" * 4092 + b"\r\nhello\r\n" + END, b"hello", 1),
    (b"0\r\na:" + b"b" * 8186 + b"\r\n\r\n", b"", 0),
], ids=lambda value: repr(value)[:40])
def test_bodies(wire: bytes, body: bytes, n_chunks: int):
    assert decode(wire + b"GET /") == (1, body, b"GET /", n_chunks)
    assert decode(wire[:-1])[:2] == (0, body)


def test_sizes_are_told_while_a_chunk_is_open():
    assert decode(b"ffffffffffffffff\r\nabc") == (0, b"abc", b"", 1)


BAD_SIZES = [b"", b"-5", b"+5", b"0x5", b"5 ", b" 5", b"5\t", b"5,", b"g", b"5\0", b"_5", b"\xb2", b"5 ;a", b'"5"']
BAD_EXTENSIONS = [b";", b"; a", b";a ", b";a;", b";a=", b";=b", b";a=b=c", b";a= b", b';a="b', b';a="b"c', b';a="\0"', b";a\0", b";\xe9",
                  b';a="\\\x7f"', b";a b", b";;a"]
BAD_TRAILERS = [b"a\r\n", b": b\r\n", b"a : b\r\n", b" a: b\r\n", b"a: b\n", b"a: b\r\n c\r\n", b"a: \0\r\n", b"a: b\rc\r\n", b"a\r\n\r\n"]
REFUSED: dict[str, list[bytes]] = {
    "a chunk size is not hexadecimal digits, followed by CRLF or an extension": [
        *(size + b"\r\nhello\r\n" + END for size in BAD_SIZES), b"\n", b"5\nhello\r\n" + END, HELLO + b"\r\n", b"\r5\r\nhello"],
    "a chunk size has more than 16 digits": [b"10000000000000005\r\nhello", b"00000000000000005\r\nhello\r\n" + END, b"f" * 17],
    'a chunk extension is not ;name, ;name=token or ;name="text"': [
        *(b"5" + extension + b"\r\nhello\r\n" + END for extension in BAD_EXTENSIONS), b"5;a\nhello\r\n" + END, b"5;a=b\nhello\r\n" + END,
        b'5;a="b\n"\r\nhello', b'5;a="\r\n"\r\nhello', b'5;a="\\\r\n0\r\n\r\n', b'5;a="b"\nhello'],
    "a chunk header does not end with CRLF": [b"5\rhello\r\n" + END, b"5\r\rhello", b"5;a\r;b\r\nhello", b"0\rX"],
    "a chunk header is longer than 4096 bytes": [b"5;" + b"a" * 5000, b'5;a="' + b" " * 5000, b"5" + b";a" * 2500],
    "there are more than 65536 chunks": [b"1\r\na\r\n" * 65537 + END],
    "the data of a chunk is not followed by CRLF": [
        size + b"\r\nhello" + end + END for size, end in (
            (b"4", b"\r\n"), (b"5", b""), (b"5", b"\n"), (b"5", b"\r"), (b"5", b"\r\r\n"), (b"5", b" \r\n"), (b"5", b"\n\r"))],
    "a trailer field is not a token, a colon and a value, ended by CRLF": [b"0\r\n" + line + b"\r\n" for line in BAD_TRAILERS],
    "the trailer section is longer than 8192 bytes": [b"0\r\na: " + b"b" * 8200, b"0\r\n" + b"a:b\r\n" * 2000 + b"\r\n"],
}


def test_every_rule_is_tried():
    assert set(REFUSED) == set(CHUNK_RULES)


@pytest.mark.parametrize(("wire", "reason"), [(wire, reason) for reason in REFUSED for wire in REFUSED[reason]],
                         ids=lambda value: repr(value)[:60])
def test_refusals_at_once_and_byte_by_byte(wire: bytes, reason: str):
    rule = CHUNK_RULES[reason]
    assert rule.holds(HEAD + wire)
    for parts in ([wire], [wire[i : i + 1] for i in range(len(wire))], [wire[:2], b"", wire[2:]]):
        result, _, _, _, status, said = chunked.decode_chunks(parts)
        assert (result, status, said) == (-1, rule.status, reason)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    extension = st.sampled_from([b"", b";a", b";a=b", b';a="b c\\"d;"', b";a;b=c"])
    trailer = st.sampled_from([b"X-T: 1\r\n", b"empty:\r\n", b"a:\tb \xe9\r\n"])
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    size = st.sampled_from([b"%x", b"%X", b"%04x"])
    wire = b"".join(draw(size) % len(chunk) + draw(extension) + b"\r\n" + chunk + b"\r\n" for chunk in chunks)
    wire += draw(st.sampled_from([b"0", b"000"])) + draw(extension) + b"\r\n" + b"".join(draw(st.lists(trailer, max_size=3))) + b"\r\n"
    return wire, b"".join(chunks), len(chunks)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(chunked_bodies(), st.lists(st.integers(0, 300), max_size=8), st.binary(max_size=10))
def test_bodies_at_any_split_and_with_anything_behind(sent: tuple[bytes, bytes, int], cuts: list[int], behind: bytes):
    wire, body, n_chunks = sent
    stream = wire + behind
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert decode(*[stream[a:b] for a, b in pairwise(edges)]) == (1, body, behind, n_chunks)
