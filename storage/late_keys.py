"""The first rows of a view come with their keys at the end: joining keys on for all rows is most of what it would cost.

    SELECT shard, key, score FROM tags WHERE label_id = 'dog' ORDER BY score DESC LIMIT 20

is asked as: of `keyless.tags` the first 20 rows, then the keys of these. A sample has one key, so which rows are first
does not depend on keys. What is rewritten is this one form, where `key` is a column of the answer and nothing else;
where that is not certain the query stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from storage.keyless import SCHEMA, VIEWS, Node, nodes

# What columns of the answer and conditions may be made of: each row is taken by itself, and gives one.
_OF_ONE_ROW = frozenset(
    "BETWEEN CASE CAST COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION OPERATOR PARAMETER".split()
)
# Of functions these; others may be aggregates, give several rows, or give others when asked again.
_FUNCTIONS = frozenset("+ - * / // % ~~ !~~ ~~* !~~* || abs coalesce concat greatest least lower round upper".split())
_NOTHING_ELSE = ("group_expressions", "group_sets", "having", "sample", "qualify")

# Columns of these views have names that no other view has, so nothing in the query becomes ambiguous. A query that has
# one of them stays as it is, and is refused.
KEYS, KEYS_OF_RUNS = "internal.keys", "internal.keys_of_runs"
_OTHER_NAMES = frozenset(("the dataset", "the run", "the shard", "the sample"))
_ON = '"the shard" = shard AND "the sample" = sample'
LATE_VIEWS = {
    KEYS: 'SELECT dataset AS "the dataset", shard AS "the shard", sample AS "the sample", key FROM samples',
    KEYS_OF_RUNS: 'SELECT run_id AS "the run", shard AS "the shard", sample AS "the sample", key '
    "FROM internal.all_samples",
}
_JOINED = {
    "all_scores": f'{KEYS_OF_RUNS} ON "the run" = run_id AND {_ON}',
    "scores": f'{KEYS} ON "the dataset" = dataset AND {_ON}',
    "tags": f'{KEYS} ON "the dataset" = dataset AND {_ON}',
}


def with_late_keys(tree: Any, parsed: Callable[[str], Any]) -> Any | None:
    """Return the tree of the query that is to be asked in place of one; None: as it is.

    Args:
        tree: what DuckDB's `json_serialize_sql` makes of one SELECT.
        parsed: makes such a tree.
    """
    node = tree["statements"][0]["node"]
    if not _is_of_the_form(node):
        return None
    table, (order, limit) = node["from_table"], node["modifiers"]
    name = table["table_name"].lower()
    new = parsed(f"SELECT NULL FROM (SELECT * FROM {SCHEMA}.{name}) AS t LEFT JOIN {_JOINED[name]}")
    outer = new["statements"][0]["node"]
    taken = outer["from_table"]["left"]
    taken["alias"] = _name_of(table)
    inner = taken["subquery"]["node"]
    inner["from_table"]["alias"] = _name_of(table)
    inner |= {"where_clause": node["where_clause"], "modifiers": [order, limit]}
    outer |= {"select_list": [_without_table(item) for item in node["select_list"]], "modifiers": [order]}
    new["statements"][0]["named_param_map"] = tree["statements"][0]["named_param_map"]
    return new


def _is_of_the_form(node: Node) -> bool:
    """Whether it is `SELECT ..., key, ... FROM view WHERE ... ORDER BY columns LIMIT n` and no more."""
    if node["type"] != "SELECT_NODE" or node["cte_map"]["map"] or any(node[part] for part in _NOTHING_ELSE):
        return False
    if node["aggregate_handling"] != "STANDARD_HANDLING" or not _is_a_view(node["from_table"]):
        return False
    kinds = [modifier["type"] for modifier in node["modifiers"]]
    if kinds != ["ORDER_MODIFIER", "LIMIT_MODIFIER"] or node["modifiers"][1]["limit_type"] != "ROW_COUNT":
        return False
    table, items = _name_of(node["from_table"]), node["select_list"]
    keys = [item for item in items if _names_key(item, table)]
    others = [item for item in items if not _names_key(item, table)]
    rest = [others, node["where_clause"], node["modifiers"]]
    return bool(keys) and _asks_no_key(rest, table) and _orders_by_columns(node["modifiers"][0], items)


def _is_a_view(table: Node) -> bool:
    return (
        table["type"] == "BASE_TABLE"
        and table["table_name"].lower() in VIEWS
        and not any(table[part] for part in ("schema_name", "catalog_name", "column_name_alias", "sample", "at_clause"))
    )


def _name_of(table: Node) -> str:
    return str(table["alias"] or table["table_name"])


def _names_key(item: Node, table: str) -> bool:
    """Whether a column of the answer is the key as it stands."""
    names = [name.lower() for name in item.get("column_names", ())]
    return names in (["key"], [table.lower(), "key"])


def _asks_no_key(tree: Any, table: str) -> bool:
    """Whether everything is made of single rows, and of no key."""
    return all(_is_plain(node, table.lower()) for node in nodes(tree) if node.get("class"))


def _is_plain(node: Node, table: str) -> bool:
    if node["class"] not in _OF_ONE_ROW:
        return False
    if node["class"] == "FUNCTION" and (node["function_name"].lower() not in _FUNCTIONS or node["schema"]):
        return False
    names = [name.lower() for name in node.get("column_names", ())]
    # The table's own name as a column would be the whole row; of three names one is a schema, or a field.
    return not {"key", *_OTHER_NAMES}.intersection(names) and names != [table] and len(names) <= 2


def _orders_by_columns(order: Node, items: Sequence[Node]) -> bool:
    """Whether it is ordered by columns of the view: a number, or a name that the answer gives, may be another thing."""
    given = {item["alias"].lower() for item in items if item["alias"]}
    expressions = [each["expression"] for each in order["orders"]]
    return all(each["class"] == "COLUMN_REF" and each["column_names"][-1].lower() not in given for each in expressions)


def _without_table(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a column of the answer, the key without the name of a table, which has none in the new query."""
    key = [name for name in item.get("column_names", ()) if name.lower() == "key"]
    return {**item, "column_names": key} if key else item
