# ruff: noqa: S608  -- this module makes SQL of names that it quotes and of expressions that it has parsed
"""Outcomes of a model's own: SQL expressions over one joined row, evaluated by DuckDB, which may do nothing else.

An expression is a scalar one over the columns of the joined row: CASE, operators, casts and functions that depend on their arguments alone.
It has no table, subquery, aggregate or window to read with, and runs in a connection that opens no file and takes no setting.
"""

import functools
import json
import re
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from serve.errors import ConfigurationError
from serve.recording.joined_rows import Floats
from serve.recording.statement import objects
from serve.recording.views import quoted

# Of the label, beside the record's own columns: its number, text and reward, what it is called, when it came and was known.
LABEL_COLUMNS = ("label", "label_text", "reward", "label_name", "received_ns", "known_ns")

# Metrics that every model has.
BUILT_IN = ("accuracy", "auc", "brier", "f1", "mae", "mse")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CLASSES = frozenset({
    "BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA", "LAMBDA_REF", "OPERATOR",
    "TYPE",
})
# DuckDB calls these consistent, but they say what time it is.
_CLOCKS = frozenset({"age", "current_localtime", "current_localtimestamp"})
# Of one expression over one batch of labels. Expressions take milliseconds; one that does not end would stop the keeper's other work.
TIME_LIMIT_S = 10.0
# DuckDB has these as macros over what is allowed.
_MACROS = frozenset({"if", "nullif", "fdiv", "fmod", "split_part"})
_SETTINGS = (
    "enable_external_access=false", "autoinstall_known_extensions=false", "autoload_known_extensions=false",
    "allow_community_extensions=false", "python_enable_replacements=false", "TimeZone='UTC'", "threads=1", "memory_limit='256MB'",
    "lock_configuration=true",
)


@dataclass(frozen=True, slots=True)
class OutcomeExpression:
    """One that was checked. columns: names that it refers to, in lower case; a lambda's own parameters are among them."""

    name: str
    sql: str
    columns: frozenset[str]


def parse_outcomes(outcomes: Mapping[str, str], where: str) -> tuple[OutcomeExpression, ...]:
    """A model's `monitoring.outcomes`. where: for the messages. Raises ConfigurationError for the first that cannot be."""
    with duckdb.connect() as connection:
        return tuple(_parse(connection, name, sql, f"{where}: outcomes: {name}") for name, sql in outcomes.items())


def _parse(connection: duckdb.DuckDBPyConnection, name: str, sql: str, where: str) -> OutcomeExpression:
    if not _NAME.fullmatch(name) or name in BUILT_IN:
        taken = f"{', '.join(BUILT_IN)} are computed already"
        raise ConfigurationError(f"{where}: a name is 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit; {taken}")
    # By itself, and in the parentheses in which it is evaluated: neither `1; ...` nor `1) + (1` is an expression in both.
    tree = _tree(connection, sql, sql, where)
    for one in (tree, _tree(connection, f"({sql}\n)", sql, where)):
        _check(one["statements"], sql, where)
    names = {str(node["column_names"][0]).lower() for node in objects(tree) if node.get("class") == "COLUMN_REF"}
    return OutcomeExpression(name, sql, frozenset(names))


def _tree(connection: duckdb.DuckDBPyConnection, text: str, sql: str, where: str) -> dict[str, Any]:
    try:
        row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT {text}"]).fetchone()
        assert row is not None
        tree: dict[str, Any] = json.loads(row[0])
    except (duckdb.Error, RecursionError) as error:
        raise ConfigurationError(f"{where}: {sql!r}: {error}") from error
    if tree["error"]:
        raise ConfigurationError(f"{where}: {sql!r}: {tree['error_message']}")
    return tree


def _check(statements: list[Any], sql: str, where: str) -> None:
    node = statements[0]["node"] if len(statements) == 1 else {}
    is_one = node.get("type") == "SELECT_NODE" and len(node["select_list"]) == 1 and node["from_table"]["type"] == "EMPTY"
    has_more = is_one and (node["where_clause"] or node["having"] or node["qualify"] or node["group_expressions"] or node["modifiers"])
    if not is_one or has_more:
        raise ConfigurationError(f"{where}: {sql!r} is no single expression over a joined row")
    functions = _functions()
    for one in objects(statements):
        if "class" in one and one["class"] not in _CLASSES:
            raise ConfigurationError(f"{where}: {sql!r}: {one['class'].lower()} is not possible in an outcome, which is of one row")
        if one.get("class") == "FUNCTION" and (called := str(one["function_name"]).lower()) not in functions:
            raise ConfigurationError(f"{where}: {sql!r}: {called}() is not possible in an outcome: it depends on more than its arguments")


@functools.cache
def _functions() -> frozenset[str]:
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT function_name, bool_and(function_type = 'scalar' AND stability = 'CONSISTENT' AND NOT has_side_effects), "
            "bool_and(function_type = 'macro' AND schema_name = 'main') FROM duckdb_functions() GROUP BY 1").fetchall()
    return frozenset(name for name, is_pure, is_macro in found
                     if is_pure or (is_macro and (name in _MACROS or name.startswith("list_")))) - _CLOCKS


def needed_columns(expressions: Collection[OutcomeExpression], known: Collection[str]) -> list[str]:
    """Those of the known columns that the expressions refer to."""
    wanted = frozenset[str]().union(*(expression.columns for expression in expressions))
    return [name for name in known if name.lower() in wanted]


class OutcomeTooSlow(ConfigurationError):
    """An expression that was not done within the time limit."""


class OutcomeEvaluator:
    """Close it afterwards. time_limit_s: of one evaluation."""

    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._connection = duckdb.connect()
        for setting in _SETTINGS:
            self._connection.execute(f"SET {setting}")

    def evaluate(self, expression: OutcomeExpression, rows: pa.Table) -> Floats:
        """A value for each row, NaN where it is null, not finite, or fails for that row. Raises ConfigurationError where it fails for all:
        a column that is not there, operands of a wrong type; OutcomeTooSlow.
        """
        if not rows.num_rows:
            return np.empty(0, dtype=np.float64)
        names = [name for name in rows.column_names if name.lower() in expression.columns]
        # Its position: a relation has no order.
        table = rows.select(names).append_column("__row", pa.array(np.arange(rows.num_rows), pa.int64()))
        columns = ", ".join(quoted(name) for name in names)
        source = f"(SELECT {columns}{', ' if columns else ''}__row FROM joined)"
        try:
            self._connection.register("joined", table)
            value = f"CAST(({expression.sql}\n) AS DOUBLE)"
            found = self._fetch(f"SELECT __row, TRY({value}) AS v FROM {source} ORDER BY __row")
        except duckdb.InterruptException as error:
            raise OutcomeTooSlow(f"outcome {expression.name}: {expression.sql!r} took more than {self._time_limit_s:g} s for "
                                 f"{rows.num_rows:,} rows: it is left out until it is changed or the keeper is started anew") from error
        except duckdb.Error as error:
            raise ConfigurationError(f"outcome {expression.name}: {expression.sql!r}: {str(error).partition(chr(10))[0]}") from error
        finally:
            self._connection.unregister("joined")
        values = np.ma.filled(np.ma.asarray(found["v"], dtype=np.float64), np.nan)
        return np.where(np.isfinite(values), values, np.nan)

    def _fetch(self, sql: str) -> dict[str, Any]:
        timer = threading.Timer(self._time_limit_s, self._connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            return dict(self._connection.execute(sql).fetchnumpy())
        finally:
            timer.cancel()
            timer.join()        # it does not interrupt the next one

    def close(self) -> None:
        self._connection.close()


__all__ = [
    "BUILT_IN", "LABEL_COLUMNS", "OutcomeEvaluator", "OutcomeExpression", "OutcomeTooSlow", "needed_columns", "parse_outcomes",
]
