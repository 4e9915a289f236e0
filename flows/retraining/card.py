"""The last chapter of a model's card: how it compared with the model before."""

from __future__ import annotations

from contextlib import suppress

from flows.retraining.summary import comparison
from schemas.errors import ModelError
from schemas.retraining import GateReport
from storage.checkpoints import read_card, write_card
from storage.files import Folder

_HEADING = "## Against the model before"


def tell_on_card(folder: Folder, report: GateReport) -> None:
    """Write a comparison on the new model's card, in the place of an earlier one. A lost card is not made anew."""
    with suppress(ModelError):
        card = read_card(folder, report.new_model_id)
        told = with_comparison(card, report)
        if told != card:
            write_card(folder, report.new_model_id, told)


def with_comparison(card: str, report: GateReport) -> str:
    """Return a card that ends with a comparison."""
    return "\n".join([without_comparison(card).rstrip("\n"), "", _HEADING, "", *comparison(report), ""])


def without_comparison(card: str) -> str:
    """Return a card as it was before its model was compared."""
    return card.partition(f"\n{_HEADING}\n")[0].rstrip("\n") + "\n"
