"""What the page shows, as the query that `clipdecoder export` takes: the same pictures, all pages of them."""

from __future__ import annotations

from typing import Any

from flows.browse.catalogs import Catalog, source_of
from flows.browse.filters import FAILED, Filter
from flows.browse.results import Found
from flows.browse.state import Desk
from schemas.commands import shell
from storage.views import literal

_TARGET = "export/{:05d}.tar"


def export_sql(catalog: Catalog, wanted: Filter) -> str:
    """Return the query of what a filter lets through."""
    where = _conditions(wanted)
    if not wanted.label:
        tagged = _tagged(wanted)
        columns = "s.dataset, s.shard, s.sample, s.key"
        return f"select {columns} from samples s{tagged}{_where(where)}"
    label = catalog.label(wanted.label)
    low, high = label.threshold if wanted.low is None else wanted.low, 1 if wanted.high is None else wanted.high
    ids = ", ".join(map(literal, label.members))
    scored = "select dataset, shard, sample, max(score) as score from scores"
    return (
        f"select s.dataset, s.shard, s.sample, s.key, c.score from samples s join ({scored} where label_id in ({ids}) "
        f"group by all) c using (dataset, shard, sample){_where([f'c.score between {low!r} and {high!r}', *where])}"
    )


def found_sql(found: Found) -> str:
    """Return the query of what a query or a search found."""
    if found.sql:
        return found.sql
    places = ", ".join(f"({literal(dataset)}, {literal(shard)}, {sample})" for dataset, shard, sample in found.places)
    return f"select dataset, shard, sample, key from samples where (dataset, shard, sample) in ({places})"


def command(store: str, sql: str, source: str = "") -> str:
    """Return the command line that does the same, with the tags of that model or run."""
    kind, name = source_of(source)
    words = ["clipdecoder", "export", "--sql", sql, "--to", _TARGET, "--store", store]
    return shell(*words, *([f"--{kind}", name] if kind else []))


def panel(desk: Desk, sql: str, source: str) -> dict[str, Any]:
    """Return what a page says about exporting what it shows."""
    return {"sql": sql, "command": command(desk.folder.url, sql, source), "here": desk.access.local}


def _where(conditions: list[str]) -> str:
    return f" where {' and '.join(conditions)}" if conditions else ""


def _conditions(wanted: Filter) -> list[str]:
    found = [f"s.dataset = {literal(wanted.dataset)}"] if wanted.dataset else []
    found += [f"contains(s.key, {literal(wanted.key)})"] if wanted.key else []
    if wanted.copies:
        copies = "select (dataset, shard, sample) from duplicates where not representative"
        found.append(f"(s.dataset, s.shard, s.sample) not in ({copies})")
    if wanted.status == FAILED:
        found.append("s.status <> 'ok'")
    elif wanted.status:
        found.append(f"s.status = {literal(wanted.status)}")
    return found


def _tagged(wanted: Filter) -> str:
    """Return the join with the tags that a picture without a chosen label must have."""
    if wanted.low is None and wanted.high is None and not wanted.knowledge:
        return ""
    conditions = ["l.active", "c.score >= l.threshold" if wanted.low is None else f"c.score >= {wanted.low!r}"]
    conditions += [f"c.score <= {wanted.high!r}"] if wanted.high is not None else []
    conditions += [f"{'' if wanted.knowledge == 'seen' else 'not '}l.seen"] if wanted.knowledge else []
    return (
        " semi join (select c.dataset, c.shard, c.sample from internal.scores c "
        "join internal.labels m on m.dataset = c.dataset and m.label_id = c.label_id "
        "join internal.judged l on l.dataset = m.dataset and l.label_id = m.target and l.scorer = c.scorer"
        f"{_where(conditions)}) c using (dataset, shard, sample)"
    )
