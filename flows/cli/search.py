"""`clipdecoder search`: the pictures nearest to a text or to a picture. Loads a model only where one is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Device, with_settings
from flows.cli.output import Json, Store, print_json, print_table, replaced, say
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.search import SearchHit, SearchRequest, SearchResult

_COLUMNS = ("rank", "dataset", "shard", "key", "cosine", "tags")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(search)


def search(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What to look for; several texts are averaged.")
    ] = None,
    like: Annotated[str | None, typer.Option(help="Look for what is like this sample: its key.")] = None,
    shard: Annotated[str | None, typer.Option(help="Shard of that sample, where several have its key.")] = None,
    like_file: Annotated[str | None, typer.Option(help="Look for what is like this picture (path or URL).")] = None,
    top: Annotated[int | None, typer.Option(help="Samples to find.  [default: 20]")] = None,
    min_score: Annotated[float | None, typer.Option(help="Least cosine, from -1 to 1.  [default: any]")] = None,
    dataset: Annotated[str | None, typer.Option(help="Look in this dataset only.  [default: in all]")] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose embeddings: a model id, or a name.  [default: the promoted model]")
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Also write a page with the pictures (.html).")
    ] = None,
    device: Device = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Find the pictures nearest to a text, to a sample of the store, or to a picture file, by stored embeddings.

    Exact: every embedding of the newest bytes is compared, by cosine. No shard is read but for the pictures of -o.

    Example: clipdecoder search "a red bus at night" --top 50 -o buses.html
    """
    from flows.search import run_search
    from schemas.config import make_request
    from schemas.search import SearchRequest

    given = {
        "texts": tuple(texts or ()),
        "like": like,
        "shard": shard,
        "like_file": like_file,
        "top": top,
        "min_score": min_score,
        "dataset": dataset,
        "model": model or "current",
        "device": device,
        "store": store,
    }
    page = _page(output)
    request = make_request(
        SearchRequest,
        **{name: value for name, value in with_settings(SearchRequest, given).items() if value is not None},
    )
    result = run_search(request)
    if page is not None:
        _write(page, request, result)
    _show(result, as_json=as_json)
    if not result.ok:
        raise typer.Exit(1)


def _page(output: str | None) -> Path | None:
    """Return where the page goes.

    Raises:
        ConfigError: the name is no local HTML file.
    """
    if output is None:
        return None
    if "://" in output or Path(output).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"-o {output!r}: search writes a page of pictures; give it a local name that ends in .html")
    return Path(output)


def _write(path: Path, request: SearchRequest, result: SearchResult) -> None:
    from flows.searching.page import search_page

    page = search_page(request.store, result)
    with replaced(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def _show(result: SearchResult, *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    print_table([_row(hit) for hit in result.hits], _COLUMNS)
    for note in result.notes():
        say(note)


def _row(hit: SearchHit) -> dict[str, object]:
    tags = ", ".join(f"{tag.label_id} {tag.score:.2f}" for tag in hit.tags)
    return {**hit.model_dump(), "cosine": f"{hit.cosine:.4f}", "tags": tags}
