"""One request read by our parser and by two well-known ones, told in the same words."""

import re
from dataclasses import dataclass

import h11
import httptools

from serve._core import chunked, http1


@dataclass(frozen=True)
class Reading:
    """What a parser makes of the first request in some bytes. verdict: "accepted", "refused" or "incomplete"; used: its bytes."""

    verdict: str
    why: str = ""
    status: int = 0
    method: bytes = b""
    path: bytes = b""
    query: bytes = b""
    minor: int = -1
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    used: int = 0
    keep_alive: bool | None = None

    @property
    def message(self) -> tuple[object, ...]:
        """All that the parsers must agree on: the request, its framing and where the next one starts."""
        return self.method, self.path, self.query, self.minor, self.headers, self.body, self.used


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target."""
    relative = re.sub(rb"(?i)^https?://[^/?]*", b"", target)
    path, _, query = relative.partition(b"?")
    return path or b"/", query


def normal(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A field without what a parser may change: case of the name and of Transfer-Encoding, white space around the value."""
    name, value = name.lower(), value.strip(b" \t")
    return name, value.lower() if name == b"transfer-encoding" else value


def read_ours(request: bytes) -> Reading:
    size, _, head = http1.parse_head(request)
    if size == 0:
        return Reading("incomplete")
    if size < 0:
        return Reading("refused", head["reason"], head["status"])
    rest = request[size:]
    if head["chunked"]:
        result, body, left_over, _, status, reason = chunked.decode_chunks([rest])
        if result <= 0:
            return Reading("refused", reason, status) if result else Reading("incomplete")
    else:
        length = max(head["content_length"], 0)
        if len(rest) < length:
            return Reading("incomplete")
        body, left_over = rest[:length], rest[length:]
    headers = tuple(normal(name, value) for name, value in head["headers"])
    told = {key: head[key] for key in ("method", "path", "query", "minor", "keep_alive")}
    return Reading("accepted", headers=headers, body=body, used=len(request) - len(left_over), **told)


def read_h11(request: bytes) -> Reading:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    if request:     # nothing would mean the end of the stream
        connection.receive_data(request)
    head, body = None, b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            return Reading("refused", str(error), error.error_status_hint)
        if event is h11.NEED_DATA:
            return Reading("incomplete")
        if isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            break
    assert head is not None
    path, query = split_target(head.target)
    headers = tuple(normal(name, value) for name, value in head.headers.raw_items())
    return Reading("accepted", method=head.method, path=path, query=query, minor=int(head.http_version[2:]), headers=headers, body=body,
                   used=len(request) - len(connection.trailing_data[0]))


class _Collector:
    """Callbacks of httptools for one message; fields after the head are trailers."""

    def __init__(self) -> None:
        self.target, self.body = b"", b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.in_head, self.complete = True, False
        self.parser = httptools.HttpRequestParser(self)
        self.keep_alive = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:
            self.headers.append(normal(name, value))

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def read_llhttp(request: bytes) -> Reading:
    collector = _Collector()
    parser = collector.parser
    used = 0
    try:
        while not collector.complete and used < len(request):
            used += 1
            parser.feed_data(request[used - 1 : used])
    except httptools.HttpParserUpgrade:
        assert collector.complete
    except httptools.HttpParserError as error:
        return Reading("refused", str(error), 400)
    if not collector.complete:
        return Reading("incomplete")
    path, query = split_target(collector.target)
    return Reading("accepted", method=parser.get_method(), path=path, query=query, minor=int(parser.get_http_version()[2:]),
                   headers=tuple(collector.headers), body=collector.body, used=used, keep_alive=collector.keep_alive)
