"""Predictions with their truth, as arrays: what a join of labels with recorded rows hands on."""

from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serve.monitors import Task

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Objects = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRows:
    """Rows of one version that got their ground truth (the label named "label"), in no particular order; every array has length n.

    batch: number of the join that made them, from 1, the same for all that one join makes; after a crash a number may come again. variant:
    str, "shadow" of rows that a shadow answered. generation: of the plan that routed the request, 0 none. ts_ns: of the request;
    received_ns: of the label; known_ns: when the truth was known as the client says, else received_ns. unit: hash of the sticky key, where
    has_unit. prediction, label: classification: names of classes as str (whole numbers without a point, indices of scores by
    MonitoringSpec.classes); regression: float64. Rows whose label means nothing to the task are left out. scores: shape (n, k) as the model
    gave them, None where it gives none or rows differ in k. score: of the positive class, shape (n,); positive: its name, "" unknown (then
    score is None).
    """

    batch: int
    model: str
    version: str
    task: Task
    request_id: Objects
    row: npt.NDArray[np.int32]
    variant: Objects
    generation: Ints
    unit: npt.NDArray[np.uint64]
    has_unit: npt.NDArray[np.bool_]
    ts_ns: Ints
    received_ns: Ints
    known_ns: Ints
    prediction: npt.NDArray[Any]
    label: npt.NDArray[Any]
    scores: npt.NDArray[np.float32] | None = None
    score: Floats | None = None
    positive: str = ""

    def __len__(self) -> int:
        return len(self.row)

    def where(self, chosen: npt.NDArray[np.bool_]) -> "JoinedRows":
        """Those rows. chosen: shape (n,)."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        arrays: dict[str, Any] = {name: value[chosen] for name, value in values.items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)


class JoinedSink(Protocol):
    """Who wants to see them: realised performance, concept drift."""

    def take(self, rows: JoinedRows) -> None:
        """In the keeper, soon after the labels came; each row once, but for what JoinedRows.batch says."""


__all__ = ["Floats", "Ints", "JoinedRows", "JoinedSink", "Objects"]
