"""An HTTP server on loopback that says what it is told to say, and remembers what it got."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """answers: statuses, one a request, then 204 for ever. "hang" never answers, "close" hangs up; bytes are sent as they are."""

    url: str = ""
    answers: list[int | str | bytes] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    on_request: Callable[[], None] = lambda: None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().split("\r\n")[:-2]
                headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in fields)}
                self.requests.append(Request(line, headers, await reader.readexactly(int(headers["content-length"]))))
                self.on_request()
                answer = self.answers.pop(0) if self.answers else 204
                if answer == "close":
                    return
                if answer == "hang":
                    await reader.read()
                    return
                if isinstance(answer, int):
                    answer = f"HTTP/1.1 {answer} Said\r\ncontent-length: 0\r\n\r\n".encode()
                assert isinstance(answer, bytes)
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(*answers: int | str | bytes) -> AsyncIterator[Receiver]:
    receiver = Receiver(answers=list(answers))
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield receiver
    finally:
        server.close()
