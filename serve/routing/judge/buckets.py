"""The buckets in which durations are counted, restated from ext/serve/_core/histogram.pxd so that the judge needs no native module.

Bucket 0 is <= 1,024 ns; then four a factor of two up to 2^36 ns (68.7 s); the last is everything longer.
"""

from bisect import bisect_left

_FIRST_OCTAVE, _LAST_OCTAVE = 10, 36

# Upper bound of each bucket in ns, inclusive; that of the last is not a number of the histogram's, so it is left out.
BOUNDS_NS: tuple[int, ...] = (1 << _FIRST_OCTAVE, *(
    (5 + i % 4) << (_FIRST_OCTAVE - 2 + i // 4) for i in range((_LAST_OCTAVE - _FIRST_OCTAVE) * 4)
))
N_BUCKETS = len(BOUNDS_NS) + 1

# The same in seconds, with inf for the last bucket.
BOUNDS_S: tuple[float, ...] = (*(bound / 1e9 for bound in BOUNDS_NS), float("inf"))


def bucket_of(ns: int) -> int:
    """The bucket that counts a duration."""
    return bisect_left(BOUNDS_NS, ns)


def quantile_bucket(counts: tuple[int, ...], quantile: float) -> int:
    """The bucket of the empirical quantile. counts is not empty and not all zero."""
    wanted, so_far = quantile * sum(counts), 0
    for i, n in enumerate(counts):
        so_far += n
        if so_far >= wanted and n:
            return i
    return len(counts) - 1
