"""What a server's records say of themselves, by the commands that an operator has: `headrace records verify` and `query`."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.records.service import Recorded

LONGEST_S = 300


@dataclass(frozen=True)
class Books:
    """Rows of all epochs. damaged: files and journals whose bytes do not check. twice: stored more than once. unexplained: neither stored
    nor counted as dropped, lost, torn or damaged. under_way: of epochs that run, or that nobody has accounted for yet.
    """

    epochs: int
    assigned: int
    found: int
    dropped: int
    lost: int
    torn: int
    bad: int
    twice: int
    unexplained: int
    damaged: int
    under_way: int
    lost_each: tuple[int, ...]


def verify(service: Recorded) -> Books:
    """Reads every byte. Raises RuntimeError when the command itself fails."""
    said = _headrace(service, "verify", "--format", "json", codes=(0, 1))
    found = json.loads(said.strip().splitlines()[-1])
    accounts = found["accounts"]

    def total(name: str) -> int:
        return sum(one[name] or 0 for one in accounts)

    return Books(
        len(accounts), total("assigned"), sum(one["found"]["rows"] for one in accounts),
        sum(sum(one["dropped"].values()) for one in accounts),
        total("lost"), total("torn"), total("bad"), sum(one["found"]["twice"] for one in accounts), total("unexplained"),
        len(found["damaged"]) + len(found["faults"]), total("under_way"), tuple(one["lost"] or 0 for one in accounts))


def settled(service: Recorded, seconds: float = 60.0) -> Books:
    """Once the keeper has accounted for every epoch but the one that runs, of which nothing is on its way; as it is after the time."""
    end = time.monotonic() + seconds
    while (books := verify(service)).under_way and time.monotonic() < end:
        time.sleep(1.0)
    return books


def query(service: Recorded, sql: str) -> list[dict[str, Any]]:
    """Rows of a SELECT over sealed and journalled rows."""
    return [json.loads(line) for line in _headrace(service, "query", sql, "--format", "json").splitlines() if line]


def _headrace(service: Recorded, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    executable = Path(sys.executable).with_name("headrace")
    done = subprocess.run(
        [str(executable), "records", *arguments, "--records", str(service.records), "--state-dir", str(service.state_dir)],
        capture_output=True, text=True, timeout=LONGEST_S, check=False)
    if done.returncode not in codes:
        raise RuntimeError(f"headrace records {arguments[0]} left with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout


__all__ = ["Books", "query", "settled", "verify"]
