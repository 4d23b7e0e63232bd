"""What PATH arguments resolve to, on a file system in a dictionary."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigurationError
from serve.models.repository import Scan, scan, scan_strictly, version_stamp
from tests.unit.models.fakes import FakeListing


def scanned(listing: FakeListing, *paths: str) -> Scan:
    return scan([pathlib.Path(path) for path in paths], listing)


def shape(found: Scan) -> dict[str, list[str]]:
    return {name: list(source.versions) for name, source in found.models.items()}


def test_a_file_is_one_model_under_its_stem() -> None:
    found = scanned(FakeListing("/m/mnist-12.onnx"), "/m/mnist-12.onnx")
    assert shape(found) == {"mnist-12": ["1"]}
    assert found.models["mnist-12"].versions["1"] == pathlib.Path("/m/mnist-12.onnx")
    assert found.models["mnist-12"].config_path is None


@pytest.mark.parametrize(
    ("files", "versions", "config"),
    [
        (["/m/1/model.onnx"], ["1"], None),
        (["/m/10/model.onnx", "/m/9/model.onnx", "/m/2/model.onnx"], ["2", "9", "10"], None),
        (["/m/model.yaml"], [], "model.yaml"),
        (["/m/config.pbtxt", "/m/3/model.onnx"], ["3"], "config.pbtxt"),
        (["/m/config.pbtxt", "/m/model.yaml", "/m/3/model.onnx"], ["3"], "model.yaml"),
        (["/m/1/model.onnx", "/m/1/weights.bin", "/m/1/tests/case.json", "/m/notes/x.txt"], ["1"], None),
    ],
)
def test_a_model_folder(files: list[str], versions: list[str], config: str | None) -> None:
    found = scanned(FakeListing(*files), "/m")
    assert shape(found) == {"m": versions}
    assert found.models["m"].config_path == (None if config is None else pathlib.Path("/m", config))


def test_numeric_folders_that_are_no_version_are_told() -> None:
    source = scanned(FakeListing("/m/1/model.onnx", "/m/02/model.onnx", "/m/0/model.onnx", "/m/3/model.plan"), "/m").models["m"]
    assert list(source.versions) == ["1"]
    assert source.ignored == (
        "0 is not a positive integer without leading zeros",
        "02 is not a positive integer without leading zeros",
        "3 has no model.onnx",
    )


def test_any_other_folder_is_a_repository() -> None:
    listing = FakeListing(
        "/r/b/1/model.onnx",
        "/r/a/model.yaml",
        "/r/7/1/model.onnx",
        "/r/.git/1/model.onnx",
        "/r/_old/1/model.onnx",
        "/r/README.md",
        "/r/docs/x.md",
        "/r/stray.onnx",
    )
    assert shape(scanned(listing, "/r")) == {"7": ["1"], "a": [], "b": ["1"]}


def test_an_empty_repository_has_no_models_and_no_problems() -> None:
    assert scanned(FakeListing(folders=["/r"]), "/r") == Scan({}, {})


@pytest.mark.parametrize(
    ("listing", "path", "text"),
    [
        (FakeListing(), "/none", "/none: no such file or folder; give a .onnx file, a model's folder or a folder of models"),
        (FakeListing("/m.pt"), "/m.pt", "/m.pt: not a .onnx file; give a .onnx file, a model's folder or a folder of models"),
        (
            FakeListing("/my model.onnx"),
            "/my model.onnx",
            "/my model.onnx: 'my model' cannot be a model's name, which is 1 to 128 letters, digits, '.', '_' or '-', "
            "the first one a letter or a digit",
        ),
        (FakeListing("/r/_m/1/model.onnx"), "/r/_m", "/r/_m: '_m' cannot be a model's name, which is"),
        (
            FakeListing("/r/model.onnx"),
            "/r",
            "/r: no model folder in it, but model.onnx; give that file itself, or move it to /r/<model>/1/model.onnx",
        ),
        (FakeListing("/r/a b/1/model.onnx"), "/r", "/r/a b: 'a b' cannot be a model's name"),
        (FakeListing("/r/m/1/model.onnx", unreadable=["/r"]), "/r", "Permission denied"),
    ],
)
def test_problems(listing: FakeListing, path: str, text: str) -> None:
    found = scanned(listing, path)
    assert found.models == {}
    [problem] = found.problems.values()
    assert text in problem
    with pytest.raises(ConfigurationError) as error:
        scan_strictly([pathlib.Path(path)], listing)
    assert str(error.value) == problem


def test_the_same_name_twice_is_refused_naming_both_places_and_hides_neither_neighbour() -> None:
    listing = FakeListing("/a/m/1/model.onnx", "/b/m/1/model.onnx", "/b/other/1/model.onnx")
    found = scanned(listing, "/a", "/b")
    assert found.problems == {"m": "model 'm' is in /a/m and in /b/m: rename one or leave one out"}
    assert shape(found) == {"other": ["1"]}


def test_one_unreadable_model_hides_no_other() -> None:
    found = scanned(FakeListing("/r/a/1/model.onnx", "/r/b/1/model.onnx", unreadable=["/r/a"]), "/r")
    assert shape(found) == {"b": ["1"]}
    assert "Permission denied" in found.problems["a"]


@given(st.sets(st.integers(1, 10**18 - 1), min_size=1, max_size=8), st.randoms())
def test_versions_are_in_numeric_order_whatever_the_disk_says(versions: set[int], random: object) -> None:
    found = scanned(FakeListing(*(f"/m/{version}/model.onnx" for version in versions)), "/m")
    assert list(found.models["m"].versions) == [str(version) for version in sorted(versions)]


def test_a_stamp_covers_external_data_and_self_tests() -> None:
    listing = FakeListing("/m/1/model.onnx", "/m/1/data/w.bin", "/m/1/tests/case.json", "/m/2/model.onnx", "/m/model.yaml")
    stamps = version_stamp(pathlib.Path("/m/1/model.onnx"), listing)
    assert [stamp.path for stamp in stamps] == ["/m/1/data/w.bin", "/m/1/model.onnx", "/m/1/tests/case.json"]


def test_a_file_given_by_itself_is_stamped_by_itself() -> None:
    listing = FakeListing("/r/a.onnx", "/r/b.onnx")
    assert [stamp.path for stamp in version_stamp(pathlib.Path("/r/a.onnx"), listing)] == ["/r/a.onnx"]


def test_a_loop_of_links_ends() -> None:
    class Loop(FakeListing):
        def is_folder(self, path: pathlib.Path) -> bool:
            return path.name == "again" or super().is_folder(path)

        def names(self, folder: pathlib.Path) -> list[str]:
            return ["again", "model.onnx"]

    with pytest.raises(ConfigurationError, match="is there a loop of links"):
        version_stamp(pathlib.Path("/m/1/model.onnx"), Loop())
