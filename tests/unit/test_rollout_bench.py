"""The rollout bench: what it computes from what it saw, its clients against small servers, and the page. Its cases need a server each."""

import json
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from scipy import stats

from loadtests import sections
from loadtests.judge.tables import Bound, Table
from loadtests.rollout import assignment, models
from loadtests.rollout.__main__ import SUITE
from loadtests.rollout.changes import too_old
from loadtests.rollout.kills import _transition
from loadtests.rollout.load import read_arms
from loadtests.rollout.splits import binomial_interval
from loadtests.rollout.wire import Answer, HttpPipeline, ask_all
from tests.core import plans


def table(title: str, value: float) -> Table:
    return Table(title, ["a"], [["x|y"]], ["Note."], [Bound(f"bound of {title}", value, most=1.0)], {"s": [1, 2]})


def test_cases_are_put_in_one_by_one_and_keep_each_others_results(tmp_path: Path) -> None:
    order = ["one", "two", "three"]
    for name, value in (("two", 2.0), ("one", 0.5)):
        section = sections.as_section({"date": "today"}, [table(name, value)], 3.0)
        path = sections.merge(tmp_path, "rollout", SUITE.head, name, section, order)
    page = path.read_text()
    assert page.index("## one") < page.index("## two")
    assert "1 of 2 bounds are met; missed: bound of two." in page
    assert "Not run yet: three." in page
    assert "x\\|y" in page
    sections.merge(tmp_path, "rollout", SUITE.head, "two", sections.as_section({}, [table("two", 1.0)], 3.0), order)
    assert "2 of 2 bounds are met." in path.read_text()
    cases = json.loads((tmp_path / "rollout.json").read_text())["cases"]
    assert list(cases) == ["one", "two"]
    assert sections.read_table(cases["one"]["tables"][0]) == table("one", 0.5)


@pytest.mark.parametrize("weights", [{"1": 10_000}, {"1": 9000, "2": 1000}, {"1": 7000, "2": 0, "3": 3000}, {"2": 100, "10": 9900}])
def test_assignments_are_those_of_the_suites_oracle(weights: dict[str, int]) -> None:
    spec = plans.spec_of(weights, salt="bench")
    for key in map(str, range(300)):
        assert "v" + assignment.assigned(weights, "bench", key) == plans.assigned(spec, key.encode())


def test_versions_are_bad_in_the_way_that_they_are_meant_to_be(tmp_path: Path) -> None:
    kinds = {"1": "stable", "2": "copy", "3": "errors", "4": "slow", "5": "shifted"}
    models.write_model(tmp_path, "m", kinds)
    run = {version: onnxruntime.InferenceSession(tmp_path / "m" / version / "model.onnx", providers=["CPUExecutionProvider"])
           for version in kinds}
    x = models.rows(400, bad_share=1 / 16)
    bad = x[:, 0] >= models.BAD_VALUE
    assert bad.sum() == 25
    stable = run["1"].run(None, {"x": x})[0]
    for version in ("2", "4"):
        np.testing.assert_array_equal(run[version].run(None, {"x": x})[0], stable)
    np.testing.assert_array_equal(run["3"].run(None, {"x": x[~bad]})[0], stable[~bad])
    with pytest.raises(Exception, match="out of data bounds"):
        run["3"].run(None, {"x": x[bad][:1]})
    shifted = run["5"].run(None, {"x": x})[0]
    assert (shifted.argmax(axis=1) == 3).mean() > (stable.argmax(axis=1) == 3).mean() + 0.2


@pytest.mark.parametrize(("n", "p"), [(100_000, 0.01), (100_000, 0.5), (5_000, 0.1)])
def test_binomial_interval_is_scipys(n: int, p: float) -> None:
    assert binomial_interval(n, p, 0.999) == stats.binom.interval(0.999, n, p)


def test_what_wrk_saw_is_read() -> None:
    counts = '[["3 1 200", 3, 1700000], ["4 2 500", 2, 18]]'
    line = f'{{"requests": 5, "failed": 0, "status": 2, "seconds": 1.5, "p99_ms": 0.5, "answers": {counts}}}'
    found = read_arms(f"words\n{line}\n")
    assert (found.count(status=200), found.count(generation=4), found.count(version="1", status=500)) == (3, 2, 0)
    assert found.arms[0].last_ns == 1_700_000_000
    with pytest.raises(ValueError, match="not a summary"):
        read_arms("Segmentation fault")


def test_an_answer_is_too_old_when_its_generation_was_replaced_before_it_was_asked_for() -> None:
    def answer(sent_ns: int, generation: int) -> Answer:
        return Answer(200, "1", "1", generation, "k", sent_ns, sent_ns + 1)
    returned = [(10, 1), (20, 2), (30, 3)]
    assert too_old([answer(5, 0), answer(15, 1), answer(25, 2), answer(25, 3), answer(35, 3)], returned) == 0
    assert too_old([answer(35, 2), answer(15, 0), answer(21, 1)], returned) == 3


@pytest.mark.parametrize(("before", "bp", "deaths", "phase", "after_bp", "n_faults"), [
    ("stepping", 500, 0, "paused", 0, 0), ("stepping", 500, 1, "rolled_back", 0, 0), ("stepping", 500, 0, "stepping", 500, 2),
    ("stepping", 500, 1, "paused", 0, 1), ("warming", 0, 0, "stepping", 500, 0), ("succeeded", 10_000, 0, "succeeded", 10_000, 0),
    ("succeeded", 10_000, 0, "paused", 0, 1),
])
def test_what_a_death_may_lead_to(before: str, bp: int, deaths: int, phase: str, after_bp: int, n_faults: int) -> None:
    assert len(_transition(before, bp, deaths, {"phase": phase, "pause_reason": "worker_died"}, after_bp)) == n_faults


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers each pipelined POST with its user as variant, in two pieces."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            while line := lines.readline():
                user, length = "", 0
                while (line := lines.readline()) != b"\r\n":
                    name, _, value = line.decode().strip().partition(": ")
                    user, length = (value, length) if name == "x-user-id" else (user, int(value) if name == "Content-Length" else length)
                lines.read(length)
                connection.sendall(f"HTTP/1.1 200 OK\r\nX-Headrace-Variant: {user}\r\nx-headrace-gen".encode())
                connection.sendall(b"eration: 7\r\ncontent-length: 2\r\n\r\n{}")

    thread = threading.Thread(target=run)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(10)
    listener.close()


def test_pipelined_answers_belong_to_their_keys(echo: int) -> None:
    keys = [f"user-{i}" for i in range(25)] + [""]
    answers = ask_all(partial(HttpPipeline, echo, "/x", b"{}"), keys, batch=10)
    assert [(a.variant, a.key, a.generation, a.status) for a in answers] == [(key, key, 7, 200) for key in keys]
    assert all(a.sent_ns <= a.received_ns for a in answers)


def test_cases_can_be_chosen() -> None:
    assert SUITE.parse([]).cases == []
    assert SUITE.parse([*SUITE.cases, "--quick"]).cases == list(SUITE.cases)
    with pytest.raises(SystemExit):
        SUITE.parse(["nothing"])
