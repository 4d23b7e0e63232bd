"""When a disk that refuses is asked again, and what it said."""

import errno
from dataclasses import dataclass, field

FIRST_NS = 50_000_000
LONGEST_NS = 5_000_000_000


@dataclass(slots=True)
class Backoff:
    """since_ns: when the trouble began, None while there is none. error: what the disk said last, as errno's name. counts: errors by name,
    ever. The pause doubles with each failure in a row, from FIRST_NS to LONGEST_NS. Times are of the monotonic clock.
    """

    since_ns: int | None = None
    error: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    _retry_ns: int = 0
    _pause_ns: int = FIRST_NS

    @property
    def is_failing(self) -> bool:
        return self.since_ns is not None

    def may_try(self, now_ns: int) -> bool:
        return self.since_ns is None or now_ns >= self._retry_ns

    def failed(self, error: OSError, now_ns: int) -> bool:
        """Whether this is news: the first failure, or another error than before."""
        name = errno.errorcode.get(error.errno or 0, "UNKNOWN")
        is_news = self.since_ns is None or name != self.error
        self.counts[name] = self.counts.get(name, 0) + 1
        self.error = name
        self._pause_ns = FIRST_NS if self.since_ns is None else min(2 * self._pause_ns, LONGEST_NS)
        self.since_ns = now_ns if self.since_ns is None else self.since_ns
        self._retry_ns = now_ns + self._pause_ns
        return is_news

    def succeeded(self) -> bool:
        """Whether this is news: it had failed."""
        was_failing, self.since_ns, self.error = self.is_failing, None, ""
        return was_failing


__all__ = ["FIRST_NS", "LONGEST_NS", "Backoff"]
