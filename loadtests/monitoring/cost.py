"""What counting drawn rows costs the recorder's threads, once they are columns: nanoseconds of a row and of a value."""

import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from loadtests.judge.tables import Bound, Scale, Table, seeded
from loadtests.monitoring.tables_of import baseline_of, classified, lists
from serve.monitoring.arrow_values import numbers_of
from serve.monitoring.drift import judge_window
from serve.monitoring.observer import Observer, add_numbers
from serve.monitors import MonitoringSpec

ROWS = 1024
_REPEATS = 200


def _best(work: Callable[[], object]) -> float:
    """Seconds, the least of many: what else the machine does only adds."""
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def costs(scale: Scale) -> list[Table]:
    """Nanoseconds a row, of batches of 1,024."""
    stream = seeded(9)
    x = stream.normal(size=(ROWS, 64)).astype(np.float32)
    score = stream.random(ROWS)
    rows = classified({"x": lists(x)}, pa.array((score > 0.5).astype(np.int64)), score)
    baseline = baseline_of(rows, MonitoringSpec(), (score > 0.3).astype(int).tolist())
    batch, cells, observer = rows.to_batches()[0], baseline.cells(), Observer(baseline)
    numbers, bins = numbers_of(batch.column("in_x")), baseline.bins["in_x"]
    whole = _best(lambda: observer.observe(batch, cells)) / ROWS * 1e9
    alone = _best(lambda: add_numbers(numbers, bins, cells.numeric["in_x"])) / ROWS * 1e9
    window = _best(lambda: judge_window(baseline, cells, MonitoringSpec())) * 1e3
    scale.say(f"{whole:.0f} ns a row")
    lines = [
        ["64 float32 features, histograms and sums", f"{alone:,.0f} ns a row", f"{alone / 64:.2f} ns a value"],
        ["the same with predicted class and scores", f"{whole:,.0f} ns a row", ""],
        ["judging a window of 64 features", f"{window:.1f} ms a window", ""],
        ["a cell of a minute, as bytes", f"{len(cells.to_bytes()):,} bytes", ""],
    ]
    return [Table("Cost", ["", "", ""], lines, [f"Batches of {ROWS:,} rows in one thread, the least of {_REPEATS} runs; without the GIL."],
                  (Bound("nanoseconds a value", alone / 64, most=5.0),))]


__all__ = ["costs"]
