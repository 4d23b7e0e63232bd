"""A label that waits for its row, and what the two say together. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from serve.monitors import MonitoringSpec
from serve.recording.answers import AnswerColumns, answers, as_objects, class_name
from serve.recording.join_lookup import id_time_ns
from serve.recording.joined_rows import JoinedRows, Objects

# What a label is called that says the truth of a prediction.
TRUTH = "label"
# A label may seem to come before its prediction by as much as clocks of replicas differ.
SKEW_NS = 60_000_000_000


@dataclass(slots=True)
class Waiting:
    """A label that has no row yet. replica, epoch, seq: its name; key: of what it is about, the same of a duplicate. time_ns: of its
    request, by its id, else -1. is_looked_for: at least once. is_scanned: wherever its row could be. fate: "" while there is none.
    """

    replica: str
    epoch: int
    seq: int
    ts_ns: int
    model: str
    request_id: str
    row: int
    name: str
    value: float | None
    text: str | None
    reward: float | None
    known_ns: int
    key: int
    time_ns: int
    is_looked_for: bool = False
    is_scanned: bool = False
    fate: Literal["", "joined", "late", "duplicate", "unknown"] = ""

    @property
    def number(self) -> float:
        """Its reward, else its number; NaN where it has neither."""
        found = self.value if self.reward is None else self.reward
        return math.nan if found is None else found


def waiting_of(labels: pa.Table) -> list[Waiting]:
    """labels: of LABELS_TABLE's columns, with plain words. In the order in which they came."""
    found = [
        Waiting(
            row["replica"], row["epoch"], row["seq"], row["ts_ns"], row["model"], row["request_id"], row["row"], row["name"], row["value"],
            row["text"], row["reward"], row["ts_ns"] if row["label_ts_ns"] is None else row["label_ts_ns"],
            key_of(row["model"], row["name"], str(row["row"]), row["request_id"]), id_time_ns(row["request_id"]))
        for row in labels.to_pylist()
    ]
    return sorted(found, key=lambda one: (one.ts_ns, one.replica, one.epoch, one.seq))


def key_of(*parts: str) -> int:
    """64 bits of a tuple of texts without NUL, but for the last."""
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode("utf-8", "surrogatepass"))


def joined_rows(
    rows: pa.Table, labels: Sequence[Waiting], version: str, columns: AnswerColumns, spec: MonitoringSpec, batch: int
) -> JoinedRows | None:
    """Of rows and the label of each, those that have a ground truth which means something to the task; None where there are none."""
    is_truth = np.array([label.name == TRUTH and (label.value is not None or label.text is not None) for label in labels], np.bool_)
    rows = rows.filter(pa.array(is_truth))
    labels = [label for label, chosen in zip(labels, is_truth.tolist(), strict=True) if chosen]
    if not labels:
        return None
    said = answers(rows, columns, spec)
    truth = _truths(labels, columns, spec)
    unit = rows["unit"].to_pylist()
    found = JoinedRows(
        batch=batch, model=labels[0].model, version=version, task=columns.task,
        request_id=as_objects([label.request_id for label in labels]), row=rows["row"].to_numpy(),
        variant=as_objects(rows["variant"].to_pylist()), generation=rows["generation"].to_numpy(),
        unit=np.array([one or 0 for one in unit], np.uint64), has_unit=np.array([one is not None for one in unit], np.bool_),
        ts_ns=rows["ts_ns"].to_numpy(), received_ns=np.array([label.ts_ns for label in labels], np.int64),
        known_ns=np.array([label.known_ns for label in labels], np.int64),
        prediction=said.prediction, label=truth, scores=said.scores, score=said.score, positive=said.positive)
    found = found.where(_is_known(said.prediction) & _is_known(truth))
    return found if len(found) else None


def _truths(labels: Sequence[Waiting], columns: AnswerColumns, spec: MonitoringSpec) -> npt.NDArray[np.object_] | npt.NDArray[np.float64]:
    if columns.task == "regression":
        return np.array([math.nan if label.value is None else label.value for label in labels], np.float64)
    return as_objects([class_name(label.value if label.text is None else label.text, spec.classes) for label in labels])


def _is_known(values: npt.NDArray[np.object_] | npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    if values.dtype == object:
        return np.array([value is not None for value in values.tolist()], np.bool_)
    return ~np.isnan(values.astype(np.float64))


def with_labels(rows: pa.Table, labels: Sequence[Waiting]) -> pa.Table:
    """The rows with outcome_sql.LABEL_COLUMNS behind them."""
    added = {
        "label": pa.array([label.value for label in labels], pa.float64()),
        "label_text": pa.array([label.text for label in labels], pa.string()),
        "reward": pa.array([label.reward for label in labels], pa.float64()),
        "label_name": pa.array([label.name for label in labels], pa.string()),
        "received_ns": pa.array([label.ts_ns for label in labels], pa.int64()),
        "known_ns": pa.array([label.known_ns for label in labels], pa.int64()),
    }
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return rows


def variants_of(rows: pa.Table) -> Objects:
    """Of each row."""
    return as_objects(rows["variant"].to_pylist())


__all__ = ["SKEW_NS", "TRUTH", "Waiting", "joined_rows", "key_of", "variants_of", "waiting_of", "with_labels"]
