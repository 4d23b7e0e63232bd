"""A baseline of a version's first rows: they are kept until there are enough, then a thread makes it.

Rows that a shadow answered are as good as any: a version that begins as a shadow has its baseline when its traffic begins. It is the
traffic that such a baseline knows, not the training data: that the two have differed from the start is what it cannot see.
"""

import threading
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from serve.errors import HeadraceError
from serve.monitoring.baseline import Baseline, Source
from serve.records import SHADOW, RecordStreamSpec

_log = structlog.get_logger(__name__)

FIRST_ROWS = 1000
MAX_BYTES = 64 << 20

# What keeps a column's values from everybody.
_HIDING = frozenset({"drop", "mask", "hash"})

Build = Callable[[RecordStreamSpec, pa.Table, Source], Baseline]


class FirstRows:
    """Of one version. wanted: rows; fewer where they take more than MAX_BYTES. On the recorder's thread, but for the making.

    done: told of the baseline, on a thread of its own.
    """

    def __init__(self, stream: RecordStreamSpec, build: Build, done: Callable[[Baseline], None], wanted: int = FIRST_ROWS) -> None:
        self.wanted = wanted
        self.n_rows = 0
        self._stream = stream
        self._build = build
        self._done = done
        self._batches: list[pa.RecordBatch] = []
        self._n_bytes = 0
        self._thread: threading.Thread | None = None

    @property
    def missing(self) -> int:
        """Rows that are still wanted."""
        return self.wanted - self.n_rows if self._thread is None else 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows that were answered; those beyond what is wanted are let go."""
        if self._thread is not None:
            return
        if self._batches and batch.schema != self._batches[0].schema:      # other columns are recorded since: they begin anew
            self._batches, self.n_rows, self._n_bytes = [], 0, 0
        batch = batch.slice(0, self.wanted - self.n_rows)
        self._batches.append(batch)
        self.n_rows += batch.num_rows
        self._n_bytes += batch.nbytes
        if self.n_rows >= self.wanted or self._n_bytes >= MAX_BYTES:
            self._thread = threading.Thread(target=self._make, name="baseline", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Until the thread has ended, where there is one."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _make(self) -> None:
        rows = pa.Table.from_batches(self._batches)
        self._batches = []
        shadows = pc.sum(pc.equal(rows.column("variant"), SHADOW)).as_py()
        log = _log.bind(model=self._stream.model, version=self._stream.version)
        try:
            self._done(self._build(self._stream, rows, "shadow" if shadows == rows.num_rows else "first_rows"))
        except HeadraceError as error:
            log.error("no baseline can be made of the first rows", reason=str(error))
        except Exception:       # whatever it is, it is logged: the end of a thread would tell nobody, and rows are recorded all the same
            log.exception("no baseline was made of the first rows")


def without_redacted(rows: pa.Table, stream: RecordStreamSpec) -> pa.Table:
    """Without text that nobody is to read, as a baseline has the values of categories in it; of numbers it has quantiles."""
    hidden = {one.column for one in stream.spec.redact if one.action in _HIDING}
    return rows.drop_columns([name for name in rows.column_names if name in hidden and not _is_number(rows.schema.field(name).type)])


def _is_number(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return not pa.types.is_struct(kind) and _is_number(kind.value_type)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


__all__ = ["FIRST_ROWS", "Build", "FirstRows", "without_redacted"]
