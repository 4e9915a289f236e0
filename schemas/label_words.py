"""From an annotator's words to label ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from schemas.taxonomy import Taxonomy


class LabelWords:
    """Finds the label that a word means: an id, else a name or synonym, whatever its case.

    `find` gives merged labels as the label that answers for them, `named` as themselves. A word that two labels share
    means neither, unless it is the id of one, or one answers for the other. Words that mean no label are counted in
    `unknown`.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        labels = taxonomy.scored_labels()
        self.unknown: Counter[str] = Counter()
        self._targets = {label.id: taxonomy.resolve(label.id) for label in labels}
        self._named = _unambiguous(
            (
                (normal_word(word), label.id)
                for label in labels
                for word in (label.name, *label.synonyms, *(label.query_names or ()))
            ),
            self._targets,
        )
        self._named |= {label_id: label_id for label_id in self._targets}

    @property
    def meanings(self) -> Mapping[str, str]:
        """The label that each word names, by the word's `normal_word`; merged labels are named as themselves."""
        return self._named

    def named(self, words: Iterable[str]) -> Iterator[str]:
        """Yield the label that each word names, where it names one: a merged label as itself."""
        for word in words:
            label_id = self._named.get(normal_word(word))
            if label_id is None:
                self.unknown[word] += 1
            else:
                yield label_id

    def find(self, words: Iterable[str]) -> Iterator[str]:
        """Yield the label of each word that means one: of a merged label the one that answers for it."""
        return (self._targets[label_id] for label_id in self.named(words))


def normal_word(word: str) -> str:
    """Return what words that mean the same have in common. Ids are so written already."""
    return word.strip().casefold()


def _unambiguous(pairs: Iterable[tuple[str, str]], targets: Mapping[str, str]) -> dict[str, str]:
    """Return the label of each word: where merged labels share it, the one that answers for them if it does too."""
    meanings: dict[str, set[str]] = {}
    for word, label_id in pairs:
        meanings.setdefault(word, set()).add(label_id)
    return {
        word: min(found, key=lambda label_id: (targets[label_id] != label_id, label_id))
        for word, found in meanings.items()
        if len({targets[label_id] for label_id in found}) == 1
    }
