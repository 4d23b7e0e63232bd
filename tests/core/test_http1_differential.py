"""Our parser against h11 and llhttp: what we accept they accept as the same request; what only we refuse has its rule in http1_rules."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.http1_references import Reading, read_h11, read_llhttp, read_ours
from tests.core.http1_rules import RULES, walk

HOST = b"Host: a.example:80\r\n"
SEEDS = [
    b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a/b%20c?x=1&y HTTP/1.1\r\n" + HOST + b"User-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
    b"\r\nGET http://a.example/p?q HTTP/1.1\r\nHost: b\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /p HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nConnection: close, foo\r\n\r\nhelloGET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /p HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\nTrailer: x\r\n\r\n"
    b'5;a=b;c="d\\"e"\r\nhello\r\n0a\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\nGET / HTTP/1.1\r\n',
    b"POST /p HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
    b"PUT /p HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\nX: \t\xe9 a\tb \r\nEmpty:\r\n\r\nz",
]
# Desynchronisations that have been published, and their relatives.
FRAMINGS = [
    b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
    b"Content-Length: 6\r\nTransfer-Encoding : chunked\r\n", b"Content-Length: 6\r\nTransfer-Encoding: xchunked\r\n",
    b"Content-Length: 6\r\n Transfer-Encoding: chunked\r\n", b"Content-Length: 6\r\nX: x\nTransfer-Encoding: chunked\r\n",
    b"Content-Length: 6\r\nTransfer-Encoding\r\n : chunked\r\n", b"Content-Length: 6\r\nTransfer-Encoding: \x0bchunked\r\n",
    b"Content-Length: 6\r\nTransfer-Encoding:\r\n chunked\r\n", b"Content-Length: 6\r\nX: x\rTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"Transfer-Encoding: identity, chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding: chunked\0\r\n", b"Transfer-Encoding: 'chunked'\r\n",
    b"Content-Length: 6\r\nContent-Length: 5\r\n", b"Content-Length: 6, 5\r\n", b"Content-Length: +6\r\n", b"Content-Length: -6\r\n",
    b"Content-Length: 0x6\r\n", b"Content-Length: 6 6\r\n", b"Content-Length:\r\n", b"Content-Length\0: 6\r\n",
    b"Content-Length: 18446744073709551622\r\n",
]
CHUNKS = [
    b"10000000000000005\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5;\nhello\r\n0\r\n\r\n",
    b"5;a\nxx\r\n0\r\n\r\n", b"5\rX\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"0\r\nX: y\n\r\n", b"0\r\n\rX",
    b"5 ; a\r\nhello\r\n0\r\n\r\n",
]
SMUGGLING = [
    *(b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body
      for fields in FRAMINGS for body in (b"0\r\n\r\nG", b"1\r\nZ\r\nQ\r\n\r\n")),
    *(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + body for body in CHUNKS),
    b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n", b"GET\x0b/ HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n\rHost: a\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"X: \xff\0\r\n\r\n",
]
ATOMS = [
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x7f", b"\x80", b"#", b"?", b"0", b"1", b"x", b"-", b"+", b"_",
    b"@", b"[", b"=", b'"', b"\\", b"\r\n ", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"chunked",
    b"close",
]


def is_beyond(reference: str, request: bytes, ours: Reading, theirs: Reading) -> bool:
    """Where a reference refuses what RFC 9112 allows and we accept."""
    if reference == "h11" and request.startswith(b"\r\n"):
        return theirs.why == "no request line received"        # section 2.2: one empty line is ignored
    if theirs.why in ("Invalid method encountered", "Expected space after method"):
        return True                                             # llhttp has a list of methods; RFC 9110 9.1: any token
    # RFC 9110 6.5.1: framing fields in the trailer section are ignored, the references read them.
    is_chunked = any(name == b"transfer-encoding" for name, _ in ours.headers)
    names = {line.partition(b":")[0].lower() for kind, line in walk(request) if kind == "trailer"} if is_chunked else set()
    return bool(names & {b"content-length", b"transfer-encoding"})


def compare(request: bytes) -> None:
    ours = read_ours(request)
    if ours.verdict == "refused":
        assert RULES[ours.why].holds(request), ours.why
        assert RULES[ours.why].status == ours.status
        return
    for reference, theirs in (("h11", read_h11(request)), ("llhttp", read_llhttp(request))):
        if ours.verdict == "incomplete":
            assert theirs.verdict != "accepted", reference
        elif theirs.verdict == "accepted":
            assert theirs.message == ours.message, reference
            assert theirs.keep_alive in (None, ours.keep_alive), reference
        else:
            assert is_beyond(reference, request, ours, theirs), (reference, theirs)


@pytest.mark.parametrize("request_", SEEDS)
def test_seeds_are_accepted_by_all(request_: bytes):
    assert read_ours(request_).verdict == "accepted"
    compare(request_)


@pytest.mark.parametrize("request_", SMUGGLING)
def test_smuggling_is_refused_for_its_rule(request_: bytes):
    assert read_ours(request_).verdict == "refused"
    compare(request_)


def mutate(request: bytes, rng: random.Random) -> bytes:
    """One to three small damages: bytes lost, inserted, replaced, a line doubled elsewhere."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, kind = rng.randrange(len(request) + 1), rng.randrange(5)
        if kind == 0:
            request = request[:at] + request[at + rng.choice((1, 1, 2)) :]
        elif kind <= 2:
            request = request[:at] + rng.choice(ATOMS) + request[at + kind - 1 :]
        elif kind == 3:
            request = request[:at] + bytes([rng.randrange(256)]) + request[at + 1 :]
        else:
            lines = request.split(b"\r\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            request = b"\r\n".join(lines)
    return request


@pytest.mark.parametrize("seed", range(8))
def test_mutants(seed: int):
    rng = random.Random(seed)
    for _ in range(2000):
        compare(mutate(rng.choice(SEEDS), rng))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*ATOMS, b"GET ", b"POST ", b"/", b" HTTP/1.1\r\n", HOST, b"\r\n\r\n"]), max_size=20).map(b"".join))
def test_soups_of_tokens(request_: bytes):
    compare(request_)


def test_pipelined_requests_are_cut_at_the_same_places():
    stream, requests = b"".join(SEEDS[i] for i in (0, 1, 3, 7, 6, 0)), 0
    while stream:
        compare(stream)
        stream = stream[read_ours(stream).used :]
        requests += 1
    assert requests == 6
