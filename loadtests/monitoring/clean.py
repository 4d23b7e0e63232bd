"""False alarms on windows of one law, and windows until an alert when the inputs change."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loadtests.judge.tables import Bound, Scale, Table, at_most, seeded
from loadtests.monitoring.streams import CONCEPTS, COVARIATES, Generator, drifting, taken
from loadtests.monitoring.tables_of import baseline_of, lists, windows
from serve.monitoring.alerts import Kind, Subject, Verdict, Watch, advance
from serve.monitoring.distances import ks_p_value
from serve.monitoring.drift import WindowDrift, judge_window
from serve.monitors import MonitoringSpec

N_WINDOWS = 30
WINDOW = 1000
REFERENCE = 5000
SPEC = MonitoringSpec()
_WIDE = 64
_SUBJECT = Subject("bench", "1", "stable", Kind.DRIFT)


def verdicts(reference: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], spec: MonitoringSpec = SPEC) -> Iterator[WindowDrift]:
    """Windows of rows, judged by a baseline of the reference."""
    baseline = baseline_of(pa.table({"in_x": lists(reference.astype(np.float32))}), spec)
    for cells in windows(baseline, pa.table({"in_x": lists(rows.astype(np.float32))}), WINDOW):
        yield judge_window(baseline, cells, spec)


def alerts_at(found: Sequence[bool], spec: MonitoringSpec = SPEC) -> list[int]:
    """Windows at which an alert is raised by m of n."""
    watch, raised = Watch(), []
    for place, is_bad in enumerate(found):
        before = watch.alert
        watch, _ = advance(watch, _SUBJECT, Verdict(place, place + 1, is_bad), spec.alert_m, spec.alert_n, place, "a")
        if watch.alert is not None and before is None:
            raised.append(place)
    return raised


def naive(reference: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]) -> list[bool]:
    """What a test of each feature alone at 5 % says of each window: any Kolmogorov-Smirnov p-value below 0.05."""
    return [
        any(_ks_p_value(reference[:, i], rows[at:at + WINDOW, i]) < 0.05 for i in range(rows.shape[1]))
        for at in range(0, len(rows) - WINDOW + 1, WINDOW)
    ]


def _ks_p_value(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Of the values themselves, without bins."""
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(one), at, side="right") / len(one) for one in (a, b)]
    return ks_p_value(float(np.abs(below[0] - below[1]).max()), len(a), len(b))


def clean_windows(scale: Scale) -> list[Table]:
    """Thirty windows of the baseline's own law: those with a drifted feature, and alerts."""
    lines, flagged, alarmed, total, runs_flagged, n_runs = [], 0, 0, 0, 0, 0
    runs = max(2, scale.runs)
    for generator in (None, *CONCEPTS, *COVARIATES[:2]):
        hits = alarms = by_ks = n_features = 0
        for run in range(runs):
            rows = _clean(generator, run)
            n_features = rows.shape[1]
            bad = [bool(one.drifted) for one in verdicts(rows[:REFERENCE], rows[REFERENCE:])]
            hits, alarms, runs_flagged, n_runs = hits + sum(bad), alarms + len(alerts_at(bad)), runs_flagged + any(bad), n_runs + 1
            by_ks += sum(naive(rows[:REFERENCE], rows[REFERENCE:])) if run == 0 else 0
        name = generator.name if generator is not None else f"{_WIDE} normals"
        lines.append([name, str(n_features), f"{hits} of {runs * N_WINDOWS}", str(alarms), f"{by_ks} of {N_WINDOWS}"])
        flagged, alarmed, total = flagged + hits, alarmed + alarms, total + runs * N_WINDOWS
        scale.say(f"{name}: {hits} of {runs * N_WINDOWS} windows, {alarms} alerts")
    note = (
        f"{N_WINDOWS} windows of {WINDOW:,} rows after {REFERENCE:,} of baseline, {runs} times, at the defaults: PSI at least "
        f"{SPEC.min_psi:g} and above its critical value, chi-squared at a false discovery rate of {SPEC.fdr:g} over the features, "
        f"{SPEC.alert_m} of {SPEC.alert_n} windows. Windows of one run share a baseline; runs with any flagged window: "
        f"{at_most(runs_flagged, n_runs)}. Beside it what a Kolmogorov-Smirnov test of each feature at 5 % says, the first time.")
    headers = ["stream", "features", "windows with a drifted feature", "alerts", "any KS p below 0.05"]
    return [Table(
        "False alarms on clean windows", headers, lines, [note],
        (Bound("clean windows with a drifted feature, per cent", 100 * flagged / total, most=1.0),
         Bound("alerts on clean windows", alarmed, most=0)))]


def _clean(generator: Generator | None, run: int) -> npt.NDArray[np.float64]:
    n = REFERENCE + N_WINDOWS * WINDOW
    if generator is None:
        return seeded(1, run).normal(size=(n, _WIDE))
    return taken(generator.before(100 + run), n)[0]


def covariate_delays(scale: Scale) -> list[Table]:
    """Rows from a change of the inputs until the alert."""
    lines, missed, false = [], 0, 0
    runs = max(3, scale.runs)
    for generator in COVARIATES:
        for width in (1, 5000):
            delays = []
            for run in range(runs):
                rows, _ = drifting(generator, REFERENCE + 25 * WINDOW, REFERENCE + 10 * WINDOW, width, run)
                raised = alerts_at([bool(one.drifted) for one in verdicts(rows[:REFERENCE], rows[REFERENCE:])])
                false += sum(place < 10 - width / WINDOW for place in raised)
                late = [place for place in raised if place >= 10 - width / WINDOW]
                delays.append((late[0] + 1 - 10) * WINDOW if late else np.nan)
            found = np.array(delays)
            missed += int(np.isnan(found).sum())
            lines.append([generator.name, generator.drifts, "abrupt" if width == 1 else f"over {width:,} rows",
                          f"{np.sum(~np.isnan(found))} of {runs}", f"{np.nanmedian(found):,.0f}", f"{np.nanmax(found):,.0f}"])
            scale.say(" ".join(lines[-1]))
    note = (
        f"Windows of {WINDOW:,} rows; the middle of the change is row 0. An alert takes two windows, {2 * WINDOW:,} rows, at the least; "
        "of a gradual change it may come before its middle.")
    return [Table(
        "Rows until a change of the inputs is alerted", ["stream", "change", "", "found", "rows, median", "rows, most"], lines, [note],
        (Bound("changes of the inputs that were not found", missed, most=0), Bound("alerts before a change began", false, most=0)))]


def effects(scale: Scale) -> list[Table]:
    """Shares of windows that are said to have drifted, by the size of a shift and the number of rows."""
    lines = []
    runs = max(20, 10 * scale.runs)
    for n in (100, 500, 5_000, 300_000):
        spec = replace(SPEC, min_rows=min(n, SPEC.min_rows))
        for shift in (0.0, 0.02, 0.1, 0.3, 0.5):
            ours = rule = ks = 0
            for run in range(runs):
                # A baseline of its own each: with one for all, its chance would be in every window.
                reference = seeded(2, n, int(1000 * shift), run).normal(size=(n, 1)).astype(np.float32)
                baseline = baseline_of(pa.table({"in_x": lists(reference)}), SPEC)
                rows = seeded(3, n, int(1000 * shift), run).normal(shift, 1, (n, 1)).astype(np.float32)
                (cells,) = windows(baseline, pa.table({"in_x": lists(rows)}), n)
                (one,) = judge_window(baseline, cells, spec).features
                ours, rule, ks = ours + one.drifted, rule + (one.psi >= SPEC.min_psi), ks + ((one.ks_p_value or 0) < 0.05)
            lines.append([f"{n:,}", f"{shift:g}", *(f"{100 * hits / runs:.0f} %" for hits in (ours, rule, ks))])
        scale.say(f"{n:,} rows")
    note = (
        f"Of {runs} windows, each with as many rows as a baseline of its own. A shift of a third of a standard deviation has a PSI of "
        "0.1. A p-value alone turns with the number of rows: at 300,000 a fiftieth of a deviation is significant, and nothing to act on. "
        f"PSI alone turns the other way: at 100 rows (`min_rows` lowered for it) chance brings more than {SPEC.min_psi:g}, which its "
        f"critical value sees; from the default {SPEC.min_rows} rows on the critical value is below {SPEC.min_psi:g} and the effect "
        "decides alone.")
    headers = ["rows", "shift, deviations", "drift", "PSI ≥ 0.1 alone", "KS p < 0.05 alone"]
    return [Table("What counts as drift: the size of a shift, not the number of rows", headers, lines, [note])]


__all__ = ["alerts_at", "clean_windows", "covariate_delays", "effects"]
