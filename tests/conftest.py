"""Servers on loopback, S3 and plain HTTP, for every test that asks for one."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

# Before torch is loaded: see flows.environment.share_processors.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, Any]]:
    """Serve S3 over HTTP for the session and yield the storage options that lead to it.

    The environment says the same, for this process and those it starts: plain `s3://` URLs work without options.
    """
    from moto.server import ThreadedMotoServer  # takes a second

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        yield {"endpoint_url": endpoint, "key": "testing", "secret": "testing"}
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(s3: dict[str, Any]) -> str:
    """Return the URL of an empty bucket of its own."""
    url = f"s3://test-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(url)
    return url


class _WebHandler(SimpleHTTPRequestHandler):
    """Files of a folder, and below /streamed/ the same without length, as from a program that writes them."""

    def do_GET(self) -> None:
        if not self.path.startswith("/streamed/"):
            return super().do_GET()
        self.send_response(200)
        self.end_headers()
        self.wfile.write((Path(self.directory) / self.path.removeprefix("/streamed/")).read_bytes())

    def do_HEAD(self) -> None:
        if not self.path.startswith("/streamed/"):
            return super().do_HEAD()
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve `tmp_path` over HTTP, without ranges, and yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_WebHandler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
