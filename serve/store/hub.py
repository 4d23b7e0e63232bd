"""The event hub of a process: changes and verdicts, told to whoever listens right now. Of one event loop.

Events are CloudEvents. One with a `sequence` is a row of the audit chain: a subscriber gets these in order and without gaps, from the
chain itself where it has missed some. One without is told as it happens, and never again. Who does not keep up is dropped, with a last
event that says so, and may come back with the sequence number that it has.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.store.audit import TYPE_PREFIX, sequence_of
from serve.store.port import Commit

Event = Mapping[str, Any]

# (after, limit) -> audit rows with a sequence number over `after`, ascending; ConfigStore.audit.
History = Callable[[int, int], Awaitable[Sequence[Event]]]

MAX_QUEUED = 1000
PAGE = 100

DROPPED = f"{TYPE_PREFIX}events.dropped"


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """subscribers: now. published, dropped: events told, and subscribers dropped for being slow, since the start."""

    subscribers: int
    published: int
    dropped: int


class EventHub:
    """history: where missed audit rows are read. source: of the events that the hub itself makes. max_queued: events, per subscriber."""

    def __init__(self, history: History, source: str = "headrace", max_queued: int = MAX_QUEUED) -> None:
        self._history = history
        self._source = source
        self._max_queued = max_queued
        self._subscriptions: set[Subscription] = set()
        self._n_published = 0
        self._n_dropped = 0

    def publish(self, event: Event) -> None:
        """Never waits. Audit rows are published in the order of the chain."""
        self._n_published += 1
        for subscription in tuple(self._subscriptions):
            if not subscription.offer(event):
                self._n_dropped += 1
                self._subscriptions.discard(subscription)

    def publish_commit(self, commit: Commit) -> None:
        """For `SqliteStore.on_commit`."""
        for row in commit.audit_rows:
            self.publish(row)

    def subscribe(self, after: int | None = None) -> "Subscription":
        """Everything published from now on, preceded by the audit rows with a sequence number over `after`, where it is given."""
        subscription = Subscription(self._history, self._source, self._max_queued, after, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    def statistics(self) -> HubStatistics:
        return HubStatistics(len(self._subscriptions), self._n_published, self._n_dropped)

    def close(self) -> None:
        """Ends every subscription, after what is queued for it."""
        for subscription in tuple(self._subscriptions):
            subscription.end()
        self._subscriptions.clear()


class Subscription(AsyncIterator[Event]):
    """One listener's events: `async for`, in one task. `aclose` when done."""

    def __init__(
        self, history: History, source: str, max_queued: int, after: int | None, forget: Callable[["Subscription"], None]
    ) -> None:
        self._history = history
        self._source = source
        self._max_queued = max_queued
        self._forget = forget
        self._queue: deque[Event] = deque()
        self._missed: deque[Event] = deque()
        self._changed = asyncio.Event()
        # Sequence number of the newest audit row given out; None until there is one to go on from.
        self._last = after
        self._has_given_row = False
        self._must_catch_up = after is not None
        self._is_ended = False
        self._is_dropped = False

    def offer(self, event: Event) -> bool:
        """False when the queue is full: it is ended and takes nothing more."""
        if self._is_ended:
            return True
        if len(self._queue) >= self._max_queued:
            self._is_dropped = True
            self.end()
            return False
        self._queue.append(event)
        self._changed.set()
        return True

    def end(self) -> None:
        self._is_ended = True
        self._changed.set()

    async def aclose(self) -> None:
        self._queue.clear()
        self._missed.clear()
        self._is_dropped = self._must_catch_up = False
        self.end()
        self._forget(self)

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._must_catch_up and not self._missed:
                await self._read_missed()
            event = self._next()
            if event is not None:
                return event
            if self._must_catch_up:
                continue
            if self._is_dropped:
                self._is_dropped = False
                return self._dropped()
            if self._is_ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def _next(self) -> Event | None:
        """The next event at hand that was not given out before; None when there is none, or rows are missing before it."""
        if self._missed:
            return self._given(self._missed.popleft())
        while self._queue:
            sequence = sequence_of(self._queue[0])
            if sequence and self._last is not None and sequence > self._last + 1:
                self._must_catch_up = True
                return None
            event = self._queue.popleft()
            # A first row below what the subscriber knows: the chain was restored from a backup, and goes on from an earlier place.
            if not sequence or self._last is None or sequence > self._last or not self._has_given_row:
                return self._given(event)
        return None

    def _given(self, event: Event) -> Event:
        if sequence := sequence_of(event):
            self._last, self._has_given_row = sequence, True
        return event

    async def _read_missed(self) -> None:
        assert self._last is not None
        page = await self._history(self._last, PAGE)
        self._missed.extend(page)
        # What waits to be read twice takes no room.
        while page and self._queue and 0 < sequence_of(self._queue[0]) <= sequence_of(page[-1]):
            self._queue.popleft()
        if len(page) == PAGE:
            return
        self._must_catch_up = False
        if not page and self._queue:
            # The chain does not know the rows before the next event (it was restored): go on from there.
            self._last = max(self._last, sequence_of(self._queue[0]) - 1)

    def _dropped(self) -> Event:
        last = self._last or 0
        reason = f"more than {self._max_queued} events waited to be read; ask again for those after {last}"
        return {
            "specversion": "1.0", "id": f"dropped-{last}", "source": self._source, "type": DROPPED,
            "datacontenttype": "application/json", "data": {"reason": reason, "resume_after": last},
        }


__all__ = ["DROPPED", "MAX_QUEUED", "Event", "EventHub", "History", "HubStatistics", "Subscription"]
