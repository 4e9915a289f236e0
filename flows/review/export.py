"""`review export`: choose the questions, read their pictures, write the page and the Label Studio files."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from flows.evaluation.pictures import data_url, read_thumbnails
from flows.review.label_studio import LABEL_CONFIG, label_studio_tasks
from flows.review.page import PICTURE_BYTES, SIZES, review_page
from flows.review.selection import Task, choose_tasks
from schemas.errors import ConfigError, StoreError
from schemas.review import ReviewedLabel, ReviewExport, ReviewRequest
from storage.catalog import open_catalog
from storage.files import Folder
from storage.labels import why_unlabelled
from storage.review import ReviewLabel, ReviewPool, hidden_labels, review_labels, review_pool, shown_scorer
from storage.runs import read_runs
from storage.shard_pictures import StoredShard
from storage.visibility import current_reports

Watch = Callable[[int, int], None]  # shards read, of how many

PAGE, TASKS, CONFIG = "review.html", "tasks.json", "label-config.xml"
_NAMES_IN_ERRORS = 20


def run_export(request: ReviewRequest, to: Path, watch: Watch = lambda done, total: None) -> ReviewExport:
    """Write `review.html`, `tasks.json` and `label-config.xml` into a folder, and return what they hold.

    Where nothing is left to ask, nothing is written.

    Raises:
        StoreError: there is no store, nothing in it was scored, or all its taxonomies were withdrawn.
        ConfigError: a label that was asked for is no active label of the store, or the folder cannot be written.
    """
    _check_folder(to)
    with open_catalog(request.store) as connection:
        shown = shown_scorer(connection)
        if shown is None:
            raise StoreError(
                f"the views of {request.store!r} show no score to choose by; `clipdecoder tag` or "
                "`clipdecoder taxonomy apply` computes them"
            )
        hidden = why_unlabelled(connection, Folder(request.store))
        if hidden:
            raise StoreError(f"nothing to ask: {'; '.join(hidden)}")
        labels = _asked_labels(review_labels(connection), hidden_labels(connection), request)
        ids = [label.label_id for label in labels]
        pool = review_pool(connection, ids, per_label=request.per_label, seed=request.seed)
    model_id = shown["model_id"]
    chosen = choose_tasks(labels, pool, per_label=request.per_label, limit=request.limit)
    pictures = _pictures(request, chosen, watch)
    tasks = [task for task in chosen if _content(task) in pictures]
    urls = [pictures[_content(task)] for task in tasks]
    files, page_bytes = _write(to, tasks, urls, model_id) if tasks else ((), 0)
    return _summary(
        model_id=model_id,
        labels=labels,
        tasks=tasks,
        pool=pool,
        unreadable=len(chosen) - len(tasks),
        page_bytes=page_bytes,
        files=tuple(str(to / name) for name in files),
    )


def _check_folder(to: Path) -> None:
    """Refuse a folder that can be neither written nor made, before any work is done for it."""
    there = next(path for path in (to.absolute(), *to.absolute().parents) if os.path.exists(path))
    if not there.is_dir():
        raise ConfigError(f"cannot write into {str(to)!r}: {str(there)!r} is a file; give --to a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write into {str(to)!r}: no file can be made in {str(there)!r} ({error.strerror}); give --to "
            "another folder"
        ) from None


def _asked_labels(
    labels: Sequence[ReviewLabel], hidden: Mapping[str, str | None], request: ReviewRequest
) -> list[ReviewLabel]:
    known = {label.label_id: label for label in labels}
    wrong = [label_id for label_id in dict.fromkeys(request.labels or ()) if label_id not in known]
    if wrong:
        problems = [_hidden(label_id, hidden[label_id], known) for label_id in wrong if label_id in hidden]
        unknown = ", ".join(repr(label_id) for label_id in wrong if label_id not in hidden)
        raise ConfigError("; ".join((*problems, *([f"unknown labels {unknown}; {_listed(known)}"] if unknown else ()))))
    return [known[label_id] for label_id in dict.fromkeys(request.labels)] if request.labels else list(labels)


def _hidden(label_id: str, target: str | None, known: Collection[str]) -> str:
    """Return why nothing is asked about a label that the taxonomy has."""
    if target is None:
        return f"label {label_id!r} is retired: nothing is asked about it until it is restored"
    hint = f"; ask about {target!r}" if target in known else ", which is retired"
    return f"label {label_id!r} is merged into {target!r}{hint}"


def _listed(known: Collection[str]) -> str:
    names = sorted(known)
    others = f", and {len(names) - _NAMES_IN_ERRORS} others" if len(names) > _NAMES_IN_ERRORS else ""
    return f"known: {', '.join(names[:_NAMES_IN_ERRORS]) or 'none'}{others}"


def _content(task: Task) -> str:
    return task.candidate.sha256


def _pictures(request: ReviewRequest, tasks: Sequence[Task], watch: Watch) -> dict[str, str]:
    """Return by content the pictures of the tasks as data URLs; those that cannot be read any more are absent."""
    folder = Folder(request.store)
    reports = current_reports(read_runs(folder))
    urls = {shard: report.url for shard, report in reports.items()}
    # Datasets may have shards of the same name, so places are named by URL here. One place for each content is enough.
    first = {_content(task): task.candidate for task in reversed(tasks)}
    contents = {(urls[each.dataset, each.shard], each.sample): content for content, each in first.items()}
    found = read_thumbnails(
        contents,
        {url: url for url, _ in contents},
        max_pixels=request.max_pixels,
        budget_bytes=PICTURE_BYTES,
        sizes=SIZES,
        contents=contents,
        stored={report.url: StoredShard(folder, report) for report in reports.values()},
        on_shard=watch,
    )
    return {contents[place]: data_url(picture) for place, picture in found.items()}


def _write(to: Path, tasks: Sequence[Task], urls: Sequence[str], model_id: str) -> tuple[tuple[str, ...], int]:
    """Write the files and return their names, and how large the page is.

    Raises:
        ConfigError: the folder cannot be written.
    """
    page = review_page(tasks, urls, model_id).encode()
    contents = {
        PAGE: page,
        TASKS: json.dumps(label_studio_tasks(tasks, urls, model_id), indent=1).encode(),
        CONFIG: LABEL_CONFIG.encode(),
    }
    folder = Folder(str(to))
    try:
        for name, content in contents.items():
            folder.write_bytes(name, content)
    except StoreError as error:  # which speaks of a store, and this folder is none
        raise ConfigError(f"cannot write into {str(to)!r}: {error.__cause__ or error}") from error
    return tuple(contents), len(page)


def _summary(
    *,
    model_id: str,
    labels: Sequence[ReviewLabel],
    tasks: Sequence[Task],
    pool: ReviewPool,
    unreadable: int,
    page_bytes: int,
    files: tuple[str, ...],
) -> ReviewExport:
    asked = {task.label.label_id: task.label for task in tasks}
    reasons = Counter((task.label.label_id, task.reason) for task in tasks)
    return ReviewExport(
        model_id=model_id,
        tasks=len(tasks),
        novel=sum(not task.label.seen for task in tasks),
        seen=sum(task.label.seen for task in tasks),
        labels=tuple(
            ReviewedLabel(
                label_id=label.label_id,
                name=label.name,
                seen=label.seen,
                near=reasons[label.label_id, "near"],
                top=reasons[label.label_id, "top"],
                random=reasons[label.label_id, "random"],
            )
            for label in asked.values()
        ),
        labels_without=tuple(label.label_id for label in labels if label.label_id not in asked),
        duplicates=pool.duplicates,
        answered_before=pool.answered,
        unreadable=unreadable,
        page_bytes=page_bytes,
        files=files,
    )
