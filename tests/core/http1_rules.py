"""Why the HTTP/1.1 parser refuses what it refuses: each of its reasons with the rule behind it and an independent look at the bytes.

`holds(request)` says, slowly and without the parser, whether the rule is broken in the bytes: a refusal whose rule holds nothing is a bug.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
HOST = rb"(\[[0-9A-Fa-f:.]+\]|[-._~%!$&'()*+,;=0-9A-Za-z]*)(:[0-9]*)?"
EXTENSION = rb";" + TOKEN + rb'(=(' + TOKEN + rb'|"([\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"))?'
CHUNK_HEADER = rb"[0-9A-Fa-f]{1,16}(" + EXTENSION + rb")*\r\n"


@dataclass(frozen=True)
class Rule:
    """A reason of ours. status: the HTTP status answered; section and sentence: where it is written and what is said there."""

    status: int
    section: str
    sentence: str
    holds: Callable[[bytes], bool]


def head_lines(request: bytes) -> list[bytes]:
    """The lines of the head without their CRLF, without one empty line before them."""
    return request.removeprefix(b"\r\n").partition(b"\r\n\r\n")[0].split(b"\r\n")


def request_line(request: bytes) -> list[bytes]:
    """What single spaces separate in the request line."""
    return head_lines(request)[0].split(b" ")


def values(request: bytes, name: bytes) -> list[bytes]:
    """The values of all fields of that name."""
    found = (re.fullmatch(b"(?is)(" + TOKEN + b"):(.*)", line) for line in head_lines(request)[1:])
    return [match[2].strip(b" \t") for match in found if match and match[1].lower() == name]


def authority(target: bytes) -> bytes | None:
    """The authority of an http or https URI, None when the target is something else."""
    match = re.match(rb"(?is)https?://([^/?]*)", target)
    return match[1] if match else None


def walk(request: bytes) -> Iterator[tuple[str, bytes]]:
    """The pieces of a chunked body: ("header", line), ("end", two bytes), ("trailer", line), as far as they can be told apart."""
    at = request.index(b"\r\n\r\n", 2) + 4
    while True:
        line = request[at : (request.find(b"\n", at) + 1) or len(request)]
        yield "header", line
        digits = re.match(rb"[0-9A-Fa-f]+", line)
        if not digits or not line.endswith(b"\n"):
            return
        at += len(line)
        if int(digits[0], 16) == 0:
            break
        at += int(digits[0], 16)
        yield "end", request[at : at + 2]
        at += 2
    while (line := request[at : (request.find(b"\n", at) + 1) or len(request)]) not in (b"\r\n", b""):
        yield "trailer", line
        at += len(line)


def any_piece(kind: str, is_bad: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    """Whether one piece of that kind is bad."""
    return lambda request: any(is_bad(piece) for found, piece in walk(request) if found == kind)


def any_line(pattern: bytes) -> Callable[[bytes], bool]:
    """Whether a field line begins so."""
    return lambda request: any(re.match(pattern, line) for line in head_lines(request)[1:])


def is_bad_host(value: bytes | None) -> bool:
    return value is not None and not re.fullmatch(HOST, value)


HEAD_RULES: dict[str, Rule] = {
    "the request line is longer than a target of 8192 bytes allows": Rule(
        414, "RFC 9112 3", "A request-target longer than the server wishes to parse MUST be answered with 414.",
        lambda r: b"\n" not in r[:8236]),
    "a line ends with LF alone, not with CRLF": Rule(
        400, "RFC 9112 2.2", "The line terminator is CRLF; a recipient MAY (and we do not) recognize a single LF.",
        lambda r: re.search(rb"(?<!\r)\n", r[:65536]) is not None),
    "the request line and the header fields are longer than 65536 bytes": Rule(
        431, "RFC 9110 5.4", "Fields larger than the server wishes to process MUST be answered with a 4xx.",
        lambda r: len(r) >= 65536 and b"\r\n\r\n" not in r[2:65536]),
    "more than one empty line, or a CR alone, before the request line": Rule(
        400, "RFC 9112 2.2", "A server SHOULD ignore at least one empty line before the request-line; a bare CR is invalid.",
        lambda r: r.removeprefix(b"\r\n").startswith(b"\r")),
    "the request line does not begin with a method and one space": Rule(
        400, "RFC 9112 3", "request-line = method SP request-target SP HTTP-version; method = token.",
        lambda r: re.match(TOKEN + b" ", head_lines(r)[0]) is None),
    "the method is longer than 32 bytes": Rule(
        501, "RFC 9112 3", "A method longer than any that the server implements SHOULD be answered with 501.",
        lambda r: len(request_line(r)[0]) > 32),
    "the request target is not visible ASCII without a fragment, followed by one space": Rule(
        400, "RFC 9112 3.2", "No whitespace is allowed in the request-target; the fragment is not part of it (RFC 9110 7.1).",
        lambda r: re.match(TOKEN + rb" [\x21-\x22\x24-\x7e]+ ", head_lines(r)[0]) is None),
    "the request target is longer than 8192 bytes": Rule(
        414, "RFC 9112 3", "A request-target longer than the server wishes to parse MUST be answered with 414.",
        lambda r: len(request_line(r)[1]) > 8192),
    "the request line does not end with HTTP/, a digit, a point and a digit": Rule(
        400, "RFC 9112 2.3", 'HTTP-version = HTTP-name "/" DIGIT "." DIGIT, case-sensitive.',
        lambda r: len(request_line(r)) != 3 or re.fullmatch(rb"HTTP/\d\.\d", request_line(r)[2]) is None),
    "the version is neither HTTP/1.0 nor HTTP/1.1": Rule(
        505, "RFC 9110 2.5", "A server can send 505 to refuse service of the client's protocol version.",
        lambda r: request_line(r)[2] not in (b"HTTP/1.0", b"HTTP/1.1")),
    "CONNECT is not implemented: this is no proxy": Rule(
        501, "RFC 9110 9.1", "A method that is not implemented SHOULD be answered with 501.",
        lambda r: request_line(r)[0] == b"CONNECT"),
    "the request target * is for OPTIONS alone": Rule(
        400, "RFC 9112 3.2.4", "The asterisk-form is only used for a server-wide OPTIONS request.",
        lambda r: request_line(r)[1] == b"*" and request_line(r)[0] != b"OPTIONS"),
    "the request target is neither a path, nor an http URI, nor *": Rule(
        400, "RFC 9112 3.2", "request-target = origin-form / absolute-form / authority-form / asterisk-form.",
        lambda r: request_line(r)[1][:1] != b"/" and request_line(r)[1] != b"*" and authority(request_line(r)[1]) is None),
    "the URI in the request line has no valid host": Rule(
        400, "RFC 9110 4.2.1", "An http URI with an empty host MUST be rejected; userinfo is to be treated as an error (4.2.4).",
        lambda r: authority(request_line(r)[1]) == b"" or is_bad_host(authority(request_line(r)[1]))),
    "there is more than one Content-Length": Rule(
        400, "RFC 9112 6.3", "A list of lengths is an unrecoverable error unless all are the same; a recipient may reject that as well.",
        lambda r: len(values(r, b"content-length")) > 1),
    "Content-Length is not a decimal number": Rule(
        400, "RFC 9110 8.6", "Content-Length = 1*DIGIT.",
        lambda r: any(re.fullmatch(rb"[0-9]+", value) is None for value in values(r, b"content-length"))),
    "Content-Length has more than 19 digits or is over 2^63 - 1": Rule(
        413, "RFC 9110 8.6", "A recipient MUST anticipate large numerals and prevent errors due to integer conversion overflows.",
        lambda r: any(len(value) > 19 or int(value) >= 1 << 63 for value in values(r, b"content-length"))),
    "there is more than one Host": Rule(
        400, "RFC 9112 3.2", "More than one Host field line MUST be answered with 400.",
        lambda r: len(values(r, b"host")) > 1),
    "Host is not a host with an optional port": Rule(
        400, "RFC 9112 3.2", "A Host field with an invalid value MUST be answered with 400.",
        lambda r: any(is_bad_host(value) for value in values(r, b"host"))),
    "HTTP/1.1 needs a Host": Rule(
        400, "RFC 9112 3.2", "An HTTP/1.1 request that lacks a Host MUST be answered with 400.",
        lambda r: not values(r, b"host") and request_line(r)[-1] == b"HTTP/1.1"),
    "there is more than one Transfer-Encoding": Rule(
        400, "RFC 9112 6.1", "chunked MUST NOT be applied more than once.",
        lambda r: len(values(r, b"transfer-encoding")) > 1),
    "Transfer-Encoding is not chunked, the only one implemented": Rule(
        501, "RFC 9112 6.1", "A transfer coding that the server does not understand SHOULD be answered with 501.",
        lambda r: any(value.lower() != b"chunked" for value in values(r, b"transfer-encoding"))),
    "HTTP/1.0 has no Transfer-Encoding": Rule(
        400, "RFC 9112 6.1", "An HTTP/1.0 message with Transfer-Encoding MUST be treated as if the framing is faulty.",
        lambda r: bool(values(r, b"transfer-encoding")) and request_line(r)[-1] == b"HTTP/1.0"),
    "both Transfer-Encoding and Content-Length": Rule(
        400, "RFC 9112 6.3", "Such a message might be an attempt at request smuggling and ought to be handled as an error.",
        lambda r: bool(values(r, b"transfer-encoding") and values(r, b"content-length"))),
    "Expect is not 100-continue, the only one implemented": Rule(
        417, "RFC 9110 10.1.1", "A member other than 100-continue MAY be answered with 417.",
        lambda r: any(value.lower() != b"100-continue" for value in values(r, b"expect"))),
    "a line begins with white space (obsolete line folding)": Rule(
        400, "RFC 9112 5.2", "A server that receives an obs-fold MUST either reject the message with 400 or replace it.",
        any_line(rb"[ \t]")),
    "white space before the colon of a header field": Rule(
        400, "RFC 9112 5.1", "Whitespace between a field name and colon MUST be rejected with 400.",
        any_line(TOKEN + rb"[ \t]")),
    "a header field does not begin with a token and a colon": Rule(
        400, "RFC 9112 5", 'field-line = field-name ":" OWS field-value OWS; field-name = token.',
        lambda r: any(re.match(TOKEN + b":", line) is None for line in head_lines(r)[1:])),
    "there are more than 100 header fields": Rule(
        431, "RFC 9110 5.4", "A set of fields larger than the server wishes to process MUST be answered with a 4xx.",
        lambda r: len(head_lines(r)) > 101),
    "a header field has a control byte in its value": Rule(
        400, "RFC 9110 5.5", "CR, LF and NUL within a field value MUST be rejected or replaced; other controls are invalid too.",
        lambda r: any(re.fullmatch(b"(?s)" + TOKEN + b":" + VALUE, line) is None for line in head_lines(r)[1:])),
}

CHUNK_RULES: dict[str, Rule] = {
    "a chunk size is not hexadecimal digits, followed by CRLF or an extension": Rule(
        400, "RFC 9112 7.1", "chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF; chunk-size = 1*HEXDIG.",
        any_piece("header", lambda line: re.match(rb"[0-9A-Fa-f]+[;\r]", line) is None)),
    "a chunk size has more than 16 digits": Rule(
        400, "RFC 9112 7.1", "Recipients MUST anticipate large hexadecimal numerals and prevent parsing errors due to overflows.",
        any_piece("header", lambda line: re.match(rb"[0-9A-Fa-f]{17}", line) is not None)),
    "a chunk extension is not ;name, ;name=token or ;name=\"text\"": Rule(
        400, "RFC 9112 7.1.1", 'chunk-ext = *( ";" chunk-ext-name [ "=" chunk-ext-val ] ); the bad white space is not forgiven.',
        any_piece("header", lambda line: re.fullmatch(CHUNK_HEADER, line) is None)),
    "a chunk header does not end with CRLF": Rule(
        400, "RFC 9112 7.1", "chunk = chunk-size [ chunk-ext ] CRLF; a bare CR is invalid (2.2).",
        any_piece("header", lambda line: re.search(rb"\r(?!\n)", line) is not None)),
    "a chunk header is longer than 4096 bytes": Rule(
        400, "RFC 9112 7.1.1", "A server ought to limit the total length of chunk extensions and answer with a 4xx.",
        any_piece("header", lambda line: len(line) > 4096)),
    "there are more than 65536 chunks": Rule(
        400, "RFC 9110 17.5", "Recipients ought to limit the extent to which they process other protocol elements.",
        lambda r: sum(kind == "end" for kind, _ in walk(r)) > 65536),
    "the data of a chunk is not followed by CRLF": Rule(
        400, "RFC 9112 7.1", "chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF.",
        any_piece("end", lambda two: not b"\r\n".startswith(two))),
    "a trailer field is not a token, a colon and a value, ended by CRLF": Rule(
        400, "RFC 9112 7.1.2", "trailer-section = *( field-line CRLF ).",
        any_piece("trailer", lambda line: re.fullmatch(b"(?s)" + TOKEN + b":" + VALUE + b"\r\n", line) is None)),
    "the trailer section is longer than 8192 bytes": Rule(
        400, "RFC 9110 5.4", "A set of fields larger than the server wishes to process MUST be answered with a 4xx.",
        lambda r: sum(len(piece) for kind, piece in walk(r) if kind == "trailer") > 8190),
}

RULES = HEAD_RULES | CHUNK_RULES
