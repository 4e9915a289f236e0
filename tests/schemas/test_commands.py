"""Commands to copy: a shell makes the same words of them."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.commands import shell

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
