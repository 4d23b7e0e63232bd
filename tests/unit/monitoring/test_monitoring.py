"""Monitoring as a worker runs it, on made-up minutes: from recorded rows to documents, events, metrics, a command and a restart."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serve.errors import Conflict, InvalidArgument, NotFound, Unavailable
from serve.monitoring.baseline import Baseline
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.setup import Monitoring, MonitoringSettings, Server, open_monitoring
from serve.monitors import MonitoringSpec
from serve.routing.traffic_service import Actor
from serve.store.audit import verify_rows
from serve.store.canonical import canonical, plain
from serve.store.sqlite import SqliteStore
from serve.types import ModelDescription
from tests.unit.monitoring.rows import DIGEST, TENSORS, rows, stream

S = 10**9
MINUTE = 60 * S
START = 1_769_860_800 * S
SPEC = MonitoringSpec(window_s=300, min_rows=200, cooldown_s=600)
OTHER = "sha256:" + "cd" * 32


class World:
    """A worker with a store, a clock that is told the time, and versions of one digest."""

    def __init__(self, folder: Path, store: SqliteStore, **settings: Any) -> None:
        self.folder = folder
        self.store = store
        self.now_ns = START
        self.settings = MonitoringSettings(folder=folder / "monitoring", **{"first_rows": 0, **settings})
        self.stable = "1"
        self.monitoring = self.opened()

    def opened(self) -> Monitoring:
        def describe(model: str, version: str) -> ModelDescription:
            if model != "digits" or version not in ("", "1", "2"):
                raise NotFound(f"Request for unknown model: '{model}' version {version} is not found")
            return ModelDescription(model, version or "1", ("1", "2"), {}, (), (), 64, digest=DIGEST)

        one = Monitoring(self.settings, Server(describe=describe, stable=lambda model: self.stable, folder_of=self.folder_of),
                         lambda: self.now_ns)
        one._store = self.store
        if one._command is not None:
            one._command.start()
        return one

    def folder_of(self, model: str, version: str) -> Path | None:
        return self.folder / "models" / model / version

    async def restart(self) -> None:
        await self.monitoring.close()
        self.monitoring = self.opened()

    async def window(self, *, shift: float = 0.0, version: str = "1", n: int = 300, seed: int = 0, **more: Any) -> None:
        """Five minutes of traffic, and the turn after them."""
        for minute in range(5):
            self.monitoring.observer.observe(stream(version, monitoring=SPEC), rows(
                n // 5, self.now_ns + minute * MINUTE, seed=seed * 100 + minute, shift=shift, variant=more.get("variant", version),
                spread_ns=30 * S, **{key: value for key, value in more.items() if key != "variant"}))
        await self.pass_window()

    async def pass_window(self) -> None:
        self.now_ns += 5 * MINUTE + 20 * S
        await self.monitoring.tick()
        self.now_ns -= 20 * S

    async def types(self) -> list[str]:
        return [row["type"].removeprefix("dev.headrace.") for row in await self.store.audit(0, 1000)]


def baseline(labels: bool = False, n: int = 2000, digest: str = DIGEST, **rows_: Any) -> Baseline:
    table = pa.Table.from_batches([rows(n, START, seed=999, **rows_)])
    truth = table["out_label"].to_pylist() if labels else None
    if truth is not None:       # as often wrong as the scores say
        draw = np.random.default_rng(3).random(n)
        truth = [int(chance < scores[1]) for chance, scores in zip(draw, table["out_scores"].to_pylist(), strict=True)]
    return build_baseline(table, TENSORS, SPEC, model="digits", version="1", digest=digest, source="training", created_ns=1, labels=truth)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "state")
    yield store
    await store.close()


@pytest.fixture
async def world(tmp_path: Path, store: SqliteStore) -> AsyncIterator[World]:
    one = World(tmp_path, store)
    one.monitoring.files.save(baseline())
    yield one
    await one.monitoring.close()


async def test_clean_windows_raise_nothing(world: World) -> None:
    for seed in range(6):
        await world.window(seed=seed)
    document = await world.monitoring.document("digits")
    assert [(one["rows"], one["concluded"], one["n_drifted"]) for one in document["windows"]] == [(300, True, 0)] * 6
    assert (document["alerts"], await world.types()) == ([], [])


async def test_drift_from_the_first_bad_window_to_where_it_clears(world: World) -> None:
    await world.window(seed=1)
    for seed in range(2, 5):
        await world.window(seed=seed, shift=1.5)
    for seed in range(5, 8):
        await world.window(seed=seed)
    assert await world.types() == [
        "monitoring.data.invalid", "monitoring.drift.detected", "monitoring.drift.detected", "retrain.requested",
        "monitoring.alert.cleared", "monitoring.alert.cleared", "monitoring.alert.cleared"]
    events = await world.store.audit(0, 100)
    drift = next(row for row in events if row["data"]["evidence"]["kind"] == "drift")
    assert (drift["subject"], drift["data"]["actor"], drift["time"]) == ("digits", "headrace", "2026-01-31T12:15:20.000000Z")
    evidence = drift["data"]["evidence"]
    assert (evidence["since"], evidence["version"], evidence["n_features"]) == ("2026-01-31T12:05:00.000000Z", "1", 1)
    assert evidence["features"][0]["feature"] == "x[0]"
    assert evidence["features"][0]["psi"] > 0.25
    assert evidence["query"] == (f"SELECT * FROM records_digits WHERE version IN ('1') AND variant = '1' AND ts_ns >= {START + 5 * MINUTE} "
                                 f"AND ts_ns < {START + 15 * MINUTE}")
    request = next(row for row in events if row["type"].endswith("retrain.requested"))["data"]
    assert {one["kind"] for one in request["evidence"]["alerts"]} == {"drift", "prediction_drift"}
    assert request["evidence"]["baseline"] == baseline().id
    assert verify_rows(events).is_intact
    document = await world.monitoring.document("digits")
    assert {(one["kind"], one["state"]) for one in document["alerts"]} == {
        ("drift", "cleared"), ("prediction_drift", "cleared"), ("data_invalid", "cleared")}


async def test_the_document_says_what_was_seen(world: World) -> None:
    await world.window(seed=1, shift=1.0, missing=30)
    document = json.loads(canonical(plain(await world.monitoring.document("digits"))))
    (series,) = document["series"]
    assert (series["version"], series["variant"], series["baseline"]["id"]) == ("1", "1", baseline().id)
    window = series["latest"]
    assert window == document["windows"][0]
    assert {name: one["drifted"] for name, one in window["features"].items()} == {
        "x[0]": True, "x[1]": False, "x[2]": False, "x[3]": False, "colour": False}
    assert window["predictions"]["label"]["drifted"]
    assert window["violations"]["x[1]"]["not_finite"] == 150
    assert {"version": "1", "feature": "x[1]", "kind": "not_finite", "count": 150} in document["violations"]
    shapes = {one["feature"]: one for one in series["distributions"]}
    assert set(shapes) == {"x[0]", "x[1]", "x[2]", "x[3]", "colour", "label"}
    for one in shapes.values():
        assert len(one["labels"]) == len(one["baseline"]) == len(one["current"])
        assert sum(one["baseline"]) == pytest.approx(1)
        assert sum(one["current"]) == pytest.approx(1)
    assert sorted(shapes["colour"]["labels"]) == ["green", "others", "red"]
    assert shapes["label"]["current"][1] > 0.7
    assert document["settings"] | {"window_s": 300.0, "min_rows": 200, "cooldown_s": 600} == document["settings"]


async def test_what_can_be_asked_for(world: World) -> None:
    for seed in range(3):
        await world.window(seed=seed)
    await world.window(seed=9, version="2", variant="canary", n=50)
    one = world.monitoring
    assert len((await one.document("digits", limit=2))["windows"]) == 2
    assert [row["rows"] for row in (await one.document("digits", version="2"))["windows"]] == []
    assert len((await one.document("digits", since_ns=START + 5 * MINUTE))["windows"]) == 2
    assert [(row["version"], row["baseline"]) for row in (await one.document("digits", version="2"))["series"]] == [("2", None)]
    with pytest.raises(NotFound, match="is not watched"):
        await one.document("other")


async def test_estimated_performance_falls_before_any_label_comes(tmp_path: Path, store: SqliteStore) -> None:
    world = World(tmp_path, store)
    # Known where the scores are sure; served where they are not.
    world.monitoring.files.save(baseline(labels=True, shift=1.5, n=4000))
    for seed, shift in enumerate((1.5, 1.5, 0.0, 0.0)):
        await world.window(seed=seed, shift=shift, n=1000)
    document = await world.monitoring.document("digits")
    assert set(document["windows"][0]["estimated"]) == {"accuracy", "precision", "recall", "f1", "auc"}
    low, high = document["windows"][0]["bands"]["accuracy"]
    assert [low <= one["estimated"]["accuracy"] <= high for one in document["windows"]] == [True, True, False, False]
    assert "estimated_performance" in {one["kind"] for one in document["alerts"]}
    degraded = [row for row in await store.audit(0, 100) if row["type"].endswith("performance.degraded")]
    assert degraded[0]["data"]["evidence"]["said"].startswith("accuracy 0.7")
    await world.monitoring.close()


async def test_what_labels_say_comes_from_the_keeper(world: World) -> None:
    await world.window()
    message = {"type": "performance", "model": "digits", "version": "1", "variant": "1", "from_ns": START, "to_ns": START + 5 * MINUTE,
               "labelled": 250, "metrics": {"accuracy": 0.5}, "detections": []}
    world.monitoring.take(message)
    world.monitoring.take({"type": "sealed"})
    world.monitoring.take({**message, "from_ns": START + 5 * MINUTE, "to_ns": START + 10 * MINUTE})
    await world.pass_window()
    document = await world.monitoring.document("digits")
    assert [one["metrics"]["accuracy"] for one in document["realised"]] == [0.5, 0.5]
    assert await world.types() == [], "the baseline has no labels: nothing to hold it against"
    fired = {"detector": "adwin", "ts_ns": START, "before": 0.1, "after": 0.5}
    world.monitoring.take({**message, "detections": [fired]})
    await world.monitoring.tick()
    assert await world.types() == ["monitoring.drift.detected"]
    await world.pass_window()
    assert await world.types() == ["monitoring.drift.detected", "retrain.requested"]
    facts = world.monitoring.facts()
    assert facts.series["digits", "1", "1"].realised == {"accuracy": 0.5}
    assert facts.alerts["digits", "concept_drift"] == 1


async def test_a_canary_that_answers_differently_is_told_of_and_asks_for_nothing(world: World) -> None:
    world.monitoring.observer.open(stream("1", monitoring=SPEC))
    world.monitoring.observer.open(stream("2", monitoring=SPEC))
    world.monitoring.observer.use(baseline_of_two())
    await world.monitoring.tick()
    for seed in range(2):
        world.monitoring.observer.observe(stream("2", monitoring=SPEC), rows(300, world.now_ns, seed=seed, variant="2", shift=1.5))
        await world.window(seed=seed)
    document = await world.monitoring.document("digits", version="2")
    against = document["windows"][-1]["against_stable"]
    assert (against["rows"], against["stable_rows"], against["concluded"]) == (300, 300, True)
    assert against["features"]["x[0]"]["drifted"]
    assert "canary_drift" in {one["kind"] for one in document["alerts"]}
    assert "retrain.requested" not in await world.types()


def baseline_of_two() -> Baseline:
    table = pa.Table.from_batches([rows(1000, START, seed=5, shift=1.5)])
    return build_baseline(table, TENSORS, SPEC, model="digits", version="2", digest=DIGEST, source="training", created_ns=1)


async def test_a_restart_goes_on_where_it_was(world: World) -> None:
    world.monitoring.observer.observe(stream(monitoring=SPEC), rows(150, START, seed=1, shift=1.5))
    await world.monitoring.tick()
    await world.restart()
    world.monitoring.observer.observe(stream(monitoring=SPEC), rows(150, START + MINUTE, seed=2, shift=1.5))
    await world.pass_window()
    assert [one["rows"] for one in (await world.monitoring.document("digits"))["windows"]] == [300]
    await world.restart()
    assert (await world.monitoring.document("digits"))["windows"][0]["n_drifted"] == 1
    await world.window(seed=3, shift=1.5)
    await world.window(seed=5, shift=1.5)
    assert "retrain.requested" in await world.types()
    before = await world.types()
    await world.restart()
    await world.window(seed=4, shift=1.5)
    assert await world.types() == before


async def test_windows_of_another_width_close_after_a_restart_without_any_row(world: World) -> None:
    world.monitoring.observer.observe(stream(monitoring=MonitoringSpec(window_s=30, min_rows=10)), rows(50, START))
    await world.monitoring.tick()
    await world.restart()
    world.now_ns += 50 * S
    await world.monitoring.tick()
    (window,) = (await world.monitoring.document("digits"))["windows"]
    assert (window["to_ns"] - window["from_ns"], window["rows"]) == (30 * S, 50)


async def test_what_the_store_does_not_take_is_told_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.window(seed=1, shift=1.5)

    async def fails(*_: Any, **__: Any) -> Any:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "commit", fails)
        with pytest.raises(Unavailable):
            await world.window(seed=2, shift=1.5)
    assert await world.types() == []
    await world.pass_window()
    assert (await world.types()).count("retrain.requested") == 1


async def test_a_command_is_told_of_what_is_told(tmp_path: Path, store: SqliteStore) -> None:
    out = tmp_path / "told"
    script = f"import sys; open({str(out)!r}, 'a').write(sys.stdin.read())"
    world = World(tmp_path, store, command=(sys.executable, "-c", script), command_timeout_s=30)
    world.monitoring.files.save(baseline())
    for seed in range(2):
        await world.window(seed=seed, shift=1.5)
    n_events = len(await store.audit(0, 100))
    async with asyncio.timeout(60):
        while world.monitoring.facts().commands["done"] < n_events:
            await asyncio.sleep(0.01)
            await world.monitoring.tick()
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert told == [dict(row) for row in await store.audit(0, 100)]
    assert world.monitoring.facts().commands == {"done": len(told), "failed": 0, "dropped": 0}
    await world.monitoring.close()


async def test_metrics(world: World) -> None:
    await world.window(seed=1, shift=1.5)
    await world.window(seed=2, n=20)
    facts = world.monitoring.facts()
    series = facts.series["digits", "1", "1"]
    assert (series.rows, series.windows, series.drifted, series.steady) == (320, {"concluded": 1, "too_few": 1}, 1, 4)
    assert set(series.psi) == {"x[0]", "x[1]", "x[2]", "x[3]", "colour", "label"}
    assert facts.violations["digits", "1", "x[0]", "out_of_range"] > 0
    assert facts.alerts == {("digits", kind): 0 for kind in ("drift", "prediction_drift", "data_invalid")}


async def test_the_first_rows_make_a_baseline(tmp_path: Path, store: SqliteStore) -> None:
    world = World(tmp_path, store, first_rows=400)
    one = world.monitoring
    one.observer.open(stream(monitoring=SPEC))
    assert (await one.document("digits"))["series"][0]["collecting"] == {"rows": 0, "wanted": 400}
    watch = one.observer._versions["digits", "1", DIGEST]
    first = watch.collecting
    assert first is not None
    one.observer.observe(stream(monitoring=SPEC), rows(500, START))
    await asyncio.to_thread(first.wait, 20)
    found = one.files.find("digits", "1", DIGEST)
    assert found is not None
    assert (found.source, found.rows) == ("first_rows", 400)
    await world.window(seed=3)
    assert (await one.document("digits"))["windows"][0]["baseline"] == found.id
    await one.close()


async def test_baselines_are_asked_for_and_replaced(world: World) -> None:
    one = world.monitoring
    assert (await one.baseline("digits"))["id"] == baseline().id
    with pytest.raises(NotFound, match="has no baseline; make one with"):
        await one.baseline("digits", "2")
    await world.window(seed=1)
    newer = baseline(labels=True, n=1000)
    newer = replace(newer, created_ns=5)
    one.observer.observe(stream(monitoring=SPEC), rows(50, world.now_ns))
    await one.tick()
    by = Actor("ada", "more rows")
    assert (await one.put_baseline("digits", "1", newer.as_document(), by))["id"] == newer.id
    assert (await one.document("digits"))["series"][0]["waiting_rows"] == 0
    await world.window(seed=2)
    assert [row["baseline"] for row in (await one.document("digits"))["windows"]] == [baseline().id, newer.id]
    (row,) = await world.store.audit()
    assert (row["type"], row["data"]["actor"], row["data"]["after"]["baseline"]) == (
        "dev.headrace.monitoring.baseline.set", "ada", newer.id)
    with pytest.raises(Conflict, match="changed since"):
        await one.put_baseline("digits", "1", baseline(digest=OTHER).as_document(), by)
    with pytest.raises(InvalidArgument, match="not of version 2"):
        await one.put_baseline("digits", "2", newer.as_document(), by)
    with pytest.raises(InvalidArgument, match="format"):
        await one.put_baseline("digits", "1", {"rows": 1}, by)


async def test_a_file_that_is_put_beside_the_model_is_taken_up(world: World) -> None:
    await world.window(seed=1)
    newer = replace(baseline(n=900), created_ns=7)
    world.monitoring.files.save(newer)
    world.now_ns += 2 * MINUTE
    await world.monitoring.tick()
    assert world.monitoring.observer.baseline("digits", "1") == newer


async def test_who_has_seen_an_alert(world: World) -> None:
    for seed in range(2):
        await world.window(seed=seed, shift=1.5)
    alert: Mapping[str, Any] = next(one for one in (await world.monitoring.document("digits"))["alerts"] if one["kind"] == "drift")
    seen = await world.monitoring.acknowledge("digits", alert["id"], Actor("ada", "the sensor was replaced"))
    assert (seen["acknowledged_by"], seen["state"]) == ("ada", "raised")
    assert (await world.store.audit(0, 100))[-1]["type"] == "dev.headrace.monitoring.alert.acknowledged"
    with pytest.raises(NotFound):
        await world.monitoring.acknowledge("digits", "digits-a99", Actor("ada"))


async def test_it_runs_by_itself(tmp_path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.monitoring.setup.TICK_S", 0.01)
    one = open_monitoring(MonitoringSettings(folder=tmp_path / "monitoring", first_rows=0),
                          Server(describe=lambda model, version: ModelDescription(model, "1", ("1",), {}, (), (), 0, digest=DIGEST),
                                 stable=lambda model: "1", folder_of=lambda model, version: None))
    one.files.save(baseline())
    one.observer.open(stream(monitoring=SPEC))
    with pytest.raises(Unavailable, match="not started"):
        await one.put_baseline("digits", "1", baseline().as_document(), Actor("ada"))
    one.start(store)
    one.observer.observe(stream(monitoring=SPEC), rows(300, START, shift=1.5))
    for _ in range(500):
        if ("digits", "1", "1") in one.facts().series:
            break
        await asyncio.sleep(0.01)
    await one.close()
    assert one.facts().series["digits", "1", "1"].drifted == 1, "an old window closes at once"


async def test_a_baseline_that_no_disk_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.monitoring.files, "save", full)
    with pytest.raises(Unavailable, match="No space left"):
        await world.monitoring.put_baseline("digits", "1", baseline().as_document(), Actor("ada", ""))
