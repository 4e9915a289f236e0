"""Taking a taxonomy out of force: what the views show then, what stays, how it comes back, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from examples.scenes.render import taxonomy_yaml
from flows.apply import nothing_to_do
from flows.backfill import plan_backfill, run_backfill
from flows.cli.app import app
from flows.report.markdown import stored_markdown
from flows.retraining.run import run_retrain
from flows.retraining.status import store_status
from flows.review.export import run_export as ask_people
from flows.tagging.backfill_summary import describe_backfill, summarise_backfill
from flows.taxonomies.apply_summary import describe_plan
from flows.taxonomies.cost import cost_of
from flows.taxonomies.withdrawal import plan_withdrawal, run_withdrawal
from schemas.config import BackfillRequest, RetrainRequest
from schemas.errors import StoreError, TaxonomyError
from schemas.review import ReviewRequest
from storage.audit import audit_run
from storage.files import Folder
from storage.taxonomies import digest_in_force, find_taxonomy, load_taxonomy, read_taxonomy, taxonomy_path
from tests.flows.taxonomies.test_apply import apply, files, plan
from tests.flows.taxonomies.test_backfill import GROWN, VIEWS, contents, view
from tests.flows.world import LABELS, World, taxonomy_text


def withdraw(world: World) -> list[str]:
    return run_withdrawal(Folder(world.store), "t").lines()


def runs(world: World) -> dict[str, Any]:
    return contents(Path(world.store, "runs"))


def test_the_views_show_no_tags_of_it_and_nothing_is_deleted(world: World) -> None:
    world.tag()
    before, scores = files(world), world.ask("select count(*) from scores")
    said = "\n".join(withdraw(world))
    assert "out of force now" in said and f"{len(LABELS)} labels" in said and "tag" in said
    assert world.ask("from tags") == world.ask("from labels") == []
    assert world.ask("select count(*) from scores") == scores, "scores are facts"
    after = files(world)
    assert before.keys() == after.keys()
    assert [Path(name).name for name in before if before[name] != after[name]] == ["t.json"]
    assert audit_run(Folder(world.store), None).ok


def test_where_nothing_is_shown_since_then_it_is_said_why(world: World, tmp_path: Path) -> None:
    world.tag()
    ((run_id,),) = world.ask("select run_id from runs")
    digest = digest_in_force(Folder(world.store), "t")

    def told(*words: str) -> Any:
        return CliRunner().invoke(app, [*words, "--store", world.store])

    queried, page = ("sql", "from tags"), str(tmp_path / "page.html")
    exported = ("export", "--sql", "select distinct dataset, shard, key from tags", "--to", str(tmp_path / "tags.csv"))
    assert "out of force" not in told(*queried, "--run", run_id).stderr + told(*exported, "--run", run_id).stderr
    assert told("report", run_id, "-o", page).exit_code == 0 and "out of force" not in Path(page).read_text()
    withdraw(world)
    for words in (queried, (*queried, "--run", run_id[:8]), exported, (*exported, "--run", run_id)):
        said = told(*words).stderr
        assert said.count("no label and no tag is shown: taxonomy 't' was taken out of force on ") == 1, said
        assert f"`clipdecoder taxonomy apply {digest} --store {world.store}`" in said
        assert "out of force" not in told(*words).stdout
    assert told("report", run_id, "-o", page).exit_code == 0
    head = Path(page).read_text().partition("</header>")[0]
    assert "taxonomy &#39;t&#39; was taken out of force" in head and f"clipdecoder taxonomy apply {digest}" in head
    assert f"clipdecoder taxonomy apply {digest}" in stored_markdown(world.store, run_id)
    with pytest.raises(StoreError, match=f"nothing to ask: taxonomy 't' was taken out .*taxonomy apply {digest}"):
        ask_people(ReviewRequest(store=world.store), tmp_path / "review")


def test_applying_it_again_brings_it_back_and_scores_nothing(world: World) -> None:
    world.tag()
    shown, done = {name: view(world, name) for name in VIEWS}, runs(world)
    withdraw(world)
    planned = plan(world)
    assert not nothing_to_do(planned) and planned.cost.lacking == frozenset()
    assert "taken out of force; applying it puts it in force again" in describe_plan(planned).head()[0]
    outcome = apply(world)
    assert outcome.put_in_force and not outcome.backfills and runs(world) == done
    assert {name: view(world, name) for name in VIEWS} == shown


def test_the_last_version_is_applied_by_its_digest(world: World) -> None:
    world.tag()
    digest = digest_in_force(Folder(world.store), "t")
    (line,) = (line for line in withdraw(world) if f"clipdecoder taxonomy apply {digest}" in line)
    assert apply(world, taxonomy=digest).put_in_force, line
    assert world.ask("select count(*) > 0 from tags") == [(True,)]


def test_another_version_brings_its_new_labels_scored(world: World) -> None:
    world.tag()
    withdraw(world)
    (run,) = apply(world, taxonomy_text(GROWN)).backfills[0].runs
    assert {label.label_id for label in run.plan.vocabulary} == set(GROWN) - set(LABELS)
    assert world.ask("select count(distinct label_id) from labels") == [(len(GROWN),)]


def test_a_label_with_scores_cannot_be_removed_meanwhile(world: World) -> None:
    world.tag()
    withdraw(world)
    with pytest.raises(TaxonomyError, match=f"label '{LABELS[-1]}' was removed"):
        plan(world, taxonomy_text(LABELS[:-1]))


def test_tagging_with_its_file_puts_it_in_force_even_where_all_is_scored(world: World) -> None:
    world.tag()
    withdraw(world)
    world.tag()
    assert world.ask("select count(*) from labels") == [(len(LABELS),)]


def test_nothing_is_scored_or_retrained_for_it(world: World) -> None:
    world.tag()
    withdraw(world)
    folder = Folder(world.store)
    backfill = plan_backfill(BackfillRequest(store=world.store))
    assert backfill.runs == ()
    for told in (describe_backfill(backfill), summarise_backfill(run_backfill(backfill))):
        (line,) = told.lines()
        assert "every taxonomy was taken out of force" in line
    for wanted in (None, "t"):
        with pytest.raises(
            StoreError, match=r"'t' was taken out of force on .*`clipdecoder taxonomy apply \w+ --store"
        ):
            find_taxonomy(folder, "applied" if wanted is None else f"applied:{wanted}")
    with pytest.raises(StoreError, match="out of force"):
        run_retrain(RetrainRequest(store=world.store))
    assert cost_of(folder, load_taxonomy(str(world.taxonomy))).datasets, "what applying it again would cost is known"


def test_a_label_that_another_taxonomy_has_goes_on_being_shown(world: World) -> None:
    world.tag()
    first = LABELS[0]
    other = world.folder / "other.yaml"
    other.write_text(taxonomy_yaml([first]))
    world.tag(taxonomy=str(other))
    planned = plan_withdrawal(Folder(world.store), "t")
    assert planned.shared == (first,) and planned.labels == tuple(LABELS[1:])
    assert "1 label shown as before" in "\n".join(withdraw(world))
    assert world.ask("select label_id from labels") == [(first,)]
    assert find_taxonomy(Folder(world.store), "applied").name == load_taxonomy(str(other)).name


def test_the_command_says_what_it_does_before_and_after(world: World) -> None:
    world.tag()
    before = files(world)

    def told(*words: str) -> Any:
        words = ("taxonomy", "withdraw", *words, "--store", world.store, "--json")
        done = CliRunner().invoke(app, words, env={"CLIPDECODER_ORCHESTRATE": "false"})
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    planned = told("t", "--plan")
    assert planned["planned"] and planned["in_force"] and files(world) == before
    assert planned["labels"] == list(LABELS) and planned["datasets"] == ["world"]
    assert not told("t")["planned"]
    again = told("t")
    assert not again["in_force"]
    assert "nothing was done" in plan_withdrawal(Folder(world.store), "t").lines()[0]
    status = store_status(Folder(world.store))
    assert status.taxonomies == () and [record.name for record in status.withdrawn] == ["t"]
    assert "taxonomy 't' was taken out of force" in "\n".join(status.lines())


def test_a_version_that_is_lost_is_named_and_tagging_mends_it(world: World) -> None:
    world.tag()
    folder = Folder(world.store)
    taxonomy = load_taxonomy(str(world.taxonomy))
    lost = Path(world.store, taxonomy_path(taxonomy.digest))
    lost.unlink()
    for look in (lambda: plan_withdrawal(folder, "t"), lambda: store_status(folder), lambda: plan(world)):
        with pytest.raises(StoreError, match=f"{lost.name} is missing from the store .*; run `clipdecoder tag`"):
            look()
    world.tag()
    assert read_taxonomy(folder, taxonomy.digest).digest == taxonomy.digest and plan_withdrawal(folder, "t").in_force


def test_a_name_that_was_never_in_force_is_refused(world: World, tmp_path: Path) -> None:
    world.tag()
    with pytest.raises(StoreError, match="unknown taxonomy 'T'; known: t"):
        plan_withdrawal(Folder(world.store), "T")
    with pytest.raises(StoreError, match="there is no store"):
        plan_withdrawal(Folder(str(tmp_path / "nowhere")), "t")
