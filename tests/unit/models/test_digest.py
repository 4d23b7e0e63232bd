"""A version's digest: what it covers, what it does not depend on, and when a file is read again."""

import hashlib
import os
import pathlib

import pytest

from serve.errors import ConfigurationError, Unavailable
from serve.models.digest import MAX_CACHED, RACY_NS, VersionDigests
from serve.types import short_digest

LATER_NS = 1 << 62


def write(path: pathlib.Path, content: bytes = b"onnx") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def digest(model: pathlib.Path, *labels: pathlib.Path) -> str:
    return VersionDigests(lambda: LATER_NS).digest(model, labels)


def version(folder: pathlib.Path) -> pathlib.Path:
    write(folder / "m" / "1" / "weights" / "w.bin", b"weights")
    write(folder / "m" / "1" / "tests" / "case.json", b"{}")
    return write(folder / "m" / "1" / "model.onnx")


def test_it_is_what_the_docstring_says(tmp_path: pathlib.Path) -> None:
    model, labels = version(tmp_path), write(tmp_path / "m" / "labels.txt", b"cat\ndog\n")
    contents = {"../labels.txt": b"cat\ndog\n", "model.onnx": b"onnx", "tests/case.json": b"{}", "weights/w.bin": b"weights"}
    lines = [f"{name}\0{len(content)}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in contents.items()]
    assert digest(model, labels) == "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def test_it_does_not_depend_on_the_place_the_time_or_the_version_s_number(tmp_path: pathlib.Path) -> None:
    there, here = version(tmp_path / "there"), version(tmp_path / "here")
    os.utime(there, ns=(1, 1))
    (here.parent).rename(here.parent.parent / "7")
    assert digest(there) == digest(here.parent.parent / "7" / "model.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "weights/w.bin", "tests/case.json", "added.txt", ".hidden"])
def test_any_file_changes_it(tmp_path: pathlib.Path, name: str) -> None:
    model = version(tmp_path)
    before = digest(model)
    write(model.parent / name, b"other")
    assert digest(model) != before


@pytest.mark.parametrize("name", ["baseline.json", ".baseline.json.tmp", "..data/model.onnx", "../model.yaml", "../2/model.onnx"])
def test_what_is_not_of_the_version_does_not(tmp_path: pathlib.Path, name: str) -> None:
    model = version(tmp_path)
    before = digest(model)
    write(model.parent / name, b"other")
    assert digest(model) == before


def test_a_name_is_not_mistaken_for_content(tmp_path: pathlib.Path) -> None:
    one, other = write(tmp_path / "a" / "1" / "model.onnx"), write(tmp_path / "b" / "1" / "model.onnx")
    write(one.parent / "x", b"y")
    write(other.parent / "y", b"x")
    assert digest(one) != digest(other)


def test_label_files_in_the_version_s_own_folder_count_once(tmp_path: pathlib.Path) -> None:
    model = version(tmp_path)
    labels = write(model.parent / "labels.txt", b"cat\n")
    assert digest(model, labels) == digest(model)


def test_a_file_given_by_itself_has_no_neighbours(tmp_path: pathlib.Path) -> None:
    one, other = write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx")
    assert digest(one) == digest(other)
    before = digest(one)
    write(tmp_path / "c.onnx", b"other")
    assert digest(one) == before
    assert digest(one) == digest(write(tmp_path / "m" / "1" / "model.onnx"))


def test_a_file_is_read_once(tmp_path: pathlib.Path) -> None:
    model = version(tmp_path)
    digests = VersionDigests(lambda: LATER_NS)
    before = digests.digest(model)
    content = os.stat(model)
    model.write_bytes(b"ONNX")          # behind its back: same size, same inode, and the time put back
    os.utime(model, ns=(content.st_atime_ns, content.st_mtime_ns))
    assert digests.digest(model) == before
    os.utime(model, ns=(content.st_atime_ns, content.st_mtime_ns + 1))
    assert digests.digest(model) != before


def test_a_file_that_was_changed_just_now_is_read_again(tmp_path: pathlib.Path) -> None:
    model = version(tmp_path)
    changed_ns = os.stat(model).st_mtime_ns
    digests = VersionDigests(lambda: changed_ns + RACY_NS)
    before = digests.digest(model)
    model.write_bytes(b"ONNX")
    os.utime(model, ns=(changed_ns, changed_ns))
    assert digests.digest(model) != before


def test_the_memory_is_bounded(tmp_path: pathlib.Path) -> None:
    model = version(tmp_path)
    digests = VersionDigests(lambda: LATER_NS)
    for at in range(MAX_CACHED + 10):
        os.utime(model, ns=(at, at))
        digests.digest(model)
    assert len(digests._hashes) == MAX_CACHED


def test_a_file_that_is_being_written_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = version(tmp_path)
    read = hashlib.file_digest

    def and_write(file: object, name: str) -> object:
        with model.open("ab") as other:
            other.write(b"more")
        return read(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", and_write)
    with pytest.raises(Unavailable, match="was changed while it was read"):
        digest(model)


def test_a_loop_of_links_ends(tmp_path: pathlib.Path) -> None:
    model = version(tmp_path)
    (model.parent / "again").symlink_to(model.parent)
    with pytest.raises(ConfigurationError, match="more than 8 folders deep"):
        digest(model)


def test_short() -> None:
    assert short_digest("sha256:" + "0123456789abcdef" * 4) == "0123456789ab"
