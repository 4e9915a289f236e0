"""Tags and concepts as labels: which are seen, which are novel, their ids, and the taxonomy file.

Seen labels are the tags that are no concept, novel labels are the concepts (925 and 81 in the official files). Names
are compared without regard to case, blanks and underscores; a tag that stands twice is one label.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas.taxonomy import RESERVED_IDS

TEMPLATE = "a photo of a {}."


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of NUS-WIDE: id -> name, seen ones first in the taxonomy."""

    seen: dict[str, str]
    novel: dict[str, str]
    of_columns: tuple[str | None, ...]  # of AllTags1k.txt: a seen label's id, or None for a tag that is a concept
    of_concepts: dict[str, str]  # concept as Concepts81.txt writes it -> a novel label's id

    def seen_of(self, columns: Iterable[int]) -> list[str]:
        """Return the seen labels of an image, given the columns in which it has a 1; each once."""
        return list(dict.fromkeys(label_id for column in columns if (label_id := self.of_columns[column])))

    def taxonomy_yaml(self) -> str:
        """Return the text of the taxonomy file. All texts are quoted: `no` and `2007` are names, too."""
        rows = (
            f"  - {{id: {json.dumps(label_id)}, name: {json.dumps(name, ensure_ascii=False)}}}"
            for label_id, name in (self.seen | self.novel).items()
        )
        return "\n".join(("name: nus-wide", f"templates: [{json.dumps(TEMPLATE)}]", "labels:", *rows, ""))


def make_labels(tags: Sequence[str], concepts: Sequence[str]) -> Labels:
    """Return the labels of a list of tags and a list of concepts."""
    novel_names = _by_spelling(concepts)
    seen_names = {key: name for key, name in _by_spelling(tags).items() if key not in novel_names}
    id_of = dict(zip((*seen_names, *novel_names), _label_ids((*seen_names, *novel_names)), strict=True))
    return Labels(
        seen={id_of[key]: name for key, name in seen_names.items()},
        novel={id_of[key]: name for key, name in novel_names.items()},
        of_columns=tuple(id_of[key] if (key := _spelling(tag)) in seen_names else None for tag in tags),
        of_concepts={concept: id_of[_spelling(concept)] for concept in concepts},
    )


def _by_spelling(names: Iterable[str]) -> dict[str, str]:
    """Return each name once, as it was first written, under its spelling."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(_spelling(name), _clean(name))
    return found


def _clean(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _spelling(name: str) -> str:
    return _clean(name).casefold()


def _label_ids(names: Iterable[str]) -> list[str]:
    """Return an id for each name, all different: ASCII letters and digits; a number where two would be equal."""
    taken = set(RESERVED_IDS)
    ids = []
    for name in names:
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        stem = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "label"
        label_id, number = stem, 1
        while label_id in taken:
            number += 1
            label_id = f"{stem}-{number}"
        taken.add(label_id)
        ids.append(label_id)
    return ids
