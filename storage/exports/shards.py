"""Chosen samples as shards of their own: original bytes, tags in the `.json`, an index beside each shard.

A shard is whole when its index is there, which is written after it; the manifest is written last of all. `export.json`,
written first, says what the export is: the same command finds it again and writes what is not whole yet.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import RequestError, RunError, StoreError
from schemas.export import ExportedShard, ExportManifest, ExportRecord
from schemas.tables import EXPORT_INDEX
from storage.exports.side_files import with_tags
from storage.exports.sources import Originals
from storage.pack import ShardTarget, add_member, check_is_free
from storage.records import find_json, write_json

RECORD, MANIFEST = "export.json", "manifest.json"
_SHARD_KEY = b"clipdecoder"  # the index's own metadata: ExportedShard as JSON

Watch = Callable[[int, int], None]  # shards done, of how many


@dataclass(frozen=True, kw_only=True)
class ShardsWritten:
    """What came of an export."""

    manifest: ExportManifest
    kept: int  # shards that were whole before


def export_shards(
    target: ShardTarget, record: ExportRecord, rows: pa.Table, watch: Watch = lambda done, total: None
) -> ShardsWritten:
    """Write the shards that are not whole yet, then the manifest.

    Each source shard is read once, and only as far as needed. A sample that cannot be copied is left out and named in
    the manifest; its shard is written anew when the same is asked again.

    Args:
        target: where the shards go; beside them go their indexes, and into their folder `export.json` and
            `manifest.json`.
        record: what the export is.
        rows: of a Selection.
        watch: told after each shard.

    Raises:
        RequestError: there is another export, or there are other shards. Nothing was touched.
        StoreError: the target cannot be read or written. Nothing was touched.
        RunError: the target could not be written any more.
    """
    _begin(target, record)
    try:
        return _Export(target, record, rows).written(watch)
    except StoreError as error:
        raise RunError(f"{error}; shards that are whole stay, and the same command goes on") from error


def _begin(target: ShardTarget, record: ExportRecord) -> None:
    """Say what the export is, or find it said.

    Raises:
        RequestError: what is there is something else.
    """
    folder = target.folder
    begun = find_json(folder, RECORD, ExportRecord)
    if begun is None:
        check_is_free(target)
        check_is_free(replace(target, after=_index_name(target.after)))
        if folder.exists(MANIFEST):
            raise RequestError(f"--to: {folder.url!r} has a {MANIFEST} of something else; name another folder")
        write_json(folder, RECORD, record)
    elif begun != record:
        names = [name for name in ExportRecord.model_fields if getattr(begun, name) != getattr(record, name)]
        raise RequestError(
            f"--to: {folder.url!r} has an export already, and this one differs in {', '.join(names)} (a query, an "
            "option, or what the store says of the samples); remove it, or name another folder"
        )


@dataclass
class _Export:
    """One pass over the shards to be."""

    target: ShardTarget
    record: ExportRecord
    rows: pa.Table

    def __post_init__(self) -> None:
        self.folder = self.target.folder

    def written(self, watch: Watch) -> ShardsWritten:
        """Write what is not whole."""
        size = self.record.samples_per_shard
        total = -(-self.record.samples // size)
        whole = {number: self._whole(number, self._planned(number)) for number in range(total)}
        kept = sum(shard is not None for shard in whole.values())
        if kept < total:
            self.folder.remove(MANIFEST)
        shards: list[ExportedShard] = []
        with closing(Originals(self.record.sources)) as originals:
            for number, found in whole.items():
                shard = found or self._write(number, originals)
                shards += [shard] if shard.samples else []
                watch(number + 1, total)
        manifest = ExportManifest(record=self.record, shards=tuple(shards), missing=originals.missing)
        write_json(self.folder, MANIFEST, manifest)
        return ShardsWritten(manifest=manifest, kept=kept)

    def _planned(self, number: int) -> int:
        size = self.record.samples_per_shard
        return min(size, self.record.samples - number * size)

    def _whole(self, number: int, samples: int) -> ExportedShard | None:
        """Return what the index says of a shard that has all its samples and the size it says; else None."""
        name = self.target.name(number)
        try:
            metadata = pq.read_metadata(io.BytesIO(self.folder.read_bytes(_index_name(name)))).metadata or {}
            shard = ExportedShard.model_validate_json(metadata.get(_SHARD_KEY, b""))
            same = shard.samples == samples and self.folder.size(name) == shard.bytes
        except (FileNotFoundError, pa.ArrowException, ValueError):
            return None
        return shard if same else None

    def _write(self, number: int, originals: Originals) -> ExportedShard:
        """Write a shard and its index; neither, if none of its samples can be copied."""
        name = self.target.name(number)
        size = self.record.samples_per_shard
        self.folder.remove(_index_name(name))  # no moment has an old index beside a new shard
        copied: list[dict[str, Any]] = []
        untagged: list[str] = []
        with self.folder.create(name) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for row, sample in originals.of(self.rows.slice(number * size, size)):
                tagged = with_tags(sample.side.get("json"), self._said(row))
                untagged += [row["key"]] if tagged is None else []
                side = sample.side if tagged is None else {**sample.side, "json": tagged}
                add_member(tar, row["key"] + sample.member[len(sample.key) :], sample.data)
                for extension in sorted(side):
                    add_member(tar, f"{row['key']}.{extension}", side[extension])
                copied.append(row)
        if not copied:
            self.folder.remove(name)
        shard = ExportedShard(
            name=name,
            samples=len(copied),
            tags=sum(len(row["tags"]) for row in copied),
            bytes=self.folder.size(name) if copied else 0,
            untagged=tuple(untagged),
        )
        if copied:
            self._write_index(shard, copied)
        return shard

    def _said(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "model_id": self.record.model_id,
            "taxonomy_digests": self.record.taxonomy_digests[row["dataset"]],
            "tags": row["tags"],
        }

    def _write_index(self, shard: ExportedShard, rows: list[dict[str, Any]]) -> None:
        """Mark a shard as whole. It must be in place."""
        schema = EXPORT_INDEX.with_metadata({_SHARD_KEY: shard.model_dump_json().encode()})
        buffer = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        self.folder.write_bytes(_index_name(shard.name), buffer.getvalue())


def _index_name(shard: str) -> str:
    return f"{shard.removesuffix('.tar')}.parquet"
