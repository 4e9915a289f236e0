"""`clipdecoder taxonomy withdraw`: take a taxonomy out of force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.cli.orchestration import run_flow
from flows.cli.output import Json, Store, print_summary, stoppable, store_url

if TYPE_CHECKING:
    from flows.taxonomies.withdrawal import Withdrawal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(withdraw)


def withdraw(
    name: Annotated[str, typer.Argument(help="Name of a taxonomy, as `clipdecoder taxonomy status` lists them.")],
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done; write nothing.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Take a taxonomy out of force: the views show no tags of its labels, nothing is scored or retrained for it.

    Nothing is deleted. Applying any version of it again brings it back, with the scores that it has.

    Example: clipdecoder taxonomy withdraw street --plan
    """
    from flows.taxonomies.withdrawal import plan_withdrawal
    from schemas.config import load_settings
    from storage.files import Folder

    planned = plan_withdrawal(Folder(store_url(store)), name)
    if plan:
        print_summary(planned, as_json=as_json)
        return
    with stoppable():
        # Starting Prefect takes seconds: where nothing is to be done, there is nothing to show in it either.
        withdrawal = _run(planned, orchestrate=load_settings().orchestrate and planned.in_force)
    print_summary(withdrawal, as_json=as_json)


def _run(planned: Withdrawal, *, orchestrate: bool) -> Withdrawal:
    from flows.taxonomies.withdrawal import run_withdrawal
    from storage.files import Folder

    if not orchestrate:
        return run_withdrawal(Folder(planned.store), planned.taxonomy)
    from flows.deployed.withdraw import withdraw_taxonomy

    return cast("Withdrawal", run_flow(withdraw_taxonomy, planned.store, planned.taxonomy))
