"""What the metrics are made from, besides the versions' statistics."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """State and counters of one worker at one moment.

    connections: open now. in_flight_bytes: bytes of bodies held for requests that are not answered. accepted: connections since the worker
    started. requests: protocol -> requests received, whatever became of them. rejected: reason -> requests refused before a version was
    known. io_turns: turns of the I/O threads' loops. restarts: workers that this service replaced after a crash. start_time_s: wall time in
    seconds since the epoch.
    """

    version: str
    worker_epoch: int
    start_time_s: float
    restarts: int = 0
    connections: int = 0
    accepted: int = 0
    in_flight_bytes: int = 0
    io_turns: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
