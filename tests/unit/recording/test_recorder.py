"""The recorder's thread: started, flushed, closed, measured; with a disk that is too slow, one that hangs, and under a kill."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from serve import clock
from serve.errors import ConfigurationError
from serve.recording.recorder import BEHIND, LATE_NS, PATIENT_NICE, Recorder, RecorderSettings
from serve.records import RecordingSpec, RecordStreamSpec, Redaction
from tests.unit.recording.recorder_parts import MS, RECORD_BYTES, TEXT, Plant, stream_spec


def start(plant: Plant, fsync_ns: int = 50 * MS) -> Recorder:
    settings = RecorderSettings(replica="r", home=plant.home, fsync_ns=fsync_ns)
    return Recorder(plant.source, plant.page, plant.place, settings)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    made = Plant.build(tmp_path)
    yield made
    made.page.release()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released whenever a thread looks whether the rings fill up."""
    seen = threading.Semaphore(0)
    is_behind = Recorder._is_behind

    def look(recorder: Recorder) -> bool:
        seen.release()
        return is_behind(recorder)

    monkeypatch.setattr(Recorder, "_is_behind", look)
    return seen


def test_a_flush_sees_everything_onto_the_disk(plant: Plant) -> None:
    recorder = start(plant, fsync_ns=3600 * 1000 * MS)
    stream = recorder.open_stream(stream_spec())
    for n in range(1, 6):
        plant.source.produce(stream, 2, records=50)
        assert recorder.flush(10)
        assert len(plant.stored()) == 100 * n
        assert recorder.facts().unsynced_bytes == 0
    numbers = recorder.close(10)
    assert (numbers.is_clean, numbers.appended, numbers.lost) == (True, 500, 0)
    plant.check_books()
    assert plant.names() == ["1-1.journal"]


def test_closing_takes_what_is_in_the_rings(plant: Plant) -> None:
    recorder = start(plant)
    streams = [recorder.open_stream(stream_spec(version)) for version in "12"]
    for stream in streams:
        plant.source.produce(stream, 3, records=5000)
    numbers = recorder.close(20)
    assert (numbers.is_clean, numbers.appended, numbers.lost) == (True, 30_000, 0)
    assert plant.check_books().is_clean
    assert all(journal.is_complete for journal in plant.journals())


def test_versions_that_are_loaded_side_by_side_hash_under_one_key(plant: Plant) -> None:
    recorder = start(plant)
    together, failed = threading.Barrier(8), list[Exception]()

    def load(version: str) -> None:
        together.wait()
        try:
            recorder.open_stream(stream_spec(version, RecordingSpec(redact=(Redaction("in_text", "hash"),))))
        except ConfigurationError as error:
            failed.append(error)

    threads = [threading.Thread(target=load, args=(str(i),)) for i in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    recorder.close(10)
    assert failed == []


def test_equal_specs_share_a_stream_and_what_cannot_be_redacted_opens_none(plant: Plant) -> None:
    recorder = start(plant)
    assert recorder.open_stream(stream_spec()) == recorder.open_stream(stream_spec())
    with pytest.raises(ConfigurationError, match="request_id cannot be redacted"):
        recorder.open_stream(stream_spec(spec=RecordingSpec(redact=(Redaction("request_id", "drop"),))))
    assert len(plant.source.readings()) == 1
    assert recorder.close(10).is_clean


def test_what_is_redacted_never_reaches_the_disk(plant: Plant) -> None:
    redact = (Redaction("in_text", "hash"), Redaction("tags", "mask"), Redaction("in_x", "bucket", (2.0,)))
    recorder = start(plant)
    stream = recorder.open_stream(stream_spec(spec=RecordingSpec(redact=redact)))
    plant.source.produce(stream, 4, records=10)
    recorder.close(10)
    plant.check_books()
    content = (plant.home / "journals" / "1-1.journal").read_bytes()
    assert b"text-" not in content
    assert b"user-" not in content
    [journal] = plant.journals()
    assert journal.header is not None
    assert [(one.column, one.datatype) for one in journal.header.tensors] == [("in_x", "FP64"), ("in_text", "BYTES"), ("out_y", "INT64")]
    assert (plant.home / "redaction.key").stat().st_mode & 0o777 == 0o600


def test_facts_say_how_it_is(plant: Plant) -> None:
    recorder = start(plant)
    one = recorder.open_stream(stream_spec("1"))
    again = recorder.open_stream(stream_spec("1", RecordingSpec(retention_days=3)))
    two = recorder.open_stream(stream_spec("2", tensors=(TEXT,)))
    before = recorder.facts()
    assert (before.append_age_s, before.failing_s) == (None, None)
    assert recorder.flush(10), "there is nothing to be waited for"
    for stream, rows in ((one, 10), (again, 20), (two, 5)):
        plant.source.produce(stream, rows)
    assert recorder.flush(10)
    facts = recorder.facts()
    assert [(one.version, one.sampled, one.appended) for one in facts.readings] == [("1", 30, 30), ("2", 5, 5)]
    assert {one.dropped["disk_budget"] for one in facts.readings} == {0}
    assert facts.lost == {("digits", "1"): 0, ("digits", "2"): 0}
    assert (facts.ring_used_bytes, facts.waiting_bytes, facts.unsynced_bytes, facts.errors) == (0, 0, 0, {})
    assert facts.ring_capacity_bytes == plant.source.capacity_bytes()
    assert facts.journal_bytes > facts.written_bytes > 0, "headers are no rows"
    assert facts.append_age_s is not None
    assert facts.sync_age_s is not None
    assert 0 <= facts.sync_age_s <= facts.append_age_s < 10
    plant.files.faults = {"pwritev": errno.ENOSPC}
    plant.source.produce(one, 1)
    assert not recorder.flush(0.3)
    facts = recorder.facts()
    assert facts.error == "ENOSPC"
    assert facts.errors["ENOSPC"] >= 1
    assert facts.failing_s is not None
    assert facts.waiting_bytes > 0
    plant.files.faults = {}
    assert recorder.flush(10)
    recorder.close(10)
    plant.check_books()


def test_a_disk_ten_times_too_slow(tmp_path: Path) -> None:
    """A record takes the data plane 0.1 ms and the disk 1 ms: what does not fit is dropped, and each row is somewhere."""
    plant = Plant.build(tmp_path, capacity=300, limit=64 * RECORD_BYTES)
    plant.files.slow_s = 0.064
    recorder = start(plant)
    stream = recorder.open_stream(stream_spec())
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        plant.source.produce(stream, 1, records=10)
        time.sleep(0.001)
    numbers = recorder.close(20)
    assert numbers.is_clean
    numbers = plant.check_books()
    assert numbers.lost == 0
    assert numbers.dropped["ring_full"] > numbers.assigned / 2
    assert numbers.appended > 300
    plant.page.release()


def test_closing_gives_up_on_a_disk_that_takes_nothing(plant: Plant) -> None:
    recorder = start(plant)
    stream = recorder.open_stream(stream_spec())
    plant.source.produce(stream, 1, records=100)
    assert recorder.flush(10)
    plant.files.faults = {"pwritev": errno.EIO}
    plant.source.produce(stream, 1, records=50)
    began = time.monotonic()
    numbers = recorder.close(0.5)
    assert time.monotonic() - began < 5
    assert (numbers.is_clean, numbers.appended, numbers.lost) == (True, 100, 50)
    plant.check_books()


def test_closing_does_not_wait_for_a_disk_that_hangs(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(fd: int) -> None:
        hangs.set()
        goes_on.wait(30)

    recorder = start(plant)
    stream = recorder.open_stream(stream_spec())
    monkeypatch.setattr(plant.files, "fdatasync", hang)
    plant.source.produce(stream, 1)
    assert hangs.wait(10)
    assert not recorder.close(0.1).is_clean
    goes_on.set()
    for thread in recorder._threads:
        thread.join(10)
    assert plant.check_books().is_clean


def test_when_the_patient_thread_gets_no_processor_the_prompt_one_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: threading.Semaphore,
) -> None:
    monkeypatch.setattr(Recorder, "_run_patient", lambda self: None)
    plant = Plant.build(tmp_path, capacity=20_000)
    recorder = start(plant)
    stream = recorder.open_stream(stream_spec())
    plant.source.produce(stream, 1, records=10)
    for _ in range(5):
        assert looks.acquire(timeout=10)
    assert plant.page.numbers().appended == 0           # there is no hurry
    while plant.source.pending_bytes() <= plant.source.capacity_bytes() // BEHIND:
        plant.source.produce(stream, 1, records=1000)
    end = time.monotonic() + 10
    while plant.source.pending_bytes() and time.monotonic() < end:
        time.sleep(0.01)
    assert plant.source.pending_bytes() == 0
    assert recorder.close(10).lost == 0
    plant.page.release()


def test_the_prompt_thread_works_while_the_patient_one_breathes(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    is_resting = threading.Event()

    def rest_till_the_end(recorder: Recorder) -> None:
        if plant.source.blocks(stream).n_rows:
            is_resting.set()
            recorder._closing.wait(60)

    monkeypatch.setattr(Recorder, "_rest", rest_till_the_end)
    recorder = start(plant)
    stream = recorder.open_stream(stream_spec())
    plant.source.produce(stream, 1, records=2000)
    assert is_resting.wait(10)                          # the patient one has moved some
    plant.source.produce(stream, 1, records=500)
    assert recorder.flush(10)
    assert len(plant.stored()) == 2500
    assert recorder.close(10).lost == 0
    assert plant.check_books().is_clean


@pytest.mark.parametrize(("late_ns", "n_in_the_way", "n_rests"), [
    (0, 0, 1), (0, 3, 3), (0, 10_000, 100), (LATE_NS, 0, 1), (LATE_NS + 1, 0, 10), (300_000_000, 0, 1),
])
def test_the_patient_thread_rests_while_others_want_the_processor_but_not_for_ever(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, late_ns: int, n_in_the_way: int, n_rests: int,
) -> None:
    recorder = start(plant)
    recorder.close(10)
    now_ns, rests = 0, 0

    def wait(pause_s: float) -> None:
        nonlocal now_ns, rests
        now_ns += int(pause_s * 1e9) + late_ns
        rests += 1

    monkeypatch.setattr(clock, "monotonic_ns", lambda: now_ns)
    monkeypatch.setattr(recorder._closing, "wait", wait)
    plant.source.n_in_the_way = n_in_the_way
    recorder._rest()
    assert rests == n_rests


def test_a_step_of_the_prompt_thread_does_not_wait_for_a_look(plant: Plant) -> None:
    """Of the patient one, which may get no processor: then these rows are not looked at."""
    looking, go_on, seen = threading.Event(), threading.Event(), []

    class Slow:
        def draw(self, stream: RecordStreamSpec, at_ns: int, seq: int, n_rows: int) -> int:
            return n_rows

        def observe(self, stream: RecordStreamSpec, batch: pa.RecordBatch) -> None:
            seen.append(batch.num_rows)
            looking.set()
            assert go_on.wait(60)

    settings = RecorderSettings(replica="r", home=plant.home, fsync_ns=50 * MS)
    recorder = Recorder(plant.source, plant.page, plant.place, settings, observers=[Slow()])
    stream = recorder.open_stream(stream_spec())
    plant.source.produce(stream, 1, records=10)
    assert looking.wait(10)
    plant.source.produce(stream, 1, records=20)
    assert not recorder.flush(1)                # it waits for the rows in the other's hands
    assert plant.stored() == list(range(10, 30))
    go_on.set()
    assert recorder.flush(10)
    assert plant.stored() == list(range(30))
    assert seen == [10]
    assert recorder.close(10).lost == 0


def test_rows_are_looked_at_while_others_of_their_stream_are_moved(plant: Plant) -> None:
    """By a thread of its own: what it takes apart is not what the prompt thread looks over."""
    seen: list[tuple[int, list[float]]] = []

    class Watching:
        def draw(self, stream: RecordStreamSpec, at_ns: int, seq: int, n_rows: int) -> int:
            return n_rows

        def observe(self, stream: RecordStreamSpec, batch: pa.RecordBatch) -> None:
            seen.extend(zip(batch["out_y"].to_pylist(), batch["seq"].to_pylist(), strict=True))

    settings = RecorderSettings(replica="r", home=plant.home, fsync_ns=50 * MS)
    recorder = Recorder(plant.source, plant.page, plant.place, settings, observers=[Watching()])
    stream = recorder.open_stream(stream_spec())
    for _ in range(30):
        plant.source.produce(stream, 7, records=300)
        assert recorder.flush(10)                       # the prompt thread's, while the patient one is at any stage of its own
    assert recorder.close(10).lost == 0
    assert plant.stored() == list(range(30 * 2100))
    assert seen
    assert all(y == seq for y, seq in seen)
    assert len({seq for _, seq in seen}) == len(seen)


def test_the_patient_thread_leaves_full_rings_to_the_prompt_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: threading.Semaphore,
) -> None:
    monkeypatch.setattr(Recorder, "_run_prompt", lambda self: None)
    plant = Plant.build(tmp_path, capacity=2000)
    stream = plant.source.open_stream(stream_spec())
    plant.source.produce(stream, 1, records=2000)
    recorder = start(plant)
    for _ in range(5):
        assert looks.acquire(timeout=10)
    assert len(plant.source.ring) == 2000
    recorder.close(0.1)
    plant.page.release()


def test_the_patient_thread_gives_way_to_all_others(plant: Plant) -> None:
    recorder = start(plant)
    stream = recorder.open_stream(stream_spec())
    prompt, patient = recorder._threads
    plant.source.produce(stream, 1)
    assert recorder.flush(10)
    assert patient.native_id is not None
    assert prompt.native_id is not None
    assert os.getpriority(os.PRIO_PROCESS, patient.native_id) >= PATIENT_NICE
    assert os.getpriority(os.PRIO_PROCESS, prompt.native_id) == os.getpriority(os.PRIO_PROCESS, 0)
    assert os.sched_getscheduler(patient.native_id) == os.SCHED_IDLE
    assert os.sched_getscheduler(prompt.native_id) == os.sched_getscheduler(0)
    recorder.close(10)


def test_the_recorder_goes_on_after_a_bug(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = start(plant)
    stream = recorder.open_stream(stream_spec())
    failures = iter([RuntimeError("a bug")])
    drain = plant.source.drain

    def failing(most: int, gives_way: bool) -> list[int]:
        for failure in failures:
            raise failure
        return drain(most, gives_way)

    monkeypatch.setattr(plant.source, "drain", failing)
    plant.source.produce(stream, 1, records=10)
    assert recorder.flush(10)
    assert len(plant.stored()) == 10
    assert recorder.close(10).is_clean


def record_until_killed(home: Path) -> None:
    plant = Plant.build(home, capacity=100, seal_bytes=100_000)
    recorder = start(plant, fsync_ns=10 * MS)
    stream = recorder.open_stream(stream_spec())
    while True:
        plant.source.produce(stream, 3, records=20)
        time.sleep(0.0005)


def test_kills(tmp_path: Path) -> None:
    """Whenever the process is killed: what was appended is there, and what is missing is known to the row."""
    context = multiprocessing.get_context("spawn")
    n_stored = 0
    for i in range(4):
        worker = context.Process(target=record_until_killed, args=(tmp_path / str(i),))
        worker.start()
        journals = tmp_path / str(i) / "journals"
        while not (journals.is_dir() and any(journals.iterdir())):
            time.sleep(0.01)
        time.sleep(0.05 + 0.0137 * i)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        dead = Plant(tmp_path / str(i), _Epoch(1), None, None, None)  # type: ignore[arg-type]
        numbers = dead.check_books()
        assert not numbers.is_clean
        assert numbers.dropped["ring_full"] + numbers.lost + numbers.appended == numbers.assigned
        assert all(journal.bad_frames == 0 for journal in dead.journals())
        n_stored += numbers.appended
    assert n_stored > 0


class _Epoch:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
