"""`headrace records tail`: the newest rows, and with --follow those that come after them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from serve.recording.relations import Period
from serve.recording.views import quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from serve.recording.query import Records

# A row is dated by the first byte of its request, and recorded when it is answered: --follow finds those that took less than this.
SLACK_NS = 10_000_000_000
INTERVAL_S = 1.0

_ORDER = "ts_ns, replica, epoch, seq"
Name = tuple[str, int, int]


def newest(records: "Records", view: str, n_rows: int) -> "pa.Table":
    """The newest n_rows rows of a view, the newest last."""
    last = f"SELECT * FROM {quoted(view)} ORDER BY ts_ns DESC, replica DESC, epoch DESC, seq DESC LIMIT {n_rows}"     # noqa: S608  # quoted
    return _rows(records, f"SELECT * FROM ({last}) ORDER BY {_ORDER}", records.newest(n_rows, view))     # noqa: S608  # quoted


class Follower:
    """Knows the rows that are there, and finds those that are not among them."""

    def __init__(self, records: "Records", view: str) -> None:
        self._newest_ns = 0
        newest_ns = records.newest(1, view).from_ns
        self._seen: set[Name] = set()
        if newest_ns is not None:
            self._newest_ns = newest_ns
            self._seen = set(self._times(records, view))

    def new(self, records: "Records", view: str) -> "pa.Table":
        """Rows that came since, by time: of those dated later than SLACK_NS before the newest."""
        times = self._times(records, view)
        begin = min((ts_ns for name, ts_ns in times.items() if name not in self._seen), default=None)
        end = Period(0, 0) if begin is None else Period(begin)
        rows = _rows(records, f"SELECT * FROM {quoted(view)} ORDER BY {_ORDER}", end)     # noqa: S608  # quoted
        names = zip(*(rows[name].to_pylist() for name in ("replica", "epoch", "seq")), strict=True)
        found = rows.filter([name not in self._seen for name in names]) if rows.num_rows else rows
        self._newest_ns = max(times.values(), default=self._newest_ns)
        self._seen = set(times)
        return found

    def _times(self, records: "Records", view: str) -> dict[Name, int]:
        sql = f"SELECT replica, epoch, seq, ts_ns FROM {quoted(view)}"     # noqa: S608  # quoted
        columns = _rows(records, sql, Period(self._newest_ns - SLACK_NS)).to_pydict()
        return dict(zip(zip(columns["replica"], columns["epoch"], columns["seq"], strict=True), columns["ts_ns"], strict=True))


def follow(look: "Callable[[], pa.Table]", report: "Callable[[pa.Table], None]", pause: Callable[[float], object]) -> None:
    """Reports new rows, for ever. look: at a new snapshot. pause: sleeps for seconds."""
    while True:
        pause(INTERVAL_S)
        rows = look()
        if rows.num_rows:
            report(rows)


def _rows(records: "Records", sql: str, period: Period) -> "pa.Table":
    with records.query(sql, period) as result:
        return result.table()
