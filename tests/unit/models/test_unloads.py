"""Unloads, and what queries answer."""

import pytest

from serve.errors import Unavailable
from serve.types import IndexEntry, TensorSpec, VersionState
from tests.unit.models.bench import Bench, run

READY, UNAVAILABLE, UNKNOWN = VersionState.READY, VersionState.UNAVAILABLE, VersionState.UNKNOWN


def test_an_unloaded_model_is_known_but_not_available(bench: Bench) -> None:
    bench.model("m", "1")
    bench.model("other", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        await bench.manager.unload("m")
        assert bench.engine.served() == {"other": ["1"]}
        assert await bench.manager.index() == [IndexEntry("m", "1", UNAVAILABLE, "unloaded"), IndexEntry("other", "1", READY)]
        assert bench.manager.is_ready("m") is False
        with pytest.raises(Unavailable) as error:
            bench.manager.describe("m")
        assert str(error.value) == "Request for unknown model: 'm' has no available versions"
        assert bench.manager.statistics("m") == []
        assert bench.manager.server_ready(), "what was unloaded on purpose is not missed"
        await bench.manager.unload("m")
        await bench.manager.load("m")
        assert bench.manager.is_ready("m")

    run(bench, scenario)


def test_the_last_version_taken_away_is_the_model_unloaded(bench: Bench) -> None:
    bench.model("m", "1")
    bench.model("other", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        await bench.manager.unload_version("m", "1")
        assert bench.engine.served() == {"other": ["1"]}
        assert bench.manager.server_ready()

    run(bench, scenario)


def test_a_version_that_fails_to_close_is_logged_and_gone(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        bench.engine.close_error = RuntimeError("stuck")
        await bench.manager.unload("m")
        assert await bench.manager.index() == [IndexEntry("m", "1", UNAVAILABLE, "unloaded")]
        assert "model 'm' version 1 failed to close" in caplog.text

    run(bench, scenario)


def test_description_configuration_and_statistics(bench: Bench) -> None:
    bench.model("b", "1", "10", config="version_policy: all\ninstances: 1\nparameters: {owner: me}")
    bench.model("a", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        description = bench.manager.describe("b")
        assert (description.name, description.version, description.versions) == ("b", "10", ("1", "10"))
        assert description.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
        assert (description.max_batch_size, description.platform) == (64, "onnxruntime_onnx")
        assert [(one.name, one.version) for one in bench.manager.descriptions()] == [("a", "1"), ("b", "1"), ("b", "10")]
        view = bench.manager.config("b", "1")
        assert (view["name"], view["input"][0]["dims"]) == ("b", [3])
        assert view["parameters"]["owner"] == {"string_value": "me"}
        found = [(one.name, one.version) for one in bench.manager.statistics()]
        assert found == [("a", "1"), ("b", "1"), ("b", "10")]
        assert [one.version for one in bench.manager.statistics("b")] == ["1", "10"]
        assert [one.version for one in bench.manager.statistics("b", "10")] == ["10"]

    run(bench, scenario)


def test_the_device_of_the_model_goes_before_the_servers(bench: Bench) -> None:
    bench.model("a", "1", config="device: cpu")
    bench.model("b", "1")
    bench.build_manager(default_device="cuda:1")

    async def scenario() -> None:
        await bench.manager.load_all()
        assert {version.spec.name: version.spec.device for version in bench.engine.loaded} == {"a": "cpu", "b": "cuda:1"}

    run(bench, scenario)


def test_changes_are_told(bench: Bench) -> None:
    bench.model("m", "1")
    seen: list[bool] = []
    bench.build_manager(on_change=lambda: seen.append(bench.manager.server_ready()))

    async def scenario() -> None:
        await bench.manager.load_all()
        await bench.manager.unload("m")
        await bench.manager.load("m")

    run(bench, scenario)
    assert seen[:3] == [True, False, True]
    assert seen[-1] is False


def test_a_label_of_a_version_that_was_never_tried_is_not_ready_rather_than_unknown(bench: Bench) -> None:
    bench.model("m", "1", "2", config="labels: {stable: 1}")

    async def scenario() -> None:
        await bench.manager.load_all([])
        await bench.manager.load_version("m", "2")
        assert bench.manager.is_ready("m", "stable") is False
        with pytest.raises(Unavailable, match="Request for unknown model: 'm' version stable is not at ready state"):
            bench.manager.describe("m", "stable")

    run(bench, scenario)
