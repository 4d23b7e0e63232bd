"""Two classifiers of handwritten digits, the second better than the first, and the rows that neither has seen."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler

HELD_OUT = 360
FIRST_VERSION_ROWS = 100
_OPSETS = {"": 17, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class Trained:
    """versions: name to (ONNX file, accuracy on the held-out rows). images: float32 [360, 64]; labels: int64 [360]."""

    versions: dict[str, tuple[bytes, float]]
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def train() -> Trained:
    """Deterministic; some seconds. Version 1 is a logistic regression that saw 100 rows, version 2 a 64-64-10 MLP that saw 1,437."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    seen, held_out, seen_labels, held_out_labels = train_test_split(images, labels, test_size=HELD_OUT, random_state=0, stratify=labels)
    first = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=500))
    first.fit(seen[:FIRST_VERSION_ROWS], seen_labels[:FIRST_VERSION_ROWS])
    second = make_pipeline(MinMaxScaler(), MLPClassifier((64,), max_iter=400, random_state=0))
    second.fit(seen, seen_labels)
    versions = {name: (exported(model), float(model.score(held_out, held_out_labels))) for name, model in (("1", first), ("2", second))}
    return Trained(versions, held_out, held_out_labels.astype(np.int64))


def exported(model: Pipeline) -> bytes:
    """The ONNX file: `input` FP32 [N, 64] in; `label` INT64 [N] and `probabilities` FP32 [N, 10] out."""
    # Without zipmap=False the probabilities would be a sequence of maps, which no tensor protocol can carry.
    converted: Any = to_onnx(model, initial_types=[("input", FloatTensorType([None, 64]))], options={"zipmap": False},
                            target_opset=_OPSETS, name="digits")
    content: bytes = converted.SerializeToString()
    return content
