"""`annotations import`: a file of annotations becomes answers of the store. Computes nothing, reads no shard."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from schemas.annotations import ImportReport, ImportRequest, Named
from schemas.errors import RequestError
from schemas.label_words import LabelWords
from schemas.taxonomy import Taxonomy
from storage.annotation_formats.content import Entry, FileContent
from storage.annotation_formats.reader import read_annotation_file
from storage.annotations import Annotation, write_annotations
from storage.catalog import open_catalog
from storage.files import Folder
from storage.picture_keys import MatchedPictures, match_pictures
from storage.taxonomies import find_taxonomy

_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """What a file says of one sample at one place, by label."""

    dataset: str | None
    shard: str | None
    key: str
    values: tuple[tuple[str, int | None], ...]
    at: datetime | None
    source: str

    @property
    def sample(self) -> tuple[str | None, str | None, str]:
        """Whom it is about."""
        return self.dataset, self.shard, self.key

    def annotation(self, label_id: str, value: int | None, at: datetime | None) -> Annotation:
        """Return one answer about the sample."""
        return Annotation(
            dataset=self.dataset,
            shard=self.shard,
            key=self.key,
            label_id=label_id,
            value=value,
            source=self.source,
            at=at,
        )


def run_import(request: ImportRequest) -> ImportReport:
    """Bring a file's annotations into the store. The same file twice changes nothing.

    Raises:
        RequestError: the file cannot be read, has another format, or says nothing about labels and samples that the
            store knows.
        StoreError: there is no such store, or no such taxonomy in it.
    """
    folder = Folder(request.store)
    with open_catalog(folder) as connection:
        taxonomy = find_taxonomy(folder, request.taxonomy)
        content = read_annotation_file(request.file, request.format)
        entries = [_placed(entry, request) for entry in content.entries]
        _check_rows(content, request)
        matched = match_pictures(connection, (entry.picture for entry in entries))
    _check_pictures(matched, request)
    words = LabelWords(taxonomy)
    said = list(_said(entries, matched, words, request))
    named = {label_id for each in said for label_id, _ in each.values}
    every = named.union(words.named(content.words)) if request.complete else frozenset()
    _check_labels(named | every, words, taxonomy, request)
    written = write_annotations(folder, _annotations(said, sorted(every)))
    return ImportReport(
        file=request.file,
        format=content.format,
        taxonomy=taxonomy.name,
        path=written.path,
        new=written.new,
        rows=written.rows,
        samples=len({each.sample for each in said if each.values or every}),
        labels=len(named | every),
        unknown_words=_named([word for word, _ in words.unknown.most_common()]),
        unknown_keys=_named([matched.keys[picture] for picture in matched.unknown]),
        ambiguous=_named([path.name for path in matched.ambiguous]),
        unanswered=content.unanswered,
        bad=_named(content.bad),
    )


def _placed(entry: Entry, request: ImportRequest) -> Entry:
    """Return the entry with the dataset of the request, where it names none itself."""
    if request.dataset is None or entry.picture.dataset is not None:
        return entry
    return replace(entry, picture=replace(entry.picture, dataset=request.dataset))


def _said(
    entries: Sequence[Entry], matched: MatchedPictures, words: LabelWords, request: ImportRequest
) -> Iterator[_Said]:
    """Yield what is said of pictures that have a key, about labels that the taxonomy knows."""
    source = request.source or posixpath.basename(request.file)
    for entry in entries:
        key = matched.keys.get(entry.picture)
        if key is None:
            continue
        yield _Said(
            dataset=entry.picture.dataset,
            shard=entry.picture.shard,
            key=key,
            values=tuple((label_id, value) for word, value in entry.said for label_id in words.named((word,))),
            at=entry.at or request.at,
            source=entry.source or source,
        )


def _annotations(said: Sequence[_Said], every: Sequence[str]) -> Iterator[Annotation]:
    """Yield every answer, then for each sample a no to those of `every` label that it has no answer for."""
    for each in said:
        for label_id, value in each.values:
            yield each.annotation(label_id, value, each.at)
    samples: dict[tuple[str | None, str | None, str], list[_Said]] = defaultdict(list)
    for each in said if every else ():
        samples[each.sample].append(each)
    for of_sample in samples.values():
        answered = {label_id for each in of_sample for label_id, _ in each.values}
        at = max((each.at for each in of_sample if each.at is not None), default=None)
        for label_id in every:
            if label_id not in answered:
                yield of_sample[-1].annotation(label_id, 0, at)


def _check_rows(content: FileContent, request: ImportRequest) -> None:
    """Refuse a file that says nothing about any picture."""
    if content.entries:
        return
    if content.bad:
        problems = "\n  ".join(content.bad[:_EXAMPLES])
        raise RequestError(f"{request.file!r}: none of its {len(content.bad)} rows can be read:\n  {problems}")
    hint = f": its {content.unanswered} tasks have no answer yet" if content.unanswered else ""
    raise RequestError(f"{request.file!r} says nothing about any picture{hint}")


def _check_pictures(matched: MatchedPictures, request: ImportRequest) -> None:
    """Refuse a file none of whose pictures is a sample of the store: it is about others, or names them otherwise."""
    if matched.num_known:
        return
    example = matched.example
    has = f"has keys such as {example!r}" if example is not None else "has no samples yet: tag the shards first"
    where = f"dataset {request.dataset!r} of the store" if request.dataset else "the store"
    said = _named([path.name for path in (*matched.ambiguous, *matched.unknown)])
    several = f"; {len(matched.ambiguous)} of them are paths that several keys would fit" if matched.ambiguous else ""
    raise RequestError(f"{request.file!r}: {said.line(f'pictures, none of them in {where}')}{several}; the store {has}")


def _check_labels(labels: set[str], words: LabelWords, taxonomy: Taxonomy, request: ImportRequest) -> None:
    """Refuse a file that names no label of the taxonomy."""
    if labels:
        return
    said = _named([word for word, _ in words.unknown.most_common()])
    known = ", ".join(label.id for label in taxonomy.active_labels()[:_EXAMPLES])
    raise RequestError(
        f"{request.file!r}: {said.line(f'words, none of them a label of {taxonomy.name!r}')}; the taxonomy knows "
        f"{known}, ...: add the words as synonyms, or give another with --taxonomy"
    )


def _named(texts: Sequence[str]) -> Named:
    return Named(count=len(texts), examples=tuple(texts[:_EXAMPLES]))
