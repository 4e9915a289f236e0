"""The scheduled deployment for real: a Prefect server, `prefect deploy --all`, a process worker, a run that tags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage.audit import audit_run
from storage.files import Folder
from tests.e2e.prefect_server import prefect_server
from tests.flows.world import make_world

pytestmark = pytest.mark.e2e


def test_the_nightly_deployment_tags(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    with prefect_server(tmp_path / "prefect") as server:
        server.prefect("work-pool", "create", "clipdecoder", "--type", "process")
        server.prefect("deploy", "--all")
        assert "tag/nightly" in server.prefect("deployment", "ls")
        request = json.dumps({"request": world.request().model_dump(mode="json")})
        server.prefect("deployment", "run", "tag/nightly", "--params", request)
        server.work_once()
        assert [run["state_type"] for run in server.runs("tag")] == ["COMPLETED"]
        assert audit_run(Folder(world.store), None).ok
