"""From joined rows to outcomes: which of them count, under which metric, with which value."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from serve.errors import ConfigurationError
from serve.monitors import MonitoringSpec
from serve.recording.join_rows import Waiting, key_of, variants_of, with_labels
from serve.recording.joined_rows import JoinedRows
from serve.recording.key_memory import KeyMemory
from serve.recording.outcome_sql import OutcomeEvaluator, OutcomeExpression, OutcomeTooSlow, parse_outcomes
from serve.recording.outcome_sums import OutcomeSums
from serve.records import SHADOW
from serve.traffic import SPECIAL_ARMS

_NOT_DRAWN = (*SPECIAL_ARMS, SHADOW)
_log = structlog.get_logger(__name__)

Mask = npt.NDArray[np.bool_]


class OutcomeCounter:
    """units: whose values were counted. scope_of: (model, generation) -> whose units they are. Close it afterwards.

    What counts is one value a unit and metric: of a sticky unit its first in the scope, else of a request its first. Rows that no draw has
    assigned count nowhere, nor do those of shadows: no judge compares them by means.
    """

    def __init__(self, sums: OutcomeSums, units: KeyMemory, scope_of: Callable[[str, int], str]) -> None:
        self._sums = sums
        self._units = units
        self._scope_of = scope_of
        self._evaluator = OutcomeEvaluator()
        self._parsed: dict[str, tuple[Mapping[str, str], tuple[OutcomeExpression, ...]]] = {}
        self._too_slow: set[tuple[str, str]] = set()        # model, expression
        self.problems: dict[str, str] = {}      # model -> what is wrong with its expressions

    def close(self) -> None:
        self._evaluator.close()

    def expressions(self, model: str, spec: MonitoringSpec) -> tuple[OutcomeExpression, ...]:
        """Of a model; none where they cannot be, which is logged once."""
        known = self._parsed.get(model)
        if known is None or known[0] != spec.outcomes:
            try:
                found = parse_outcomes(spec.outcomes, f"monitoring of {model}")
                self.problems.pop(model, None)
            except ConfigurationError as error:
                found = ()
                self._complain(model, error)
            known = self._parsed[model] = dict(spec.outcomes), found
        return known[1]

    def add(
        self, model: str, rows: pa.Table, labels: Sequence[Waiting], truths: JoinedRows | None, expressions: Sequence[OutcomeExpression]
    ) -> None:
        """rows: with the label of each. truths: what joined_rows made of them."""
        if truths is not None:
            drawn = truths.where(_is_drawn(truths.generation, truths.variant))
            keyed = zip(drawn.unit.tolist(), drawn.has_unit.tolist(), drawn.request_id.tolist(), strict=True)
            units = [f"u{unit}" if has_unit else f"r{request}" for unit, has_unit, request in keyed]
            counted = self._first(model, drawn.generation, units, "truth", drawn.received_ns)
            self._sums.add_truth(drawn.where(counted))
        is_drawn = _is_drawn(rows["generation"].to_numpy(), variants_of(rows))
        rows = rows.filter(pa.array(is_drawn))
        labels = [label for label, chosen in zip(labels, is_drawn.tolist(), strict=True) if chosen]
        self._add_numbers(model, rows, labels, {expression.name for expression in expressions})
        for expression in expressions:
            if (model, expression.sql) not in self._too_slow:
                self._add_expression(model, rows, labels, expression)

    def _add_numbers(self, model: str, rows: pa.Table, labels: Sequence[Waiting], taken: Collection[str]) -> None:
        """A reward or a number under its own name; the ground truth too, whose mean may be what is wanted. taken: names of expressions:
        no client may add to them.
        """
        values = np.array([label.number for label in labels], np.float64)
        for name in sorted({label.name for label in labels} - set(taken)):
            mine = np.array([label.name == name for label in labels], np.bool_) & ~np.isnan(values)
            self._add(model, rows, labels, name, values, mine, f"={name}")

    def _add_expression(self, model: str, rows: pa.Table, labels: Sequence[Waiting], expression: OutcomeExpression) -> None:
        try:
            values = self._evaluator.evaluate(expression, with_labels(rows, labels))
        except ConfigurationError as error:     # a version without that column has no such outcome
            self._complain(model, error)
            if isinstance(error, OutcomeTooSlow):
                self._too_slow.add((model, expression.sql))
            return
        self._add(model, rows, labels, expression.name, values, ~np.isnan(values), f"sql={expression.name}")

    def _add(
        self, model: str, rows: pa.Table, labels: Sequence[Waiting], name: str, values: npt.NDArray[np.float64], chosen: Mask, what: str
    ) -> None:
        if not chosen.any():
            return
        rows, values = rows.filter(pa.array(chosen)), values[chosen]
        labels = [label for label, is_chosen in zip(labels, chosen.tolist(), strict=True) if is_chosen]
        keyed = zip(rows["unit"].to_pylist(), labels, strict=True)
        units = [f"r{label.request_id}" if unit is None else f"u{unit}" for unit, label in keyed]
        generations, times = rows["generation"].to_numpy(), np.array([label.ts_ns for label in labels], np.int64)
        counted = self._first(model, generations, units, what, times)
        self._sums.add(model, generations[counted], variants_of(rows)[counted], name, values[counted])

    def _first(
        self, model: str, generations: npt.NDArray[np.int64], units: Sequence[str], what: str, times: npt.NDArray[np.int64]
    ) -> Mask:
        keys = [key_of(model, self._scope_of(model, generation), what, unit)
                for generation, unit in zip(generations.tolist(), units, strict=True)]
        return self._units.first(np.array(keys, np.uint64), times)

    def _complain(self, model: str, error: ConfigurationError) -> None:
        if self.problems.get(model) != str(error):
            _log.error("an outcome cannot be computed", model=model, reason=str(error))
        self.problems[model] = str(error)


def _is_drawn(generations: npt.NDArray[np.int64], variants: npt.NDArray[np.object_]) -> Mask:
    return np.asarray((generations > 0) & ~np.isin(variants.astype(str), _NOT_DRAWN), np.bool_)


__all__ = ["OutcomeCounter"]
