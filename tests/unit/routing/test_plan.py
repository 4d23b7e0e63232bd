"""Routing plans: what a document may say, and what is made of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve.errors import Unprocessable
from serve.routing.documents import MAX_DOCUMENT_BYTES, MAX_YAML_NODES, read_document, validated
from serve.routing.plan import MAX_VARIANTS, RoutingPlan, compile_plan
from serve.traffic import Arm, CompareRule, Override, Segment, Shadow, Source

TWO: list[dict[str, Any]] = [{"version": "1", "weight": 7_000}, {"version": "2", "weight": 3_000}]


def plan(**fields: Any) -> RoutingPlan:
    return RoutingPlan.model_validate({"variants": TWO, **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(Unprocessable) as caught:
        validated(RoutingPlan, {"variants": TWO, **fields})
    return str(caught.value)


def test_example_of_the_admin_api() -> None:
    made = plan(sticky={"header": "X-User-Id"}, salt="s")
    spec = compile_plan(made, 7)
    assert spec.generation == 7
    assert spec.arms == (Arm("1", "1", 7_000), Arm("2", "2", 3_000))
    assert (spec.stable, spec.sticky) == ("1", Source("header", "x-user-id"))


@pytest.mark.parametrize(("variants", "said"), [
    ([{"version": "1", "weight": 9_999}], "the weights sum to 9999 basis points; want 10000"),
    ([{"version": "1", "weight": 7_000}, {"version": "2", "weight": 7_000}], "sum to 14000"),
    ([{"version": "1", "weight": 5_000}, {"version": "1", "weight": 5_000}], "variants: version 1 is given twice"),
    ([{"version": "1", "weight": 5_000, "name": "a"}, {"version": "2", "weight": 5_000, "name": "a"}], "variants: name a is given twice"),
    ([{"version": "1", "weight": 5_000, "name": "2"}, {"version": "2", "weight": 5_000}], "variants: name 2 is given twice"),
    ([{"version": "1", "weight": 10_000, "name": "holdout"}], "the name holdout is kept"),
    ([{"version": "1", "weight": -1}, {"version": "2", "weight": 10_001}], "variants.0.weight: Input should be greater than or equal"),
    ([{"version": "1", "weight": "10000"}], "variants.0.weight: Input should be a valid integer"),
    ([{"version": "1", "weight": 10_000.0}], "variants.0.weight: Input should be a valid integer"),
    ([{"version": "stable", "weight": 10_000}], "variants.0.version: String should match pattern"),
    ([{"version": "01", "weight": 10_000}], "variants.0.version"),
    ([{"version": True, "weight": 10_000}], "variants.0.version"),
    ([{"version": "1", "weight": 10_000, "colour": "red"}], "variants.0.colour: unknown field"),
    ([{"version": "1"}], "variants.0.weight: is missing"),
    ([], "variants: Tuple should have at least 1 item"),
    ([{"version": str(1 + at), "weight": 10_000 if at == 0 else 0} for at in range(MAX_VARIANTS + 1)], "at most 16 items"),
])
def test_variants_that_do_not_make_a_split(variants: list[Any], said: str) -> None:
    assert said in refused(variants=variants)


@pytest.mark.parametrize(("fields", "said"), [
    ({"traffic": {}}, "traffic: unknown field"),
    ({"sticky": {}}, "sticky: give one of header and parameter"),
    ({"sticky": {"header": "a", "parameter": "b"}}, "sticky: give one of header and parameter"),
    ({"sticky": {"header": "x user"}}, "sticky.header: String should match pattern"),
    ({"sticky": {"cookie": "a"}}, "sticky.cookie: unknown field"),
    ({"overrides": [{"header": "x", "value": "", "version": "1"}]}, "overrides.0.value"),
    ({"overrides": [{"header": "X-Force", "value": "a", "version": "1"}, {"header": "x-force", "value": "a", "version": "2"}]},
     "overrides: header x-force = a is given twice"),
    ({"segment": {"header": "x", "values": []}}, "segment.values"),
    ({"coverage": 10_001}, "coverage"),
    ({"holdout": -1}, "holdout"),
    ({"shadows": [{"version": "3", "sample": 0}]}, "shadows.0.sample"),
    ({"shadows": [{"version": "3", "sample": 1}, {"version": 3, "sample": 2}]}, "shadows: a version is given twice"),
    ({"shadows": [{"version": "3", "sample": 1, "compare": [{"output": "y", "rule": "top_k", "k": 5}]}]},
     "shadows.0.compare.0: top_k wants k"),
    ({"shadows": [{"version": "3", "sample": 1, "compare": [{"output": "y", "rule": "argmax", "atol": 0.1}]}]},
     "shadows.0.compare.0: atol belongs to the rule tolerance; this one is argmax"),
    ({"shadows": [{"version": "3", "sample": 1, "compare": [{"output": "y", "rule": "exact"}, {"output": "y", "rule": "argmax"}]}]},
     "shadows.0.compare: output y is given twice"),
    ({"shadows": [{"version": "3", "sample": 6_000}, {"version": "4", "sample": 6_000}]}, "the samples sum to 12000 basis points"),
    ({"salt": ""}, "salt"),
])
def test_other_fields_that_are_wrong(fields: dict[str, Any], said: str) -> None:
    assert said in refused(**fields)


def test_every_fault_is_named_at_once() -> None:
    said = refused(colour="red", coverage=-1)
    assert "colour: unknown field" in said
    assert "coverage: " in said


def test_weight_of_zero_stays_zero() -> None:
    """100:0 became 50:50 elsewhere (seldon-core#4067)."""
    made = plan(variants=[{"version": "1", "weight": 10_000}, {"version": "2", "weight": 0}], salt="s")
    assert [arm.weight for arm in compile_plan(made, 1).arms] == [10_000, 0]


def test_version_may_be_written_as_a_number() -> None:
    assert plan(variants=[{"version": 1, "weight": 10_000}]).variants[0].version == "1"


def test_everything_reaches_the_spec() -> None:
    spec = compile_plan(plan(
        variants=[{"version": "1", "weight": 9_000, "name": "old"}, {"version": "2", "weight": 1_000, "name": "new"}],
        sticky={"parameter": "User"}, overrides=[{"header": "X-Force", "value": "Beta", "version": "2"}],
        segment={"header": "X-Country", "values": ["de", "FR"]}, coverage=5_000, holdout=100, salt="pepper",
        shadows=[{"version": "3", "sample": 50, "compare": [{"output": "y", "rule": "tolerance", "atol": 0.5, "rtol": 0.25}]}],
    ), 4, stable="new")
    assert spec.stable == "new"
    assert spec.sticky == Source("parameter", "User"), "parameters keep their case, headers have none"
    assert spec.overrides == (Override(Source("header", "x-force"), "Beta", "2"),)
    assert spec.segment == Segment(Source("header", "x-country"), ("de", "FR"))
    assert (spec.coverage_bp, spec.holdout_bp, spec.salt) == (5_000, 100, "pepper")
    assert spec.shadows == (Shadow("3", 50, (CompareRule("y", "tolerance", atol=0.5, rtol=0.25),)),)
    assert spec.versions() == {"1", "2", "3"}


def test_plan_without_salt_or_with_an_unknown_stable_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="a plan in force has a salt"):
        compile_plan(plan(), 1)
    with pytest.raises(ValueError, match="no variant is named 3"):
        compile_plan(plan(salt="s"), 1, stable="3")


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
def test_weights_are_accepted_exactly_when_they_sum_to_the_whole(weights: list[int]) -> None:
    document = {"variants": [{"version": str(at + 1), "weight": weight} for at, weight in enumerate(weights)]}
    if sum(weights) == 10_000:
        made = RoutingPlan.model_validate(document)
        assert RoutingPlan.model_validate(made.model_dump(mode="json")) == made
    else:
        with pytest.raises(ValidationError):
            RoutingPlan.model_validate(document)


@pytest.mark.parametrize(("text", "said"), [
    ("a: 1\na: 2", "key 'a' is given twice"),
    ('{"a": {"b": 1, "b": 2}}', "key 'b' is given twice"),
    ("a: &x [1]\nb: *x", "an alias is not allowed"),
    ("1: 2", "key 1 is not text"),
    ("- 1", "expected a mapping of keys to values, found list"),
    ("a: [", "not valid YAML or JSON"),
    ("a: !!binary aGk=", "not what JSON could say"),
    ("a: !!python/object:os.system x", "not valid YAML or JSON"),
    ("a: 1\n---\nb: 2", "expected a single document"),
    ("a: " + "[" * 1_000, "not "),
    ("[" + "1," * MAX_YAML_NODES + "1]", "more than 20,000 keys and values"),
    ("a: " + "x" * MAX_DOCUMENT_BYTES, "the limit is 1,048,576"),
])
def test_text_that_is_no_document(text: str, said: str) -> None:
    with pytest.raises(Unprocessable, match=r".*") as caught:
        read_document(text)
    assert said in str(caught.value)


def test_text_is_json_or_yaml_and_dates_stay_text() -> None:
    assert read_document('{"a": [1, 2.5, null, true]}') == {"a": [1, 2.5, None, True]}
    assert read_document("a: 2026-12-01T09:30:00Z") == {"a": "2026-12-01T09:30:00Z"}
    assert read_document("") == {}
