"""A run's figures as Markdown, for Prefect: tables of what the page draws. Names and messages of others are quoted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flows.markdown_tables import table
from flows.report.figures import run_report
from schemas.counts import counted
from schemas.errors import ClipdecoderError
from schemas.report import LabelFigures, ReportRequest, RunReport
from storage.terminal import visible

_ROWS = 30  # of a table; the others are counted


def stored_markdown(store: str, run_id: str) -> str:
    """Return the figures of a stored run. What it was written for is done: where they cannot be read, it says why."""
    try:
        return report_markdown(run_report(ReportRequest(store=store, run=run_id, per_label=0)))
    except ClipdecoderError as error:
        return f"The figures of run {_quoted(run_id)} cannot be read: {_quoted(str(error))}\n"


def report_markdown(report: RunReport) -> str:
    """Return the figures as Markdown tables."""
    run = report.run
    blocks = [
        f"# {_quoted(run.run_id)}",
        f"{counted(report.samples, 'image')} in {counted(report.shards.count, 'shard')}, {report.scored:,} "
        f"scored, {report.failed:,} "
        f"failed; {counted(len(report.labels), 'label')}, {report.tags:,} tags, "
        f"{counted(report.untagged, 'picture')} without any. "
        f"Model {_quoted(run.model)} ({run.model_id}), scorer {run.scorer}, calibration {run.calibration}.",
        *([f"No label and no tag is shown: {_quoted(run.withdrawn)}"] if run.withdrawn else ()),
        *([report.time.limit] if report.time.limit else ()),
        *_table("Seconds", ("stage", "seconds"), [(k, f"{v:,.1f}") for k, v in report.time.stages.items()]),
        *_table("Failures", ("status", "images", "most frequent message", "for example"), list(_failures(report))),
        *_table("Tags", ("label", "", "threshold", "images", "share"), [_label(x, report) for x in report.labels]),
        *_table("Together", ("label", "and", "images"), _pairs(report)),
    ]
    return "\n\n".join(blocks) + "\n"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    if rows:
        more = f"\n\nand {len(rows) - _ROWS:,} more" if len(rows) > _ROWS else ""
        yield f"## {title}"
        yield "\n".join(table(heads, rows[:_ROWS])) + more


def _failures(report: RunReport) -> Iterable[tuple[str, ...]]:
    for failure in report.failures:
        first = failure.examples[0]
        place = f"{_quoted(first.key)} in {_quoted(first.shard)}"
        yield failure.status, f"{failure.count:,}", _quoted(first.error or ""), place


def _label(label: LabelFigures, report: RunReport) -> tuple[str, ...]:
    share = label.tags / report.scored if report.scored else 0
    known = "seen" if label.seen else "novel"
    return _quoted(label.name), known, f"{label.threshold:.2f}", f"{label.tags:,}", f"{share:.1%}"


def _pairs(report: RunReport) -> list[tuple[str, ...]]:
    """Return the pairs of labels that share pictures, those with most first."""
    ids, counts = report.together.label_ids, report.together.counts
    pairs = [(counts[a][b], ids[a], ids[b]) for a in range(len(ids)) for b in range(a + 1, len(ids)) if counts[a][b]]
    return [(_quoted(a), _quoted(b), f"{count:,}") for count, a, b in sorted(pairs, key=lambda pair: -pair[0])]


def _quoted(text: str) -> str:
    """Return others' text as code, in which nothing is Markdown."""
    plain = visible(text).replace("`", "'").replace("\n", " ")
    return f"`{plain}`" if plain.strip() else ""
