"""Tags go into a `.json` under one key, and everything else in it stays as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.export import TAGS_KEY
from storage.exports.side_files import with_tags

SAID = {"model_id": "m", "taxonomy_digests": ["t"], "tags": [{"label_id": "dog", "score": 0.75}]}
OTHER = {"model_id": "n", "taxonomy_digests": ["t"], "tags": []}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values), st.sampled_from((None, 1)), st.booleans())
def test_any_object_keeps_what_it_says(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    # Half a surrogate pair can stand in a file as an escape alone.
    written = json.dumps(value, indent=indent, ensure_ascii=ascii_only or "\\ud" in json.dumps(value))
    once = with_tags(f"\n{written} \n".encode(), SAID)
    assert once is not None
    rest = {name: each for name, each in value.items() if name != TAGS_KEY}
    assert json.loads(once) == rest | {TAGS_KEY: SAID}
    again = with_tags(once, OTHER)
    assert again is not None and json.loads(again) == rest | {TAGS_KEY: OTHER}


def test_a_sample_without_a_side_file_gets_one() -> None:
    assert json.loads(with_tags(None, SAID) or b"") == {TAGS_KEY: SAID}


@pytest.mark.parametrize(
    "content",
    [
        b'{"n": 1.50, "big": 1e400, "a": 1, "a": 2, "\xc3\xa9": "\\ud800"}',
        b'\xef\xbb\xbf{\n  "labels": []\n}\n',
        b"{ }",
    ],
)
def test_what_stands_there_stays_byte_for_byte(content: bytes) -> None:
    tagged = with_tags(content, SAID)
    assert tagged is not None and tagged.startswith(content.rstrip()[:-1].rstrip())
    assert json.loads(tagged)[TAGS_KEY] == SAID


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'"dog"', b"{", b'{"a": 1} {}', b"\xff", '{"a": 1}'.encode("utf-16"), b"[" * 100_000]
)
def test_what_is_no_object_has_no_keys(content: bytes) -> None:
    assert with_tags(content, SAID) is None
