"""kill -9 of a process that commits: what it was told is durable is there, nothing is there by half, and the audit chain is whole."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from serve.store.sqlite import SqliteStore

ROOT = Path(__file__).resolve().parents[2]
N_ROUNDS = 20
SEED = 12

# Commits n = revision in five places, and prints it once it is acknowledged. Every 50th commit is followed by a backup.
CHILD = """
import asyncio, sys
from pathlib import Path
from serve.store.audit import AuditEntry
from serve.store.port import BLOB, Change
from serve.store import sqlite

sqlite.BACKUP_EVERY_S = 0

async def main():
    store = await sqlite.SqliteStore.open(Path(sys.argv[1]))
    n = await store.revision()
    lease = await store.lease("driver", f"child {n}", 0.001)
    print("open", lease.token, flush=True)
    while True:
        n += 1
        value = {"n": n, "padding": "x" * (n % 7000)}
        changes = [Change("counter", "a", value, None), Change("counter", f"b{n % 5}", value, None),
                   Change(BLOB, "units", str(n).encode() * (n % 300 + 1), None)]
        made = await store.commit(changes, [AuditEntry("dev.headrace.rollout.state", "r", "kill", after={"n": n})] * 2, fence=lease)
        assert made.revision == n
        print(n, flush=True)
        if n % 50 == 0:
            await store.back_up()

asyncio.run(main())
"""


def commit_until_killed(folder: Path, seconds: float) -> tuple[int, int]:
    """The token of the child's lease, and the last revision that it was acknowledged (0: none)."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        words = child.stdout.readline().split()
        assert words[0] == "open"
        try:
            child.wait(seconds)
            pytest.fail("the child ended by itself")
        except subprocess.TimeoutExpired:
            child.kill()
        lines = child.stdout.read().splitlines(keepends=True)
    acknowledged = [int(line) for line in lines if line.endswith("\n")]
    return int(words[1]), acknowledged[-1] if acknowledged else 0


async def check(folder: Path, acknowledged: int, before: int) -> int:
    """Revision of the store that the killed process left."""
    store = await SqliteStore.open(folder)
    try:
        assert store.opened.how == "existing"
        n = await store.revision()
        # The commit that it was killed in may have happened; no other.
        assert n in ((acknowledged, acknowledged + 1) if acknowledged else (before, before + 1))
        if n == 0:
            return n
        counters = {document.key: document for document in await store.list("counter")}
        assert counters["a"].content == counters[f"b{n % 5}"].content == {"n": n, "padding": "x" * (n % 7000)}
        assert [counters[f"b{m % 5}"].revision for m in range(max(1, n - 4), n + 1)] == list(range(max(1, n - 4), n + 1))
        assert await store.get_blob("units") == str(n).encode() * (n % 300 + 1)
        report = await store.verify_audit()
        assert (report.is_intact, report.n_rows) == (True, 2 * n), report.fault
        assert [row["data"]["after"] for row in await store.audit(2 * n - 2)] == [{"n": n}] * 2
        return n
    finally:
        await store.close()


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    revision, tokens = 0, [0]
    for _ in range(N_ROUNDS):
        token, acknowledged = commit_until_killed(tmp_path, draw.uniform(0.0, 0.25))
        assert token > tokens[-1]
        tokens.append(token)
        revision = asyncio.run(check(tmp_path, acknowledged, revision))
    assert revision > 10 * N_ROUNDS


def test_a_backup_made_while_commits_go_on_is_whole(tmp_path: Path) -> None:
    """Each is the store of one moment: every part of it says the same n."""
    commit_until_killed(tmp_path, 1.0)
    backups = sorted((tmp_path / "backups").glob("headrace-*.db"))
    assert backups
    for number, backup in enumerate(backups):
        folder = tmp_path / f"restored {number}"
        folder.mkdir()
        (folder / "headrace.db").write_bytes(backup.read_bytes())
        revision = int(backup.stem.removeprefix("headrace-"))
        assert asyncio.run(check(folder, revision, revision)) >= revision
