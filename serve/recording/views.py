# ruff: noqa: S608  -- names are quoted
"""The views of a query as names and SQL. Pure: which rows there are, and where, is `relations.py`'s.

    records               the columns common to every model, one row for each row of a prediction
    records_<model>       the same with in_* and out_*: what unites by name and compatible type over all versions; BYTES as text
    records_<model>_v<v>  one version
    records_<model>_raw   as records_<model> with BYTES as BLOB
    records_<model>_labelled   joined with its labels by (request_id, row), the first one of each name
    labels                labels and rewards as they came
    requests_<model>      one row for each request, with its body and its answer as JSON
    databricks_<model>    the same with the columns of an AI-Gateway inference table

Every one of the rows' views has `ts`, the TIMESTAMP (UTC) of ts_ns, behind it.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from serve.recording.arrow_schema import COMMON_COLUMNS
from serve.records import RecordedTensor

ViewKind = Literal["records", "labels", "model", "version", "raw", "labelled", "requests", "databricks"]

# OIP datatype -> element in SQL. FP16 and BF16 are float32 in the table.
ELEMENTS: dict[str, str] = {
    "BOOL": "BOOLEAN", "UINT8": "UTINYINT", "UINT16": "USMALLINT", "UINT32": "UINTEGER", "UINT64": "UBIGINT", "INT8": "TINYINT",
    "INT16": "SMALLINT", "INT32": "INTEGER", "INT64": "BIGINT", "FP16": "FLOAT", "BF16": "FLOAT", "FP32": "FLOAT", "FP64": "DOUBLE",
    "BYTES": "BLOB",
}
_NUMPY = {
    "UTINYINT": np.uint8, "USMALLINT": np.uint16, "UINTEGER": np.uint32, "UBIGINT": np.uint64, "TINYINT": np.int8, "SMALLINT": np.int16,
    "INTEGER": np.int32, "BIGINT": np.int64, "FLOAT": np.float32, "DOUBLE": np.float64,
}
_SQL_OF = {np.dtype(kind): name for name, kind in _NUMPY.items()}


@dataclass(frozen=True, slots=True)
class View:
    """model, version: "" where the view has none. shared: the name that other views would have as well, "" where none would."""

    name: str
    kind: ViewKind
    model: str = ""
    version: str = ""
    shared: str = ""

    @property
    def whose(self) -> str:
        """Whose rows it has, for people."""
        what = {"model": "", "version": f"version {self.version!r} of "}.get(self.kind, f"{self.kind} of ")
        return f"{what}model {self.model!r}"


@dataclass(frozen=True, slots=True)
class Form:
    """What a tensor's column holds in SQL: one element, a list of them, or STRUCT(data, shape)."""

    shape: Literal["scalar", "list", "struct"]
    element: str

    @property
    def sql(self) -> str:
        """The type."""
        if self.shape == "struct":
            return f"STRUCT(data {self.element}[], shape BIGINT[])"
        return self.element if self.shape == "scalar" else f"{self.element}[]"


def form_of(tensor: RecordedTensor) -> Form:
    """As arrow_schema.table_type, which has a fixed-size list where SQL has a list."""
    element = ELEMENTS[tensor.datatype]
    n_dynamic = sum(size < 0 for size in tensor.shape)
    if n_dynamic > 1:
        return Form("struct", element)
    return Form("scalar" if all(size == 1 for size in tensor.shape) else "list", element)


@dataclass(frozen=True, slots=True)
class Column:
    """A tensor, and what SQL calls it: names that differ in case alone are the same there, so that a later one gets a number."""

    name: str
    tensor: RecordedTensor

    @property
    def form(self) -> Form:
        """What it holds."""
        return form_of(self.tensor)


def columns_of(tensors: Iterable[RecordedTensor]) -> tuple[Column, ...]:
    """In the order of the tensors."""
    taken: set[str] = set()
    columns = []
    for tensor in tensors:
        name, number = tensor.column, 1
        while name.lower() in taken:
            number += 1
            name = f"{tensor.column}_{number}"
        taken.add(name.lower())
        columns.append(Column(name, tensor))
    return tuple(columns)


@dataclass(frozen=True, slots=True)
class Source:
    """A relation with the common columns and these, all of one schema. is_batched: as RecordStreamSpec."""

    relation: str
    columns: tuple[Column, ...]
    is_batched: bool = True


def united(forms: Iterable[Form]) -> Form | None:
    """The narrowest form that holds all of them; None where text meets numbers, a list one element, or no integer holds both."""
    shapes, elements = set(), set()
    for form in forms:
        shapes.add(form.shape)
        elements.add(form.element)
    if len(shapes) > 1:
        return None
    if len(elements) > 1:
        if not elements <= _NUMPY.keys():
            return None
        kinds = [np.dtype(_NUMPY[element]) for element in elements]
        widest = np.result_type(*kinds)
        if widest.kind == "f" and all(kind.kind in "iu" for kind in kinds):
            return None     # int64 and uint64: a float would change the numbers
        elements = {_SQL_OF[widest]}
    return Form(shapes.pop(), elements.pop())


def united_columns(schemas: Iterable[Iterable[Column]]) -> dict[str, Form]:
    """Name -> its form over all schemas, inputs before outputs, in the order in which they first come; without those that do not unite."""
    forms: dict[str, list[Form]] = defaultdict(list)
    for columns in schemas:
        for column in columns:
            forms[column.name].append(column.form)
    found = {column: form for column, many in forms.items() if (form := united(many)) is not None}
    return dict(sorted(found.items(), key=lambda item: not item[0].startswith("in_")))


def sql_name(text: str) -> str:
    """A name that SQL takes without quotes after `records_`: what is not a letter, a digit or _ becomes _."""
    return re.sub(r"[^A-Za-z0-9_]", "_", text)


def views_of(versions: Mapping[str, Iterable[str]]) -> dict[str, View]:
    """Name, in lower case as SQL compares it -> view. versions: of each model.

    Where names meet (`a-b` and `a.b`), each gets six digits of its own, but for the one model that is called exactly so.
    """
    wanted: dict[str, list[View]] = defaultdict(list)
    for view in _candidates(versions):
        wanted[view.name.lower()].append(view)
    found: dict[str, View] = {}
    for name, many in wanted.items():
        owners = [view for view in many if len(many) == 1 or (view.kind == "model" and view.name == f"records_{view.model}")]
        owner = owners[0] if len(owners) == 1 else None
        for view in many:
            own = view.name if view is owner else _distinct(view, {*wanted, *found})
            found[own.lower()] = replace(view, name=own, shared=name if len(many) > 1 else "")
    return dict(sorted(found.items(), key=lambda item: item[1].name))


def namesakes(views: Iterable[View], name: str) -> str:
    """Which view is whose, for people, of those that would all be called `name`; "" where that is no more than one."""
    return "; ".join(f"{view.name} is {view.whose}" for view in views if view.shared and view.shared == name.lower())


def _candidates(versions: Mapping[str, Iterable[str]]) -> Iterable[View]:
    yield View("records", "records")
    yield View("labels", "labels")
    for model, ones in versions.items():
        name = sql_name(model)
        yield View(f"records_{name}", "model", model)
        yield View(f"records_{name}_raw", "raw", model)
        yield View(f"records_{name}_labelled", "labelled", model)
        yield View(f"requests_{name}", "requests", model)
        yield View(f"databricks_{name}", "databricks", model)
        for version in ones:
            yield View(f"records_{name}_v{sql_name(version)}", "version", model, version)


def _distinct(view: View, taken: Collection[str]) -> str:
    """Six digits, or more where another model is called as these would have it. taken: names in lower case."""
    digits = hashlib.sha256(f"{view.kind}/{view.model}/{view.version}".encode()).hexdigest()
    return next(name for n in range(6, len(digits)) if (name := f"{view.name}_{digits[:n]}").lower() not in taken)


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string."""
    return "'" + text.replace("'", "''") + "'"


def as_text(column: str, shape: str) -> str:
    r"""BYTES as VARCHAR: the text where it is UTF-8, else as DuckDB prints a BLOB, with \xNN for a byte. shape: of the Form."""
    if shape == "scalar":
        return _text(column)
    if shape == "list":
        return f"list_transform({column}, lambda one: {_text('one')})"
    texts = f"list_transform({column}.data, lambda one: {_text('one')})"
    return f"CASE WHEN {column} IS NOT NULL THEN struct_pack(data := {texts}, shape := {column}.shape) END"


def _text(value: str) -> str:
    return f"coalesce(TRY(decode({value})), CAST({value} AS VARCHAR))"


def timed(columns: Iterable[str]) -> str:
    """Columns of a view, with `ts` behind ts_ns. make_timestamp counts microseconds."""
    return ", ".join("ts_ns, make_timestamp(ts_ns // 1000) AS ts" if column == "ts_ns" else quoted(column) for column in columns)


def common_sql(sources: Iterable[str], columns: Sequence[str]) -> str:
    """The views `records` and `labels`. sources: relations that have these columns, at least one."""
    return " UNION ALL ".join(f"SELECT {timed(columns)} FROM {source}" for source in sources)


def model_sql(sources: Sequence[Source], *, is_raw: bool) -> str:
    """One model or version. sources: at least one. A column that a source lacks is null in its rows."""
    forms = united_columns(source.columns for source in sources)
    return " UNION ALL ".join(
        f"SELECT {', '.join([timed(COMMON_COLUMNS), *_cells(source, forms, is_raw=is_raw)])} FROM {source.relation}" for source in sources)


def _cells(source: Source, forms: Mapping[str, Form], *, is_raw: bool) -> Iterable[str]:
    present = {column.name for column in source.columns}
    for name, form in forms.items():
        value = quoted(name) if name in present else "NULL"
        if form.element == "BLOB" and not is_raw:
            form = Form(form.shape, "VARCHAR")
            value = value if value == "NULL" else as_text(value, shape=form.shape)
        yield f"CAST({value} AS {form.sql}) AS {quoted(name)}"


def labelled_sql(records: str, labels: str, model: str) -> str:
    """Rows of `records` that have labels, one for each name of a label, with outcome_sql.LABEL_COLUMNS and `label_ts` behind them."""
    return (
        "SELECT r.*, l.value AS label, l.text AS label_text, l.reward, l.name AS label_name, l.ts_ns AS received_ns, "
        "coalesce(l.label_ts_ns, l.ts_ns) AS known_ns, l.ts AS label_ts "
        f"FROM {quoted(records)} r JOIN {first_labels(model, labels=labels)} l ON r.request_id = l.request_id AND r.row = l.row")


def first_labels(model: str, name: str = "", labels: str = "labels") -> str:
    """A relation of a model's labels, of one name or of all: of each row and name the first, in the order in which the join takes them
    (join_rows.waiting_of).
    """
    named = f" AND name = {literal(name)}" if name else ""
    return (f"(SELECT * FROM {quoted(labels)} WHERE model = {literal(model)}{named} "
            "QUALIFY row_number() OVER (PARTITION BY request_id, row, name ORDER BY ts_ns, replica, epoch, seq) = 1)")
