"""The demo: the product's own commands on generated pictures, in one process so that Prefect starts once."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from examples.scenes.__main__ import DEFAULT_SEED, write_scenes
from examples.scenes.answers import write_answers
from examples.scenes.render import LABELS, NEVER_IN_CAPTIONS, taxonomy_yaml
from flows.contact_sheet import write_contact_sheet
from schemas.errors import RequestError
from schemas.evaluation import Evaluation
from storage.files import Folder
from storage.models import read_models

SHARDS = 4
NOVEL_LABELS = 16
SEEDS = {"test": 1, "annotated": 2}  # pictures of their own
# A label in the house's own words: hearts, of any colour. The text tower never met the word, so only answers teach it.
NEW_LABEL, NEW_SHAPE = "valentine", "heart"
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

_BY_KNOWLEDGE = (
    "select case when seen then 'trained on' else 'never seen' end as labels, count(*) as tags, "
    "round(avg(score), 2) as mean_score, round(avg(threshold), 2) as mean_threshold from tags group by seen"
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

    _train(to, pictures // 3, run=run, show=show, tell=tell)

    _grow(to, run=run, show=show, tell=tell)

    tell("The best pictures of each label, on one page")
    show("python", "-m", "flows.contact_sheet", store, str(to / "contact-sheet.html"))
    write_contact_sheet(store, to / "contact-sheet.html")


def _train(to: Path, pictures: int, *, run: Run, show: Run, tell: Tell) -> None:
    """Train on what was tagged, whose true labels are known, with some labels held out; judge, calibrate, tag again."""
    store, taxonomy, novel = str(to / "store"), str(to / "taxonomy.yaml"), to / "novel.txt"
    label_ids = [label.id for label in LABELS]
    novel.write_text("\n".join(sorted(random.Random(0).sample(label_ids, NOVEL_LABELS))) + "\n")

    tell(f"Train a decoder on these pictures. {NOVEL_LABELS} labels are held out: nothing of them is used")
    shared = ("--taxonomy", taxonomy, "--store", store)
    shards = str(to / "shards" / "*.tar")
    aside = ("--held-out-share", "0.2")  # of the pictures, kept back to compare this model with the next one
    run("train", shards, *shared, "--base", "bundled:scenes", "--novel", str(novel), "--name", "scenes", *aside)
    trained = _newest_model(store)

    tell("What is it worth, on labels that it saw and on labels that it never saw? Other pictures are the judge")
    test = _more_pictures(to, "test", pictures, run=run, show=show)
    report = ("--novel", str(novel), "-o", str(to / "evaluation"))
    run("evaluate", test, *shared, "--model", trained, *report, "--name", "test")

    tell("A few more annotated pictures fit scores and thresholds anew; the result is a model of its own")
    run("calibrate", _more_pictures(to, "annotated", pictures, run=run, show=show), *shared, "--model", trained)

    tell("Tag with it, and let the views show its answers")
    calibrated = _newest_model(store)
    run("tag", shards, *shared, "--model", calibrated, "--name", "scenes")
    run("models", "promote", calibrated, "--reason", "trained and calibrated on these pictures", "--store", store)
    run("sql", _BY_KNOWLEDGE, "--store", store)


def _grow(to: Path, *, run: Run, show: Run, tell: Tell) -> None:
    """Add a label, score it at once, answer for it, and let the store retrain, judge and promote."""
    store, taxonomy, answers = str(to / "store"), to / "taxonomy.yaml", to / "answers.csv"
    shared, test = ("--taxonomy", str(taxonomy), "--store", store), str(to / "test" / "*.tar")

    tell(f"The taxonomy owner adds a label in the house's own words: {NEW_LABEL}, a {NEW_SHAPE}. What does that cost?")
    taxonomy.write_text(taxonomy_yaml([label.id for label in LABELS], [NEW_LABEL]))
    run("taxonomy", "diff", "applied", str(taxonomy), "--store", store)

    tell("Apply it: the label is scored at once, from what is stored, and there is no evidence yet to learn it from")
    run("taxonomy", "apply", str(taxonomy), "--store", store)
    run("sql", f"select label, count(*) as images from tags where label_id = '{NEW_LABEL}' group by all", *shared[2:])
    before = _precision(to, "before", test, shared, run=run)

    tell("Which pictures are worth a person's time? A page to answer by keyboard, the new label first")
    run("review", "export", "--to", str(to / "review"), "--labels", NEW_LABEL, "--store", store)

    tell("Somebody answers for every picture")
    table = to / "pictures" / "labels.csv"
    show("python", "-m", "examples.scenes.answers", str(table), f"{NEW_SHAPE}={NEW_LABEL}", "--to", str(answers))
    write_answers(table, NEW_SHAPE, NEW_LABEL, answers)
    run("annotations", "import", str(answers), "--dataset", "scenes", "--store", store)

    tell("Apply again: now there is evidence. Retrain, compare on pictures that neither model learned from, promote")
    run("taxonomy", "apply", str(taxonomy), "--store", store)
    run("taxonomy", "status", "--store", store)
    after = _precision(to, "after", test, shared, run=run)
    tell(
        f"Average precision of {NEW_LABEL!r} on pictures of their own: {before:.1%} when it was new, {after:.1%} now "
        "that it was learned"
    )


def _precision(to: Path, name: str, test: str, shared: tuple[str, ...], *, run: Run) -> float:
    """Evaluate the current model, and return the new label's average precision."""
    run("evaluate", test, *shared, "--model", "current", "--name", "test", "-o", str(to / name))
    evaluation = Evaluation.model_validate_json((to / name / "metrics.json").read_bytes())
    (found,) = (label.average_precision for label in evaluation.labels if label.label_id == NEW_LABEL)
    if found is None:
        raise RequestError(f"no test picture has a {NEW_LABEL}; play the demo with more --pictures")
    return found


def _more_pictures(to: Path, name: str, pictures: int, *, run: Run, show: Run) -> str:
    """Render and pack pictures that nothing was trained on; return where their shards are."""
    seed, folder = DEFAULT_SEED + SEEDS[name], to / f"{name}-pictures"
    words = ("--to", str(folder), "--pictures", str(pictures), "--seed", str(seed))
    show("python", "-m", "examples.scenes", *words, "--word", f"{NEW_SHAPE}={NEW_LABEL}")
    table = write_scenes(folder, pictures, seed, {NEW_SHAPE: NEW_LABEL})
    run("pack", str(table), "--to", str(to / name / "{:05d}.tar"))
    return str(to / name / "*.tar")


def _newest_model(store: str) -> str:
    """Return the model that the last command made: the one that no other was calibrated from."""
    records = read_models(Folder(store))
    made = {model_id: record.checkpoint for model_id, record in records.items() if record.checkpoint is not None}
    older = {checkpoint.calibrated_from for checkpoint in made.values()}
    return next(model_id for model_id in made if model_id not in older)


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
