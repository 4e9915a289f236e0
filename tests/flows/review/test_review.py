"""Review: the mix of questions, the page and the Label Studio tasks that ask them, the answers brought back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows.cli.app import app
from flows.review.answers import run_import
from flows.review.export import run_export
from flows.review.label_studio import LABEL_CONFIG
from flows.review.page import review_page
from flows.review.selection import Task, choose_tasks
from schemas.errors import ConfigError, RequestError, StoreError
from schemas.review import ReviewExport, ReviewRequest
from storage.review import Candidate, LabelPool, ReviewLabel, ReviewPool
from tests.flows.grown import put_taxonomy
from tests.flows.world import LABELS, World, make_world, pictures, taxonomy_text
from tests.nasty import jpeg

NOON = "2026-06-01T12:00:00Z"


# --- selection -------------------------------------------------------------------------------------------------------


def candidate(number: int, score: float | None, *, judged: bool = True, label_id: str = "a") -> Candidate:
    return Candidate(
        dataset="d",
        shard="s",
        sample=number,
        key=f"k{number}",
        sha256=f"{number:03d}",
        label_id=label_id,
        score=score,
        threshold=0.5,
        judged=judged,
    )


def pool_of(scores: Sequence[float], drawn: Sequence[int] = (), *, judged: bool = True) -> LabelPool:
    """Return what the store finds among pictures of these scores."""
    highest = sorted((candidate(n, s, judged=judged) for n, s in enumerate(scores)), key=lambda c: -(c.score or 0))
    return LabelPool(
        above=[each for each in reversed(highest) if each.above],
        below=[each for each in highest if not each.above],
        highest=highest,
        drawn=[candidate(number, None if number >= len(scores) else scores[number]) for number in drawn],
    )


def label(label_id: str = "a", *, seen: bool = False) -> ReviewLabel:
    return ReviewLabel(label_id=label_id, name=label_id, description=None, seen=seen)


def choose(pools: Mapping[ReviewLabel, LabelPool], per_label: int = 16, limit: int = 1000) -> list[Task]:
    pool = ReviewPool(labels={each.label_id: pool for each, pool in pools.items()}, duplicates=0, answered=0)
    return choose_tasks(list(pools), pool, per_label=per_label, limit=limit)


def numbers(tasks: Sequence[Task], reason: str) -> set[int]:
    return {task.candidate.sample for task in tasks if task.reason == reason}


def test_a_seen_label_is_asked_near_its_threshold() -> None:
    scores = [(number + 0.1) / 100 for number in range(100)]
    tasks = choose({label(seen=True): pool_of(scores, drawn=[3, 500])})
    assert numbers(tasks, "near") == set(range(43, 57))
    assert numbers(tasks, "random") == {3, 500}


def test_a_novel_label_is_asked_high_below_its_threshold_as_well() -> None:
    scores = [0.01 * number for number in range(40)] + [0.5 + 0.0001 * number for number in range(60)]
    tasks = choose({label(): pool_of(scores, drawn=[0, 1])})
    assert numbers(tasks, "near") == set(range(40, 48))
    assert numbers(tasks, "top") == set(range(34, 40))
    assert numbers(tasks, "random") == {0, 1}


def test_without_a_fitted_threshold_both_sides_take_turns_and_the_highest_are_asked() -> None:
    scores = [0.1, 0.2, 0.3, 0.4, *(0.9 + number / 1000 for number in range(50))]
    tasks = choose({label(): pool_of(scores, judged=False)})
    assert numbers(tasks, "near") >= {0, 1, 2, 3} and numbers(tasks, "top") == set(range(48, 54))


def test_where_a_kind_has_too_few_others_fill_its_place() -> None:
    tasks = choose({label(): pool_of([0.9] * 20)})
    assert len(tasks) == 16 and {task.reason for task in tasks} == {"near"}


def test_novel_labels_come_first_and_share_the_limit_evenly() -> None:
    pools = {label(name, seen=name > "b"): pool_of([0.1 * n for n in range(10)]) for name in "dcba"}
    tasks = choose(pools, per_label=8, limit=18)
    assert Counter(task.label.label_id for task in tasks) == {"a": 8, "b": 8, "c": 1, "d": 1}
    assert [task.label.label_id for task in tasks] == sorted(task.label.label_id for task in tasks)
    assert Counter(task.label.label_id for task in choose(pools, per_label=8, limit=5)) == {"a": 3, "b": 2}


@given(
    pools=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.lists(st.floats(0, 1), max_size=30), st.lists(st.integers(0, 40))),
        min_size=1,
        max_size=4,
    ),
    per_label=st.integers(1, 20),
    limit=st.integers(1, 60),
)
def test_whatever_there_is_the_rules_hold(
    pools: list[tuple[bool, bool, list[float], list[int]]], per_label: int, limit: int
) -> None:
    known = {
        label(f"l{number}", seen=seen): pool_of(scores, drawn, judged=judged)
        for number, (seen, judged, scores, drawn) in enumerate(pools)
    }
    tasks = choose(known, per_label, limit)
    assert len(tasks) <= limit
    assert len({(task.label.label_id, task.candidate.sha256) for task in tasks}) == len(tasks)
    assert max(Counter(task.label.label_id for task in tasks).values(), default=0) <= per_label
    blocks = [task.label for number, task in enumerate(tasks) if not number or tasks[number - 1].label != task.label]
    assert len(set(blocks)) == len(blocks) and [each.seen for each in blocks] == sorted(each.seen for each in blocks)
    contents = {each: {c.sha256 for c in (*pool.highest, *pool.drawn)} for each, pool in known.items()}
    if limit >= per_label * len(known):
        assert len(tasks) == sum(min(per_label, len(found)) for found in contents.values())
    for each in blocks:
        scores = [task.candidate.score for task in tasks if task.label == each]
        assert scores == sorted(scores, key=lambda score: (score is None, -(score or 0)))


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a tagged world of ten pictures, one of them twice, for tests that change nothing."""
    world = make_world(tmp_path_factory.mktemp("review"))
    world.shard("00002", [("copy.jpg", pictures(0, 1)[0][1]), ("broken.jpg", b"no picture")])
    world.tag()
    return world


def export(world: World, to: Path, **changes: Any) -> ReviewExport:
    return run_export(ReviewRequest(store=world.store, **changes), to)


def data_of(page: str) -> dict[str, Any]:
    """Return what a page holds for its script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_export_writes_what_it_says(tagged: World, tmp_path: Path) -> None:
    said = export(tagged, tmp_path / "out", per_label=4)
    assert said.tasks == said.novel == 16 and said.seen == 0
    assert [each.label_id for each in said.labels] == sorted(LABELS) and said.labels_without == ()
    assert {each.tasks for each in said.labels} == {4}
    assert (said.duplicates, said.answered_before, said.unreadable) == (1, 0, 0)
    assert [Path(name).name for name in said.files] == ["review.html", "tasks.json", "label-config.xml"]
    data = data_of(Path(said.files[0]).read_text())
    assert len(data["tasks"]) == 16 and data["model_id"] == said.model_id
    assert said.page_bytes == Path(said.files[0]).stat().st_size
    shown = {task["picture"] for task in data["tasks"]}
    assert shown == set(range(len(data["pictures"]))) and len(shown) <= 10
    assert export(tagged, tmp_path / "again", per_label=4).model_copy(update={"files": said.files}) == said
    assert "questions: 16, of them 16 about novel labels" in said.lines()[0]


def test_labels_and_limit_are_options(tagged: World, tmp_path: Path) -> None:
    said = export(tagged, tmp_path, labels=("blue-star", "red-circle", "blue-star"), limit=5)
    assert {each.label_id: each.tasks for each in said.labels} == {"blue-star": 3, "red-circle": 2}
    with pytest.raises(ConfigError, match=r"^unknown labels 'dog', 'cat'; known: blue-star, .*white-heart$"):
        export(tagged, tmp_path, labels=("dog", "cat", "blue-star"))


def test_labels_that_are_not_asked_about_are_told_apart(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", shards=1, images=2)
    world.tag()
    text = taxonomy_text((*LABELS, *(f"other-{number:02}" for number in range(19)), "lost"))
    for label_id, fate in (
        (LABELS[0], f"merged_into: {LABELS[1]}"),
        (LABELS[2], "retired: true"),
        ("lost", "merged_into: green-square"),
    ):
        text = text.replace(f"{{id: {label_id},", f"{{{fate}, id: {label_id},")
    put_taxonomy(world, text)
    with pytest.raises(ConfigError) as error:
        export(world, tmp_path, labels=(LABELS[0], LABELS[2], "lost", "dog"))
    said = str(error.value)
    assert "label 'red-circle' is merged into 'blue-star'; ask about 'blue-star'; " in said
    assert "label 'green-square' is retired: nothing is asked about it until it is restored" in said
    assert "label 'lost' is merged into 'green-square', which is retired" in said
    assert "unknown labels 'dog'; known: blue-star, other-00, " in said and said.endswith("other-18, and 1 others")


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for to in (tmp_path / "file", tmp_path / "file/in/it"):
        with pytest.raises(ConfigError, match="cannot write into .*file' is a file; give --to a folder"):
            run_export(ReviewRequest(store="no-store"), to)
    with pytest.raises(ConfigError, match="no file can be made in '/proc/self'"):
        run_export(ReviewRequest(store="no-store"), Path("/proc/self/none"))


def test_what_fails_while_the_page_is_written_names_the_folder(tagged: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write into .*long': .*File name too long") as error:
        export(tagged, tmp_path / ("long" * 100))
    assert "in the store" not in str(error.value)


def test_label_studio_tasks_have_the_documented_form(tagged: World, tmp_path: Path) -> None:
    said = export(tagged, tmp_path, per_label=4)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    config = ElementTree.fromstring((tmp_path / "label-config.xml").read_text())
    image, choices = config.find("Image"), config.find("Choices")
    assert image is not None and choices is not None
    assert choices.get("toName") == image.get("name")
    values = {choice.get("value") for choice in choices}
    assert len(tasks) == said.tasks
    used = {text[1:] for element in config.iter() for text in element.attrib.values() if text.startswith("$")}
    for task in tasks:
        assert set(task) == {"data", "predictions"} and used <= set(task["data"])
        assert task["data"]["image"].startswith("data:image/webp;base64,")
        assert {"dataset", "shard", "key", "label_id", "label"} <= set(task["data"])
        for prediction in task["predictions"]:
            assert prediction["model_version"] == said.model_id and 0 <= prediction["score"] <= 1
            (result,) = prediction["result"]
            assert (result["from_name"], result["to_name"]) == (choices.get("name"), image.get("name"))
            assert result["type"] == "choices" and set(result["value"]["choices"]) < values


def test_pictures_that_are_gone_or_changed_are_left_out_and_counted(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    world.tag()
    whole = export(world, tmp_path / "whole")
    members = pictures(0, 5)
    world.shard("00000", [*members[:2], (members[2][0], jpeg(77)), *members[3:]])
    (tmp_path / "world/shards/00001.tar").unlink()
    said = export(world, tmp_path / "out")
    assert whole.tasks == 40 and said.tasks == 16 and said.unreadable == 24
    keys = {task["key"] for task in data_of((tmp_path / "out/review.html").read_text())["tasks"]}
    assert keys == {"s0-0", "s0-1", "s0-3", "s0-4"}


def test_where_nothing_was_scored_or_nothing_is_left_to_ask(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        run_export(ReviewRequest(store=str(tmp_path / "none")), tmp_path)
    world = make_world(tmp_path / "world", shards=1, images=1)
    world.tag()
    asked = data_of(Path(export(world, tmp_path / "first").files[0]).read_text())["tasks"]
    answers = [row(key=task["key"], label_id=label_id) for task in asked[:1] for label_id in LABELS]
    run_import(world.store, str(answers_file(tmp_path, answers)))
    said = export(world, tmp_path / "out")
    assert (said.tasks, said.files, said.answered_before) == (0, (), 4) and not (tmp_path / "out").exists()
    assert "nothing to ask: 4 that side files or answers speak of already" in said.lines()[0]
    assert said.lines()[1:] == ["no page was written, and the folder is as it was"]
    export(world, tmp_path / "first")
    assert (tmp_path / "first/review.html").exists()


def test_what_side_files_know_is_not_asked_and_a_new_label_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.taxonomy.write_text(taxonomy_text())
    members = pictures(0, 3)
    sides = (("s0-1.json", b'{"labels": ["red circle"]}'), ("s0-2.json", b'{"labels": []}'))
    described = [*members[:2], sides[0], members[2], sides[1]]
    world.shard("00000", described)
    world.tag()
    said = export(world, tmp_path / "out")
    asked = {(task["key"], task["label"]) for task in data_of((tmp_path / "out/review.html").read_text())["tasks"]}
    place = {each.label_id: number for number, each in enumerate(said.labels)}
    assert ("s0-1", place["red-circle"]) not in asked and ("s0-0", place["red-circle"]) in asked
    assert (
        "s0-2",
        place["red-circle"],
    ) not in asked  # its side file names no label, and so denies those that are known
    assert ("s0-1", place["blue-star"]) in asked and said.answered_before == 2


# --- page ------------------------------------------------------------------------------------------------------------


def a_task(name: str, key: str, description: str | None = None) -> Task:
    asked = ReviewLabel(label_id="a", name=name, description=description, seen=False)
    found = Candidate(
        dataset="d", shard="s", sample=0, key=key, sha256="0", label_id="a", score=0.5, threshold=0.5, judged=True
    )
    return Task(label=asked, candidate=found, reason="near")


def test_text_of_strangers_is_data_to_the_page() -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="x">\u2028\u202e\x1b'
    page = review_page([a_task(evil, evil, evil)], ["data:image/webp;base64,AA"], "m")
    assert "<script>alert" not in page and "<img src" not in page and page.isascii()
    data = data_of(page)
    assert data["tasks"][0]["key"] == evil and "\x1b" not in data["tasks"][0]["shown"] + data["labels"][0]["name"]
    assert "\u202e" not in data["labels"][0]["name"] + data["labels"][0]["description"]


def test_page_loads_nothing_and_runs_only_its_own_script() -> None:
    page = review_page([a_task("dog", "k")], ["data:image/webp;base64,AA"], "m")
    policy = re.search(r'content="(default-src[^"]*)"', page)
    assert policy and "'none'" in policy[1] and "unsafe" not in policy[1] and "http" not in policy[1]
    assert "http" not in page.replace("http-equiv", "") and "style=" not in page and " on" + "click" not in page
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,"}


def test_answers_of_one_page_are_not_taken_for_those_of_another() -> None:
    first, second = ([a_task("dog", "k")], [a_task("dog", "k"), a_task("dog", "l")])
    pages = [data_of(review_page(tasks, ["data:,"] * len(tasks), "m"))["page"] for tasks in (first, second, first)]
    assert pages[0] == pages[2] != pages[1]


# --- import ----------------------------------------------------------------------------------------------------------


def row(key: str = "s0-0", label_id: str = "red-circle", value: int | None = 1, at: str = NOON) -> dict[str, Any]:
    return {"dataset": "world", "shard": "00000", "key": key, "label_id": label_id, "value": value, "at": at}


def answers_file(folder: Path, answers: Sequence[dict[str, Any]], **changes: Any) -> Path:
    path = folder / "answers.json"
    content = {"format": "clipdecoder-answers", "version": 1, "model_id": "m", "answers": answers}
    path.write_text(json.dumps(content | changes))
    return path


@pytest.fixture
def store(tagged: World, tmp_path: Path) -> World:
    """Return a world of its own that is tagged."""
    world = make_world(tmp_path / "world")
    world.tag()
    return world


def test_answers_become_annotations_once(store: World, tmp_path: Path) -> None:
    file = str(answers_file(tmp_path, [row(), row("s0-1", value=0), row("s0-2", value=None)]))
    first = run_import(store.store, file)
    assert (first.answers, first.yes, first.no, first.unsure, first.labels, first.new) == (3, 1, 1, 1, 1, True)
    sql = "select dataset, shard, key, label_id, value, source from annotations order by key"
    found = [("world", "00000", f"s0-{n}", "red-circle", value, "review") for n, value in enumerate((1, 0, None))]
    assert store.ask(sql) == found
    second = run_import(store.store, file)
    assert not second.new and second.path == first.path and "nothing changed" in second.lines()[0]
    assert store.ask(sql) == found


def test_a_later_answer_wins_and_is_not_asked_again(store: World, tmp_path: Path) -> None:
    run_import(store.store, str(answers_file(tmp_path, [row(value=1)])))
    run_import(store.store, str(answers_file(tmp_path, [row(value=0, at="2026-06-02T12:00:00Z")])))
    assert store.ask("select value from ground_truth") == [(0,)]
    run_import(store.store, str(answers_file(tmp_path, [row(value=None, at="2026-06-03T12:00:00Z")])))
    assert store.ask("select value from ground_truth") == []
    said = export(store, tmp_path / "out", labels=("red-circle",))
    assert said.answered_before == 1 and said.tasks == 9


def test_answers_by_a_wrong_clock_count_as_of_their_import(store: World, tmp_path: Path) -> None:
    file = str(answers_file(tmp_path, [row(value=1, at="2999-01-01T00:00:00Z"), row("s0-1")]))
    said = run_import(store.store, file)
    assert said.future == 1 and "dated in the future, by a wrong clock" in said.lines()[1]
    assert store.ask('select year(max("at")) < 2900 from annotations') == [(True,)]
    assert not run_import(store.store, file).new


def test_answers_that_something_newer_takes_the_place_of_are_counted(store: World, tmp_path: Path) -> None:
    assert run_import(store.store, str(answers_file(tmp_path, [row(value=1)]))).outdated == 0
    older = [row(value=0, at="2026-01-01T00:00:00Z"), row("s0-1", at="2026-01-01T00:00:00Z")]
    said = run_import(store.store, str(answers_file(tmp_path, older)))
    assert said.outdated == 1 and "answers that do not count: 1" in said.lines()[1]


def test_pictures_and_labels_that_the_store_lacks_are_said(store: World, tmp_path: Path) -> None:
    said = run_import(store.store, str(answers_file(tmp_path, [row(), row("gone"), row(label_id="dog")])))
    assert (said.unknown_pictures, said.unknown_labels) == (1, ("dog",)) and len(said.lines()) == 3


def test_a_label_that_was_merged_after_the_question_is_known(store: World, tmp_path: Path) -> None:
    first, other = LABELS[:2]
    merged = taxonomy_text(LABELS).replace(f"- {{id: {first},", f"- {{merged_into: {other}, id: {first},")
    put_taxonomy(store, merged)
    said = run_import(store.store, str(answers_file(tmp_path, [row(label_id=first), row(label_id="dog")])))
    assert said.unknown_labels == ("dog",)
    assert store.ask("select label_id, value from ground_truth") == [(other, 1)]
    with pytest.raises(RequestError, match="does not have its 1 picture, such as"):
        run_import(store.store, str(answers_file(tmp_path, [row("gone")])))


def label_studio_export(tasks: list[dict[str, Any]], choices: Sequence[str | None]) -> list[dict[str, Any]]:
    """Return tasks as Label Studio exports them, each with one annotator's choice; None: skipped."""
    return [
        {
            "id": number,
            "created_at": "2026-06-01T10:00:00.000000Z",
            "updated_at": NOON,
            "project": 1,
            "data": task["data"],
            "predictions": [],
            "annotations": [
                {
                    "id": 100 + number,
                    "completed_by": 7 if number % 2 else {"id": 8, "email": "ann@example.org", "first_name": ""},
                    "result": []
                    if choice is None
                    else [
                        {
                            "id": "x",
                            "from_name": "answer",
                            "to_name": "image",
                            "type": "choices",
                            "origin": "manual",
                            "value": {"choices": [choice]},
                        }
                    ],
                    "was_cancelled": choice is None,
                    "ground_truth": False,
                    "created_at": NOON,
                    "updated_at": NOON,
                    "lead_time": 2.5,
                }
            ],
        }
        for number, (task, choice) in enumerate(zip(tasks, choices, strict=True))
    ]


def test_a_label_studio_export_of_our_tasks_comes_back(store: World, tmp_path: Path) -> None:
    export(store, tmp_path, per_label=4, labels=("red-circle",))
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    file = tmp_path / "export.json"
    file.write_text(json.dumps(label_studio_export(tasks, ["yes", "no", "unsure", None])))
    said = run_import(store.store, str(file))
    assert (said.yes, said.no, said.unsure, said.new) == (1, 1, 1, True)
    found = store.ask("select key, value, source, label_id from annotations")
    sources = ["label-studio:ann@example.org", "label-studio:7", "label-studio:ann@example.org"]
    expected = zip(tasks[:3], (1, 0, None), sources, strict=True)
    assert set(found) == {(task["data"]["key"], value, source, "red-circle") for task, value, source in expected}
    assert not run_import(store.store, str(file)).new


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("not json", "is not JSON; expected the file that the page"),
        ("{}", "is JSON of another kind"),
        ("[]", "no question is answered"),
        ('[{"data": {}}]', "is JSON of another kind"),
        ('[{"data": {"image": "x"}, "annotations": []}]', r"0\.data\.dataset: Field required"),
        (json.dumps({"format": "clipdecoder-answers", "version": 2, "model_id": "m", "answers": []}), "version"),
        (json.dumps({"format": "clipdecoder-answers", "version": 1, "model_id": "m", "answers": []}), "no question"),
        (
            json.dumps({"format": "clipdecoder-answers", "version": 1, "model_id": "m", "answers": [row(value=2)]}),
            "value",
        ),
        (
            json.dumps({"format": "clipdecoder-answers", "version": 1, "model_id": "m", "answers": [row(at="noon")]}),
            "at",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(tagged: World, tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(RequestError, match=complaint):
        run_import(tagged.store, str(path))
    assert not Path(tagged.store, "annotations").exists()


# --- command line ----------------------------------------------------------------------------------------------------


def test_commands(store: World, tmp_path: Path) -> None:
    runner = CliRunner()
    words = ["review", "export", "--to", str(tmp_path / "out"), "--per-label", "2", "--labels", "red-circle, blue-star"]
    said = runner.invoke(app, [*words, "--store", store.store, "--json"], catch_exceptions=False)
    assert said.exit_code == 0 and json.loads(said.stdout)["tasks"] == 4
    file = str(answers_file(tmp_path, [row()]))
    said = runner.invoke(app, ["review", "import", file, "--store", store.store], catch_exceptions=False)
    assert said.exit_code == 0 and said.stdout.startswith("answers: 1, of them 1 yes, 0 no, 0 unsure; labels: 1")


def test_no_model_is_loaded(store: World, tmp_path: Path) -> None:
    file = str(answers_file(tmp_path, [row()]))
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(repr(set(sys.modules)))"
    for words in (["export", "--to", str(tmp_path / "out")], ["import", file]):
        command = [sys.executable, "-c", program, "review", *words, "--store", store.store]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert not {name.partition(".")[0] for name in eval(done.stderr)} & {"torch", "prefect", "open_clip", "timm"}


def test_the_configuration_offers_what_the_page_does() -> None:
    choices = [choice.attrib for choice in ElementTree.fromstring(LABEL_CONFIG).iter("Choice")]
    assert {(each["value"], each["hotkey"]) for each in choices} == {("yes", "y"), ("no", "n"), ("unsure", "u")}
