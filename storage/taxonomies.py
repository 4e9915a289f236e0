"""Taxonomies in the store: every version that ever scored something, and which version the views apply."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from schemas.digests import DIGEST_LENGTH
from schemas.errors import RequestError, StoreError, TaxonomyError, one_of
from schemas.manifest import TaxonomyInForce
from schemas.taxonomy import Taxonomy, parse_taxonomy
from storage.files import Folder, part_name, read_text
from storage.records import find_json, read_json, write_json

APPLIED = "applied"
_DIGEST = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}")


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
            f"{location!r} is neither a file nor a version in the store {folder.url!r}; `applied` is the one in force"
        ) from None


def applied_taxonomy(folder: Folder, name: str | None = None) -> Taxonomy:
    """Return the version in force of a taxonomy; without a name, of the only one.

    Raises:
        StoreError: none is applied, several are and no name is given, or none of this name is.
    """
    known = {record.name: record for record in taxonomies_in_force(folder)}
    if not known:
        raise StoreError(
            f"no taxonomy is applied in the store {folder.url!r} yet; `clipdecoder taxonomy apply FILE` or "
            "`clipdecoder tag SHARDS --taxonomy FILE` does"
        )
    if name is None and len(known) > 1:
        raise StoreError(
            f"several taxonomies are applied in this store: {', '.join(sorted(known))}; say which: "
            "applied:NAME where a version is asked for, --taxonomy NAME for `clipdecoder retrain`"
        )
    if name is not None and name not in known:
        raise StoreError(one_of("taxonomy", name, known))
    return read_taxonomy(folder, known[name or next(iter(known))].digest)


def taxonomies_in_force(folder: Folder) -> list[TaxonomyInForce]:
    """Return which version of each taxonomy the views apply, by name."""
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
        FileNotFoundError: the store has no taxonomy of this digest.
    """
    return read_json(folder, taxonomy_path(digest), Taxonomy)


def put_in_force(folder: Folder, taxonomy: Taxonomy) -> None:
    """Let the views apply this version of the taxonomy, for every dataset that was scored with one of its name."""
    before = digest_in_force(folder, taxonomy.name)
    if before != taxonomy.digest:
        record = TaxonomyInForce(name=taxonomy.name, digest=taxonomy.digest, since=datetime.now(UTC))
        write_json(folder, _in_force_path(taxonomy.name), record)


def digest_in_force(folder: Folder, name: str) -> str | None:
    """Return the digest of the version of a taxonomy that the views apply, or None if none was ever asked with."""
    record = find_json(folder, _in_force_path(name), TaxonomyInForce)
    return record.digest if record is not None else None


def _in_force_path(name: str) -> str:
    return f"taxonomies/current/{part_name(name.replace('/', '%2F'))}.json"
