"""`annotations import`: a file of annotations becomes answers of the store. Computes nothing, reads no shard."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from schemas.annotations import ImportReport, ImportRequest, Named
from schemas.counts import counted
from schemas.errors import ConfigError, RequestError
from schemas.label_words import LabelWords
from schemas.taxonomy import Taxonomy
from storage.annotation_formats.content import Entry, FileContent, Picture
from storage.annotation_formats.reader import read_annotation_file
from storage.annotation_precedence import count_outdated
from storage.annotations import Annotation, write_annotations
from storage.catalog import open_catalog
from storage.files import Folder
from storage.patterns import SHARD_SUFFIXES
from storage.picture_keys import MatchedPictures, match_pictures, match_two
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
        ConfigError: the time of the answers lies in the future.
        StoreError: there is no such store, or no such taxonomy in it.
    """
    _check_time(request)
    folder = Folder(request.store)
    with open_catalog(folder) as connection:
        taxonomy = find_taxonomy(folder, request.taxonomy)
        content = read_annotation_file(request.file, request.format)
        entries = [_placed(entry, request) for entry in content.entries]
        matched = match_pictures(connection, (entry.picture for entry in entries))
        torn = match_two(connection, [(entry.picture, entry.beside) for entry in entries], matched)
        bad = [_torn(entry, key) for entry, key in zip(entries, torn, strict=True) if key is not None]
        entries = [entry for entry, key in zip(entries, torn, strict=True) if key is None]
        content = replace(content, entries=entries, bad=[*content.bad, *bad])
        _check_rows(content, request)
        _check_pictures(matched, request)
        words = LabelWords(taxonomy)
        said = list(_said(entries, matched, words, request))
        named = {label_id for each in said for label_id, _ in each.values}
        every = named.union(words.kept(content.words)) if request.complete else frozenset()
        _check_labels(named | every, words, taxonomy, content, request)
        written = write_annotations(folder, _annotations(said, sorted(every)))
        outdated = count_outdated(connection, folder, written.path)
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
        retired=_named(sorted(filter(words.is_retired, named | every))),
        contradictions=_named(_contradictions(said)),
        outdated=outdated,
        unknown_keys=_named([matched.keys[each] for each in matched.unknown if each not in matched.elsewhere]),
        misplaced=_named([_misplaced(picture, places) for picture, places in matched.elsewhere.items()]),
        ambiguous=_named([path.name for path in matched.ambiguous]),
        unanswered=content.unanswered,
        bad=_named(content.bad),
    )


def _placed(entry: Entry, request: ImportRequest) -> Entry:
    """Return the entry with the dataset of the request, where it names none, and its shard as the store names it."""
    dataset, shard = entry.picture.dataset or request.dataset, entry.picture.shard
    for suffix in SHARD_SUFFIXES:
        shard = shard.removesuffix(suffix) if shard is not None else None
    beside = replace(entry.beside, dataset=dataset, shard=shard) if entry.beside is not None else None
    return replace(entry, picture=replace(entry.picture, dataset=dataset, shard=shard), beside=beside)


def _torn(entry: Entry, key: str) -> str:
    """Return what is wrong with a row whose path is the sample of another key than the one that it has."""
    path = entry.beside.name if entry.beside is not None else ""
    both = f"key {entry.picture.name!r} and path {path!r}"
    return f"{both} name two pictures (the path is {key!r}); leave one of them empty"


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
            values=tuple((label_id, value) for word, value in entry.said for label_id in words.kept((word,))),
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


def _contradictions(said: Sequence[_Said]) -> list[str]:
    """Return keys and labels of which the file says both yes and no of one time."""
    values: dict[tuple[object, ...], set[int | None]] = defaultdict(set)
    for each in said:
        for label_id, value in each.values:
            values[each.sample, each.key, label_id, each.at].add(value)
    return [f"{key}: {label_id}" for (_, key, label_id, _), found in values.items() if {0, 1} <= found]


def _misplaced(picture: Picture, places: Sequence[tuple[str, str]]) -> str:
    """Return where a picture is not, and where it is instead."""
    shown = ", ".join(_place(*place) for place in places[:_EXAMPLES]) + (", ..." if len(places) > _EXAMPLES else "")
    return f"{picture.name!r} is not in {_place(picture.dataset, picture.shard)}, but in {shown}"


def _place(dataset: str | None, shard: str | None) -> str:
    parts = (f"shard {shard!r}" if shard else "", f"dataset {dataset!r}" if dataset else "")
    return " of ".join(filter(None, parts))


def _check_time(request: ImportRequest) -> None:
    """Refuse a time that is still to come: its answers would count before all that are given until then."""
    now = datetime.now(UTC)
    if request.at is not None and request.at > now:
        raise ConfigError(
            f"at = {request.at.isoformat()} is in the future: it is {now.isoformat(timespec='seconds')}; give the time "
            "of the answers with its zone, such as 2026-05-31T12:00+02:00, or leave it out: now"
        )


def _check_rows(content: FileContent, request: ImportRequest) -> None:
    """Refuse a file that says nothing about any picture."""
    if content.entries:
        return
    if content.bad:
        problems = "\n  ".join(content.bad[:_EXAMPLES])
        rows = counted(len(content.bad), "row")
        raise RequestError(f"{request.file!r} has {rows}, and none can be read:\n  {problems}")
    hint = f": of {counted(content.unanswered, 'task')} none has an answer yet" if content.unanswered else ""
    raise RequestError(f"{request.file!r} says nothing about any picture{hint}")


def _check_pictures(matched: MatchedPictures, request: ImportRequest) -> None:
    """Refuse a file none of whose pictures is a sample of the store: it is about others, or names them otherwise."""
    if matched.num_known:
        return
    if matched.elsewhere:
        places = [_misplaced(picture, places) for picture, places in matched.elsewhere.items()]
        raise RequestError(
            f"{request.file!r}: the store has its pictures, but not in the dataset or shard that the file, or "
            "--dataset, says: "
            + "; ".join(places[:_EXAMPLES])
            + (f"; and {len(places) - _EXAMPLES} others" if len(places) > _EXAMPLES else "")
        )
    example = matched.example
    has = f"has keys such as {example!r}" if example is not None else "has no samples yet: tag the shards first"
    where = f"dataset {request.dataset!r} of the store" if request.dataset else "the store"
    said = _named([path.name for path in (*matched.ambiguous, *matched.unknown)])
    several = f"; several keys would fit {counted(len(matched.ambiguous), 'path')} of them" if matched.ambiguous else ""
    raise RequestError(f"{request.file!r}: {said.line(f'pictures, none of them in {where}')}{several}; the store {has}")


def _check_labels(
    labels: set[str], words: LabelWords, taxonomy: Taxonomy, content: FileContent, request: ImportRequest
) -> None:
    """Refuse a file that names no label of the taxonomy."""
    if labels:
        return
    if not words.unknown:
        bad = f" ({counted(len(content.bad), 'row', 'cannot')} be read: {content.bad[0]}, ...)" if content.bad else ""
        listed = ", ".join(content.words[:_EXAMPLES]) + (", ..." if len(content.words) > _EXAMPLES else "")
        hint = (
            f"; it lists {listed}: if somebody looked for all of them on every picture, give --complete, which takes "
            "a label that a picture does not name as a no"
        )
        raise RequestError(f"{request.file!r} names no label on any picture{bad}{hint if content.words else ''}")
    said = _named([word for word, _ in words.unknown.most_common()])
    known = ", ".join(label.id for label in taxonomy.active_labels()[:_EXAMPLES])
    raise RequestError(
        f"{request.file!r}: {said.line(f'words, none of them a label of {taxonomy.name!r}')}; the taxonomy knows "
        f"{known}, ...: add the words as synonyms, or give another with --taxonomy"
    )


def _named(texts: Sequence[str]) -> Named:
    return Named(count=len(texts), examples=tuple(texts[:_EXAMPLES]))
