"""What the join is made of: ranges, remembered keys, answers and sums, each against something simple."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigurationError
from serve.monitors import MonitoringSpec
from serve.recording.answers import answer_columns, answers, class_name
from serve.recording.join_lookup import ID_MARGIN_NS, Wanted, id_time_ns, near_parts
from serve.recording.key_memory import KeyMemory
from serve.recording.layout import HOUR_NS
from serve.recording.manifest import Part
from serve.recording.outcome_sql import OutcomeEvaluator, OutcomeTooSlow, parse_outcomes
from serve.recording.outcome_sums import MAX_GENERATIONS, MAX_UNPAIRED, OutcomeSums
from serve.recording.seq_ranges import SeqRanges
from serve.recording.views import columns_of
from serve.records import RecordedTensor

numbers = st.lists(st.integers(0, 60), max_size=40)


@given(st.lists(numbers, max_size=5), numbers, st.integers(0, 60), st.integers(0, 60))
def test_ranges_are_sets(added: list[list[int]], asked: list[int], low: int, high: int) -> None:
    ranges, known = SeqRanges(), set[int]()
    for some in added:
        ranges = ranges.plus(np.array(some, np.int64))
        known |= set(some)
    assert ranges.has(np.array(asked, np.int64)).tolist() == [one in known for one in asked]
    low, high = min(low, high), max(low, high)
    assert ranges.covers(low, high) == (set(range(low, high + 1)) <= known)
    pairs = ranges.pairs()
    assert all(a < b < c for (a, b), (c, _) in itertools.pairwise(pairs))
    assert SeqRanges(json.loads(json.dumps(pairs))) == ranges


class TestKeyMemory:
    def keys(self, *values: int) -> Any:
        return np.array(values, np.uint64)

    def times(self, *hours: int) -> Any:
        return np.array(hours, np.int64) * HOUR_NS

    def test_the_first_of_each(self, tmp_path: Path) -> None:
        memory = KeyMemory(tmp_path, "k", 100)
        assert memory.first(self.keys(5, 6, 5, 7), self.times(1, 1, 2, 2)).tolist() == [True, True, False, True]
        assert memory.first(self.keys(7, 8, 5), self.times(3, 3, 3)).tolist() == [False, True, False]
        assert memory.has(self.keys(8, 9)).tolist() == [True, False]
        assert len(memory) == 4

    def test_what_was_not_saved_never_was(self, tmp_path: Path) -> None:
        memory = KeyMemory(tmp_path, "k", 100)
        memory.first(self.keys(5, 2**64 - 1), self.times(1, 1))
        document = memory.save()
        memory.first(self.keys(6, 7), self.times(1, 2))
        memory.save()                       # and then the document is not written
        again = KeyMemory(tmp_path, "k", 100, document)
        assert again.has(self.keys(5, 2**64 - 1, 6, 7)).tolist() == [True, True, False, False]
        again.first(self.keys(9), self.times(1))
        once_more = KeyMemory(tmp_path, "k", 100, again.save())
        assert once_more.has(self.keys(5, 2**64 - 1, 9, 6)).tolist() == [True, True, True, False]

    def test_old_hours_go(self, tmp_path: Path) -> None:
        memory = KeyMemory(tmp_path, "k", 3)
        memory.first(self.keys(1, 2), self.times(1, 1))
        memory.first(self.keys(3, 4), self.times(2, 3))
        assert memory.has(self.keys(1, 2, 3, 4)).tolist() == [False, False, True, True]
        memory.save()
        memory.expire(3 * HOUR_NS)
        memory.save()
        memory.sweep()
        assert memory.has(self.keys(3, 4)).tolist() == [False, True]
        assert [path.name for path in tmp_path.iterdir()] == ["k-3.u64"]

    def test_an_hour_that_was_forgotten_does_not_come_back(self, tmp_path: Path) -> None:
        memory = KeyMemory(tmp_path, "k", 3)
        memory.first(self.keys(1, 2), self.times(1, 1))
        document = memory.save()
        memory.first(self.keys(3, 4), self.times(2, 2))
        assert memory.first(self.keys(5), self.times(1)).tolist() == [True]
        memory.save()                       # and then the document is not written
        assert KeyMemory(tmp_path, "k", 3, document).has(self.keys(1, 2, 5)).tolist() == [True, True, False]

    def test_a_file_that_lost_something_is_told(self, tmp_path: Path) -> None:
        memory = KeyMemory(tmp_path, "k", 3)
        memory.first(self.keys(1, 2), self.times(1, 1))
        document = memory.save()
        (tmp_path / "k-1.u64").write_bytes(b"12345678")
        with pytest.raises(OSError, match="has 8 bytes, 16 were written"):
            KeyMemory(tmp_path, "k", 3, document)


class TestTimes:
    def test_of_a_uuid7(self) -> None:
        assert id_time_ns("017f22e2-79b0-7cc3-98c4-dc0c0c07398f") == 1_645_557_742_000_000_000     # RFC 9562, appendix A.6
        assert id_time_ns("017F22E2-79B0-7CC3-98C4-DC0C0C07398F") == 1_645_557_742_000_000_000
        for other in ("", "a", "919108f7-52d1-4320-9bac-f847db4148a8", "017f22e2-79b0-7cc3-18c4-dc0c0c07398f"):
            assert id_time_ns(other) == -1

    @given(st.lists(st.one_of(st.just(-1), st.integers(0, 20)), min_size=1, max_size=5), st.integers(0, 20), st.integers(0, 5),
           st.integers(0, 20), st.integers(0, 5))
    def test_near_parts(self, times: list[int], start: int, length: int, first: int, span: int) -> None:
        unit = ID_MARGIN_NS
        part = Part("p", 1, 1, "", start * unit, (start + length) * unit, 0, 0)
        wanted = Wanted([""] * len(times), [0] * len(times), np.array([-1 if t < 0 else t * unit for t in times], np.int64), first * unit,
                        (first + span) * unit)
        near = any(start - 1 <= t <= start + length + 1 for t in times if t >= 0)
        near |= -1 in times and start <= first + span and start + length >= first
        assert bool(near_parts([part], wanted)) == near


def out(name: str, datatype: str, *shape: int) -> RecordedTensor:
    return RecordedTensor("out", name, datatype, shape, 0)


LABEL, SCORES, TEXT, NUMBER = out("label", "INT64"), out("scores", "FP32", 3), out("word", "BYTES", 1), out("y", "FP32", 1)


class TestAnswers:
    @pytest.mark.parametrize(("tensors", "spec", "task", "prediction", "scores"), [
        ((LABEL, SCORES), {}, "classification", "label", "scores"), ((SCORES,), {}, "classification", None, "scores"),
        ((TEXT,), {}, "classification", "word", None), ((NUMBER,), {}, "regression", "y", None),
        ((NUMBER,), {"task": "classification"}, "classification", "y", None),
        ((NUMBER,), {"positive": "spam"}, "classification", "y", None),
        ((LABEL, NUMBER), {}, "classification", "label", None), ((LABEL, TEXT), {}, "regression", None, None),
        ((LABEL, TEXT), {"prediction": "word"}, "classification", "word", None),
        ((LABEL, SCORES), {"task": "regression"}, "regression", "label", None),
        ((SCORES, out("other", "FP32", 2)), {"scores": "other"}, "classification", None, "other"),
        ((SCORES, out("other", "FP32", 2)), {}, "regression", None, None),
    ])
    def test_where_answers_are(
        self, tensors: tuple[RecordedTensor, ...], spec: dict[str, Any], task: str, prediction: str | None, scores: str | None,
    ) -> None:
        found = answer_columns(columns_of((RecordedTensor("in", "label", "INT64", (), 0), *tensors)), MonitoringSpec(**spec))
        named = [None if column is None else column.tensor.name for column in (found.prediction, found.scores)]
        assert (found.task, *named) == (task, prediction, scores)

    @pytest.mark.parametrize(("value", "classes", "name"), [
        (3, (), "3"), (3.0, (), "3"), (0.5, (), "0.5"), (True, (), "1"), (b"cat", (), "cat"), ("cat", ("cat", "dog"), "cat"),
        (1, ("cat", "dog"), "dog"), (1.0, ("cat", "dog"), "dog"), (2, ("cat", "dog"), "2"), (-1, ("cat", "dog"), "-1"),
        (7, ("7", "8"), "7"), (1, ("7", "1"), "1"), (None, (), None), (float("nan"), (), None),
    ])
    def test_names_of_classes(self, value: object, classes: tuple[str, ...], name: str | None) -> None:
        assert class_name(value, classes) == name

    def test_scores_alone(self) -> None:
        columns = answer_columns(columns_of([SCORES]), spec := MonitoringSpec(classes=("a", "b", "c")))
        rows = pa.table({"out_scores": pa.array([[0.1, 0.7, 0.2], None, [0.5, 0.5, 0.0]], pa.list_(pa.float32(), 3))})
        found = answers(rows, columns, spec)
        assert found.prediction.tolist() == ["b", None, "a"]
        assert found.scores is not None
        assert np.isnan(found.scores[1]).all()
        assert (found.score, found.positive) == (None, "")

    def test_one_score_of_a_binary_model(self) -> None:
        columns = answer_columns(columns_of([NUMBER]), spec := MonitoringSpec(positive="spam", classes=("ham", "spam")))
        found = answers(pa.table({"out_y": pa.array([0.2, 0.5, None], pa.float32())}), columns, spec)
        assert found.prediction.tolist() == ["ham", "spam", None]
        assert (found.positive, found.score.tolist()[:2]) == ("spam", pytest.approx([0.2, 0.5]))      # type: ignore[union-attr]

    def test_the_largest_score_is_the_class_at_its_index_even_where_names_are_numbers(self) -> None:
        stars = ("1", "2", "3")
        rows = pa.table({"out_p": pa.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.1, 0.2, 0.7]], pa.list_(pa.float32(), 3))})
        spec = MonitoringSpec(classes=stars)
        assert answers(rows, answer_columns(columns_of([out("p", "FP32", 3)]), spec), spec).prediction.tolist() == list(stars)

    def test_the_positive_class_of_two(self) -> None:
        two = out("p", "FP32", 2)
        rows = pa.table({"out_p": pa.array([[0.25, 0.75]], pa.list_(pa.float32(), 2))})
        named = ("x", "y")
        for spec, positive, score in (
            (MonitoringSpec(), "1", 0.75), (MonitoringSpec(classes=named), "y", 0.75),
            (MonitoringSpec(classes=named, positive="x"), "x", 0.25), (MonitoringSpec(positive="z"), "z", None),
        ):
            found = answers(rows, answer_columns(columns_of([two]), spec), spec)
            assert found.positive == positive
            assert (None if found.score is None else found.score[0]) == score


class TestSums:
    def add(self, sums: OutcomeSums, generation: int, values: list[float]) -> None:
        n = len(values)
        sums.add("m", np.full(n, generation), np.array(["1"] * n, dtype=object), "x", np.array(values))

    def test_documents_and_messages(self) -> None:
        sums = OutcomeSums()
        self.add(sums, 3, [1.0, 0.0, -2.0])
        (message,) = sums.messages()
        assert message["readings"] == [{"generation": 3, "name": "x", "variant": "1", "n": 3, "total": -1.0, "squares": 5.0, "hits": 2}]
        assert sums.messages() == []
        again = OutcomeSums(json.loads(json.dumps(sums.as_document())))
        self.add(again, 4, [1.0])
        assert [len(one["readings"]) for one in again.messages(most=1)] == [1, 1]

    def test_old_generations_are_forgotten(self) -> None:
        sums = OutcomeSums()
        for generation in range(1, MAX_GENERATIONS + 3):
            self.add(sums, generation, [1.0])
        sums.trim()
        kept = [one["generation"] for message in sums.messages() for one in message["readings"]]
        assert (min(kept), len(kept)) == (3, MAX_GENERATIONS)

    def test_pairs_are_disjoint_and_bounded_and_survive_a_document(self) -> None:
        sums = OutcomeSums()
        arm = ("m", 3, "1")
        sums._pair(arm, [0.1] * (2 * MAX_UNPAIRED), [False] * (2 * MAX_UNPAIRED))
        sums = OutcomeSums(json.loads(json.dumps(sums.as_document())))
        sums._pair(arm, [0.2] * (2 * MAX_UNPAIRED), [True] * (2 * MAX_UNPAIRED))
        (message,) = sums.messages()
        assert message["readings"][0] | {"name": "auc"} == message["readings"][0]
        assert (message["readings"][0]["n"], message["readings"][0]["total"]) == (MAX_UNPAIRED, float(MAX_UNPAIRED))


class TestExpressions:
    @pytest.mark.parametrize("sql", [
        "(SELECT 1)", "sum(label)", "*", "read_text('/etc/passwd')", "getenv('HOME')", "current_setting('threads')", "random()", "now()",
        "nextval('s')", "unnest([1])", "label FROM read_csv('x')", "1, 2", "$1", "label; SELECT 1", "label UNION SELECT 2", "",
        "row_number() OVER ()", "DISTINCT label", "label WHERE true", "label LIMIT 1", "label ORDER BY 1", "COLUMNS(*)",
        "EXISTS (SELECT 1)", "label IN (SELECT 3)", "pg_sleep(1)", "write_log('x')", "1) FROM (SELECT 1", "getvariable('x')",
        "label;", "label AS x", "ALL label", "1) + (1", "hour(current_localtime())", "age(TIMESTAMP '2020-01-01')",
    ])
    def test_what_is_no_expression_over_a_row(self, sql: str) -> None:
        with pytest.raises(ConfigurationError, match="m: outcomes: cost: "):
            parse_outcomes({"cost": sql}, "m")

    @pytest.mark.parametrize("name", ["auc", "a b", "", "-x", "x" * 65])
    def test_what_is_no_name(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="a name is 1 to 64 of"):
            parse_outcomes({name: "label"}, "m")

    @pytest.mark.parametrize(("sql", "values"), [
        ("CASE WHEN label = out_y THEN 2 ELSE 0 END", [2, 0, 0]), ("out_s[2]", [0.5, 0.25, None]), ("label_text::INT", [1, None, 2]),
        ("1 / (out_y - 2)", [-1, None, 0.5]), ("sqrt(label - 2)", [None, None, 1]), ("list_sum(out_s)", [1, 0.5, None]),
        ("list_sum(list_transform(out_s, lambda x: x * 2))", [2, 1, None]), ("nullif(label, 1)", [None, None, 3]),
        ("label -- of the client", [1, None, 3]), ("'a'", [None, None, None]), ("OUT_Y", [1, 2, 4]), ("label > 2", [0, None, 1]),
    ])
    def test_values(self, sql: str, values: list[float | None]) -> None:
        rows = pa.table({"label": [1.0, None, 3.0], "out_y": [1, 2, 4], "label_text": ["1", "x", "2"],
                         "out_s": pa.array([[0.5, 0.5], [0.25, 0.25], None], pa.list_(pa.float32(), 2))})
        evaluator = OutcomeEvaluator()
        (expression,) = parse_outcomes({"cost": sql}, "m")
        found = evaluator.evaluate(expression, rows)
        assert [None if np.isnan(value) else value for value in found] == values
        evaluator.close()

    def test_one_that_does_not_end_is_stopped(self) -> None:
        evaluator = OutcomeEvaluator(time_limit_s=0.2)
        inner = "list_sum(list_transform(out_s, lambda b: list_sum(list_transform(out_s, lambda c: sin(a * b * c)))))"
        slow, quick = parse_outcomes({"slow": f"list_sum(list_transform(out_s, lambda a: {inner}))", "quick": "label"}, "m")
        rows = pa.table({"label": [1.0], "out_s": [[float(one) for one in range(3000)]]})       # 27 thousand million sines
        with pytest.raises(OutcomeTooSlow, match=r"outcome slow: .* took more than 0.2 s for 1 rows"):
            evaluator.evaluate(slow, rows)
        assert evaluator.evaluate(quick, rows).tolist() == [1.0]
        evaluator.close()
