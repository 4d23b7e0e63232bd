"""`headrace feedback` and the client's feedback, against a small server that keeps what it is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from serve import cli
from serve.client import Client, ClientError
from serve.commands import feedback as command
from serve.commands.feedback_files import value_of
from tests.unit.fake_server import FakeServer, can, fake_server

PATH = "/v2/models/digits/feedback"


@pytest.fixture
def url() -> Iterator[str]:
    with fake_server() as found:
        for path in (PATH, f"{PATH}?durable=true"):
            can(path, {"accepted": 1}, 202)
        yield found


def run(url: str, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["feedback", "digits", *arguments, "--url", url])


def main(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["headrace", "feedback", "digits", *arguments, "--url", url])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0), capsys.readouterr().err


def sent() -> list[Any]:
    return [json.loads(body)["feedback"] for _, _, body in FakeServer.asked]


class TestClient:
    def test_one(self, url: str) -> None:
        with Client(url) as client:
            client.feedback("digits", "r", 7)
            client.feedback("digits", "r", np.int64(7), row=2, name="digit", time=5, durable=True)      # type: ignore[arg-type]
            client.feedback("digits", "r", False)
            client.feedback("digits", "r", reward=np.float32(0.5))                                      # type: ignore[arg-type]
        assert [items[0] for items in sent()] == [
            {"request_id": "r", "label": 7}, {"request_id": "r", "label": 7, "row": 2, "name": "digit", "time": 5},
            {"request_id": "r", "label": False}, {"request_id": "r", "reward": 0.5}]
        assert [path for _, path, _ in FakeServer.asked] == [PATH, f"{PATH}?durable=true", PATH, PATH]

    def test_many(self, url: str) -> None:
        can(PATH, {"accepted": 2}, 202)
        with Client(url) as client:
            assert client.feedback_items("digits", [{"request_id": "a", "label": 1}, {"request_id": "b", "label": 2}]) == 2

    def test_a_refusal(self, url: str) -> None:
        can(PATH, {"error": "this server records nothing"}, 409)
        with Client(url) as client, pytest.raises(ClientError, match="409: this server records nothing"):
            client.feedback("digits", "r", 1)


@pytest.mark.parametrize(("text", "value"), [
    ("7", 7), ("-0.5", -0.5), ("true", True), ("cat", "cat"), ('"7"', "7"), ("007", "007"), ("null", "null"), ("[1]", "[1]"), ("", "")])
def test_labels_as_people_type_them(text: str, value: object) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


class TestCommand:
    def test_one_label(self, url: str) -> None:
        result = run(url, "--request-id", "r", "--label", "7", "--row", "2", "--name", "digit", "--time", "2026-01-31T12:00:00Z",
                     "--durable")
        assert (result.exit_code, result.output) == (0, "accepted 1\n")
        assert sent() == [[{"request_id": "r", "label": 7, "row": 2, "name": "digit", "time": "2026-01-31T12:00:00Z"}]]
        assert FakeServer.asked[0][1] == f"{PATH}?durable=true"
        assert run(url, "--request-id", "r", "--reward", "0", "--time", "17").exit_code == 0
        assert sent()[1] == [{"request_id": "r", "reward": 0.0, "time": 17}]

    @pytest.mark.parametrize("arguments", [
        ("--request-id", "r"), ("--label", "7"), ("--request-id", "r", "--label", "7", "--reward", "1"), (),
        ("--file", "x.csv", "--label", "7"), ("--file", "x.csv", "--row", "1")])
    def test_usage(self, url: str, arguments: tuple[str, ...]) -> None:
        assert run(url, *arguments).exit_code == 2
        assert FakeServer.asked == []

    @pytest.mark.parametrize("name", ["r\r", "r\n", "a\x7fb"])
    def test_an_id_with_the_end_of_a_line_is_refused(self, url: str, name: str) -> None:
        result = run(url, "--request-id", name, "--label", "7")
        assert (result.exit_code, FakeServer.asked) == (2, [])
        assert "control character" in result.output

    def test_a_refusal_is_one_line(self, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        can(PATH, {"error": "'label' must be finite"}, 400)
        assert main(capsys, monkeypatch, url, "--request-id", "r", "--label", "7") == (1, "headrace: 400: 'label' must be finite\n")


class TestFiles:
    def write(self, folder: Path, kind: str) -> Path:
        path = folder / f"labels.{kind}"
        if kind == "csv":
            path.write_text('request_id,row,label,time,name\na,0,7,,\n"b,c",1,cat,5,animal\nd,,true,2026-01-31T12:00:00Z,\n', "utf-8-sig")
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(item) + "\n\n" for item in ITEMS))
        else:
            schema = pa.schema([
                ("request_id", pa.string()), ("row", pa.int32()), ("label", pa.string()), ("time", pa.int64()), ("name", pa.string())])
            pq.write_table(pa.Table.from_pylist([
                {"request_id": "a", "row": 0, "label": "7"}, {"request_id": "b,c", "row": 1, "label": "cat", "time": 5, "name": "animal"},
                {"request_id": "d", "label": "true"}], schema), path)
        return path

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    def test_in_chunks(self, url: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(command, "CHUNK", 2)
        result = run(url, "--file", str(self.write(tmp_path, kind)))
        assert (result.exit_code, result.output) == (0, "accepted 2\n")     # the server says 1 each time
        assert [len(items) for items in sent()] == [2, 1]
        flat = [item for items in sent() for item in items]
        if kind == "parquet":
            assert [item["label"] for item in flat] == ["7", "cat", "true"]
            flat = [{**item, "label": value} for item, value in zip(flat, (7, "cat", True), strict=True)]
            flat[2]["time"] = "2026-01-31T12:00:00Z"
        assert flat == ITEMS

    def test_times_and_numbers_of_a_parquet_file(self, url: str, tmp_path: Path) -> None:
        times = pa.array([1_769_860_800_000_000], pa.timestamp("us"))
        pq.write_table(pa.table({"request_id": ["a"], "reward": [0.5], "time": times}), tmp_path / "a.parquet")
        assert run(url, "--file", str(tmp_path / "a.parquet")).exit_code == 0
        assert sent() == [[{"request_id": "a", "reward": 0.5, "time": "2026-01-31T12:00:00Z"}]]

    def test_a_chunk_that_is_refused_says_where_to_go_on(
        self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(command, "CHUNK", 2)
        path = tmp_path / "many.jsonl"
        path.write_text("".join(f'{{"request_id": "{i}", "label": {i}}}\n' for i in range(5)))
        can(PATH, {"error": "the journal is full"}, 503)
        code, text = main(capsys, monkeypatch, url, "--file", str(path), "--skip", "3")
        assert (code, text) == (1, f"headrace: {path}, rows 4 to 4: 503: the journal is full; the 0 before are kept: go on with --skip 3\n")
        can(PATH, {"accepted": 1}, 202)
        assert run(url, "--file", str(path), "--skip", "3").output == "accepted 2\n"
        assert [[item["request_id"] for item in items] for items in sent()[1:]] == [["3"], ["4"]]

    @pytest.mark.parametrize(("name", "content", "said"), [
        ("a.txt", "x", "labels are read from .csv, .jsonl, .ndjson, .parquet, not .txt"), ("a.csv", "id,label\n", "unknown column 'id'"),
        ("a.csv", "label\n1\n", "no column request_id"), ("a.csv", "request_id,label\na\n", "line 2: has other cells than the head"),
        ("a.csv", "request_id,row,label\na,x,1\n", "line 2: invalid literal"),
        ("a.jsonl", "{}\n[]\n", "line 2: want a JSON object, got list"),
        ("a.jsonl", "{\n", "line 1: "), ("a.parquet", "x", "cannot read"), ("absent.csv", None, "No such file")])
    def test_files_that_are_none(
        self, url: str, tmp_path: Path, name: str, content: str | None, said: str, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if content is not None:
            (tmp_path / name).write_text(content)
        code, text = main(capsys, monkeypatch, url, "--file", str(tmp_path / name))
        assert code == 1
        assert said in text


ITEMS: list[dict[str, Any]] = [
    {"request_id": "a", "row": 0, "label": 7}, {"request_id": "b,c", "row": 1, "label": "cat", "time": 5, "name": "animal"},
    {"request_id": "d", "label": True, "time": "2026-01-31T12:00:00Z"}]
