"""What the site shows beside the pages of docs/: measured results, changes, and lists of them. Called by MkDocs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from flows.cli.app import app

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add pages that stand elsewhere in the repository, and the lists of results and decisions."""
    pages = {f"results/{path.name}": path.read_text() for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    pages["changes.md"] = (ROOT / "CHANGELOG.md").read_text()
    pages["measured.md"] = _list("Measured", "Each page says with what, on what, and when.", pages, "results/")
    decisions = {f"decisions/{path.name}": path.read_text() for path in (ROOT / "docs" / "decisions").glob("*.md")}
    pages["decisions.md"] = _list("Decisions", "Where building showed a better way, and why.", decisions, "decisions/")
    pages["reference/commands.md"] = _commands()
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to files beside docs/ to where the site has them."""
    return markdown.replace("](../benchmarks/results/", "](results/").replace("](../CHANGELOG.md", "](changes.md")


def _commands() -> str:
    """Return the reference of all commands, from their help."""
    command = typer.main.get_command(app)
    with typer.Context(command, info_name="clipdecoder") as context:
        return str(get_docs_for_click(obj=command, ctx=context, name="clipdecoder", title="Commands"))


def _list(title: str, said: str, pages: dict[str, str], prefix: str) -> str:
    names = sorted(path for path in pages if path.startswith(prefix))
    return "\n".join([f"# {title}", "", said, "", *(f"- [{_title(pages[path])}]({path})" for path in names)])


def _title(markdown: str) -> str:
    return markdown.partition("\n")[0].removeprefix("# ")
