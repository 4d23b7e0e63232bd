"""The event hub: in order, without gaps, and nobody waits for a slow listener."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.store.hub import DROPPED, PAGE, Event, EventHub, Subscription
from serve.store.port import Commit


def row(sequence: int) -> Event:
    return {"type": "dev.headrace.traffic.set", "sequence": str(sequence).zfill(20)}


def live(name: str) -> Event:
    return {"type": "dev.headrace.rollout.progress", "id": name}


class Chain:
    """The audit chain of a store, and who reads it."""

    def __init__(self, n_rows: int = 0) -> None:
        self.rows = [row(n) for n in range(1, n_rows + 1)]
        self.reads: list[int] = []

    async def history(self, after: int, limit: int) -> Sequence[Event]:
        self.reads.append(after)
        await asyncio.sleep(0)
        return self.rows[after:after + limit]

    def grow(self) -> Event:
        self.rows.append(row(len(self.rows) + 1))
        return self.rows[-1]


def short(event: Event) -> Any:
    return int(event["sequence"]) if "sequence" in event else event.get("id")


async def take(subscription: Subscription, n: int) -> list[Any]:
    return [short(await asyncio.wait_for(anext(subscription), 5)) for _ in range(n)]


async def test_listeners_hear_what_is_published_after_they_came():
    chain = Chain()
    hub = EventHub(chain.history)
    hub.publish(live("before"))
    one, two = hub.subscribe(), hub.subscribe()
    hub.publish(live("a"))
    hub.publish_commit(Commit(7, (chain.grow(), chain.grow())))
    for subscription in (one, two):
        assert await take(subscription, 3) == ["a", 1, 2]
    assert chain.reads == []
    assert (hub.statistics().subscribers, hub.statistics().published) == (2, 4)


async def test_a_listener_who_waits_is_woken():
    hub = EventHub(Chain().history)
    subscription = hub.subscribe()
    waiting = asyncio.create_task(take(subscription, 1))
    await asyncio.sleep(0)
    hub.publish(live("a"))
    assert await waiting == ["a"]


@pytest.mark.parametrize("n_rows", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
async def test_who_comes_back_gets_what_was_missed_first(n_rows):
    chain = Chain(5 + n_rows)
    hub = EventHub(chain.history)
    subscription = hub.subscribe(after=5)
    hub.publish(live("now"))
    hub.publish(chain.grow())
    expected = [*range(6, 6 + n_rows), "now", 6 + n_rows]
    found = await take(subscription, len(expected))
    # A row that was published meanwhile may come with the rows of the past.
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert [event for event in found if event != "now"] == expected[:-2] + expected[-1:]


async def test_rows_that_another_process_wrote_are_fetched():
    chain = Chain(2)
    hub = EventHub(chain.history)
    subscription = hub.subscribe(after=1)
    assert await take(subscription, 1) == [2]
    for _ in range(PAGE + 2):
        chain.grow()
    hub.publish(chain.grow())
    hub.publish(chain.grow())
    assert await take(subscription, PAGE + 4) == list(range(3, PAGE + 7))


async def test_rows_that_nobody_has_any_more_are_passed_over():
    chain = Chain()
    hub = EventHub(chain.history)
    subscription = hub.subscribe()
    hub.publish(row(3))
    hub.publish(row(9))
    assert await take(subscription, 2) == [3, 9]


async def test_who_knows_more_than_a_restored_chain_hears_what_is_new():
    chain = Chain(3)
    hub = EventHub(chain.history)
    subscription = hub.subscribe(after=100)
    hub.publish(chain.grow())
    assert await take(subscription, 1) == [4]


async def test_a_slow_listener_is_dropped_told_so_and_comes_back():
    chain = Chain()
    hub = EventHub(chain.history, max_queued=10)
    slow, quick = hub.subscribe(after=0), hub.subscribe(after=0)
    assert hub.statistics().subscribers == 2
    for _ in range(3):
        hub.publish(chain.grow())
    assert await take(quick, 3) == [1, 2, 3]
    for _ in range(9):
        hub.publish(chain.grow())
    assert await take(quick, 9) == list(range(4, 13))
    statistics = hub.statistics()
    assert (statistics.subscribers, statistics.dropped) == (1, 1)
    events = [event async for event in slow]
    assert events[-1]["type"] == DROPPED
    last = events[-1]["data"]["resume_after"]
    assert [short(event) for event in events[:-1]] == list(range(1, last + 1))
    again = hub.subscribe(after=last)
    hub.publish(chain.grow())
    assert await take(again, 13 - last) == list(range(last + 1, 14))


async def test_a_dropped_listener_holds_no_more_than_its_queue():
    hub = EventHub(Chain().history, max_queued=10)
    subscription = hub.subscribe()
    for n in range(1000):
        hub.publish(live(str(n)))
    assert [short(event) async for event in subscription][:-1] == [str(n) for n in range(10)]


async def test_closing_ends_listeners_after_what_they_have():
    hub = EventHub(Chain().history)
    waiting = asyncio.create_task(_all(hub.subscribe()))
    queued = hub.subscribe()
    await asyncio.sleep(0)
    hub.publish(live("a"))
    hub.close()
    assert await waiting == ["a"]
    assert await _all(queued) == ["a"]
    assert hub.statistics().subscribers == 0


async def test_a_listener_who_leaves_is_forgotten():
    hub = EventHub(Chain(500).history)
    subscription = hub.subscribe(after=0)
    assert await take(subscription, 2) == [1, 2]
    await subscription.aclose()
    hub.publish(live("a"))
    assert await _all(subscription) == []
    assert hub.statistics().subscribers == 0


async def test_a_cancelled_listener_loses_nothing():
    chain = Chain(50)
    hub = EventHub(chain.history)
    subscription = hub.subscribe(after=0)
    found: list[Any] = []
    for turns in range(60):
        reading = asyncio.create_task(take(subscription, 1))
        for _ in range(turns % 5):
            await asyncio.sleep(0)
        reading.cancel()
        [result] = await asyncio.gather(reading, return_exceptions=True)
        found += result if isinstance(result, list) else []
    hub.close()
    found += await _all(subscription)
    # An event that was given to a task which was cancelled at that very moment is the task's.
    assert found == sorted(set(found))
    assert found[-1] == 50


async def _all(subscription: Subscription) -> list[Any]:
    return [short(event) async for event in subscription]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["publish", "elsewhere", "live", "read"]), max_size=40),
    after=st.one_of(st.none(), st.integers(0, 3)),
)
def test_rows_come_in_order_once_and_without_gaps(steps, after):
    async def check() -> None:
        chain = Chain(3)
        hub = EventHub(chain.history)
        subscription = hub.subscribe(after)
        found: list[Any] = []
        reader = asyncio.create_task(_collect(subscription, found))
        published = 3
        for number, step in enumerate(steps):
            if step == "publish":
                hub.publish(chain.grow())
                published = len(chain.rows)
            elif step == "elsewhere":
                chain.grow()
            elif step == "live":
                hub.publish(live(f"live {number}"))
            else:
                await asyncio.sleep(0)
        hub.close()
        await reader
        rows = [event for event in found if isinstance(event, int)]
        assert rows == list(range(rows[0], rows[-1] + 1) if rows else [])
        if after is not None and (rows or published > after):
            assert rows[0] == after + 1
        if "publish" in steps:
            assert rows[-1] >= published
        assert [event for event in found if isinstance(event, str)] == [f"live {n}" for n, step in enumerate(steps) if step == "live"]

    asyncio.run(check())


async def _collect(subscription: Subscription, found: list[Any]) -> None:
    found += [short(event) async for event in subscription]
