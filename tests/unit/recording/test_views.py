"""Names of views, and which columns of which versions become one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.recording.arrow_schema import table_type
from serve.recording.views import ELEMENTS, Form, columns_of, form_of, namesakes, sql_name, united, united_columns, views_of
from serve.records import RecordedTensor

NUMBERS = {"INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16,
           "UINT32": np.uint32, "UINT64": np.uint64, "FP32": np.float32, "FP64": np.float64}


def tensor(name: str, datatype: str = "FP32", shape: tuple[int, ...] = ()) -> RecordedTensor:
    return RecordedTensor("in", name, datatype, shape, 0)


def test_views_of_a_model() -> None:
    assert [view.name for view in views_of({"digits": ["1", "2"]}).values()] == [
        "databricks_digits", "labels", "records", "records_digits", "records_digits_labelled", "records_digits_raw", "records_digits_v1",
        "records_digits_v2", "requests_digits"]


@given(st.dictionaries(st.text(alphabet="aAb_-.v1", min_size=1, max_size=4), st.lists(st.sampled_from(["1", "2", "1-a"]), unique=True)))
def test_each_view_has_a_name_of_its_own(models: dict[str, list[str]]) -> None:
    views = views_of(models)
    n_expected = 2 + sum(5 + len(versions) for versions in models.values())
    assert len(views) == n_expected
    assert all(name == view.name.lower() and sql_name(view.name) == view.name for name, view in views.items())
    assert len({(view.kind, view.model, view.version) for view in views.values()}) == n_expected


def test_a_model_whose_name_needs_no_change_keeps_it() -> None:
    views = views_of({"a_b": ["1"], "a-b": ["1"], "a_b_v1": ["1"]})
    by_model = {(view.model, view.version): view.name for view in views.values() if view.kind in {"model", "version"}}
    assert by_model["a_b", ""] == "records_a_b"
    assert by_model["a_b_v1", ""] == "records_a_b_v1"
    assert by_model["a-b", ""].startswith("records_a_b_")
    assert by_model["a_b", "1"].startswith("records_a_b_v1_")


def test_it_is_said_which_view_is_whose() -> None:
    views = views_of({"a.b": ["1"], "a_b": ["1"], "a": ["2"], "a_v2": ["1"], "A": ["7"]})
    named = {(view.model, view.kind, view.version): view.name for view in views.values()}
    assert (named["a_b", "model", ""], named["a_v2", "model", ""]) == ("records_a_b", "records_a_v2")
    assert namesakes(views.values(), "records_a_b") == (
        f"records_a_b is model 'a_b'; {named['a.b', 'model', '']} is model 'a.b'")
    assert namesakes(views.values(), "RECORDS_A_V2") == (
        f"records_a_v2 is model 'a_v2'; {named['a', 'version', '2']} is version '2' of model 'a'")
    assert namesakes(views.values(), "requests_a") == (
        "; ".join(sorted(f"{named[model, 'requests', '']} is requests of model '{model}'" for model in ("a", "A"))))
    assert namesakes(views.values(), "records_a_v2_raw") == namesakes(views.values(), "nothing") == ""


def test_a_model_that_is_called_as_another_s_digits_takes_no_view_away() -> None:
    shared = next(view.name for view in views_of({"a.b": [], "a_b": []}).values() if view.kind == "model" and view.model == "a.b")
    models = {"a.b": [], "a_b": [], shared.removeprefix("records_"): []}
    views = views_of(models)
    assert len(views) == 2 + 5 * 3
    assert {view.model for view in views.values() if view.kind == "model"} == models.keys()


@pytest.mark.parametrize("datatype", sorted(ELEMENTS))
@pytest.mark.parametrize(("shape", "kind"), [
    ((), "scalar"), ((1,), "scalar"), ((1, 1), "scalar"), ((3,), "list"), ((2, 0), "list"), ((-1,), "list"), ((1, -1), "list"),
    ((-1, -1), "struct")])
def test_a_column_is_what_the_table_has(datatype: str, shape: tuple[int, ...], kind: str) -> None:
    form = form_of(tensor("x", datatype, shape))
    assert form.shape == kind
    arrow = table_type(tensor("x", datatype, shape))
    storage = getattr(arrow, "storage_type", arrow)
    assert ("list" in str(storage)) == (kind != "scalar")
    assert str(storage).startswith("struct") == (kind == "struct")


@given(st.lists(st.sampled_from(sorted(NUMBERS)), min_size=1, max_size=4))
def test_numbers_unite_to_the_narrowest_type_that_holds_them(datatypes: list[str]) -> None:
    found = united([form_of(tensor("x", datatype)) for datatype in datatypes])
    kinds = [np.dtype(NUMBERS[datatype]) for datatype in datatypes]
    if found is None:
        assert all(kind.kind in "iu" for kind in kinds)
        assert np.result_type(*kinds).kind == "f"
    else:
        assert found.element == ELEMENTS[next(name for name, kind in NUMBERS.items() if np.dtype(kind) == np.result_type(*kinds))]


@pytest.mark.parametrize("forms", [
    [Form("scalar", "BLOB"), Form("scalar", "BIGINT")], [Form("scalar", "FLOAT"), Form("list", "FLOAT")],
    [Form("scalar", "BOOLEAN"), Form("scalar", "INTEGER")], [Form("scalar", "BIGINT"), Form("scalar", "UBIGINT")]])
def test_what_does_not_unite(forms: list[Form]) -> None:
    assert united(forms) is None


def test_inputs_come_before_outputs_whatever_the_version() -> None:
    out = RecordedTensor("out", "y", "FP32", (), 0)
    schemas = [columns_of([tensor("a"), out]), columns_of([tensor("b"), out])]
    assert list(united_columns(schemas)) == ["in_a", "in_b", "out_y"]
