"""What a load picks up from disk and what it keeps."""

import pytest

from serve.errors import Conflict, InvalidArgument, NotFound, Unavailable
from serve.types import IndexEntry, VersionState
from tests.unit.models.bench import Bench, refused, run

READY, UNAVAILABLE, UNKNOWN = VersionState.READY, VersionState.UNAVAILABLE, VersionState.UNKNOWN


def test_a_load_picks_up_what_is_on_disk(bench: Bench) -> None:
    bench.model("m", "1", config="version_policy: all")

    async def scenario() -> None:
        await bench.manager.load_all()
        [first] = bench.engine.loaded
        bench.model("m", "2")
        await bench.manager.load("m")
        assert bench.engine.served() == {"m": ["1", "2"]}
        assert bench.engine.loaded[0] is first
        assert len(bench.engine.loaded) == 2, "an unchanged version is kept"
        bench.remove("m/1")
        await bench.manager.load("m")
        assert bench.engine.served() == {"m": ["2"]}
        await bench.settled()
        assert await bench.manager.index() == [IndexEntry("m", "1", UNAVAILABLE, "unloaded"), IndexEntry("m", "2", READY)]
        await bench.manager.load("m")
        assert await bench.manager.index() == [IndexEntry("m", "2", READY)], "what was removed long ago is forgotten"

    run(bench, scenario)


def test_changed_content_replaces_a_version_in_place(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        bench.write("m/1/model.onnx", "other content")
        await bench.manager.load("m")
        [version] = bench.engine.table["m"].versions.values()
        assert version.statistics().inference_count == len("other content")
        await bench.settled()
        assert bench.engine.loaded[0].n_closed == 1

    run(bench, scenario)


@pytest.mark.parametrize(
    ("config", "n_loads"),
    [
        ("description: new", 1),
        ("labels: {stable: 1}", 1),
        ("version_policy: all", 1),
        ("parameters: {a: b}", 1),
        ("max_batch_size: 2", 2),
        ("class_labels: {y: [a, b]}", 2),
        ("recording: {sampling: 0.5}", 2),
        ("provenance: {git_revision: abc}", 2),
    ],
)
def test_only_settings_that_a_version_depends_on_rebuild_it(bench: Bench, config: str, n_loads: int) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        bench.write("m/model.yaml", config)
        await bench.manager.load("m")
        assert len(bench.engine.loaded) == n_loads
        # Kept or rebuilt, clients read the new configuration.
        view = bench.manager.config("m")
        said = {key: value for key, value in view["parameters"].items() if not key.startswith("headrace.")}
        assert said == ({"a": {"string_value": "b"}} if "parameters" in config else {})
        assert view["version_policy"] == ({"all": {}} if "policy" in config else {"latest": {"num_versions": 1}})

    run(bench, scenario)


def test_the_digest_is_that_of_what_was_loaded(bench: Bench) -> None:
    bench.model("m", "1", config="class_labels: {y: names.txt}\nprovenance: {git_revision: abc}")
    bench.write("m/names.txt", "a\n")
    digests: list[str] = []

    async def scenario() -> None:
        await bench.manager.load_all()
        for path, text in (("m/names.txt", "b\n"), ("m/1/tests/case.json", "{}"), ("m/1/weights.bin", "w"), ("m/1/baseline.json", "{}")):
            digests.append(bench.manager.describe("m").digest)
            bench.write(path, text)
            assert bench.manager.describe("m").digest == digests[-1]
            await bench.manager.load("m")
        digests.append(bench.manager.describe("m").digest)
        assert [version.spec.digest for version in bench.engine.loaded] == digests
        view = bench.manager.config("m")["parameters"]
        assert view == {"headrace.digest": {"string_value": digests[-1]}, "headrace.provenance.git_revision": {"string_value": "abc"}}

    run(bench, scenario)
    assert len(set(digests)) == 4
    assert digests[-1] == digests[-2]       # a baseline names the digest, so it is no part of it


def test_files_that_change_while_they_are_loaded_are_refused(bench: Bench) -> None:
    bench.model("m", "1", config="version_policy: all")

    async def scenario() -> None:
        await bench.manager.load_all()
        bench.model("m", "2")
        bench.engine.before_load = lambda _: bench.write("m/2/model.onnx", "half of a new one")
        text = await refused(bench.manager.load("m"), Unavailable)
        assert text == "failed to load 'm', version 2: the files of version 2 were changed while it was loaded; load it again"
        assert bench.engine.served() == {"m": ["1"]}

    run(bench, scenario)


def test_new_label_files_rebuild(bench: Bench) -> None:
    bench.model("m", "1", config="class_labels: {y: names.txt}")
    bench.write("m/names.txt", "a\nb\n")

    async def scenario() -> None:
        await bench.manager.load_all()
        bench.write("m/names.txt", "a\nc\n")
        await bench.manager.load("m")
        assert [version.spec.class_labels for version in bench.engine.loaded] == [{"y": ("a", "b")}, {"y": ("a", "c")}]

    run(bench, scenario)


def test_labels_and_default_version(bench: Bench) -> None:
    bench.model("m", "1", "2", "3", config="labels: {stable: 1, canary: 3}")

    async def scenario() -> None:
        await bench.manager.load_all()
        published = bench.engine.table["m"]
        assert (list(published.versions), published.labels, published.default_version) == (["1", "3"], {"stable": "1", "canary": "3"}, "1")
        assert bench.manager.describe("m").version == "1"
        assert bench.manager.describe("m", "canary").version == "3"
        bench.write("m/model.yaml", "labels: {stable: 3}")
        await bench.manager.load("m")
        assert (bench.engine.served(), bench.engine.table["m"].default_version) == ({"m": ["3"]}, "3")
        bench.write("m/model.yaml", "version_policy: {latest: 2}")
        await bench.manager.load("m")
        assert bench.engine.table["m"].default_version == "3", "the latest ready version"

    run(bench, scenario)


def test_pinned_versions_stay_whatever_the_policy(bench: Bench) -> None:
    bench.model("m", "1", "2", "3")
    bench.pins["m"] = {"1", "9"}

    async def scenario() -> None:
        assert await bench.manager.load_all() == {
            "m": f"failed to load 'm', version 9: a routing plan names it, but it is not in {bench.repository}/m"
        }
        assert bench.engine.served() == {"m": ["1", "3"]}
        assert bench.manager.server_ready()
        bench.remove("m/1")
        await bench.manager.load("m")
        assert bench.engine.served() == {"m": ["1", "3"]}, "gone from disk, but in memory and wanted"
        bench.pins["m"] = set()
        await bench.manager.load("m")
        assert bench.engine.served() == {"m": ["3"]}

    run(bench, scenario)


def test_an_override_replaces_the_configuration_until_the_next_load(bench: Bench) -> None:
    bench.model("m", "1", "2", config="max_batch_size: 8\nlabels: {stable: 2}")

    async def scenario() -> None:
        await bench.manager.load_all()
        await bench.manager.load("m", '{"max_batch_size": 4, "version_policy": {"all": {}}}')
        assert bench.engine.served() == {"m": ["1", "2"]}
        view = bench.manager.config("m")
        assert (view["max_batch_size"], view["version_policy"]) == (4, {"all": {}})
        assert bench.engine.table["m"].labels == {"stable": "2"}
        await bench.manager.load("m")
        assert bench.engine.served() == {"m": ["2"]}
        assert bench.manager.config("m")["max_batch_size"] == 8

    run(bench, scenario)


def test_a_version_is_loaded_beside_the_others_and_taken_away_again(bench: Bench) -> None:
    bench.model("m", "1", "2", config="labels: {stable: 1}\nversion_policy: {specific: [1]}")

    async def scenario() -> None:
        await bench.manager.load_all()
        await bench.manager.load_version("m", "2")
        assert bench.engine.served() == {"m": ["1", "2"]}
        bench.write("m/model.yaml", "labels: {stable: 2}")
        await bench.manager.load_version("m", "2")
        assert bench.engine.table["m"].default_version == "1", "labels move with a load of the model only"
        assert bench.manager.describe("m").versions == ("1", "2")
        await bench.manager.load_version("m", "2")
        assert len(bench.engine.loaded) == 2, "it serves already"
        await bench.manager.unload_version("m", "2")
        assert bench.engine.served() == {"m": ["1"]}
        assert await bench.manager.index() == [IndexEntry("m", "1", READY), IndexEntry("m", "2", UNAVAILABLE, "unloaded")]
        with pytest.raises(Unavailable) as error:
            bench.manager.describe("m", "2")
        assert str(error.value) == "Request for unknown model: 'm' version 2 is not at ready state"
        assert bench.manager.is_ready("m", "2") is False
        assert bench.manager.server_ready()

    run(bench, scenario)


def test_a_version_that_fails_leaves_the_others(bench: Bench) -> None:
    bench.model("m", "1")

    async def scenario() -> None:
        await bench.manager.load_all()
        bench.model("m", "2")
        bench.engine.errors["m", "2"] = InvalidArgument("no such operator")
        assert await refused(bench.manager.load_version("m", "2"), InvalidArgument) == "failed to load 'm', version 2: no such operator"
        assert bench.engine.served() == {"m": ["1"]}
        bench.write("m/model.yaml", "instance: 2")
        assert "unknown key 'instance'" in await refused(bench.manager.load_version("m", "2"), InvalidArgument)

    run(bench, scenario)


def test_a_version_of_a_model_that_was_never_loaded(bench: Bench) -> None:
    bench.model("m", "1", "2", config="labels: {stable: 1}")

    async def scenario() -> None:
        await bench.manager.load_all([])
        await bench.manager.load_version("m", "1")
        assert bench.engine.served() == {"m": ["1"]}
        assert bench.engine.table["m"].labels == {"stable": "1"}

    run(bench, scenario)


def test_a_version_that_somebody_names_is_not_taken_away(bench: Bench) -> None:
    bench.model("m", "1", "2", "3", config="labels: {stable: 1}\nversion_policy: all")
    bench.pins["m"] = {"2"}

    async def scenario() -> None:
        await bench.manager.load_all()
        for version, holder in (("1", "label 'stable'"), ("stable", "label 'stable'"), ("2", "a routing plan")):
            number = "1" if version == "stable" else version
            text = await refused(bench.manager.unload_version("m", version), Conflict)
            assert text == f"failed to unload 'm', version {number}: {holder} names it; point that elsewhere first"
        text = await refused(bench.manager.unload_version("m", "9"), NotFound)
        assert text == "Request for unknown model: 'm' version 9 is not found"
        await bench.manager.unload_version("m", "3")
        assert bench.engine.served() == {"m": ["1", "2"]}
        assert bench.manager.server_ready()

    run(bench, scenario)
