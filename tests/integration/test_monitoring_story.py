"""`make demo-monitoring`, with shorter windows and less traffic: the same acts and the same checks."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from serve.demo.story.scale import QUICK
from serve.demo.story.telling import tell

# What nobody may take out of the story: one for each turn that it takes.
TURNS = (
    "in no window before was there drift",
    "drift is raised",
    "the estimated accuracy has fallen",
    "before any label of these pictures has come",
    "retraining is asked for once, of the command and of the webhook alike",
    "labels confirm the estimate",
    "version 2 is trained on old and new rows",
    "a rollout of version 2 is refused",
    "version 2 passes the gate",
    "version 3 fails the gate",
    "a rollout of version 3 is refused",
    "the rollout succeeds",
    "every row that a client was answered with is recorded, once, under its version and variant",
    "records, gate and audit name the same files of both versions",
    "the server says what version 2 was made of, and why",
    "version 2: rows, labels and accuracy are what its clients know",
    "nobody has touched the audit",
    "drift, retrain request, gate, rollout and promotion are there, in this order",
    "retraining was asked for once, and is one row of the audit",
    "the webhook was told of each alert once, signed",
    "the accuracy is back",
    "the report is one page with its plots, that needs nothing else",
    "the records are intact, and every number that was given to a row is there",
    "the server's log has no error",
)


@pytest.mark.timeout(400)
def test_a_broken_scanner_is_seen_retrained_for_and_got_over(tmp_path: Path) -> None:
    said = io.StringIO()
    folder = tmp_path / "story"
    folder.mkdir()
    narrator = tell(folder, QUICK, Console(file=said, width=200))
    assert not [check for check in narrator.checks if not check.holds], said.getvalue()
    assert not narrator.has_failed
    missing = set(TURNS) - {check.claim for check in narrator.checks}
    assert not missing
