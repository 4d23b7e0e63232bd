"""The parts of the story that decide: checks, what a broken scanner does, who is believed at the webhook, how monitoring is read."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from serve.demo.story import stage
from serve.demo.story.__main__ import main
from serve.demo.story.audit import when_ns
from serve.demo.story.commands import CommandFailed, Headrace, Places
from serve.demo.story.narration import Narrator
from serve.demo.story.on_event import events_in
from serve.demo.story.pictures import DEAD_COLUMNS, Pictures, broken, parts
from serve.demo.story.receiver import Receiver
from serve.demo.story.scale import QUICK
from serve.demo.story.traffic import Asked, accuracy, n_rows
from serve.demo.story.versions import read_pictures, write_model, write_pictures, write_version
from serve.demo.story.waiting import TooLate, until
from serve.models.config import parse_model_yaml
from serve.store.audit import rfc3339
from serve.store.signature import key_of, signature_headers
from tests.integration.running_server import ROOT

SECRET = "whsec_" + "c2VjcmV0" * 4


def narrator() -> Narrator:
    return Narrator(Console(file=io.StringIO()))


def test_a_story_without_checks_and_one_with_a_check_that_does_not_hold_have_failed() -> None:
    told = narrator()
    assert told.has_failed
    told.check("one", True)
    assert not told.has_failed
    told.check("two", False, "3 instead of 4")
    assert told.has_failed
    told.ending()


def test_waiting_ends_with_what_is_true_or_says_why_not() -> None:
    assert until(lambda: "found", "there", 10) == "found"
    with pytest.raises(TooLate, match="still not there: the server has exited"):
        until(lambda: "", "there", 10, lambda: "the server has exited")
    with pytest.raises(TooLate, match="after 0 s still not there"):
        until(lambda: "", "there", 0)


def test_the_broken_scanner_sees_no_dead_column_and_leaves_the_rest_alike() -> None:
    images = parts().before.images
    seen = broken(images, np.random.default_rng(1))
    columns = np.arange(64) % 8
    dead = np.isin(columns, DEAD_COLUMNS)
    assert images[:, dead].mean() > 8
    assert seen[:, dead].mean() < 1
    assert abs(seen[:, ~dead].mean() - images[:, ~dead].mean()) < 0.5
    assert seen.dtype == np.float32
    assert (seen.min(), seen.max()) == (0, 16)
    assert np.array_equal(seen, np.rint(seen))


def test_no_picture_is_in_two_parts() -> None:
    found = parts()
    each = [found.fitted, found.reference, found.before, found.after]
    rows = np.concatenate([one.images for one in each])
    assert len(rows) == 1797
    assert len(np.unique(rows, axis=0)) == 1797


def delivered(receiver: Receiver, event: dict[str, Any], secret: str = SECRET) -> bool:
    body = json.dumps(event).encode()
    return receiver.take(signature_headers(key_of(secret), event["id"], 1_700_000_000, body), body)


def test_the_receiver_takes_what_is_signed_once() -> None:
    receiver = Receiver(SECRET)
    event = {"id": "a-1", "type": "x"}
    assert delivered(receiver, event)
    assert delivered(receiver, event)
    assert not delivered(receiver, {"id": "a-2", "type": "x"}, "whsec_" + "b3RoZXJz" * 4)
    assert not receiver.take({}, b"{}")
    assert (receiver.of_type("x"), receiver.refused) == ([event], 2)


def test_the_command_puts_each_event_into_the_inbox_once(tmp_path: Path) -> None:
    for sequence, type_ in (("2", "retrain"), ("1", "retrain"), ("2", "retrain"), ("3", "drift")):
        event = {"id": f"instance/{sequence}", "type": type_, "sequence": sequence}
        subprocess.run([sys.executable, "-m", "serve.demo.story.on_event", str(tmp_path / "inbox")], cwd=ROOT, input=json.dumps(event),
                       text=True, check=True, timeout=30)
    assert [event["sequence"] for event in events_in(tmp_path / "inbox", "retrain")] == ["1", "2"]
    assert len(list((tmp_path / "inbox").iterdir())) == 3


def test_versions_come_whole_and_model_yaml_is_one_that_a_server_reads(tmp_path: Path) -> None:
    write_model(tmp_path, QUICK, {"training_data": "a"})
    write_version(tmp_path, "2", b"onnx", {"training_data": "b"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits"]
    assert (tmp_path / "digits" / "2" / "model.onnx").read_bytes() == b"onnx"
    config = parse_model_yaml((tmp_path / "digits" / "model.yaml").read_text(), "model.yaml")
    assert config.provenance == {"training_data": "b"}
    assert config.monitoring.spec().window_s == QUICK.window_s


def test_pictures_come_back_from_parquet(tmp_path: Path) -> None:
    given = parts().fitted
    digest = write_pictures(tmp_path / "data" / "some.parquet", given)
    found = read_pictures(tmp_path / "data" / "some.parquet")
    assert np.array_equal(found.images, given.images)
    assert np.array_equal(found.labels, given.labels)
    assert digest.startswith("sha256:")
    assert len(found.and_also(Pictures(given.images[:3], given.labels[:3]))) == len(given) + 3


def window(version: str, start: int, accuracy: float, rows: int, variant: str = "1", *, concluded: bool = True) -> dict[str, Any]:
    return {"version": version, "variant": variant, "from_ns": start, "to_ns": start + 10, "concluded": concluded, "rows": rows,
            "labelled": rows, "estimated": {"accuracy": accuracy}, "metrics": {"accuracy": accuracy}}


def test_windows_are_weighted_by_their_rows_and_shadows_are_none() -> None:
    windows = [window("1", 20, 0.5, 100), window("1", 0, 0.9, 300), window("1", 0, 0.1, 900, "shadow"), window("2", 0, 0.2, 10),
               window("1", 40, 0.1, 5, concluded=False)]
    document = {"windows": windows, "realised": windows[:4], "alerts": []}
    assert [one["from_ns"] for one in stage.windows_of(document, "1")] == [0, 20]
    assert [one["from_ns"] for one in stage.windows_of(document, "1", from_ns=1)] == [20]
    assert stage.windows_of(document, "1", to_ns=29) == [windows[1]]
    assert stage.estimated(stage.windows_of(document, "1")) == pytest.approx(0.8)
    assert stage.realised(document, "1") == (pytest.approx(0.8), 400)
    assert stage.realised(document, "1", from_ns=10) == (0.5, 100)
    assert np.isnan(stage.estimated([]))


def test_only_alerts_that_stand_count() -> None:
    alerts = [{"kind": "drift", "version": "1", "state": "raised"}, {"kind": "concept_drift", "version": "1", "state": "cleared"},
              {"kind": "data_invalid", "version": "2", "state": "raised"}]
    assert stage.standing({"alerts": alerts}, "1") == {"drift": alerts[0]}


def test_clients_count_rows() -> None:
    def asked(truth: list[int], predicted: list[int]) -> Asked:
        return Asked("id", 0, "1", "1", np.array(truth), np.array(predicted), is_broken=False, is_told=True)

    ones = [asked([1, 2], [1, 3]), asked([4], [4])]
    assert (n_rows(ones), accuracy(ones)) == (3, pytest.approx(2 / 3))
    assert np.isnan(accuracy([]))


def test_a_command_that_leaves_otherwise_is_told_with_what_it_said(tmp_path: Path) -> None:
    typed: list[str] = []
    headrace = Headrace(Places(tmp_path), typed.append)
    with pytest.raises(CommandFailed, match="there is no records directory"):
        headrace.run("records", "verify", "--records", tmp_path / "records", "--state-dir", tmp_path / "state")
    assert typed == ["headrace records verify --records records --state-dir state"]


def test_times_of_the_audit_are_read_to_the_microsecond() -> None:
    assert when_ns(rfc3339(1_795_328_508_123_456_789)) == 1_795_328_508_123_456_000


def test_what_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("kept")
    assert main(["--folder", str(tmp_path), "--quick"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "kept"
