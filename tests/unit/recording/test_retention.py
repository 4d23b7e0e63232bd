"""What is purged: by age, by the disk; and what a hold keeps."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import Conflict, InvalidArgument, NotFound
from serve.recording.holds import Hold, is_held, lift_hold, place_hold, read_holds
from serve.recording.home import Home
from serve.recording.jobs import Keeping
from serve.recording.layout import DAY_NS, HOLDS, JournalName, part_path
from serve.recording.manifest import ManifestState, Part
from serve.recording.manifest_file import Manifest, read_manifest
from serve.recording.retention import RetentionJob, expired, to_free
from serve.recording.sealing import Sealer
from serve.recording.stores import open_store
from tests.unit.recording.journals import START_NS, header, records, seqs_in, simple_journal, write_journal

NEVER = 1 << 60


def part(day: int, model: str = "m", n_bytes: int = 10) -> Part:
    at = day * DAY_NS
    return Part(part_path("records", model, "1", at, "r", 1, day + 1), 1, n_bytes, "", at, at + 5, day, day)


def test_rows_go_after_their_days_and_a_model_may_say_how_many() -> None:
    state = ManifestState("r", parts={one.path: one for one in (part(0), part(1), part(5), part(0, "own"), part(8, "own"))})
    state.retention_days = {"own": 2, "m": None}
    assert expired(state, [], 10, 10 * DAY_NS) == [part(0, "own")]
    assert expired(state, [], 10, 10 * DAY_NS + 6) == [part(0), part(0, "own"), part(8, "own")]
    assert expired(state, [], 4, 10 * DAY_NS + 6) == [part(0), part(0, "own"), part(1), part(5), part(8, "own")]
    assert expired(state, [Hold(name="h")], 4, 10 * DAY_NS) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 99)), max_size=20), st.integers(-5, 900), st.integers(0, 50))
def test_the_oldest_go_and_no_more_than_must(parts_of: list[tuple[int, int]], n_bytes: int, held_day: int) -> None:
    parts = [part(day, n_bytes=size) for day, size in dict(parts_of).items()]
    hold = Hold(name="h", from_ns=held_day * DAY_NS, to_ns=held_day * DAY_NS)
    chosen = to_free(parts, [hold], n_bytes)
    assert not any(is_held(one, [hold]) for one in chosen)
    kept = [one for one in parts if one not in chosen and not is_held(one, [hold])]
    freed = sum(one.bytes for one in chosen)
    assert freed >= n_bytes or not kept
    assert not chosen or freed - chosen[-1].bytes < n_bytes
    assert all(one.max_ts_ns < other.max_ts_ns for one in chosen for other in kept)


@pytest.mark.parametrize(("bounds", "held"), [
    ({}, True), ({"model": "m"}, True), ({"model": "n"}, False), ({"from_ns": 2 * DAY_NS + 5}, True), ({"from_ns": 2 * DAY_NS + 6}, False),
    ({"to_ns": 2 * DAY_NS}, True), ({"to_ns": 2 * DAY_NS - 1}, False), ({"model": "m", "from_ns": 0, "to_ns": DAY_NS}, False),
])
def test_a_hold_holds_every_file_with_a_row_of_it(bounds: dict[str, Any], held: bool) -> None:
    assert is_held(part(2), [Hold(name="h", **bounds)]) == held


def test_holds_are_placed_once_and_lifted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first = Hold(name="case-7", model="m", from_ns=5, to_ns=None, reason="case 7", by="ann", at_ns=9)
    second = Hold(name="all", reason="audit", by="bob", at_ns=10)
    for hold in (first, second):
        place_hold(store, hold)
    with pytest.raises(Conflict, match="there is a hold 'case-7'; take another name"):
        place_hold(store, Hold(name="case-7", model="n"))
    assert read_holds(store) == ([second, first], [])
    lift_hold(store, "case-7")
    assert read_holds(store) == ([second], [])
    with pytest.raises(NotFound, match="there is no hold 'case-7'"):
        lift_hold(store, "case-7")
    wrong = {"the name '../x' of a hold": Hold(name="../x"), "ends at 1 ns and begins later": Hold(name="x", from_ns=2, to_ns=1)}
    for text, hold in wrong.items():
        with pytest.raises(InvalidArgument, match=text):
            place_hold(store, hold)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"name": "x"}', json.dumps({
    "name": "x", "model": None, "from_ns": "2026-01-01", "to_ns": None, "reason": "", "by": "", "at_ns": 0}).encode(), json.dumps({
    "name": "x", "model": ["m"], "from_ns": None, "to_ns": None, "reason": "", "by": "", "at_ns": 0}).encode()])
def test_a_hold_that_cannot_be_read_holds_everything(content: bytes, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write(f"{HOLDS}/x.json", content)
    [hold], [fault] = read_holds(store)
    assert is_held(part(0), [hold])
    assert fault.startswith("_holds/x.json: is no hold: ")
    assert fault.endswith("until it is mended or removed nothing is purged")


def test_a_hold_is_called_as_its_file(tmp_path: Path) -> None:
    """Of one that was copied by hand, too: it is released by the name that is listed."""
    store = open_store(str(tmp_path))
    place_hold(store, Hold(name="case-7"))
    store.write(f"{HOLDS}/case-8.json", store.read(f"{HOLDS}/case-7.json"))
    holds, _ = read_holds(store)
    assert [hold.name for hold in holds] == ["case-7", "case-8"]
    for hold in holds:
        lift_hold(store, hold.name)
    assert read_holds(store) == ([], [])


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    store = open_store(str(tmp_path / "records"))
    return Keeping(store, Manifest(store, "r"), Home(tmp_path / "home"), "r", None)


def seal_days(keeping: Keeping, n_days: int) -> list[Part]:
    """Ten rows a day, the last day being that of START_NS."""
    sealer = Sealer(keeping.store, keeping.manifest, keeping.home, None)
    for i in range(n_days):
        simple_journal(keeping.home, i + 1, range(i * 10, i * 10 + 10), at_ns=START_NS - (n_days - 1 - i) * DAY_NS)
    for name in sealer.due(0):
        sealer.seal(name, 0)
    return list(keeping.manifest.state.parts.values())


def room(messages: list[dict[str, Any]]) -> list[bool]:
    return [message["room"] for message in messages if message["type"] == "room"]


def test_old_rows_leave_the_table_and_are_said(keeping: Keeping) -> None:
    parts = seal_days(keeping, 3)
    job = RetentionJob(keeping, 1, NEVER)
    _, line = job.run(START_NS + DAY_NS)[::-1]
    assert (line["type"], line["why"], line["paths"], line["rows"]) == ("purged", "retention", [parts[0].path, parts[1].path], 20)
    state = read_manifest(keeping.store, "r")
    assert (seqs_in(keeping.store, state.parts.values()), state.rows["records"].purged) == (list(range(20, 30)), 20)
    assert job.run(START_NS + DAY_NS) == []


def test_the_disk_is_kept_within_its_budget(keeping: Keeping) -> None:
    parts = seal_days(keeping, 5)
    size = parts[0].bytes
    job = RetentionJob(keeping, 184, 3 * size + size // 2)
    messages = job.run(START_NS)
    assert [message["type"] for message in messages] == ["purged", "deleted", "room"]
    assert (messages[0]["why"], messages[0]["paths"], room(messages)) == ("disk_budget", [parts[0].path, parts[1].path], [True])
    assert [file.path for file in keeping.store.list("records")] == [part.path for part in parts[2:]]
    assert job.used() <= job.budget
    assert job.run(START_NS) == []


def test_held_rows_stay_and_the_worker_is_told_that_there_is_no_room(keeping: Keeping) -> None:
    seal_days(keeping, 2)
    job = RetentionJob(keeping, 1, 100)
    place_hold(keeping.store, Hold(name="h", model="m"))
    messages = job.run(START_NS + 9 * DAY_NS)
    assert (len(keeping.manifest.state.parts), [message["type"] for message in messages], room(messages)) == (2, ["room"], [False])
    assert job.run(START_NS + 9 * DAY_NS) == []
    lift_hold(keeping.store, "h")
    messages = job.run(START_NS + 9 * DAY_NS)
    assert (keeping.manifest.state.parts, room(messages)) == ({}, [True])


def test_journals_are_never_purged(keeping: Keeping) -> None:
    path = simple_journal(keeping.home, 1, range(100))
    job = RetentionJob(keeping, 1, 100)
    messages = job.run(START_NS + 9 * DAY_NS)
    assert (room(messages), messages[-1]["budget"], path.exists()) == ([False], 100, True)
    assert messages[-1]["bytes"] >= path.stat().st_size


def test_there_is_room_again_when_some_is_free(keeping: Keeping) -> None:
    path = simple_journal(keeping.home, 1, range(100))
    job = RetentionJob(keeping, 184, 1000)
    found = []
    for size in (1000, 1001, 1000, 951, 950, 1000):
        os.truncate(path, size)
        found.append(room(job.run(START_NS)))
    assert found == [[True], [False], [], [], [True], []]


def test_what_is_in_an_object_store_takes_no_room_here(tmp_path: Path) -> None:
    store = open_store(f"memory://{tmp_path.name}")
    keeping = Keeping(store, Manifest(store, "r"), Home(tmp_path / "home"), "r", None)
    seal_days(keeping, 3)
    assert room(RetentionJob(keeping, 184, 1).run(START_NS)) == [True]
    assert len(keeping.manifest.state.parts) == 3


def test_files_that_were_merged_go_first(keeping: Keeping) -> None:
    parts = seal_days(keeping, 3)
    keeping.manifest.append({"type": "started", "path": "records/x.parquet", "at_ns": START_NS})
    keeping.store.write("records/x.parquet", bytes(5000))
    job = RetentionJob(keeping, 184, sum(part.bytes for part in parts))
    assert [message["type"] for message in job.run(START_NS)] == ["deleted", "room"]
    assert keeping.store.list("records")[0].path == parts[0].path


def test_journals_with_damage_are_kept_as_long_as_rows_and_go_before_them(keeping: Keeping) -> None:
    parts = seal_days(keeping, 2)
    old, new = (keeping.home.file(JournalName(9, number, "bad")) for number in (1, 2))
    for path, at in ((old, START_NS - 20 * DAY_NS), (new, START_NS)):
        path.write_bytes(bytes(5000))
        os.utime(path, ns=(at, at))
    job = RetentionJob(keeping, 10, NEVER)
    [line, _] = job.run(START_NS)
    assert (line["paths"], line["why"], old.exists(), new.exists()) == (["journals/9-1.bad"], "retention", False, True)
    job.budget = sum(part.bytes for part in parts)
    [line] = job.run(START_NS)
    assert (line["paths"], line["why"], line["rows"], new.exists()) == (["journals/9-2.bad"], "disk_budget", 0, False)
    assert len(keeping.manifest.state.parts) == 2


def test_a_damaged_hold_is_said_once(keeping: Keeping) -> None:
    keeping.store.write(f"{HOLDS}/x.json", b"?")
    job = RetentionJob(keeping, 1, NEVER)
    assert [message["type"] for message in job.run(0)] == ["error", "room"]
    assert job.run(0) == []


def test_a_models_own_retention_comes_with_its_journals(keeping: Keeping) -> None:
    write_journal(keeping.home, header(1, model="brief", retention_days=1), [records(range(3), [START_NS] * 3)])
    simple_journal(keeping.home, 2, range(3))
    sealer = Sealer(keeping.store, keeping.manifest, keeping.home, None)
    for name in sealer.due(0):
        sealer.seal(name, 0)
    RetentionJob(keeping, 184, NEVER).run(START_NS + 2 * DAY_NS)
    assert [part.name.model for part in keeping.manifest.state.parts.values()] == ["m"]
