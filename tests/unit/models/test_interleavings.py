"""Operations and queries that meet while a load or a close is under way. Threads are held at gates; nothing sleeps."""

import asyncio
import gc

import pytest

from serve.errors import InvalidArgument, Unavailable
from serve.models.engine_port import LoadSpec
from serve.types import IndexEntry, VersionState
from tests.unit.models.bench import Bench, run

READY, LOADING, UNLOADING = VersionState.READY, VersionState.LOADING, VersionState.UNLOADING
UNAVAILABLE = VersionState.UNAVAILABLE


async def turns(count: int = 20) -> None:
    """Lets every task go as far as it can without a thread."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_queries_go_on_while_a_load_blocks(bench: Bench) -> None:
    bench.model("m", "1")
    bench.model("other", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        bench.model("m", "2")
        gate = bench.engine.loading("m", "2")
        gate.held = True
        load = asyncio.create_task(bench.manager.load("m"))
        await gate.wait_reached()
        assert await bench.manager.index() == [IndexEntry("m", "1", READY), IndexEntry("m", "2", LOADING), IndexEntry("other", "1", READY)]
        assert bench.manager.describe("m").version == "1"
        assert bench.manager.is_ready("m", "2") is False
        assert bench.manager.server_ready()
        await bench.manager.unload("other")
        assert not load.done()
        gate.opened.set()
        await load
        assert bench.engine.served() == {"m": ["2"]}

    run(bench, scenario)


def test_a_start_that_blocks_is_not_ready_but_serves_what_is_there(bench: Bench) -> None:
    bench.model("fast", "1")
    bench.model("slow", "1")

    async def scenario() -> None:
        gate = bench.engine.loading("slow", "1")
        gate.held = True
        fast_is_there = asyncio.Event()
        start = asyncio.create_task(bench.manager.load_all(progress=lambda _: fast_is_there.set()))
        await fast_is_there.wait()
        assert bench.engine.served() == {"fast": ["1"]}
        assert not bench.manager.server_ready()
        gate.opened.set()
        await start
        assert bench.manager.server_ready()

    run(bench, scenario)


def test_readiness_that_is_not_strict_needs_one_model(bench: Bench) -> None:
    bench.model("fast", "1")
    bench.model("slow", "1")
    bench.build_manager(strict_readiness=False)

    async def scenario() -> None:
        assert not bench.manager.server_ready()
        gate = bench.engine.loading("slow", "1")
        gate.held = True
        fast_is_there = asyncio.Event()
        start = asyncio.create_task(bench.manager.load_all(progress=lambda _: fast_is_there.set()))
        await fast_is_there.wait()
        assert bench.manager.server_ready()
        gate.opened.set()
        await start

    run(bench, scenario)


def test_a_start_that_fails_to_rebuild_what_somebody_loaded_before_leaves_it(bench: Bench) -> None:
    bench.model("m", "1")
    for folder in ("loading", "failed"):
        (bench.state / folder).mkdir(parents=True)

    def fail_the_second_time(spec: LoadSpec) -> None:
        if bench.engine.loaded:
            raise InvalidArgument("no such operator")
        # What the first load was made of is known by now, so the next one finds something new.
        bench.write("m/model.yaml", "instances: 2")

    async def scenario() -> None:
        bench.engine.before_load = fail_the_second_time
        gate = bench.engine.loading("m", "1")
        gate.held = True
        load = asyncio.create_task(bench.manager.load("m"))
        await gate.wait_reached()
        start = asyncio.create_task(bench.manager.load_all())
        gate.opened.set()
        await load
        assert await start == {"m": "failed to load 'm', version 1: no such operator"}
        assert bench.engine.served() == {"m": ["1"]}

    run(bench, scenario)


def test_two_models_load_at_a_time_and_no_more(bench: Bench) -> None:
    names = [f"m{number}" for number in range(6)]
    for name in names:
        bench.model(name, "1", "2", config="version_policy: all")

    async def scenario() -> None:
        gates = [bench.engine.loading(name, "1") for name in names]
        for gate in gates:
            gate.held = True
        start = asyncio.create_task(bench.manager.load_all())
        await bench.engine.wait_begun(2)
        for gate in gates:
            gate.opened.set()
        await start
        assert bench.engine.max_loading == 2

    run(bench, scenario)


def test_an_unload_waits_for_the_load_before_it(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all([])
        gate = bench.engine.loading("m", "1")
        gate.held = True
        load = asyncio.create_task(bench.manager.load("m"))
        await gate.wait_reached()
        unload = asyncio.create_task(bench.manager.unload("m"))
        await turns()
        assert not unload.done()
        gate.opened.set()
        await load
        await unload
        assert bench.engine.served() == {}
        assert await bench.manager.index() == [IndexEntry("m", "1", UNAVAILABLE, "unloaded")]

    run(bench, scenario)


def test_operations_on_a_model_run_in_the_order_of_asking(bench: Bench) -> None:
    bench.model("m", "1", "2", config="version_policy: {specific: [1]}")

    async def scenario() -> None:
        await bench.manager.load_all()
        gate = bench.engine.loading("m", "2")
        gate.held = True
        first = asyncio.create_task(bench.manager.load_version("m", "2"))
        await gate.wait_reached()
        later = [asyncio.create_task(one) for one in (bench.manager.unload("m"), bench.manager.load("m"), bench.manager.unload("m"))]
        gate.opened.set()
        await asyncio.gather(first, *later)
        assert [{name: list(model.versions) for name, model in table.items()} for table in bench.engine.tables] == [
            {"m": []},
            {"m": ["1"]},
            {"m": ["1", "2"]},
            {"m": []},
            {"m": ["1"]},
            {"m": []},
        ]

    run(bench, scenario)


def test_an_unload_unpublishes_first_and_returns_when_it_is_closed(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        gate = bench.engine.closing("m", "1")
        gate.held = True
        unload = asyncio.create_task(bench.manager.unload("m"))
        await gate.wait_reached()
        assert bench.engine.served() == {}
        assert await bench.manager.index() == [IndexEntry("m", "1", UNLOADING)]
        assert bench.manager.is_ready("m") is False
        assert not unload.done()
        gate.opened.set()
        await unload

    run(bench, scenario)


def test_a_load_does_not_wait_for_what_it_replaced_but_the_next_one_does(bench: Bench) -> None:
    bench.model("m", "1")
    bench.model("yardstick", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        gate = bench.engine.closing("m", "1")
        gate.held = True
        bench.write("m/1/model.onnx", "second generation")
        await bench.manager.load("m")
        assert IndexEntry("m", "1", READY) in await bench.manager.index()
        await gate.wait_reached()
        bench.write("m/1/model.onnx", "the third generation")
        third = asyncio.create_task(bench.manager.load("m"))
        for version in ("2", "3"):
            bench.model("yardstick", version)
            await bench.manager.load("yardstick")
        assert [one.spec.name for one in bench.engine.loaded].count("m") == 2, "at most one generation is draining"
        gate.held = False
        gate.opened.set()
        await third
        assert [one.spec.name for one in bench.engine.loaded].count("m") == 3

    run(bench, scenario)


def test_a_slow_close_holds_up_no_other_model(bench: Bench) -> None:
    bench.model("m", "1")
    bench.model("other", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        gate = bench.engine.closing("m", "1")
        gate.held = True
        unload = asyncio.create_task(bench.manager.unload("m"))
        await gate.wait_reached()
        bench.model("other", "2")
        await bench.manager.load("other")
        assert bench.engine.served() == {"other": ["2"]}
        assert not unload.done()
        gate.opened.set()
        await unload

    run(bench, scenario)


@pytest.mark.parametrize("fails", [False, True])
def test_a_cancelled_caller_leaves_a_load_that_is_finished_and_owned(bench: Bench, fails: bool) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all([])
        gate = bench.engine.loading("m", "1")
        gate.held = True
        if fails:
            bench.engine.errors["m", "1"] = InvalidArgument("no such operator")
        load = asyncio.create_task(bench.manager.load("m"))
        await gate.wait_reached()
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        gate.opened.set()
        # Behind the load in the queue of this model, so it sees the load's end.
        await bench.manager.unload("m")
        assert bench.engine.served() == {}
        assert len(bench.engine.loaded) == (0 if fails else 1)

    run(bench, scenario)


def test_closing_waits_for_the_load_under_way_and_refuses_those_that_wait(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.model(name, "1")

    async def scenario() -> None:
        await bench.manager.load_all(["c"])
        gate = bench.engine.loading("a", "1")
        gate.held = True
        load = asyncio.create_task(bench.manager.load("a"))
        await gate.wait_reached()
        waiting = asyncio.create_task(bench.manager.load("a"))
        await turns()
        close = asyncio.create_task(bench.manager.close())
        await turns()
        assert not close.done()
        assert not bench.manager.server_ready()
        gate.opened.set()
        await load
        with pytest.raises(Unavailable, match="the server is shutting down"):
            await waiting
        await close
        with pytest.raises(Unavailable, match="the server is shutting down"):
            await bench.manager.load("b")
        assert bench.engine.served() == {}
        bench.engine.assert_nothing_leaked()
        bench.build_manager()

    run(bench, scenario)


def test_closing_in_the_middle_of_the_start_begins_no_further_load(bench: Bench) -> None:
    for name in ("a", "b", "c", "d"):
        bench.model(name, "1")

    async def scenario() -> None:
        gates = [bench.engine.loading(name, "1") for name in ("a", "b", "c", "d")]
        for gate in gates:
            gate.held = True
        start = asyncio.create_task(bench.manager.load_all())
        await bench.engine.wait_begun(2)
        close = asyncio.create_task(bench.manager.close())
        await turns()
        for gate in gates:
            gate.opened.set()
        await close
        failures = await start
        assert len(failures) == 2
        assert all("the server is shutting down" in failure for failure in failures.values())
        assert len(bench.engine.loaded) == 2
        bench.build_manager()

    run(bench, scenario)


def test_many_clients_at_once_end_with_the_last_word(bench: Bench) -> None:
    names = ["a", "b", "c"]
    for name in names:
        bench.model(name, "1", "2", config="version_policy: all")

    async def client(seed: int) -> None:
        for step in range(12):
            name = names[(seed + step) % 3]
            if (seed * 7 + step) % 3:
                await bench.manager.load(name)
            else:
                await bench.manager.unload(name)

    async def scenario() -> None:
        await bench.manager.load_all()
        await asyncio.gather(*(client(seed) for seed in range(8)))
        for name in names:
            await bench.manager.load(name)
        assert bench.engine.served() == {name: ["1", "2"] for name in names}
        await bench.manager.unload("b")
        assert bench.engine.served() == {"a": ["1", "2"], "c": ["1", "2"]}

    run(bench, scenario)


def test_locks_of_unknown_models_are_forgotten(bench: Bench) -> None:
    async def scenario() -> None:
        await bench.manager.load_all()
        for number in range(50):
            with pytest.raises(Exception, match="failed to poll"):
                await bench.manager.load(f"unknown{number}")
        await turns()
        # Tracebacks of the errors hold on to the frames that hold the locks.
        gc.collect()
        assert len(bench.manager._locks) == 0

    run(bench, scenario)


def test_closing_waits_for_what_a_load_replaced(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        gate = bench.engine.closing("m", "1")
        gate.held = True
        bench.write("m/1/model.onnx", "second generation")
        await bench.manager.load("m")
        await gate.wait_reached()
        close = asyncio.create_task(bench.manager.close())
        await turns()
        assert not close.done()
        gate.opened.set()
        await close
        assert [version.n_closed for version in bench.engine.loaded] == [1, 1]
        assert not [record for record in caplog.records if record.name == "asyncio"], "the event loop has nothing to complain of"
        bench.build_manager()

    run(bench, scenario)
