"""What two models or runs say of the same pictures, as SQL over a catalog that shows the whole store.

Compared are shards that both scored with the bytes that they have now, and labels that both scored. Merges and
thresholds are those of now, each side with the thresholds of its own model. A score that is not stored counts as 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.manifest import Fingerprint
from storage.runs import StoredRun
from storage.views import literal
from storage.visibility import VisibleParts, current_reports, visible_labels, visible_scores

Shard = tuple[str, str]  # dataset and id
Change = Literal["", "gained", "lost"]  # of a tag; empty: any

# Labels that are compared, each with those that count as it, and the thresholds of both models.
_JUDGED = """judged AS MATERIALIZED (
SELECT m.dataset, m.label_id, m.target, t.model_id, t.scorer, t.threshold FROM internal.labels m
    JOIN internal.labels l ON l.dataset = m.dataset AND l.label_id = m.target AND l.active
    JOIN thresholds t ON t.label_id = m.target AND t.model_id IN ({models}) WHERE m.target IN ({labels}))"""

_SIDE = """SELECT s.dataset, s.shard, s.sample, j.target AS label_id, max(s.score) AS score,
    bool_or(s.score >= j.threshold) AS tagged
FROM internal.all_scores s JOIN judged j USING (dataset, label_id, model_id, scorer)
WHERE {which} {scores} GROUP BY s.dataset, s.shard, s.sample, j.target"""
_SIDE_OF_SINGLE_LABELS = """SELECT s.dataset, s.shard, s.sample, s.label_id, s.score, s.score >= j.threshold AS tagged
FROM internal.all_scores s JOIN judged j USING (dataset, label_id, model_id, scorer) WHERE {which} {scores}"""
_TAGS_ONLY = "AND s.score >= j.threshold"

_BOTH = """WITH {judged},
before AS ({before}),
after AS ({after}),
compared AS {kept} (SELECT dataset, shard, sample, label_id, b.score AS before, a.score AS after,
    coalesce(b.tagged, false) AS had, coalesce(a.tagged, false) AS has
    FROM before b FULL JOIN after a USING (dataset, shard, sample, label_id))"""

_CHANGED = {"": "had <> has", "gained": "has AND NOT had", "lost": "had AND NOT has"}

_LABELS = """{both}
SELECT label_id, count_if(had) AS before, count_if(has) AS after, count_if(has AND NOT had) AS gained,
    count_if(had AND NOT has) AS lost
FROM compared GROUP BY label_id ORDER BY gained + lost DESC, label_id"""

# Pictures in the three orders that pages show. With one label by how far its score moved, else by the tags that differ.
_PICTURES = """{both},
moved AS MATERIALIZED (SELECT dataset, shard, sample, {size} AS size, count_if(has AND NOT had) AS gained,
    count_if(had AND NOT has) AS lost FROM compared {where} GROUP BY dataset, shard, sample)
SELECT * FROM (SELECT '' AS change, *, count(*) OVER () AS pictures FROM moved ORDER BY {order} LIMIT {limit})
UNION ALL SELECT * FROM (SELECT 'gained', *, count(*) OVER () FROM moved WHERE gained > 0
    ORDER BY {gained}{order} LIMIT {limit})
UNION ALL SELECT * FROM (SELECT 'lost', *, count(*) OVER () FROM moved WHERE lost > 0
    ORDER BY {lost}{order} LIMIT {limit})"""
_ORDER = "size DESC, dataset, shard, sample"

_CHOSEN = """{both}
SELECT dataset, shard, sample, key FROM samples
SEMI JOIN (SELECT dataset, shard, sample FROM compared WHERE {changed}) c USING (dataset, shard, sample)"""

_SHOWN = """{both},
asked AS (SELECT unnest($ranks) AS rank, unnest($datasets) AS dataset, unnest($shards) AS shard,
    unnest($samples)::INTEGER AS sample)
SELECT a.rank, c.label_id, c.before, c.after, c.had, c.has FROM compared c JOIN asked a USING (dataset, shard, sample)
ORDER BY a.rank, greatest(c.before, c.after) DESC, c.label_id"""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Whose scores stand on one side: those of a model in all its runs, or in one."""

    model_id: str
    parts: Sequence[VisibleParts]
    shards: Mapping[Shard, Fingerprint]  # that were scored
    labels: Mapping[Shard, Collection[str]]  # of which scores may be stored
    paths: Mapping[str, Shard]  # of the parts
    whole: Mapping[str, frozenset[Shard]]  # run -> all shards that it has score parts of


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sides, and what both of them looked at."""

    before: Side
    after: Side
    shards: frozenset[Shard]
    labels: Mapping[str, Sequence[str]]  # compared label -> those whose scores count as it

    @property
    def same(self) -> bool:
        """Whether both sides are the same rows."""
        return self.before.parts == self.after.parts

    def one(self, label_id: str) -> Pair:
        """Return the same for one label alone; of a label that is not compared, a pair that finds nothing."""
        members = self.labels.get(label_id)
        labels = {label_id: members} if members is not None else {}
        return Pair(before=self.before, after=self.after, shards=self.shards, labels=labels)


def side_of(runs: Sequence[StoredRun], model_id: str) -> Side:
    """Return what runs say with a model: all runs of a store, or the one that is looked at."""
    reports = current_reports(runs)
    labels = {shard: frozenset(scored) for shard, scored in visible_labels(runs, model_id).items() if scored}
    paths: dict[str, Shard] = {}
    whole: dict[str, frozenset[Shard]] = {}
    for run in runs:
        found = {r.parts["scores"].path: (run.record.dataset, r.shard) for r in run.reports if "scores" in r.parts}
        paths |= found
        whole[run.record.run_id] = frozenset(found.values())
    return Side(
        model_id=model_id,
        parts=visible_scores(runs, model_id),
        shards={shard: reports[shard].fingerprint for shard in labels},
        labels=labels,
        paths=paths,
        whole=whole,
    )


def pair_of(before: Side, after: Side, now: Mapping[Shard, Fingerprint], members: Mapping[str, Sequence[str]]) -> Pair:
    """Return two sides with the shards and labels that both of them scored.

    Args:
        before: one side.
        after: the other one.
        now: the bytes of each shard as they were read last.
        members: active label -> the labels whose scores count as it.
    """
    shards = frozenset(
        shard for shard, bytes_ in now.items() if before.shards.get(shard) == bytes_ == after.shards.get(shard)
    )
    scored = [{label for shard in shards for label in side.labels[shard]} for side in (before, after)]
    labels = {target: own for target, own in members.items() if all(set(own) & each for each in scored)}
    return Pair(before=before, after=after, shards=shards, labels=labels)


def labels_sql(pair: Pair) -> str:
    """Return the query of how the tags of each label change: label_id, before, after, gained, lost."""
    return _LABELS.format(both=_both(pair, tags_only=True))


def pictures_sql(pair: Pair, *, by_score: bool, limit: int) -> str:
    """Return the query of the pictures that differ, most first, once for each `Change`, each at most `limit`.

    Columns: change, dataset, shard, sample, size (of the difference), gained and lost (tags), pictures (in all of that
    change).

    Args:
        pair: what is compared; one label of it where `by_score`.
        by_score: the difference is that of the label's score, and pictures that keep their tag are among them; else it
            is the number of tags that only one side has.
        limit: pictures of each change.
    """
    size = "max(abs(coalesce(after, 0) - coalesce(before, 0)))" if by_score else "count(*)"
    return _PICTURES.format(
        both=_both(pair, tags_only=not by_score),
        size=size,
        where="" if by_score else "WHERE had <> has",
        order=_ORDER,
        gained="" if by_score else "gained DESC, ",
        lost="" if by_score else "lost DESC, ",
        limit=limit,
    )


def chosen_sql(pair: Pair, change: Change) -> str:
    """Return the query of all pictures of which a tag changed: dataset, shard, sample, key."""
    return _CHOSEN.format(both=_both(pair, tags_only=True), changed=_CHANGED[change])


def shown_sql(pair: Pair, places: Collection[tuple[str, str, int]]) -> str:
    """Return the query of what both sides say of some pictures, which are its parameters too.

    Columns: rank, label_id, before and after (scores; NULL: not stored), had and has (the tag). Parameters: ranks,
    datasets, shards, samples.
    """
    shards = ", ".join(sorted({literal(shard) for _, shard, _ in places})) or "NULL"
    samples = ", ".join(map(str, sorted({sample for _, _, sample in places}))) or "NULL"
    among = f"AND s.shard IN ({shards}) AND s.sample IN ({samples})"
    return _SHOWN.format(both=_both(pair, tags_only=False, among=among))


def _both(pair: Pair, *, tags_only: bool, among: str = "") -> str:
    merged = any(list(own) != [target] for target, own in pair.labels.items())
    judged = _JUDGED.format(
        models=", ".join(sorted({literal(pair.before.model_id), literal(pair.after.model_id)})),
        labels=", ".join(map(literal, pair.labels)) or "NULL",
    )
    scores = " ".join(filter(None, (among, _TAGS_ONLY if tags_only else "", _of_labels(pair))))
    sides = [_side(side, pair.shards, scores, merged=merged) for side in (pair.before, pair.after)]
    return _BOTH.format(judged=judged, before=sides[0], after=sides[1], kept="MATERIALIZED" if not among else "")


def _of_labels(pair: Pair) -> str:
    """Return a condition on stored labels that Parquet's statistics answer, where only one is compared."""
    if len(pair.labels) != 1:
        return ""
    (members,) = pair.labels.values()
    return f"AND s.label_id IN ({', '.join(map(literal, members))})"


def _side(side: Side, shards: Collection[Shard], scores: str, *, merged: bool) -> str:
    """Return the scores of one side, one query for each group of parts: of its own run, DuckDB reads no other's."""
    groups = [which for part in side.parts if (which := _which(side, part, shards))] or ["false"]
    template = _SIDE if merged else _SIDE_OF_SINGLE_LABELS
    if not merged or len(groups) == 1:
        return " UNION ALL ".join(template.format(which=which, scores=scores) for which in groups)
    # Labels that were merged may have been scored by several runs.
    return template.format(which=f"({' OR '.join(f'({which})' for which in groups)})", scores=scores)


def _which(side: Side, part: VisibleParts, shards: Collection[Shard]) -> str:
    """Return the condition that rows are of these parts and of shards that are compared; empty: none are."""
    own = {side.paths[path] for path in part.paths}
    wanted = own.intersection(shards)
    if not wanted:
        return ""
    words = [f"s.run_id = {literal(part.run_id)}"]
    if wanted != side.whole[part.run_id]:
        words.append(f"s.shard IN ({', '.join(sorted(literal(shard) for _, shard in wanted))})")
    if part.hidden:
        words.append(f"s.label_id NOT IN ({', '.join(map(literal, sorted(part.hidden)))})")
    return " AND ".join(words)
