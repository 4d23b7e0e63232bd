"""What every ConfigStore does. An implementation subclasses StoreContract in its test file and says how one is opened."""

import abc
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from serve.errors import HeadraceError, InvalidArgument, TooLarge
from serve.store.audit import GENESIS, AuditEntry, verify_rows
from serve.store.port import ABSENT, BLOB, Change, ConfigStore, LeaseLost, StoreConflict


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


Opener = Callable[[], Awaitable[ConfigStore]]


def put(key: str, value: Mapping[str, Any] | None, expected: int | None = None, kind: str = "traffic") -> Change:
    return Change(kind, key, value, expected)


def told(verb: str = "set", **fields: Any) -> AuditEntry:
    return AuditEntry(f"dev.headrace.traffic.{verb}", "digits", "ann", **fields)


async def everything(store: ConfigStore) -> tuple[Any, ...]:
    return await store.revision(), await store.list_since(0), await store.audit(0, 1000), await store.audit_head()


class StoreContract(abc.ABC):
    @abc.abstractmethod
    async def make(self, folder: Path, clock: Clock) -> ConfigStore:
        """A handle on the one store of `folder`; two handles stand for two processes."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    async def opened(self, tmp_path: Path, clock: Clock) -> AsyncIterator[Opener]:
        handles = []

        async def open_one() -> ConfigStore:
            handles.append(await self.make(tmp_path, clock))
            return handles[-1]

        yield open_one
        for handle in handles:
            await handle.close()

    @pytest.fixture
    async def store(self, opened: Opener) -> ConfigStore:
        return await opened()

    @pytest.fixture
    async def other(self, store: ConfigStore, opened: Opener) -> ConfigStore:
        return await opened()

    async def test_a_new_store_is_empty(self, store):
        assert await everything(store) == (0, [], [], (0, GENESIS))
        assert await store.get("traffic", "digits") is None
        assert await store.list("traffic") == []
        assert await store.get_blob("units") is None
        assert (await store.verify_audit()).is_intact

    async def test_what_was_written_is_read(self, store):
        value = {"text": "é\u2028\x00", "deep": [{"a": None}, 1.5, True], "big": 2**60, "": {}}
        made = await store.commit([put("digits", value)])
        document = await store.get("traffic", "digits")
        assert (document.value, document.revision, made.revision) == (value, 1, 1)
        assert (document.kind, document.key) == ("traffic", "digits")

    async def test_every_commit_has_the_next_revision_and_its_documents_share_it(self, store):
        assert (await store.commit([put("a", {"n": 1}), put("b", {"n": 1})])).revision == 1
        assert (await store.commit([put("b", {"n": 2})])).revision == 2
        assert (await store.commit([], [told()])).revision == 3
        assert [(d.key, d.revision) for d in await store.list("traffic")] == [("a", 1), ("b", 2)]
        assert await store.revision() == 3

    async def test_a_change_is_made_at_the_expected_revision_only(self, store):
        await store.commit([put("a", {"n": 1}, ABSENT)])
        await store.commit([put("a", {"n": 2}, 1)])
        for expected, actual in ((ABSENT, 2), (1, 2), (3, 2)):
            with pytest.raises(StoreConflict) as refused:
                await store.commit([put("a", {"n": 9}, expected)])
            conflict = refused.value
            assert (conflict.document_kind, conflict.key, conflict.expected, conflict.actual) == ("traffic", "a", expected, actual)
        with pytest.raises(StoreConflict, match="does not exist"):
            await store.commit([put("none", {"n": 9}, 2)])
        assert (await store.get("traffic", "a")).value == {"n": 2}

    async def test_a_refused_commit_changes_nothing(self, store):
        await store.commit([put("a", {"n": 1}), Change(BLOB, "a", b"1", None)], [told()])
        before = await everything(store)
        changes = [put("b", {}), Change(BLOB, "a", b"2", None), put("c", {}, None, "other"), put("a", {"n": 2}, ABSENT)]
        with pytest.raises(StoreConflict):
            await store.commit(changes, [told()])
        assert await everything(store) == before
        assert await store.get_blob("a") == b"1"

    async def test_deleted_is_as_if_never_there_but_for_those_who_follow(self, store):
        await store.commit([put("a", {"n": 1}), put("b", {"n": 1})])
        await store.commit([put("a", None, 1)])
        assert await store.get("traffic", "a") is None
        assert [d.key for d in await store.list("traffic")] == ["b"]
        assert [(d.key, d.value, d.revision) for d in await store.list_since(1)] == [("a", None, 2)]
        with pytest.raises(StoreConflict):
            await store.commit([put("a", {}, 2)])
        await store.commit([put("a", {"n": 3}, ABSENT)])
        assert (await store.get("traffic", "a")).revision == 3

    async def test_deleting_what_is_not_there_leaves_no_trace(self, store):
        await store.commit([put("a", None)])
        assert await store.list_since(0) == []
        await store.commit([put("b", {})])
        await store.commit([put("b", None)])
        await store.commit([put("b", None)])
        assert [(d.key, d.revision) for d in await store.list_since(0)] == [("b", 3)]

    async def test_list_since_has_each_document_once_with_its_newest_state(self, store):
        for n in range(1, 4):
            await store.commit([put("a", {"n": n})])
        await store.commit([put("b", {"n": 0}, None, "rollout")])
        assert [(d.kind, d.key, d.value, d.revision) for d in await store.list_since(0)] == [
            ("traffic", "a", {"n": 3}, 3), ("rollout", "b", {"n": 0}, 4)]
        assert [d.key for d in await store.list_since(3)] == ["b"]
        assert await store.list_since(4) == []

    async def test_blobs_change_with_documents(self, store):
        content = bytes(range(256)) * 40
        made = await store.commit([put("a", {}), Change(BLOB, "units", content, ABSENT)])
        assert await store.get_blob("units") == content
        assert [d.key for d in await store.list_since(0)] == ["a"]
        with pytest.raises(StoreConflict):
            await store.commit([Change(BLOB, "units", b"", ABSENT)])
        await store.commit([Change(BLOB, "units", b"", made.revision)])
        assert await store.get_blob("units") == b""
        await store.delete_blob("units")
        assert await store.get_blob("units") is None
        assert (await store.put_blob("units", b"x")).revision == 4

    @pytest.mark.parametrize("changes", [
        [], [put("a", {}), put("a", {})], [put("a", {"x": float("nan")})], [put("a", {"x": float("inf")})], [put("a", {"x": b""})],
        [put("a", {"x": object()})], [Change("traffic", "a", b"", None)], [Change(BLOB, "a", {}, None)], [put("a", {1: 1, "b": 2})],
    ], ids=lambda changes: str(changes)[:60])
    async def test_what_cannot_be_written_is_refused(self, store, changes):
        with pytest.raises(InvalidArgument):
            await store.commit([*changes[:1], *changes[1:]])
        assert await everything(store) == (0, [], [], (0, GENESIS))

    async def test_the_size_of_a_document_is_bounded(self, store):
        with pytest.raises(TooLarge):
            await store.commit([put("a", {"x": "x" * (17 << 20)})])
        assert await store.revision() == 0

    async def test_another_handle_sees_what_was_acknowledged(self, store, other):
        made = await store.commit([put("a", {"n": 1})], [told()])
        assert await everything(other) == await everything(store)
        await other.commit([put("a", {"n": 2}, made.revision)])
        assert (await store.get("traffic", "a")).value == {"n": 2}

    async def test_what_was_acknowledged_is_there_after_a_restart(self, store, opened):
        await store.commit([put("a", {"n": 1}), Change(BLOB, "b", b"2", None)], [told(), told("clear")])
        before = await everything(store)
        await store.close()
        again = await opened()
        assert await everything(again) == before
        assert await again.get_blob("b") == b"2"

    async def test_two_who_count_together_lose_nothing(self, store, other):
        async def count(handle: ConfigStore, times: int) -> int:
            conflicts = 0
            while times:
                found = await handle.get("counter", "n")
                value, expected = (found.content["n"], found.revision) if found else (0, ABSENT)
                try:
                    await handle.commit([put("n", {"n": value + 1}, expected, "counter")], [told()])
                    times -= 1
                except StoreConflict:
                    conflicts += 1
            return conflicts

        await asyncio.gather(count(store, 25), count(other, 25), count(store, 25))
        assert (await store.get("counter", "n")).value == {"n": 75}
        assert await store.revision() == 75
        report = await other.verify_audit()
        assert (report.is_intact, report.n_rows) == (True, 75)

    async def test_wait_returns_at_once_when_there_is_something_newer(self, store):
        await store.commit([put("a", {})])
        assert await store.wait(0, 60) == 1

    async def test_wait_ends_with_its_time(self, store):
        await store.commit([put("a", {})])
        assert await store.wait(1, 0.01) == 1
        assert await store.wait(5, 0) == 1

    async def test_wait_is_woken_by_a_commit(self, store):
        waiters = [asyncio.create_task(store.wait(0, 60)) for _ in range(3)]
        await asyncio.sleep(0)
        await store.commit([put("a", {})])
        # Far below the time between two looks at what others did.
        assert await asyncio.wait_for(asyncio.gather(*waiters), 0.2) == [1, 1, 1]

    async def test_no_commit_slips_between_a_look_and_a_wait(self, store):
        for revision in range(40):
            waiter = asyncio.create_task(store.wait(revision, 60))
            for _ in range(revision % 8):
                await asyncio.sleep(0)
            await store.commit([put("a", {})])
            assert await asyncio.wait_for(waiter, 0.2) == revision + 1

    async def test_wait_sees_the_commit_of_another_process(self, store, other):
        waiter = asyncio.create_task(store.wait(0, 60))
        await asyncio.sleep(0)
        await other.commit([put("a", {})])
        assert await asyncio.wait_for(waiter, 2) == 1

    async def test_a_cancelled_wait_leaves_the_store_usable(self, store):
        waiter = asyncio.create_task(store.wait(0, 60))
        await asyncio.sleep(0)
        waiter.cancel()
        await store.commit([put("a", {})])
        assert await store.wait(0, 1) == 1

    async def test_a_cancelled_commit_happened_whole_or_not_at_all(self, store):
        for n in range(30):
            commit = asyncio.create_task(store.commit([put("a", {"n": n}), put("b", {"n": n})], [told(after={"n": n})]))
            for _ in range(n % 4):
                await asyncio.sleep(0)
            commit.cancel()
            await asyncio.gather(commit, return_exceptions=True)
            documents = await store.list("traffic")
            if not documents:
                continue
            assert len({d.value["n"] for d in documents}) == 1
            rows = await store.audit(0, 1000)
            assert rows[-1]["data"]["after"] == documents[0].value
            assert len(rows) == await store.revision()

    async def test_one_holds_a_lease(self, store, other, clock):
        held = await store.lease("driver", "one", 10)
        assert await other.lease("driver", "two", 10) is None
        assert (await other.lease("judge", "two", 10)).owner == "two"
        clock.advance(9)
        assert await store.lease("driver", "one", 10) == held
        clock.advance(9)
        assert await other.lease("driver", "two", 10) is None

    async def test_tokens_grow_with_every_holder(self, store, other, clock):
        tokens = [(await store.lease("driver", "one", 10)).token]
        clock.advance(11)
        tokens.append((await other.lease("driver", "two", 10)).token)
        clock.advance(11)
        tokens.append((await other.lease("driver", "two", 10)).token)
        await other.release(await other.lease("driver", "two", 10))
        tokens.append((await store.lease("driver", "one", 10)).token)
        assert tokens == sorted(set(tokens))

    async def test_only_the_holder_gives_back(self, store, other, clock):
        old = await store.lease("driver", "one", 10)
        clock.advance(11)
        await other.lease("driver", "two", 10)
        await store.release(old)
        assert await store.lease("driver", "one", 10) is None

    async def test_who_was_replaced_commits_nothing(self, store, other, clock):
        old = await store.lease("driver", "one", 10)
        await store.commit([put("a", {"n": 1})], fence=old)
        clock.advance(11)
        # Expired, and nobody has taken it: whoever held it is still alone.
        await store.commit([put("a", {"n": 2})], fence=old)
        new = await other.lease("driver", "two", 10)
        before = await everything(store)
        with pytest.raises(LeaseLost):
            await store.commit([put("a", {"n": 3})], [told()], fence=old)
        assert await everything(store) == before
        await other.commit([put("a", {"n": 4})], fence=new)
        await other.release(new)
        with pytest.raises(LeaseLost):
            await other.commit([put("a", {"n": 5})], fence=new)

    async def test_a_lease_needs_an_owner_and_a_time(self, store):
        for owner, ttl_s in (("", 1), ("one", 0), ("one", -1)):
            with pytest.raises(InvalidArgument):
                await store.lease("driver", owner, ttl_s)

    async def test_audit_rows_come_with_the_commit_and_make_a_chain(self, store):
        entries = [told(reason="why", before=None, after={"w": 1}), told("clear", evidence={"e": float("inf")}, time_ns=1_500_000)]
        made = await store.commit([put("a", {})], entries)
        rows = await store.audit()
        assert list(made.audit_rows) == rows
        assert [row["type"] for row in rows] == ["dev.headrace.traffic.set", "dev.headrace.traffic.clear"]
        assert rows[0]["data"] == {"actor": "ann", "reason": "why", "before": None, "after": {"w": 1}, "evidence": None}
        assert rows[1]["data"]["evidence"] == {"e": "Infinity"}
        assert rows[1]["time"] == "1970-01-01T00:00:00.001500Z"
        assert [row["sequence"] for row in rows] == ["00000000000000000001", "00000000000000000002"]
        assert [rows[0]["prevhash"], rows[1]["prevhash"]] == [GENESIS, rows[0]["hash"]]
        assert verify_rows(rows, rows[0]["hash"]).is_intact
        assert await store.audit_head() == (2, rows[1]["hash"])

    async def test_audit_is_read_in_pages(self, store):
        for _ in range(5):
            await store.commit([], [told(), told()])
        pages = [await store.audit(after, 4) for after in (0, 4, 8, 10)]
        assert [[int(row["sequence"]) for row in page] for page in pages] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10], []]

    async def test_a_head_that_somebody_kept_is_looked_for(self, store):
        await store.commit([], [told(), told()])
        _, head = await store.audit_head()
        await store.commit([], [told()])
        assert (await store.verify_audit(head)).is_intact
        report = await store.verify_audit("f" * 64)
        assert (report.is_intact, report.first_bad) == (False, 4)

    async def test_nothing_can_be_asked_of_a_closed_store(self, store):
        await store.close()
        await store.close()
        with pytest.raises(HeadraceError):
            await store.revision()
