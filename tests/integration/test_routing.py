"""Traffic and rollouts on a running server: what clients see while an operator shifts it, and when a candidate is bad."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import yaml
from onnx import helper, numpy_helper

from serve.client.admin import AdminClient, InTheWay, NotKnown, Stale
from tests.core import onnx_models
from tests.integration.http1_wire import Http1Connection, Response
from tests.integration.running_server import ROOT, RunningServer, running_server

INFER = "/v2/models/m/infer"
QUICK = {"shadow": None, "steps": [{"weight": 2000, "seconds": 1, "requests": 50}, {"weight": 5000, "seconds": 1, "requests": 50}]}


def _lookup(path: Path, rows: int, factor: float) -> None:
    """y [batch, 3] = factor * (row, row + 1, row + 2) of the table at index x [batch]; an index from `rows` on fails the run."""
    path.parent.mkdir(parents=True)
    table = (np.arange(rows)[:, None] + np.arange(3)[None, :]).astype(np.float32) * factor
    onnx_models.save(path, [helper.make_node("Gather", ["table", "x"], ["y"])], [onnx_models.info("x", "INT64", ["batch"])],
                     [onnx_models.info("y", "FP32", ["batch", 3])], [numpy_helper.from_array(table, "table")])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m: 1 and 2 alike; 3 fails for half of the inputs; 4 answers with other values. Only 1 is loaded at the start."""
    root = tmp_path_factory.mktemp("routing")
    for version, (rows, factor) in {"1": (8, 1.0), "2": (8, 1.0), "3": (4, 1.0), "4": (8, -1.0)}.items():
        _lookup(root / "m" / version / "model.onnx", rows, factor)
    (root / "m" / "model.yaml").write_text(yaml.safe_dump({"version_policy": {"specific": [1]}}))
    return root


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(repository, tmp_path) as running:
        yield running


@pytest.fixture
def admin(server: RunningServer) -> Iterator[AdminClient]:
    with AdminClient(f"http://127.0.0.1:{server.ports['admin']}", "ada") as client:
        yield client


def infer(connection: Http1Connection, x: int, path: str = INFER, **headers: str) -> Response:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [x]}]}).encode()
    return connection.request("POST", path, body, {"Content-Type": "application/json", **headers})


def arm(response: Response) -> tuple[str, str, str]:
    return tuple(response.headers[f"x-headrace-{name}"] for name in ("version", "variant", "generation"))       # type: ignore[return-value]


def split(**weights: int) -> dict[str, Any]:
    return {"variants": [{"version": name[1:], "weight": weight} for name, weight in weights.items()]}


class Load:
    """Requests from a few connections until it is stopped. statuses: of every answer; candidate: answers of it, and when."""

    def __init__(self, server: RunningServer, candidate: str, inputs: int = 8) -> None:
        self._stop = threading.Event()
        self.statuses: list[int] = []
        self.candidate: list[float] = []
        self.failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(server, candidate, inputs, seed)) for seed in range(2)]

    def _run(self, server: RunningServer, candidate: str, inputs: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            with Http1Connection(server.http) as connection:
                while not self._stop.is_set():
                    sent = time.monotonic()
                    response = infer(connection, int(rng.integers(inputs)))
                    self.statuses.append(response.status)
                    if response.headers["x-headrace-version"] == candidate:
                        self.candidate.append(sent)
        except BaseException as error:
            self.failed.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.failed, self.failed


def until(condition: Callable[[], bool], what: Callable[[], object], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


def test_answers_say_where_they_come_from(server: RunningServer, admin: AdminClient) -> None:
    with Http1Connection(server.http) as one:
        assert arm(infer(one, 1)) == ("1", "1", "0")
        shown = admin.set_traffic("m", {**split(v1=5000, v2=5000), "sticky": {"header": "X-User"}}, 0)
        assert (shown["generation"], shown["state"]) == (1, "in_force")
        arms = {user: arm(infer(one, 1, **{"x-user": user})) for user in map(str, range(200))}
        assert {which[2] for which in arms.values()} == {"1"}
        n_second = sum(which[0] == "2" for which in arms.values())
        assert 60 < n_second < 140
        assert {user: arm(infer(one, 1, **{"x-user": user})) for user in arms} == arms
        for user in ("0", "1", "2"):
            assert admin.assignment("m", user)["variant"] == arms[user][1]
        # What the request says itself always wins.
        assert arm(infer(one, 1, "/v2/models/m/versions/2/infer")) == ("2", "explicit", "1")
        assert infer(one, 5).json()["model_version"] in ("1", "2")


def test_an_override_wins_over_the_draw(server: RunningServer, admin: AdminClient) -> None:
    plan = {**split(v1=10_000), "overrides": [{"header": "x-force", "value": "beta", "version": "2"}]}
    admin.set_traffic("m", plan, 0)
    with Http1Connection(server.http) as one:
        assert arm(infer(one, 1, **{"x-force": "beta"})) == ("2", "forced", "1")
        assert arm(infer(one, 1, **{"x-force": "other"})) == ("1", "1", "1")


def test_stale_unknown_and_broken_changes_change_nothing(server: RunningServer, admin: AdminClient) -> None:
    admin.set_traffic("m", split(v1=10_000), 0)
    with pytest.raises(Stale):
        admin.set_traffic("m", split(v2=10_000), 0)
    with pytest.raises(NotKnown):
        admin.set_traffic("nobody", split(v1=10_000), 0)
    with pytest.raises(NotKnown):
        admin.set_traffic("m", split(v1=9000, v77=1000), 1)
    assert admin.traffic("m")["generation"] == 1
    with Http1Connection(server.http) as one:
        assert {arm(infer(one, 1))[0] for _ in range(50)} == {"1"}


def test_weight_0_is_0_from_the_very_next_request(server: RunningServer, admin: AdminClient) -> None:
    generation = admin.set_traffic("m", split(v1=5000, v2=5000), 0)["generation"]
    with Load(server, "2") as load:
        for _ in range(5):
            until(lambda: bool(load.candidate), lambda: "no request reached the candidate")
            generation = admin.set_traffic("m", split(v1=10_000, v2=0), generation)["generation"]
            returned = time.monotonic()
            time.sleep(0.2)
            assert [sent for sent in load.candidate if sent > returned] == []
            load.candidate.clear()
            generation = admin.set_traffic("m", split(v1=5000, v2=5000), generation)["generation"]
    assert set(load.statuses) == {200}


def test_a_candidate_that_fails_is_taken_back_and_the_evidence_says_why(server: RunningServer, admin: AdminClient) -> None:
    with Load(server, "3") as load:
        rollout = admin.start_rollout("m", {**QUICK, "to": "3"})["id"]
        until(lambda: admin.rollout(rollout)["phase"] in ("rolled_back", "failed", "succeeded"), lambda: admin.rollout(rollout))
        returned = time.monotonic()
        time.sleep(0.3)
    shown = admin.rollout(rollout)
    assert shown["phase"] == "rolled_back"
    assert [sent for sent in load.candidate if sent > returned] == []
    n_bad = sum(status != 200 for status in load.statuses)
    assert 3 <= n_bad < 3000         # on an idle machine some ten
    findings = {finding["test"]: finding for finding in admin.evidence(rollout)[-1]["judgement"]["findings"]}
    assert findings["errors"]["is_tripped"] or findings["streak"]["is_tripped"]
    assert "candidate" in shown["why"]
    verdicts = [row for row in admin.all_audit() if row["type"] == "dev.headrace.rollout.verdict"]
    assert verdicts[-1]["data"]["after"] == "rollback"
    with Http1Connection(server.http) as one:
        assert {arm(infer(one, 1))[0] for _ in range(50)} == {"1"}


def test_other_answers_are_found_by_the_shadow_before_any_client_sees_them(server: RunningServer, admin: AdminClient) -> None:
    rule = {"output": "y", "rule": "tolerance", "atol": 0.01}
    plan = {"to": "4", "shadow": {"sample": 5000, "seconds": 1, "requests": 50, "compare": [rule]}}
    with Load(server, "4") as load:
        rollout = admin.start_rollout("m", plan)["id"]
        until(lambda: admin.rollout(rollout)["verdict"] == "hold", lambda: admin.rollout(rollout))
        assert admin.rollout(rollout)["phase"] == "shadowing"
        with pytest.raises(InTheWay):
            admin.clear_traffic("m", admin.traffic("m")["generation"])
        admin.command(rollout, "abort", "as expected")
    assert load.candidate == []
    assert set(load.statuses) == {200}
    finding = next(f for f in admin.evidence(rollout)[-1]["judgement"]["findings"] if f["test"] == "shadow" and f["is_tripped"])
    assert finding["counts"]["compared"] > 20


def test_a_worker_that_is_killed_comes_back_with_the_candidate_at_0(server: RunningServer, admin: AdminClient) -> None:
    rollout = admin.start_rollout("m", {"to": "2", "shadow": None, "steps": [{"weight": 5000, "seconds": 600}]})["id"]
    until(lambda: admin.rollout(rollout)["phase"] == "stepping", lambda: admin.rollout(rollout))
    worker = server.worker()
    worker.kill()

    def is_back() -> bool:
        try:
            with Http1Connection(server.http) as one:
                return infer(one, 1).status == 200
        except (OSError, AssertionError):
            return False

    until(lambda: not worker.is_running() and is_back(), lambda: "no new worker")
    with AdminClient(f"http://127.0.0.1:{server.ports['admin']}") as again:
        until(lambda: again.rollout(rollout)["phase"] == "paused", lambda: again.rollout(rollout))
        with Http1Connection(server.http) as one:
            assert {arm(infer(one, 1))[0] for _ in range(100)} == {"1"}
        again.command(rollout, "resume")
        until(lambda: again.traffic("m")["plan"]["variants"][-1]["weight"] == 5000, lambda: again.traffic("m"))
        again.command(rollout, "abort")
    # The log of a killed worker is what it is.
    server.log.write_text("", encoding="utf-8")


def test_a_version_that_a_plan_names_cannot_be_unloaded(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path, "--model-control", "explicit") as server, Http1Connection(server.http) as one:
        assert one.request("POST", "/v2/repository/models/m/load", b"{}").status == 200
        with AdminClient(f"http://127.0.0.1:{server.ports['admin']}") as admin:
            admin.set_traffic("m", split(v1=5000, v2=5000), 0)
            refused = one.request("POST", "/v2/repository/models/m/unload", b"{}")
            assert refused.status == 409
            assert "name version 1, 2" in refused.json()["error"]
            admin.clear_traffic("m", 1)
        assert one.request("POST", "/v2/repository/models/m/unload", b"{}").status == 200


def test_plans_outlive_a_restart(repository: Path, tmp_path: Path) -> None:
    plan = {**split(v1=3000, v2=7000), "sticky": {"header": "x-user"}}
    with running_server(repository, tmp_path) as server, Http1Connection(server.http) as one:
        with AdminClient(f"http://127.0.0.1:{server.ports['admin']}") as admin:
            admin.set_traffic("m", plan, 0)
        before = {user: arm(infer(one, 1, **{"x-user": user})) for user in map(str, range(100))}
    with running_server(repository, tmp_path) as server, Http1Connection(server.http) as one:
        assert {user: arm(infer(one, 1, **{"x-user": user})) for user in before} == before


def test_the_command_line_shifts_traffic_and_waits_for_a_rollout(server: RunningServer) -> None:
    def headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "serve.cli", *arguments, "--admin", f"http://127.0.0.1:{server.ports['admin']}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    done = headrace("traffic", "set", "m", "1=90", "2=10")
    assert done.returncode == 0, done.stderr
    assert "10 %" in headrace("traffic", "show", "m").stdout
    assert headrace("traffic", "clear", "m").returncode == 0
    plan = server.log.parent / "plan.yaml"
    plan.write_text(yaml.safe_dump({**QUICK, "on_timeout": "rollback"}))
    with Load(server, "3"):
        done = headrace("rollout", "start", "m", "--to", "3", "--plan", str(plan), "--watch")
    assert done.returncode == 10, done.stdout + done.stderr
    listed = headrace("audit", "verify")
    assert listed.returncode == 0, listed.stdout + listed.stderr
