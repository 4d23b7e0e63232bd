"""Runs a release gate: loads both versions, replays the rows, measures, and has the verdict spoken."""

import importlib.metadata
import platform
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import serve
from serve.cpus import available_cpus
from serve.errors import ConfigurationError, HeadraceError
from serve.models.offline import OfflineModel, OfflineVersion
from serve.models.runtime import CPU_DISTRIBUTION, GPU_DISTRIBUTION
from serve.models.self_test import SelfTestFailed, schema_change
from serve.monitoring.gate import verdict
from serve.monitoring.gate_evidence import Agreed, Classified, Estimated, Evidence, LatencySample, Scored
from serve.monitoring.gate_prediction import Reading, reading_of
from serve.monitoring.gate_report import GateData, GatedVersion, GateReport
from serve.monitoring.gate_settings import GateSettings
from serve.monitoring.replay import Answers, agreed, consistency, replay, time_in_turns
from serve.monitoring.replay_rows import Array, ReplayRows
from serve.store.audit import rfc3339

NO_STABLE = "none"
CONSISTENCY_ROWS = 256
LATENCY_BATCHES = (1, 8)

Outputs = Mapping[str, Array]
# What is done, how far, of how much.
Stages = Callable[[str, int, int], object]


@dataclass(frozen=True, slots=True)
class Clock:
    """serve.clock's functions."""

    monotonic_ns: Callable[[], int]
    wall_ns: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Versions:
    """stable None: there is nothing to compare with."""

    model: OfflineModel
    candidate: OfflineVersion
    stable: OfflineVersion | None


def load_versions(model: OfflineModel, candidate: str, settings: GateSettings, device: str) -> Versions:
    """Raises ConfigurationError where it is not plain which the stable version is, and as OfflineModel.load."""
    stable = _stable(model, candidate, settings.stable)
    loaded = model.load(candidate, device)
    return Versions(model, loaded, model.load(stable, device) if stable else None)


def _stable(model: OfflineModel, candidate: str, wanted: str | None) -> str:
    if wanted == NO_STABLE:
        return ""
    version = model.config.labels.get(wanted or "stable", wanted or "")
    if not version:
        others = [other for other in model.versions if other != candidate]
        version = max(others, key=int, default="")
    if not version:
        raise ConfigurationError(f"version {candidate} is the only one of '{model.name}': say --stable none to gate it by itself")
    if version == candidate:
        raise ConfigurationError(f"version {candidate} is the stable version itself; name another one with --stable")
    return version


def run_gate(versions: Versions, rows: ReplayRows, settings: GateSettings, clock: Clock, stages: Stages) -> GateReport:
    """The whole gate. Raises ConfigurationError for what cannot be measured as asked."""
    started = clock.wall_ns()
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        # Answers that are not finite have a check of their own; what else is computed of them is NaN, and NaN keeps no limit.
        evidence = _measure(versions, rows, settings, clock, stages)
        found, checks = verdict(evidence, settings)
    stable = versions.stable
    return GateReport(
        model=versions.model.name,
        candidate=GatedVersion(version=versions.candidate.version, digest=versions.candidate.digest),
        stable=None if stable is None else GatedVersion(version=stable.version, digest=stable.digest),
        verdict=found, checks=checks,
        data=GateData(source=rows.source, rows=rows.n, skipped=rows.n_skipped, labelled=len(rows.labelled)),
        settings=settings.model_dump(mode="json"), environment=_environment(),
        started=rfc3339(started), finished=rfc3339(clock.wall_ns()),
    )


def _environment() -> dict[str, str]:
    found = {"headrace": serve.__version__, "machine": platform.machine(), "cpus": str(available_cpus())}
    for name in (CPU_DISTRIBUTION, GPU_DISTRIBUTION):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _measure(versions: Versions, rows: ReplayRows, settings: GateSettings, clock: Clock, stages: Stages) -> Evidence:
    candidate, stable = versions.candidate, versions.stable
    unknown = sorted(set(settings.agreement.outputs) - {spec.name for spec in candidate.outputs})
    if unknown:
        raise ConfigurationError(f"agreement.outputs names {unknown[0]!r}; version {candidate.version} has "
                                 f"{', '.join(spec.name for spec in candidate.outputs)}")
    change = "" if stable is None else schema_change((stable.inputs, stable.outputs), (candidate.inputs, candidate.outputs))
    reading = _reading(candidate, versions.model) if rows.labelled else None
    ours = replay(candidate, rows, lambda done, of: stages(f"version {candidate.version}", done, of))
    # A stable version with other inputs cannot be asked the same.
    can_ask = stable is not None and not schema_change((stable.inputs, ()), (candidate.inputs, ()))
    theirs = replay(stable, rows, lambda done, of: stages(f"version {stable.version}", done, of)) if stable and can_ask else None
    answered = ours.answered(rows.n)
    both = np.flatnonzero(answered & theirs.answered(rows.n)).tolist() if theirs is not None else []
    failed = [row for row in ours.failures if theirs is None or row not in theirs.failures]
    chosen = _spread(np.flatnonzero(answered).tolist(), CONSISTENCY_ROWS)
    timed = both if theirs is not None else np.flatnonzero(answered).tolist()
    stages("consistency", 0, 1)
    return Evidence(
        candidate=candidate.version, stable="" if stable is None else stable.version, rows=rows.n,
        self_test=_self_test(candidate), schema_change=change, failed=len(failed),
        first_failure=ours.failures[failed[0]] if failed else "", not_finite=ours.not_finite(),
        consistency=consistency(candidate, rows, ours, chosen, settings.tolerance) if rows.n else None,
        agreement=None if theirs is None else agreed(ours.outputs, theirs.outputs, both, settings.agreement),
        recorded=None if theirs is None or stable is None else _recorded(rows, theirs, stable.digest, settings),
        latency=tuple(_latency(versions, can_ask, rows, timed, settings, clock, stages)),
        labelled=_labelled(reading, rows, ours, theirs, settings) if reading is not None else None,
    )


def _self_test(version: OfflineVersion) -> str:
    try:
        version.self_test()
    except SelfTestFailed as error:
        return str(error)
    return ""


def _recorded(rows: ReplayRows, theirs: Answers, digest: str, settings: GateSettings) -> Agreed:
    same = [row for row in range(rows.n) if rows.digests and rows.digests[row] == digest and row not in theirs.failures]
    return agreed(theirs.outputs, rows.recorded, same, settings.agreement)


def _spread(rows: Sequence[int], n: int) -> list[int]:
    """At most n of them, evenly."""
    if len(rows) <= n:
        return list(rows)
    return [rows[at * len(rows) // n] for at in range(n)]


def _latency(
    versions: Versions, can_ask: bool, rows: ReplayRows, answered: Sequence[int], settings: GateSettings, clock: Clock, stages: Stages
) -> list[LatencySample]:
    """answered: rows that each version that is asked answers."""
    limits, candidate = settings.latency, versions.candidate
    if limits is None or not answered:
        return []
    asked = [candidate, *([versions.stable] if versions.stable is not None and can_ask else [])]
    largest = min(version.max_batch_size for version in asked)
    sizes = limits.batch_sizes if limits.batch_sizes is not None else (*LATENCY_BATCHES, largest)
    found = []
    for at, size in enumerate(sorted({max(1, min(size, largest)) for size in sizes})):
        stages("latency", at, len(set(sizes)))
        inputs = _batch_of(rows, answered, size, largest > 0)
        refusals = [_refusal(version, inputs) for version in asked]
        if refusals[0]:
            found.append(LatencySample(size, np.zeros(0), None, refusals[0]))
            continue
        asked = [version for version, refusal in zip(asked, refusals, strict=True) if not refusal]
        taken = time_in_turns(asked, inputs, limits.runs, limits.seconds, clock.monotonic_ns)
        found.append(LatencySample(size, taken[0], taken[1] if len(taken) > 1 else None))
    return found


def _refusal(version: OfflineVersion, inputs: Outputs) -> str:
    """What a version says of a batch that it cannot answer, "" when it does."""
    try:
        version.run(inputs)
    except HeadraceError as error:
        return str(error)
    return ""


def _batch_of(rows: ReplayRows, answered: Sequence[int], size: int, is_batched: bool) -> Outputs:
    """A batch of rows of equal shapes, the most that there are, repeated where they are too few."""
    batch = max(rows.batches(size, answered), key=len)
    return rows.batch([batch[at % len(batch)] for at in range(size)], is_batched)


# --- labels -------------------------------------------------------------------------------------------------------------

def _reading(candidate: OfflineVersion, model: OfflineModel) -> Reading:
    return reading_of(candidate.outputs, candidate.max_batch_size > 0, model.config.monitoring.spec(), model.class_labels)


def _labelled(
    reading: Reading, rows: ReplayRows, ours: Answers, theirs: Answers | None, settings: GateSettings
) -> Classified | Estimated:
    of = ours.answered(rows.n) & (theirs.answered(rows.n) if theirs is not None else True)
    chosen = [row for row in rows.labelled if of[row]]
    labels = [rows.labels[row] for row in chosen]
    candidate = ours.of(chosen)
    stable = theirs.of(chosen) if theirs is not None else None
    for name in filter(None, (reading.prediction, reading.scores)):
        if theirs is not None and name not in theirs.outputs:
            raise ConfigurationError(f"output {name!r} is the prediction, and the stable version has none of that name: compare with "
                                     "another one, or with none (--stable none)")
        if chosen and (name not in candidate or (stable is not None and name not in stable)):
            raise ConfigurationError(f"output {name!r} has rows of different shapes: it is no prediction; name one in model.yaml")
    if not reading.is_classification:
        return _estimated(reading, labels, candidate, stable)
    return _classified(reading, labels, candidate, stable, settings)


def _estimated(reading: Reading, labels: Sequence[object], candidate: Outputs, stable: Outputs | None) -> Estimated:
    try:
        truth = np.array([float(label) for label in labels], np.float64)        # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"a label of a regression is a number: {error}") from error
    if not labels:
        return Estimated(truth, truth, truth)
    return Estimated(truth, reading.numbers_of(candidate), reading.numbers_of(stable) if stable is not None else truth[:0])


def _classified(
    reading: Reading, labels: Sequence[object], candidate: Outputs, stable: Outputs | None, settings: GateSettings
) -> Classified:
    if not labels:
        nothing = np.zeros(0, np.int64)
        return Classified(reading.classes, nothing, nothing, nothing)
    truth = [reading.name_of(label) for label in labels]
    said = reading.classes_of(candidate)
    before = reading.classes_of(stable) if stable is not None else []
    known = {*reading.classes, *said, *before}
    if known.isdisjoint(truth):
        # Both versions would be wrong on every row, and neither worse than the other.
        raise ConfigurationError(f"no label is a class of the model: labels are {_named(truth)}; classes are {_named(known)}; name the "
                                 "model's classes by index in model.yaml: monitoring.classes")
    names = tuple(dict.fromkeys([*reading.classes, *sorted({*truth, *said, *before})]))
    index = {name: at for at, name in enumerate(names)}
    truth_, said_, before_ = (np.array([index[name] for name in column], np.int64) for column in (truth, said, before))
    return Classified(names, truth_, said_, before_, _scored(reading, truth, candidate, stable, settings))


def _named(classes: Iterable[str]) -> str:
    """The first of them, for a message."""
    names = sorted(set(classes))
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _scored(
    reading: Reading, truth: Sequence[str], candidate: Outputs, stable: Outputs | None, settings: GateSettings
) -> Scored | None:
    output = candidate.get(reading.scores or reading.prediction)
    if output is None or output.dtype.kind != "f":
        return None
    positive = reading.positive_of(settings.positive, output.reshape(len(output), -1).shape[1])
    if positive is None:
        return None
    name, at = positive
    is_positive = np.array([one == name for one in truth], bool)
    return Scored(name, is_positive, reading.scores_of(candidate, at), reading.scores_of(stable, at) if stable is not None else np.zeros(0))


__all__ = ["NO_STABLE", "Clock", "Versions", "load_versions", "run_gate"]
