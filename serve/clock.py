"""The only clock. Monotonic time decides; wall time only labels."""

import time


def monotonic_ns() -> int:
    """Nanoseconds of CLOCK_MONOTONIC: the native threads' clock as well."""
    return time.monotonic_ns()


def wall_ns() -> int:
    """Nanoseconds since the epoch, for labels in answers, logs and files. Never compared with monotonic_ns."""
    return time.time_ns()
