"""The page: numbers that a killed worker leaves behind, to the row; and epochs that are never given out twice."""

import errno
import fcntl
import mmap
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from serve.errors import ConfigurationError
from serve.recording.files import SystemFiles
from serve.recording.home import Home
from serve.recording.layout import JOURNALS
from serve.recording.manifest_file import Manifest
from serve.recording.page import PAGE_BYTES, RecordPage, next_epoch, read_page
from serve.recording.recovery import RecoveryJob
from serve.recording.stores import open_store


def test_numbers_are_what_was_counted(tmp_path: Path) -> None:
    page = RecordPage(tmp_path, 5)
    words = page.buffer.cast("Q")
    words[3] = 100
    words[5], words[6], words[7], words[8] = 1, 2, 3, 4
    page.begin_append(1, 4096, 60)
    page.end_append()
    page.drop(7)
    page.take_back(10)
    numbers = read_page(tmp_path / "5.page")
    assert numbers == page.numbers()
    assert (numbers.epoch, numbers.assigned, numbers.appended, numbers.is_clean) == (5, 100, 50, False)
    assert numbers.dropped == {"ring_full": 1, "too_large": 2, "blocked": 3, "memory": 4, "disk_budget": 7}
    assert numbers.lost == 100 - 50 - 17
    assert (tmp_path / "5.page").stat().st_size == PAGE_BYTES
    page.close_cleanly()
    assert read_page(tmp_path / "5.page").is_clean
    page.release()


@pytest.mark.parametrize(("n_bytes", "state", "appended"), [
    (99, "open", 20), (100, "open", 50), (200, "journal", 50), (None, "open", 20),
])
def test_an_append_that_was_not_counted_is(tmp_path: Path, n_bytes: int | None, state: str, appended: int) -> None:
    """The worker dies after it began an append: the length of the journal tells whether the rows are in it."""
    (tmp_path / JOURNALS).mkdir()
    page = RecordPage(tmp_path, 1)
    page.buffer.cast("Q")[3] = 80
    page.begin_append(4, 50, 20)
    page.end_append()
    page.begin_append(4, 100, 30)
    if n_bytes is not None:
        (tmp_path / JOURNALS / f"1-4.{state}").write_bytes(bytes(n_bytes))
    numbers = read_page(tmp_path / "1.page")
    assert (numbers.appended, numbers.lost) == (appended, 80 - appended)
    page.take_back(5)
    assert read_page(tmp_path / "1.page").appended == 15, "what was taken back since is not appended"


def killed_after_counting(home: Path, ready: "multiprocessing.synchronize.Event") -> None:
    page = RecordPage(home, 2)
    page.buffer.cast("Q")[3] = 1234
    ready.set()
    signal.pause()


def test_numbers_survive_a_kill_and_the_lock_does_not(tmp_path: Path) -> None:
    home = Home(tmp_path)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=killed_after_counting, args=(tmp_path, ready))
    worker.start()
    assert ready.wait(30)
    assert not home.has_ended(2, None), "its worker runs"
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert home.has_ended(2, None)
    assert read_page(tmp_path / "2.page").lost == 1234


def test_a_released_page_is_nobody_s(tmp_path: Path) -> None:
    home = Home(tmp_path)
    page = RecordPage(tmp_path, 3)
    assert not home.has_ended(3, None)
    page.release()
    assert home.has_ended(3, None)


def test_what_is_no_page_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"short", bytes(PAGE_BYTES), b"RDRPAPGE" + bytes(PAGE_BYTES)):
        (tmp_path / "1.page").write_bytes(content)
        with pytest.raises(ValueError, match="no page of format 1"):
            read_page(tmp_path / "1.page")
    with pytest.raises(ConfigurationError, match="File exists"):
        RecordPage(tmp_path, 1)


def test_epochs_count_on_whatever_is_gone(tmp_path: Path) -> None:
    home = tmp_path / "records"
    assert [next_epoch(home), next_epoch(home), next_epoch(home)] == [1, 2, 3]
    (home / "epoch").unlink()
    RecordPage(home, 4).release()
    assert next_epoch(home) == 5
    (home / "epoch").unlink()
    (home / JOURNALS / "9-1.journal").touch()
    assert next_epoch(home) == 10
    assert next_epoch(home, known=41) == 42
    assert next_epoch(home, known=7) == 43
    (home / "epoch").write_text("garbage\n")
    with pytest.raises(ConfigurationError, match=r"holds 'garbage', not the number of a start; remove it"):
        next_epoch(home)


def test_a_place_that_cannot_be_written_is_the_operator_s(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="give a writable --state-dir"):
        next_epoch(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="give a writable --state-dir"):
        RecordPage(tmp_path / "nothing", 1)


def test_a_start_that_finds_no_room_leaves_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fails)
        with pytest.raises(ConfigurationError, match="No space left on device; give a writable --state-dir with room"):
            RecordPage(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


STEPS = ((fcntl, "flock"), (os, "open"), (os, "write"), (os, "fsync"), (os, "replace"), (os, "close"), (mmap, "mmap"))


def test_nobody_takes_a_page_that_is_in_the_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`headrace records seal`, or the keeper of a later start, looks after each step of the making."""
    store = open_store(str(tmp_path / "sealed"))
    manifest, home = Manifest(store, "r"), Home(tmp_path / "home")
    recovery = RecoveryJob(manifest, home, None)
    taken: list[object] = []
    looked: list[str] = []

    def then_look(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def stepped(*args: object, **more: object) -> object:
            result = call(*args, **more)
            if not looked or looked[-1]:        # "": it is looking, by the same calls
                looked.append("")
                taken.extend(recovery.run(1))
                looked[-1] = name
            return result
        return stepped

    with monkeypatch.context() as patched:
        for module, name in STEPS:
            patched.setattr(module, name, then_look(name, getattr(module, name)))
        page = RecordPage(home.path, 7)
    assert {"flock", "open", "write", "fsync", "mmap"} <= set(looked)
    assert (taken, manifest.state.epochs) == ([], {})
    assert not home.has_ended(7, None)
    page.release()
    assert [message["epoch"] for message in recovery.run(2)] == [7]


def killed_while_making(home: Path, step: str) -> None:
    module = next(module for module, name in STEPS if name == step)
    setattr(module, step, lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL))
    RecordPage(home, 7)


@pytest.mark.parametrize("step", ["flock", "write", "fsync", "mmap"])
def test_a_start_that_is_killed_leaves_no_page_without_content(tmp_path: Path, step: str) -> None:
    worker = multiprocessing.get_context("fork").Process(target=killed_while_making, args=(tmp_path, step))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert Home(tmp_path).ended_epochs(None) == []
    RecordPage(tmp_path, 8).release()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["8.page"], "nothing of the killed one stays"


def test_a_page_that_is_there_is_left_alone(tmp_path: Path) -> None:
    page = RecordPage(tmp_path, 1)
    page.buffer.cast("Q")[3] = 12
    with pytest.raises(ConfigurationError, match="File exists"):
        RecordPage(tmp_path, 1)
    assert not Home(tmp_path).has_ended(1, None)
    assert read_page(tmp_path / "1.page").assigned == 12
    page.release()


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_page_that_is_not_surely_on_the_disk_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    """fsync of the page, and of the folder that names it."""
    calls = 0

    def fails(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(ConfigurationError, match="Input/output error"):
            RecordPage(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_the_system_s_files_do_what_they_say(tmp_path: Path) -> None:
    files = SystemFiles()
    fd = files.create(tmp_path / "a")
    assert files.pwritev(fd, [b"ab", b"cd"], 3) == 4
    assert files.pread(fd, 10, 0) == b"\0\0\0abcd"
    files.truncate(fd, 4)
    files.fdatasync(fd)
    files.close(fd)
    files.rename(tmp_path / "a", tmp_path / "b")
    files.sync_folder(tmp_path)
    assert (tmp_path / "b").read_bytes() == b"\0\0\0a"
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640 & ~_umask()
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "b")
    files.remove(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
