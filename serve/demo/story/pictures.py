"""scikit-learn's handwritten digits, what a broken scanner makes of them, and the two models of the story.

Nobody is shown a picture twice that matters: version 1 is fitted to some, its baseline is made of others (of what a model was fitted to it
is too sure), clients send a third part until version 2 has been trained, and a fourth afterwards.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from serve.demo.digits import exported

SIDE = 8
WHITE, BLACK = 0, 16
# Behind each: fitted, reference, sent before the retraining, sent after it (of 1,797).
_CUTS = (400, 800, 1300)
# What the scanner does not see any more, and its noise in steps of grey.
DEAD_COLUMNS = (3, 4)
NOISE = 1.0


@dataclass(frozen=True, slots=True)
class Pictures:
    """images: float32 [N, 64], whole numbers from 0 to 16; labels: int64 [N]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def and_also(self, others: "Pictures") -> "Pictures":
        return Pictures(np.concatenate([self.images, others.images]), np.concatenate([self.labels, others.labels]))


@dataclass(frozen=True, slots=True)
class Parts:
    """No picture is in two of them."""

    fitted: Pictures
    reference: Pictures
    before: Pictures
    after: Pictures


def parts(seed: int = 0) -> Parts:
    """All 1,797 digits, shuffled."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    found = [Pictures(images[chosen].astype(np.float32), labels[chosen].astype(np.int64)) for chosen in np.split(order, _CUTS)]
    return Parts(*found)


def broken(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """As the scanner has them once two of its eight columns are dead and the others are noisy."""
    seen = images.reshape(-1, SIDE, SIDE).copy()
    seen[:, :, DEAD_COLUMNS] = WHITE
    seen += rng.normal(0.0, NOISE, seen.shape)
    return np.clip(np.rint(seen), WHITE, BLACK).astype(np.float32).reshape(images.shape)


def logistic(pictures: Pictures) -> bytes:
    """The ONNX file of version 1."""
    return _fitted(LogisticRegression(max_iter=500), pictures)


def network(pictures: Pictures) -> bytes:
    """The ONNX file of version 2: one hidden layer of 128."""
    return _fitted(MLPClassifier((128,), max_iter=60, tol=1e-3, random_state=0), pictures)


def spoilt(pictures: Pictures) -> bytes:
    """The ONNX file of version 3: somebody's labels are one row off."""
    return _fitted(LogisticRegression(max_iter=100), Pictures(pictures.images, np.roll(pictures.labels, 1)))


def _fitted(classifier: Any, pictures: Pictures) -> bytes:
    model = make_pipeline(MinMaxScaler(), classifier)
    model.fit(pictures.images, pictures.labels)
    return exported(model)


__all__ = ["DEAD_COLUMNS", "Parts", "Pictures", "broken", "logistic", "network", "parts", "spoilt"]
