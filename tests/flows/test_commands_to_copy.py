"""Commands that errors and pages tell a person to give: a shell takes them, whatever the paths in them hold."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.browse.exports import command
from flows.cli.app import app
from flows.search import run_search
from schemas.errors import ConfigError, RequestError, StoreError
from schemas.search import SearchRequest
from storage.annotation_formats.reader import read_annotation_file
from storage.catalog import open_catalog
from storage.catalog_file import catalog_file
from storage.files import Folder
from storage.taxonomies import taxonomies_in_force
from tests.flows.world import make_world, pictures

ODD = 'it\'s my "folder" $HOME'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder whose name a shell would take apart."""
    folder = tmp_path / ODD
    folder.mkdir()
    return folder


def told(message: str) -> list[str]:
    """Return the words of the command in a message."""
    (found,) = re.findall(r"`(clipdecoder .*?)`", message)
    return shlex.split(found)


def test_no_store(place: Path) -> None:
    with pytest.raises(StoreError) as raised:
        open_catalog(str(place / "none"))
    assert told(str(raised.value))[-1] == str(place / "none")


def test_the_file_of_the_review_page(place: Path) -> None:
    path = place / "answers.json"
    path.write_text(json.dumps({"format": "clipdecoder-answers"}))
    with pytest.raises(RequestError) as raised:
        read_annotation_file(str(path))
    assert told(str(raised.value))[-1] == str(path)


def test_a_key_that_several_shards_have(place: Path) -> None:
    world = make_world(place, shards=0)
    for name in ("a b", "it's"):
        world.shard(name, pictures(0, 1))
    world.tag()
    (key,) = {key for (key,) in world.ask("select key from samples")}
    with pytest.raises(ConfigError) as raised:
        run_search(SearchRequest(store=world.store, like=key))
    choices = str(raised.value).partition("say which one: ")[2].split("; ")
    assert [shlex.split(each)[3] for each in choices] == ["a b", "it's"]


def test_a_catalog_file(place: Path) -> None:
    world = make_world(place, shards=1)
    world.tag()
    record, _ = catalog_file(Folder(world.store))
    path = str(place / "store.duckdb")
    (line,) = (line for line in record.model_copy(update={"path": path}).lines() if "duckdb -readonly" in line)
    assert shlex.split(line.rpartition(": ")[2]) == ["duckdb", "-readonly", path]


def test_the_export_of_a_page(place: Path) -> None:
    words = shlex.split(command(str(place), "select key from tags where label_id = 'dog'", "model:m1"))
    assert words[2:] == [
        *("--sql", "select key from tags where label_id = 'dog'", "--to", "export/{:05d}.tar"),
        *("--store", str(place), "--model", "m1"),
    ]


# What prints commands about its store, and how the one begins that is looked for.
PRINTING = {
    ("quality",): "sql",
    ("duplicates",): "export",
    ("taxonomy", "status"): "retrain",
    ("taxonomy", "withdraw", "TAXONOMY", "--plan"): "taxonomy apply",
    ("taxonomy", "withdraw", "TAXONOMY"): "taxonomy apply",
    ("backfill", "--plan"): "taxonomy status",
    ("audit",): "quality",
}


def printed(text: str) -> list[list[str]]:
    """Return the words of every command in a text that stands between backticks, or to the end of a line."""
    found = re.findall(r"`clipdecoder (.*?)`|: clipdecoder (.*)$", text, re.M)
    return [shlex.split(quoted or last) for quoted, last in found]


@pytest.mark.parametrize("as_default", [False, True])
def test_summaries_name_a_store_that_is_not_the_default(
    place: Path, as_default: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(place, shards=1)
    world.tag()
    (taxonomy,) = (record.name for record in taxonomies_in_force(Folder(world.store)))
    monkeypatch.chdir(place)
    monkeypatch.setenv("CLIPDECODER_ORCHESTRATE", "false")
    if as_default:
        monkeypatch.setenv("CLIPDECODER_STORE", world.store)
    for words, start in PRINTING.items():
        if words == ("audit",):
            (statistics,) = Path(world.store).glob("quality/**/*.parquet")
            statistics.write_bytes(b"damaged")
        given = [word.replace("TAXONOMY", taxonomy) for word in words]
        done = CliRunner().invoke(app, given if as_default else [*given, "--store", world.store])
        (command, *_) = (each for each in printed(done.output) if " ".join(each).startswith(start))
        assert (command[-2:] == ["--store", world.store]) is not as_default, (words, done.output)
