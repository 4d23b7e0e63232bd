"""Snapshots of the model table: what is found in them, and that they live exactly as long as anybody may look at them."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from serve._core.batcher import InstancePool
from serve._core.engine import NativeVersion
from serve._core.model_table import ModelTable, ReaderHarness
from serve._core.runner import live_objects
from serve._core.tensors import KINDS
from tests.core import onnx_models

N_READERS = 3


@pytest.fixture(scope="module")
def make_version(tmp_path_factory: pytest.TempPathFactory) -> Any:
    session = onnx_models.session(onnx_models.identity(tmp_path_factory.mktemp("model") / "model.onnx"))
    pool = InstancePool(1)
    return lambda model, number: NativeVersion(session, pool, model, number, inputs=session.inputs, outputs=session.outputs,
                                               max_batch_size=4, instances=1)


def n_versions() -> int:
    """Versions that are alive: each of them has one runner."""
    return live_objects()["runners"]


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(models=st.dictionaries(names, st.dictionaries(names, st.sampled_from(["1", "2", "3"]), max_size=4), max_size=30), absent=names)
def test_lookups_are_a_dictionarys(make_version: Any, models: dict[str, dict[str, str]], absent: str) -> None:
    table, reader_of = ModelTable(), {}
    published = {name: ({key: make_version(name, number) for key, number in keys.items()}, None, None) for name, keys in models.items()}
    for name, (keys, _, _) in published.items():
        published[name] = (keys, next(iter(keys.values()), None), None)
    assert table.publish(published) == 1
    reader_of[0] = reader = ReaderHarness(table, 0)
    assert reader.begin_turn() == 1
    for name, keys in models.items():
        raw = name.encode()
        for key, number in keys.items():
            assert reader.find(raw, key.encode()) == (raw, number.encode())
        if keys:
            assert reader.find(raw) == (raw, next(iter(keys.values())).encode())
            if absent not in keys:
                kind, text = reader.find(raw, absent.encode())
                assert kind == KINDS["NOT_FOUND"]
                assert text == f"Request for unknown model: '{name}' version {absent} is not found"
        else:
            assert reader.find(raw) == (KINDS["UNAVAILABLE"], f"Request for unknown model: '{name}' has no available versions")
    if absent not in models:
        assert reader.find(absent.encode()) == (KINDS["NOT_FOUND"], f"Request for unknown model: '{absent}' is not found")
    reader.end_turn()
    reader.close()


def test_a_model_without_a_default_wants_a_number(make_version: Any) -> None:
    table = ModelTable()
    table.publish({"m": ({"2": make_version("m", "2")}, None, None)})
    reader = ReaderHarness(table, 0)
    reader.begin_turn()
    assert reader.find(b"m", b"2") == (b"m", b"2")
    assert reader.find(b"m") == (KINDS["UNAVAILABLE"], "Request for unknown model: 'm' has no default version")
    reader.end_turn()
    reader.close()


def test_the_default_is_kept_alive_even_if_no_key_names_it(make_version: Any) -> None:
    table = ModelTable()
    table.publish({"m": ({}, make_version("m", "9"), None)})
    before = n_versions()
    table.publish({})
    assert n_versions() == before - 1


def test_before_anything_is_published_another_try_is_worth_it() -> None:
    reader = ReaderHarness(ModelTable(), 0)
    reader.begin_turn()
    assert reader.find(b"m") == (KINDS["UNAVAILABLE"], "the server is starting; try again")
    reader.end_turn()
    reader.close()


def test_long_and_hostile_names_only_shorten_the_text(make_version: Any) -> None:
    table = ModelTable()
    table.publish({})
    reader = ReaderHarness(table, 0)
    reader.begin_turn()
    kind, text = reader.find(b"\xff%s%n" * 1000)
    assert kind == KINDS["NOT_FOUND"]
    assert len(text) < 300
    reader.end_turn()
    reader.close()


def test_what_is_not_a_version_changes_nothing(make_version: Any) -> None:
    table = ModelTable()
    table.publish({"m": ({"1": make_version("m", "1")}, None, None)})
    with pytest.raises(TypeError):
        table.publish({"m": ({"1": object()}, None, None)})
    assert table.generation == 1
    reader = ReaderHarness(table, 0)
    reader.begin_turn()
    assert reader.find(b"m", b"1") == (b"m", b"1")
    reader.end_turn()
    reader.close()


def test_more_readers_than_there_is_room_for_are_refused() -> None:
    table = ModelTable()
    readers = [ReaderHarness(table, i) for i in range(16)]
    with pytest.raises(ValueError, match="17 I/O threads; at most 16"):
        ReaderHarness(table, 0)
    readers[0].close()


class Reclamation(RuleBasedStateMachine):
    """Readers in and out of turns, requests that outlive them, publications in between. Each generation has one version of its own."""

    make: Any

    @initialize()
    def build(self) -> None:
        self.base = n_versions()
        self.table = ModelTable()
        self.readers = [ReaderHarness(self.table, i) for i in range(N_READERS)]
        self.seen: list[int | None] = [None] * N_READERS           # generation of the turn
        self.entered = [0] * N_READERS                             # turns, ever
        self.pins: list[tuple[int, int, int]] = []                 # (reader, generation, handle)
        self.blockers: dict[int, set[tuple[int, int]]] = {}        # retired generation -> turns that were open at the swap
        self.generation = 0

    @rule()
    def publish(self) -> None:
        blockers = {(i, self.entered[i]) for i in range(N_READERS) if self.seen[i] is not None}
        self.blockers[self.generation] = blockers
        self.generation = self.table.publish({"m": ({"1": type(self).make("m", "1")}, None, None)})
        self.expect()

    @rule(i=st.integers(0, N_READERS - 1))
    def turn(self, i: int) -> None:
        if self.seen[i] is None:
            self.entered[i] += 1
            self.seen[i] = self.readers[i].begin_turn()
            assert self.seen[i] == self.generation
        else:
            self.seen[i] = None
            self.readers[i].end_turn()

    @rule(i=st.integers(0, N_READERS - 1))
    def pin(self, i: int) -> None:
        generation = self.seen[i]
        if generation is not None:
            self.pins.append((i, generation, self.readers[i].pin()))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def drop(self, data: Any) -> None:
        i, _, handle = self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))
        self.readers[i].drop(handle)

    @rule()
    def reclaim(self) -> None:
        n_left = self.table.reclaim()
        assert n_left == len(self.expect())

    def expect(self) -> set[int]:
        """Retired generations that must still be there after a reclaim, and no other."""
        open_turns = {(i, self.entered[i]) for i in range(N_READERS) if self.seen[i] is not None}
        held = {generation for _, generation, _ in self.pins}
        self.blockers = {g: turns for g, turns in self.blockers.items() if turns & open_turns or g in held}
        # The first generation, 0, is empty: no version of its own.
        assert n_versions() - self.base == len([g for g in {*self.blockers, self.generation} if g])
        return set(self.blockers)

    @invariant()
    def those_who_look_see_a_live_version(self) -> None:
        for reader, seen in zip(getattr(self, "readers", []), getattr(self, "seen", []), strict=True):
            if seen:
                assert reader.find(b"m", b"1") == (b"m", b"1")

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        for i, _, handle in self.pins:
            self.readers[i].drop(handle)
        for i in range(N_READERS):
            if self.seen[i] is not None:
                self.readers[i].end_turn()
        assert self.table.reclaim() == 0
        self.readers[0].close()
        del self.table, self.readers
        assert n_versions() == self.base


def test_snapshots_live_exactly_as_long_as_they_can_be_seen(make_version: Any) -> None:
    Reclamation.make = staticmethod(make_version)
    run_state_machine_as_test(Reclamation, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
