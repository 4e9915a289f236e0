"""From an annotator's words to label ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from schemas.taxonomy import Label, Taxonomy


class LabelWords:
    """Finds the label that a word means: an id, else a name or synonym, whatever its case.

    `find` gives merged labels as the label that answers for them, `named` as themselves, and `kept` knows retired
    labels too. A word that two labels share means neither, unless it is the id of one, or one answers for the other.
    Words that mean no label are counted in `unknown`.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        labels = taxonomy.scored_labels()
        self.unknown: Counter[str] = Counter()
        self._targets = {label.id: taxonomy.resolve(label.id) for label in labels}
        self._named = _meanings(labels, self._targets)
        # Retired, or merged into a retired one. A word that others have means none of these.
        retired = [label for label in taxonomy.labels if label.id not in self._targets]
        taken = {word for word, _ in _words(labels)} | self._named.keys()
        meanings = _meanings(retired, {label.id: taxonomy.resolve(label.id) for label in retired})
        self._kept = self._named | {word: label_id for word, label_id in meanings.items() if word not in taken}

    @property
    def meanings(self) -> Mapping[str, str]:
        """The label that each word names, by the word's `normal_word`; merged labels are named as themselves."""
        return self._named

    def named(self, words: Iterable[str]) -> Iterator[str]:
        """Yield the label that each word names, where it names one: a merged label as itself."""
        yield from self._found(words, self._named)

    def kept(self, words: Iterable[str]) -> Iterator[str]:
        """Yield what `named` does, and of a word that only a retired label has that label: it may be restored."""
        yield from self._found(words, self._kept)

    def is_retired(self, label_id: str) -> bool:
        """Whether a label that `kept` gave is retired, or merged into one that is."""
        return label_id not in self._targets

    def find(self, words: Iterable[str]) -> Iterator[str]:
        """Yield the label of each word that means one: of a merged label the one that answers for it."""
        return (self._targets[label_id] for label_id in self.named(words))

    def _found(self, words: Iterable[str], meanings: Mapping[str, str]) -> Iterator[str]:
        for word in words:
            label_id = meanings.get(normal_word(word))
            if label_id is None:
                self.unknown[word] += 1
            else:
                yield label_id


def normal_word(word: str) -> str:
    """Return what words that mean the same have in common. Ids are so written already."""
    return word.strip().casefold()


def _words(labels: Iterable[Label]) -> Iterator[tuple[str, str]]:
    """Yield every word of a label beside its id, with the id."""
    for label in labels:
        for word in (label.name, *label.synonyms, *(label.query_names or ())):
            yield normal_word(word), label.id


def _meanings(labels: Sequence[Label], targets: Mapping[str, str]) -> dict[str, str]:
    """Return the label of each word that means one. Ids come last: they count for more than names."""
    return _unambiguous(_words(labels), targets) | {label.id: label.id for label in labels}


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
