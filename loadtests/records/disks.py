"""Case disks: a disk that fills up and one that turns read-only, under load; every row must be accounted for when they are mended."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loadtests.judge.tables import Bound, Table
from loadtests.records.books import Books, settled
from loadtests.records.service import MODEL, Recorded, recorded
from loadtests.rollout import models
from loadtests.rollout.bench import Bench
from loadtests.rollout.load import Wrk, until

SMALL, LARGE = "16m", "2g"
# A ring of a few megabytes is full soon: what is dropped then is what this case is about.
RING_BYTES = str(4 << 20)


def disks_case(bench: Bench) -> list[Table]:
    """A full disk and a read-only one, under load."""
    if os.geteuid():
        raise PermissionError("this case mounts a small disk of its own in memory: run it as root")
    return [_full(bench), _read_only(bench)]


@contextmanager
def _disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "headrace-bench", str(folder)], check=True)
    try:
        yield
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def _load(bench: Bench, service: Recorded, seconds: float) -> int:
    """Requests answered by wrk; none may fail."""
    with Wrk(service, [MODEL], models.rows(16), connections=8) as wrk:
        time.sleep(seconds if not bench.is_quick else min(seconds, 2.0))
    assert wrk.summary is not None
    if wrk.summary.failed or wrk.summary.count(status=200) != wrk.summary.requests:
        raise ValueError(f"requests failed: {wrk.summary}")
    return wrk.summary.requests


def _full(bench: Bench) -> Table:
    home = bench.machine.folder / "full-disk" / "state" / "records"
    with _disk(home, SMALL), recorded(bench, "full disk", "--record-seal", "86400", "--record-ring-bytes", RING_BYTES) as service:
        requests = _load(bench, service, 6.0)
        while service.recording()["dropped"] == 0:
            requests += _load(bench, service, 2.0)
        while_full = service.recording()
        bench.say(f"full: {while_full}")
        _remount(home, f"size={LARGE}")
        time.sleep(2)
        requests += _load(bench, service, 2.0)
        service.restart()
        books = settled(service)
    return _table("The disk of the journals fills up", bench, requests, books, while_full["dropped"])


def _read_only(bench: Bench) -> Table:
    folder = bench.machine.folder / "read-only"
    with _disk(folder / "records", LARGE), recorded(bench, "read-only", "--record-seal", "1") as service:
        requests = _load(bench, service, 2.0)
        _remount(folder / "records", "ro")
        requests += _load(bench, service, 4.0)
        waiting = len(service.journals())
        bench.say(f"read-only: {waiting} journals wait")
        _remount(folder / "records", "rw")
        service.restart()
        until(lambda: not [path for path in service.journals() if path.suffix == ".journal"], 120)
        books = settled(service)
    return _table("The records directory turns read-only", bench, requests, books, None, waiting)


def _table(title: str, bench: Bench, requests: int, books: Books, dropped: float | None, waiting: int | None = None) -> Table:
    lines = [["requests answered, one row each", f"{requests:,}"], ["rows numbered", f"{books.assigned:,}"], ["stored", f"{books.found:,}"],
             ["dropped, counted", f"{books.dropped:,}"], ["lost, torn or damaged, counted", f"{books.lost + books.torn + books.bad:,}"]]
    bounds = [
        Bound("rows answered and not numbered", max(0, requests - books.assigned), most=0),
        Bound("rows numbered less stored, dropped, lost, torn and damaged",
              books.assigned - books.found - books.dropped - books.lost - books.torn - books.bad, most=0),
        Bound("rows stored twice, and files that do not check", books.twice + books.damaged, most=0),
    ]
    if dropped is not None:
        bounds.append(Bound("rows dropped while the disk was full", dropped, least=1))
    if waiting is not None:
        lines.append(["journals that waited", f"{waiting:,}"])
        bounds += [Bound("rows dropped or lost", books.dropped + books.lost, most=0), Bound("journals that waited", waiting, least=1)]
    return Table(title, ["", ""], lines, [
        "wrk, 8 connections; every request was answered 200 throughout. The disk is one in memory, of this case alone."], bounds)


__all__ = ["disks_case"]
