"""Taxonomies in the store: every version that ever scored something, and which version the views apply."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.manifest import TaxonomyInForce
from schemas.taxonomy import Taxonomy
from storage.files import Folder, part_name
from storage.records import find_json, read_json, write_json


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
