"""SQLite against the contract of every store, and against a dictionary."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.store.port import Change, ConfigStore, StoreConflict
from serve.store.sqlite import SqliteStore
from tests.unit.store.contract import Clock, StoreContract, told


class TestSqlite(StoreContract):
    async def make(self, folder: Path, clock: Clock) -> ConfigStore:
        return await SqliteStore.open(folder, source="headrace/test", monotonic_ns=clock)


_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["traffic", "rollout"]), st.sampled_from(["a", "b"]),
        st.one_of(st.none(), st.fixed_dictionaries({"n": st.integers(0, 9)})),
        st.one_of(st.none(), st.integers(0, 6)),
    ),
    min_size=1, max_size=3, unique_by=lambda change: change[:2],
)


@settings(max_examples=40, deadline=None)
@given(commits=st.lists(st.tuples(_CHANGES, st.booleans()), max_size=8))
def test_a_store_does_what_a_dictionary_does(commits: list[tuple[list[tuple[Any, ...]], bool]]) -> None:
    """Accepts, refuses and remembers as the obvious model in memory."""

    async def check(folder: Path) -> None:
        store = await SqliteStore.open(folder)
        model: dict[tuple[str, str], tuple[Any, int]] = {}
        revision = n_rows = 0
        for changes, is_audited in commits:
            actual = {(kind, key): at for (kind, key), (value, at) in model.items() if value is not None}
            is_refused = any(expected is not None and expected != actual.get((kind, key), 0) for kind, key, _, expected in changes)
            try:
                await store.commit([Change(*change) for change in changes], [told()] * is_audited)
                assert not is_refused
            except StoreConflict:
                assert is_refused
                continue
            revision += 1
            n_rows += is_audited
            for kind, key, value, _ in changes:
                if value is not None or (kind, key) in actual:
                    model[kind, key] = (value, revision)
        found = {(d.kind, d.key): (d.value, d.revision) for d in await store.list_since(0)}
        report = await store.verify_audit()
        assert (found, await store.revision()) == (model, revision)
        assert (report.is_intact, report.n_rows) == (True, n_rows)
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder)))
