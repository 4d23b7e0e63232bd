"""The demo repository: models that ONNX Runtime runs as promised, and magika's own verdicts."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

from serve.client import Client, ClientError, InferResult
from serve.demo import file_types, repository, views
from serve.demo.heldout import compare, drawn
from serve.errors import ConfigurationError
from serve.types import IndexEntry, VersionState


class LocalClient(Client):
    """Answers from ONNX Runtime instead of a server; `shift` is added to every float."""

    def __init__(self, root: Path, version: str = "2", shift: float = 0.0) -> None:
        super().__init__()
        self.root, self.version, self.shift = root, version, shift
        self.n_calls = 0

    def infer(
        self, model: str, inputs: Mapping[str, Any], version: str | None = None, outputs: Sequence[str] | None = None,
    ) -> InferResult:
        self.n_calls += 1
        used = version or self.version
        if not (self.root / model / used).is_dir():
            raise ClientError(404, f"Request for unknown model: '{model}' version {used} is not found")
        loaded = session(self.root / model / used / "model.onnx")
        names = list(outputs or [output.name for output in loaded.get_outputs()])
        arrays = [a + np.float32(self.shift) if a.dtype == np.float32 else a for a in loaded.run(names, dict(inputs))]
        return InferResult(model, used, dict(zip(names, arrays, strict=True)), {})


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "models"
    said: list[str] = []
    repository.write_demo(folder, said.append)
    assert len(said) == 5
    return folder


def test_the_repository_is_complete(demo: Path) -> None:
    files = {str(file.relative_to(demo)) for file in demo.rglob("*") if file.is_file()}
    assert files == {"_data/digits.npz", "_data/magika.json", "digits/1/model.onnx", "digits/2/model.onnx", "digits/model.yaml",
                     "magika/1/model.onnx", "magika/model.yaml", "normalise/1/model.onnx", "normalise/model.yaml"}
    assert os.listdir(demo.parent) == ["models"]
    config = yaml.safe_load((demo / "digits" / "model.yaml").read_text(encoding="utf-8"))
    assert (config["version_policy"], config["labels"]) == ("all", {"stable": "2"})


def test_the_second_version_of_digits_is_better(demo: Path) -> None:
    with np.load(demo / repository.DIGITS_DATA) as data:
        images, truth = data["images"], data["labels"]
    assert (images.shape, images.dtype, truth.dtype) == ((360, 64), np.float32, np.int64)
    accuracy = {}
    for version in ("1", "2"):
        label, probabilities = session(demo / "digits" / version / "model.onnx").run(["label", "probabilities"], {"input": images})
        assert (label.dtype, label.shape, probabilities.dtype, probabilities.shape) == (np.int64, (360,), np.float32, (360, 10))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        accuracy[version] = (label == truth).mean()
    assert accuracy["1"] > 0.8
    assert accuracy["2"] > 0.95
    assert accuracy["2"] - accuracy["1"] > 0.04


def test_training_again_gives_the_same_files(demo: Path) -> None:
    from serve.demo.digits import train

    again = train()
    assert [again.versions[v][0] for v in ("1", "2")] == [(demo / "digits" / v / "model.onnx").read_bytes() for v in ("1", "2")]


def test_text_is_normalised(demo: Path) -> None:
    model = session(demo / "normalise" / "1" / "model.onnx")
    text = np.array([["Hello, wörld"], [""], ["  two  words "]], dtype=object)
    normalised, words = model.run(["normalised", "words"], {"text": text})
    assert normalised.tolist() == [["HELLO, WÖRLD"], [""], ["  TWO  WORDS "]]
    assert words.tolist() == [[2], [0], [2]]
    for n in (1, 5):
        assert model.run(["normalised"], {"text": np.full((n, 1), "a", dtype=object)})[0].tolist() == [["A"]] * n


@pytest.fixture
def samples(tmp_path: Path) -> list[Path]:
    contents = {
        "code.py": Path(__file__).read_bytes(), "empty": b"", "tiny": b"hi\n", "tiny.bin": b"\xff\xfe", "spaces": b" \n\t " * 3000,
        "padded.json": b"\n" * 900 + b'{"a": [1, 2, {"b": null}], "c": "text"}' + b" " * 900,
        "noise": bytes(i * 7919 % 251 for i in range(9000)),
        "page.html": b"<!DOCTYPE html><html><head><title>x</title></head><body><p>text</p></body></html>", "eight": b"12345678",
        "late": b" " * 4090 + b"#!/bin/sh\necho late start of a script\n", "words.txt": b"the quick brown fox jumps over it " * 200,
        "data.npz": b"PK\x03\x04" + bytes(500), "half": b"\xc3" + b"abc" * 2, "settings.yaml": b"a: 1\nb:\n  - c\n  - d: e\n"}
    paths = [tmp_path / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    return [*paths, tmp_path, Path(repository.__file__), Path(sys.executable)]


def test_verdicts_are_magikas_own(demo: Path, samples: list[Path]) -> None:
    # A process of its own: magika brings its own use of onnxruntime and of logging.
    script = ("import json, sys; from magika import Magika; "
              "print(json.dumps([[str(r.output.label), r.score] for r in Magika().identify_paths(sys.argv[1:])]))")
    told = subprocess.run([sys.executable, "-c", script, *map(str, samples)], capture_output=True, text=True, timeout=50, check=False)
    if told.returncode:
        pytest.skip(f"magika does not run here: {told.stderr.strip().splitlines()[-1]}")
    client = LocalClient(demo, version="1")
    mine = file_types.name_types(client, "magika", None, samples, file_types.load_rules(demo / repository.MAGIKA_RULES))
    assert client.n_calls == 1
    for path, verdict, (label, score) in zip(samples, mine, json.loads(told.stdout), strict=True):
        assert isinstance(verdict, file_types.Verdict)
        assert verdict.label == label, path
        assert verdict.score == pytest.approx(score, abs=1e-5), path
    assert len({verdict.label for verdict in mine if isinstance(verdict, file_types.Verdict)}) >= 6


def test_a_file_that_cannot_be_read_does_not_spoil_the_others(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "missing", Path(__file__)]
    assert views.show_file_types(LocalClient(demo, "1"), demo, "magika", None, files) == 1
    out = capsys.readouterr().out
    assert "No such file or directory" in out
    assert "python" in out


def test_many_files_go_in_several_requests(demo: Path) -> None:
    client = LocalClient(demo, "1")
    verdicts = file_types.name_types(client, "magika", None, [Path(__file__)] * 40, file_types.load_rules(demo / repository.MAGIKA_RULES))
    assert client.n_calls == 3
    assert {v.label for v in verdicts if isinstance(v, file_types.Verdict)} == {"python"}


def test_the_held_out_rows_are_equal_row_by_row(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert views.show_heldout(LocalClient(demo), demo, "digits", None, None) == 0
    out = capsys.readouterr().out
    assert "equal row by row: yes (360 of 360)" in out
    assert "digits version 2" in out
    accuracy = out.split("through the server: ")[1].split()[0]
    assert f"with ONNX Runtime: {accuracy}" in out
    assert "█" in out


def test_a_difference_is_not_overlooked(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert views.show_heldout(LocalClient(demo, shift=1e-3), demo, "digits", "1", 50) == 1
    out = capsys.readouterr().out
    assert "digits version 1" in out
    assert "equal row by row: no (0 of 50), largest difference of a probability 1.0e-03" in out
    one_label = compare(LocalClient(demo), demo, "digits", None, 8)
    one_label.served[3] += 1
    assert one_label.n_equal == 7


def test_a_digit_is_drawn_in_four_lines() -> None:
    image = np.zeros((8, 8), np.float32)
    image[0, 0] = image[1, 1] = image[6, 7] = image[7, 7] = 16
    assert drawn(image.ravel()).split("\n") == ["▀▄      ", " " * 8, " " * 8, "       █"]


def test_what_is_in_the_way_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ConfigurationError, match="is already there"):
        repository.write_demo(tmp_path / "full", print)
    with pytest.raises(ConfigurationError, match="--repository names the folder"):
        compare(LocalClient(tmp_path), tmp_path, "digits", None, None)
    with pytest.raises(ConfigurationError, match="--repository names the folder"):
        file_types.load_rules(tmp_path / "none.json")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"needs scikit-learn, skl2onnx, onnx: pip install scikit-learn skl2onnx onnx"):
        repository.write_demo(tmp_path / "new", print)
    assert sorted(os.listdir(tmp_path)) == ["full"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: Path, say: object) -> None:
        raise ConfigurationError("no")

    monkeypatch.setattr(repository, "_write_digits", refuse)
    with pytest.raises(ConfigurationError, match="no"):
        repository.write_demo(tmp_path / "a" / "b", print)
    assert list((tmp_path / "a").iterdir()) == []


def test_the_index_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    index = [IndexEntry("m[bold]", "1", VersionState.READY), IndexEntry("n", "", VersionState.UNAVAILABLE, "broken")]
    views.show_index(index, {("m[bold]", "1"): "sha256:0123456789abcdef"})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["model", "version", "state", "digest", "reason"], ["m[bold]", "1", "READY", "0123456789ab"], ["n", "UNAVAILABLE", "broken"]]
