"""Waiting for what happens in other processes, which can only be looked at."""

import threading
from collections.abc import Callable
from typing import TypeVar

from serve import clock
from serve.errors import HeadraceError

_LOOK_S = 0.25

_T = TypeVar("_T")


class TooLate(HeadraceError):
    """What the story waits for did not happen."""


def until(condition: Callable[[], _T], what: str, timeout_s: float, is_over: Callable[[], str] = lambda: "") -> _T:
    """What the condition returns once it is true. is_over: why it never will be, "" while it may. Raises TooLate."""
    end_ns = clock.monotonic_ns() + int(timeout_s * 1e9)
    while not (found := condition()):
        if why := is_over():
            raise TooLate(f"still not {what}: {why}")
        if clock.monotonic_ns() > end_ns:
            raise TooLate(f"after {timeout_s:g} s still not {what}")
        pause(_LOOK_S)
    return found


def pause(seconds: float) -> None:
    """For what takes its time, such as traffic that is to be sent."""
    threading.Event().wait(seconds)


__all__ = ["TooLate", "pause", "until"]
