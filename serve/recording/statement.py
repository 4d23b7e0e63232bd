"""What a query may say: one SELECT, with or without a WITH, over the views and over functions that read nothing.

DuckDB itself is confined as well (`query.py`), but a sealed file is one that it may open, and since 2.0 a WITH may hold a COPY or a DELETE:
so the parsed statement is walked, and whatever is not known to be harmless is refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from serve.errors import InvalidArgument

_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
# Table functions that read no file, no setting, no memory and no text of a statement.
_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree", "repeat", "repeat_row"})

_ONE_SELECT = "a query is one SELECT (or WITH ... SELECT) statement"


@dataclass(frozen=True, slots=True)
class Names:
    """Of a statement, in lower case. read: the tables of its FROMs. own: what its WITHs define; one of them may be called as a view is."""

    read: frozenset[str]
    own: frozenset[str]


def names_in(connection: duckdb.DuckDBPyConnection, sql: str) -> Names:
    """The tables of a statement.

    Raises InvalidArgument for anything but one SELECT, for a part of it that changes or writes something, for a table function that is not
    on the list, and for what cannot be parsed.
    """
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise InvalidArgument(f"{_ONE_SELECT}; there are {len(statements)} here")
        if statements[0].type != duckdb.StatementType.SELECT:
            raise InvalidArgument(f"{_ONE_SELECT}; this is {statements[0].type.name}")
        (serialized,), = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
        tree = json.loads(serialized)
    except duckdb.Error as error:
        raise InvalidArgument(str(error)) from error
    except RecursionError as error:
        raise InvalidArgument("the query is nested too deeply; take it apart with WITH") from error
    if tree["error"]:
        raise InvalidArgument(f"{_ONE_SELECT}: {tree['error_message']}")
    return _names(tree["statements"])


def _names(tree: Any) -> Names:
    read: set[str] = set()
    own: set[str] = set()
    for node in objects(tree):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in _NODES:
            raise InvalidArgument(f"{_ONE_SELECT}; this one holds {kind.removesuffix('_NODE').removesuffix('_QUERY')}")
        if kind == "TABLE_FUNCTION" and (name := str(node["function"]["function_name"]).lower()) not in _FUNCTIONS:
            raise InvalidArgument(f"a query reads views, not {name}(...); `headrace records schema` lists them")
        if kind == "SHOW_REF" and node.get("query") is None:
            raise InvalidArgument("`headrace records schema` lists the views")
        if kind == "BASE_TABLE":
            read.add(str(node["table_name"]).lower())
        own.update(str(entry["key"]).lower() for entry in (node.get("cte_map") or {}).get("map", ()))
    return Names(frozenset(read), frozenset(own))


def objects(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a JSON tree, however deep."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
