"""Whether the parts of a baseline fit each other: what is counted by one that does not could not be judged. Pure."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve.monitoring.baseline import AnswerBaseline, Baseline, ScoreMap


def check_fit(baseline: "Baseline") -> None:
    """Raises ValueError with the first thing that does not fit."""
    for found in _misfits(baseline):
        raise ValueError(found)


def _misfits(baseline: "Baseline") -> Iterator[str]:
    for column, features in baseline.numeric_columns.items():
        if [one.index for one in features] != list(range(len(features))):
            yield f"{column}: its features are elements {[one.index for one in features][:8]}; want every one from 0 on, once"
        for one in features:
            if not len(one.counts) == len(one.means) == len(one.edges) + 1:
                yield f"{one.name}: {len(one.edges)} edges, {len(one.counts)} counts and {len(one.means)} means; want one edge fewer"
            if one.scale <= 0:
                yield f"{one.name}: scale = {one.scale}; want more than 0"
    for category in baseline.categories:
        if len(category.values) != len(category.counts):
            yield f"{category.name}: {len(category.values)} values and {len(category.counts)} counts"
    for embedding in baseline.embeddings:
        if not embedding.mean or embedding.size < 1 or embedding.bandwidth <= 0:
            yield f"{embedding.name}: size {embedding.size}, bandwidth {embedding.bandwidth}, {len(embedding.mean)} random features"
    if baseline.answers is not None:
        yield from _answer_misfits(baseline.answers)


def _answer_misfits(answers: "AnswerBaseline") -> Iterator[str]:
    n = len(answers.classes)
    if not len(answers.indices) == len(answers.counts) == n:
        yield f"answers: {n} classes, {len(answers.indices)} indices and {len(answers.counts)} counts"
    if answers.positive and answers.positive not in answers.classes:
        yield f"answers: the positive class {answers.positive!r} is none of the classes"
    if answers.positive and len(answers.maps) > 1:
        yield f"answers: {len(answers.maps)} score maps of a binary model; want 1"
    if answers.confusion is not None and not (len(answers.confusion) == n and all(len(row) == n for row in answers.confusion)):
        yield f"answers: the confusion is not {n} x {n}"
    for one in (*answers.maps, *([answers.confidence] if answers.confidence is not None else [])):
        if not _is_whole(one):
            yield f"answers: a score map of {len(one.edges)} edges and {len(one.values)} values; want one edge fewer"


def _is_whole(one: "ScoreMap") -> bool:
    return len(one.values) == len(one.counts[0]) == len(one.counts[1]) == len(one.edges) + 1


__all__ = ["check_fit"]
