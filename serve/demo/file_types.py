"""What magika does around its model: file to features, scores to a verdict. After magika 1.0, `magika/magika.py`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.client import Client
from serve.errors import ConfigurationError

BATCH = 16


@dataclass(frozen=True, slots=True)
class Rules:
    """magika's config file. Sizes in bytes; thresholds by label, medium_confidence_threshold for the others."""

    beg_size: int
    end_size: int
    block_size: int
    padding_token: int
    min_file_size_for_dl: int
    thresholds: dict[str, float]
    medium_confidence_threshold: float
    overwrite_map: dict[str, str]
    target_labels_space: list[str]
    text_labels: list[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """label: magika's name of the type; score: of the model, 1 where no model was needed."""

    label: str
    score: float


def load_rules(file: Path) -> Rules:
    """Raises ConfigurationError without a demo repository."""
    try:
        return Rules(**json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}; --repository names the folder that `headrace init` made") from error


def examine(path: Path, rules: Rules) -> Verdict | NDArray[np.int32]:
    """The verdict where no model is needed (a folder, an empty or tiny file), else the features, int32 [beg_size + end_size].

    Raises OSError for a file that cannot be read.
    """
    if path.is_dir():
        return Verdict("directory", 1.0)
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        length = min(size, rules.block_size)
        stream.seek(0)
        first = stream.read(length)
        stream.seek(size - length)
        last = stream.read(length)
    if size == 0:
        return Verdict("empty", 1.0)
    beginning, end = first.lstrip(), last.rstrip()
    if size < rules.min_file_size_for_dl or len(beginning) < rules.min_file_size_for_dl:
        return Verdict(_text_or_unknown(first), 1.0)
    features = np.full(rules.beg_size + rules.end_size, rules.padding_token, dtype=np.int32)
    beginning, end = beginning[: rules.beg_size], end[-rules.end_size :]
    features[: len(beginning)] = np.frombuffer(beginning, dtype=np.uint8)
    features[len(features) - len(end) :] = np.frombuffer(end, dtype=np.uint8)
    return features


def conclude(scores: NDArray[np.float32], rules: Rules) -> Verdict:
    """One row of scores, float32 [labels]. A guess below its label's threshold becomes txt or unknown (magika's high-confidence mode)."""
    best = int(scores.argmax())
    guess, score = rules.target_labels_space[best], float(scores[best])
    label = rules.overwrite_map.get(guess, guess)
    if score >= rules.thresholds.get(guess, rules.medium_confidence_threshold):
        return Verdict(label, score)
    return Verdict("txt" if label in rules.text_labels else "unknown", score)


def name_types(client: Client, model: str, version: str | None, paths: list[Path], rules: Rules) -> list[Verdict | OSError]:
    """Verdicts of files through a server, in order; an OSError where the file could not be read. Raises ClientError."""
    found: list[Verdict | OSError] = [Verdict("", 0.0)] * len(paths)
    rows: list[tuple[int, NDArray[np.int32]]] = []
    for at, path in enumerate(paths):
        try:
            seen = examine(path, rules)
        except OSError as error:
            found[at] = error
            continue
        if isinstance(seen, Verdict):
            found[at] = seen
        else:
            rows.append((at, seen))
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        result = client.infer(model, {"bytes": np.stack([features for _, features in part])}, version, ["target_label"])
        for (at, _), scores in zip(part, result.outputs["target_label"], strict=True):
            found[at] = conclude(scores, rules)
    return found


def _text_or_unknown(content: bytes) -> str:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "unknown"
    return "txt"
