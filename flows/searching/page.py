"""The contact sheet of a search: one self-contained HTML page with small pictures of what was found."""

from __future__ import annotations

import base64
import hashlib

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows.evaluation.pictures import data_url, read_thumbnails
from schemas.config import MAX_PIXELS
from schemas.search import SearchHit, SearchResult
from storage.files import Folder
from storage.runs import read_runs
from storage.shard_pictures import StoredShard
from storage.terminal import visible
from storage.visibility import current_reports

PICTURE_BYTES = 10_000_000  # of all pictures on the page, in base64
_SIZES = ((256, 75), (224, 65), (192, 60), (160, 50), (112, 40), (64, 30))  # longest side, WebP quality


def search_page(store: str, result: SearchResult) -> str:
    """Return the page. Each shard with a hit is read once; texts, keys and labels are other people's, and escaped.

    A picture that cannot be read any more is missing on the page, which says so.
    """
    loader = PackageLoader("flows", "pages")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["visible"] = visible
    style, _, _ = loader.get_source(environment, "search.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("search.html").render(
        result=result, pictures=_pictures(store, result.hits), style=Markup(style), style_hash=f"sha256-{digest}"
    )


def _pictures(store: str, hits: tuple[SearchHit, ...]) -> dict[int, str]:
    """Return by rank the hits' pictures as data URLs."""
    folder = Folder(store)
    reports = current_reports(read_runs(folder))
    # Datasets may have shards of the same name, so places are named by URL here.
    places = {hit.rank: (reports[hit.dataset, hit.shard].url, hit.sample) for hit in hits}
    found = read_thumbnails(
        set(places.values()),
        {url: url for url, _ in places.values()},
        max_pixels=MAX_PIXELS,
        budget_bytes=PICTURE_BYTES,
        sizes=_SIZES,
        stored={report.url: StoredShard(folder, report) for report in reports.values()},
    )
    return {rank: data_url(found[place]) for rank, place in places.items() if place in found}
