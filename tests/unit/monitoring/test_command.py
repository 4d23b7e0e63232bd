"""The program that is told of events."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from serve.monitoring import command
from serve.monitoring.command import CommandStatistics, EventCommand

EVENT = {"specversion": "1.0", "id": "c-1", "type": "dev.headrace.retrain.requested", "data": {"reason": "drift; $(rm -rf x) `y`"}}


async def told(argv: list[str], *events: Mapping[str, object], types: tuple[str, ...] = (), timeout_s: float = 20) -> CommandStatistics:
    one = EventCommand(argv, types, timeout_s)
    one.start()
    for event in events:
        one.offer(event)
    n_wanted = len([event for event in events if not types or str(event["type"]).startswith(types)])
    async with asyncio.timeout(60):
        while one.statistics.done + one.statistics.failed < n_wanted:
            await asyncio.sleep(0.01)
    await one.close()
    return one.statistics


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def test_it_reads_the_event_and_no_shell_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = await told(script(f"import os, sys; open({str(out)!r}, 'a').write(os.environ['HEADRACE_EVENT_TYPE'] + ' ' + sys.stdin.read())"),
                       EVENT, {**EVENT, "type": "dev.headrace.traffic.set"}, types=("dev.headrace.retrain.", "dev.headrace.monitoring."))
    type_, _, text = out.read_text().partition(" ")
    assert (type_, json.loads(text), found) == (EVENT["type"], EVENT, CommandStatistics(done=1))


@pytest.mark.parametrize("argv", [script("import sys; sys.exit(3)"), ["/nonexistent/program"]])
async def test_what_fails_is_counted_and_the_next_event_is_told(argv: list[str]) -> None:
    assert await told(argv, EVENT, EVENT) == CommandStatistics(failed=2)


async def test_a_program_need_not_read(tmp_path: Path) -> None:
    large = {**EVENT, "data": "x" * 1_000_000}
    assert await told(["true"], large) == CommandStatistics(done=1)


async def test_what_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    found = await told(["sh", "-c", f"sleep 100 & echo $! $$ > {pids}; wait"], EVENT, timeout_s=0.3)
    assert found == CommandStatistics(failed=1)
    for pid in map(int, pids.read_text().split()):
        for _ in range(200):        # init reaps the child in its own time
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                break
            if is_zombie(pid):
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail(f"{pid} is alive")


async def test_it_may_write_before_it_reads() -> None:
    large = {**EVENT, "data": {"text": "x" * 1_000_000}}
    writes = script("import sys; sys.stdout.write('y' * 1_000_000); sys.stdout.flush(); sys.exit(len(sys.stdin.read()) < 1_000_000)")
    assert await told(writes, large) == CommandStatistics(done=1)


async def test_a_queue_that_is_full_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_WAITING", 2)
    one = EventCommand(["true"])
    for _ in range(5):
        one.offer(EVENT)
    assert one.statistics.dropped == 3
