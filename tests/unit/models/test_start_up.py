"""The start-up set, readiness, and versions that killed a worker."""

import pathlib

import pytest

from serve.errors import ConfigurationError, InvalidArgument, Unavailable
from serve.models.crash_marks import CrashMarks
from serve.models.lifecycle import Progress
from serve.types import IndexEntry, VersionState
from tests.unit.models.bench import Bench, refused, run

READY, UNAVAILABLE, UNKNOWN = VersionState.READY, VersionState.UNAVAILABLE, VersionState.UNKNOWN


def test_the_start_up_set_is_loaded_and_then_the_server_is_ready(bench: Bench) -> None:
    bench.model("a", "1", "2")
    bench.model("b", "7", config="version_policy: all")
    seen: list[Progress] = []

    async def scenario() -> None:
        assert not bench.manager.server_ready()
        assert await bench.manager.load_all(progress=seen.append) == {}
        assert bench.manager.server_ready()
        assert bench.engine.served() == {"a": ["2"], "b": ["7"]}
        assert sorted((one.model, one.n_total, one.failure) for one in seen) == [("a", 2, ""), ("b", 2, "")]
        assert [one.n_done for one in seen] == [1, 2]

    run(bench, scenario)


def test_only_named_models_are_loaded(bench: Bench) -> None:
    bench.model("a", "1")
    bench.model("b", "1")

    async def scenario() -> None:
        text = await refused(bench.manager.load_all(["c"]), ConfigurationError)
        assert text == "no model 'c' in the repository; it has a, b"
        await bench.manager.load_all(["b"])
        assert bench.engine.served() == {"b": ["1"]}
        assert bench.manager.server_ready()
        assert await bench.manager.index() == [IndexEntry("a", "", UNKNOWN), IndexEntry("b", "1", READY)]

    run(bench, scenario)


def test_an_empty_server_is_not_ready(bench: Bench) -> None:
    async def scenario() -> None:
        assert await bench.manager.load_all() == {}
        assert not bench.manager.server_ready()
        bench.model("late", "1")
        await bench.manager.load("late")
        assert bench.manager.server_ready()

    run(bench, scenario)


def test_a_broken_repository_stops_the_start(bench: Bench) -> None:
    bench.model("not a name", "1")

    async def scenario() -> None:
        assert "'not a name' cannot be a model's name" in await refused(bench.manager.load_all(), ConfigurationError)

    run(bench, scenario)


@pytest.mark.parametrize("strict", [True, False])
def test_readiness_with_a_model_that_fails(bench: Bench, strict: bool) -> None:
    bench.model("good", "1")
    bench.model("bad", "1")
    bench.engine.errors["bad", "1"] = InvalidArgument("no such operator")
    bench.build_manager(strict_readiness=strict)

    async def scenario() -> None:
        assert await bench.manager.load_all() == {"bad": "failed to load 'bad', version 1: no such operator"}
        assert bench.manager.server_ready() is not strict
        assert await bench.manager.index() == [IndexEntry("bad", "1", UNAVAILABLE, "no such operator"), IndexEntry("good", "1", READY)]
        assert await bench.manager.index(ready_only=True) == [IndexEntry("good", "1", READY)]
        # The operator gives up on it, or repairs it: either way the server becomes ready.
        await bench.manager.unload("bad")
        assert bench.manager.server_ready()

    run(bench, scenario)


def test_a_model_that_is_repaired_makes_the_server_ready(bench: Bench) -> None:
    bench.model("m", "1", config="instances: none")

    async def scenario() -> None:
        [failure] = (await bench.manager.load_all()).values()
        assert failure.startswith(f"failed to load 'm', {bench.repository}/m/model.yaml: instances = ")
        [entry] = await bench.manager.index()
        assert (entry.version, entry.state) == ("1", UNAVAILABLE)
        assert "instances = " in entry.reason
        bench.write("m/model.yaml", "instances: 1")
        await bench.manager.load("m")
        assert bench.manager.server_ready()

    run(bench, scenario)


def test_at_the_start_versions_do_not_depend_on_each_other(bench: Bench) -> None:
    bench.model("m", "1", "2", config="version_policy: all\nlabels: {stable: 1}")
    bench.engine.errors["m", "2"] = InvalidArgument("bad graph")

    async def scenario() -> None:
        assert await bench.manager.load_all() == {"m": "failed to load 'm', version 2: bad graph"}
        assert bench.engine.served() == {"m": ["1"]}
        assert bench.manager.is_ready("m")
        assert not bench.manager.server_ready()

    run(bench, scenario)


def test_a_label_without_its_version_keeps_the_server_from_being_ready(bench: Bench) -> None:
    bench.model("m", "1", config="labels: {canary: 9}")

    async def scenario() -> None:
        text = f"failed to load 'm', version 9: label 'canary' names it, but it is not in {bench.repository}/m"
        assert await bench.manager.load_all() == {"m": text}
        assert bench.engine.served() == {"m": ["1"]}
        assert bench.manager.is_ready("m")
        assert bench.manager.is_ready("m", "canary") is False
        assert not bench.manager.server_ready()

    run(bench, scenario)


def test_no_other_version_stands_in_for_stable(bench: Bench) -> None:
    bench.model("m", "1", "2", config="labels: {stable: 1}")
    bench.engine.errors["m", "1"] = InvalidArgument("bad graph")

    async def scenario() -> None:
        await bench.manager.load_all()
        assert bench.engine.table["m"].default_version == ""
        assert bench.engine.table["m"].labels == {}
        assert not bench.manager.is_ready("m")
        with pytest.raises(Unavailable, match="Request for unknown model: 'm' version 1 is not at ready state"):
            bench.manager.describe("m")
        assert bench.manager.is_ready("m", "2")

    run(bench, scenario)


def test_no_version_on_disk_at_the_start(bench: Bench) -> None:
    bench.write("m/model.yaml", "instances: 1")

    async def scenario() -> None:
        [failure] = (await bench.manager.load_all()).values()
        assert failure.startswith("failed to load 'm', no version in ")
        assert await bench.manager.index() == [IndexEntry("m", "", UNAVAILABLE, failure.removeprefix("failed to load 'm', "))]

    run(bench, scenario)


def test_a_state_directory_is_made(tmp_path: pathlib.Path, bench: Bench) -> None:
    assert not bench.state.exists()
    bench.model("m", "1")
    run(bench, bench.manager.load_all)
    assert (bench.state / "failed").is_dir()


def crashed(bench: Bench, *marks: str) -> None:
    for mark in marks:
        (bench.state / "loading").mkdir(parents=True, exist_ok=True)
        (bench.state / "loading" / f"{mark}@99").touch()


def test_the_version_that_killed_the_worker_is_set_aside_until_asked_for(bench: Bench) -> None:
    bench.model("m", "1", "2")
    crashed(bench, "m@2")

    async def scenario() -> None:
        assert await bench.manager.load_all() == {"m": "failed to load 'm', version 2: the worker died while loading it"}
        # The one that served before the crash serves again.
        assert bench.engine.served() == {"m": ["1"]}
        assert bench.manager.server_ready()
        assert await bench.manager.index() == [
            IndexEntry("m", "1", READY),
            IndexEntry("m", "2", UNAVAILABLE, "the worker died while loading it"),
        ]
        await bench.manager.load("m")
        assert bench.engine.served() == {"m": ["2"]}
        assert CrashMarks(bench.state).failed("m") == frozenset()

    run(bench, scenario)


def test_a_model_whose_only_version_killed_the_worker(bench: Bench) -> None:
    bench.model("m", "1")
    crashed(bench, "m@1")

    async def scenario() -> None:
        assert await bench.manager.load_all() == {"m": "failed to load 'm', version 1: the worker died while loading it"}
        assert bench.engine.loaded == []
        assert not bench.manager.server_ready()
        await bench.manager.load_version("m", "1")
        assert bench.engine.served() == {"m": ["1"]}
        assert CrashMarks(bench.state).failed("m") == frozenset()

    run(bench, scenario)


def test_a_stable_version_that_killed_the_worker_is_missed(bench: Bench) -> None:
    bench.model("m", "1", "2", config="labels: {stable: 1}")
    crashed(bench, "m@1")

    async def scenario() -> None:
        await bench.manager.load_all()
        assert bench.engine.served() == {"m": ["2"]}
        assert not bench.manager.server_ready()

    run(bench, scenario)


def test_suspects_are_loaded_alone_and_last(bench: Bench) -> None:
    for name in ("a", "b", "c", "d"):
        bench.model(name, "1")
    crashed(bench, "a@1", "b@1")
    order: list[tuple[str, int]] = []
    bench.engine.before_load = lambda spec: order.append((spec.name, bench.engine.n_loading))

    async def scenario() -> None:
        assert await bench.manager.load_all() == {}
        assert sorted(name for name, _ in order[:2]) == ["c", "d"]
        assert order[2:] == [("a", 1), ("b", 1)]

    run(bench, scenario)


def test_a_version_is_marked_while_it_loads(bench: Bench) -> None:
    bench.model("m", "1")
    marked: list[list[str]] = []
    bench.engine.before_load = lambda _: marked.append([path.name for path in (bench.state / "loading").iterdir()])

    async def scenario() -> None:
        await bench.manager.load_all()
        [[mark]] = marked
        assert mark.startswith("m@1@")
        assert list((bench.state / "loading").iterdir()) == []

    run(bench, scenario)


def test_without_a_mark_nothing_is_loaded(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all([])
        (bench.state / "loading").rmdir()
        text = await refused(bench.manager.load("m"), Unavailable)
        assert text.startswith("failed to load 'm', version 1: cannot write the crash mark in ")
        assert bench.engine.loaded == []

    run(bench, scenario)
