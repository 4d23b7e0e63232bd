"""The head parser: what is accepted and how it is told, what is refused and with which status, at every split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core import http1, io_loop
from tests.core.http1_rules import HEAD_RULES

HOST = b"Host: h\r\n"
TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~09azAZ"


def head(request_line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = HOST) -> bytes:
    return request_line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def parse(data: bytes) -> dict[str, object]:
    size, _, told = http1.parse_head(data)
    assert size == len(data), told
    return told


def refusal(data: bytes) -> tuple[int, str]:
    size, _, told = http1.parse_head(data)
    assert size == -1, (size, told)
    return told["status"], told["reason"]


def test_a_head_is_told_in_all_its_parts():
    data = head(b"POST /v2/models/m/infer?a=1&b=%20 HTTP/1.1", b"Content-Length: 12", b"X-Empty:", b"x:\t \xe9 a\tb \t")
    assert parse(data) == {
        "method": b"POST", "path": b"/v2/models/m/infer", "query": b"a=1&b=%20", "minor": 1,
        "headers": [(b"Host", b"h"), (b"Content-Length", b"12"), (b"X-Empty", b""), (b"x", b"\xe9 a\tb")],
        "content_length": 12, "chunked": False, "keep_alive": True, "expect_continue": False,
    }


@pytest.mark.parametrize(("target", "path", "query"), [
    (b"/", b"/", b""), (b"/a?", b"/a", b""), (b"/a?b?c", b"/a", b"b?c"), (b"//a", b"//a", b""), (b"/%00", b"/%00", b""),
    (b"http://h", b"/", b""), (b"HTTP://h:80/", b"/", b""), (b"https://[::1]:8000/a/b?c", b"/a/b", b"c"), (b"http://h?q=/", b"/", b"q=/"),
])
def test_targets(target: bytes, path: bytes, query: bytes):
    told = parse(head(b"GET " + target + b" HTTP/1.1"))
    assert (told["path"], told["query"]) == (path, query)


def test_asterisk_is_for_options():
    assert parse(head(b"OPTIONS * HTTP/1.1"))["path"] == b"*"


@pytest.mark.parametrize("value", [b"", b"h", b"h:", b"h:80", b"a_b-c.d", b"127.0.0.1:8000", b"[::1]", b"[fe80::1]:1", b"a,b", b":80"])
def test_hosts(value: bytes):
    assert parse(head(host=b"hOST:" + value + b"\r\n"))["headers"] == [(b"hOST", value)]


@pytest.mark.parametrize(("version", "fields", "keep_alive"), [
    (b"1.1", [], True), (b"1.1", [b"Connection: close"], False), (b"1.1", [b"Connection: foo, ,CLOSE\t,"], False),
    (b"1.1", [b"Connection: keep-alive"], True), (b"1.1", [b"Connection: keep-alive", b"connection: Close"], False),
    (b"1.1", [b"Connection: close foo"], True), (b"1.1", [b"Connection: enclose"], True),
    (b"1.0", [], False), (b"1.0", [b"Connection: Keep-Alive"], True), (b"1.0", [b"Connection: keep-alive, close"], False),
])
def test_persistence(version: bytes, fields: list[bytes], keep_alive: bool):
    assert parse(head(b"GET / HTTP/" + version, *fields))["keep_alive"] is keep_alive


@pytest.mark.parametrize(("version", "fields", "length", "chunked", "expect"), [
    (b"1.1", [b"Content-Length: 0", b"Expect: 100-continue"], 0, False, False),
    (b"1.1", [b"Content-Length: 007", b"Expect: 100-Continue"], 7, False, True),
    (b"1.1", [b"Content-Length: 9223372036854775807"], 2**63 - 1, False, False),
    (b"1.1", [b"Transfer-Encoding:CHUNKED", b"Expect: 100-continue"], -1, True, True),
    (b"1.1", [b"Expect: 100-continue"], -1, False, False),
    (b"1.0", [b"Content-Length: 7", b"Expect: 100-continue"], 7, False, False),
])
def test_framing(version: bytes, fields: list[bytes], length: int, chunked: bool, expect: bool):
    told = parse(head(b"POST / HTTP/" + version, *fields))
    assert (told["content_length"], told["chunked"], told["expect_continue"]) == (length, chunked, expect)


def test_http_1_0_needs_no_host():
    assert parse(head(b"GET / HTTP/1.0", host=b""))["minor"] == 0


def test_one_empty_line_before_the_request_is_forgiven():
    assert parse(b"\r\n" + head())["method"] == b"GET"
    assert http1.parse_head(b"\r\n")[0] == 0


GET = b"GET / HTTP/1.1"
BAD_TARGETS = [b"", b"/\t", b"/#a", b"/\xc3\xa9", b"/\0", b"/\r", b"/\x7f", b"/a\x0bb"]
BAD_VERSIONS = [b"/b HTTP/1.1", b"HTTP/1.1 ", b"http/1.1", b"HTTP/11", b"HTTP/1.10", b"HTTP/1.1\rX", b"",
                b"HTTP/1.", b"HTTP/+.1", b"HTTP/1,1"]
BAD_HOSTS = [b"a b", b"a/b", b"u@a", b"a:b", b"[a", b"[]", b"[::1]x", b"\xe9", b"a:1:2", b"a?b", b"a\\b"]
BAD_LENGTHS = [b"", b"-1", b"+1", b"0x5", b"5,5", b"5, 5", b"1 2", b"1e3", b"\xb2", b"5;"]
BAD_CODINGS = [b"", b"gzip", b"identity", b"xchunked", b"chunked, chunked", b"gzip, chunked", b"chunked;q=1", b'"chunked"', b"chunked,",
               b", chunked", b"chun ked", b"chunke", b"chunked\xa0"]

# Reason -> heads refused for it. HEAD_RULES has the status and an independent look at the same bytes.
REFUSED: dict[str, list[bytes]] = {
    "a line ends with LF alone, not with CRLF": [
        b"\n" + head(), b"GET / HTTP/1.1\nHost: h\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\n\n", b"GET / HTTP/1.1\r\nHost: h\r\n\n",
        head(GET, b"a: b\nTransfer-Encoding: chunked")],
    "more than one empty line, or a CR alone, before the request line": [b"\r\n\r\n", b"\r\n\r\n" + head(), b"\r" + head()],
    "the request line does not begin with a method and one space": [
        head(line) for line in (b" GET / HTTP/1.1", b"G(T / HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET", b"\x16\x03\x01", b"G\rT / HTTP/1.1")],
    "the method is longer than 32 bytes": [head(b"G" * 33 + b" / HTTP/1.1")],
    "the request target is not visible ASCII without a fragment, followed by one space": [
        *(head(b"GET " + target + b" HTTP/1.1") for target in BAD_TARGETS), head(b"GET /")],
    "the request target is longer than 8192 bytes": [head(b"GET /" + b"a" * 8192 + b" HTTP/1.1")],
    "the request line is longer than a target of 8192 bytes allows": [head(b"GET /" + b"a" * 8300 + b" HTTP/1.1"), b"G" * 9000],
    "the request line does not end with HTTP/, a digit, a point and a digit": [
        *(head(b"GET / " + version) for version in BAD_VERSIONS), b"GET / HTTP/1.\r\n\r\n", b"GET / \r\n\r\n"],
    "the version is neither HTTP/1.0 nor HTTP/1.1": [b"PRI * HTTP/2.0\r\n\r\n", head(b"GET / HTTP/1.2"), head(b"GET / HTTP/0.9")],
    "CONNECT is not implemented: this is no proxy": [head(b"CONNECT h:80 HTTP/1.1"), head(b"CONNECT /a HTTP/1.1")],
    "the request target * is for OPTIONS alone": [head(b"GET * HTTP/1.1"), head(b"options * HTTP/1.1")],
    "the request target is neither a path, nor an http URI, nor *": [
        head(b"OPTIONS " + target + b" HTTP/1.1") for target in (b"a/b", b"h:80", b"ftp://h/", b"**", b"?q", b"http:/h", b"http", b"\\a")],
    "the URI in the request line has no valid host": [
        head(b"GET " + uri + b" HTTP/1.1")
        for uri in (b"http://", b"http:///a", b"http://u@h/", b"http://h:8a/", b"https://[::1/", b"http://?a")],
    "a line begins with white space (obsolete line folding)": [
        head(GET, b" a: b"), head(GET, b"a: b", b"\tc"), head(host=b" Host: h\r\n"), head(GET, b"Content-Length: 5", b" 6")],
    "white space before the colon of a header field": [head(GET, b"Content-Length : 5"), head(GET, b"a\t:b"), head(GET, b"a b: c")],
    "a header field does not begin with a token and a colon": [
        head(GET, field) for field in (b": b", b"a", b"a(: b", b"a\0: b", b"\xe9: b", b"\rTransfer-Encoding: chunked", b"a\r: b")],
    "a header field has a control byte in its value": [
        head(GET, b"a: " + value) for value in (b"b\0", b"b\rc: d", b"b\r", b"\x0b", b"\x7f", b"\x1b[31m", b"\r\r")],
    "there are more than 100 header fields": [head(GET, *[b"a: b"] * 100)],
    "the request line and the header fields are longer than 65536 bytes": [head(GET, b"a: " + b"b" * 65536)],
    "HTTP/1.1 needs a Host": [head(host=b""), head(b"GET http://h/ HTTP/1.1", host=b"")],
    "there is more than one Host": [head(GET, b"host: h"), head(b"GET / HTTP/1.0", b"hOST: h")],
    "Host is not a host with an optional port": [head(host=b"Host: " + value + b"\r\n") for value in BAD_HOSTS],
    "Content-Length is not a decimal number": [head(GET, b"Content-Length: " + value) for value in BAD_LENGTHS],
    "Content-Length has more than 19 digits or is over 2^63 - 1": [
        head(GET, b"Content-Length: " + value) for value in (b"9223372036854775808", b"9" * 19, b"18446744073709551617", b"0" * 20)],
    "there is more than one Content-Length": [
        head(GET, b"Content-Length: 5", b"content-length: 5"), head(GET, b"Content-Length: 5", b"Content-Length: 6")],
    "Transfer-Encoding is not chunked, the only one implemented": [head(GET, b"Transfer-Encoding: " + value) for value in BAD_CODINGS],
    "there is more than one Transfer-Encoding": [
        head(GET, b"Transfer-Encoding: chunked", b"TRANSFER-ENCODING: " + value) for value in (b"chunked", b"identity", b"")],
    "HTTP/1.0 has no Transfer-Encoding": [head(b"GET / HTTP/1.0", b"Transfer-Encoding: chunked")],
    "both Transfer-Encoding and Content-Length": [
        head(GET, b"Content-Length: 5", b"Transfer-Encoding: chunked"), head(GET, b"Transfer-Encoding: chunked", b"Content-Length: 5")],
    "Expect is not 100-continue, the only one implemented": [head(GET, b"Expect: 200-ok"), head(GET, b"Expect: 100-continue, a")],
}


def test_every_rule_is_tried():
    assert set(REFUSED) == set(HEAD_RULES)


@pytest.mark.parametrize(("data", "reason"), [(data, reason) for reason in REFUSED for data in REFUSED[reason]],
                         ids=lambda value: repr(value)[:60])
def test_refusals_at_once_and_byte_by_byte(data: bytes, reason: str):
    rule = HEAD_RULES[reason]
    assert rule.holds(data)
    assert refusal(data) == (rule.status, reason)
    assert drip(data, range(1, len(data) + 1) if len(data) < 1000 else range(1, len(data) + 1, 997)) == (rule.status, reason)


def drip(data: bytes, cuts: object) -> object:
    """What the parser says at the first prefix that it does not want more of."""
    seen = 0
    for cut in [*cuts, len(data)]:
        size, seen, told = http1.parse_head(data[:cut], seen)
        if size < 0:
            return told["status"], told["reason"]
        if size > 0:
            return size, told
        assert seen == cut
    return None


def test_the_longest_that_is_accepted():
    parse(head(b"G" * 32 + b" /" + b"a" * 8191 + b" HTTP/1.1", *[b"a: b"] * 99))
    fixed = len(head(b"GET / HTTP/1.1", b"a: "))
    parse(head(b"GET / HTTP/1.1", b"a: " + b"b" * (65536 - fixed)))
    status, _ = refusal(head(b"GET / HTTP/1.1", b"a: " + b"b" * (65537 - fixed)))
    assert status == 431


def test_too_long_is_refused_before_its_end_has_come():
    assert http1.parse_head(b"GET /" + b"a" * 8230)[0] == 0
    assert refusal(b"GET /" + b"a" * 8232)[0] == 414
    assert http1.parse_head((b"GET / HTTP/1.1\r\na: " + b"b" * 70000)[:65535])[0] == 0
    assert refusal((b"GET / HTTP/1.1\r\na: " + b"b" * 70000)[:65536])[0] == 431


def test_only_new_bytes_are_searched():
    data = head()
    assert http1.parse_head(data, len(data)) == (0, len(data), None), "an end that has been passed over is not found again"
    assert http1.parse_head(data, len(data) - 1)[0] == len(data)


@st.composite
def valid_heads(draw: st.DrawFn) -> tuple[bytes, dict[str, object]]:
    token = st.text(st.sampled_from(TOKEN_CHARACTERS), min_size=1, max_size=12).map(str.encode)
    value = st.binary(max_size=20).map(lambda raw: bytes(b if b >= 32 and b != 127 else 9 for b in raw).strip(b" \t"))
    space = st.sampled_from([b"", b" ", b"\t", b" \t "])
    framing, length, chunked = draw(st.sampled_from([
        (b"", -1, False), (b"content-length: 5\r\n", 5, False), (b"TRANSFER-encoding:\tchunked \r\n", -1, True)]))
    reserved = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"}
    fields = [(name, value) for name, value in draw(st.lists(st.tuples(token, value), max_size=8)) if name.lower() not in reserved]
    lines = b"".join(name + b":" + draw(space) + value + draw(space) + b"\r\n" for name, value in fields)
    method = draw(token)
    path, query = draw(st.sampled_from([b"/", b"/a/%2e", b"/x:y@z"])), draw(st.sampled_from([b"", b"a=b&c"]))
    prefix = draw(st.sampled_from([b"", b"\r\n"]))
    target = draw(st.sampled_from([b"", b"http://h:1"])) + path + (b"?" + query if query else b"")
    data = prefix + method + b" " + target + b" HTTP/1.1\r\n" + HOST + framing + lines + b"\r\n"
    return data, {"method": method, "path": path, "query": query, "content_length": length, "chunked": chunked, "fields": fields}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(valid_heads(), st.lists(st.integers(0, 400), max_size=6), st.binary(max_size=20))
def test_valid_heads_at_any_split_and_with_anything_behind(valid: tuple[bytes, dict[str, object]], cuts: list[int], behind: bytes):
    data, expected = valid
    size, told = drip(data + behind, sorted(cut for cut in cuts if cut < len(data)))
    assert size == len(data)
    assert {key: told[key] for key in expected if key != "fields"} == {key: value for key, value in expected.items() if key != "fields"}
    assert told["headers"][1 + (told["chunked"] or told["content_length"] >= 0):] == expected["fields"]


@pytest.mark.parametrize(("name", "lower_case", "same"), [
    (b"Content-Type", b"content-type", True), (b"content-typ", b"content-type", False), (b"content_type", b"content-type", False),
    (b"^", b"~", False), (b"", b"", True), (b"@", b"`", False),
])
def test_names_compare_without_case(name: bytes, lower_case: bytes, same: bool):
    assert http1.header_is(name, lower_case) is same


def test_pipelined_heads_follow_each_other():
    rest, paths = head(b"GET /a HTTP/1.1") + head(b"GET /b HTTP/1.1") + b"\r\n" + head(b"GET /c HTTP/1.0"), []
    while rest:
        size, _, told = http1.parse_head(rest)
        rest = rest[size:]
        paths.append(told["path"])
    assert paths == [b"/a", b"/b", b"/c"]


@pytest.mark.skipif(io_loop.COUNTS_TENSOR_COPIES, reason="a debug build is not optimised")
def test_a_head_of_five_fields_takes_less_than_a_microsecond():
    data = head(b"POST /v2/models/mlp/infer HTTP/1.1", b"User-Agent: curl/7.88.1", b"Accept: */*", b"Content-Type: application/json",
                b"Content-Length: 99")
    assert min(http1.time_parse_head(data, 2000) for _ in range(9)) < 1000
