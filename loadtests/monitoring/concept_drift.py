"""Concept drift once labels arrive: detectors on the errors of a model that was trained before the change."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from loadtests.judge.tables import Bound, Scale, Table, seeded
from loadtests.monitoring.streams import CONCEPTS, Floats, Generator, drifting
from serve.monitoring.concept import Adwin, PageHinkley
from serve.monitoring.realised_store import ADWIN, ALERT_DELTA, PAGE_HINKLEY, Detectors

TRAINED = 5000
BEFORE, AFTER = 10_000, 10_000
DETECTORS: Sequence[tuple[str, Callable[[], Adwin | PageHinkley]]] = (
    ("ADWIN", lambda: Adwin(ALERT_DELTA)), ("Page-Hinkley", PageHinkley))
# Labels of a stream whose errors stay as frequent as they are, and how frequent.
STATIONARY = 60_000
RATES = (0.02, 0.1, 0.2, 0.3)


def errors_of(generator: Generator, width: int, seed: int) -> Floats:
    """1 for each row that the model gets wrong, from the end of its training on; the change is at BEFORE."""
    x, y = drifting(generator, TRAINED + BEFORE + AFTER, TRAINED + BEFORE, width, seed)
    model: Any = DecisionTreeClassifier(max_depth=8, random_state=0).fit(x[:TRAINED], y[:TRAINED])
    return np.asarray(model.predict(x[TRAINED:]) != y[TRAINED:], np.float64)


def fired(detector: Adwin | PageHinkley, errors: Floats) -> list[int]:
    """Rows at which the detector fires."""
    return [place for place, error in enumerate(errors.tolist()) if detector.update(error)]


def concept_delays(scale: Scale) -> list[Table]:
    """Labelled rows until a change of the concept is found, and alarms before it."""
    runs = max(3, scale.runs)
    lines, missed, false, clean = [], 0, 0, 0
    for generator in CONCEPTS:
        for width in (1, 1000):
            made = [errors_of(generator, width, seed) for seed in range(runs)]
            rates = [np.mean([errors[chosen].mean() for errors in made]) for chosen in (slice(BEFORE - width), slice(BEFORE + width, None))]
            seen = [_seen([fired(kind(), errors) for errors in made], width) for _, kind in DETECTORS]
            missed, false, clean = missed + runs - seen[0][0], false + seen[0][2], clean + runs * (BEFORE - width)
            cells = [text for n, median, early in seen for text in (f"{n} of {runs}", f"{median:,.0f}" if n else "", str(early))]
            lines.append([generator.name, generator.drifts, "abrupt" if width == 1 else f"over {width:,}",
                          f"{100 * rates[0]:.1f} to {100 * rates[1]:.1f} %", *cells])
            scale.say(" ".join(lines[-1]))
    headers = ["stream", "change", "", "errors"]
    for name, _ in DETECTORS:
        headers += [f"{name}: found", "rows, median", "false alarms"]
    note = (
        f"A decision tree, trained on {TRAINED:,} rows, then {BEFORE:,} rows of the same concept and {AFTER:,} of another (river's "
        f"ConceptDriftStream), {runs} times; row 0 is the middle of the change. ADWIN with delta {ALERT_DELTA:g}, looked at every 32 rows; "
        f"Page-Hinkley with lambda 50. False alarms of ADWIN: {false} in {clean:,} rows.")
    return [Table("Labelled rows until a change of the concept is found", headers, lines, [note],
                  (Bound("changes of the concept that ADWIN did not find", missed, most=0),
                   Bound("false alarms of ADWIN, in 100,000 rows", 1e5 * false / clean, most=5.0))), _stationary(scale)]


def _stationary(scale: Scale) -> Table:
    """Alerts where nothing happens, by the rate of errors: the higher it is, the further chance moves a sum of them."""
    lines, n_alerted = [], 0
    for at, rate in enumerate(RATES):
        alerted = shown = 0
        for run in range(scale.runs):
            detectors = Detectors()
            errors = (seeded(31, at, run).random(STATIONARY) < rate).astype(np.float64)
            found = {one["detector"] for error in errors.tolist() for one in detectors.update(error, 0)}
            alerted, shown = alerted + (ADWIN in found), shown + (PAGE_HINKLEY in found)
        n_alerted += alerted
        lines.append([f"{100 * rate:.0f} %", f"{alerted} of {scale.runs}", f"{shown} of {scale.runs}"])
        scale.say(" ".join(lines[-1]))
    note = (f"{STATIONARY:,} labels of one error rate. ADWIN's alarm of a rise is the alert. Page-Hinkley's threshold is the same at every "
            "rate, and chance reaches it: it is shown beside an alert, and is none.")
    return Table("Alerts while errors stay as frequent as they are", ["errors", "alerts (ADWIN)", "Page-Hinkley fired"], lines,
                 [note], (Bound("series with an alert of the concept though nothing changes", n_alerted, most=0),))


def _seen(times: Sequence[Sequence[int]], width: int) -> tuple[int, float, int]:
    """(runs in which the change was found, median rows until then, alarms before it began)."""
    early = sum(place < BEFORE - width for found in times for place in found)
    first = [min((place - BEFORE for place in found if place >= BEFORE - width), default=None) for found in times]
    delays = [delay for delay in first if delay is not None]
    return len(delays), float(np.median(delays)) if delays else 0.0, early


__all__ = ["concept_delays", "errors_of", "fired"]
