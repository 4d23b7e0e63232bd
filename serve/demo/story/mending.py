"""Acts 4 and 5: a new version is trained on what was recorded, has to pass the gate, and gets the traffic step by step."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from serve import clock
from serve.demo.story.commands import CommandFailed, environment
from serve.demo.story.pictures import spoilt
from serve.demo.story.retrain import VERSION
from serve.demo.story.stage import Document, Stage
from serve.demo.story.versions import MODEL, read_pictures, write_version
from serve.demo.story.waiting import TooLate
from serve.models.digest import VersionDigests

BAD = "3"
PASSES, FAILS, REFUSED = 0, 10, 1
_TRAINING_S = 300.0
_ROLLOUT_S = 180
_LONGEST = 120      # of a line about it


@dataclass(frozen=True, slots=True)
class Training:
    """A run of the pipeline. cut_ns: from this moment on pictures are sent that version 2 is not fitted to."""

    process: "subprocess.Popen[str]"
    cut_ns: int


@contextlib.contextmanager
def training(stage: Stage, event: Document) -> Iterator[Training]:
    """The pipeline takes the event up. What still runs at the end is killed."""
    places, scale = stage.places, stage.scale
    cut_ns = stage.traffic.send(stage.pictures.after)
    file = places.inbox / f"{quote(str(event['id']), safe='')}.json"
    words = ["-m", "serve.demo.story.retrain", str(file.relative_to(places.folder)), "--folder", ".", "--cut", str(cut_ns),
             "--new-rows", str(scale.new_rows), "--checked-rows", str(scale.checked_rows)]
    stage.narrator.say("and the pipeline takes the event up")
    stage.narrator.command(" ".join(["python", *words]))
    with subprocess.Popen([sys.executable, *words], cwd=places.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            yield Training(process, cut_ns)
        finally:
            process.kill()


def retrained(stage: Stage, event: Document, run: Training) -> None:
    """Act 4: what the pipeline did."""
    narrator, places, scale = stage.narrator, stage.places, stage.scale
    narrator.act("4  Retrained on what was recorded")
    try:
        output, errors = run.process.communicate(timeout=_TRAINING_S)
    except subprocess.TimeoutExpired as error:
        raise TooLate(f"after {_TRAINING_S:g} s the training still runs") from error
    if run.process.returncode:
        raise CommandFailed(f"the training left with {run.process.returncode}:\n{errors[-2000:]}")
    told = json.loads(output)
    narrator.check(f"version {VERSION} is trained on old and new rows", told["new_rows"] == scale.new_rows,
                   f"{told['old_rows']:,} and {told['new_rows']:,}")
    narrator.check("its baseline is made of rows that came later", (places.repository / MODEL / VERSION / "baseline.json").is_file(),
                   f"{told['checked_rows']:,} of them")
    says = yaml.safe_load((places.repository / MODEL / "model.yaml").read_text(encoding="utf-8"))["provenance"]
    narrator.check("model.yaml says what it was made of, and why",
                   (says["training_data_digest"], says["retrain_event"]) == (told["training_data_digest"], event["id"]),
                   f"{says['training_data']}, {says['training_data_digest'][:19]}")


def released(stage: Stage, cut_ns: int) -> Document:
    """Act 5. Returns the rollout."""
    stage.narrator.act("5  The gate, and a rollout under broken traffic")
    plan = stage.places.folder / "rollout.yaml"
    plan.write_text(yaml.safe_dump(_plan(stage.scale.stage_s), sort_keys=False), encoding="utf-8")
    _refused(stage, VERSION, plan, "no gate report")
    _gated(stage, VERSION, cut_ns, PASSES)
    stage.narrator.say(f"somebody trains version {BAD} with the labels one row off")
    write_version(stage.places.repository, BAD, spoilt(read_pictures(stage.places.data / "training.parquet")))
    _gated(stage, BAD, cut_ns, FAILS)
    _refused(stage, BAD, plan, "says fail")
    return _rolled_out(stage, plan)


def _plan(stage_s: float) -> dict[str, Any]:
    """A rollout that takes seconds. The candidate is to answer otherwise, so neither outputs nor pairs may hold it."""
    return {
        "require_gate": True, "gate_max_age_seconds": 3600,
        "shadow": {"sample": 5000, "seconds": stage_s, "requests": 50},
        "steps": [{"weight": 2000, "seconds": stage_s, "requests": 50}, {"weight": 5000, "seconds": stage_s, "requests": 200}],
        "step_timeout_seconds": 120, "on_timeout": "rollback",
        "judge": {
            "rollback_alpha": 0.02, "outputs": {"action": "none"}, "shadow": {"action": "none"},
            # Of some hundred answers, on a machine that does everything else at the same time: its accuracy decides.
            "errors": {"noninferiority_absolute": 0.05}, "latency": {"noninferiority_absolute": 0.5, "effect_floor": 0.5},
            "waits": {"action": "none"},
            "outcomes": [{"name": "accuracy", "worse": "lower", "action": "rollback", "alpha": 0.01, "promote_margin": 0.02}],
        },
    }


def _gated(stage: Stage, version: str, cut_ns: int, code: int) -> None:
    """Asks the gate with what was recorded since then, and hands its report in."""
    hours = (clock.wall_ns() - cut_ns) / 3.6e12
    report = stage.places.folder / f"gate-{version}.json"
    done = stage.headrace.run(
        "gate", MODEL, version, "--repository", stage.places.repository, "--records", stage.places.records, "--hours", f"{hours:.6f}",
        "--stable", "1", "--rows", "1000", "--min", "accuracy=0.8", "--max-drop", "accuracy=0", "--max-latency-ratio", "5",
        "--report", report, "--submit", "--admin", stage.server.admin, codes=(PASSES, FAILS, 11))
    found = json.loads(report.read_text(encoding="utf-8"))
    verdict = "passes" if code == PASSES else "fails"
    said = "; ".join(check["text"] for check in found["checks"] if check["name"] in ("accuracy", "accuracy_vs_stable"))
    stage.narrator.check(f"version {version} {verdict} the gate", done.code == code, said or found["verdict"])
    digest = VersionDigests(clock.wall_ns).digest(stage.places.repository / MODEL / version / "model.onnx")
    stage.narrator.check("the report is about the files that lie there", found["candidate"]["digest"] == digest, digest[:19])


def _refused(stage: Stage, version: str, plan: Path, why: str) -> None:
    done = stage.headrace.run("rollout", "start", MODEL, "--to", version, "--plan", plan, "--admin", stage.server.admin,
                              codes=(PASSES, REFUSED))
    said = done.errors.strip().removeprefix("headrace: ")
    stage.narrator.check(f"a rollout of version {version} is refused", done.code == REFUSED and why in said, said)


def _rolled_out(stage: Stage, plan: Path) -> Document:
    done = stage.headrace.run("rollout", "start", MODEL, "--to", VERSION, "--plan", plan, "--admin", stage.server.admin, "--watch",
                              "--timeout", str(_ROLLOUT_S), "--reason", "the scanner is broken", codes=range(14))
    for line in done.output.splitlines():
        stage.narrator.say("  ".join(line.split("  ")[1:4])[:_LONGEST])
    rollout = stage.admin.rollouts(MODEL)[-1]
    stage.narrator.check("the rollout succeeds",
                         done.code == PASSES and rollout["phase"] == "succeeded", f"{rollout['id']}: {rollout['phase']}")
    findings = stage.admin.evidence(rollout["id"])[-1]["judgement"]["findings"]
    for one in findings:
        if one["test"] in ("outcome", "promotion"):
            stage.narrator.say(str(one["sentence"]))
    return rollout


__all__ = ["BAD", "Training", "released", "retrained", "training"]
