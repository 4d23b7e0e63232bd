"""Marks of versions that kill workers. A dead worker is a mark that nobody locks."""

import pathlib
import subprocess
import sys

import pytest

from serve.errors import Unavailable
from serve.models.crash_marks import CrashMarks


def left_behind(state: pathlib.Path, *marks: str) -> None:
    (state / "loading").mkdir(parents=True, exist_ok=True)
    for mark in marks:
        (state / "loading" / mark).touch()


def recovered(state: pathlib.Path) -> CrashMarks:
    marks = CrashMarks(state)
    marks.recover()
    return marks


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_marked_at_first(tmp_path: pathlib.Path) -> None:
    marks = recovered(tmp_path / "state")
    assert marks.failed("m") == frozenset()
    assert marks.suspects == frozenset()


def test_a_mark_lasts_as_long_as_the_load(tmp_path: pathlib.Path) -> None:
    marks = recovered(tmp_path)
    with marks.loading("m", "1"):
        [name] = names(tmp_path / "loading")
        assert name.startswith("m@1@")
    assert names(tmp_path / "loading") == []


def test_a_load_that_fails_is_no_crash(tmp_path: pathlib.Path) -> None:
    marks = recovered(tmp_path)
    with pytest.raises(ValueError, match="no"), marks.loading("m", "1"):
        raise ValueError("no")
    assert recovered(tmp_path).failed("m") == frozenset()


def test_the_only_mark_left_behind_names_the_killer_until_it_is_cleared(tmp_path: pathlib.Path) -> None:
    left_behind(tmp_path, "m-2.x@3@77")
    recovered(tmp_path)
    for marks in (CrashMarks(tmp_path), recovered(tmp_path)):
        assert marks.failed("m-2.x") == {"3"}
        assert marks.failed("m-2") == frozenset()
        assert names(tmp_path / "loading") == []
    CrashMarks(tmp_path).clear("m-2.x", "3")
    CrashMarks(tmp_path).clear("m-2.x", "4")
    assert recovered(tmp_path).failed("m-2.x") == frozenset()


def test_a_second_killer_does_not_whitewash_the_first(tmp_path: pathlib.Path) -> None:
    left_behind(tmp_path, "a@1@7")
    recovered(tmp_path)
    left_behind(tmp_path, "b@1@7")
    marks = recovered(tmp_path)
    assert marks.failed("a") == {"1"}
    assert marks.failed("b") == {"1"}


def test_two_marks_are_suspects_and_nobody_is_failed(tmp_path: pathlib.Path) -> None:
    left_behind(tmp_path, "a@1@7", "b@2@7")
    marks = recovered(tmp_path)
    assert marks.suspects == {("a", "1"), ("b", "2")}
    assert (marks.failed("a"), marks.failed("b")) == (frozenset(), frozenset())
    assert names(tmp_path / "loading") == []


def test_two_workers_that_died_of_the_same_version_agree(tmp_path: pathlib.Path) -> None:
    left_behind(tmp_path, "a@1@7", "a@1@8")
    assert recovered(tmp_path).failed("a") == {"1"}


def test_foreign_files_are_left_alone(tmp_path: pathlib.Path) -> None:
    left_behind(tmp_path, "README", ".a@1@7")
    assert recovered(tmp_path).suspects == frozenset()
    assert names(tmp_path / "loading") == [".a@1@7", "README"]


def test_a_worker_that_still_loads_is_no_dead_one(tmp_path: pathlib.Path) -> None:
    with recovered(tmp_path).loading("m", "1"):
        newer = recovered(tmp_path)
        assert (newer.failed("m"), newer.suspects) == (frozenset(), frozenset())
        assert len(names(tmp_path / "loading")) == 1


def test_a_process_that_dies_while_loading_leaves_its_mark(tmp_path: pathlib.Path) -> None:
    script = (
        "import os, pathlib, sys; from serve.models.crash_marks import CrashMarks\n"
        "marks = CrashMarks(pathlib.Path(sys.argv[1])); marks.recover()\n"
        "with marks.loading('m', '2'): os.kill(os.getpid(), 9)\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=30, check=False)
    assert died.returncode == -9
    assert recovered(tmp_path).failed("m") == {"2"}


def test_a_state_directory_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    marks = recovered(tmp_path)
    (tmp_path / "loading").rmdir()
    with pytest.raises(Unavailable) as error, marks.loading("m", "1"):
        raise AssertionError("not reached")
    assert str(error.value) == f"cannot write the crash mark in {tmp_path}/loading: No such file or directory; give a writable --state-dir"
