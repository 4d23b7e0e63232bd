"""Rows into cells on the recorder's thread, and the first rows of a version into its baseline."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import Conflict, InvalidArgument
from serve.monitoring.baseline import Baseline
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.baselines import BaselineFiles, checked
from serve.monitoring.first_rows import FirstRows, without_redacted
from serve.monitoring.observation import LEAST_DRAWN, MonitoringObserver, groups
from serve.monitoring.ports import SeenCells
from serve.monitoring.service import together
from serve.monitors import MonitoringSpec
from serve.records import RecordedTensor, RecordingSpec, RecordStreamSpec, Redaction
from tests.unit.monitoring.rows import DIGEST, TENSORS, rows, stream

S = 10**9
MINUTE = 60 * S
START = 1_769_860_800 * S


def baseline(version: str = "1", digest: str = DIGEST, created_ns: int = 1, n: int = 500) -> Baseline:
    table = pa.Table.from_batches([rows(n, START)])
    return build_baseline(table, TENSORS, MonitoringSpec(), model="digits", version=version, digest=digest, source="training",
                          created_ns=created_ns)


BASELINE = baseline()


def observer(
    found: Baseline | None = BASELINE, first_rows: Callable[[RecordStreamSpec], FirstRows | None] = lambda stream: None, stable: str = "1",
    max_rows_s: int = 10**9,
) -> MonitoringObserver:
    return MonitoringObserver(lambda model, version, digest: found, first_rows, lambda model: stable, {}, max_rows_s)


def offer(one: MonitoringObserver, spec: RecordStreamSpec, block: pa.RecordBatch) -> int:
    """As the recorder's pump offers a block: the rows that are drawn are shown, the first ones, and nobody sees the others."""
    drawn = one.draw(spec, block.column("ts_ns")[-1].as_py(), block.column("seq")[0].as_py(), block.num_rows)
    if drawn:
        one.observe(spec, block.slice(0, drawn))
    return drawn


def by_place(seen: list[SeenCells]) -> dict[tuple[str, str, int, str], int]:
    """(version, variant, minute, role) -> rows."""
    return {(one.series[1], one.series[2], (one.start_ns - START) // MINUTE, one.role): one.cells.rows for one in seen}


def test_rows_go_to_the_minute_and_the_variant_that_they_are_of() -> None:
    one = observer()
    offer(one, stream(), rows(120, START, spread_ns=2 * MINUTE))
    offer(one, stream(), rows(10, START + MINUTE, variant="explicit"))
    assert by_place(one.take()) == {("1", "1", 0, "own"): 60, ("1", "1", 1, "own"): 60, ("1", "explicit", 1, "own"): 10}
    assert one.take() == []


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["a", "b"])), min_size=1, max_size=30))
def test_groups_hold_every_row_once(places: list[tuple[int, str]]) -> None:
    parts = [rows(1, START + minute * MINUTE, seed=i, variant=variant, first_seq=i) for i, (minute, variant) in enumerate(places)]
    whole = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
    found = groups(whole, MINUTE)
    assert sorted(seq for _, _, batch in found for seq in batch.column("seq").to_pylist()) == list(range(len(places)))
    for variant, start, batch in found:
        assert {(start + 0, variant)} == {(ts // MINUTE * MINUTE, name) for ts, name in zip(
            batch.column("ts_ns").to_pylist(), batch.column("variant").to_pylist(), strict=True)}
    assert len({(variant, start) for variant, start, _ in found}) == len(found)


def test_counts_are_those_of_one_look_at_all_rows() -> None:
    one, whole = observer(), observer()
    batches = [rows(50, START, seed=i, shift=i / 10, missing=i) for i in range(6)]
    for batch in batches:
        offer(one, stream(), batch)
        one.observe(stream(), rows(0, START))
    offer(whole, stream(), pa.Table.from_batches(batches).combine_chunks().to_batches()[0])
    [a], [b] = one.take(), whole.take()
    assert a.cells.to_bytes() == b.cells.to_bytes()


def test_failed_requests_are_no_rows() -> None:
    one = observer()
    offer(one, stream(), rows(30, START, failed=12))
    offer(one, stream(), rows(5, START, failed=5))
    [seen] = one.take()
    assert seen.cells.rows == 18


def test_a_canary_is_counted_by_the_stable_baseline_too() -> None:
    one = observer()
    offer(one, stream(), rows(10, START))
    offer(one, stream("2"), rows(7, START, variant="2"))
    offer(one, stream("2"), rows(5, START, variant="shadow"))
    seen = one.take()
    assert by_place(seen) == {("1", "1", 0, "own"): 10, ("2", "2", 0, "own"): 7, ("2", "2", 0, "stable"): 7, ("2", "shadow", 0, "own"): 5,
                              ("2", "shadow", 0, "stable"): 5}


@pytest.mark.parametrize("n_rows", [1, 300, LEAST_DRAWN, 2500, 50_000])
def test_up_to_the_rate_every_row_is_drawn(n_rows: int) -> None:
    one = observer(max_rows_s=4 * n_rows)
    drawn = [one.draw(stream(), START + second * S, (4 * second + part) * n_rows, n_rows) for second in range(3) for part in range(4)]
    assert (set(drawn), one.skipped()["drawn"]) == ({n_rows}, 0)


@pytest.mark.parametrize(("n_rows", "parts"), [(300, 200), (LEAST_DRAWN, 50), (1500, 40), (20_000, 5), (200_000, 2)])
def test_above_the_rate_as_many_rows_are_drawn_as_the_rate_allows(n_rows: int, parts: int) -> None:
    limit, seconds = 10_000, 300
    one = observer(max_rows_s=limit)
    drawn = [one.draw(stream(), START + second * S, (parts * second + part) * n_rows, n_rows)
             for second in range(seconds) for part in range(parts)]
    later = drawn[parts:]           # the first second has none before it that tells its share
    assert sum(later) == pytest.approx(limit * (seconds - 1), rel=0.05)
    assert set(later) <= {0, min(n_rows, max(math.ceil(limit / parts), LEAST_DRAWN))}
    assert sum(drawn) + one.skipped()["drawn"] == seconds * parts * n_rows


def test_above_the_rate_what_is_claimed_is_what_was_looked_at() -> None:
    one = observer(max_rows_s=1000)
    drawn = sum(offer(one, stream(), rows(500, START + second * S, seed=part, first_seq=second * 5000 + part * 500))
                for second in range(5) for part in range(10))
    total = together(seen.cells for seen in one.take())
    assert total is not None
    assert 4_000 < total.rows < 7_500
    assert total.rows == drawn == 25_000 - one.skipped()["drawn"]
    assert set(total.numeric["in_x"].counts.sum(axis=1).tolist()) == {total.rows}


# Numbers between blocks' first rows, as rows of other streams lie between; the golden ratio maps Fibonacci's to neighbours.
@pytest.mark.parametrize("step", [LEAST_DRAWN, 2500, 2584, 1 << 20, 433_494_437])
def test_which_blocks_are_drawn_does_not_follow_any_period(step: int) -> None:
    one = observer(max_rows_s=20 * LEAST_DRAWN // 2)
    drawn = np.array([one.draw(stream(), START + i // 20 * S, i * step, LEAST_DRAWN) > 0 for i in range(8020)])[20:]
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    both = [float(np.mean(drawn[lag:] & drawn[:-lag])) for lag in range(1, 200)]
    assert both == pytest.approx([0.25] * len(both), abs=0.03), "whether a block is drawn tells nothing of any other"


def test_far_above_the_rate_few_blocks_are_looked_at_and_many_rows_of_each() -> None:
    looks = []
    one = observer(max_rows_s=1000)
    for second in range(12):
        for part in range(20):
            offer(one, stream(), rows(2500, START + second * S, seed=part, first_seq=(second * 20 + part) * 2500))
            seen = together(found.cells for found in one.take())
            looks.append(0 if seen is None else seen.rows)
    later = looks[20:]
    assert set(later) == {0, LEAST_DRAWN}
    assert 5000 < sum(later) < 18_000       # 11,000 are to be expected
    assert sum(looks) + one.skipped()["drawn"] == 240 * 2500


def test_each_version_has_a_rate_of_its_own_and_a_burst_is_soon_forgotten() -> None:
    one = observer(max_rows_s=1000)

    def drawn(version: str, second: int, n_rows: int) -> int:
        return sum(one.draw(stream(version), START + second * S, (100 * second + part) * n_rows, n_rows) for part in range(100))

    assert drawn("1", 0, 2000) < 20_000
    assert drawn("2", 0, 10) == 1000
    assert drawn("1", 1, 10) < 200, "as few as the second before let expect"
    assert drawn("1", 2, 10) == 1000


def test_blocks_that_come_late_leave_the_rate_as_it_is() -> None:
    """Blocks come in the order in which requests were answered: the second before comes back again and again."""
    one = observer(max_rows_s=1000)
    drawn = sum(one.draw(stream(), START + (part // 100 - part % 2) * S, part * 2000, 2000) for part in range(200, 2200))
    assert drawn < 1.5 * 1000 * 20


def test_the_rate_survives_a_clock_that_is_set_back() -> None:
    one = observer(max_rows_s=1000)
    for second, n_rows in ((0, 10_000), (-3600, 10), (-3599, 10)):
        drawn = sum(one.draw(stream(), START + second * S, part * n_rows, n_rows) for part in range(50))
    assert drawn == 500, "a burst in a future that never came is forgotten"


def test_of_a_model_that_is_not_watched_no_row_is_drawn() -> None:
    one = observer()
    off = stream(monitoring=MonitoringSpec(enabled=False))
    one.open(off)
    assert offer(one, off, rows(10, START)) == 0
    assert (one.take(), one.versions(), set(one.skipped().values())) == ([], [], {0})


def test_another_digest_is_another_version() -> None:
    asked: list[tuple[str, str, str]] = []

    def find(model: str, version: str, digest: str) -> Baseline | None:
        asked.append((model, version, digest))
        return BASELINE if digest == DIGEST else None

    one = MonitoringObserver(find, lambda stream: None, lambda model: "1", {})
    one.open(stream())
    assert offer(one, stream(), rows(10, START)) == 10
    other = stream(digest="sha256:" + "cd" * 32)
    assert offer(one, other, rows(10, START)) == 0, "nobody collects first rows"
    assert asked == [("digits", "1", DIGEST), ("digits", "1", other.digest)], "once each"
    assert (one.baseline("digits", "1"), one.digest("digits", "1"), one.skipped()["no_baseline"]) == (None, other.digest, 10)


def test_rows_that_do_not_fit_the_baseline_end_the_watch_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    one = observer()
    unfit = rows(10, START).drop_columns(["in_colour"])
    for _ in range(3):
        offer(one, stream(), unfit)
    assert one.take() == []
    assert capsys.readouterr().out.count("do not fit its baseline") == 1


def test_a_new_baseline_counts_from_the_next_row_on() -> None:
    one = observer()
    offer(one, stream(), rows(10, START))
    newer = baseline(created_ns=2, n=400)
    one.use(newer)
    one.use(baseline("7"))
    offer(one, stream(), rows(5, START))
    seen = one.take()
    assert {(found.cells.baseline, found.cells.rows) for found in seen} == {(BASELINE.sha256, 10), (newer.sha256, 5)}
    assert one.known(BASELINE.sha256) is BASELINE
    assert one.baseline("digits", "1") is newer


# The first rows of a version without a baseline

def collecting(wanted: int, made: list[Baseline], sources: list[str]) -> Callable[[RecordStreamSpec], FirstRows]:
    def build(stream: RecordStreamSpec, table: pa.Table, source: str) -> Baseline:
        sources.append(f"{source} {table.num_rows}")
        return build_baseline(table, stream.tensors, MonitoringSpec(), model=stream.model, version=stream.version, digest=stream.digest,
                              source="first_rows", created_ns=3)

    return lambda stream: FirstRows(stream, build, made.append, wanted)


@pytest.mark.parametrize(("variants", "source"), [(("1", "1"), "first_rows 100"), (("shadow", "shadow"), "shadow 100"),
                                                 (("shadow", "1"), "first_rows 100")])
def test_a_version_without_a_baseline_gets_one_of_its_first_rows(variants: tuple[str, str], source: str) -> None:
    made: list[Baseline] = []
    sources: list[str] = []
    one = observer(None, collecting(100, made, sources))
    assert offer(one, stream(), rows(60, START, variant=variants[0])) == 60
    assert one.collecting("digits", "1") == (60, 100)
    watch = one._versions["digits", "1", DIGEST]
    first = watch.collecting
    assert first is not None
    assert offer(one, stream(), rows(60, START, variant=variants[1])) == 40, "as many as are missing"
    first.wait(10)
    assert (sources, [one.rows for one in made]) == ([source], [100])
    assert offer(one, stream(), rows(5, START)) == 0
    one.use(made[0])
    assert offer(one, stream(), rows(7, START)) == 7
    [seen] = one.take()
    assert (seen.cells.rows, one.collecting("digits", "1"), one.skipped()["no_baseline"]) == (7, None, 125)


def test_failed_requests_are_no_first_rows() -> None:
    made: list[Baseline] = []
    one = observer(None, collecting(100, made, []))
    assert offer(one, stream(), rows(90, START, failed=30)) == 90
    assert one.collecting("digits", "1") == (60, 100)
    assert offer(one, stream(), rows(90, START)) == 40
    first = one._versions["digits", "1", DIGEST].collecting
    assert first is not None
    first.wait(10)
    assert [found.rows for found in made] == [100]


def test_rows_of_which_no_baseline_can_be_made_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(stream: RecordStreamSpec, table: pa.Table, source: str) -> Baseline:
        raise InvalidArgument("no tensor")

    first = FirstRows(stream(), fails, lambda found: None, 10)
    first.add(rows(20, START))
    first.wait(10)
    first.add(rows(20, START))
    assert "no baseline can be made of the first rows" in capsys.readouterr().out


def test_the_first_rows_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.monitoring.first_rows.MAX_BYTES", 5_000)
    made: list[Baseline] = []
    first = collecting(10_000, made, [])(stream())
    for _ in range(4):
        first.add(rows(50, START))
    first.wait(10)
    assert 50 <= made[0].rows <= 100


def test_first_rows_begin_anew_when_other_columns_are_recorded() -> None:
    made: list[Baseline] = []
    first = collecting(60, made, [])(stream())
    first.add(rows(50, START))
    first.add(rows(40, START).drop_columns(["unit"]))
    assert (first.n_rows, made) == (40, [])
    first.add(rows(40, START).drop_columns(["unit"]))
    first.wait(10)
    assert [one.rows for one in made] == [60]


def test_text_that_is_redacted_is_in_no_baseline() -> None:
    hidden = stream(spec=RecordingSpec(redact=(Redaction("in_colour", "hash"), Redaction("in_x", "bucket", (0.0,)))))
    table = pa.Table.from_batches([rows(40, START)])
    assert set(table.column_names) - set(without_redacted(table, hidden).column_names) == {"in_colour"}
    assert without_redacted(table, stream()).column_names == table.column_names


# Where baselines lie

@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models" / "digits" / "1"
    made.mkdir(parents=True)
    return made


def files(tmp_path: Path, folder: Path | None) -> BaselineFiles:
    return BaselineFiles(tmp_path / "state", lambda model, version: folder)


def test_a_baseline_lies_beside_the_model_or_in_the_state_directory(tmp_path: Path, folder: Path) -> None:
    assert files(tmp_path, folder).save(BASELINE) == folder / "baseline.json"
    assert files(tmp_path, folder).find("digits", "1", DIGEST) == BASELINE
    assert sorted(path.name for path in folder.iterdir()) == ["baseline.json"]
    assert files(tmp_path, None).save(BASELINE) == tmp_path / "state" / "digits" / "1.json"
    assert files(tmp_path, None).find("digits", "1", DIGEST) == BASELINE
    assert files(tmp_path, None).find("digits", "2", DIGEST) is None


def test_a_repository_that_cannot_be_written_is_normal(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: Path, content: bytes) -> None:
        if folder in path.parents:
            raise OSError(30, "Read-only file system")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr("serve.monitoring.baselines.write_whole", refuses)
    assert files(tmp_path, folder).save(BASELINE) == tmp_path / "state" / "digits" / "1.json"


def test_of_two_the_later_one_counts_and_an_automatic_one_only_by_itself(tmp_path: Path, folder: Path) -> None:
    older, newer, automatic = baseline(created_ns=1), baseline(created_ns=5), baseline(created_ns=9, n=300)
    files(tmp_path, None).save(automatic, is_automatic=True)
    assert files(tmp_path, folder).find("digits", "1", DIGEST) == automatic
    files(tmp_path, None).save(newer)
    files(tmp_path, folder).save(older)
    assert files(tmp_path, folder).find("digits", "1", DIGEST) == newer
    files(tmp_path, folder).save(baseline(created_ns=6))
    found = files(tmp_path, folder).find("digits", "1", DIGEST)
    assert found is not None
    assert found.created_ns == 6


def test_a_baseline_of_another_digest_is_refused(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Conflict, match=r"with digest sha256:abababababab, .* files have sha256:cdcdcdcdcdcd.*changed since"):
        checked(BASELINE, "digits", "1", "sha256:" + "cd" * 32)
    with pytest.raises(InvalidArgument, match="is of version 1 of 'digits', not of version 2"):
        checked(BASELINE, "digits", "2", DIGEST)
    place = files(tmp_path, folder)
    place.save(BASELINE)
    for _ in range(2):
        assert place.find("digits", "1", "sha256:" + "cd" * 32) is None
    assert capsys.readouterr().out.count("a baseline cannot be used") == 1, "said once"
    (folder / "baseline.json").write_text(BASELINE.to_json().replace('"rows": 500', '"rows": 501'))
    assert place.find("digits", "1", DIGEST) is None
    assert "it was changed" in capsys.readouterr().out


def test_a_file_that_somebody_puts_there_is_found(tmp_path: Path, folder: Path) -> None:
    place = files(tmp_path, folder)
    assert place.find_changed("digits", "1", DIGEST) is None
    files(tmp_path, folder).save(BASELINE)
    assert place.find_changed("digits", "1", DIGEST) == BASELINE
    assert place.find_changed("digits", "1", DIGEST) is None, "as it was"


def test_other_tensors_cannot_be_compared_and_cost_nothing() -> None:
    other = RecordedTensor("in", "y", "FP32", (2,), 0)
    batch = rows(10, START, variant="2").select(["ts_ns", "seq", "row", "variant"])
    batch = pa.RecordBatch.from_arrays(
        [*batch.columns, pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(20, np.float32)), 2)], [*batch.schema.names, "in_y"])
    made = build_baseline(pa.Table.from_batches([batch] * 5), (other,), MonitoringSpec(), model="digits", version="2", digest=DIGEST,
                          source="training", created_ns=1)
    one = MonitoringObserver(lambda model, version, digest: made if version == "2" else BASELINE, lambda stream: None, lambda model: "1",
                             {})
    offer(one, stream(), rows(10, START))
    offer(one, RecordStreamSpec("digits", "2", DIGEST, (other,)), batch)
    assert by_place(one.take()) == {("1", "1", 0, "own"): 10, ("2", "2", 0, "own"): 10}
