"""The taxonomy: a versioned set of labels with the texts that describe them.

Seen and novel are not here: they are facts about a model. The same label can be novel today and seen after retraining.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError

from schemas.digests import digest_of
from schemas.errors import TaxonomyError, one_of

DEFAULT_TEMPLATES = ("a photo of a {}.",)

RESERVED_IDS = frozenset(("all", "new"))

LabelId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$", max_length=200)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Template = Annotated[str, StringConstraints(pattern=r"\{\}")]


class Label(BaseModel):
    """One concept. Its id is stable for ever; every text about it may change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: LabelId
    name: Text
    synonyms: tuple[Text, ...] = Field(default=(), strict=False)
    # What the templates are filled with, where that is not name and synonyms: so that the name that people see can
    # change without another query, and so without new scores.
    query_names: tuple[Text, ...] | None = Field(default=None, min_length=1, strict=False)
    description: Text | None = None
    templates: tuple[Template, ...] | None = Field(default=None, min_length=1, strict=False)
    parent: LabelId | None = None
    merged_into: LabelId | None = None
    retired: bool = False

    @property
    def active(self) -> bool:
        """Whether the label is shown under its own name (neither retired nor merged into another)."""
        return not self.retired and self.merged_into is None


class ScoredLabel(BaseModel):
    """A label as a run scored it: its id, its name then, and the digest of the texts that made its query."""

    model_config = ConfigDict(frozen=True)

    label_id: str
    name: str
    query_digest: str


class VocabularyLabel(BaseModel):
    """A label that is to be scored, with the texts whose embeddings are averaged into its query."""

    model_config = ConfigDict(frozen=True)

    label_id: str
    name: str
    texts: tuple[str, ...]

    @cached_property
    def query_digest(self) -> str:
        """Digest of the texts: a mean does not know their order, so neither does this."""
        return digest_of(sorted(self.texts))

    def scored(self) -> ScoredLabel:
        """Return the label as runs remember it: the taxonomy, which has the texts, is in the store as well."""
        return ScoredLabel(label_id=self.label_id, name=self.name, query_digest=self.query_digest)


class Taxonomy(BaseModel):
    """A whole taxonomy file, checked: ids unique, parents known, no cycles, merges resolve."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Text
    templates: tuple[Template, ...] = Field(default=DEFAULT_TEMPLATES, min_length=1, strict=False)
    labels: tuple[Label, ...] = Field(min_length=1, strict=False)

    _source: str = PrivateAttr(default="taxonomy")
    _lines: tuple[int, ...] = PrivateAttr(default=())

    @property
    def digest(self) -> str:
        """Content hash over the canonical form: order of labels and layout of the file do not count."""
        # Fields that are not set do not count: a version that knows one more gives old taxonomies their old digests.
        canonical = self.model_dump(mode="json")
        for label in canonical["labels"]:
            if label["query_names"] is None:
                del label["query_names"]
        canonical["labels"].sort(key=lambda label: label["id"])
        return digest_of(canonical)

    def active_labels(self) -> tuple[Label, ...]:
        """Return the labels that are shown under their own names, in file order."""
        return tuple(label for label in self.labels if label.active)

    def scored_labels(self) -> tuple[Label, ...]:
        """Return the labels that images are scored for: the active ones, and those that were merged into them.

        A merged label goes on being scored, so that new shards count its pictures under its target as old ones do.
        """
        active = {label.id for label in self.active_labels()}
        return tuple(label for label in self.labels if not label.retired and self.resolve(label.id) in active)

    def texts_of(self, label: Label) -> tuple[str, ...]:
        """Return every text whose embeddings are averaged into the label's query.

        Each template (the label's own, or the taxonomy's) is filled with the name and with each synonym, or with the
        `query_names` in their place; the description stands by itself.
        """
        names = label.query_names or (label.name, *label.synonyms)
        templates = label.templates if label.templates is not None else self.templates
        filled = [template.replace("{}", name) for name in names for template in templates]
        return (*filled, label.description) if label.description else tuple(filled)

    def vocabulary(self, label_ids: Sequence[str] | None = None) -> tuple[VocabularyLabel, ...]:
        """Return the labels to score, in file order: all that are scored, or those named.

        Raises:
            TaxonomyError: a named label is not in the taxonomy, or is retired.
        """
        known = {label.id: label for label in self.scored_labels()}
        if label_ids is not None:
            unknown = [label_id for label_id in label_ids if label_id not in known]
            if unknown:
                raise TaxonomyError([one_of("or retired label", label_id, known) for label_id in unknown])
        wanted = known.keys() if label_ids is None else set(label_ids)
        return tuple(
            VocabularyLabel(label_id=label.id, name=label.name, texts=self.texts_of(label))
            for label in known.values()
            if label.id in wanted
        )

    def resolve(self, label_id: str) -> str:
        """Return the label that answers for `label_id` now: the end of its chain of merges, or itself."""
        while label_id in self.merges:
            label_id = self.merges[label_id]
        return label_id

    @cached_property
    def merges(self) -> dict[str, str]:
        """The label that each merged label was merged into, which may be merged itself."""
        return {label.id: label.merged_into for label in self.labels if label.merged_into}

    def locate(self, label_id: str) -> str:
        """Return where a label stands, `file:line`, for error messages."""
        for position, label in enumerate(self.labels):
            if label.id == label_id:
                return _at(self._source, self._lines, position)
        return self._source


def parse_taxonomy(text: str, *, source: str = "taxonomy.yaml") -> Taxonomy:
    """Return the taxonomy written in `text` (YAML, loaded safely; JSON is YAML too).

    Raises:
        TaxonomyError: with every violation found, each naming the label and its line in `source`.
    """
    from schemas.taxonomy_text import load_taxonomy_text  # YAML takes long to import, and few commands read any

    data, lines = load_taxonomy_text(text, source)
    try:
        taxonomy = Taxonomy.model_validate(data)
    except ValidationError as error:
        problems = [
            _describe(problem, data, lines, source) for problem in error.errors() if not _follows(problem, data)
        ]
        raise TaxonomyError(problems) from None
    problems = list(_structural_problems(taxonomy, lines, source))
    if problems:
        raise TaxonomyError(problems)
    taxonomy._source, taxonomy._lines = source, tuple(lines)
    return taxonomy


def _at(source: str, lines: Sequence[int], position: int) -> str:
    return f"{source}:{lines[position]}" if position < len(lines) else source


def _follows(problem: Any, data: dict[str, Any]) -> bool:
    """Whether a problem only follows from others: labels that are all wrong count as no labels."""
    return problem["type"] == "too_short" and problem["loc"] == ("labels",) and bool(data["labels"])


def _describe(problem: Any, data: dict[str, Any], lines: Sequence[int], source: str) -> str:
    """Turn one pydantic problem into `file:line: label 'x': field: what is wrong`."""
    location = list(problem["loc"])
    message = _in_plain_words(problem)
    if len(location) >= 2 and location[0] == "labels" and isinstance(location[1], int):
        entry = data["labels"][location[1]]
        if not isinstance(entry, dict):
            return f"{_at(source, lines, location[1])}: label {location[1] + 1}: {message}"
        label_id = entry.get("id", "?")
        field = ".".join(str(part) for part in location[2:])
        return f"{_at(source, lines, location[1])}: label {label_id!r}: {field + ': ' if field else ''}{message}"
    return f"{source}: {'.'.join(str(part) for part in location)}: {message}"


def _in_plain_words(problem: Any) -> str:
    value = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return one_of(
                "field", problem["loc"][-1], Label.model_fields if len(problem["loc"]) > 1 else Taxonomy.model_fields
            )
        case "missing":
            return "required, and not given"
        case "too_short" if problem["loc"] == ("labels",):
            return "must name one label at least"
        case "tuple_type":
            return f"must be a list, got {_written(value)}"
        case "model_type":
            return f"must be a mapping such as {{id: dog, name: dog}}, got {_written(value)}"
        case "string_type":
            return f"must be text, got {value!r}; put it in quotes"
        case "string_pattern_mismatch" if "{}" in str(problem["ctx"]["pattern"]).replace("\\", ""):
            return f"template {value!r} has no {{}} for the label's name"
        case "string_pattern_mismatch":
            return f"{value!r} must be made of a-z, 0-9, _ and - alone"
        case _:
            return f"{problem['msg']}, got {str(value)[:80]!r}"


def _written(value: Any) -> str:
    return "null" if value is None else repr(value)[:80]


def _structural_problems(taxonomy: Taxonomy, lines: Sequence[int], source: str) -> Iterator[str]:
    """Yield what the labels get wrong together."""
    first: dict[str, int] = {}
    for position, label in enumerate(taxonomy.labels):
        here = f"{_at(source, lines, position)}: label {label.id!r}"
        if label.id in RESERVED_IDS:
            yield f"{here}: this id is a word of `tag --labels`; choose another"
        if label.id in first:
            yield f"{here}: id already used at {_at(source, lines, first[label.id])}"
        first.setdefault(label.id, position)
    by_id = {label.id: label for label in taxonomy.labels}
    for position, label in enumerate(taxonomy.labels):
        here = f"{_at(source, lines, position)}: label {label.id!r}"
        for relation in ("parent", "merged_into"):
            target = getattr(label, relation)
            if target is not None and target not in by_id:
                yield f"{here}: {relation} {target!r} is not a label of this taxonomy"
            elif _in_cycle(label.id, relation, by_id):
                yield f"{here}: {relation} leads back to itself"


def _in_cycle(label_id: str, relation: str, by_id: dict[str, Label]) -> bool:
    """Whether following `relation` from the label comes back to it."""
    visited: set[str] = set()
    current: str | None = getattr(by_id[label_id], relation)
    while current is not None and current in by_id and current not in visited:
        if current == label_id:
            return True
        visited.add(current)
        current = getattr(by_id[current], relation)
    return False
