"""River's generators as arrays: a stream of one concept, and one that turns into another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from river.datasets import synth

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Stream = Iterator[tuple[dict[Any, Any], Any]]


@dataclass(frozen=True, slots=True)
class Generator:
    """before, after: streams of a seed, endless. drifts: what changes."""

    name: str
    before: Callable[[int], Any]
    after: Callable[[int], Any]
    drifts: str


CONCEPTS = (
    Generator("SEA", lambda seed: synth.SEA(variant=0, seed=seed), lambda seed: synth.SEA(variant=3, seed=seed), "threshold 8 to 9.5"),
    Generator("STAGGER", lambda seed: synth.STAGGER(classification_function=0, seed=seed),
              lambda seed: synth.STAGGER(classification_function=1, seed=seed), "rule 0 to 1"),
    Generator("Agrawal", lambda seed: synth.Agrawal(classification_function=0, seed=seed),
              lambda seed: synth.Agrawal(classification_function=2, seed=seed), "function 0 to 2"),
    Generator("Sine", lambda seed: synth.Sine(classification_function=0, seed=seed),
              lambda seed: synth.Sine(classification_function=1, seed=seed), "labels reversed"),
    Generator("Mixed", lambda seed: synth.Mixed(classification_function=0, seed=seed),
              lambda seed: synth.Mixed(classification_function=1, seed=seed), "labels reversed"),
)
COVARIATES = (
    Generator("RandomRBF", lambda seed: synth.RandomRBF(seed_model=1, seed_sample=seed, n_features=10),
              lambda seed: synth.RandomRBF(seed_model=2, seed_sample=seed, n_features=10), "other centroids"),
    Generator("LED", lambda seed: synth.LED(seed=seed, noise_percentage=0.1, irrelevant_features=True),
              lambda seed: synth.LED(seed=seed, noise_percentage=0.6, irrelevant_features=True), "10 to 60 % noise"),
    Generator("Agrawal", lambda seed: synth.Agrawal(seed=seed, perturbation=0.0),
              lambda seed: synth.Agrawal(seed=seed, perturbation=0.5), "0 to 50 % perturbation"),
)


def taken(stream: Any, n: int) -> tuple[Floats, Ints]:
    """(inputs, labels) of the next n."""
    x, y = [], []
    for features, label in stream.take(n):
        x.append([float(value) for value in features.values()])
        y.append(int(label))
    return np.array(x), np.array(y)


def drifting(generator: Generator, n: int, position: int, width: int, seed: int) -> tuple[Floats, Ints]:
    """n rows that turn into the second stream around `position`, over about `width` rows (ConceptDriftStream); 1: at once."""
    if width == 1:      # the logistic curve of ConceptDriftStream overflows
        parts = taken(generator.before(2 * seed), position), taken(generator.after(2 * seed + 1), n - position)
        return np.concatenate([parts[0][0], parts[1][0]]), np.concatenate([parts[0][1], parts[1][1]])
    stream = synth.ConceptDriftStream(generator.before(2 * seed), generator.after(2 * seed + 1), position=position, width=width, seed=seed)
    return taken(stream, n)


__all__ = ["CONCEPTS", "COVARIATES", "Floats", "Generator", "Ints", "drifting", "taken"]
