"""What `clipdecoder catalog` says of the file that it wrote."""

from __future__ import annotations

from datetime import datetime

from schemas.commands import shell
from schemas.counts import counted
from schemas.record import Record

# What a DuckDB needs in order to read a store, by the kind of its URL.
_EXTENSIONS = dict.fromkeys(("s3", "s3a", "gs", "gcs", "http", "https"), "httpfs") | dict.fromkeys(
    ("az", "abfs", "abfss"), "azure"
)


class CatalogFile(Record):
    """A `.duckdb` file: of which store and moment it is, and what it shows. Table `catalog_info` has the same."""

    store: str  # an absolute path, or a URL
    clipdecoder: str  # version
    model_id: str | None  # whose scores are shown
    written_at: datetime
    runs: tuple[str, ...]
    taxonomies: tuple[str, ...]  # digests
    views: tuple[str, ...] = ()
    path: str = ""
    bytes: int = 0

    def lines(self) -> list[str]:
        """Return it as text."""
        return [
            f"{self.path}: {counted(len(self.views), 'view')} of {self.store}, {self.bytes / 1e3:,.0f} kB; the rows "
            "stay in the store, at this place",
            f"model {self.model_id or 'none'}, {counted(len(self.runs), 'run')}, "
            f"taxonomies: {', '.join(self.taxonomies) or 'none'}",
            *self._remote(),
            f"open it with any tool that has DuckDB 2.0 or later: {shell('duckdb', '-readonly', self.path)}",
            "it names the files and the labels of this moment: write it anew after a run, an import, `compact`, "
            "`quality` or `duplicates`, and where another model or version of a taxonomy is shown",
        ]

    def _remote(self) -> list[str]:
        kind, separator, _ = self.store.partition("://")
        if not separator:
            return []
        extension = _EXTENSIONS.get(kind)
        if extension is None:
            return [f"DuckDB itself does not read {kind}://; in Python, register an fsspec file system for it"]
        return [f"the reader's DuckDB needs its extension {extension} and credentials of its own (CREATE SECRET)"]
