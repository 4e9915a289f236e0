"""A Prefect server of our own on loopback, and what a person does with one: deploy, run, let a worker work, look."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
START_SECONDS = 120
Found = TypeVar("Found")


class PrefectServer:
    """Its database is in `home`, so it can be stopped and started again."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [PROGRAMS / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, env=self.environment, stdout=quiet, stderr=quiet)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.api}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the Prefect server did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def restart(self) -> None:
        """Stop the server and start it again: what it knows is what its database has."""
        self.stop()
        self.start()

    def ask(self, path: str, body: Any) -> Any:
        """Return what the server answers to a POST."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Return a flow's runs that a schedule did not plan and no other run started, the oldest first."""
        body = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = self.ask("flow_runs/filter", body)
        return [run for run in found if not run["auto_scheduled"] and run["parent_task_run_id"] is None]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name."""
        found: list[dict[str, Any]] = self.ask("events/filter", {"filter": {"event": {"name": [name]}}})["events"]
        return found

    def clipdecoder(self, *words: str) -> str:
        """Run our command in the folder of the flows."""
        return self._run("clipdecoder", *words)

    def prefect(self, *words: str) -> str:
        return self._run("prefect", "--no-prompt", *words)

    def work_once(self) -> None:
        """Let a process worker do what is due now, and nothing that comes up meanwhile."""
        self.prefect("worker", "start", "--pool", "clipdecoder", "--type", "process", "--run-once")

    def _run(self, program: str, *words: str) -> str:
        command = [PROGRAMS / program, *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(look: Callable[[], Found], seconds: float = 60) -> Found:
    """Return the first thing that is found, and is not nothing."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return found


@contextmanager
def prefect_server(home: Path) -> Iterator[PrefectServer]:
    """Run a server while the block runs."""
    server = PrefectServer(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()
