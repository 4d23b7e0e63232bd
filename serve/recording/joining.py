"""Joins labels with the predictions that they are about, in the keeper: by request id and row, each label once.

    new labels -> duplicates out -> waiting -> rows found: joined, or late      -> outcomes for the worker, rows for the sinks
                                            -> no row two minutes after it came: unknown

A row may still be on its way to a journal when its label comes, so that a label waits. Where the id does not say when its request was, all
that lies within the late window is looked through once, a step at a time, the newest files first. Labels that wait are not done yet: after
a crash they are read again.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from serve.monitors import MonitoringSpec
from serve.recording.jobs import Keeping, Message
from serve.recording.join_lookup import ID_MARGIN_NS, Wanted, find, near_parts
from serve.recording.join_outcomes import OutcomeCounter
from serve.recording.join_rows import SKEW_NS, Waiting, waiting_of
from serve.recording.join_source import MAX_LABELS, JoinSource, OwnJournals, Source
from serve.recording.join_specs import MONITORING, told_spec
from serve.recording.join_state import JoinState
from serve.recording.join_step import JoinStep
from serve.recording.joined_rows import JoinedSink
from serve.recording.manifest import Part
from serve.recording.seq_ranges import SeqRanges

INTERVAL_S = 10.0
# How long a label waits for its row to reach a journal.
PATIENCE_NS = 120_000_000_000
# A row that was not there at the first look belongs to a request of the last ten minutes.
RECENT_NS = 600_000_000_000
# Rows of sealed files that one step looks through for ids that do not say their time.
MAX_SCANNED_ROWS = 5_000_000
# Labels that wait; more stay where they are.
MAX_WAITING = 2 * MAX_LABELS
# Labels of other replicas become visible when they are sealed; what is older than this has been seen.
HORIZON_NS = 7 * 86_400_000_000_000
# A unit that comes again after so long is a new one.
UNITS_KEPT_NS = 30 * 86_400_000_000_000

_NO_JOURNALS = OwnJournals((), ExitStack())


@dataclass(slots=True)
class _Scan:
    """Labels whose ids do not say their time, on their way through all parts that may hold their rows. parts: that are left."""

    labels: list[Waiting]
    parts: list[Part]
    is_begun: bool = False


@dataclass(slots=True)
class JoiningJob:
    """A job of the keeper. sinks: who takes joined rows. specs: of models, `monitoring`, as the worker tells them.

    Of this replica's own predictions only: their generations mean nothing to another one. A label that another replica received is joined
    here when its row is here, and counts as unknown where it was received.
    """

    keeping: Keeping
    sinks: Sequence[JoinedSink] = ()
    specs: dict[str, MonitoringSpec] = field(default_factory=dict)
    name: str = "joining"
    interval_s: float = INTERVAL_S
    _open: tuple[JoinState, OutcomeCounter] | None = None
    _source: JoinSource = field(init=False)
    _waiting: list[Waiting] = field(default_factory=list)
    _scans: dict[str, _Scan] = field(default_factory=dict)
    _told: list[Mapping[str, Any]] = field(default_factory=list)
    _begun_ns: int | None = None

    def __post_init__(self) -> None:
        self._source = JoinSource(self.keeping)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Of the worker, between two runs: {"type": "scopes", ...}, which generations share their sticky units, and join_specs' messages.
        Others are somebody else's.
        """
        if message.get("type") in ("scopes", MONITORING):
            self._told.append(message)

    def run(self, now_ns: int) -> list[Message]:
        """`outcomes` messages of what has changed, at first of everything, and one `feedback` with the counts of labels."""
        try:
            return self._run(now_ns)
        except BaseException:
            self.close()        # what is on the disk is where the next run begins
            raise

    def close(self) -> None:
        """Nothing is lost by it: all that counts is on the disk."""
        if self._open is not None:
            self._open[1].close()
        self._open, self._waiting, self._scans = None, [], {}
        self._source.forget()

    def _run(self, now_ns: int) -> list[Message]:
        is_first = self._open is None
        state, counter = self._open = self._open or self._begin()
        has_scopes = self._learn(state)
        self._begun_ns = now_ns if self._begun_ns is None else self._begun_ns
        with self._source.journals() as journals:
            is_all = self._read(state, journals, now_ns)
            step = JoinStep(state, counter, self._spec, self.sinks, self.keeping.manifest.state.since_epoch)
            for model in sorted({label.model for label in self._waiting}):
                # At first the models are still being loaded; one that is not any more is compared as well as can be.
                if model in self.specs or now_ns - self._begun_ns >= PATIENCE_NS:
                    self._look(step, model, journals, now_ns)
        n_done = self._settle(state, now_ns)
        if is_all and not self._waiting:
            state.horizon_ns = max(state.horizon_ns, now_ns - HORIZON_NS)
        if n_done or has_scopes:
            state.batches += step.has_joined
            self._expire(state, now_ns)
            state.save()
        self.interval_s = INTERVAL_S if is_all or len(self._waiting) >= MAX_WAITING else 0.0
        messages: list[Message] = state.sums.messages()
        return [*messages, self._feedback(state, counter)] if n_done or is_first else messages

    def _begin(self) -> tuple[JoinState, OutcomeCounter]:
        state = JoinState.load(self.keeping.home.path)
        return state, OutcomeCounter(state.sums, state.units, state.scope)

    def _learn(self, state: JoinState) -> bool:
        """Whether there was a scope among what was told."""
        told, self._told = self._told, []
        for message in told:
            if message["type"] == MONITORING:
                model, spec = told_spec(message)
                self.specs[model] = spec
            else:
                state.learn_scope(message)
        return any(message["type"] != MONITORING for message in told)

    def _spec(self, model: str) -> MonitoringSpec:
        return self.specs.get(model, MonitoringSpec())

    def _read(self, state: JoinState, journals: OwnJournals, now_ns: int) -> bool:
        """Takes new labels up; those that came before are duplicates at once. Returns whether there are no more of them."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        taken = {**state.done, **_plus(state.done, self._waiting)}
        table, is_all = self._source.new_labels(journals, self._source.parts(now_ns), taken, state.horizon_ns)
        known = {label.key for label in self._waiting}
        labels = waiting_of(table)
        is_joined = state.joined.has(np.array([label.key for label in labels], np.uint64))
        for label, was_joined in zip(labels, is_joined.tolist(), strict=True):
            if was_joined or label.key in known:
                label.fate = "duplicate"
            known.add(label.key)
        self._waiting += labels
        return is_all

    def _look(self, step: JoinStep, model: str, journals: OwnJournals, now_ns: int) -> None:
        mine = [label for label in self._waiting if label.model == model and not label.fate]
        window_ns = step.window_ns(model)
        for label in mine:
            if 0 <= label.time_ns < label.ts_ns - window_ns - ID_MARGIN_NS:
                label.fate = "late"
        near = [label for label in mine if not label.fate and (label.time_ns >= 0 or label.is_scanned)]
        parts = [part for part in self.keeping.manifest.state.parts.values() if part.name.table == "records" and part.name.model == model]
        if near:
            self._find(step, model, near, parts, journals, (min(label.ts_ns for label in near) - RECENT_NS, now_ns + SKEW_NS))
        unscanned = [label for label in mine if label.time_ns < 0 and not label.is_scanned]
        if unscanned:
            self._scan(step, model, unscanned, parts, journals)

    def _scan(self, step: JoinStep, model: str, labels: list[Waiting], parts: Iterable[Part], journals: OwnJournals) -> None:
        """One step. Labels that come while a scan goes on take the next one."""
        scan = self._scans.get(model)
        if scan is None:
            newest_first = sorted(parts, key=lambda part: part.max_ts_ns, reverse=True)
            scan = self._scans[model] = _Scan(labels, newest_first)
        span = min(one.ts_ns for one in scan.labels) - 2 * step.window_ns(model), max(one.ts_ns for one in scan.labels) + SKEW_NS
        chosen, n_rows = list[Part](), 0
        while scan.parts and n_rows < MAX_SCANNED_ROWS:
            part = scan.parts.pop(0)
            if part.max_ts_ns >= span[0] and part.min_ts_ns <= span[1]:
                chosen.append(part)
                n_rows += part.rows
        left = [label for label in scan.labels if not label.fate]
        self._find(step, model, left, chosen, _NO_JOURNALS if scan.is_begun else journals, span)
        scan.is_begun = True
        if not scan.parts:
            del self._scans[model]
            for label in scan.labels:
                label.is_scanned = True

    def _find(
        self, step: JoinStep, model: str, labels: Sequence[Waiting], parts: Iterable[Part], journals: OwnJournals, span: tuple[int, int],
    ) -> None:
        """span: where the rows of ids that do not say their time may lie, both ends included."""
        wanted = Wanted(
            [label.request_id for label in labels], [label.row for label in labels],
            np.array([label.time_ns for label in labels], np.int64), *span)
        for label in labels:
            label.is_looked_for = True
        near = near_parts(parts, wanted)
        if labels and (near or journals.of("records", model)):
            step.take(model, labels, find(self.keeping.store, near, journals, model, wanted, step.columns(model)))

    def _settle(self, state: JoinState, now_ns: int) -> int:
        """What has a fate is done: how many."""
        for label in self._waiting:
            is_sure = label.is_looked_for and (label.time_ns >= 0 or label.is_scanned)
            if not label.fate and is_sure and now_ns - label.ts_ns >= PATIENCE_NS:
                label.fate = "unknown"
        done = [label for label in self._waiting if label.fate]
        self._waiting = [label for label in self._waiting if not label.fate]
        state.done.update(_plus(state.done, done))
        for label in done:
            counts = state.count(label.model)
            if label.replica != self.keeping.replica:
                counts.foreign += label.fate == "joined"
            else:
                setattr(counts, label.fate, getattr(counts, label.fate) + 1)
        return len(done)

    def _expire(self, state: JoinState, now_ns: int) -> None:
        longest_s = max((self._spec(model).label_window_s for model in state.counts), default=0.0)
        state.joined.expire(now_ns - int(longest_s * 1e9) - HORIZON_NS)
        state.units.expire(now_ns - UNITS_KEPT_NS)

    def _feedback(self, state: JoinState, counter: OutcomeCounter) -> Message:
        return {
            "type": "feedback", "models": {model: asdict(counts) for model, counts in sorted(state.counts.items())},
            "waiting": len(self._waiting), "problems": dict(counter.problems),
        }


def _plus(done: Mapping[Source, SeqRanges], labels: Iterable[Waiting]) -> dict[Source, SeqRanges]:
    """The ranges of where the labels are from, with them."""
    seqs: dict[Source, list[int]] = {}
    for label in labels:
        seqs.setdefault((label.replica, label.epoch), []).append(label.seq)
    return {source: done.get(source, SeqRanges()).plus(np.array(numbers, np.int64)) for source, numbers in seqs.items()}


__all__ = ["INTERVAL_S", "PATIENCE_NS", "JoiningJob"]
