"""Taxonomies in the store: every version that ever scored something, and which version the views apply."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from schemas.commands import store_command
from schemas.digests import DIGEST_LENGTH
from schemas.errors import RequestError, StoreError, TaxonomyError, one_of
from schemas.manifest import TaxonomyInForce
from schemas.taxonomy import Taxonomy, parse_taxonomy
from storage.files import Folder, part_name, read_text
from storage.records import find_json, read_json, write_json

APPLIED = "applied"
_DIGEST = re.compile(rf"[0-9a-f]{{4,{DIGEST_LENGTH}}}")  # or the start of one, for which there is a message


def load_taxonomy(location: str) -> Taxonomy:
    """Return the taxonomy in a file.

    Raises:
        RequestError: it cannot be read.
        TaxonomyError: it breaks a rule.
    """
    return parse_taxonomy(read_text(location), source=location)


def find_taxonomy(folder: Folder, location: str) -> Taxonomy:
    """Return the taxonomy that a user names.

    Args:
        folder: the store.
        location: path or URL of a taxonomy file; the digest of a version that the store has; `applied` for the
            version in force, or `applied:NAME` where the store has taxonomies of several names.

    Raises:
        RequestError: the file cannot be read, the store has no such version, or none or several are applied.
        TaxonomyError: the file breaks a rule.
    """
    if location == APPLIED or location.startswith(f"{APPLIED}:"):
        return applied_taxonomy(folder, location.partition(":")[2] or None)
    if not _DIGEST.fullmatch(location):
        return load_taxonomy(location)
    if folder.exists(taxonomy_path(location)):
        return read_taxonomy(folder, location)
    try:
        return load_taxonomy(location)
    except TaxonomyError:
        raise
    except RequestError:
        raise StoreError(
            f"{location!r} is neither a file nor, digit for digit, a version in the store {folder.url!r}; `applied` "
            "is the one in force"
        ) from None


def applied_taxonomy(folder: Folder, name: str | None = None) -> Taxonomy:
    """Return the version in force of a taxonomy; without a name, of the only one.

    Raises:
        StoreError: none is applied, several are and no name is given, or none of this name is.
    """
    records = taxonomy_records(folder)
    known = {record.name: record for record in records if not record.withdrawn}
    withdrawn = [record for record in records if record.withdrawn and name in (None, record.name)]
    if withdrawn and (name is not None or not known):
        raise StoreError("; ".join(withdrawn_line(record, folder.url) for record in withdrawn))
    if not known:
        tag, apply = ("tag", "SHARDS", "--taxonomy", "FILE"), ("taxonomy", "apply", "FILE")
        either = " or ".join(f"`{store_command(*words, store=folder.url)}`" for words in (apply, tag))
        raise StoreError(f"no taxonomy is applied in the store {folder.url!r} yet; {either} does")
    if name is None and len(known) > 1:
        raise StoreError(
            f"several taxonomies are applied in this store: {', '.join(sorted(known))}; say which: "
            "applied:NAME where a version is asked for, --taxonomy NAME for `clipdecoder retrain`"
        )
    if name is not None and name not in known:
        raise StoreError(one_of("taxonomy", name, known))
    return read_taxonomy(folder, known[name or next(iter(known))].digest)


def withdrawn_line(record: TaxonomyInForce, store: str | None = None) -> str:
    """Say that a taxonomy was taken out of force, and how it comes back."""
    again = store_command("taxonomy", "apply", record.digest, store=store)
    return (
        f"taxonomy {record.name!r} was taken out of force on {record.since:%Y-%m-%d %H:%M} UTC; "
        f"`{again}` puts its last version in force again"
    )


def taxonomies_in_force(folder: Folder) -> list[TaxonomyInForce]:
    """Return which version of each taxonomy the views apply, by name."""
    return [record for record in taxonomy_records(folder) if not record.withdrawn]


def taxonomy_records(folder: Folder) -> list[TaxonomyInForce]:
    """Return the version of each taxonomy that is or, before it was withdrawn, was in force, by name."""
    paths = folder.list("taxonomies/current", ".json")
    return sorted((read_json(folder, path, TaxonomyInForce) for path in paths), key=lambda record: record.name)


def taxonomy_path(digest: str) -> str:
    """Return where a taxonomy stands: under its own digest, so it never changes."""
    return f"taxonomies/{digest}.json"


def write_taxonomy(folder: Folder, taxonomy: Taxonomy) -> None:
    """Keep a taxonomy for ever, under its digest."""
    if not folder.exists(taxonomy_path(taxonomy.digest)):
        write_json(folder, taxonomy_path(taxonomy.digest), taxonomy)


def read_taxonomy(folder: Folder, digest: str) -> Taxonomy:
    """Return a taxonomy that was kept.

    Raises:
        StoreError: it is lost, or damaged.
    """
    taxonomy = find_json(folder, taxonomy_path(digest), Taxonomy)
    if taxonomy is None:
        raise StoreError(
            f"{taxonomy_path(digest)} is missing from the store {folder.url!r}, and something was made with it; run "
            "`clipdecoder tag` with that taxonomy again, and it is written anew"
        )
    return taxonomy


def put_in_force(folder: Folder, taxonomy: Taxonomy) -> None:
    """Let the views apply this version of the taxonomy, for every dataset that was scored with one of its name."""
    before = digest_in_force(folder, taxonomy.name)
    if before != taxonomy.digest:
        record = TaxonomyInForce(name=taxonomy.name, digest=taxonomy.digest, since=datetime.now(UTC))
        write_json(folder, _in_force_path(taxonomy.name), record)


def withdraw(folder: Folder, name: str) -> None:
    """Let the views apply no version of a taxonomy, until one is put in force again. Nothing else changes.

    Raises:
        StoreError: no taxonomy of this name was ever in force, or the store cannot be written.
    """
    record = read_record(folder, name)
    if not record.withdrawn:
        withdrawn = record.model_copy(update={"withdrawn": True, "since": datetime.now(UTC)})
        write_json(folder, _in_force_path(name), withdrawn)


def digest_in_force(folder: Folder, name: str) -> str | None:
    """Return the digest of the version of a taxonomy that the views apply, or None if they apply none."""
    record = find_record(folder, name)
    return record.digest if record is not None and not record.withdrawn else None


def read_record(folder: Folder, name: str) -> TaxonomyInForce:
    """Return which version of a taxonomy is or was in force.

    Raises:
        StoreError: none of this name ever was.
    """
    record = find_record(folder, name)
    if record is None:
        raise StoreError(one_of("taxonomy", name, [each.name for each in taxonomy_records(folder)]))
    return record


def find_record(folder: Folder, name: str) -> TaxonomyInForce | None:
    """Return which version of a taxonomy is or was in force, or None if none was ever asked with."""
    return find_json(folder, _in_force_path(name), TaxonomyInForce)


def _in_force_path(name: str) -> str:
    return f"taxonomies/current/{part_name(name.replace('/', '%2F'))}.json"
