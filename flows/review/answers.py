"""`review import`: the page's answers file, or a Label Studio export of our tasks, becomes annotations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flows.review.label_studio import ExportedTask
from schemas.annotations import MAX_AHEAD
from schemas.counts import counted
from schemas.errors import RequestError
from schemas.review import ANSWERS_FORMAT, AnswersFile, ReviewImport
from storage.annotation_precedence import count_outdated
from storage.annotations import Annotation, write_annotations
from storage.catalog import open_catalog
from storage.files import Folder, read_text
from storage.review import known_labels, known_pictures

SOURCE = "review"
_EXPECTED = (
    "expected the file that the page of `clipdecoder review export` saves, or a JSON export (not JSON-MIN) of its "
    "tasks from Label Studio; other annotations come in with `clipdecoder annotations import`"
)


def run_import(store: str, location: str) -> ReviewImport:
    """Bring answers into the store's annotations, all of them or none. The same file twice changes nothing.

    Args:
        store: URL of the store that the questions came from.
        location: path or URL of the file.

    Raises:
        RequestError: the file cannot be read, is of another kind, has no answer, or is about none of the store's
            pictures.
        StoreError: there is no such store.
    """
    annotations = _read(location)
    if not annotations:
        raise RequestError(f"{location}: no question is answered in it yet")
    future = _of_the_future(annotations)
    folder = Folder(store)
    with open_catalog(folder) as connection:
        known = known_pictures(connection, sorted({each.key for each in annotations}))
        labels = known_labels(connection)
        strange = sum((each.dataset, each.shard, each.key) not in known for each in annotations)
        if strange == len(annotations):
            raise RequestError(
                f"{location}: the store {store!r} does not have its {counted(strange, 'picture')}, such as "
                f"{annotations[0].key!r} of {annotations[0].dataset!r}; give the store that the questions came from"
            )
        # As of now, and not at their own time, which would count before every later answer.
        kept = [replace(each, at=None) if each in future else each for each in annotations]
        written = write_annotations(folder, kept)
        outdated = count_outdated(connection, folder, written.path)
    values = Counter(each.value for each in annotations)
    return ReviewImport(
        answers=len(annotations),
        yes=values[1],
        no=values[0],
        unsure=values[None],
        labels=len({each.label_id for each in annotations}),
        unknown_pictures=strange,
        unknown_labels=tuple(sorted({each.label_id for each in annotations} - labels)),
        future=len(future),
        outdated=outdated,
        path=written.path,
        new=written.new,
    )


def _of_the_future(annotations: Iterable[Annotation]) -> set[Annotation]:
    latest = datetime.now(UTC) + MAX_AHEAD
    return {each for each in annotations if each.at is not None and each.at > latest}


def _read(location: str) -> list[Annotation]:
    text = read_text(location)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError(f"{location} is not JSON; {_EXPECTED}") from None
    try:
        if isinstance(data, dict) and data.get("format") == ANSWERS_FORMAT:
            return _of_page(text)
        if isinstance(data, list) and all(isinstance(task, dict) and "annotations" in task for task in data):
            return _of_label_studio(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RequestError(f"{location}: {where}: {problem['msg']}; {_EXPECTED}") from None
    raise RequestError(f"{location} is JSON of another kind; {_EXPECTED}")


def _of_page(text: str) -> list[Annotation]:
    answers = AnswersFile.model_validate_json(text).answers
    return [Annotation(**answer.model_dump(), source=SOURCE) for answer in answers]


def _of_label_studio(data: list[Any]) -> list[Annotation]:
    tasks = TypeAdapter(list[ExportedTask]).validate_python(data)
    return [
        Annotation(**task.data.model_dump(), value=value, source=source, at=at)
        for task in tasks
        for value, source, at in task.answers()
    ]
