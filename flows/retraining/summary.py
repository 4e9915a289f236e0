"""What a retraining says: the decision with its reasons, the gates as a table, the outcome."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flows.evaluation.tables import decimal, percent
from flows.markdown_tables import table
from schemas.counts import counted
from schemas.retraining import Gate, GateReport, LabelComparison, LabelEvidence, RetrainDecision, RetrainOutcome

GATE_COLUMNS = ("gate", "limit", "before", "after", "change", "verdict")
LABEL_COLUMNS = ("label", "group", "positives", "AP before", "AP after", "AP change", "rate before", "rate after")
EVIDENCE_COLUMNS = ("label", "positives", "negatives", "seen", "retrain", "reason")

_NAMED = 5  # of a list in a sentence
_UNTOLD = "too few held-out pictures to tell"
_LIMITS = {
    "seen_map": "falls by {} at most",
    "novel_map": "falls by {} at most",
    "asked_map": "falls by {} at most",
    "positive_rate": "changes by {} at most",
    "flip_rate": "{} at most",
}


def decision_lines(decision: RetrainDecision) -> Iterator[str]:
    """Yield the decision in sentences, readable as Markdown and as plain text."""
    yield (
        f"retraining on taxonomy {decision.taxonomy}: {'yes' if decision.retrain else 'no'} "
        f"(decision {decision.decision_id})"
    )
    yield from (f"- {reason}" for reason in decision.reasons)


def outcome_lines(outcome: RetrainOutcome) -> Iterator[str]:
    """Yield what came of a decision."""
    model = f", model {outcome.model_id}" if outcome.model_id is not None else ""
    yield f"outcome: {outcome.state}{model}"
    yield from (f"- {reason}" for reason in outcome.reasons)


def gate_lines(report: GateReport) -> Iterator[str]:
    """Yield what was compared, and why each gate is as it is."""
    yield (
        f"gates of model {report.new_model_id} against {report.current_model_id}: "
        f"{'passed' if report.passed else 'not passed'}"
    )
    left = f" ({report.learned_by_current} others left aside: the old model learned from them)"
    yield f"- {report.held_out_images} held-out images" + (left if report.learned_by_current else "")
    if report.canary is not None:
        yield f"- canary {report.canary}: {counted(report.canary_images, 'image')}"
    yield from (f"- {gate.name}: {gate.why}" for gate in report.gates)
    if report.asked:
        yield f"- {asked_line(report)}"


def asked_line(report: GateReport) -> str:
    """Say what the labels gained that asked for retraining; the surest gains first."""
    ranked = sorted(report.asked, key=lambda label: (label.label_id not in report.gained, label.label_id))
    told = some(f"{label.label_id} {_change_of(label)}" for label in ranked)
    compared = f"{counted(len(report.asked), 'compared label')} that asked for retraining"
    how_many = f"{len(report.gained) or 'none'} of {compared} gained beyond chance"
    if report.gained_together and not report.gained:
        how_many = f"{compared} gained beyond chance all together, and none by itself"
    looked_at = sum(label.ap_interval is not None for label in report.asked)
    lies = f" (where the change lies, as one of {looked_at})" if looked_at > 1 else ""
    return f"{how_many}; average precision in %{lies}: {told}"


def trained_for(report: GateReport, asking: Iterable[str]) -> str:
    """Say which labels a model was trained for, and what became of each."""
    compared = {label.label_id: label for label in report.asked}
    told = some(f"{label_id} ({_became(compared.get(label_id))})" for label_id in asking)
    together = "; all together they gained beyond chance" if report.gained_together and not report.gained else ""
    return f"for {told}{together}"


def some(words: Iterable[str]) -> str:
    """Return the first of a list, and how many more there are."""
    first = list(words)
    return ", ".join(first[:_NAMED]) + f" and {len(first) - _NAMED} more" * (len(first) > _NAMED) or "nothing new"


def _became(label: LabelComparison | None) -> str:
    if label is None or label.ap_interval is None:
        return _UNTOLD
    low, high = label.ap_interval
    return "gained" if low > 0 else "fell" if high < 0 else "within noise"


def _change_of(label: LabelComparison) -> str:
    change = _interval(label.ap_interval, 100, 1) if label.ap_interval is not None else _UNTOLD
    return f"{percent(label.ap_before)} -> {percent(label.ap_after)} ({change})"


def _interval(interval: tuple[float, float], factor: float, decimals: int) -> str:
    """Return where a change lies."""
    low, high = (f"{factor * bound:+.{decimals}f}" for bound in interval)
    return f"{low} to {high}"


def gate_rows(report: GateReport) -> list[dict[str, str]]:
    """Return a row for each gate."""
    return [
        {
            "gate": gate.name,
            "limit": _LIMITS[gate.name].format(decimal(gate.limit)),
            "before": decimal(gate.before),
            "after": decimal(gate.after),
            "change": _interval(gate.interval, 1, 3) if gate.interval is not None else "-",
            "verdict": verdict(gate),
        }
        for gate in report.gates
    ]


def label_rows(report: GateReport) -> list[dict[str, str | int]]:
    """Return a row for each label that was compared; what the new model learned comes first."""
    order = ("learned", "seen", "novel")
    ranked = sorted(report.labels, key=lambda label: (order.index(label.group), label.label_id))
    return [_label_row(label) for label in ranked]


def _label_row(label: LabelComparison) -> dict[str, str | int]:
    values = (
        label.label_id,
        f"{label.group}, asked" if label.asked else label.group,
        label.positives,
        percent(label.ap_before),
        percent(label.ap_after),
        _interval(label.ap_interval, 100, 1) if label.ap_interval is not None else "-",
        percent(label.rate_before),
        percent(label.rate_after),
    )
    return dict(zip(LABEL_COLUMNS, values, strict=True))


def evidence_rows(labels: Sequence[LabelEvidence]) -> list[dict[str, str | int]]:
    """Return a row for each label that has evidence; those that ask for retraining come first."""
    ranked = sorted(labels, key=lambda label: (not label.retrain, -label.positives, label.label_id))
    return [
        {
            "label": label.label_id,
            "positives": label.positives,
            "negatives": label.negatives,
            "seen": "yes" if label.seen else "no",
            "retrain": "yes" if label.retrain else "no",
            "reason": label.reason,
        }
        for label in ranked
    ]


def verdict(gate: Gate) -> str:
    """Return a gate's verdict in one or two words. What is within noise passes."""
    if gate.within_noise:
        return "within noise"
    return {True: "passed", False: "failed", None: "not measured"}[gate.passed]


def markdown(decision: RetrainDecision, report: GateReport | None = None, outcome: RetrainOutcome | None = None) -> str:
    """Return all of it as one Markdown text."""
    lines = [*decision_lines(decision), "", *_table(EVIDENCE_COLUMNS, evidence_rows(decision.labels))]
    if report is not None:
        lines += ["", *comparison(report)]
    if outcome is not None:
        lines += ["", *outcome_lines(outcome)]
    return "\n".join(lines) + "\n"


def comparison(report: GateReport) -> Iterator[str]:
    """Yield how two models compare, as Markdown: in sentences, gate by gate, and label by label."""
    yield from (*gate_lines(report), "", *_table(GATE_COLUMNS, gate_rows(report)), "")
    yield from _table(LABEL_COLUMNS, label_rows(report))


def _table(columns: Sequence[str], rows: Sequence[dict[str, str]] | Sequence[dict[str, str | int]]) -> Iterator[str]:
    if not rows:
        return
    yield from table(columns, ([row[column] for column in columns] for row in rows))
