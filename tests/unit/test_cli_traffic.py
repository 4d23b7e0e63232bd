"""`headrace traffic`, `label` and `audit`, through the admin API; shares as people type them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serve import cli
from serve.commands.shares import edited_plan, parse_labels, parse_shadows, parse_share, parse_shares, percent
from serve.commands.traffic_view import observed_shares, traffic_picture
from tests.unit.admin_server import admin_server
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.pictures import drawn
from tests.unit.rollout_documents import COUNTERS, TRAFFIC


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


@pytest.mark.parametrize(("text", "expected"), [
    ("2=10", ("2", 1000)), ("12=0.25", ("12", 25)), ("1=100", ("1", 10_000)), ("1=99.9", ("1", 9990)), ("3=0", ("3", 0)),
    ("1=5%", ("1", 500))])
def test_a_share(text: str, expected: tuple[str, int]) -> None:
    assert parse_share(text) == expected


@pytest.mark.parametrize("text", ["2", "2=", "=5", "2=0.125", "2=-1", "2=1e1", "0=5", "02=5", "2=101", "2=100.01", "v2=5", "2= 5", "2=٣"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match=r"VERSION=PERCENT|more than 100"):
        parse_share(text)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
def test_shares_survive_being_written_in_percent(points: list[int]) -> None:
    texts = [f"{version}={value // 100}.{value % 100:02d}" for version, value in enumerate(points, 1)]
    if sum(points) == 10_000:
        assert list(parse_shares(texts).values()) == points
    else:
        with pytest.raises(ValueError, match="want 100 %"):
            parse_shares(texts)


def test_versions_and_labels_are_named_once() -> None:
    with pytest.raises(ValueError, match="given twice"):
        parse_shares(["1=50", "1=50"])
    with pytest.raises(ValueError, match="given twice"):
        parse_labels(["a=1", "a=2"])
    with pytest.raises(ValueError, match="LABEL=VERSION"):
        parse_labels(["a"])
    assert (parse_labels(["a=1", "b="]), parse_shadows(["3=5", "4=0"])) == ({"a": "1", "b": ""}, {"3": 500})
    assert [percent(points) for points in (1050, 1, 10_000, 0)] == ["10.5 %", "0.01 %", "100 %", "0 %"]


def test_an_edited_plan_keeps_what_it_was_not_told_to_change() -> None:
    before = {"variants": [{"version": "1", "weight": 10_000, "name": "old"}, {"version": "9", "weight": 0}], "sticky": {"header": "x"},
              "shadows": [{"version": "3", "sample": 100, "compare": [{"output": "y", "rule": "exact"}]}], "salt": "s", "coverage": 5000}
    kept = edited_plan(before, {"1": 5000, "2": 5000})
    assert kept == {**before, "variants": [{"version": "1", "weight": 5000, "name": "old"}, {"version": "2", "weight": 5000}]}
    changed = edited_plan(before, {"2": 10_000}, None, True, {"3": 500, "4": 1})
    assert "sticky" not in changed
    assert changed["shadows"] == [{**before["shadows"][0], "sample": 500}, {"version": "4", "sample": 1}]     # type: ignore[dict-item]
    assert edited_plan(None, {"1": 10_000}, {"parameter": "p"}, True) == {
        "variants": [{"version": "1", "weight": 10_000}], "sticky": {"parameter": "p"}}


def test_set_show_and_clear(admin: str, routing: FakeRouting) -> None:
    result = run("traffic", "set", "digits", "1=90", "2=10", "--sticky-header", "x-user-id", "--shadow", "3=5", "--reason", "why",
                 "--as", "ada")
    assert result.exit_code == 0, result.output
    assert "generation 1, in force" in result.output
    _, model, plan, by, wait = routing.calls[0]
    assert (model, plan.sticky.header) == ("digits", "x-user-id")
    assert [(v.version, v.weight) for v in plan.variants] == [("1", 9000), ("2", 1000)]
    assert ([(s.version, s.sample) for s in plan.shadows], by.name, by.reason, wait) == ([("3", 500)], "ada", "why", True)
    shown = json.loads(run("traffic", "show", "digits", "--json").output)
    assert (shown["generation"], shown["plan"]["sticky"], shown["counters"][0]["generation"]) == (1, {"header": "x-user-id"}, 1)
    assert run("traffic", "set", "digits", "1=80", "2=20", "--no-wait", "--no-sticky").exit_code == 0
    assert (routing.calls[1][2].sticky, routing.calls[1][2].shadows[0].sample, routing.calls[1][4]) == (None, 500, False)
    assert run("traffic", "set", "digits", "1=100", "--anew").exit_code == 0
    assert routing.calls[2][2].shadows == ()
    assert "no plan" in run("traffic", "clear", "digits").output
    assert run("traffic", "who", "digits", "user 7").output == "user 7: variant 2, version 2 (generation 3)\n"


def test_a_whole_plan_from_a_file(admin: str, routing: FakeRouting, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("variants:\n- {version: '2', weight: 10000}\nholdout: 50\n", encoding="utf-8")
    assert run("traffic", "set", "digits", "--file", str(file)).exit_code == 0
    assert routing.calls[0][2].holdout == 50
    assert run("traffic", "set", "digits", "--file", "-", stdin='{"variants": [{"version": "1", "weight": 10000}]}').exit_code == 0
    assert routing.calls[1][2].variants[0].version == "1"
    assert run("traffic", "set", "digits", "--file", str(tmp_path / "absent")).exit_code == 1


@pytest.mark.parametrize(("arguments", "said"), [
    (("1=90",), "the shares sum to 90 %; want 100 %"), ((), "give VERSION=PERCENT... or --file"), (("1=1.234",), "at most two decimals"),
    (("1=100", "--sticky-header", "a", "--no-sticky"), "give one of"), (("--file", "x", "--anew"), "--file is the whole plan")])
def test_usage(routing: FakeRouting, arguments: tuple[str, ...], said: str) -> None:
    result = run("traffic", "set", "digits", *arguments, "--admin", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_the_servers_refusal_is_one_line(
    admin: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["headrace", "traffic", "show", "absent"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert (caught.value.code, capsys.readouterr().err) == (1, "headrace: 404: Request for unknown model: 'absent' is not found\n")


def test_labels(admin: str, routing: FakeRouting) -> None:
    assert run("label", "set", "digits", "stable=1", "canary=2").exit_code == 0
    assert run("label", "set", "digits", "canary=").exit_code == 0
    assert routing.states["digits"].labels == {"stable": "1"}
    assert run("label", "show", "digits").output.split()[-2:] == ["stable", "1"]
    assert run("label", "set", "digits", "stable").exit_code == 2


def test_the_audit_is_listed_and_verified(admin: str, routing: FakeRouting, tmp_path: Path) -> None:
    for version in ("1", "2", "1"):
        run("label", "set", "digits", f"stable={version}", "--reason", "für Łucja", "--as", "ada")
    listed = run("audit", "list").output
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["1", "2", "3"]
    assert ("labels.set" in listed, "für Łucja" in listed, "ada" in listed) == (True, True, True)
    assert [json.loads(line)["sequence"][-1] for line in run("audit", "list", "--after", "1", "--json").output.splitlines()] == ["2", "3"]
    good = run("audit", "verify", "--json")
    assert (good.exit_code, json.loads(good.output)["n_rows"]) == (0, 3)
    assert run("audit", "verify", "--head", routing.rows[1]["hash"]).exit_code == 0
    assert run("audit", "verify", "--head", "f" * 64).exit_code == 1
    routing.rows[1] = {**routing.rows[1], "subject": "other"}
    broken = run("audit", "verify")
    assert (broken.exit_code, broken.output.startswith("broken at row 2: edited")) == (1, True)


def test_the_traffic_picture() -> None:
    text = drawn(traffic_picture(TRAFFIC, COUNTERS))
    assert "generation 4, in force owned by rollout digits-r1" in text
    for line in ("1 1 95 % 94.81 % 5,120 12", "2 2 5 % 5.19 % 280 2", "explicit 7 0", "sticky header x-user-id",
                 "override header x-force = beta: version 2", "coverage 90 %", "shadow version 3, 10 % of the requests", "labels stable=1"):
        assert line in text
    assert "nothing serves" in drawn(traffic_picture({**TRAFFIC, "plan": None, "implied": True}))
    assert observed_shares({"1": {"assigned": 0}}, ["1"]) == {}
