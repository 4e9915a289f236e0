"""From an annotator's words to label ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from schemas.taxonomy import Taxonomy


class LabelWords:
    """Finds the label that a word means: an id, else a name or synonym, whatever its case.

    Merged labels are found as the label that answers for them. A word that two labels share means neither, unless it
    is the id of one. Words that mean no label are counted in `unknown`.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        active = {label.id for label in taxonomy.active_labels()}
        self.unknown: Counter[str] = Counter()
        self._known = _unambiguous(
            (word.casefold(), taxonomy.resolve(label.id))
            for label in taxonomy.scored_labels()
            for word in (label.name, *label.synonyms, *(label.query_names or ()))
        )
        self._known |= {label.id: taxonomy.resolve(label.id) for label in taxonomy.scored_labels()}
        assert set(self._known.values()) <= active

    def find(self, words: Iterable[str]) -> Iterator[str]:
        """Yield the label of each word that means one."""
        for word in words:
            label_id = self._known.get(word, self._known.get(word.strip().casefold()))
            if label_id is None:
                self.unknown[word] += 1
            else:
                yield label_id


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    meanings: dict[str, set[str]] = {}
    for word, label_id in pairs:
        meanings.setdefault(word, set()).add(label_id)
    return {word: next(iter(found)) for word, found in meanings.items() if len(found) == 1}
