"""Loads that fail: what served before goes on, and the error says why."""

from collections.abc import Callable

import pytest

from serve.errors import HeadraceError, InternalError, InvalidArgument, NotFound, Unavailable
from serve.types import IndexEntry, VersionState
from tests.unit.models.bench import Bench, refused, run

READY, UNAVAILABLE, UNKNOWN = VersionState.READY, VersionState.UNAVAILABLE, VersionState.UNKNOWN


def _break_graph(bench: Bench) -> None:
    bench.model("m", "2")
    bench.engine.errors["m", "2"] = InvalidArgument("no such operator")


def _crash_engine(bench: Bench) -> None:
    bench.model("m", "2")
    bench.engine.errors["m", "2"] = RuntimeError("segment 7")


def _replace_by_broken(bench: Bench) -> None:
    bench.write("m/1/model.onnx", "broken")
    bench.engine.errors["m", "1"] = Unavailable("out of GPU memory")


def _break_second_of_two(bench: Bench) -> None:
    bench.model("m", "2", "3", config="version_policy: all")
    bench.engine.errors["m", "3"] = InvalidArgument("no such operator")


def _break_yaml(bench: Bench) -> None:
    bench.write("m/model.yaml", "instance: 2")


def _mislabel(bench: Bench) -> None:
    bench.write("m/model.yaml", "labels: {stable: 5}")


def _ask_for_absent(bench: Bench) -> None:
    bench.write("m/model.yaml", "version_policy: {specific: [1, 5]}")


def _remove_versions(bench: Bench) -> None:
    bench.write("m/model.yaml", "")
    bench.remove("m/1")
    (bench.repository / "m" / "02").mkdir()


def _remove_model(bench: Bench) -> None:
    bench.remove("m")


def _mismatch_graph(bench: Bench) -> None:
    bench.write("m/model.yaml", "inputs: [{name: x, datatype: FP16, shape: [-1, 3]}]")


def _duplicate(bench: Bench) -> None:
    bench.write_outside("m/1/model.onnx", "same name")


@pytest.mark.parametrize(
    ("spoil", "kind", "text"),
    [
        (_break_graph, InvalidArgument, "failed to load 'm', version 2: no such operator"),
        (_crash_engine, InternalError, "failed to load 'm', version 2: segment 7"),
        (_replace_by_broken, Unavailable, "failed to load 'm', version 1: out of GPU memory"),
        (_break_second_of_two, InvalidArgument, "failed to load 'm', version 3: no such operator"),
        (_break_yaml, InvalidArgument, "failed to load 'm', {r}/m/model.yaml: unknown key 'instance'; allowed: description,"),
        (_mislabel, InvalidArgument, "failed to load 'm', version 5: label 'stable' names it, but it is not in {r}/m"),
        (_ask_for_absent, InvalidArgument, "failed to load 'm', version 5: version_policy names it, but it is not in {r}/m"),
        (
            _remove_versions,
            InvalidArgument,
            "failed to load 'm', no version in {r}/m: expected {r}/m/<version>/model.onnx; 02 is not a positive integer without",
        ),
        (_remove_model, NotFound, "failed to load 'm', failed to poll from model repository"),
        (_mismatch_graph, InvalidArgument, "failed to load 'm', version 1: {r}/m/model.yaml: inputs 'x': datatype FP16, but the model has"),
        (_duplicate, NotFound, "failed to load 'm', failed to poll from model repository: model 'm' is in "),
    ],
)
def test_a_failed_load_leaves_what_served_before_and_says_why(
    bench: Bench, spoil: Callable[[Bench], None], kind: type[HeadraceError], text: str
) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        before = bench.engine.table
        spoil(bench)
        assert (await refused(bench.manager.load("m"), kind)).startswith(text.format(r=bench.repository))
        assert bench.engine.table is before, "nothing was published"
        assert bench.manager.is_ready("m", "1")
        assert bench.manager.server_ready()
        assert IndexEntry("m", "1", READY) in await bench.manager.index()

    run(bench, scenario)


def test_versions_that_were_built_for_nothing_are_closed_and_say_so(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        _break_second_of_two(bench)
        await refused(bench.manager.load("m"), InvalidArgument)
        assert await bench.manager.index() == [
            IndexEntry("m", "1", READY),
            IndexEntry("m", "2", UNAVAILABLE, "not kept, because version 3 failed to load"),
            IndexEntry("m", "3", UNAVAILABLE, "no such operator"),
        ]

    run(bench, scenario)


def test_a_table_that_cannot_be_published_changes_nothing(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        bench.model("m", "2")
        bench.engine.publish_error = MemoryError("no table")
        assert await refused(bench.manager.load("m"), InternalError) == "failed to load 'm', cannot publish: no table"
        bench.engine.publish_error = None
        assert await bench.manager.index() == [IndexEntry("m", "1", READY), IndexEntry("m", "2", UNAVAILABLE, "it could not be published")]
        await bench.manager.load("m")
        assert bench.engine.served() == {"m": ["2"]}

    run(bench, scenario)


def test_a_bad_override_is_the_callers_fault(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        text = await refused(bench.manager.load("m", "{"), InvalidArgument)
        assert text.startswith("failed to load 'm', parameter 'config': not a model configuration in JSON")

    run(bench, scenario)


def test_models_that_nobody_knows(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        manager = bench.manager
        assert await refused(manager.load("x"), NotFound) == "failed to load 'x', failed to poll from model repository"
        assert await refused(manager.load_version("x", "1"), NotFound) == "failed to load 'x', failed to poll from model repository"
        assert await refused(manager.load_version("m", "9"), NotFound) == f"failed to load 'm', version 9 is not in {bench.repository}/m"
        unknown = "Request for unknown model: 'x' is not found"
        assert await refused(manager.unload("x"), NotFound) == unknown
        assert await refused(manager.unload_version("x", "1"), NotFound) == unknown
        for query in (manager.describe, manager.config, manager.is_ready, manager.statistics):
            with pytest.raises(NotFound) as error:
                query("x", "")
            assert str(error.value) == unknown
            for version in ("9", "canary"):
                with pytest.raises(NotFound) as error:
                    query("m", version)
                assert str(error.value) == f"Request for unknown model: 'm' version {version} is not found"
        assert await manager.index() == [IndexEntry("m", "1", READY)], "asking for it does not make it known"

    run(bench, scenario)
