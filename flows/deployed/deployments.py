"""`prefect.yaml` on a server: its deployments with the options of `clipdecoder deploy`, a pool, a watch for zombies.

`prefect.yaml` says what there is; nothing here adds a deployment that it does not have. All of it can be done again
at any time: what is there is brought up to date, and nothing is made twice.
"""

from __future__ import annotations

import copy
import glob
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from schemas.commands import shell
from schemas.errors import ConfigError, RunError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

PREFECT_FILE = "prefect.yaml"
POOL = "clipdecoder"
TAG = "clipdecoder"  # of every deployment, and so of its runs: the watch for zombies looks after these alone
STORE_LABEL = "clipdecoder.store"

# Runs say every 30 seconds that they are alive (`prefect.yaml`). A server that is restarted takes less than this.
SILENCE = timedelta(minutes=5)
WATCH = "clipdecoder: a run that is silent has crashed"
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended", "AwaitingRetry")


class DeployOptions(BaseModel):
    """What `clipdecoder deploy` puts in the place of what `prefect.yaml` says."""

    file: Path = Path(PREFECT_FILE)
    pool: str | None = None
    store: str | None = None
    taxonomies: tuple[str, ...] = ()  # several: a deployment for each, of those that take a taxonomy
    suffix: str | None = None  # of every name, so that a server can have the deployments of several stores


class DeployReport(BaseModel):
    """What is on the server now, as `deploy --json` prints it."""

    api: str
    pool: str
    pool_created: bool
    deployments: list[str]  # FLOW/NAME
    automation: str

    def lines(self) -> list[str]:
        """Return the report as lines, with what to do next."""
        pool = f"work pool {self.pool}: {'created' if self.pool_created else 'there already'}"
        return [
            f"server {self.api}",
            pool,
            *(f"deployment {name}" for name in self.deployments),
            f"automation {self.automation!r}",
            f"next: {shell('prefect', 'worker', 'start', '--pool', self.pool)}   (one on each machine that is to work)",
        ]


def read_document(path: Path) -> dict[str, Any]:
    """Return what a `prefect.yaml` says.

    Raises:
        ConfigError: there is no such file, or it has no deployments.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError:
        raise ConfigError(
            f"{str(path)!r} cannot be read; `clipdecoder deploy` is run in the folder that has clipdecoder's "
            f"{PREFECT_FILE} and its flows, or say which file with --file"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{str(path)!r} is not YAML: {error}") from None
    if not isinstance(document, dict) or not document.get("deployments"):
        raise ConfigError(f"{str(path)!r} has no deployments")
    return document


def with_options(document: dict[str, Any], options: DeployOptions) -> dict[str, Any]:
    """Return the document with the options in it. Anchors of the file are written out, so each entry stands alone.

    Raises:
        ConfigError: two deployments would have one name.
    """
    entries = [
        changed
        for entry in document["deployments"]
        for changed in _for_each_taxonomy(copy.deepcopy(entry), options.taxonomies)
    ]
    names = Counter(entry["name"] for entry in entries)
    if len(names) < len(entries):
        twice = ", ".join(sorted(name for name, count in names.items() if count > 1))
        raise ConfigError(f"deployments of one name: {twice}; taxonomy files need names that tell them apart")
    for entry in entries:
        if options.suffix is not None:
            entry["name"] += f"-{options.suffix}"
        if options.pool is not None:
            entry["work_pool"] = {**entry.get("work_pool", {}), "name": options.pool}
        if options.store is not None:
            _put_store(entry, options.store)
    return {**document, "deployments": entries}


def _for_each_taxonomy(entry: dict[str, Any], taxonomies: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not taxonomies or "taxonomy" not in _request(entry) or not _names_file(entry):
        yield entry
        return
    for taxonomy in taxonomies:
        one = copy.deepcopy(entry)
        _request(one)["taxonomy"] = taxonomy
        if len(taxonomies) > 1:
            one["name"] += f"-{PurePath(taxonomy).stem}"
        yield one


def _names_file(entry: dict[str, Any]) -> bool:
    """Whether the flow takes a taxonomy file; `retrain` takes the name of one that is in force."""
    return not str(entry["entrypoint"]).endswith(":retrain")


def _put_store(entry: dict[str, Any], store: str) -> None:
    if "store" in _request(entry):
        _request(entry)["store"] = store
    for trigger in entry.get("triggers", []):
        if STORE_LABEL in trigger.get("match", {}):
            trigger["match"][STORE_LABEL] = glob.escape(store)  # triggers match patterns


def _request(entry: dict[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = entry.get("parameters", {}).get("request", {})
    return request


def deploy(options: DeployOptions) -> DeployReport:
    """Put work pool, deployments and the watch for zombies on the server of PREFECT_API_URL.

    Raises:
        ConfigError: there is no server, or no `prefect.yaml`.
        RunError: Prefect refuses a deployment; it says why.
    """
    from prefect.client.orchestration import get_client

    document = with_options(read_document(options.file), options)
    api = find_server()
    pools = {entry.get("work_pool", {}).get("name") or POOL for entry in document["deployments"]}
    with get_client(sync_client=True) as client:
        made = [pool for pool in sorted(pools) if make_pool(client, pool)]
        _prefect_deploy(document)
        watch_for_zombies(client)
        names = _deployed(client, [entry["name"] for entry in document["deployments"]])
    return DeployReport(
        api=api, pool=", ".join(sorted(pools)), pool_created=bool(made), deployments=names, automation=WATCH
    )


def find_server() -> str:
    """Return the URL of the server's API.

    Raises:
        ConfigError: none is named, or the one that is named does not answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    api = PREFECT_API_URL.value()
    start = "start one with `prefect server start`, and set PREFECT_API_URL=http://127.0.0.1:4200/api here"
    if api is None:
        raise ConfigError(f"deployments need a Prefect server, and PREFECT_API_URL names none; {start}")
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise ConfigError(f"no Prefect server answers at PREFECT_API_URL={api} ({problem}); {start}")
    return str(api)


def make_pool(client: SyncPrefectClient, name: str) -> bool:
    """Create a work pool whose runs are processes of the worker, unless there is one of that name; say if it was."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))
    except ObjectAlreadyExists:
        return False
    return True


def watch_for_zombies(client: SyncPrefectClient) -> None:
    """Let the server mark a run as crashed that says nothing any more, so that it gives back its place in the queue.

    A flow that dies with its worker can tell nobody, and would stay `Running` for ever.
    """
    known = client.read_automations_by_name(WATCH)
    if not known:
        client.create_automation(zombie_automation())
        return
    newest, *others = known
    client.update_automation(newest.id, zombie_automation())
    for other in others:  # two people deployed at once
        client.delete_automation(other.id)


def zombie_automation() -> AutomationCore:
    """Return the automation: a heartbeat, and then neither another one nor an end for `SILENCE`."""
    from prefect.client.schemas.objects import StateType
    from prefect.events import ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification
    from prefect.events.schemas.automations import AutomationCore

    return AutomationCore(
        name=WATCH,
        description="Created by `clipdecoder deploy`. The data of such a run is safe; the next run finishes it.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{TAG}"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat: the run and its worker are gone. What is done is in the store; run it again.",
            )
        ],
    )


def _prefect_deploy(document: dict[str, Any]) -> None:
    """Run `prefect deploy --all` on a document.

    Raises:
        RunError: it did not end well; what it said is the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PREFECT_FILE
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"`prefect deploy --all` failed:\n{done.stdout}{done.stderr}")


def _deployed(client: SyncPrefectClient, names: Sequence[str]) -> list[str]:
    """Return FLOW/NAME of the deployments that the server has of these.

    Raises:
        RunError: it has not got all of them.
    """
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    found = client.read_deployments(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=list(names))))
    missing = set(names) - {deployment.name for deployment in found}
    if missing:
        raise RunError(f"`prefect deploy --all` left out {', '.join(sorted(missing))}; run it to see why")
    return sorted(f"{client.read_flow(deployment.flow_id).name}/{deployment.name}" for deployment in found)
