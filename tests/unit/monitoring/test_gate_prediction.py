"""What an answer predicts: by the same rules as of recorded rows."""

from typing import Any

import numpy as np
import pytest

from serve.monitoring.gate_prediction import Reading, reading_of
from serve.monitors import MonitoringSpec
from serve.types import TensorSpec

STARS = ("1", "2", "3", "4", "5")
LABEL, SCORES = TensorSpec("label", "INT64", (-1,)), TensorSpec("scores", "FP32", (-1, 5))
SCORE = TensorSpec("score", "FP32", (-1, 1))


def reading(*outputs: TensorSpec, **spec: Any) -> Reading:
    return reading_of(outputs, True, MonitoringSpec(**spec), {})


def test_the_largest_score_is_the_class_at_its_index_even_where_names_are_numbers() -> None:
    assert reading(SCORES, classes=STARS).classes_of({"scores": np.eye(5, dtype=np.float32)}) == list(STARS)
    assert reading(SCORES, classes=("a", "b")).classes_of({"scores": np.eye(5, dtype=np.float32)[1:3]}) == ["b", "2"]


@pytest.mark.parametrize(("value", "name"), [
    (-1, "-1"), (-1.0, "-1"), ("-1.0", "-1"), ("-1", "-1"), (3, "3"), ("3.0", "3"), (True, "1"), (b"cat", "cat"), (0.5, "0.5")])
def test_a_class_has_one_name(value: object, name: str) -> None:
    assert reading(LABEL).name_of(value) == name


def test_a_class_s_index_is_its_name() -> None:
    named = reading(LABEL, classes=("ham", "spam"))
    assert [named.name_of(value) for value in (0, "1", 1.0, "spam", 2, -1)] == ["ham", "spam", "spam", "spam", "2", "-1"]


@pytest.mark.parametrize(("spec", "names"), [
    ({"task": "classification"}, ["0", "1"]), ({"positive": "fraud"}, ["not fraud", "fraud"]),
    ({"task": "classification", "classes": ("ham", "spam")}, ["ham", "spam"]),
    ({"classes": ("bad", "good"), "positive": "bad"}, ["good", "bad"])])
def test_one_score_is_that_of_the_positive_class(spec: dict[str, Any], names: list[str]) -> None:
    found = reading(SCORE, **spec)
    assert found.is_classification
    assert found.classes_of({"score": np.array([[0.2], [0.9]], np.float32)}) == names
    assert found.positive_of("", 1) == (names[1], 0)
    assert found.positive_of(names[0], 1) is None


def test_of_several_outputs_the_only_one_that_is_no_float_is_the_prediction() -> None:
    assert reading(LABEL, SCORE).prediction == "label"
    assert reading(SCORE).is_classification is False


def test_a_class_beyond_the_scores_has_none() -> None:
    assert reading(SCORES, classes=(*STARS, "6")).positive_of("6", 5) is None
    assert reading(SCORES, classes=STARS).positive_of("5", 5) == ("5", 4)
