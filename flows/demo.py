"""The demo: the product's own commands on generated pictures, in one process so that Prefect starts once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from examples.scenes.__main__ import write_scenes
from examples.scenes.render import LABELS, NEVER_IN_CAPTIONS, taxonomy_yaml
from flows.contact_sheet import write_contact_sheet
from schemas.errors import RequestError

SHARDS = 4
_MARK = "made by clipdecoder demo"

_QUESTIONS = (
    ("What was tagged, and what failed?", "select status, error, count(*) as images from samples group by all"),
    (
        "Which labels are most common?",
        "select label, count(*) as images, round(avg(score), 2) as mean_score from tags group by all "
        "order by images desc, label limit 8",
    ),
    (
        "Which pictures have a red circle and a blue star?",
        "select shard, key, round(min(score), 3) as surety from tags where label_id in ('red-circle', 'blue-star') "
        "group by shard, key having count(*) = 2 order by surety desc limit 5",
    ),
)

Run = Callable[..., None]  # runs a command, given its words, after showing it
Tell = Callable[[str], None]


def play(to: Path, pictures: int, *, run: Run, show: Run, tell: Tell) -> None:
    """Tell the story in the folder `to`.

    Args:
        to: an empty folder, or an earlier demo's.
        pictures: how many to render.
        run: shows a `clipdecoder` command and runs it.
        show: shows another command, which is done here.
        tell: says what comes next.

    Raises:
        RequestError: the folder holds something that is not from a demo.
    """
    _clear(to)
    store, shards, taxonomy = str(to / "store"), str(to / "shards" / "*.tar"), to / "taxonomy.yaml"
    known = [label.id for label in LABELS if label.id not in NEVER_IN_CAPTIONS]

    tell(f"{pictures} pictures of coloured shapes, one of them damaged, and a taxonomy of {len(known)} labels")
    show("python", "-m", "examples.scenes", "--to", str(to / "pictures"), "--pictures", str(pictures))
    table = write_scenes(to / "pictures", pictures)
    taxonomy.write_text(taxonomy_yaml(known))
    per_shard = str(-(-(pictures + 1) // SHARDS))
    run("pack", str(table), "--to", str(to / "shards" / "{:05d}.tar"), "--samples-per-shard", per_shard)

    tell("Tag them: every picture scored for every label, zero-shot, with the tiny CLIP that ships")
    tag = ("tag", shards, "--taxonomy", str(taxonomy), "--store", store, "--name", "scenes")
    run(*tag)
    for question, query in _QUESTIONS:
        tell(question)
        run("sql", query, "--store", store)

    tell(f"The taxonomy grows by {len(NEVER_IN_CAPTIONS)} labels that no caption ever named; no image is read again")
    taxonomy.write_text(taxonomy_yaml([label.id for label in LABELS]))
    run(*tag, "--labels", "new")
    run("sql", _new_labels_query(), "--store", store)

    tell("Prove that nothing was lost")
    run("audit", "--store", store)

    tell("The best pictures of each label, on one page")
    show("python", "-m", "flows.contact_sheet", store, str(to / "contact-sheet.html"))
    write_contact_sheet(store, to / "contact-sheet.html")


def _new_labels_query() -> str:
    never = ", ".join(f"'{label_id}'" for label_id in sorted(NEVER_IN_CAPTIONS))
    return (
        f"select label, count(*) as images, round(max(score), 2) as best from tags where label_id in ({never}) "
        "group by all order by images desc, label limit 8"
    )


def _clear(to: Path) -> None:
    """Make an empty demo folder, replacing an earlier demo and nothing else."""
    mark = to / "README.txt"
    if to.exists() and not to.is_dir():
        raise RequestError(f"{str(to)!r} is a file; name a folder with --to")
    if to.exists() and any(to.iterdir()):
        if not (mark.is_file() and _MARK in mark.read_text()):
            raise RequestError(f"{str(to)!r} is not empty and not from a demo; name another folder with --to")
        shutil.rmtree(to)
    try:
        to.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{_MARK}; it may be deleted\n")
    except OSError as error:
        raise RequestError(f"cannot write in {str(to)!r}: {error}; name another folder with --to") from None
