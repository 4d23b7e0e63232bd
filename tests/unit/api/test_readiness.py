import asyncio

from serve.api.readiness import Readiness


async def test_watchers_are_told_the_state_and_then_each_change() -> None:
    state = [False]
    readiness = Readiness(lambda: state[0])
    changes = readiness.changes()
    assert await anext(changes) is False
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    readiness.notify()
    await asyncio.sleep(0)
    assert not waiting.done(), "a notification without a change is no news"
    state[0] = True
    readiness.notify()
    assert await waiting is True
    state[0] = False
    readiness.notify()
    assert await anext(changes) is False, "a change that came while nobody waited is not lost"
    await changes.aclose()


async def test_every_watcher_is_told() -> None:
    state = [True]
    readiness = Readiness(lambda: state[0])
    watchers = [readiness.changes() for _ in range(3)]
    assert [await anext(w) for w in watchers] == [True] * 3
    waiting = [asyncio.ensure_future(anext(w)) for w in watchers]
    await asyncio.sleep(0)
    state[0] = False
    readiness.notify()
    assert await asyncio.gather(*waiting) == [False] * 3
    for watcher in watchers:
        await watcher.aclose()


async def test_a_cancelled_watcher_leaves_the_others_alone() -> None:
    state = [True]
    readiness = Readiness(lambda: state[0])
    gone, stays = readiness.changes(), readiness.changes()
    await anext(gone)
    await anext(stays)
    cancelled = asyncio.ensure_future(anext(gone))
    waiting = asyncio.ensure_future(anext(stays))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert cancelled.cancelled()
    state[0] = False
    readiness.notify()
    assert await waiting is False
    await stays.aclose()
