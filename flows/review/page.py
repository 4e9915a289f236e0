"""The page that asks: pictures, labels and tasks in one HTML file that loads nothing and sends nothing.

Answers stay in the browser until they are saved as a file, which `clipdecoder review import` reads. Pictures have a
budget of bytes for the whole page, and only one is drawn at a time, so that thousands of tasks stay fluid.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows.review.selection import Task
from schemas.digests import digest_of
from schemas.review import ANSWERS_FORMAT, ANSWERS_VERSION
from storage.terminal import visible

PICTURE_BYTES = 25_000_000  # of all pictures on a page, in base64: it opens at once, and a mail server may take it
# Side and quality to choose from, so that small exports have good pictures and large ones have all of them.
SIZES = ((320, 75), (288, 65), (256, 55), (224, 45), (192, 40), (160, 35), (128, 30))

_REASONS = {
    "near": "the model is unsure of it",
    "top": "among the highest scores",
    "random": "drawn by lot",
}


def review_page(tasks: Sequence[Task], pictures: Sequence[str], model_id: str) -> str:
    """Return the page. Names and keys are other people's text: they are data to it, and shown as text.

    Args:
        tasks: the questions, each label's together.
        pictures: of each question the picture as a data URL.
        model_id: whose scores chose the questions.
    """
    loader = PackageLoader("flows", "pages")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    style, script = (loader.get_source(environment, name)[0] for name in ("review.css", "review.js"))
    return environment.get_template("review.html").render(
        data=_data(tasks, pictures, model_id),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """Return what the page's policy knows its own style and script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(tasks: Sequence[Task], pictures: Sequence[str], model_id: str) -> dict[str, object]:
    distinct = {picture: number for number, picture in enumerate(dict.fromkeys(pictures))}
    labels = {task.label.label_id: task.label for task in tasks}
    numbers = {label_id: number for number, label_id in enumerate(labels)}
    asked = [
        {
            "label": numbers[task.label.label_id],
            "dataset": task.candidate.dataset,
            "shard": task.candidate.shard,
            "key": task.candidate.key,
            "shown": visible(task.candidate.key),
            "score": task.candidate.score,
            "threshold": task.candidate.threshold,
            "why": _REASONS[task.reason],
            "picture": distinct[picture],
        }
        for task, picture in zip(tasks, pictures, strict=True)
    ]
    questions = [[task.candidate.sha256, task.label.label_id] for task in tasks]
    return {
        "format": ANSWERS_FORMAT,
        "version": ANSWERS_VERSION,
        # Answers kept in the browser belong to these questions in this order, and to no other page.
        "page": digest_of([model_id, questions]),
        "model_id": model_id,
        "labels": [
            {
                "id": label.label_id,
                "name": visible(label.name),
                "description": visible(label.description or ""),
                "seen": label.seen,
            }
            for label in labels.values()
        ],
        "tasks": asked,
        "pictures": list(distinct),
    }
