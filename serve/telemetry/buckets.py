"""From the fine log-buckets of the native threads to the few cumulative ones that a metrics store can afford. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from serve.types import Histogram

# Seconds: 10 us, where a small model on the CPU starts, to the 60 s that cap every deadline.
DURATION_TARGETS = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
)
# Rows of a batch.
BATCH_TARGETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


def cumulative_buckets(histogram: Histogram, targets: Sequence[float]) -> list[tuple[str, float]]:
    """Pairs (upper bound, observations at or below it), ascending, the last one "+Inf".

    For each target the first fine bound at or above it is kept, so that the counts are exact: a target between two fine bounds has no
    exact count. targets: ascending.
    """
    at_or_below = list(accumulate(histogram.counts))
    kept = sorted({bisect_left(histogram.bounds, target) for target in targets} - {len(histogram.bounds)})
    buckets = [(repr(float(histogram.bounds[index])), float(at_or_below[index])) for index in kept]
    return [*buckets, ("+Inf", float(at_or_below[-1]))]
