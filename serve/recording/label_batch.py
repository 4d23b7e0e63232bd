"""Labels as rows of a labels journal."""

from collections.abc import Sequence

import pyarrow as pa

from serve.errors import InvalidArgument
from serve.recording.arrow_schema import LABELS_JOURNAL
from serve.records import Label


def labels_batch(model: str, labels: Sequence[tuple[int, Label]], first_seq: int) -> pa.RecordBatch:
    """A batch of LABELS_JOURNAL, numbered from first_seq. labels: with the wall clock, in ns, when each came.

    Raises InvalidArgument for text that is not UTF-8 and numbers out of range.
    """
    columns = {
        "ts_ns": [ts_ns for ts_ns, _ in labels],
        "seq": range(first_seq, first_seq + len(labels)),
        "request_id": [one.request_id for _, one in labels],
        "row": [one.row for _, one in labels],
        "model": [model] * len(labels),
        "name": [one.name for _, one in labels],
        "value": [one.value for _, one in labels],
        "text": [one.text for _, one in labels],
        "reward": [one.reward for _, one in labels],
        "label_ts_ns": [one.label_ts_ns for _, one in labels],
    }
    try:
        arrays = [pa.array(columns[field.name], field.type) for field in LABELS_JOURNAL]
    except (UnicodeError, OverflowError, TypeError, pa.ArrowException) as error:
        raise InvalidArgument(f"a label cannot be kept: {error}; rows are 32-bit, times 64-bit integers, texts UTF-8") from error
    return pa.RecordBatch.from_arrays(arrays, schema=LABELS_JOURNAL)


__all__ = ["labels_batch"]
