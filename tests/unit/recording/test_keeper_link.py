"""The worker's end: a keeper that dies is replaced, and nobody waits for it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve.recording.home import Home
from serve.recording.keeper_link import KeeperLink, restart_delay_s
from serve.recording.keeper_settings import KeeperSettings
from serve.recording.manifest_file import read_manifest
from serve.recording.stores import open_store
from tests.unit.recording.journals import simple_journal

SETTINGS = KeeperSettings(records="/records", home="/home", replica="r", epoch=3)

ECHO = """
import sys
for line in sys.stdin:
    print(line.strip() if line.startswith('{"records"') else '{"type": "heard", "what": %s}' % line.strip(), flush=True)
    if "die" in line:
        print("what went wrong", file=sys.stderr)
        sys.exit(7)
"""


class Heard:
    """Messages, and a way to wait for one."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.came = asyncio.Event()

    def take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.came.set()

    async def wait(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while not any(is_it(message) for message in self.messages):
                self.came.clear()
                await self.came.wait()
        return next(message for message in self.messages if is_it(message))


@asynccontextmanager
async def linked(script: str, heard: Heard, **options: Any) -> AsyncIterator[KeeperLink]:
    link = KeeperLink(SETTINGS, heard.take, command=[sys.executable, "-c", script], delay_s=lambda deaths: 0.01 * deaths, **options)
    link.start()
    try:
        yield link
    finally:
        await link.stop(5)


async def test_settings_go_down_messages_come_up() -> None:
    heard = Heard()
    async with linked(ECHO, heard) as link:
        first = await heard.wait(lambda message: "records" in message)
        assert KeeperSettings(**first) == replace(SETTINGS, parent_pid=os.getpid())
        assert link.is_running
        link.tell({"type": "scopes", "model": "m"})
        assert (await heard.wait(lambda message: message.get("type") == "heard"))["what"] == {"type": "scopes", "model": "m"}
    assert not link.is_running
    link.tell({"type": "late"})         # nobody is there: nothing happens
    await link.stop(1)
    assert (link.restarts, [message for message in heard.messages if message.get("type") == "error"]) == (0, [])


async def test_a_keeper_that_dies_is_replaced_and_told_anew() -> None:
    heard = Heard()
    starts: list[bool] = []
    async with linked(ECHO, heard, on_start=lambda: starts.append(True)) as link:
        await heard.wait(lambda message: "records" in message)
        link.tell({"type": "die"})
        error = await heard.wait(lambda message: message.get("type") == "error")
        assert (error["job"], error["text"]) == ("keeper", "the keeper ended with 7: what went wrong; the next one starts in 0.01 s")
        heard.messages.clear()
        await heard.wait(lambda message: "records" in message)
        assert (link.restarts, len(starts)) == (1, 2)


async def test_one_that_cannot_be_started_is_tried_again() -> None:
    heard = Heard()
    link = KeeperLink(SETTINGS, heard.take, command=["/nonexistent/keeper"], delay_s=lambda deaths: 0.01)
    link.start()
    await heard.wait(lambda message: "cannot be started" in message["text"])
    async with asyncio.timeout(20):
        while link.restarts < 2:
            heard.came.clear()
            await heard.came.wait()
    await link.stop(5)


@pytest.mark.parametrize("says", ["'no json'", "'x' * (17 << 20)"])
async def test_one_that_says_what_is_no_message_is_replaced(says: str) -> None:
    heard = Heard()
    async with linked(f"import sys, time; print({says}, flush=True); sys.stdin.read()", heard) as link:
        await heard.wait(lambda message: "cannot be read" in message["text"])
    assert not link.is_running


async def test_one_that_does_not_end_is_killed() -> None:
    heard = Heard()
    link = KeeperLink(SETTINGS, heard.take, command=[
        sys.executable, "-c", "import time; print('{\"type\": \"here\"}', flush=True); time.sleep(600)"])
    link.start()
    await heard.wait(lambda message: message["type"] == "here")
    async with asyncio.timeout(20):
        await link.stop(0.05)
    assert not link.is_running
    assert [message["type"] for message in heard.messages] == ["here"]


async def test_stopping_while_it_waits_to_start_again_is_at_once() -> None:
    heard = Heard()
    link = KeeperLink(SETTINGS, heard.take, command=[sys.executable, "-c", ""], delay_s=lambda deaths: 600.0)
    link.start()
    await heard.wait(lambda message: message["type"] == "error")
    async with asyncio.timeout(20):
        await link.stop(5)
    assert link.restarts == 0


async def test_what_the_taker_raises_does_not_end_the_keeper() -> None:
    heard = Heard()

    def take(message: dict[str, Any]) -> None:
        heard.take(message)
        raise KeyError("type")

    link = KeeperLink(SETTINGS, take, command=[sys.executable, "-c", ECHO])
    link.start()
    await heard.wait(lambda message: "records" in message)
    link.tell({"type": "a"})
    await heard.wait(lambda message: message.get("type") == "heard")
    await link.stop(5)


def test_delays_double_up_to_a_minute() -> None:
    assert [restart_delay_s(deaths) for deaths in (1, 2, 3, 6, 7, 99)] == [1, 2, 4, 32, 60, 60]


async def test_the_keeper_itself(tmp_path: Path) -> None:
    home, url = Home(tmp_path / "home"), str(tmp_path / "records")
    heard = Heard()
    simple_journal(home, 1, range(10))
    link = KeeperLink(KeeperSettings(records=url, home=str(home.path), replica="r", epoch=1), heard.take)
    link.start()
    await heard.wait(lambda message: message["type"] == "sealed")
    await link.stop(20)
    assert [message["text"] for message in heard.messages if message["type"] == "error"] == []
    assert read_manifest(open_store(url), "r").is_sealed(1, 1)
