"""The `withdraw-taxonomy` flow: a taxonomy out of force, and its page in Prefect says so."""

from __future__ import annotations

from prefect import flow

from flows.deployed.artifacts import publish_taxonomy
from flows.taxonomies.withdrawal import Withdrawal, run_withdrawal
from storage.files import Folder


@flow(name="withdraw-taxonomy", persist_result=False)
def withdraw_taxonomy(store: str, taxonomy: str) -> Withdrawal:
    """Take a taxonomy out of force.

    Args:
        store: path or URL.
        taxonomy: its name.
    """
    withdrawal = run_withdrawal(Folder(store), taxonomy)
    publish_taxonomy(taxonomy, withdrawal.taxonomy_digest, withdrawal.lines())
    return withdrawal
