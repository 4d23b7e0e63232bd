"""What one run of the join does with the rows that it has found: their labels' fates, the outcomes, and what the sinks get."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from serve.monitors import MonitoringSpec
from serve.recording.answers import answer_columns
from serve.recording.arrow_schema import COMMON_COLUMNS
from serve.recording.join_lookup import Found
from serve.recording.join_outcomes import OutcomeCounter
from serve.recording.join_rows import SKEW_NS, TRUTH, Waiting, joined_rows
from serve.recording.join_state import JoinState
from serve.recording.joined_rows import JoinedSink
from serve.recording.outcome_sql import needed_columns
from serve.recording.views import Column


class JoinStep:
    """since_epoch: generations of epochs up to it mean nothing any more: whoever counted them is lost. has_joined: whether anything was."""

    def __init__(
        self, state: JoinState, counter: OutcomeCounter, specs: Callable[[str], MonitoringSpec], sinks: Sequence[JoinedSink],
        since_epoch: int = 0,
    ) -> None:
        self._state = state
        self._counter = counter
        self._specs = specs
        self._sinks = sinks
        self._since_epoch = since_epoch
        self.has_joined = False

    def window_ns(self, model: str) -> int:
        """From a prediction to its label."""
        return int(self._specs(model).label_window_s * 1e9)

    def columns(self, model: str) -> Callable[[Sequence[Column]], list[str]]:
        """What is wanted of a schema: where it says the answer, and what expressions refer to."""
        spec = self._specs(model)
        expressions = self._counter.expressions(model, spec)

        def wanted(columns: Sequence[Column]) -> list[str]:
            known = [*COMMON_COLUMNS, *(column.name for column in columns)]
            return list(dict.fromkeys([*answer_columns(columns, spec).names, *needed_columns(expressions, known)]))

        return wanted

    def take(self, model: str, labels: Sequence[Waiting], found: Iterable[Found]) -> None:
        """Decides over those of the labels that rows were found for. found: with the numbers of labels."""
        times = np.array([label.ts_ns for label in labels], np.int64)
        joined, late = set[int](), set[int]()
        for rows in found:
            numbers = rows.table["number"].to_numpy()
            ages = times[numbers] - rows.table["ts_ns"].to_numpy()
            is_late = ages > self.window_ns(model)
            fits = ~is_late & (ages >= -SKEW_NS)
            late.update(numbers[is_late].tolist())
            joined.update(numbers[fits].tolist())
            if fits.any():
                self._join(model, rows, rows.table.filter(pa.array(fits)), [labels[number] for number in numbers[fits].tolist()])
        for number in late - joined:
            labels[number].fate = "late"
        self._remember([labels[number] for number in sorted(joined)])

    def _join(self, model: str, found: Found, rows: pa.Table, labels: Sequence[Waiting]) -> None:
        spec = self._specs(model)
        rows = _of_this_home(rows, self._since_epoch)
        truths = joined_rows(rows, labels, found.version, answer_columns(found.columns, spec), spec, self._state.batches + 1)
        n_truths = sum(label.name == TRUTH and label.reward is None for label in labels)
        self._state.count(model).without_answer += n_truths - (0 if truths is None else len(truths))
        if truths is not None:
            for sink in self._sinks:
                sink.take(truths)
        self._counter.add(model, rows, labels, truths, self._counter.expressions(model, spec))

    def _remember(self, labels: Sequence[Waiting]) -> None:
        for label in labels:
            label.fate = "joined"
        if labels:
            self.has_joined = True
            self._state.joined.first(np.array([label.key for label in labels], np.uint64),
                                     np.array([label.ts_ns for label in labels], np.int64))


def _of_this_home(rows: pa.Table, since_epoch: int) -> pa.Table:
    """The rows; those of a home that was lost are of no generation: its plans are gone, and their numbers are given out again."""
    generations = np.where(rows["epoch"].to_numpy() > since_epoch, rows["generation"].to_numpy(), 0)
    return rows.set_column(rows.schema.get_field_index("generation"), "generation", pa.array(generations, pa.int64()))


__all__ = ["JoinStep"]
