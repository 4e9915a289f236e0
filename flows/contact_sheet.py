"""One self-contained HTML page with the best pictures of each label: `python -m flows.contact_sheet STORE PAGE`."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from schemas.sample import MemberCounts
from storage.catalog import open_catalog
from storage.files import Folder
from storage.query import run_query
from storage.runs import read_runs
from storage.shards import iter_samples

_BEST = """
select label_id, name, threshold, seen, dataset, shard, sample, key, score
from scores join labels using (dataset, label_id)
where active
qualify row_number() over (partition by dataset, label_id order by score desc, shard, sample) <= $per_label
order by dataset, label_id, score desc, shard, sample
"""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture on the sheet."""

    key: str
    score: float
    source: str  # a data URL: the page needs nothing beside it


@dataclass(frozen=True, kw_only=True)
class Section:
    """One label's pictures, the best first."""

    label_id: str
    name: str
    threshold: float
    pictures: tuple[Picture, ...]

    @property
    def tagged(self) -> int:
        """How many of the pictures shown reach the threshold."""
        return sum(picture.score >= self.threshold for picture in self.pictures)


def write_contact_sheet(store: str, path: Path, *, per_label: int = 6) -> Path:
    """Write the page and return its path. Each shard is read once; label names and keys are escaped."""
    rows = run_query(open_catalog(store), _BEST, {"per_label": per_label}).to_pylist()
    sources = _read_pictures(store, rows)
    sections = [
        Section(
            label_id=label_id,
            name=group[0]["name"],
            threshold=group[0]["threshold"],
            pictures=tuple(Picture(key=row["key"], score=row["score"], source=sources[_place(row)]) for row in group),
        )
        for (_, label_id), grouped in groupby(rows, key=lambda row: (row["dataset"], row["label_id"]))
        if (group := list(grouped))
    ]
    page = Environment(loader=PackageLoader("flows", "pages"), autoescape=True).get_template("contact_sheet.html")
    path.write_text(page.render(title="Best pictures per label", sections=sections, per_label=per_label))
    return path


def _place(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["dataset"], row["shard"], row["sample"]


def _read_pictures(store: str, rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], str]:
    """Return each wanted sample's bytes as a data URL, reading each shard once."""
    wanted = {_place(row) for row in rows}
    shards = {(dataset, shard) for dataset, shard, _ in wanted}
    runs = read_runs(Folder(store))
    urls = {(run.record.dataset, report.shard): report.url for run in runs for report in run.reports}
    return {
        (dataset, shard, sample.sample): f"data:image;base64,{base64.b64encode(sample.data).decode()}"
        for dataset, shard in shards
        for sample in iter_samples(urls[dataset, shard], MemberCounts())
        if (dataset, shard, sample.sample) in wanted
    }


def main() -> None:
    """Read the command line and write the page."""
    parser = argparse.ArgumentParser(prog="python -m flows.contact_sheet", description=__doc__)
    parser.add_argument("store")
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    write_contact_sheet(arguments.store, arguments.page)


if __name__ == "__main__":
    main()
