"""The verdict of a release gate: evidence and settings in, checks out. Pure.

A limit is held against a confidence interval: all of it keeps the limit: pass; none of it does: fail; in between the data do not say. The
verdict is the worst of the checks, failures before doubts: a candidate that was seen to be wrong needs no more data.
"""

from collections.abc import Iterator

from serve.monitoring import paired
from serve.monitoring.gate_checks import bounded_share, check_of, counted, held, percent, shown
from serve.monitoring.gate_evidence import Evidence, LatencySample
from serve.monitoring.gate_metrics import metric_checks
from serve.monitoring.gate_report import Check, CheckStatus, Verdict, verdict_of
from serve.monitoring.gate_settings import GateSettings

PASS, FAIL, NOT_ENOUGH_DATA, TOLD = CheckStatus.PASS, CheckStatus.FAIL, CheckStatus.NOT_ENOUGH_DATA, CheckStatus.TOLD
DEFAULT_AGREEMENT = 0.9


def verdict(evidence: Evidence, settings: GateSettings) -> tuple[Verdict, tuple[Check, ...]]:
    """What the evidence says of the candidate."""
    checks = tuple(_checks(evidence, settings))
    return verdict_of(check.status for check in checks), checks


def _checks(evidence: Evidence, settings: GateSettings) -> Iterator[Check]:
    yield _self_test(evidence)
    yield _schema(evidence, settings)
    yield _rows(evidence, settings)
    if evidence.rows:
        yield from _answers(evidence, settings)
    yield from _agreement(evidence, settings)
    yield from metric_checks(evidence, settings)
    if settings.latency is not None:
        for sample in evidence.latency:
            yield from (_latency(sample, settings) if not sample.failure else [_batch(sample)])


def _self_test(evidence: Evidence) -> Check:
    if evidence.self_test:
        return Check(name="self_test", status=FAIL, text=evidence.self_test)
    return Check(name="self_test", status=PASS, text=f"version {evidence.candidate} passes its self-test")


def _schema(evidence: Evidence, settings: GateSettings) -> Check:
    if not evidence.stable:
        return Check(name="schema", status=TOLD, text="there is no stable version to compare with")
    if not evidence.schema_change:
        return Check(name="schema", status=PASS, text=f"inputs and outputs are those of version {evidence.stable}")
    status = TOLD if settings.allow_schema_change else FAIL
    return Check(name="schema", status=status, text=f"other than in version {evidence.stable}: {evidence.schema_change}")


def _rows(evidence: Evidence, settings: GateSettings) -> Check:
    status = PASS if evidence.rows >= settings.min_rows else NOT_ENOUGH_DATA
    return Check(name="rows", status=status, text=f"{counted(evidence.rows, 'row')} replayed; at least {settings.min_rows:,}",
                 value=evidence.rows, limit=settings.min_rows, n=evidence.rows)


def _answers(evidence: Evidence, settings: GateSettings) -> Iterator[Check]:
    for name, count, limit, what in (("failed", evidence.failed, settings.max_failed, "fail"),
                                     ("not_finite", evidence.not_finite, settings.max_not_finite, "have an answer with NaN or infinity")):
        share = count / evidence.rows
        first = f": {evidence.first_failure}" if name == "failed" and count else ""
        yield Check(name=name, status=PASS if share <= limit else FAIL, value=share, limit=limit, n=evidence.rows,
                    text=f"{count:,} of {counted(evidence.rows, 'row')} {what}, at most {limit:.3g} of them may{first}")
    found = evidence.consistency
    if found is None or not found.rows:
        yield Check(name="consistency", status=NOT_ENOUGH_DATA, text="no row was answered, so none could be asked again")
        return
    text = f"{counted(found.rows, 'row')} asked again, and in other batches: the same answers, at most {found.worst:.3g} apart"
    if found.differing:
        text = f"{found.differing:,} of {counted(found.rows, 'row')} asked again are answered differently: {found.where}"
    yield Check(name="consistency", status=FAIL if found.differing else PASS, text=text, value=found.differing / found.rows, limit=0,
                n=found.rows, details={"worst_difference": found.worst})


def _agreement(evidence: Evidence, settings: GateSettings) -> Iterator[Check]:
    wanted = settings.agreement
    if evidence.recorded is not None and evidence.recorded.of:
        found = paired.share(evidence.recorded.agree, evidence.recorded.of, settings.confidence)
        # The replay is to be what was served: an estimate below says that it is not, so few rows as they may be.
        status = PASS if found.estimate >= wanted.recorded else FAIL
        yield check_of("recorded", status, found, wanted.recorded, evidence.recorded.of,
                       f"version {evidence.stable} repeats its recorded answers on {bounded_share(found)} of {{rows}}; "
                       f"at least {percent(wanted.recorded)}")
    if evidence.agreement is None:
        if wanted.min is not None and evidence.stable:
            yield Check(name="agreement", status=NOT_ENOUGH_DATA,
                        text=f"version {evidence.stable} has other inputs and cannot be asked the same")
        return
    least = wanted.min
    if least is None and evidence.labelled is None:
        least = DEFAULT_AGREEMENT
    if not evidence.agreement.of:
        yield Check(name="agreement", status=TOLD if least is None else NOT_ENOUGH_DATA, text="no row was answered by both versions")
        return
    found = paired.share(evidence.agreement.agree, evidence.agreement.of, settings.confidence)
    differing = {name: count for name, count in evidence.agreement.differing.items() if count}
    said = "" if least is None else f"; at least {percent(least)}"
    yield check_of("agreement", held(found, least, "least", settings), found, least, evidence.agreement.of,
                   f"answers as version {evidence.stable} on {bounded_share(found)} of {{rows}}{said}",
                   {"differing_rows": dict(differing)} if differing else {})


def _batch(sample: LatencySample) -> Check:
    return Check(name=f"batch_{sample.batch_size}", status=FAIL, n=sample.batch_size,
                 text=f"a batch of {counted(sample.batch_size, 'row')} fails, and smaller ones with those rows do not: {sample.failure}")


def _latency(sample: LatencySample, settings: GateSettings) -> Iterator[Check]:
    limits = settings.latency
    assert limits is not None
    for name, probability, most_ms, most_ratio in (("median", 0.5, limits.max_median_ms, limits.max_median_ratio),
                                                   ("p99", 0.99, limits.max_p99_ms, limits.max_p99_ratio)):
        label = f"latency_{name}_{sample.batch_size}"
        rows = counted(sample.batch_size, "row")
        own = paired.quantile(sample.candidate_ns / 1e6, probability, settings.confidence)
        if own is None:
            status = TOLD if most_ms is None and most_ratio is None else NOT_ENOUGH_DATA
            yield Check(name=label, status=status, n=len(sample.candidate_ns),
                        text=f"{name} of batches of {rows}: {len(sample.candidate_ns):,} runs are too few to bound it")
            continue
        limit = f"; at most {shown(most_ms)} ms" if most_ms is not None else ""
        yield check_of(label, held(own, most_ms, "most", settings), own, most_ms, len(sample.candidate_ns),
                       f"{name} {shown(own.estimate)} ms ({shown(own.low)} to {shown(own.high)}) for batches of {rows}{limit}")
        if sample.stable_ns is not None:
            yield _latency_ratio(sample, name, probability, most_ratio, settings)


def _latency_ratio(sample: LatencySample, name: str, probability: float, limit: float | None, settings: GateSettings) -> Check:
    label, each = f"latency_{name}_{sample.batch_size}_vs_stable", paired.half_each(settings.confidence)
    assert sample.stable_ns is not None
    own, other = (paired.quantile(values, probability, each) for values in (sample.candidate_ns, sample.stable_ns))
    rows = counted(sample.batch_size, "row")
    if own is None or other is None:
        return Check(name=label, status=TOLD if limit is None else NOT_ENOUGH_DATA, n=len(sample.stable_ns),
                     text=f"{name} of batches of {rows}: {len(sample.stable_ns):,} runs are too few to compare it")
    found = paired.ratio(own, other)
    if limit is not None and settings.latency is not None:
        limit = max(limit, 1 + settings.latency.slack_ms * 1e6 / other.estimate)
    said = f"; at most {limit:.3g}" if limit is not None else ""
    return check_of(label, held(found, limit, "most", settings), found, limit, len(sample.stable_ns),
                    f"{name} {found.estimate:.3g} x ({found.low:.3g} to {found.high:.3g}) the stable version's for batches of {rows}{said}")


__all__ = ["DEFAULT_AGREEMENT", "verdict"]
