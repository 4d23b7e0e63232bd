"""The repository on a real disk: links, names, label files, unreadable text."""

import os
import pathlib

import pytest

from serve.errors import ConfigurationError
from serve.models.config import ModelConfig
from serve.models.disk import DiskRepository


def write(path: pathlib.Path, content: str | bytes = b"onnx") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_relative_paths_and_trailing_slashes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "r" / "m" / "1" / "model.onnx")
    monkeypatch.chdir(tmp_path / "r" / "m")
    for path in (".", "./", "../m/", str(tmp_path / "r") + "/", ".."):
        found = DiskRepository([path]).scan_strictly()
        assert {name: str(source.path) for name, source in found.models.items()} == {"m": str(tmp_path / "r" / "m")}


def test_a_link_gives_the_model_its_name(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "store" / "3f9a" / "model.onnx")
    (tmp_path / "r" / "m").mkdir(parents=True)
    (tmp_path / "r" / "m" / "1").symlink_to(tmp_path / "store" / "3f9a")
    (tmp_path / "r" / "alias").symlink_to(tmp_path / "r" / "m")
    (tmp_path / "r" / "broken").symlink_to(tmp_path / "none")
    assert list(DiskRepository([tmp_path / "r"]).scan_strictly().models) == ["alias", "m"]
    assert list(DiskRepository([tmp_path / "r" / "alias"]).scan_strictly().models) == ["alias"]


@pytest.mark.parametrize("name", ["model.onnx", "data/weights.bin", "tests/case.json", "baseline.json"])
def test_a_stamp_changes_with_any_file_of_the_version(tmp_path: pathlib.Path, name: str) -> None:
    model = write(tmp_path / "m" / "1" / "model.onnx")
    write(tmp_path / "m" / "1" / "data" / "weights.bin")
    write(tmp_path / "m" / "1" / "tests" / "case.json")
    repository = DiskRepository([tmp_path])
    before = repository.stamp(model)
    write(tmp_path / "m" / "1" / name, "longer than before")
    assert repository.stamp(model) != before


def test_a_stamp_sees_content_of_equal_size(tmp_path: pathlib.Path) -> None:
    model = write(tmp_path / "m" / "1" / "model.onnx")
    os.utime(model, ns=(1, 1))
    repository = DiskRepository([tmp_path])
    before = repository.stamp(model)
    os.utime(model, ns=(2, 2))
    assert repository.stamp(model) != before


def test_no_configuration_is_the_default_one(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "m" / "1" / "model.onnx")
    repository = DiskRepository([tmp_path / "m"])
    configured = repository.configuration(repository.scan().models["m"])
    assert (configured.config, configured.origin) == (ModelConfig(), str(tmp_path / "m"))


@pytest.mark.parametrize(("file", "text"), [("model.yaml", "instances: 3"), ("config.pbtxt", "instance_group { count: 3 }")])
def test_both_kinds_of_configuration(tmp_path: pathlib.Path, file: str, text: str) -> None:
    write(tmp_path / "m" / file, text)
    repository = DiskRepository([tmp_path / "m"])
    configured = repository.configuration(repository.scan().models["m"])
    assert (configured.config.instances, configured.origin) == (3, str(tmp_path / "m" / file))


def test_leniency_reaches_config_pbtxt(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "m" / "config.pbtxt", "response_cache { enable: true }")
    for lenient in (False, True):
        repository = DiskRepository([tmp_path / "m"], lenient=lenient)
        source = repository.scan().models["m"]
        if lenient:
            assert repository.configuration(source).config == ModelConfig()
        else:
            with pytest.raises(ConfigurationError, match="response_cache"):
                repository.configuration(source)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/m/config.pbtxt: response_cache cannot be honoured and is ignored"
    ]


def test_ignored_folders_are_warned_of_at_the_start(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "m" / "1" / "model.onnx")
    write(tmp_path / "m" / "01" / "model.onnx")
    DiskRepository([tmp_path]).scan_strictly()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/m: folder ignored: 01 is not a positive integer without leading zeros"
    ]


def test_class_labels(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "m" / "model.yaml", "class_labels: {a: names/a.txt, b: [x, y]}")
    write(tmp_path / "m" / "names" / "a.txt", "cat\ndog\nÄffin\n")
    repository = DiskRepository([tmp_path])
    source = repository.scan().models["m"]
    assert repository.class_labels(source, repository.configuration(source)) == {"a": ("cat", "dog", "Äffin"), "b": ("x", "y")}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "class labels of output 'a': cannot read {m}/labels.txt: No such file or directory"),
        (b"", "class labels of output 'a': {m}/labels.txt is empty; write one name per line"),
        (b"cat\n\xff\n", "class labels of output 'a': cannot read {m}/labels.txt: byte 4 is not UTF-8"),
    ],
)
def test_class_labels_that_cannot_be_read(tmp_path: pathlib.Path, content: bytes | None, text: str) -> None:
    folder = tmp_path / "m"
    write(folder / "model.yaml", "class_labels: {a: labels.txt}")
    if content is not None:
        write(folder / "labels.txt", content)
    repository = DiskRepository([tmp_path])
    source = repository.scan().models["m"]
    with pytest.raises(ConfigurationError) as error:
        repository.class_labels(source, repository.configuration(source))
    assert str(error.value) == f"{folder}/model.yaml: " + text.format(m=folder)
