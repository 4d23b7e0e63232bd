"""The audit chain: whatever is done to its rows is found, and the first wrong place is named."""

import copy
import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import InvalidArgument
from serve.store.audit import GENESIS, AuditEntry, Chain, hash_of, mac_of, rfc3339, sequence_of, verify_rows
from serve.store.canonical import canonical, plain
from serve.store.sqlite import SqliteStore
from tests.unit.store.contract import told

N_ROWS = 6


def chain_of(n_rows: int, key: bytes | None = None) -> list[dict[str, Any]]:
    chain, rows, last = Chain("headrace/a server", "c0ffee", key), [], GENESIS
    for sequence in range(1, n_rows + 1):
        rows.append(chain.row(told(after={"n": sequence}), sequence, last, 10**18))
        last = rows[-1]["hash"]
    return rows


def recorded(rows: list[dict[str, Any]]) -> tuple[int, str]:
    return (len(rows), rows[-1]["hash"]) if rows else (0, GENESIS)


@pytest.mark.parametrize("n_rows", [0, 1, N_ROWS])
def test_an_untouched_chain_is_intact(n_rows):
    rows = chain_of(n_rows)
    report = verify_rows(rows, recorded=recorded(rows))
    assert (report.is_intact, report.n_rows, report.head, report.fault) == (True, n_rows, recorded(rows)[1], "")


def test_a_row_is_a_cloud_event():
    row = chain_of(1)[0]
    assert {name: row[name] for name in ("specversion", "id", "source", "type", "subject", "datacontenttype", "time")} == {
        "specversion": "1.0", "id": "c0ffee-1", "source": "headrace/a%20server", "type": "dev.headrace.traffic.set", "subject": "digits",
        "datacontenttype": "application/json", "time": "2001-09-09T01:46:40.000000Z",
    }
    # Names of attributes: lower case letters and digits, as CloudEvents asks.
    assert all(name.isalnum() and name == name.lower() for name in row)
    assert "subject" not in Chain("s", "c").row(AuditEntry("dev.headrace.store.restored", "", "headrace"), 1, GENESIS, 0)


def test_the_hash_is_what_the_documentation_says():
    """The recipe of docs/audit.md, done by hand."""
    import hashlib

    row = chain_of(2)[1]
    covered = {name: value for name, value in row.items() if name not in ("hash", "mac")}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert row["hash"] == hashlib.sha256(text.encode("ascii")).hexdigest()


_PATHS = [("type",), ("time",), ("id",), ("source",), ("subject",), ("data", "actor"), ("data", "reason"), ("data", "after"), ("hash",),
          ("prevhash",)]


@given(at=st.integers(0, N_ROWS - 1), path=st.sampled_from(_PATHS))
def test_an_edited_row_is_found(at, path):
    rows = chain_of(N_ROWS)
    place = rows[at]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = "something else"
    report = verify_rows(rows)
    assert (report.first_bad, report.n_rows) == (at + 1, at)
    assert "edited" in report.fault


@given(at=st.integers(0, N_ROWS - 1))
def test_a_row_that_was_edited_and_hashed_again_is_found(at):
    rows = chain_of(N_ROWS)
    kept = recorded(rows)
    rows[at]["data"]["actor"] = "mallory"
    rows[at]["hash"] = hash_of(rows[at])
    report = verify_rows(rows, recorded=kept)
    assert report.first_bad == at + 1


@given(start=st.integers(0, N_ROWS - 1), length=st.integers(1, N_ROWS))
def test_removed_rows_are_found(start, length):
    rows = chain_of(N_ROWS)
    kept = recorded(rows)
    del rows[start:start + length]
    report = verify_rows(rows, recorded=kept)
    assert report.first_bad == start + 1
    assert "removed" in report.fault


@given(order=st.permutations(range(N_ROWS)))
def test_reordered_rows_are_found(order):
    rows = chain_of(N_ROWS)
    moved = [rows[index] for index in order]
    first = next((at + 1 for at, index in enumerate(order) if at != index), None)
    assert verify_rows(moved, recorded=recorded(rows)).first_bad == first


@given(at=st.integers(0, N_ROWS - 1))
def test_a_row_that_stands_twice_is_found(at):
    rows = chain_of(N_ROWS)
    rows.insert(at, copy.deepcopy(rows[at]))
    assert verify_rows(rows).first_bad == at + 2


@pytest.mark.parametrize("row", [
    {}, {"sequence": 1}, {"sequence": "1", "hash": None}, {"sequence": "1", "data": math.nan}, {"sequence": "٣"},
])
def test_what_is_no_row_is_found(row):
    assert verify_rows([row]).first_bad == 1


def test_a_chain_written_anew_is_found_by_the_head_that_was_kept():
    rows = chain_of(N_ROWS)
    for head in (GENESIS, rows[0]["hash"], rows[-1]["hash"]):
        assert verify_rows(rows, head).is_intact
    anew = chain_of(N_ROWS - 1)
    assert verify_rows(anew, recorded=recorded(anew)).is_intact
    report = verify_rows(anew, rows[-1]["hash"], recorded=recorded(anew))
    assert (report.first_bad, report.n_rows) == (N_ROWS, N_ROWS - 1)


def test_without_the_key_no_row_can_be_made():
    key = b"k" * 32
    rows = chain_of(N_ROWS, key)
    assert verify_rows(rows, key=key).is_intact
    assert verify_rows(rows).is_intact
    assert verify_rows(rows, key=b"other").first_bad == 1
    for forged in (chain_of(N_ROWS), chain_of(N_ROWS, b"mallory's")):
        assert verify_rows(rows[:3] + forged[3:], key=key).first_bad == 4
    rows[2]["mac"] = mac_of(rows[3]["hash"], key)
    assert verify_rows(rows, key=key).first_bad == 3


def test_the_type_of_an_entry_is_ours():
    with pytest.raises(ValueError, match="begins with"):
        AuditEntry("traffic.set", "digits", "ann")


@pytest.mark.parametrize(("time_ns", "text"), [
    (0, "1970-01-01T00:00:00.000000Z"), (999, "1970-01-01T00:00:00.000000Z"), (1_795_310_592_123_456_789, "2026-11-22T01:23:12.123456Z"),
])
def test_rfc3339(time_ns, text):
    assert rfc3339(time_ns) == text


@pytest.mark.parametrize(("value", "sequence"), [("00012", 12), (None, 0), (12, 0), ("x", 0), ("-1", 0), ("", 0), ("٣", 0)])
def test_sequence_of(value, sequence):
    assert sequence_of({"sequence": value}) == sequence


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12,
)


@given(value=_JSON)
def test_canonical_reads_back_equal_and_does_not_depend_on_order(value):
    text = canonical(value)
    assert text.isascii()
    assert json.loads(text) == value
    if isinstance(value, dict):
        assert canonical(dict(reversed(value.items()))) == text


@given(value=_JSON)
def test_plain_leaves_json_as_it_is(value):
    assert plain(value) == value


def test_plain_writes_out_what_json_cannot_say():
    value = {1: math.inf, "a": (-math.inf, [math.nan]), "s": frozenset({"b", "a"}), "p": Path("x")}
    assert plain(value) == {"1": "Infinity", "a": ["-Infinity", ["NaN"]], "s": ["a", "b"], "p": "x"}
    for bad in (math.nan, {"a": {1}}, {1: 2, "a": 3}, [object()]):
        with pytest.raises(InvalidArgument, match="not JSON"):
            canonical(bad)


_SWAP = """UPDATE audit SET event = CASE sequence WHEN 3 THEN (SELECT event FROM audit WHERE sequence = 4)
           ELSE (SELECT event FROM audit WHERE sequence = 3) END WHERE sequence IN (3, 4)"""
_FORGET_END = """DELETE FROM audit WHERE sequence > 4; UPDATE sqlite_sequence SET seq = 4;
                 UPDATE store SET audit_sequence = 4, audit_hash = (SELECT json_extract(event, '$.hash') FROM audit WHERE sequence = 4)"""


@pytest.mark.parametrize(("statements", "first_bad", "word"), [
    ("UPDATE audit SET event = replace(event, 'ann', 'eve') WHERE sequence = 3", 3, "edited"),
    ("UPDATE audit SET event = 'x' WHERE sequence = 2", 2, "repeated"),
    ("UPDATE audit SET event = '[]' WHERE sequence = 2", 2, "repeated"),
    ("DELETE FROM audit WHERE sequence = 3", 3, "removed"),
    ("DELETE FROM audit WHERE sequence = 1", 1, "removed"),
    ("DELETE FROM audit WHERE sequence > 4", 5, "gone from the end"),
    ("DELETE FROM audit", 1, "gone from the end"),
    ("DELETE FROM audit WHERE sequence > 4; DELETE FROM sqlite_sequence", 5, "gone from the end"),
    ("DELETE FROM audit WHERE sequence > 4; UPDATE store SET audit_sequence = 4", 5, "gone from the end"),
    (_SWAP, 3, "reordered"),
    ("UPDATE audit SET sequence = 50 WHERE sequence = 6", 6, "removed"),
    ("DELETE FROM audit WHERE sequence = 3; UPDATE audit SET sequence = sequence - 1 WHERE sequence > 3", 3, "removed"),
    (_FORGET_END, None, ""),
])
async def test_what_is_done_to_the_table_is_found(tmp_path, statements, first_bad, word):
    """All but a cut that is covered up everywhere, which the head finds that somebody kept elsewhere."""
    store = await SqliteStore.open(tmp_path)
    for n in range(3):
        await store.commit([], [told(after={"n": n}), told("clear")])
    _, head = await store.audit_head()
    with closing(sqlite3.connect(tmp_path / "headrace.db")) as connection:
        connection.executescript(statements)
    report = await store.verify_audit()
    assert report.first_bad == first_bad
    assert word in report.fault
    assert not (await store.verify_audit(head)).is_intact
    await store.close()


@settings(max_examples=200)
@given(at=st.integers(0, 4000), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(at, bit):
    """In the text of a row, as the table holds it."""
    rows = chain_of(3)
    text = bytearray(canonical(rows[1]).encode())
    text[at % len(text)] ^= 1 << bit
    try:
        rows[1] = json.loads(text)
    except ValueError:
        return
    if not isinstance(rows[1], dict):
        return
    assert verify_rows(rows).first_bad == 2
