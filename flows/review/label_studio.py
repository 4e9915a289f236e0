"""Label Studio: our questions as its tasks with pre-annotations, and its JSON export as answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from flows.review.selection import Task

# Names that tie pre-annotations, configuration and export together.
_PICTURE, _ANSWER = "image", "answer"
_VALUES: Mapping[str, Literal[0, 1] | None] = {"yes": 1, "no": 0, "unsure": None}

LABEL_CONFIG = f"""<View>
  <Header value="$question"/>
  <Image name="{_PICTURE}" value="$image" zoom="true"/>
  <Choices name="{_ANSWER}" toName="{_PICTURE}" choice="single-radio" showInline="true" required="true">
    <Choice value="yes" hotkey="y"/>
    <Choice value="no" hotkey="n"/>
    <Choice value="unsure" hotkey="u"/>
  </Choices>
</View>
"""


def label_studio_tasks(tasks: Sequence[Task], pictures: Sequence[str], model_id: str) -> list[dict[str, Any]]:
    """Return the tasks as Label Studio imports them.

    Args:
        tasks: the questions.
        pictures: what each question's picture is loaded from.
        model_id: stands as `model_version` at the pre-annotations; pictures without a score have none.
    """
    return [
        {
            "data": {
                "image": picture,
                "question": f"Does this picture show: {task.label.name}?",
                "dataset": task.candidate.dataset,
                "shard": task.candidate.shard,
                "key": task.candidate.key,
                "label_id": task.label.label_id,
                "label": task.label.name,
                "threshold": task.candidate.threshold,
                "reason": task.reason,
            },
            "predictions": [_prediction(task, model_id)] if task.candidate.score is not None else [],
        }
        for task, picture in zip(tasks, pictures, strict=True)
    ]


def _prediction(task: Task, model_id: str) -> dict[str, Any]:
    choice = {
        "id": "score",
        "from_name": _ANSWER,
        "to_name": _PICTURE,
        "type": "choices",
        "value": {"choices": ["yes" if task.candidate.above else "no"]},
    }
    return {"model_version": model_id, "score": task.candidate.score, "result": [choice]}


class _Lenient(BaseModel):
    """Part of an export: what else Label Studio says is its own business."""

    model_config = ConfigDict(extra="ignore")


class _Data(_Lenient):
    dataset: str
    shard: str
    key: str
    label_id: str


class _Value(_Lenient):
    choices: list[Literal["yes", "no", "unsure"]] = []


class _Result(_Lenient):
    from_name: str | None = None
    value: _Value = _Value()


class _Person(_Lenient):
    id: int
    email: str | None = None


class _Annotation(_Lenient):
    result: list[_Result] = []
    was_cancelled: bool = False
    completed_by: int | _Person | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime | None = None

    @property
    def annotator(self) -> str:
        """Who answered, as Label Studio knows them."""
        person = self.completed_by
        return str(person.email or person.id) if isinstance(person, _Person) else str(person or "somebody")


class ExportedTask(_Lenient):
    """One of our questions with the answers that people gave in Label Studio."""

    data: _Data
    annotations: list[_Annotation] = Field(description="one for each annotator who looked at the task")

    def answers(self) -> Iterator[tuple[Literal[0, 1] | None, str, AwareDatetime]]:
        """Yield value, source and time of each answer; annotations that were skipped or left empty are none."""
        for annotation in self.annotations:
            ours = [each.value.choices for each in annotation.result if each.from_name == _ANSWER]
            chosen = [choice for choices in ours for choice in choices]
            if chosen and not annotation.was_cancelled:
                source = f"label-studio:{annotation.annotator}"
                yield _VALUES[chosen[-1]], source, annotation.updated_at or annotation.created_at
