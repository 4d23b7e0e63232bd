"""`headrace rollout`: commands, what is drawn, what a pipeline waits for."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serve import cli
from serve.client.connection import ClientError
from serve.commands.rollout_view import BAR_WIDTH, Look, evidence_bar, evidence_picture, line_of, rollout_picture, rollouts_table
from serve.commands.watch import FAILED, HELD, ROLLED_BACK, SUCCEEDED, TIMED_OUT, Lines, exit_code, watch
from tests.unit.admin_server import admin_server
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.pictures import drawn
from tests.unit.rollout_documents import COUNTERS, TRAFFIC, judgement, rollout


@pytest.fixture
def routing() -> FakeRouting:
    return FakeRouting()


@pytest.fixture
def admin(routing: FakeRouting, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with admin_server(routing) as url:
        monkeypatch.setenv("HEADRACE_ADMIN", url)
        yield url


def run(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(cli.app, arguments, input=stdin)


# What a pipeline waits for

GATE = {"phase": "paused", "pause_reason": "gate", "paused_from": "stepping"}
TIMER = {**GATE, "pause_reason": "timer"}


@pytest.mark.parametrize(("document", "until_held", "is_late", "code"), [
    ({"phase": "succeeded"}, False, False, SUCCEEDED), ({"phase": "rolled_back"}, True, True, ROLLED_BACK),
    ({"phase": "failed"}, False, True, FAILED), ({"phase": "stepping"}, True, False, None), ({"phase": "stepping"}, False, True, TIMED_OUT),
    ({"phase": "rolling_back"}, True, False, None), (GATE, False, False, None), (GATE, True, False, HELD), (GATE, False, True, HELD),
    (TIMER, True, False, None), (TIMER, False, True, TIMED_OUT), ({**GATE, "pause_reason": "worker_died"}, True, False, HELD),
    ({**GATE, "pause_reason": "timeout"}, True, False, HELD), ({**GATE, "pause_reason": "operator"}, True, False, HELD)])
def test_exit_codes(document: dict[str, Any], until_held: bool, is_late: bool, code: int | None) -> None:
    assert exit_code(document, until_held, is_late) == code


class Script:
    """Answers from a list, one look each; an exception in it is raised. Its clock goes on with the pauses."""

    def __init__(self, *looks: dict[str, Any] | Exception) -> None:
        self._looks = list(looks)
        self.now = 0.0
        self.seen: list[Look] = []

    def rollout(self, name: str) -> dict[str, Any]:
        found = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(found, Exception):
            raise found
        return found

    def traffic(self, model: str) -> dict[str, Any]:
        return TRAFFIC

    def counters(self, model: str) -> list[dict[str, Any]]:
        return COUNTERS

    def watch(self, **options: Any) -> int:
        return watch(self, "digits-r1", self.seen.append, lambda: self.now, self._pause, **options)

    def _pause(self, seconds: float) -> None:
        self.now += seconds


AWAY = ClientError(0, "no answer from http://127.0.0.1:8003: refused")


def test_watching_ends_with_the_rollout() -> None:
    script = Script(rollout("shadowing"), rollout("stepping"), rollout("rolling_back"), rollout("rolled_back"))
    assert script.watch() == ROLLED_BACK
    assert [seen.rollout["phase"] for seen in script.seen] == ["shadowing", "stepping", "rolling_back", "rolled_back"]


def test_a_hold_ends_it_only_where_that_was_asked() -> None:
    held = rollout("paused", pause_reason="timeout", paused_from="stepping")
    assert Script(rollout(), held, rollout("succeeded")).watch() == SUCCEEDED
    assert Script(rollout(), held, rollout("succeeded")).watch(until_held=True) == HELD


def test_a_time_out() -> None:
    script = Script(rollout())
    assert (script.watch(timeout_s=5, interval_s=1), script.now, len(script.seen)) == (TIMED_OUT, 5, 6)


def test_a_server_that_comes_back_is_waited_for() -> None:
    script = Script(rollout(), AWAY, ClientError(503, "loading"), rollout("succeeded"))
    assert script.watch() == SUCCEEDED
    assert [bool(seen.note) for seen in script.seen] == [False, True, True, False]


@pytest.mark.parametrize("looks", [(AWAY,), (rollout(), ClientError(404, "no such rollout")), (rollout(), AWAY)])
def test_a_server_that_stays_away_or_refuses_is_an_error(looks: tuple[Any, ...]) -> None:
    with pytest.raises(ClientError):
        Script(*looks).watch(interval_s=10)


def test_lines_are_written_when_something_changes_and_now_and_then() -> None:
    now = 0.0
    lines: list[str] = []
    report = Lines(lines.append, lambda: now)
    for at, document in ((0, rollout()), (1, rollout()), (2, rollout(step=3)), (3, rollout(step=3, verdict="hold")), (12, rollout(step=3)),
                         (23, rollout(step=3))):
        now = at
        report(Look(document, TRAFFIC, COUNTERS))
    assert len(lines) == 5
    assert lines[0].startswith("digits-r1  stepping  step 2 of 4: 5 % to version 2 of digits  270 requests  errors=3.1/167")
    Lines(lines.append, lambda: now, as_json=True)(Look(rollout(), TRAFFIC, COUNTERS))
    assert json.loads(lines[-1])["rollout"]["id"] == "digits-r1"


# What is drawn

def test_the_picture_says_where_it_stands_and_why() -> None:
    text = drawn(rollout_picture(Look(rollout(), TRAFFIC, COUNTERS)))
    for part in ("digits 1 to 2 stepping", "shadow 10 % done > 1 % done > 5 % > 25 % > 50 % > 100 %", "31 of 60 s",
                 "270 of 500 requests of the candidate", "stable 1 95 % 94.81 % 5,120 12 1", "candidate 2 5 % 5.19 % 280 2 1",
                 "shadow 3 500 pairs 1 39 dropped", "3.1 / 167", "inf / 100", "shown 31 / 20", "longest streak of candidate failures is 1",
                 "continue nothing speaks against version 2", "digits-r1 3 min 20 s promote | promote-full | pause | abort"):
        assert part in text, part


@pytest.mark.parametrize(("changed", "part"), [
    ({"phase": "succeeded"}, "50 % done > 100 % done"), ({"phase": "pending"}, "shadow 10 % > 1 %"),
    ({"phase": "shadowing", "step": 0}, "270 of 500 compared pairs"),
    ({"phase": "rolled_back", "why": "errors"}, "digits 1 to 2 rolled back"),
    ({"phase": "promoting", "step": 4}, "50 % done > 100 %"),
    ({"phase": "paused", "paused_from": "stepping", "pause_reason": "gate", "why": "the gate of step 2"}, "the gate of step 2"),
    ({"judgement": None}, "stepping"), ({"judgement": judgement("hold", "outputs moved")}, "hold outputs moved")])
def test_every_phase_can_be_drawn(changed: dict[str, Any], part: str) -> None:
    look = Look(rollout(**changed), {**TRAFFIC, "plan": None}, (), "no answer for 3 s")
    assert part in drawn(rollout_picture(look))
    assert "no answer for 3 s" in line_of(look)


@given(st.floats(min_value=0, allow_nan=False), st.floats(min_value=1, max_value=1e6, exclude_min=True))
def test_evidence_bars_fill_at_the_limit(e_value: float, limit: float) -> None:
    n_full = evidence_bar(e_value, limit).count("█")
    assert len(evidence_bar(e_value, limit)) == BAR_WIDTH
    if e_value >= limit:
        assert n_full == BAR_WIDTH
    elif e_value <= 1:
        assert n_full == 0


def test_evidence_and_lists_are_drawn() -> None:
    one = {"time": "2026-11-22T01:02:03Z", "phase": "rolling_back", "step": 2, "candidate_bp": 0, "judgement": judgement("rollback", "why")}
    text = drawn(evidence_picture([one, {**one, "candidate_bp": None}]))
    assert "2026-11-22T01:02:03Z rolling back, step 2, candidate 0 %" in text
    assert text.count("rollback why") == 2
    assert drawn(evidence_picture([])) == "not judged yet"
    assert "digits-r1 digits 1 2 stepping continue step 2 of 4" in drawn(rollouts_table([rollout()]))


# Commands

def test_start_and_the_verbs(admin: str, routing: FakeRouting) -> None:
    result = run("rollout", "start", "digits", "--to", "2", "--dry-run", "--reason", "try", "--as", "ada")
    assert (result.exit_code, result.output) == (0, "digits-r1: waits\n")
    _, model, plan, by = routing.calls[0]
    assert (model, plan.to, plan.dry_run, by.name, by.reason) == ("digits", "2", True, "ada", "try")
    for verb in ("promote", "promote-full", "pause", "resume", "abort"):
        assert run("rollout", verb, "digits-r1").exit_code == 0
        assert routing.calls[-1][:2] == (verb, "digits-r1")
    assert run("rollout", "retry", "digits-r1").exit_code == 1
    assert run("rollout", "start", "digits").exit_code == 2


def test_a_plan_from_a_file_in_argos_words(admin: str, routing: FakeRouting) -> None:
    result = run("rollout", "start", "digits", "--to", "1", "--plan", "-", stdin="steps:\n- setWeight: 20\n- pause: {}\n")
    assert result.exit_code == 0, result.output
    assert [(step.weight, step.pause) for step in routing.calls[0][2].steps] == [(2000, True)]


def test_looking(admin: str, routing: FakeRouting) -> None:
    run("rollout", "start", "digits", "--to", "2")
    routing.put_rollout(phase="rolled_back", id="digits-r2", why="errors")
    assert [line.split()[0] for line in run("rollout", "list").output.splitlines()[1:]] == ["digits-r1", "digits-r2"]
    assert json.loads(run("rollout", "show", "digits", "--json").output)["id"] == "digits-r2", "a model stands for its newest"
    assert "rolled back" in run("rollout", "show", "digits-r2").output
    assert run("rollout", "status", "digits-r2").output == run("rollout", "show", "digits-r2").output
    assert "inf / 167" in run("rollout", "evidence", "digits-r1").output
    assert run("rollout", "show", "absent").exit_code == 1


@pytest.mark.parametrize(("phase", "code"), [("succeeded", 0), ("rolled_back", 10), ("failed", 12)])
def test_watch_leaves_with_how_it_ended(admin: str, routing: FakeRouting, phase: str, code: int) -> None:
    routing.put_rollout(phase=phase)
    result = run("rollout", "watch", "digits-r1")
    assert (result.exit_code, result.output.count("\n")) == (code, 1)
    assert json.loads(run("rollout", "watch", "digits", "--json").output)["rollout"]["phase"] == phase


def test_watch_until_held_or_late(admin: str, routing: FakeRouting) -> None:
    routing.put_rollout(phase="paused", pause_reason="gate", paused_from="stepping")
    assert run("rollout", "watch", "digits-r1", "--until-held").exit_code == 11
    routing.put_rollout(phase="stepping")
    assert run("rollout", "watch", "digits-r1", "--timeout", "0").exit_code == 13
    assert run("rollout", "start", "digits", "--to", "2", "--watch", "--timeout", "0").exit_code == 13


def test_experiments(admin: str, routing: FakeRouting) -> None:
    plan = '{"variants": [{"version": "1", "weight": 5000}, {"version": "2", "weight": 5000, "name": "new"}], "seconds": 60}'
    assert run("experiment", "start", "digits", "--plan", "-", stdin=plan).output == "digits-e1: running\n"
    shown = " ".join(run("experiment", "show", "digits-e1").output.split())
    for part in ("digits-e1 digits running 5 s by errors, alpha 0.05", "1 (control) 1 50 % 0 0 of 0", "new against 1, errors: no data."):
        assert part in shown
    assert "digits-e1" in run("experiment", "list", "digits").output
    assert json.loads(run("experiment", "stop", "digits-e1", "--keep", "2", "--json").output)["phase"] == "ended"
    assert routing.calls[-1][2] == "2"
