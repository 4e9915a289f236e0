"""Who may ask the page's server: this machine's browser, from the server's own pages; others with the token alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.browse.redaction import without_places
from flows.browse.security import CSRF_HEADER, Access, check_access, is_loopback
from flows.browse.server import address
from flows.cli.app import app
from schemas.errors import ConfigError
from storage.files import Folder
from tests.flows.browse.test_browse import make_store
from tests.flows.browsing import ADDRESS, Page, browsing

TOKEN = "a-token-of-enough-letters"
ANSWER = {"dataset": "street", "shard": "0", "sample": 0, "label": "ant", "value": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store") / "store"
    make_store(Folder(str(folder)))
    return str(folder)


@pytest.fixture(scope="module")
def page(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(store, tmp_path_factory.mktemp("cache")) as opened:
        yield opened


@pytest.fixture(scope="module")
def guarded(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Look from another machine."""
    with browsing(store, tmp_path_factory.mktemp("cache"), host="192.0.2.7", token=TOKEN) as opened:
        yield opened


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1:8765", "[::1]:8765", "LOCALHOST", "127.0.0.1"])
def test_names_of_this_machine_are_served(page: Page, host: str) -> None:
    assert page.client.get("/labels", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8765",
        "192.0.2.7",
        "",
        "localhost@evil.example",
        "evil@localhost",
        "[::2]",
        "127.0.0.1:x",
        "0.0.0.0:8765",
        "localhost.",
        "2130706433",
    ],
)
def test_another_name_for_this_machine_is_refused(page: Page, host: str) -> None:
    answer = page.client.get("/labels", headers={"host": host})
    assert answer.status_code == 421 and "ant" not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({CSRF_HEADER: "guessed"}, 403),
        ({CSRF_HEADER: ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 403),
    ],
)
def test_a_change_from_elsewhere_is_refused(page: Page, headers: dict[str, str], status: int) -> None:
    known = {CSRF_HEADER: page.desk.access.csrf} if headers and CSRF_HEADER not in headers else {}
    for path in ("/api/answer", "/api/sql", "/api/export", "/api/save", "/api/refresh", "/api/undo", "/api/search"):
        assert page.client.post(path, json=ANSWER, headers={**known, **headers}).status_code == status
    assert page.desk.answers.waiting == 0


def test_a_form_of_another_page_is_refused(page: Page) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
        headers = {"content-type": kind, "origin": "http://evil.example", "sec-fetch-site": "cross-site"}
        assert page.client.post("/api/answer", content=json.dumps(ANSWER), headers=headers).status_code == 403
        headers = {**page.own, "content-type": kind}  # even with the word that only our pages know
        assert page.client.post("/api/answer", content=json.dumps(ANSWER), headers=headers).status_code == 400


def test_other_pages_embed_nothing_and_may_only_link_here(page: Page) -> None:
    for mode, to in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("no-cors", "script")):
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode, "sec-fetch-dest": to}
        for path in ("/", "/api/counts", "/thumb?dataset=street&shard=0&sample=0", "/static/browse.js"):
            assert page.client.get(path, headers=headers).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert page.client.get("/labels", headers=link).status_code == 200


@pytest.mark.parametrize("path", ["/", "/labels", "/nope", "/api/counts", "/static/browse.js", "/thumb?dataset=x"])
def test_every_answer_says_what_a_browser_may_do(page: Page, path: str) -> None:
    headers = page.client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin" and headers["x-frame-options"] == "DENY"
    assert "cache-control" in headers and "access-control-allow-origin" not in headers


def test_pages_load_nothing_from_elsewhere_and_have_no_script_of_their_own(page: Page) -> None:
    for path in ("/", "/labels", "/label?label=ant", "/sql", "/compare", "/picture?dataset=street&shard=0&sample=0"):
        text = page.html(path)
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace(page.desk.folder.url, ""), path
        assert text.count("<script") == 1 and "style=" not in text and " onclick" not in text


def test_a_request_that_is_too_large_is_refused(page: Page) -> None:
    headers = {**page.own, "content-length": str(2**30)}
    assert page.client.post("/api/sql", content=b"{}", headers=headers).status_code == 413

    def pieces() -> Iterator[bytes]:
        yield b"{}"

    assert page.client.post("/api/sql", content=pieces(), headers=page.own).status_code == 411


def test_other_machines_need_the_token(guarded: Page) -> None:
    client = guarded.client
    client.cookies.clear()
    for host in ("192.0.2.7:8765", "127.0.0.1:8765"):
        for path in ("/", "/api/counts", "/static/browse.js", "/?token=wrong", "/?token=", "/labels?token=" + TOKEN):
            assert client.get(path, headers={"host": host}).status_code == 401
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    here = {"host": "192.0.2.7:8765"}
    assert client.post("/api/save", headers={**here, CSRF_HEADER: guarded.desk.access.csrf}).status_code == 401
    given = client.get(f"/?token={TOKEN}", headers=here)
    assert given.status_code == 303 and given.headers["location"] == "/"
    cookie = given.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    own = {**here, "cookie": cookie.split(";")[0]}
    assert client.get("/labels", headers=own).status_code == 200
    assert client.get(f"/?token={TOKEN}", headers=own).headers["location"] == "/"  # out of the address again
    assert client.get("/labels", headers={**here, "cookie": f"{guarded.desk.access.cookie}={TOKEN}"}).status_code == 401
    assert client.get("/labels", headers={**here, "authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_server_that_others_reach_writes_no_export(guarded: Page) -> None:
    own = {"authorization": f"Bearer {TOKEN}", CSRF_HEADER: guarded.desk.access.csrf}
    asked = {"sql": "select key from samples", "to": "out/{:05d}.tar"}
    answer = guarded.client.post("/api/export", json=asked, headers=own)
    assert answer.status_code == 400 and "writes no files" in answer.json()["error"]
    text = guarded.client.get("/", headers=own).text
    assert "clipdecoder export" in text and "export-form" not in text


def test_no_token_no_others() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.7", "name.example"):
        with pytest.raises(ConfigError, match="--token"):
            check_access(host, None)
        check_access(host, TOKEN)
    with pytest.raises(ConfigError, match="at least 16"):
        check_access("127.0.0.1", "short")
    assert is_loopback("127.0.0.2") and is_loopback("[::1]") and not is_loopback("127.0.0.1.example")
    assert address(Access("0.0.0.0", 1, "a b")) == "http://127.0.0.1:1/?token=a%20b"
    assert address(Access("::1", 1, None)) == "http://[::1]:1/"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("cannot read 'a' in the store '/home/me/store': no", "cannot read 'a' in the store '…/store': no"),
        ("s3://bucket/shards/0.tar is not there", "…/0.tar is not there"),
        ("file:///data/x/0.tar ends", "…/0.tar ends"),
        ("[Errno 2] No such file: '/tmp/a b/c.parquet'", None),
        ("unknown label 'a/b'; known: x, y/z", "unknown label 'a/b'; known: x, y/z"),
        ("'store://runs/r1/run.json' is not a file that the views read", None),
        (r"C:\Users\me\store is gone", "…/store is gone"),
        ("1/2 and/or 3", "1/2 and/or 3"),
    ],
)
def test_messages_say_nothing_of_where_things_lie(message: str, shown: str | None) -> None:
    said = without_places(message)
    assert "/home" not in said and "/tmp" not in said and "bucket" not in said
    assert shown is None or said == shown
    assert ("store://" in said) == ("store://" in message)


def test_the_command_refuses_before_it_listens(store: str, tmp_path: Path) -> None:
    for words in (
        ["--host", "0.0.0.0"],
        ["--token", "short"],
        ["--store", str(tmp_path / "none")],
        ["--port", "99999"],
    ):
        result = CliRunner().invoke(app, ["browse", "--store", store, *words])
        assert result.exit_code != 0
        assert result.exception is None or isinstance(result.exception, SystemExit | ValueError)


def test_the_command_serves_until_ctrl_c(store: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "flows.cli", "browse", "--store", store, "--port", "0", "--json"]
    environment = {"CLIPDECODER_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None and server.stderr is not None
        url = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")["url"]
        with urllib.request.urlopen(f"{url}labels") as answer:
            assert b"Labels" in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0 and "Traceback" not in server.stderr.read()


def test_the_command_loads_neither_torch_nor_prefect(store: str, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.flows.browsing import browsing\n"
        f"with browsing({store!r}, Path({str(tmp_path)!r})) as page:\n"
        "    assert page.html('/') and page.html('/label?label=ant')\n"
        "assert not {'torch', 'prefect'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def test_the_address_of_the_tests_is_what_browsers_say(page: Page) -> None:
    assert page.client.get("/labels", headers={"origin": ADDRESS, "sec-fetch-site": "same-origin"}).status_code == 200
