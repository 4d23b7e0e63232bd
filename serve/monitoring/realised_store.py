"""What the keeper remembers of realised performance: windows and detectors, in a SQLite file of the home. Blocking, of one thread.

What the newest join has added to a window is kept apart (`added`) from what is there for good (`kept`), until that join is durable: its
number is in joining.json. A join that was not is taken back at the next start, because it comes again.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve.errors import Unavailable
from serve.monitoring.concept import Adwin, PageHinkley, adwin_of, page_hinkley_of
from serve.monitoring.database import FORGOTTEN_NS, Series, open_or_set_aside
from serve.monitoring.realised_sums import RealisedSums, sums_of
from serve.recording.join_state import FILE as JOINING

FILE = "realised.db"
# Of ADWIN, whose alarm is an alert: a tenth of the usual 0.002, at which one series in a hundred of 60,000 labels alarms by chance.
ALERT_DELTA = 0.0002
# Windows of a series that are kept.
MAX_WINDOWS = 2016

_SCHEMA = """
CREATE TABLE IF NOT EXISTS windows (model TEXT, version TEXT, variant TEXT, start_ns INTEGER, end_ns INTEGER, kept TEXT, added TEXT,
    PRIMARY KEY (model, version, variant, start_ns)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
"""
_EMPTY: Mapping[str, Any] = {"batch": 0, "before": {}, "after": {}}
_PLACE = "model = ? AND version = ? AND variant = ? AND start_ns = ?"
_SERIES = "model = ? AND version = ? AND variant = ?"

ADWIN, PAGE_HINKLEY = "adwin", "page_hinkley"
Key = tuple[Series, int]        # a series, and the start of a window


@dataclass(slots=True)
class RealisedWindow:
    """sums: of its labelled rows. detections: where a detector fired, by the time of the prediction."""

    end_ns: int
    sums: RealisedSums
    detections: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: "RealisedWindow") -> None:
        self.sums.add(other.sums)
        self.detections += other.detections

    def text(self) -> str:
        return json.dumps({"sums": self.sums.as_document(), "detections": self.detections}, separators=(",", ":"))


@dataclass(slots=True)
class Detectors:
    """Of one series. Both look at the same errors.

    Page-Hinkley is evidence and no alarm by itself: its threshold is fixed, but chance moves its sum by some sqrt(p(1 - p) / 2e-4) at an
    error rate of p, and takes it there sooner or later.
    """

    adwin: Adwin = field(default_factory=lambda: Adwin(ALERT_DELTA))
    page_hinkley: PageHinkley = field(default_factory=PageHinkley)

    def update(self, error: float, at_ns: int) -> list[dict[str, Any]]:
        """What fired at this error, if errors have become more: fewer are no alarm.

        ADWIN's before and after: means of its window before and after the change. Page-Hinkley's mean: of all before; risen: of its sum.
        """
        found: list[dict[str, Any]] = []
        if self.adwin.update(error):
            before, after = self.adwin.means
            if after > before:
                found.append({"detector": ADWIN, "ts_ns": at_ns, "before": before, "after": after})
        page_hinkley = self.page_hinkley
        mean = page_hinkley.mean
        if page_hinkley.update(error) and page_hinkley.least is not None:
            risen = page_hinkley.up - page_hinkley.least
            if risen > page_hinkley.threshold:
                found.append({"detector": PAGE_HINKLEY, "ts_ns": at_ns, "mean": mean, "risen": risen, "threshold": page_hinkley.threshold})
        return found


class RealisedStore:
    """batch: number of the newest join that has added anything; added: what that was. detectors: after it.

    Raises Unavailable of every method when the file cannot be used.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self.batch = 0
        self.added: dict[Key, RealisedWindow] = {}
        self.detectors: dict[Series, Detectors] = {}
        self._before: Mapping[str, Any] = {}
        try:
            self._connection = open_or_set_aside(home / FILE, _connect)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"realised performance cannot be kept in {home / FILE}: {error}") from error
        found = self._do("SELECT document FROM state WHERE name = 'state'")
        self._load(json.loads(found[0][0]) if found else _EMPTY)

    def close(self) -> None:
        self._connection.close()

    def begin(self, batch: int) -> None:
        """Another join: the one before is durable."""
        self.keep()
        self.batch = batch

    def keep_durable(self) -> None:
        """Keeps the newest join if it is durable."""
        if self.added and self._committed() >= self.batch:
            self.keep()

    def keep(self) -> None:
        """What the newest join has added is there for good."""
        self._do("BEGIN IMMEDIATE")
        for (series, start), added in self.added.items():
            [[kept]] = self._do(f"SELECT kept FROM windows WHERE {_PLACE}", *series, start)     # noqa: S608
            whole = _sum(_window(added.end_ns, kept), added)
            assert whole is not None
            self._do(f"UPDATE windows SET kept = ?, added = NULL WHERE {_PLACE}", whole.text(), *series, start)     # noqa: S608
        for series in {series for series, _ in self.added}:
            oldest = f"SELECT start_ns FROM windows WHERE {_SERIES} ORDER BY start_ns DESC LIMIT 1 OFFSET ?"     # noqa: S608
            self._do(f"DELETE FROM windows WHERE {_SERIES} AND start_ns < ({oldest})", *series, *series, MAX_WINDOWS - 1)   # noqa: S608
        self._forget_series()
        after = _documents(self.detectors)
        self._put_state(after)
        self._do("COMMIT")
        self.added, self._before = {}, after        # not before it is there for good

    def save(self) -> None:
        """What was added so far, so that it is there after a crash if the join is."""
        self._do("BEGIN IMMEDIATE")
        for (series, start), added in self.added.items():
            self._do("INSERT INTO windows VALUES (?, ?, ?, ?, ?, NULL, ?) ON CONFLICT DO UPDATE SET added = excluded.added",
                     *series, start, added.end_ns, added.text())
        self._put_state(self._before)
        self._do("COMMIT")

    def window(self, key: Key) -> RealisedWindow | None:
        """All that is known of it."""
        found = self._do(f"SELECT end_ns, kept FROM windows WHERE {_PLACE}", *key[0], key[1])       # noqa: S608
        kept = _window(*found[0]) if found else None
        return _sum(kept, self.added.get(key))

    def newest(self, limit: int) -> set[Key]:
        """The newest windows of each series."""
        found = self._do("SELECT model, version, variant, start_ns FROM (SELECT *, row_number() OVER (PARTITION BY model, version, "
                         "variant ORDER BY start_ns DESC) AS place FROM windows) WHERE place <= ?", limit)
        return {((model, version, variant), start) for model, version, variant, start in found}

    def _forget_series(self) -> None:
        """Those that no label came of for long, by the newest window of all."""
        gone = self._do("SELECT model, version, variant FROM windows GROUP BY 1, 2, 3 HAVING max(start_ns) < "
                        "(SELECT max(start_ns) FROM windows) - ?", FORGOTTEN_NS)
        for series in map(tuple, gone):
            self._do(f"DELETE FROM windows WHERE {_SERIES}", *series)      # noqa: S608
            self.detectors.pop(series, None)

    def _load(self, state: Mapping[str, Any]) -> None:
        committed = self._committed()
        if committed + 1 < state["batch"]:      # the joins have begun anew, and bring every label again
            self._do("DELETE FROM windows")
            state = _EMPTY
        is_durable = committed >= state["batch"]
        self.batch = state["batch"] if is_durable else 0
        self._before = state["after" if is_durable else "before"]
        self.detectors = _detectors(self._before)
        if is_durable:
            for model, version, variant, start, end, added in self._do(
                    "SELECT model, version, variant, start_ns, end_ns, added FROM windows WHERE added IS NOT NULL"):
                if (window := _window(end, added)) is not None:
                    self.added[(model, version, variant), start] = window
            self.keep()
        else:
            self._do("UPDATE windows SET added = NULL")
            self._do("DELETE FROM windows WHERE kept IS NULL")
            self._put_state(self._before)

    def _committed(self) -> int:
        """Number of the newest join that is durable."""
        with suppress(FileNotFoundError):
            return int(json.loads((self._home / JOINING).read_bytes())["batches"])
        return 0

    def _put_state(self, before: Mapping[str, Any]) -> None:
        """before: the detectors as the joins left them that are durable."""
        state = {"batch": self.batch, "before": before, "after": _documents(self.detectors)}
        self._do("INSERT OR REPLACE INTO state VALUES ('state', ?)", json.dumps(state, separators=(",", ":")))

    def _do(self, statement: str, *values: Any) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise Unavailable(f"realised performance cannot be kept in {self._home / FILE}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    try:
        connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")
    except BaseException:
        connection.close()
        raise
    return connection


def _window(end_ns: int, text: str | None) -> RealisedWindow | None:
    """The window of a stored text."""
    if text is None:
        return None
    document = json.loads(text)
    return RealisedWindow(end_ns, sums_of(document["sums"]), document["detections"])


def _sum(kept: RealisedWindow | None, added: RealisedWindow | None) -> RealisedWindow | None:
    if kept is None or added is None:
        return kept or added
    kept.add(added)
    return kept


def _documents(detectors: Mapping[Series, Detectors]) -> dict[str, Any]:
    return {json.dumps(series): [one.adwin.as_document(), one.page_hinkley.as_document()] for series, one in detectors.items()}


def _detectors(documents: Mapping[str, Any]) -> dict[Series, Detectors]:
    found: dict[Series, Detectors] = {}
    for key, (adwin, page_hinkley) in documents.items():
        model, version, variant = json.loads(key)
        # A file of an older version has another delta.
        found[model, version, variant] = Detectors(adwin_of({**adwin, "delta": ALERT_DELTA}), page_hinkley_of(page_hinkley))
    return found


__all__ = ["ADWIN", "ALERT_DELTA", "FILE", "MAX_WINDOWS", "PAGE_HINKLEY", "Detectors", "RealisedStore", "RealisedWindow"]
