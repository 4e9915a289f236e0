"""What asks for no key is asked of views without keys: joining the keys on is most of what it would cost.

`tags`, `scores` and `all_scores` have twins in the schema `keyless` that lack the column `key` alone. Which of a
query's tables need it is read from its parsed tree. Where that is not certain the query stays as it is, so it is never
another one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

SCHEMA = "keyless"
VIEWS = frozenset(("all_scores", "scores", "tags"))

# Expressions that take no column but those they name. Others (`*`, and `#2`: the second column) do.
_KNOWN_EXPRESSIONS = frozenset(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA LAMBDA_REF OPERATOR "
    "PARAMETER SUBQUERY TYPE WINDOW".split()
)
# What a tree may have besides expressions. Others (PIVOT, DESCRIBE, table functions) may take columns unnamed.
_KNOWN_PARTS = frozenset(
    "BASE_TABLE CTE_NODE DISTINCT_MODIFIER EMPTY JOIN LIMIT_MODIFIER ORDER_DEFAULT ORDER_MODIFIER ASCENDING DESCENDING "
    "SELECT_NODE SET_OPERATION_NODE SUBQUERY".split()
)

Node = Mapping[str, Any]


def without_keys(sql: str, tree: Any) -> str:
    """Return a query that asks the twins in place of each view whose key it does not name.

    Args:
        sql: one SELECT.
        tree: what DuckDB's `json_serialize_sql` makes of it.
    """
    parts = list(nodes(tree))
    tables = [node for node in parts if node.get("type") == "BASE_TABLE"]
    names = {str(name).lower() for table in tables for name in (table["table_name"], table["alias"]) if name}
    if not names & VIEWS or any(_may_need_keys(node, names) for node in parts):
        return sql
    keyed = _keyed(parts)
    text = sql.encode()
    places = sorted({_place(table, text) for table in tables if _is_free(table, keyed)}, reverse=True)
    if not places or places[-1] < 0:
        return sql
    for place in places:
        text = text[:place] + f"{SCHEMA}.".encode() + text[place:]
    return text.decode()


def _may_need_keys(node: Node, names: Collection[str]) -> bool:
    """Whether a part of the tree names a key, takes columns or rows whole, or is of a kind not thought of here."""
    kind = node.get("type")
    if "cte_map" in node and any(str(entry["key"]).lower() in VIEWS for entry in node["cte_map"]["map"]):
        return True
    if not isinstance(kind, str):
        return False
    if (node["class"] not in _KNOWN_EXPRESSIONS) if node.get("class") else kind not in _KNOWN_PARTS:
        return True
    columns = [str(name).lower() for name in node.get("column_names", ())]
    key_of_any = "key" in columns and not _qualifies_key(columns)
    whole_row = kind == "COLUMN_REF" and len(columns) == 1 and columns[0] in names
    joined_on_key = "key" in map(str.lower, node.get("using_columns", ())) or node.get("ref_type") == "NATURAL"
    renamed = bool(node.get("column_name_alias"))
    return key_of_any or whole_row or joined_on_key or renamed or _shows_its_text(node)


def _shows_its_text(node: Node) -> bool:
    """Whether the query's text is part of the answer: a subquery without a name of its own is a column's name."""
    unnamed = [item for item in node.get("select_list", ()) if not item["alias"]]
    tables = (part for part in nodes(unnamed) if part.get("type") == "BASE_TABLE")
    return node.get("function_name") == "current_query" or any(table["table_name"].lower() in VIEWS for table in tables)


def _qualifies_key(columns: Sequence[str]) -> bool:
    return len(columns) == 2 and columns[0] != "key" and columns[1] == "key"


def _keyed(parts: Iterable[Node]) -> set[str]:
    """Return the names before `.key`: tables of these names keep their keys."""
    references = ([str(name).lower() for name in part.get("column_names", ())] for part in parts)
    return {columns[0] for columns in references if _qualifies_key(columns)}


def _is_free(table: Node, keyed: Collection[str]) -> bool:
    """Whether a table is one of the views, and nothing asks for its key."""
    name = table["table_name"].lower()
    return name in VIEWS and (table["alias"].lower() or name) not in keyed


def _place(table: Node, text: bytes) -> int:
    """Return where in the text a view is named by its bare name; below 0 where it is not found there."""
    name, place = table["table_name"], table["query_location"]
    found = text[place : place + len(name)].decode("utf-8", "replace").lower() == name.lower()
    bare = not table["schema_name"] and not table["catalog_name"]
    return int(place) if found and bare else -1


def nodes(tree: Any) -> Iterator[Node]:
    """Yield every object of a parsed query."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
