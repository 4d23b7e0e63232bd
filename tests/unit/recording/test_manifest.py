"""What lines of a manifest mean together, and the file that they are in."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import Unavailable
from serve.recording.layout import compacted_path, manifest_path, part_path
from serve.recording.manifest import (
    Line,
    ManifestState,
    Part,
    compacted_line,
    decode,
    deleted_line,
    encode,
    fold,
    lines_of,
    purged_line,
    replica_line,
    started_line,
)
from serve.recording.manifest_file import Manifest, list_replicas, read_manifest
from serve.recording.store_port import RecordsStore
from serve.recording.stores import open_store


def part(number: int, rows: int = 10, table: str = "records", epoch: int = 1) -> Part:
    path = part_path("records" if table == "records" else "labels", "m", "1" if table == "records" else "", 0, "r", epoch, number)
    return Part(path, rows, rows * 100, "00" * 32, number, number + 1, 0, rows - 1, "ab")


def sealed(number: int, *parts: Part, epoch: int = 1, table: str = "records", torn: int = 0, bad: int = 0, **more: Any) -> Line:
    return {
        "type": "sealed", "table": table, "epoch": epoch, "journal": number, "model": "m", "version": "1",
        "rows": sum(one.rows for one in parts), "torn_rows": torn, "bad_rows": bad, "at_ns": number,
        "parts": [{name: getattr(one, name) for name in Part.__slots__} for one in parts], **more,
    }


def test_a_part_is_in_the_table_from_its_line_until_it_is_replaced_or_purged() -> None:
    a, b, c = part(1), part(2), part(3)
    merged = Part(compacted_path("r", [a.path, b.path]), 20, 1900, "11" * 32, 1, 3, 0, 9, "ab")
    lines = [replica_line("r", "host", "/home", "id", 5), sealed(1, a), sealed(2, b, torn=2), sealed(3, c, bad=1)]
    assert set(fold(lines).parts) == {a.path, b.path, c.path}
    lines.append(started_line(merged.path, 90))
    assert fold(lines).doomed == {merged.path: 90}
    lines.append(compacted_line(merged, [a.path, b.path], 100))
    state = fold(lines)
    assert (set(state.parts), state.doomed) == ({c.path, merged.path}, {a.path: 100, b.path: 100})
    lines += [deleted_line([a.path, b.path], 200), purged_line([merged], "retention", 300)]
    state = fold(lines)
    assert (set(state.parts), state.doomed) == ({c.path}, {merged.path: 300})
    counts = state.rows["records"]
    assert (counts.sealed, counts.torn, counts.bad, counts.purged) == (30, 2, 1, 20)
    assert [state.is_sealed(1, number) for number in range(1, 5)] == [True, True, True, False]
    assert (state.host, state.home, state.created_ns) == ("host", "/home", 5)


def test_a_line_that_was_applied_before_changes_nothing() -> None:
    a, b = part(1), part(2)
    merged = Part(compacted_path("r", [a.path, b.path]), 20, 1900, "11" * 32, 1, 3, 0, 9, "ab")
    lines = [sealed(1, a), sealed(2, b), compacted_line(merged, [a.path, b.path], 7)]
    once, twice = fold(lines), fold([*lines, *lines])
    assert (once.parts, once.doomed, once.rows, once.epochs) == (twice.parts, twice.doomed, twice.rows, twice.epochs)


def test_labels_and_records_are_counted_apart() -> None:
    state = fold([sealed(1, part(1)), sealed(2, part(2, table="labels"), table="labels")])
    assert (state.rows["records"].sealed, state.rows["labels"].sealed, state.epoch(1).records.sealed) == (10, 10, 10)


def test_the_newest_journal_of_a_model_says_how_long_its_rows_are_kept() -> None:
    assert fold([sealed(1, retention_days=30), sealed(2, retention_days=7), sealed(3)]).retention_days == {"m": None}
    assert fold([sealed(1), sealed(2, retention_days=7)]).retention_days == {"m": 7}


def test_damage_is_counted_and_the_rest_still_holds() -> None:
    later = encode([{"type": "sealed"}, {"type": "of a later release"}, sealed(2)])
    lines, is_torn = decode(encode([sealed(1, part(1))]) + b"\x00\xff garbage\n[1]\n" + later)
    state = fold(lines)
    assert (state.n_damaged, is_torn, state.is_sealed(1, 1), state.is_sealed(1, 2)) == (3, False, True, True)


@given(st.integers(0, 400))
def test_a_torn_last_line_is_as_if_it_had_not_been_written(n_bytes: int) -> None:
    whole, last = encode([sealed(1, part(1))]), encode([sealed(2, part(2))])
    lines, is_torn = decode(whole + last[:min(n_bytes, len(last) - 1)])
    assert is_torn == (n_bytes > 0)
    assert set(fold(lines).parts) == {part(1).path}


def test_a_later_format_is_refused() -> None:
    with pytest.raises(Unavailable, match="has format 2, this release reads up to 1"):
        fold([{**replica_line("r", "h", "/", "", 0), "format": 2}])


@st.composite
def histories(draw: st.DrawFn) -> list[Line]:
    lines: list[Line] = [replica_line("r", "h", "/home", "id", 1)]
    live: list[Part] = []
    gone: list[str] = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        epoch = draw(st.integers(1, 3))
        new = part(number, draw(st.integers(0, 5)), epoch=epoch)
        lines.append(sealed(number, new, epoch=epoch, torn=draw(st.integers(0, 2)), retention_days=draw(st.none() | st.integers(1, 9))))
        live.append(new)
        if draw(st.booleans()):
            lines.append(started_line(compacted_path("r", [new.path]), number))
        what = draw(st.sampled_from(["", "compact", "purge", "delete", "end"]))
        if what == "compact" and len(live) > 1:
            merged = Part(compacted_path("r", [one.path for one in live]), sum(one.rows for one in live), 1, "", 0, 0, 0, 0)
            lines.append(compacted_line(merged, [one.path for one in live], number))
            gone, live = gone + [one.path for one in live], [merged]
        elif what == "purge":
            lines.append(purged_line(live[:1], "disk_budget", number))
            gone, live = [*gone, live[0].path], live[1:]
        elif what == "delete":
            lines.append(deleted_line(gone, number))
        elif what == "end":
            lines.append({"type": "epoch", "epoch": epoch, "lost": number, "at_ns": number})
    return lines


@settings(deadline=None)
@given(histories())
def test_a_rewritten_manifest_means_the_same(lines: list[Line]) -> None:
    state = fold(lines)
    again = fold(json.loads(json.dumps(lines_of(state))))
    for name in ManifestState.__slots__:
        if name != "n_lines":
            assert getattr(again, name) == getattr(state, name), name


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RecordsStore:
    return open_store(str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def test_what_one_writes_another_reads(store: RecordsStore) -> None:
    manifest = Manifest(store, "r")
    manifest.begin("host", "/home", 1)
    manifest.begin("host", "/home", 2)
    manifest.append(sealed(1, part(1)), sealed(2, part(2)))
    state = read_manifest(store, "r")
    assert (state, state.n_lines) == (manifest.state, 3)
    assert list_replicas(store) == ["r"]
    assert read_manifest(store, "other") == ManifestState("other")


def test_a_replica_that_moved_says_so(store: RecordsStore) -> None:
    for home, at in (("/home", 1), ("/moved", 2), ("/moved", 3)):
        Manifest(store, "r").begin("host", home, at, "id")
    state = read_manifest(store, "r")
    assert (state.home, state.home_id, state.created_ns, state.n_lines) == ("/moved", "id", 1, 2)


def test_epochs_of_a_home_that_was_lost_are_known(store: RecordsStore) -> None:
    Manifest(store, "r").begin("host", "/home", 1, "lost")
    manifest = Manifest(store, "r")
    manifest.append(sealed(1, part(1), epoch=3))
    assert manifest.state.since_epoch == 0
    for at in (2, 3):
        manifest.begin("host", "/home", at, "new")
    manifest.append(sealed(1, part(2, epoch=4), epoch=4))
    for state in (manifest.state, read_manifest(store, "r"), fold(lines_of(manifest.state))):
        assert state.since_epoch == 3


def test_a_torn_line_is_cut_before_the_next_is_added(store: RecordsStore) -> None:
    store.write(manifest_path("r"), encode([sealed(1, part(1))]) + encode([sealed(2, part(2))])[:50])
    manifest = Manifest(store, "r")
    manifest.append(sealed(3, part(3)))
    state = read_manifest(store, "r")
    assert (set(state.parts), state.n_damaged) == ({part(1).path, part(3).path}, 0)


def test_after_a_failed_append_the_file_says_what_holds(store: RecordsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store may take a line and lose the answer."""
    manifest = Manifest(store, "r")
    manifest.append(sealed(1, part(1)))
    append = store.append
    for arrives, number in ((False, 2), (True, 3)):
        def fail(path: str, content: bytes, after: int, arrives: bool = arrives) -> None:
            if arrives:
                append(path, content, after)
            raise TimeoutError

        monkeypatch.setattr(store, "append", fail)
        with pytest.raises(TimeoutError):
            manifest.append(sealed(number, part(number)))
        monkeypatch.setattr(store, "append", append)
        assert manifest.state.is_sealed(1, number) == arrives


def test_a_long_manifest_is_shortened_and_a_damaged_one_is_kept(store: RecordsStore) -> None:
    manifest = Manifest(store, "r")
    manifest.begin("h", "/home", 0)
    assert not manifest.shorten()
    lines = [line for number in range(1, 600) for line in (sealed(number, part(number)), purged_line([part(number)], "retention", 1))]
    manifest.append(*lines, deleted_line([part(number).path for number in range(1, 600)], 2))
    assert manifest.shorten()
    assert not manifest.shorten()
    state = read_manifest(store, "r")
    assert state.n_lines == 3
    assert (state.is_sealed(1, 599), state.is_sealed(1, 600), state.rows["records"].purged, state.doomed) == (True, False, 5990, {})
    store.append(manifest_path("r"), b"?\n" * 3000)
    assert not Manifest(store, "r").shorten()


def test_a_manifest_that_somebody_else_wrote_to_is_read_again_first(store: RecordsStore) -> None:
    manifest = Manifest(store, "r")
    manifest.append(sealed(1, part(1)))
    store.append(manifest_path("r"), encode([sealed(2, part(2))]))
    with pytest.raises(Unavailable, match="somebody else was at it; nothing is added"):
        manifest.append(sealed(2, part(2)))
    assert manifest.state.is_sealed(1, 2)
    manifest.append(sealed(3, part(3)))
    assert set(read_manifest(store, "r").parts) == {part(number).path for number in (1, 2, 3)}


def test_a_manifest_that_was_lost_is_not_begun_anew(store: RecordsStore) -> None:
    """An object store that shows nothing for a moment must not cost the names of all that was sealed."""
    manifest = Manifest(store, "r")
    manifest.append(sealed(1, part(1)))
    content = store.read(manifest_path("r"))
    store.delete(manifest_path("r"))
    for _ in range(2):
        with pytest.raises(Unavailable, match="nothing is added|restore it"):
            manifest.append(sealed(2, part(2)))
    store.write(manifest_path("r"), content)
    manifest.append(sealed(2, part(2)))
    assert set(read_manifest(store, "r").parts) == {part(1).path, part(2).path}
