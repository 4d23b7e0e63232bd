# ruff: noqa: S608  -- names are quoted
"""Requests as other tools want them: the rows of each together again, its body and its answer as JSON of the Open Inference Protocol.

Pure: SQL text for DuckDB. Rows of one request share (replica, epoch, seq - row): seq counts a request's rows one by one. NaN and infinities
are the strings "NaN", "Infinity" and "-Infinity", as in protobuf's JSON; BYTES that are not UTF-8 are {"b64": "..."}, as in KServe's V1
protocol. A tensor that is missing in a row (left out, redacted) is left out; a request that failed has neither body nor answer.
"""

import json
import math
from collections.abc import Iterable, Sequence

from serve.recording.views import Source, form_of, literal, quoted
from serve.records import SHADOW, RecordedTensor

# One column for each, of every row of a request, and how the group says it.
_REQUEST_COLUMNS = {
    "ts_ns": "any_value(ts_ns)", "request_id": "any_value(request_id)", "model": "any_value(model)", "version": "any_value(version)",
    "variant": "any_value(variant)", "status": "any_value(status)", "compute_us": "any_value(compute_us)",
    "total_us": "any_value(total_us)", "sampling": "any_value(sampling)", "trace_id": "any_value(trace_id)", "tags": "any_value(tags)",
    "error_codes": "any_value(error_codes)", "rows": "count(*) FILTER (WHERE row >= 0)",
}

# Of the AI-Gateway inference table, in its order.
_DATABRICKS = {
    "databricks_request_id": "event_id", "request_date": "CAST(ts AS DATE)", "client_request_id": "request_id", "request_time": "ts",
    "status_code": "CAST(status AS INTEGER)", "sampling_fraction": "CAST(sampling AS DOUBLE)",
    "execution_duration_ms": "CAST(round(compute_us / 1000) AS BIGINT)", "request": "request", "response": "response",
    "logging_error_codes": "error_codes", "served_entity_id": "model || '-' || version", "requester": "CAST(NULL AS VARCHAR)",
}


def requests_sql(sources: Iterable[Source]) -> str:
    """The view `requests_<model>`: one row for each answered or failed request, shadows left out. sources: at least one.

    event_id: a UUID made of replica, epoch and seq, which is that of its first row.
    """
    return " UNION ALL ".join(_one_schema(source) for source in sources)


def databricks_sql(requests: str) -> str:
    """The view `databricks_<model>`. requests: the view `requests_<model>`."""
    columns = ", ".join(f"{expression} AS {name}" for name, expression in _DATABRICKS.items())
    return f"SELECT {columns} FROM {quoted(requests)}"


def _one_schema(source: Source) -> str:
    columns = source.columns
    lists = [f"CASE WHEN count({quoted(one.name)}) = count(*) THEN list({quoted(one.name)} ORDER BY row) END AS _t{i}"
             for i, one in enumerate(columns)]
    grouped = ", ".join([*(f"{expression} AS {name}" for name, expression in _REQUEST_COLUMNS.items()), *lists])
    parts: dict[str, list[str]] = {"in": [], "out": []}
    for i, one in enumerate(columns):
        parts[one.tensor.kind].append(_tensor_json(one.tensor, f"_t{i}", is_batched=source.is_batched))
    head = "'{\"model_name\":' || to_json(model) || ',\"model_version\":' || to_json(version) || ',\"id\":' || to_json(request_id)"
    request = f"'{{\"id\":' || to_json(request_id) || ',\"inputs\":[' || {_joined(parts['in'])} || ']}}'"
    response = f"{head} || ',\"outputs\":[' || {_joined(parts['out'])} || ']}}'"
    return (
        f"SELECT {', '.join(_REQUEST_COLUMNS)}, replica, epoch, seq, make_timestamp(ts_ns // 1000) AS ts, "
        "CAST(CAST(md5(replica || '/' || epoch || '/' || seq) AS UUID) AS VARCHAR) AS event_id, "
        f"CASE WHEN rows > 0 THEN {request} END AS request, CASE WHEN rows > 0 THEN {response} END AS response "
        f"FROM (SELECT replica, epoch, seq - greatest(row, 0) AS seq, {grouped} FROM {source.relation} WHERE variant <> {literal(SHADOW)} "
        "GROUP BY replica, epoch, seq - greatest(row, 0))")


def _joined(parts: Sequence[str]) -> str:
    return f"concat_ws(',', {', '.join(parts)})" if parts else "''"


def _tensor_json(tensor: RecordedTensor, rows: str, *, is_batched: bool) -> str:
    """rows: a list with one value of the column a row, or null. is_batched: rows are a dimension of their own. Text, or null."""
    form = form_of(tensor)
    if form.shape == "scalar":
        data, shape = rows, _fixed(tensor.shape)
    elif form.shape == "list":
        data, shape = f"flatten({rows})", _dynamic(tensor.shape, rows)
    else:
        data = f"flatten(list_transform({rows}, lambda one: one.data))"
        shape = f"',' || array_to_string({rows}[1].shape, ',')"
    head = f"{{\"name\":{json.dumps(tensor.name, ensure_ascii=False)},\"datatype\":\"{tensor.datatype}\",\"shape\":["
    shape = f"rows || {shape}" if is_batched else f"substr({shape}, 2)"
    return f"{literal(head)} || {shape} || '],\"data\":' || {_data_json(tensor.datatype, data)} || '}}'"


def _fixed(shape: Sequence[int]) -> str:
    return literal("".join(f",{size}" for size in shape))


def _dynamic(shape: Sequence[int], rows: str) -> str:
    """The one dynamic dimension from the first row's elements; without one, what the model declares."""
    if -1 not in shape:
        return _fixed(shape)
    others = math.prod(size for size in shape if size >= 0)
    found = f"len({rows}[1]) // {others}" if others else "0"
    return " || ".join([f"',' || {found}" if size < 0 else literal(f",{size}") for size in shape])


def _data_json(datatype: str, data: str) -> str:
    if datatype == "BYTES":
        return (f"CAST(to_json(list_transform({data}, lambda one: coalesce(to_json(TRY(decode(one))), "
                "to_json({'b64': base64(one)})))) AS VARCHAR)")
    if datatype in {"FP16", "BF16", "FP32", "FP64"}:
        # DuckDB prints the shortest decimal of a list's numbers, and inf and nan: nothing else in there has letters but the exponent's e.
        text = f"CAST({data} AS VARCHAR)"
        for printed, word in (("-nan", "NaN"), ("nan", "NaN"), ("-inf", "-Infinity"), ("inf", "Infinity")):
            text = f"""replace({text}, '{printed}', '"{word}"')"""
        return text
    return f"CAST({data} AS VARCHAR)"
