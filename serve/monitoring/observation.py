"""What the recorder's thread does for monitoring: rows, before redaction, into cells of a minute; the first rows of versions that have no
baseline, into a baseline.

A version is watched by the baseline of its digest. Above MAX_ROWS_S rows a second of a version, blocks of rows are drawn by the number of
their first row, and what is counted is what was drawn: a cell's `rows` says how many those were, and every share and test is of them.
Nothing is weighted, so that nothing that is claimed is more than what was seen. Where few rows of a block would be drawn, more that follow
each other are drawn of fewer blocks: a look costs much the same for one row as for LEAST_DRAWN. Failed requests have no values and are in
no cell.

Rows of another version than the stable one are counted a second time by the stable version's baseline: only what was counted in the same
bins can be compared, and a canary is compared with stable in the same minutes.
"""

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
import xxhash

from serve.errors import HeadraceError
from serve.monitoring.baseline import Baseline
from serve.monitoring.cells import Cells
from serve.monitoring.database import Series
from serve.monitoring.first_rows import FirstRows
from serve.monitoring.observer import Observer
from serve.monitoring.ports import Role, SeenCells
from serve.monitoring.windows import NS, cell_ns, floor_to
from serve.monitors import MonitoringSpec
from serve.records import RecordStreamSpec

_log = structlog.get_logger(__name__)

_DEFAULT = MonitoringSpec()

MAX_ROWS_S = 10_000
LEAST_DRAWN = 1024
CLOCK_BACK_S = 60

VersionKey = tuple[str, str, str]       # model, version, digest


class VersionWatch:
    """One version's baseline and its observer; None while there is none. rate: rows of the last second, and the share that is drawn now."""

    def __init__(self, collecting: FirstRows | None) -> None:
        self.collecting = collecting
        self.baseline: Baseline | None = None
        self.observer: Observer | None = None
        self._second = 0
        self._rows = 0
        self._share = 1.0

    def use(self, baseline: Baseline) -> None:
        self.baseline, self.observer, self.collecting = baseline, Observer(baseline), None

    def share(self, now_s: int, n_rows: int, limit: int) -> float:
        """Of the rows of this second that are counted, by how many the last one had."""
        # Blocks do not come in the order in which their requests did. A clock that was set back is another matter.
        if now_s > self._second or now_s < self._second - CLOCK_BACK_S:
            self._share = min(1.0, limit / self._rows) if self._rows else 1.0
            self._second, self._rows = now_s, 0
        self._rows += n_rows
        return min(self._share, limit / self._rows)


class MonitoringObserver:
    """`serve.recording.ports.Observer`, and `serve.monitoring.service.Seen`.

    find: the baseline of a version's digest. first_rows: the collector of a version without one, None: it is not watched. stable: the
    version that a model's stable traffic goes to, "" where nobody knows. All are called on the recorder's thread. specs: of models, as they
    were known before the start.
    """

    def __init__(
        self, find: Callable[[str, str, str], Baseline | None], first_rows: Callable[[RecordStreamSpec], FirstRows | None],
        stable: Callable[[str], str], specs: Mapping[str, MonitoringSpec], max_rows_s: int = MAX_ROWS_S,
    ) -> None:
        self._find = find
        self._first_rows = first_rows
        self._stable = stable
        self._max_rows_s = max_rows_s
        self._lock = threading.Lock()           # of everything below
        self._versions: dict[VersionKey, VersionWatch] = {}
        self._digests: dict[tuple[str, str], str] = {}
        self._specs = dict(specs)
        self._baselines: dict[str, Baseline] = {}       # by sha256
        self._cells: dict[tuple[Series, Role, int, str], Cells] = {}
        self._unfit: set[tuple[tuple[str, str], str]] = set()      # (model, version) and sha256 of a baseline
        self._skipped = {"drawn": 0, "no_baseline": 0}

    def draw(self, stream: RecordStreamSpec, at_ns: int, seq: int, n_rows: int) -> int:
        """On the recorder's thread."""
        if not stream.monitoring.enabled:
            return 0
        with self._lock:
            watch = self._watch(stream)
            if watch.observer is not None:
                drawn = _drawn(watch.share(at_ns // NS, n_rows, self._max_rows_s), seq, n_rows)
                self._skipped["drawn"] += n_rows - drawn
                return drawn
            self._skipped["no_baseline"] += n_rows
            return min(n_rows, watch.collecting.missing) if watch.collecting is not None else 0

    def observe(self, stream: RecordStreamSpec, batch: pa.RecordBatch) -> None:
        """On the recorder's thread."""
        rows = _answered(batch)
        if not rows.num_rows:
            return
        with self._lock:
            watch = self._watch(stream)
            if watch.observer is not None:
                self._count(stream, watch, rows, cell_ns(stream.monitoring.window_s))
            elif watch.collecting is not None:
                watch.collecting.add(rows)

    def open(self, stream: RecordStreamSpec) -> None:
        """A version is being loaded: finds its baseline before the first row needs it. From any thread."""
        if stream.monitoring.enabled:
            with self._lock:
                self._watch(stream)

    def spec(self, model: str) -> MonitoringSpec:
        """As the newest stream of a model has it. From any thread."""
        return self._specs.get(model, _DEFAULT)

    def specs(self) -> Mapping[str, MonitoringSpec]:
        """Of all models that are known."""
        return dict(self._specs)

    def take(self) -> list[SeenCells]:
        """What was seen since the last time. From any thread."""
        with self._lock:
            found, self._cells = self._cells, {}
        return [SeenCells(series, start, cells, role) for (series, role, start, _), cells in found.items()]

    def known(self, sha256: str) -> Baseline | None:
        """A baseline by which rows were counted since the start. From any thread."""
        return self._baselines.get(sha256)

    def use(self, baseline: Baseline) -> None:
        """From now on the version is watched by this one, if it is of the digest that is served. From any thread."""
        with self._lock:
            watch = self._versions.get((baseline.model, baseline.version, baseline.digest))
            if watch is not None:
                self._use(watch, baseline)

    def baseline(self, model: str, version: str) -> Baseline | None:
        """By which the version is watched; None: nothing has come from it, or it has none yet."""
        watch = self._newest(model, version)
        return watch.baseline if watch is not None else None

    def collecting(self, model: str, version: str) -> tuple[int, int] | None:
        """Rows that are there for a first baseline, and how many it takes."""
        watch = self._newest(model, version)
        first = watch.collecting if watch is not None else None
        return (first.n_rows, first.wanted) if first is not None else None

    def digest(self, model: str, version: str) -> str:
        """Of the version as its newest rows have it; "" before the first row."""
        return self._digests.get((model, version), "")

    def versions(self) -> list[tuple[str, str]]:
        """Of which rows have come."""
        return sorted(self._digests)

    def skipped(self) -> Mapping[str, int]:
        """Rows in no cell, those of failed requests among them, by reason: drawn (others were drawn in their place), no_baseline."""
        return dict(self._skipped)

    def _newest(self, model: str, version: str) -> VersionWatch | None:
        digest = self._digests.get((model, version))
        return self._versions.get((model, version, digest)) if digest is not None else None

    def _watch(self, stream: RecordStreamSpec) -> VersionWatch:
        key = (stream.model, stream.version, stream.digest)
        watch = self._versions.get(key)
        if watch is None:
            baseline = self._find(*key)
            watch = self._versions[key] = VersionWatch(self._first_rows(stream) if baseline is None else None)
            if baseline is not None:
                self._use(watch, baseline)
        self._digests[stream.model, stream.version] = stream.digest
        self._specs[stream.model] = stream.monitoring
        return watch

    def _use(self, watch: VersionWatch, baseline: Baseline) -> None:
        watch.use(baseline)
        self._baselines[baseline.sha256] = baseline

    def _count(self, stream: RecordStreamSpec, watch: VersionWatch, batch: pa.RecordBatch, width: int) -> None:
        stable = self._stable(stream.model)
        against = self._newest(stream.model, stable) if stable != stream.version else None
        for variant, start, rows in groups(batch, width):
            series = (stream.model, stream.version, variant)
            self._add(watch, series, "own", start, rows)
            if against is not None:
                self._add(against, series, "stable", start, rows)

    def _add(self, watch: VersionWatch, series: Series, role: Role, start: int, rows: pa.RecordBatch) -> None:
        if watch.baseline is None or watch.observer is None or (series[:2], watch.baseline.sha256) in self._unfit:
            return
        key = (series, role, start, watch.baseline.sha256)
        cells = self._cells.get(key) or watch.baseline.cells()
        try:
            watch.observer.observe(rows, cells)
        except (HeadraceError, KeyError) as error:
            # The same would be wrong with the next rows. Of another version that is no fault: it has other inputs or outputs.
            self._unfit.add((series[:2], watch.baseline.sha256))
            self._cells.pop(key, None)
            if role == "own":
                _log.error("a version's rows do not fit its baseline: it is not watched", model=series[0], version=series[1],
                           baseline=watch.baseline.id, reason=str(error))
            return
        self._cells[key] = cells


def groups(batch: pa.RecordBatch, width: int) -> list[tuple[str, int, pa.RecordBatch]]:
    """(variant, start of the cell, its rows); one group, and nothing copied, as mostly all rows are of one."""
    if not batch.num_rows:
        return []
    times = batch.column("ts_ns")
    edges = pc.min_max(times)
    first, last = floor_to(_number(edges["min"]), width), floor_to(_number(edges["max"]), width)
    variants = pc.unique(batch.column("variant")).to_pylist()
    if len(variants) == 1 and first == last:
        return [(str(variants[0]), first, batch)]
    found = []
    starts = times.to_numpy() // width * width
    for variant in variants:
        of_variant = pc.equal(batch.column("variant"), variant).to_numpy(zero_copy_only=False)
        found += [(str(variant), start, batch.filter(pa.array(of_variant & (starts == start))))
                  for start in np.unique(starts[of_variant]).tolist()]
    return found


def _answered(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without the rows of failed requests, which have row = -1."""
    least = pc.min(batch.column("row")).as_py()
    return batch if least is None or least >= 0 else batch.filter(pc.greater_equal(batch.column("row"), 0))


def _drawn(share: float, seq: int, n_rows: int) -> int:
    """How many of a block's rows are looked at, in the mean that share of them: of most blocks none, of others LEAST_DRAWN."""
    wanted = share * n_rows
    n = min(n_rows, max(math.ceil(wanted), LEAST_DRAWN))
    # Numbers of blocks lie far apart: by a multiple of the number neighbours would fall together.
    place = xxhash.xxh3_64_intdigest(seq.to_bytes(8, "little")) / 2**64
    return n if place * n < wanted else 0


def _number(value: Any) -> int:
    return int(value.as_py())


__all__ = ["MAX_ROWS_S", "MonitoringObserver", "groups"]
