"""Commands to copy: a shell makes the same words of them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.commands import commands_about, shell, store_command

NASTY = ["my store/it's", 'a "b"', "$HOME `id` \\ !x", "select 'x'", "", "*.tar", "~", "new\nline", "é;&|#"]


@given(st.lists(st.text(max_size=12), max_size=5))
def test_a_shell_reads_the_words_again(words: list[str]) -> None:
    assert shlex.split(shell(*words)) == words


@pytest.mark.parametrize("word", NASTY)
def test_a_real_shell_does(word: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf %s {shell(word)}"], capture_output=True, text=True, check=True)
    assert done.stdout == word


def test_it_reads_well() -> None:
    assert shell("clipdecoder", "tag", "SHARDS", "--store", "my store") == "clipdecoder tag SHARDS --store 'my store'"
    assert shell("select 'x'") == "\"select 'x'\""


def test_a_store_is_named_where_it_is_another_one_than_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPDECODER_STORE", raising=False)
    assert store_command("audit") == store_command("audit", store="store") == "clipdecoder audit"
    with commands_about("it's my store"):
        assert store_command("audit") == 'clipdecoder audit --store "it\'s my store"'
        assert store_command("audit", store="store") == "clipdecoder audit"
        with commands_about(None):
            assert store_command("audit") == "clipdecoder audit"
    assert store_command("audit") == "clipdecoder audit"


def test_the_default_store_is_that_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPDECODER_STORE", raising=False)
    Path("clipdecoder.toml").write_text('store = "a b"')
    assert store_command("audit", store="a b") == "clipdecoder audit"
    assert store_command("audit", store="store") == "clipdecoder audit --store store"
    monkeypatch.setenv("CLIPDECODER_STORE", "other")
    assert store_command("audit", store="a b") == "clipdecoder audit --store 'a b'"
    assert store_command("audit", store="other") == "clipdecoder audit"
    Path("clipdecoder.toml").write_text("unknown = 1")
    assert store_command("audit", store="a b") == "clipdecoder audit --store 'a b'"
