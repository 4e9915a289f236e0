"""What a retraining says of the labels that asked for it: no more than its numbers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flows.retraining.summary import asked_line, trained_for
from schemas.retraining import Gate, GateReport, LabelComparison

Interval = tuple[float, float] | None


def report_of(intervals: dict[str, Interval], together: Interval) -> GateReport:
    """Return gates where each label went from 50 to 60 %, and the change lies there."""
    asked = Gate(name="asked_map", limit=0, before=0.5, after=0.6, passed=True, interval=together, why="")
    labels = [
        LabelComparison(
            label_id=label_id,
            group="learned",
            asked=True,
            positives=4,
            ap_before=0.5,
            ap_after=0.6,
            ap_interval=interval,
            rate_before=None,
            rate_after=None,
        )
        for label_id, interval in intervals.items()
    ]
    return GateReport(
        decision_id="d",
        current_model_id="old",
        new_model_id="new",
        held_out_images=50,
        learned_by_current=0,
        canary=None,
        canary_images=0,
        gates=(asked,),
        labels=tuple(labels),
        gained=tuple(label.label_id for label in labels if label.ap_interval and label.ap_interval[0] > 0),
        passed=True,
        at=datetime(2026, 11, 22, tzinfo=UTC),
    )


NOISE, GAIN, LOSS = (-0.1, 0.3), (0.02, 0.2), (-0.3, -0.1)


@pytest.mark.parametrize(
    ("intervals", "together", "said", "became"),
    [
        ({"a": NOISE}, NOISE, "none of 1 compared label that asked for retraining gained", "for a (within noise)"),
        (
            {"a": NOISE, "b": GAIN, "c": LOSS},
            NOISE,
            "1 of 3 compared labels that asked for retraining gained beyond chance; average precision in % "
            "(where the change lies, as one of 3): b 50.0 -> 60.0 (+2.0 to +20.0), a ",
            "for a (within noise), b (gained), c (fell)",
        ),
        (
            {"a": NOISE, "b": NOISE},
            GAIN,
            "2 compared labels that asked for retraining gained beyond chance all together, and none by itself; ",
            "for a (within noise), b (within noise); all together they gained beyond chance",
        ),
        (
            {"a": None, "b": GAIN},
            GAIN,
            "in %: b 50.0 -> 60.0 (+2.0 to +20.0), a 50.0 -> 60.0 (too few held-out pictures to tell)",
            "for a (too few held-out pictures to tell), b (gained)",
        ),
    ],
)
def test_what_became_of_the_labels_that_asked_is_what_the_intervals_say(
    intervals: dict[str, Interval], together: Interval, said: str, became: str
) -> None:
    report = report_of(intervals, together)
    assert said in asked_line(report)
    assert trained_for(report, tuple(intervals)) == became


def test_a_label_that_could_not_be_compared_is_named() -> None:
    assert trained_for(report_of({}, None), ("a",)) == "for a (too few held-out pictures to tell)"
