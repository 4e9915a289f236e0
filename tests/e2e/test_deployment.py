"""The scheduled deployment for real: a Prefect server, `prefect deploy --all`, a process worker, a run that tags."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.audit import audit_run
from storage.files import Folder
from tests.flows.world import make_world

ROOT = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(api: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the Prefect server did not start")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start a Prefect server of our own on loopback, and yield the environment that leads to it."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_API_URL": api,
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_healthy(api, server)
        yield environment
    finally:
        server.terminate()
        server.wait(30)


def prefect(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [PREFECT, "--no-prompt", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_nightly_deployment_tags(environment: dict[str, str], tmp_path: Path) -> None:
    world = make_world(tmp_path)
    prefect(environment, "work-pool", "create", "clipdecoder", "--type", "process")
    prefect(environment, "deploy", "--all")
    assert "tag/nightly" in prefect(environment, "deployment", "ls")
    request = json.dumps({"request": world.request().model_dump(mode="json")})
    prefect(environment, "deployment", "run", "tag/nightly", "--params", request)
    prefect(environment, "worker", "start", "--pool", "clipdecoder", "--type", "process", "--run-once")
    states = json.loads(prefect(environment, "flow-run", "ls", "--flow-name", "tag", "--output", "json"))
    assert [run["state_type"] for run in states if run["state_type"] != "SCHEDULED"] == ["COMPLETED"]
    assert audit_run(Folder(world.store), None).passed
