"""`headrace rollout watch`: looks at a rollout until it has ended, and says how by the exit code.

    0   succeeded
    10  rolled back
    11  held: it waits for a person, and either --until-held was given or --timeout has passed
    12  failed
    13  --timeout has passed while it went on

Held means paused by its manual gate, an operator, a step's time-out with the policy `hold`, or the death of a worker; a timed pause ends by
itself and is none. The judge's verdict `hold` alone is none either: it keeps the step from being left, and the time-out makes it a pause.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from serve.client.connection import ClientError
from serve.commands.rollout_view import Look, line_of

SUCCEEDED, ROLLED_BACK, HELD, FAILED, TIMED_OUT = 0, 10, 11, 12, 13

PATIENCE_S = 60.0       # how long a server may be away: a worker that died is back within seconds
REPEAT_S = 10.0         # a line of the log at least so often

_ENDS = {"succeeded": SUCCEEDED, "rolled_back": ROLLED_BACK, "failed": FAILED}
_AWAY = (0, 502, 503)   # nobody there, or starting

Document = Mapping[str, Any]


class Source(Protocol):
    """Of the admin client, what a watcher asks."""

    def rollout(self, rollout: str) -> dict[str, Any]: ...

    def traffic(self, model: str) -> dict[str, Any]: ...

    def counters(self, model: str) -> list[dict[str, Any]]: ...


def is_held(rollout: Document) -> bool:
    """Whether it waits for a person."""
    return bool(rollout["phase"] == "paused" and rollout["pause_reason"] != "timer")


def exit_code(rollout: Document, until_held: bool, is_late: bool) -> int | None:
    """None: go on watching."""
    if (end := _ENDS.get(rollout["phase"])) is not None:
        return end
    if is_held(rollout) and (until_held or is_late):
        return HELD
    return TIMED_OUT if is_late else None


def watch(
    source: Source, rollout: str, report: Callable[[Look], None], now_s: Callable[[], float], pause: Callable[[float], object],
    until_held: bool = False, timeout_s: float | None = None, interval_s: float = 0.5,
) -> int:
    """Reports each look; the exit code. now_s: a monotonic clock's seconds. Raises ClientError when the server stays away for a minute."""
    begun = answered = now_s()
    last: Look | None = None
    while True:
        try:
            last = look(source, rollout)
            answered = now_s()
        except ClientError as error:
            if error.status not in _AWAY or last is None or now_s() - answered > PATIENCE_S:
                raise
            last = Look(last.rollout, last.traffic, last.counters, f"no answer for {now_s() - answered:.0f} s: {error}")
        report(last)
        is_late = timeout_s is not None and now_s() - begun >= timeout_s
        if (code := exit_code(last.rollout, until_held, is_late)) is not None:
            return code
        pause(interval_s)


def look(source: Source, rollout: str) -> Look:
    """Asks everything once."""
    document = source.rollout(rollout)
    return Look(document, source.traffic(document["model"]), tuple(source.counters(document["model"])))


class Lines:
    """Reports for a log: a line when something changes, and every ten seconds. write: takes a line."""

    def __init__(self, write: Callable[[str], None], now_s: Callable[[], float], as_json: bool = False) -> None:
        self._write = write
        self._now_s = now_s
        self._as_json = as_json
        self._last: tuple[Any, ...] = ()
        self._written = 0.0

    def __call__(self, seen: Look) -> None:
        """Writes it or leaves it."""
        rollout = seen.rollout
        key = (rollout["phase"], rollout["step"], rollout["attempt"], rollout["verdict"], bool(seen.note))
        if key == self._last and self._now_s() - self._written < REPEAT_S:
            return
        self._last, self._written = key, self._now_s()
        if self._as_json:
            document = {"rollout": rollout, "traffic": seen.traffic, "counters": list(seen.counters), "note": seen.note}
            self._write(json.dumps(document, ensure_ascii=False))
        else:
            self._write(line_of(seen))
