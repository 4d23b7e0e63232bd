"""`headrace judge replay` over files, and `headrace audit verify` over a store's file."""

import json
import random
import sqlite3
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serve import cli
from serve.commands.recorded_rows import read_rows, row_of
from serve.errors import ConfigurationError
from serve.routing.judge.replay import Row
from serve.store.audit import AuditEntry
from serve.store.port import Change
from serve.store.sqlite import SqliteStore


def run(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(cli.app, arguments, input=stdin)


def recorded(n: int, error_share: float) -> list[dict[str, Any]]:
    """A tenth of the rows is of variant 2, 5 ms apart; variant 1 fails in 0.5 % of them."""
    draw = random.Random(1)
    rows = []
    for at in range(n):
        variant = "2" if draw.random() < 0.1 else "1"
        is_error = draw.random() < (error_share if variant == "2" else 0.005)
        rows.append({"ts_ns": at * 5_000_000, "unit": None, "variant": variant, "status": 500 if is_error else "ok", "total_us": 900.5,
                     "out_class": draw.randrange(3), "request_id": "passed over"})
    return rows


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_a_bad_candidate_would_have_been_taken_back(tmp_path: Path) -> None:
    file = written(tmp_path, recorded(10_000, 0.2))
    result = run("judge", "replay", file, "--share", "0.1", "--exit-code")
    assert result.exit_code == 10, result.output
    assert "It would have taken the candidate back here." in result.output
    told = [json.loads(line) for line in run("judge", "replay", file, "--share", "0.1", "--json").output.splitlines()]
    assert [one["verdict"] for one in told][-1] == "rollback"
    assert all(one["verdict"] != other["verdict"] for one, other in pairwise(told[:-1])), "only changes are told"
    errors = next(found for found in told[-1]["findings"] if found["test"] == "errors")
    streak = next(found for found in told[-1]["findings"] if found["test"] == "streak")
    assert errors["is_tripped"] or streak["is_tripped"]
    assert told[-1]["ts_ns"] < 10_000 * 5_000_000 / 2, "nothing is told behind the rollback"


def test_settings_variants_and_standard_input(tmp_path: Path) -> None:
    settings = tmp_path / "judge.yaml"
    settings.write_text("errors: {action: hold, streak: null}\n", encoding="utf-8")
    rows = [{**row, "variant": {"1": "blue", "2": "green"}[row["variant"]]} for row in recorded(4000, 0.2)]
    text = "\n".join(map(json.dumps, rows))
    result = run("judge", "replay", "-", "--settings", str(settings), "--stable", "blue", "--candidate", "green", "--exit-code", stdin=text)
    assert (result.exit_code, "It would have held the step." in result.output) == (11, True), result.output
    assert "estimated from the rows" in result.output


def test_too_little_to_say(tmp_path: Path) -> None:
    assert run("judge", "replay", written(tmp_path, recorded(300, 0.0)), "--share", "0.1", "--exit-code").exit_code in (11, 13)
    assert run("judge", "replay", written(tmp_path, recorded(300, 0.0)), "--share", "0.1").exit_code == 0


@pytest.mark.parametrize(("lines", "said"), [
    ("{", "line 1: no JSON"), ("[1]", "row 1: list instead of an object"), ('{"ts_ns": 1, "variant": "1"}', "row 1: status is missing"),
    ('{"ts_ns": 1.5, "variant": "1", "status": "ok"}', "row 1: ts_ns is 1.5; want a whole number"),
    ('{"ts_ns": 1, "variant": "1", "status": "ok", "total_us": "x"}', "row 1: total_us is 'x'; want a number"),
    ('{"ts_ns": 1, "variant": "1", "status": "ok", "out_class": 1, "out_value": 2}', "one judged output"), ("", "no row of variant"),
    ('{"ts_ns": 2, "variant": "1", "status": "ok"}\n{"ts_ns": 1, "variant": "2", "status": "ok"}', "sort the rows by ts_ns")])
def test_rows_that_cannot_be_read_are_named(
    tmp_path: Path, lines: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(lines, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["headrace", "judge", "replay", str(file), "--share", "0.1"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert said in capsys.readouterr().err


def test_a_row() -> None:
    row = row_of({"ts_ns": 5, "unit": "u", "variant": 2, "status": 200, "total_us": 7, "out_value": 1, "more": []})
    assert row == Row(5, "u", "2", "200", 7.0, None, 1.0)


def test_parquet_without_pyarrow_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"PAR1 and so on")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match="install pyarrow to read it, or write it as JSON Lines"):
        list(read_rows(file))


def test_parquet_is_read_where_pyarrow_is(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = recorded(50, 0.0)
    parquet.write_table(pyarrow.Table.from_pylist([{**row, "status": str(row["status"])} for row in rows]), tmp_path / "rows.parquet")
    assert list(read_rows(tmp_path / "rows.parquet")) == [row_of({**row, "status": str(row["status"])}) for row in rows]


async def make_store(state_dir: Path) -> str:
    """Three rows; the hash of the second."""
    store = await SqliteStore.open(state_dir)
    for number in range(3):
        entry = AuditEntry("dev.headrace.labels.set", "digits", "ada", f"change {number}")
        await store.commit([Change("traffic", "digits", {"number": number}, None)], [entry])
    rows = await store.audit()
    await store.close()
    return str(rows[1]["hash"])


async def test_a_stores_file_is_verified_without_a_server(tmp_path: Path) -> None:
    kept = await make_store(tmp_path)
    result = _verify("--state-dir", str(tmp_path), "--head", kept)
    assert (result.exit_code, result.output.startswith("intact: 3 rows")) == (0, True), result.output
    assert _verify("--state-dir", str(tmp_path / "headrace.db")).exit_code == 0
    with sqlite3.connect(tmp_path / "headrace.db") as database:
        database.execute("DELETE FROM audit WHERE sequence = 2")
    database.close()
    broken = _verify("--state-dir", str(tmp_path), "--json")
    assert (broken.exit_code, json.loads(broken.output)["first_bad"]) == (1, 2)
    assert _verify("--state-dir", str(tmp_path / "absent")).exit_code == 1


def _verify(*arguments: str) -> Any:
    """In a thread of its own: the command runs a loop, and so does this test."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run, "audit", "verify", *arguments).result()
