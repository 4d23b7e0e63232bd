"""Whatever the disk does: numbered = stored + dropped + lost, to the row, and no row twice. The clock is the test's."""

import errno
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from serve._core.record_block import BLOCK_BYTES
from serve.recording import sink as sink_module
from serve.recording.backoff import FIRST_NS, LONGEST_NS, Backoff
from serve.recording.journal import read_journal
from serve.recording.lane import JournalLane
from serve.recording.layout import JOURNALS
from serve.recording.pump import BATCH_NS, BATCH_ROWS, OBSERVED_ROWS, TRIM_NS, Pace, PumpStream, RecordPump
from serve.recording.redaction import Redactor
from serve.recording.sink import RecordSink, SinkStream
from serve.recording.stream_header import StreamHeader
from serve.records import RecordingSpec, RecordStreamSpec, Redaction
from tests.unit.recording.recorder_parts import MS, RECORD_BYTES, FaultyFiles, Plant, S, stream_spec

STEP_NS = 10 * MS


class Rig:
    """A plant with the pump on it. `run` lets virtual time pass, a step each 10 ms. seen: rows that were observed."""

    def __init__(self, home: Path, *, fsync_ns: int = S, capacity: int = 1 << 20, limit: int = BLOCK_BYTES, seal_bytes: int = 1 << 30,
                 seal_ns: int = 1000 * S) -> None:
        self.plant = Plant.build(home, capacity=capacity, limit=limit, seal_bytes=seal_bytes, seal_ns=seal_ns)
        self.files: FaultyFiles = self.plant.files
        self.now_ns = 0
        self.has_room = True
        self.seen: list[int] = []
        self.fault: Exception | None = None
        self.sink = RecordSink(self.plant.page, fsync_ns)
        self.pump = RecordPump(self.plant.source, self.sink, observers=[self], has_room=lambda: self.has_room)
        self.streams: list[SinkStream] = []

    def draw(self, stream: RecordStreamSpec, at_ns: int, seq: int, n_rows: int) -> int:
        return n_rows

    def observe(self, stream: RecordStreamSpec, batch: pa.RecordBatch) -> None:
        self.seen += batch["seq"].to_pylist()
        if self.fault:
            raise self.fault

    def open(self, spec: RecordStreamSpec) -> int:
        stream = self.plant.source.open_stream(spec)
        redactor = Redactor(spec, lambda: bytes(32))
        recorded = replace(spec, tensors=redactor.tensors)

        def header(number: int) -> StreamHeader:
            return StreamHeader.of_stream(recorded, replica="r", epoch=self.plant.page.epoch, journal=number, created_ns=1)

        lane = JournalLane(self.plant.place, redactor.schema, header)
        self.streams.append(SinkStream(spec.version, lane, is_promised=spec.spec.policy == "fail-closed"))
        self.pump.add(stream, PumpStream(spec, redactor, self.streams[-1]))
        return stream

    def run(self, duration_ns: int, rows: int = 0, *streams: int) -> None:
        """rows: of each stream, in each step."""
        for _ in range(duration_ns // STEP_NS):
            self.now_ns += STEP_NS
            for stream in streams:
                self.plant.source.produce(stream, 1, rows)
            self.pump.step(self.now_ns)

    def end(self) -> None:
        """As the recorder ends when there is time."""
        for _ in range(10_000):
            self.now_ns += STEP_NS
            self.pump.step(self.now_ns, force=True)
            if self.pump.is_drained() and self.sink.takes(self.now_ns):
                break
        self.sink.close(self.now_ns)
        self.plant.page.close_cleanly()
        self.plant.page.release()

    def check(self) -> int:
        """Rows lost; those of the streams' counts agree with the page."""
        numbers = self.plant.check_books()
        assert numbers.appended == sum(stream.appended for stream in self.streams)
        assert numbers.dropped["disk_budget"] == sum(stream.over_budget for stream in self.streams)
        assert len(set(self.seen)) == len(self.seen), "a row was observed twice"
        return numbers.lost


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_rows_are_stored_batch_by_batch_each_stream_in_its_own_journal(rig: Rig) -> None:
    one, two = rig.open(stream_spec("1")), rig.open(stream_spec("2"))
    rig.run(1 * S, 30, one, two)
    assert len(rig.plant.stored()) == pytest.approx(6000, abs=600)
    rig.end()
    assert rig.check() == 0
    assert rig.plant.names() == ["1-1.journal", "1-2.journal"]
    for journal, version in zip(rig.plant.journals(), "12", strict=True):
        assert journal.header is not None
        assert (journal.header.version, journal.rows, journal.is_complete) == (version, 3000, True)
        assert {frame.rows for frame in journal.frames[:-1]} <= set(range(300, 400)), "each block waits for 100 ms"
        first = next(journal.read()).slice(0, 1).to_pylist()[0]
        assert first["in_text"] == b"text-%d" % first["seq"]
    assert sorted(rig.seen) == rig.plant.stored()


def test_blocks_that_take_no_more_do_not_wait(tmp_path: Path) -> None:
    """Large rows fill a block before there are 1024 of them; what is behind it in the ring waits no longer than a step."""
    rig = Rig(tmp_path, limit=16 * RECORD_BYTES)
    stream = rig.open(stream_spec())
    rig.run(STEP_NS, 40, stream)
    assert len(rig.seen) == 16
    rig.run(STEP_NS)
    assert len(rig.seen) == 32
    rig.run(5 * STEP_NS)
    assert len(rig.seen) == 32, "8 rows are no reason to hurry"
    rig.end()
    assert rig.check() == 0


def test_idle_streams_give_their_memory_back(rig: Rig) -> None:
    busy, idle = (rig.open(stream_spec(version)) for version in "12")
    rig.run(200 * MS, 10, busy, idle)
    rig.run(2 * TRIM_NS, 1, busy)
    rig.run(200 * MS)
    assert rig.plant.source.blocks(idle).trim() == 0
    assert rig.plant.source.blocks(busy).trim() > 0
    rig.run(100 * MS, 10, idle)
    rig.run(TRIM_NS // 2)
    assert rig.plant.source.blocks(idle).trim() > 0, "not at once"
    rig.end()
    assert rig.check() == 0


def test_batches_of_1024_rows_do_not_wait(rig: Rig) -> None:
    stream = rig.open(stream_spec())
    rig.run(STEP_NS, 1024, stream)
    assert len(rig.plant.stored()) == 1024
    rig.run(STEP_NS, 1023, stream)
    assert len(rig.plant.stored()) == 1024
    rig.run(100 * MS, 0, stream)
    assert len(rig.plant.stored()) == 2047


def test_whoever_is_patient_breathes_between_any_two_stages_of_a_batch(rig: Rig) -> None:
    streams = [rig.open(stream_spec(version)) for version in "12"]
    for stream in streams:
        rig.plant.source.produce(stream, 1, records=1024)
    breaths: list[tuple[int, int]] = []
    rig.pump.step(STEP_NS, pace=Pace(rest=lambda: breaths.append((len(rig.seen), len(rig.plant.stored())))))
    looks = [(n, 0) for n in range(OBSERVED_ROWS, 1024, OBSERVED_ROWS) for _ in "ab"]     # taken apart and observed, some rows at once
    of_one = [(0, 0), (0, 0), *looks, (1024, 0), (1024, 0)]                               # drained before, ready for the journal after
    assert breaths == [*of_one, *((1024 + seen, 1024 + stored) for seen, stored in of_one)]
    assert len(rig.plant.stored()) == 2048


def test_whoever_gives_way_leaves_rows_for_later_and_takes_no_small_blocks(rig: Rig) -> None:
    """Unless they have waited for long; a step that does not give way takes what is there."""
    stream, source = rig.open(stream_spec()), rig.plant.source
    source.n_in_the_way = 1
    source.produce(stream, 16, records=300)                             # a drain that gives way takes more than BATCH_ROWS at least
    rig.pump.step(STEP_NS, pace=Pace(gives_way=True))
    assert rig.pump.gave_way
    assert source.ring
    assert source.blocks(stream).n_rows >= BATCH_ROWS
    assert rig.plant.stored() == []
    rig.pump.step(STEP_NS + BATCH_NS, pace=Pace(gives_way=True))
    assert rig.pump.gave_way
    n_stored = len(rig.plant.stored())
    assert BATCH_ROWS <= n_stored < 4800
    source.n_in_the_way = 0
    rig.pump.step(STEP_NS + BATCH_NS, pace=Pace(gives_way=True))
    assert not rig.pump.gave_way
    assert len(rig.plant.stored()) == 4800


def test_another_step_may_be_taken_while_one_breathes(rig: Rig) -> None:
    """What a step has taken and not put yet is not drained, and comes once."""
    streams = [rig.open(stream_spec(version)) for version in "12"]
    is_drained: list[bool] = []

    def rest() -> None:
        is_drained.append(rig.pump.is_drained())
        if len(is_drained) == 2:                        # the first stream's rows are in the step's hands
            for stream in streams:
                rig.plant.source.produce(stream, 3, records=100)
            rig.pump.step(rig.now_ns, force=True)
            assert (len(rig.plant.stored()), rig.plant.source.pending_bytes()) == (1024 + 2 * 300, 0)
            is_drained.append(rig.pump.is_drained())

    for stream in streams:
        rig.plant.source.produce(stream, 1, records=1024)
    rig.pump.step(rig.now_ns, pace=Pace(rest=rest))
    n_looks = 2 * 1024 // OBSERVED_ROWS
    assert is_drained == [False] * (n_looks + 3) + [True]
    rig.end()
    assert rig.check() == 0
    assert len(rig.plant.stored()) == 2 * (1024 + 300)


def test_journals_are_closed_when_large_or_old(tmp_path: Path) -> None:
    rig = Rig(tmp_path, seal_bytes=200_000, seal_ns=5 * S)
    one, two = rig.open(stream_spec("1")), rig.open(stream_spec("2"))
    rig.plant.source.produce(two, 1)
    rig.run(1 * S, 100, one)
    sizes = [journal.n_bytes for journal in rig.plant.journals() if journal.header and journal.header.version == "1"]
    assert len(sizes) > 3
    assert all(200_000 <= size < 400_000 for size in sizes[:-1])
    assert rig.plant.names().count("1-2.open") == 1
    rig.run(6 * S)
    assert not [name for name in rig.plant.names() if name.endswith(".open")], "idle ones are closed when they are old"
    rig.end()
    assert rig.check() == 0
    assert all(journal.is_complete for journal in rig.plant.journals())


@pytest.mark.parametrize(("fsync_ns", "syncs"), [(S, 10), (100 * MS, 100), (0, 100)])
def test_appended_rows_are_synced_in_time(tmp_path: Path, fsync_ns: int, syncs: int) -> None:
    rig = Rig(tmp_path, fsync_ns=fsync_ns)
    stream = rig.open(stream_spec())
    rig.run(10 * S, 1, stream)
    assert rig.files.n_syncs == pytest.approx(syncs, rel=0.15)
    if fsync_ns == 0:
        assert rig.sink.unsynced_bytes == 0
    rig.run(2 * S)
    assert rig.sink.unsynced_bytes == 0
    before = rig.files.n_syncs
    rig.run(10 * S)
    assert rig.files.n_syncs == before, "what is synced is not synced again"


def test_much_is_synced_early(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed sync gives back is bounded."""
    monkeypatch.setattr(sink_module, "MAX_UNSYNCED_BYTES", 300_000)
    stream = rig.open(stream_spec())
    rig.run(STEP_NS, 1, stream)
    for _ in range(20):
        rig.run(STEP_NS, 1024, stream)
        assert rig.sink.unsynced_bytes < 300_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_disk_that_takes_nothing(tmp_path: Path, number: int) -> None:
    """Rows wait in blocks and rings; then the rings are full and the data plane drops; then everything goes on."""
    rig = Rig(tmp_path, capacity=500, limit=256 * RECORD_BYTES)
    stream = rig.open(stream_spec())
    rig.run(1 * S, 10, stream)
    rig.files.faults = {"pwritev": number, "create": number, "fdatasync": number, "rename": number}
    rig.run(3 * S, 10, stream)
    assert (rig.sink.backoff.is_failing, rig.sink.backoff.error) == (True, errno.errorcode[number])
    assert rig.sink.backoff.since_ns == pytest.approx(1 * S, abs=200 * MS)
    assert len(rig.plant.source.ring) == 500
    assert rig.sink.waiting_bytes < 100_000
    dropped = rig.plant.page.numbers().dropped["ring_full"]
    assert dropped > 1000
    rig.files.faults = {}
    rig.run(LONGEST_NS + 2 * S, 10, stream)
    assert not rig.sink.backoff.is_failing
    rig.end()
    assert rig.check() == 0
    assert rig.plant.page.numbers().assigned == 1000 + 3000 + 7000
    assert len(rig.plant.journals()) <= 2, "attempts that failed leave no journals behind"


def test_a_disk_that_fills_up_in_the_middle_of_rows(tmp_path: Path) -> None:
    """Short writes: some bytes are there when the disk is full. Room comes back now and then, a little at a time."""
    rig = Rig(tmp_path, capacity=2000)
    stream = rig.open(stream_spec())
    rig.files.room = 50_000
    for _ in range(12):
        rig.run(2 * S, 5, stream)
        rig.files.room += 17_777
    assert rig.sink.backoff.counts["ENOSPC"] > 10
    rig.files.room = None
    rig.run(LONGEST_NS + S)
    rig.end()
    assert rig.check() == 0
    assert all(journal.bad_frames == 0 and journal.torn_rows == 0 for journal in rig.plant.journals())


def test_a_disk_that_stays_full_until_the_end(tmp_path: Path) -> None:
    rig = Rig(tmp_path, capacity=100)
    stream = rig.open(stream_spec())
    rig.run(1 * S, 5, stream)
    rig.files.faults = {"pwritev": errno.ENOSPC}
    rig.run(1 * S, 5, stream)
    rig.sink.close(rig.now_ns)
    rig.plant.page.close_cleanly()
    lost = rig.check()
    on_its_way = rig.plant.source.blocks(stream).n_rows + len(rig.plant.source.ring)
    assert lost == on_its_way + rig.streams[stream].lost > 0, "each lost row is one that was waiting"


@pytest.mark.parametrize("failures", [1, 3])
def test_a_sync_that_fails(rig: Rig, failures: int) -> None:
    """What was not synced is written again, into a journal of its own; it is not counted twice."""
    one, two = rig.open(stream_spec("1")), rig.open(stream_spec("2"))
    rig.run(990 * MS, 7, one, two)
    rig.run(100 * MS)
    before = rig.plant.stored()
    rig.run(S)
    rig.run(500 * MS, 3, one, two)
    rig.files.once = {"fdatasync": [errno.EIO] * failures}
    rig.run(10 * S, 1, one, two)
    assert (rig.files.once, set(rig.sink.backoff.counts)) == ({"fdatasync": []}, {"EIO"})
    assert rig.plant.stored()[: len(before)] == before, "what was synced stays where it was"
    rig.end()
    assert rig.check() == 0
    assert sum(journal.rows for journal in rig.plant.journals()) == rig.plant.page.numbers().assigned
    assert all(journal.is_complete and journal.bad_frames == 0 for journal in rig.plant.journals())


def test_rows_that_a_failed_sync_destroyed_are_lost_and_counted(rig: Rig) -> None:
    stream = rig.open(stream_spec())
    rig.run(1500 * MS, 2, stream)
    unsynced = len(rig.plant.stored()) - 2 * 99
    assert unsynced > 50
    rig.files.corrupt, rig.files.once = True, {"fdatasync": [errno.EIO]}
    rig.run(1 * S)
    rig.files.corrupt = False
    rig.run(1 * S, 2, stream)
    rig.end()
    assert rig.check() == rig.streams[stream].lost > 0
    assert rig.streams[stream].shown >= rig.streams[stream].appended, "a counter does not go back"


def test_rows_that_cannot_be_taken_out_of_a_journal_are_not_written_twice(rig: Rig) -> None:
    stream = rig.open(stream_spec())
    rig.run(1500 * MS, 2, stream)
    rig.files.once = {"fdatasync": [errno.EIO], "truncate": [errno.EIO]}
    rig.run(3 * S, 2, stream)
    rig.end()
    assert rig.check() == 0
    assert rig.plant.page.numbers().assigned == rig.plant.page.numbers().appended == 900


@pytest.mark.parametrize("method", ["fdatasync", "rename", "sync_folder", "pwritev"])
def test_a_journal_that_cannot_be_closed(tmp_path: Path, method: str) -> None:
    rig = Rig(tmp_path, seal_ns=2 * S)
    stream = rig.open(stream_spec())
    rig.run(1800 * MS, 2, stream)
    rig.files.faults = {method: errno.EIO}
    rig.run(1 * S, 2, stream)
    rig.files.faults = {}
    rig.run(8 * S, 2, stream)
    assert not rig.sink.backoff.is_failing
    rig.end()
    assert rig.check() == 0
    assert not [name for name in rig.plant.names() if not name.endswith(".journal")]


def test_the_disk_budget_drops_and_says_so(rig: Rig) -> None:
    stream = rig.open(stream_spec())
    rig.run(1 * S, 4, stream)
    rig.has_room = False
    rig.run(1 * S, 4, stream)
    rig.has_room = True
    rig.run(1 * S, 4, stream)
    rig.end()
    assert rig.check() == 0
    numbers = rig.plant.page.numbers()
    assert numbers.dropped["disk_budget"] == pytest.approx(400, abs=50)
    assert numbers.appended + numbers.dropped["disk_budget"] == 1200
    assert len(rig.seen) == 1200, "statistics are made of what is not stored, too"


def test_the_budget_also_drops_what_the_disk_refused(rig: Rig) -> None:
    stream = rig.open(stream_spec())
    rig.files.faults = {"create": errno.ENOSPC}
    rig.run(500 * MS, 4, stream)
    assert rig.sink.waiting_bytes > 0
    rig.has_room = False
    rig.run(200 * MS)
    assert (rig.sink.waiting_bytes, rig.plant.page.numbers().dropped["disk_budget"]) == (0, 200)
    rig.files.faults = {}
    rig.end()
    assert rig.check() == 0


@pytest.mark.parametrize("is_refused", [False, True])
def test_the_budget_drops_nothing_that_was_promised(tmp_path: Path, is_refused: bool) -> None:
    """policy: fail-closed. Its rows fill the ring, which then refuses the requests; others are dropped as always."""
    rig = Rig(tmp_path, capacity=100, limit=8 * RECORD_BYTES)
    promised, other = rig.open(stream_spec("1", RecordingSpec(policy="fail-closed"))), rig.open(stream_spec("2"))
    rig.files.faults = {"create": errno.ENOSPC} if is_refused else {}
    rig.run(50 * MS, 1, promised)
    rig.run(200 * MS)
    rig.has_room, rig.files.faults = False, {}
    rig.run(50 * MS, 1, other)
    rig.run(200 * MS)
    assert (rig.streams[0].over_budget, rig.streams[1].over_budget) == (0, 5)
    rig.run(200 * MS, 2, promised)
    rig.run(200 * MS)
    assert len(rig.plant.source.ring) == 40 - 8
    rig.has_room = True
    rig.end()
    assert (rig.streams[0].appended, rig.streams[0].over_budget) == (45, 0)
    assert rig.check() == 0


def test_what_was_promised_is_kept_at_the_end_too(rig: Rig) -> None:
    promised = rig.open(stream_spec("1", RecordingSpec(policy="fail-closed")))
    rig.has_room = False
    rig.run(500 * MS, 2, promised)
    rig.end()
    assert (rig.check(), rig.streams[0].appended) == (0, 100)


def test_observers_that_fail_stop_nothing(rig: Rig) -> None:
    stream = rig.open(stream_spec())
    rig.fault = ValueError("an observer's own trouble")
    rig.run(1 * S, 4, stream)
    rig.end()
    assert rig.check() == 0
    assert rig.pump.observer_errors == 10
    assert len(rig.plant.stored()) == 400


def test_rows_that_cannot_be_redacted_are_lost_and_counted(rig: Rig) -> None:
    good = rig.open(stream_spec("1"))
    bad = rig.open(stream_spec("2", RecordingSpec(redact=(Redaction("tags", "mask"),))))
    rig.pump._streams[bad].redactor.apply = lambda batch: batch["no such column"]  # type: ignore[method-assign]
    rig.run(1 * S, 4, good, bad)
    rig.end()
    assert rig.check() == rig.streams[bad].lost == 400
    assert rig.streams[good].appended == 400


def test_no_memory_for_records_leaves_them_in_the_rings(rig: Rig) -> None:
    stream = rig.open(stream_spec())
    rig.plant.source.memory_errors = 5
    rig.run(1 * S, 4, stream)
    rig.end()
    assert rig.check() == 0
    assert len(rig.plant.stored()) == 400


def test_bit_flips_in_a_journal_are_found_to_the_row(rig: Rig) -> None:
    stream = rig.open(stream_spec())
    rig.run(1 * S, 11, stream)
    rig.end()
    path = rig.plant.home / JOURNALS / "1-1.journal"
    whole = bytearray(path.read_bytes())
    n_rows = rig.plant.page.numbers().appended
    for at in range(len(whole) // 20, len(whole), len(whole) // 20):
        whole[at] ^= 0x10
        path.write_bytes(whole)
        contents = read_journal(path)
        assert contents.rows + contents.bad_rows == n_rows
        assert contents.bad_rows > 0
        numbers = rig.plant.page.numbers()
        assert numbers.assigned == contents.rows + contents.bad_rows + numbers.lost


def test_pauses_double_and_success_forgets_them() -> None:
    backoff, now_ns, pauses = Backoff(), 0, []
    for i in range(10):
        assert backoff.failed(OSError(errno.EIO, "broken"), now_ns) == (i == 0)
        pause = 0
        while not backoff.may_try(now_ns + pause):
            pause += FIRST_NS
        pauses.append(pause // FIRST_NS)
        now_ns += pause
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 100, 100, 100]
    assert backoff.failed(OSError(errno.ENOSPC, "full"), now_ns), "another error is news"
    assert (backoff.since_ns, backoff.counts) == (0, {"EIO": 10, "ENOSPC": 1})
    assert backoff.succeeded()
    assert not backoff.succeeded()
    assert backoff.may_try(0)
