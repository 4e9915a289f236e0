"""Open catalogs: one for each model or run that somebody looks at, asked by many threads, opened anew on demand."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from schemas.errors import ConfigError, ShardError, StoreError, one_of
from schemas.manifest import ShardReport
from schemas.sample import ShardStatus
from storage.catalog import open_catalog
from storage.files import Folder
from storage.guesses import EXPECTED_SQL, Expected
from storage.models import read_models
from storage.query import run_query
from storage.review import shown_scorer
from storage.runs import StoredRun, chosen_run, read_runs
from storage.thumbnails import ShardBytes
from storage.visibility import current_reports

_HELD = 6  # catalogs; the ones that nobody asked for longest are closed
_SECONDS = 60  # of one question of ours
_REMEMBERED = 1000  # counts and histograms

ValueT = TypeVar("ValueT")

_LABELS = """
SELECT l.label_id, min(l.name) AS name, min(l.description) AS description, bool_or(l.seen) AS seen,
    coalesce(min(j.threshold), min(l.threshold)) AS threshold
FROM labels l LEFT JOIN internal.judged j ON j.dataset = l.dataset AND j.label_id = l.label_id AND j.scorer = $scorer
WHERE l.active GROUP BY l.label_id ORDER BY lower(min(l.name)), l.label_id
"""
_MEMBERS = "SELECT DISTINCT target, label_id FROM internal.labels WHERE target IS NOT NULL AND combined"
_STATUSES = "SELECT dataset, status, count(*) AS samples FROM samples GROUP BY ALL ORDER BY ALL"
_SOURCES = """
SELECT 'model:' || m.model_id AS value, m.name || ' · ' || m.model_id AS title, m.promoted, m.calibration
FROM models m SEMI JOIN runs r USING (model_id) ORDER BY m.promoted DESC, m.name, m.model_id
"""
_RUNS = """
SELECT 'run:' || run_id AS value, strftime(created_at, '%Y-%m-%d %H:%M') || ' · ' || scorer || ' · ' || run_id AS title,
    complete
FROM runs ORDER BY created_at DESC
"""

_COUNTS = """
SELECT l.label_id, count(*) AS pictures
FROM internal.scores s JOIN internal.labels m ON m.dataset = s.dataset AND m.label_id = s.label_id
    JOIN internal.judged l ON l.dataset = m.dataset AND l.label_id = m.target AND l.scorer = s.scorer
WHERE l.active AND s.score >= l.threshold GROUP BY l.label_id
"""


class NotThereError(ConfigError):
    """Something was asked for that the store does not have."""


@dataclass(frozen=True, kw_only=True)
class BrowsedLabel:
    """An active label of a catalog."""

    label_id: str
    name: str
    description: str | None
    seen: bool
    threshold: float
    members: tuple[str, ...]  # labels of which scores are stored and count as this one

    @property
    def merged(self) -> bool:
        """Whether scores of several labels count as this one."""
        return self.members != (self.label_id,)


def source_of(source: str) -> tuple[str, str]:
    """Return what kind of source is looked at, `model` or `run`, and which; two empty texts: what the store shows.

    Raises:
        ConfigError: it is neither.
    """
    kind, _, name = source.partition(":")
    if source and kind not in ("model", "run"):
        raise ConfigError(f"unknown source {source!r}; known: model:ID, run:ID")
    return kind, name


def _check_there(folder: Folder, kind: str, name: str) -> None:
    """Refuse a source that the store does not have.

    Raises:
        NotThereError: there is no such model or run.
        StoreError: the store cannot be read.
    """
    if kind == "run":
        _run_of(read_runs(folder), name)
    if kind == "model" and name not in (known := read_models(folder)):
        raise NotThereError(one_of("model", name, known))


def _run_of(runs: Sequence[StoredRun], name: str) -> StoredRun:
    try:
        return chosen_run(runs, name)
    except StoreError as error:
        raise NotThereError(str(error)) from None


class Catalog:
    """One open catalog, and what pages ask of it again and again."""

    def __init__(self, folder: Folder, source: str) -> None:
        kind, name = source_of(source)
        self.source = source
        self._folder = folder
        self._remembered: dict[str, Any] = {}
        self._making_groups, self._has_groups = threading.Lock(), False
        _check_there(folder, kind, name)
        self._connection = open_catalog(
            folder, model_id=name if kind == "model" else None, run_id=name if kind == "run" else None
        )

    def ask(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
        """Return the rows of a question of ours."""
        answer = run_query(self._connection, sql, parameters or {}, max_seconds=_SECONDS)
        rows: list[dict[str, Any]] = answer.to_pylist()
        return rows

    def remember(self, name: str, ask: Callable[[], ValueT]) -> ValueT:
        """Return what `ask` returned when it was asked under this name first: the files of a catalog do not change."""
        if name not in self._remembered:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[name] = ask()
        value: ValueT = self._remembered[name]
        return value

    def table(self, sql: str, *, max_rows: int, max_seconds: float) -> Any:
        """Return the answer to a question of a person, as an Arrow table."""
        return run_query(self._connection, sql, max_rows=max_rows, max_seconds=max_seconds)

    @cached_property
    def shown(self) -> dict[str, str]:
        """`model_id` and `scorer` of the scores that are shown; empty texts where there are none."""
        return shown_scorer(self._connection) or {"model_id": "", "scorer": ""}

    @cached_property
    def labels(self) -> dict[str, BrowsedLabel]:
        """Active labels by id, in the order of their names."""
        members: dict[str, list[str]] = {}
        for row in self.ask(_MEMBERS):
            members.setdefault(row["target"], []).append(row["label_id"])
        rows = self.ask(_LABELS, {"scorer": self.shown["scorer"]})
        return {
            row["label_id"]: BrowsedLabel(**row, members=tuple(sorted(members.get(row["label_id"], [row["label_id"]]))))
            for row in rows
        }

    @cached_property
    def statuses(self) -> list[dict[str, Any]]:
        """How many samples there are of each dataset and status."""
        return self.ask(_STATUSES)

    @cached_property
    def tag_counts(self) -> dict[str, int]:
        """How many pictures have each label; of merged labels a picture with several counts several times."""
        return {row["label_id"]: row["pictures"] for row in self.ask(_COUNTS)}

    @property
    def datasets(self) -> list[str]:
        """Datasets that have samples."""
        return list(dict.fromkeys(row["dataset"] for row in self.statuses))

    @cached_property
    def reports(self) -> dict[tuple[str, str], ShardReport]:
        """What is known of the shards that are shown, by dataset and shard in order."""
        return dict(sorted(current_reports(self.runs).items()))

    @cached_property
    def runs(self) -> list[StoredRun]:
        """The runs that are shown: all, or the one that is looked at."""
        runs, (kind, name) = read_runs(self._folder), source_of(self.source)
        return [_run_of(runs, name)] if kind == "run" else runs

    def run(self, name: str) -> StoredRun:
        """Return the run that a person means, named as in `chosen_run`.

        Raises:
            NotThereError: none is shown that the name fits, or several are.
        """
        return _run_of(self.runs, name)

    @cached_property
    def models(self) -> dict[str, frozenset[str]]:
        """The labels that each model was trained on."""
        rows = self.ask("SELECT model_id, seen_labels FROM models")
        return {row["model_id"]: frozenset(row["seen_labels"]) for row in rows}

    def shard(self, dataset: str, shard: str) -> ShardBytes:
        """Return where a shard lies, and as what.

        Raises:
            ShardError: the store knows no such shard.
        """
        report = self.reports.get((dataset, shard))
        if report is None:
            raise ShardError(ShardStatus.MISSING, f"the store has no shard {shard!r} of dataset {dataset!r}")
        return ShardBytes(report.url, report.fingerprint)

    @cached_property
    def knows_copies(self) -> bool:
        """Whether nearly equal samples were looked for, and some were found."""
        try:
            return bool(self.ask("SELECT group_id FROM internal.duplicates LIMIT 1"))
        except StoreError:  # a damaged file: pages are shown without; who asks to hide copies learns what to do
            return False

    @property
    def groups(self) -> str:
        """Name of a table with the rows of the view `duplicates`, which takes too long to be asked for each page."""
        with self._making_groups:
            if not self._has_groups:
                answer, cursor = run_query(self._connection, "SELECT * FROM duplicates"), self._connection.cursor()
                cursor.register("read_groups", answer)
                cursor.execute("CREATE TABLE internal.groups AS SELECT * FROM read_groups")
                cursor.close()
                self._has_groups = True
        return "internal.groups"

    def expected(self, dataset: str, shard: str, sample: int) -> Expected | None:
        """Return what is known of a picture's place in its shard; None, where the store has no such sample."""
        rows = self.ask(EXPECTED_SQL, {"dataset": dataset, "shard": shard, "sample": sample})
        return Expected(**rows[0]) if rows else None

    @cached_property
    def sources(self) -> dict[str, list[dict[str, Any]]]:
        """What can be looked at beside the promoted model: models and runs."""
        return {"models": self.ask(_SOURCES), "runs": self.ask(_RUNS)}

    def label(self, label_id: str) -> BrowsedLabel:
        """Return an active label.

        Raises:
            NotThereError: there is none of this id.
        """
        if label_id not in self.labels:
            raise NotThereError(f"unknown label {label_id!r}; the list of labels has those that are active")
        return self.labels[label_id]


class _Opening:
    """What the threads that ask for one source wait at, so that one of them opens it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Catalogs:
    """The catalogs of one store, by source: `` is what the store shows, `model:ID` and `run:ID` are others."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._held: OrderedDict[str, Catalog] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: WeakValueDictionary[str, _Opening] = WeakValueDictionary()  # as long as a thread is at it

    def get(self, source: str = "") -> Catalog:
        """Return the catalog of a source, opened now where it is not open.

        Raises:
            RequestError: there is no such model or run, or the store cannot be read.
        """
        with self._lock:
            opening = self._opening.setdefault(source, _Opening())
        with opening.lock:
            with self._lock:
                if source in self._held:
                    self._held.move_to_end(source)
                    return self._held[source]
            catalog = Catalog(self._folder, source)
            with self._lock:
                self._held[source] = catalog
                # Not closed here: other threads may still ask it. It closes when the last of them lets go.
                if len(self._held) > _HELD:
                    self._held.popitem(last=False)
            return catalog

    def refresh(self) -> None:
        """Open what is shown anew, to see what was written since; the other sources when they are asked for."""
        fresh = Catalog(self._folder, "")
        with self._lock:
            self._held.clear()
            self._held[""] = fresh

    def close(self) -> None:
        """Let go of all catalogs."""
        with self._lock:
            self._held.clear()
