"""`headrace records`: what the commands print, and how they leave."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from serve import cli
from serve.commands import records as records_command
from serve.commands.progress import bar
from serve.commands.records_tail import SLACK_NS, Follower, follow
from serve.commands.records_view import print_batches, short, tail_lines
from serve.errors import ConfigurationError, InvalidArgument, NotFound, Unavailable
from serve.recording.query import Records
from serve.recording.reading import read
from serve.recording.stores import open_store
from tests.unit.recording.recorded import DIGITS_1, HOUR_NS, T0, Recorder, image, write_records

HOST = os.uname().nodename


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("HEADRACE_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("HEADRACE_STATE_DIR", str(tmp_path / "state"))
    return write_records(str(tmp_path / "records"), tmp_path / "state" / "records", HOST)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["records", *arguments], catch_exceptions=False)


def parsed(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# query

def test_a_query_in_each_format(recorder: Recorder) -> None:
    sql = "SELECT request_id, row, in_x, in_word FROM records_digits WHERE out_label IN (7, 8) ORDER BY ts_ns"
    assert parsed(run("query", sql, "--format", "json").stdout) == [
        {"request_id": "digits-10", "row": 0, "in_x": [0.0, 0.1, 2.5, -1.0], "in_word": "café"},
        {"request_id": "digits-11", "row": 0, "in_x": None, "in_word": "\\xFF\\x00a"}]
    assert run("query", sql, "--format", "csv").stdout_bytes == (
        "request_id,row,in_x,in_word\ndigits-10,0,\"[0.0, 0.1, 2.5, -1.0]\",café\ndigits-11,0,,\\xFF\\x00a\n".encode())
    assert [line.split() for line in run("query", sql).stdout.splitlines()] == [
        ["request_id", "row", "in_x", "in_word"], ["digits-10", "0", "[0,", "0.1,", "2.5,", "-1]", "café"],
        ["digits-11", "0", "\\xFF\\x00a"]]


def test_line_ends_inside_a_cell_of_csv_are_kept(recorder: Recorder) -> None:
    sql = "SELECT 'a' || chr(13) || 'b' AS one, 'c' || chr(13) || chr(10) AS two, 3 AS three"
    text = run("query", sql, "--format", "csv").stdout_bytes
    assert text == b'one,two,three\n"a\rb","c\r\n",3\n'
    assert list(csv.reader(io.StringIO(text.decode(), newline="")))[1] == ["a\rb", "c\r\n", "3"]


def test_a_query_over_a_period(recorder: Recorder) -> None:
    arguments = ("query", "SELECT count(*) AS n FROM records", "--format", "json", "--from", "2026-01-01T11:00:00Z")
    assert parsed(run(*arguments).stdout) == [{"n": 8}]
    assert parsed(run(*arguments, "--to-time", "2026-01-01T13:00:00+01:00").stdout) == [{"n": 6}]
    for wrong in ("yesterday", "2026-13-01"):
        with pytest.raises(ConfigurationError, match=f"--to-time '{wrong}' is no time; want for instance 2026-01-31"):
            run(*arguments, "--to-time", wrong)
    with pytest.raises(ConfigurationError, match="--to-time 2026-01-01 is not after --from"):
        run(*arguments, "--to-time", "2026-01-01")


def test_a_table_shows_the_first_rows_and_says_so(recorder: Recorder) -> None:
    result = run("query", "SELECT range AS n FROM range(2000)")
    assert len(result.stdout.splitlines()) == 1001
    assert result.stderr == "headrace: these are the first 1,000 rows; --format csv and json print all of them\n"
    assert len(run("query", "SELECT range AS n FROM range(2000)", "--format", "csv").stdout.splitlines()) == 2001


def test_faults_of_a_query(recorder: Recorder) -> None:
    with pytest.raises(NotFound, match="no view 'recs'; there are databricks_digits"):
        run("query", "SELECT * FROM recs")
    with pytest.raises(InvalidArgument, match="one SELECT"):
        run("query", "DROP VIEW records")


def test_schema(recorder: Recorder) -> None:
    rows = parsed(run("schema", "--format", "json").stdout)
    assert {"view": "records_digits_v2", "column": "out_label", "type": "INTEGER", "model": "digits", "version": "2"} in rows
    assert len({row["view"] for row in rows}) == 15
    assert [line.split()[1] for line in run("schema", "labels").stdout.splitlines()[1:4]] == ["ts_ns", "ts", "seq"]


def test_it_is_said_which_of_two_models_a_view_is(recorder: Recorder) -> None:
    for number, model in enumerate(("a.b", "a_b")):
        recorder.journal(model, "1", DIGITS_1, [{"in_x": image(0), "out_label": number}])
    views = {row["view"]: row["model"] for row in parsed(run("schema", "--format", "json").stdout) if row["view"].startswith("records_a_b")}
    (other,) = (view for view, model in views.items() if model == "a.b" and not any(part in view for part in ("_v1", "_raw", "_labelled")))
    assert views["records_a_b"] == "a_b"
    asked = run("query", "SELECT out_label FROM records_a_b", "--format", "json")
    assert parsed(asked.stdout) == [{"out_label": 1}]
    assert asked.stderr == f"headrace: records_a_b is model 'a_b'; {other} is model 'a.b'\n"
    asked = run("query", f"SELECT out_label FROM {other}", "--format", "json")
    assert (parsed(asked.stdout), asked.stderr) == ([{"out_label": 0}], "")


# tail

def test_the_newest_rows_come_last(recorder: Recorder) -> None:
    rows = parsed(run("tail", "digits", "-n", "2", "--format", "json").stdout)
    assert [(row["seq"], row["out_label"]) for row in rows] == [(15, 0), (16, 1)]
    lines = run("tail", "-n", "3").stdout.splitlines()
    assert lines[0].endswith("digits/2  stable  503  2.0 ms  digits-12  UNAVAILABLE")
    assert len(run("tail", "--format", "csv").stdout.splitlines()) == 19
    with pytest.raises(NotFound, match="no rows of model 'nope' are recorded in .*records; there are digits"):
        run("tail", "nope")


class Interval:
    """In place of threading.Event: something happens in each pause, and then Ctrl-C."""

    def __init__(self, *happenings: Any) -> None:
        self.waiting = list(happenings)

    def __call__(self) -> "Interval":
        return self

    def wait(self, seconds: float) -> None:
        if not self.waiting:
            raise KeyboardInterrupt
        self.waiting.pop(0)()


def test_following_prints_each_new_row_once(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    late = T0 + 2 * HOUR_NS

    def record(*ages_ns: int) -> None:
        recorder.journal("digits", "1", DIGITS_1, [
            {"ts_ns": late - age, "in_x": image(0), "out_label": 50 + i} for i, age in enumerate(ages_ns)])

    monkeypatch.setattr(records_command, "threading", SimpleNamespace(Event=Interval(
        lambda: record(0, SLACK_NS // 2), lambda: None, lambda: record(-1),
        lambda: recorder.seal(recorder.home / "journals" / "1-7.journal"))))
    rows = parsed(run("tail", "digits", "-n", "1", "--follow", "--format", "json").stdout)
    assert [(row["ts_ns"] - late, row["out_label"]) for row in rows] == [(1, 1), (-SLACK_NS // 2, 51), (0, 50), (1, 50)]


def test_following_what_was_empty(tmp_path: Path) -> None:
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home", host=HOST)

    def now() -> Records:
        with read(recorder.store, host=HOST) as reading:
            found = Records(recorder.store, reading.snapshot)
            for journal in reading.snapshot.journals:
                found.contents(journal)
            return found

    follower = Follower(now(), "records")
    seen: list[int] = []
    pauses = Interval(lambda: recorder.journal("m", "1", DIGITS_1, [{"in_x": image(0), "out_label": 0}] * 2), lambda: None)
    with pytest.raises(KeyboardInterrupt):
        follow(lambda: follower.new(now(), "records"), lambda rows: seen.append(rows.num_rows), pauses.wait)
    assert seen == [2]


# export

def test_exports_become_files(recorder: Recorder, tmp_path: Path) -> None:
    result = run("export", "digits", "--as", "sagemaker", "--to", str(tmp_path / "out.jsonl"), "--from", "2026-01-01T11:00:00")
    assert result.stderr == "headrace: 7 lines written; 1 failed requests have no place in this form\n"
    assert len(parsed((tmp_path / "out.jsonl").read_text())) == 7
    run("export", "digits", "--as", "databricks", "--to", str(tmp_path / "out.parquet"))
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 13
    with pytest.raises(ConfigurationError, match="is there already; remove it"):
        run("export", "digits", "--as", "csv", "--to", str(tmp_path / "out.jsonl"))
    with pytest.raises(ConfigurationError, match="cannot write"):
        run("export", "digits", "--as", "csv", "--to", str(tmp_path / "nowhere" / "out.csv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.parquet", "records", "state"]


def test_an_export_to_standard_output(recorder: Recorder) -> None:
    rows = list(csv.DictReader(io.StringIO(run("export", "digits", "--as", "csv", "--to", "-").stdout)))
    assert [int(row["seq"]) for row in rows] == [*range(13), 15, 16]


def test_an_export_that_fails_leaves_nothing(recorder: Recorder, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        run("export", "nope", "--as", "csv", "--to", str(tmp_path / "out.csv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "state"]


# verify

def test_verify_says_what_is_there_by_its_exit_code(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    result = run("verify")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == [
        ["r-0", "1", "closed", "20", "18", "2", "0", "0", "0", "0", "0", "0"], ["not", "found", "of", "r-0,", "epoch", "1:", "13-14"]]
    assert result.stdout.endswith("3 journals: everything is there\n")
    document = json.loads(run("verify", "--format", "json").stdout)
    assert document["is_intact"]
    assert document["accounts"][0]["dropped"] == {"ring_full": 2}
    row, = csv.DictReader(io.StringIO(run("verify", "--format", "csv").stdout))
    assert (row["assigned"], row["found"], row["gaps"]) == ("20", "18", "1")


def test_verify_leaves_with_1_when_something_is_wrong(recorder: Recorder) -> None:
    recorder.end(dropped=1)
    result = run("verify")
    assert result.exit_code == 1
    assert "1 faults\n  replica r-0, epoch 1: 1 rows are missing and nothing says why\n" in result.stdout
    document = json.loads(run("verify", "--format", "json").stdout)
    assert (document["is_intact"], len(document["faults"])) == (False, 1)


# seal

def test_what_a_server_left_is_sealed(recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the replica whose state directory it is, also where that lies elsewhere now."""
    (tmp_path / "state").rename(tmp_path / "moved")
    with pytest.raises(ConfigurationError, match="there are no records in the state directory"):
        run("seal")
    monkeypatch.setenv("HEADRACE_STATE_DIR", str(tmp_path / "moved"))
    result = run("seal")
    assert (result.exit_code, result.stderr) == (0, "headrace: 6 rows of 3 journals sealed\n")
    assert run("seal").stderr == "headrace: 0 rows of 0 journals sealed\n"
    assert [path.name for path in (tmp_path / "records" / "_manifest").iterdir()] == ["r-0.jsonl"]
    assert parsed(run("query", "SELECT count(*) AS n FROM records", "--format", "json").stdout) == [{"n": 18}]


def test_what_cannot_be_sealed_is_said(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "records" / "labels" / "model=digits").rename(tmp_path / "gone")
    (tmp_path / "records" / "labels" / "model=digits").write_bytes(b"in the way")
    result = run("seal")
    assert result.exit_code == 1
    assert "1-6.journal: " in result.stderr
    assert result.stderr.endswith("headrace: 5 rows of 2 journals sealed\n")


# Holds

def test_holds_are_placed_listed_and_released(recorder: Recorder) -> None:
    period = ("--from", "2026-01-01", "--to", "2026-02-01")
    assert run("hold", "case-7", "--model", "digits", *period, "--reason", "a lawsuit", "--as", "ada").stderr == "headrace: held: case-7\n"
    hold, = parsed(run("holds", "--format", "json").stdout)
    assert {**hold, "since": ""} == {
        "hold": "case-7", "model": "digits", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z", "reason": "a lawsuit",
        "by": "ada", "since": ""}
    assert "case-7  digits  2026-01-01T00:00:00Z" in run("holds").stdout
    run("release", "case-7")
    assert run("holds", "--format", "json").stdout == ""
    with pytest.raises(NotFound, match="no hold 'case-7'"):
        run("release", "case-7")


# What is missing

def test_journals_that_cannot_be_reached_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "none"))
    write_records(str(tmp_path / "records"), tmp_path / "state" / "records", "another-host")
    query = ("query", "SELECT count(*) AS n FROM records", "--format", "json", "--records", str(tmp_path / "records"))
    result = run(*query)
    assert parsed(result.stdout) == [{"n": 13}]
    assert result.stderr == (f"headrace: rows that replica r-0 has not sealed yet are on another-host in {tmp_path / 'state' / 'records'}: "
                             "not read here\n")
    result = run(*query, "--state-dir", str(tmp_path / "state"))
    assert (parsed(result.stdout), result.stderr) == ([{"n": 18}], "")


def test_directories_without_records(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no records directory .*nowhere; a server makes it: headrace serve --records"):
        run("tail", "--records", str(tmp_path / "nowhere"))
    result = run("tail", "--records", str(tmp_path))
    assert (result.stdout, result.stderr) == ("", f"headrace: nothing was recorded in {tmp_path} yet\n")


@pytest.mark.parametrize("command", [("verify",), ("query", "SELECT count(*) FROM records"), ("seal",), ("holds",)])
@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path: Path, command: tuple[str, ...], scheme: str) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ConfigurationError, match="there is no records directory .*nowhere; a server makes it: headrace serve --records"):
        run(*command, "--records", f"{scheme}{nowhere}")
    assert not nowhere.exists()


def test_verify_tells_a_new_folder_from_one_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    result = run("verify", "--records", str(tmp_path / "new"))
    assert (result.exit_code, result.stderr) == (0, f"headrace: nothing was recorded in {tmp_path / 'new'} yet\n")
    assert result.stdout.endswith("0 files, 0 bytes, 0 journals: nothing is recorded\n")
    Recorder(open_store(str(tmp_path / "begun")), tmp_path / "home", host=HOST)
    assert run("verify", "--records", str(tmp_path / "begun")).exit_code == 0
    result = run("verify", "--records", str(tmp_path))
    assert result.exit_code == 1
    said = f" {tmp_path} holds other files and no manifest of a server: give --records as the server has it"
    assert said in " ".join(result.stdout.split())


def test_files_whose_manifest_is_lost_are_not_intact(recorder: Recorder, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "records" / "_manifest")
    result = run("verify")
    assert result.exit_code == 1
    assert "no manifest of a server" in " ".join(result.stdout.split())


def test_a_sealed_file_that_is_gone_is_named_and_counted(recorder: Recorder, tmp_path: Path) -> None:
    recorder.end(dropped=2)
    part = next(part for part in recorder.manifest.state.parts.values() if part.name.table == "records")
    (tmp_path / "records" / part.path).unlink()
    with pytest.raises(Unavailable, match=f"^{tmp_path}/records/{part.path} is gone, though its manifest names it: run `headrace records"):
        run("query", "SELECT count(*) FROM records")
    row, = csv.DictReader(io.StringIO(run("verify", "--format", "csv").stdout))
    assert (row["found"], row["missing"], row["purged"]) == (str(18 - part.rows), str(part.rows), "0")


@pytest.mark.parametrize("missing", ["duckdb", "pyarrow"])
def test_without_the_extra_it_says_what_to_install(recorder: Recorder, missing: str) -> None:
    program = (f"import sys; sys.modules[{missing!r}] = None\nfrom serve.cli import main\n"
               "sys.argv = ['headrace', 'records', 'query', 'SELECT 1']\nmain()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"headrace: {missing} is not installed: pip install 'headrace[records]'\n"


# What is drawn

@pytest.mark.parametrize(("value", "text"), [
    (None, ""), (0.1 + 0.2, "0.3"), ([0.0, 0.1, 0.2, 0.3], "[0, 0.1, 0.2, 0.3]"), ([1.0] * 64, "[1, 1, 1, … 64 values]"),
    ([[1, 2], [3]], "[[1, 2], [3]]"), ({"data": [1] * 9, "shape": [3, 3]}, "{data: [1, 1, 1, … 9 values], shape: [3, 3]}"),
    ("x" * 100, "x" * 59 + "…"), (10**18, str(10**18))])
def test_values_are_shortened(value: Any, text: str) -> None:
    assert short(value) == text


def test_a_table_that_is_too_wide_for_a_terminal_stands_upright() -> None:
    batch = pa.RecordBatch.from_pydict({f"column_{i}": ["a value"] for i in range(12)})
    narrow = Console(file=io.StringIO(), width=60, force_terminal=True, no_color=True, highlight=False)
    wide = Console(file=io.StringIO(), width=200, force_terminal=True, no_color=True, highlight=False)
    for console in (narrow, wide):
        assert print_batches(batch.schema.names, [batch], "table", console)
    assert isinstance(narrow.file, io.StringIO)
    assert isinstance(wide.file, io.StringIO)
    assert len(narrow.file.getvalue().splitlines()) == 13
    assert len(wide.file.getvalue().splitlines()) == 2


def test_a_line_for_a_row(recorder: Recorder) -> None:
    with read(recorder.store, host=HOST) as reading, Records(recorder.store, reading.snapshot).query(
            "SELECT * FROM records_digits WHERE request_id = 'pair' AND row = 1") as result:
        table = result.table()
    line, = tail_lines(table)
    assert line.plain == "2026-01-01 10:00:00         digits/1  stable  200  2.0 ms  pair#1  in_x=[1, 0.1, NaN, -1]  out_label=1"
    for total_us, text in ((999, "999 us"), (40, "40 us"), (1_000, "1.0 ms"), (1_234_567, "1,234.6 ms")):
        fast = table.set_column(table.schema.get_field_index("total_us"), "total_us", pa.array([total_us], pa.int32()))
        assert f"  200  {text}  pair#1" in tail_lines(fast)[0].plain


def test_no_bar_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with bar() as report:
        report("working", 1, 2)
    assert capfd.readouterr() == ("", "")
