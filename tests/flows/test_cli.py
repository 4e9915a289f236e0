"""The command line as a user meets it: exit codes, one JSON value on stdout, sentences on stderr, quick starts."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
import typer

from flows.cli import output
from flows.cli.app import app
from schemas.commands import DEFAULT_STORE, SETTINGS_PREFIX
from schemas.commands import SETTINGS_FILE as SETTINGS_FILE_OF_COMMANDS
from schemas.config import SETTINGS_FILE, Settings
from tests.flows.world import World, decoded, make_world, pictures, taxonomy_text
from tests.nasty import jpeg

COMMAND = str(Path(sys.executable).with_name("clipdecoder"))
ROOT = Path(__file__).parents[2]

CTRL_C_AT_A_WRITE = """
import fsspec
from tests.flows.disks import HookedDisk
class Interrupted(HookedDisk):
    protocol = "interrupted"
    def step(self):
        super().step()
        if self.steps == 20:
            signal.raise_signal(signal.SIGINT)
fsspec.register_implementation("interrupted", Interrupted)
"""


def clipdecoder(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command, without Prefect unless asked, and never let a traceback pass."""
    done = subprocess.run(
        [COMMAND, *words],
        cwd=cwd,
        env={**os.environ, "CLIPDECODER_ORCHESTRATE": "false", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def clipdecoder_after(program: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that runs some Python before."""
    with started(program, *words, cwd=cwd) as process:
        out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def started(program: str, *words: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start the command in a process that runs some Python before, and that Ctrl-C reaches wherever the tests run."""
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.Popen(
        [sys.executable, "-c", f"{listen}\n{program}\nfrom flows.cli import main; main()", *words],
        cwd=cwd,
        env={**os.environ, "CLIPDECODER_ORCHESTRATE": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shell(line: str, *words: str) -> tuple[int, str]:
    """Run a line of shell with the command and `words` as its parameters; return its exit code and its stderr."""
    done = subprocess.run(
        ["bash", "-c", line, "bash", COMMAND, *words],
        env={**os.environ, "CLIPDECODER_ORCHESTRATE": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a world that was tagged, for tests that only ask."""
    world = make_world(tmp_path_factory.mktemp("tagged"))
    world.tag()
    return world


def test_tag_json_is_one_value_on_stdout(world: World) -> None:
    shards = str(world.folder / "shards" / "*.tar")
    done = clipdecoder("tag", shards, "--taxonomy", str(world.taxonomy), "--store", world.store, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["samples"], summary["complete"], summary["calibration"]) == (10, True, "none")
    assert "bundled:scenes knows coloured shapes only" in done.stderr


def test_a_shard_in_trouble_is_exit_1_with_the_next_step(world: World) -> None:
    world.raw_shard("00002", b"no tar" * 500)
    shards = str(world.folder / "shards" / "*.tar")
    done = clipdecoder("tag", shards, "--taxonomy", str(world.taxonomy), "--store", world.store)
    assert done.returncode == 1
    assert "00002: not_a_tar" in done.stdout and "run the same command again" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tag", "nowhere/*.tar", "--taxonomy", "t.yaml"), "matches no shard"),
        (("tag", "x.tar", "--taxonomy", "absent.yaml"), "absent.yaml: cannot be read"),
        (("tag", "x.tar", "--taxonomy", "t.yaml", "--floor", "7"), "floor = 7"),
        (("tag", "x.tar", "--taxonomy", "t.yaml", "--model", "bundled:nothing"), "scenes"),
        (("tag", "x.tar", "--taxonomy", "t.yaml", "--model", "0123456789abcdef"), "unknown model '0123456789abcdef'"),
        (("tag", "x.tar", "--taxonomy", "t.yaml", "--model", "current"), "no model is promoted"),
        (("tag", "x.tar", "--taxonomy", "t.yaml", "--device", "cuda:99"), "cuda:99"),
        (("tag", "x.tar", "--taxonomy", "t.yaml", "--scorer", "magic"), "magic"),
        (("sql", "select 1"), "there is no store"),
        (("audit",), "store"),
        (("compact",), "there is no store"),
        (("sql", "select 1", "-o", "x.xlsx"), "'.xlsx'; known: .csv, .json, .parquet, .txt"),
        (("sql", "select 1", "-o", "s3://bucket/x.csv"), "local paths only"),
        (("sql", "select 1", "--max-rows", "0"), "max-rows"),
        (("models", "list"), "there is no store"),
        (("models", "show", "abc"), "there is no store"),
        (("models", "promote", "abc"), "there is no store"),
        (("models", "rollback"), "there is no store"),
        (("taxonomy", "check", "bad.yaml"), "bad.yaml:3: label 'a': parent 'b'"),
        (("pack", "nowhere", "--to", "out/{:05d}.tar"), "nowhere"),
        (("pack", ".", "--to", "out.tar"), "out.tar"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_requests_are_exit_2_and_touch_nothing(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "t.yaml").write_text(taxonomy_text())
    (tmp_path / "bad.yaml").write_text("name: t\nlabels:\n- {id: a, name: x, parent: b}\n")
    (tmp_path / "x.tar").write_bytes(b"\0" * 1024)
    before = sorted(tmp_path.rglob("*"))
    done = clipdecoder(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert message in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_setting_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "clipdecoder.toml").write_text("stoer = 'x'\n")
    done = clipdecoder("sql", "select 1", cwd=tmp_path)
    assert done.returncode == 2 and "unknown setting 'stoer'; known: batch_size" in done.stderr


@pytest.mark.parametrize(("format", "start"), [("csv", '"key"'), ("json", "["), ("table", ""), ("parquet", "PAR1")])
def test_sql_formats(tagged: World, tmp_path: Path, format: str, start: str) -> None:
    output = tmp_path / "answer"
    query = "select key from samples order by key"
    words = ("sql", query, "--store", tagged.store, "--format", format)
    assert clipdecoder(*words, "-o", str(output)).returncode == 0
    text = output.read_bytes().decode("utf-8", "replace")
    assert text.startswith(start) and "s0-0" in text
    if format != "parquet":
        assert clipdecoder(*words).stdout.strip() == text.strip()


def test_sql_is_quick_and_loads_neither_torch_nor_prefect(tagged: World) -> None:
    words = ["sql", "select count(*) as n from samples", "--store", tagged.store, "--json"]
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(repr(set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [{"n": 10}]
    loaded = {name.partition(".")[0] for name in eval(done.stderr)}
    assert not loaded & {"torch", "prefect", "open_clip", "timm", "torchvision", "webdataset"}
    # Work beside work, not seconds: how fast the machine is, and how busy, is in both. Idle: one second.
    bare = "import duckdb, fsspec, numpy, pydantic, pyarrow, typer"
    sql_seconds = min(cpu_seconds([COMMAND, *words]) for _ in range(5))
    bare_seconds = min(cpu_seconds([sys.executable, "-c", bare]) for _ in range(5))
    assert sql_seconds < 2.5 * bare_seconds


def cpu_seconds(command: list[str]) -> float:
    """Return the CPU time that a command takes, of the user and the system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_compacting_changes_no_answer_and_nothing_that_comes_after(world: World) -> None:
    world.tag()
    for number in range(2):
        alone, query = str(world.folder / f"alone-{number}"), "select * exclude run_id from scores order by all"
        world.tag(store=alone)
        done = clipdecoder("compact", "--store", world.store, "--json")
        assert (done.returncode, json.loads(done.stdout)["runs"][0]["files"]) == (0, 2), done
        assert world.ask(query) == world.ask(query, alone)
        assert clipdecoder("audit", "--store", world.store).returncode == 0
        world.shard(f"0000{number}", pictures(5 + number, 3))  # bytes that change are tagged again, and only they
        assert decoded(world.tag()) == 3
    summary = clipdecoder("compact", "--run", "world", "--dry-run", "--store", world.store)
    assert summary.returncode == 0 and summary.stdout.endswith("nothing was written (--dry-run)\n")
    part = next(Path(world.store).glob("runs/*/scores/*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    broken = clipdecoder("compact", "--store", world.store)
    assert broken.returncode == 1 and f"`clipdecoder audit --store {world.store}` says what is lost" in broken.stdout


def test_a_catalog_file_is_written_replaced_and_never_put_over_anything_else(tagged: World, tmp_path: Path) -> None:
    path, notes = tmp_path / "it's.duckdb", tmp_path / "notes.txt"
    notes.write_text("precious")
    words = ("catalog", "--store", tagged.store, "--to")
    said = clipdecoder(*words, str(path)).stdout
    assert str(path) in said and "write it anew after a run" in said and "version of a taxonomy" in said
    written = json.loads(clipdecoder(*words, str(path), "--run", "world", "--json").stdout)
    assert (written["path"], written["bytes"]) == (str(path), path.stat().st_size)
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("select count(*) from samples").fetchall() == [(10,)]
    refused = clipdecoder(*words, str(notes))
    assert refused.returncode == 2 and "--force" in refused.stderr and notes.read_text() == "precious"
    assert clipdecoder(*words, str(tmp_path / "no" / "x.duckdb")).returncode == 2
    assert clipdecoder(*words, str(path), "--run", "world", "--model", "x").returncode == 2
    assert clipdecoder(*words, str(notes), "--force").returncode == 0 and notes.read_bytes() != b"precious"
    assert sorted(tmp_path.iterdir()) == [path, notes]


def test_asking_loads_no_settings_where_nothing_is_set(tagged: World) -> None:
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(repr(set(sys.modules)))"
    words = ["sql", "select 1", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLIPDECODER_")}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tagged.folder, env=environment)
    assert not {"pydantic_settings", "rich", "schemas.config", "pyarrow.parquet", "pyarrow.compute"} & eval(done.stderr)


def test_what_is_known_of_settings_without_loading_them_is_what_they_say() -> None:
    assert Settings.model_fields["store"].default == DEFAULT_STORE
    assert SETTINGS_FILE_OF_COMMANDS == SETTINGS_FILE
    assert Settings.model_config["env_prefix"] == SETTINGS_PREFIX


def test_the_store_comes_from_the_option_then_the_environment_then_the_file(tagged: World, tmp_path: Path) -> None:
    (tmp_path / "clipdecoder.toml").write_text("store = 'of the file'\n")
    words = ("sql", "select 1")
    assert "of the file" in clipdecoder(*words, cwd=tmp_path).stderr
    assert "of the environment" in clipdecoder(*words, cwd=tmp_path, CLIPDECODER_STORE="of the environment").stderr
    assert clipdecoder(*words, "--store", tagged.store, cwd=tmp_path).returncode == 0
    assert "'7'" in clipdecoder("audit", cwd=tmp_path, CLIPDECODER_FLOOR="7").stderr


def test_nothing_of_others_reaches_the_terminal_as_a_control_character(
    tagged: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for query in (r"select e'\x1b[31mred' as key", "select chr(27)||'[31mred'"):
        done = clipdecoder("sql", query, "--store", tagged.store)
        assert "\x1b" not in done.stdout and r"\x1b[31mred" in done.stdout
    nasty = "[bold]\x1b]0;owned\x07 \udcff\tnext\nline é"
    output.print_lines([nasty])
    output.print_table([{"key": nasty, "n": 1}], ["key", "n"])
    output.say(nasty)
    output.say_error(ValueError(nasty))
    said = capsys.readouterr()
    spelled = r"[bold]\x1b]0;owned\x07 \udcff"
    assert (said.out.count(spelled), said.err.count(spelled)) == (2, 2)
    assert not {"\x1b", "\x07"} & set(said.out + said.err)
    assert f"\nerror: {spelled}" in said.err and said.err.endswith("next\nline é\n")


def test_a_result_that_is_refused_leaves_the_file_as_it_was(tagged: World, tmp_path: Path) -> None:
    output = tmp_path / "answer.parquet"
    output.write_text("earlier")
    words = ("sql", "select [interval 1 day] as spans", "--store", tagged.store, "--format", "parquet")
    done = clipdecoder(*words, "-o", str(output))
    assert done.returncode == 2 and "cast the column to text" in done.stderr
    assert output.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["answer.parquet"]


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.csv", b'"n"\n0\n'), ("a.JSON", b"[\n{"), ("a.parquet", b"PAR1"), ("a.txt", "┏".encode()), ("a", "┏".encode())],
)
def test_the_file_says_its_format_and_is_whole(tagged: World, tmp_path: Path, name: str, start: bytes) -> None:
    done = clipdecoder("sql", "select range as n from range(70)", "--store", tagged.store, "-o", name, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    content = (tmp_path / name).read_bytes()
    assert content.startswith(start) and b"not shown" not in content
    if not name.endswith("parquet"):
        assert content.count(b"\n") >= 70 and b"69" in content
    assert os.listdir(tmp_path) == [name]


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tagged: World, tmp_path: Path) -> None:
    output = tmp_path / "a.csv"
    output.write_text("earlier")
    words = ("sql", "select range as n from range(9000)", "--store", tagged.store, "-o", "a.csv")
    done = clipdecoder_after(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))", *words, cwd=tmp_path
    )
    assert done.returncode == 2 and "cannot write 'a.csv': File too large" in done.stderr
    assert output.read_text() == "earlier" and os.listdir(tmp_path) == ["a.csv"]


def test_a_link_or_a_device_named_as_output_is_not_replaced(tagged: World, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("earlier")
    (tmp_path / "old").chmod(0o640)
    (tmp_path / "link.csv").symlink_to("old")
    words = ("sql", "select 1 as n", "--store", tagged.store, "-o")
    assert clipdecoder(*words, "link.csv", cwd=tmp_path).returncode == 0
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "old").read_text() == '"n"\n1\n'
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640
    assert "│ 1 │" in clipdecoder(*words, "/dev/stdout").stdout
    assert clipdecoder(*words, str(tmp_path)).returncode == 2


def test_ctrl_c_stops_a_query(tagged: World) -> None:
    endless = "select count(*) from range(10000000) a, range(10000000) b where a.range * b.range % 7 = 3"
    with started("", "sql", endless, "--store", tagged.store) as process:
        time.sleep(3)  # nothing outside says that a query runs
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_ctrl_c_stops_a_run_and_says_what_becomes_of_it(world: World) -> None:
    shards = str(world.folder / "shards" / "*.tar")
    words = ("tag", shards, "--taxonomy", str(world.taxonomy), "--store")
    done = clipdecoder_after(CTRL_C_AT_A_WRITE, *words, f"interrupted://{world.store}", cwd=ROOT)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert done.stderr.endswith("stopped; what is done stays done, and the same command goes on\n")
    assert clipdecoder(*words, world.store).returncode == 0
    assert world.ask("select complete from runs") == [(True,)]


@pytest.mark.parametrize(
    "words", [("sql", "select 1"), ("sql", "select 1", "--format", "csv"), ("sql", "from range(9999)", "--json"),
              ("sql", "from range(99999)", "--format", "csv"), ("models", "list"), ("models", "list", "--json")],
    ids=" ".join,
)  # fmt: skip
def test_an_output_that_takes_nothing_is_one_line_and_exit_1(tagged: World, words: tuple[str, ...]) -> None:
    store = ("--store", tagged.store)
    assert shell('"$@" > /dev/full', *words, *store) == (1, "error: cannot write the output: No space left on device\n")
    code, said = shell('"$@" >&-', *words, *store)
    assert code == 1 and said.startswith("error: the standard output is closed") and said.count("\n") == 1
    assert shell('"$@" | head -1 > /dev/null', *words, *store) == (0, "")


def test_a_summary_that_cannot_be_written_is_exit_1_and_the_run_is_done(world: World) -> None:
    words = ("tag", str(world.folder / "shards" / "*.tar"), "--taxonomy", str(world.taxonomy), "--store", world.store)
    code, said = shell('"$@" > /dev/full', *words)
    assert code == 1 and said.endswith("\nerror: cannot write the output: No space left on device\n")
    assert world.ask("select complete from runs") == [(True,)]


def test_a_query_that_is_not_utf_8_is_refused(tagged: World) -> None:
    for locale in ("C.UTF-8", "C"):
        for line in (r"printf '\xff\xfe' | LC_ALL=%s $1 sql - --store $2", r"LC_ALL=%s $1 sql $'\xff' --store $2"):
            code, said = shell(line % locale, tagged.store)
            assert code == 2 and said.startswith("error: the query is not UTF-8 at character 1"), said
    code, said = shell("$1 sql - --store $2 <&-", tagged.store)
    assert code == 2 and "standard input, which is closed" in said


def test_audit_says_what_does_not_hold(world: World) -> None:
    world.tag()
    assert clipdecoder("audit", "--store", world.store).returncode == 0
    part = next(Path(world.store, "runs").rglob("scores/00000.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    done = clipdecoder("audit", "--store", world.store, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False


def test_models(world: World) -> None:
    model_id = world.tag().plan.record.model_id
    listed = json.loads(clipdecoder("models", "list", "--store", world.store, "--json").stdout)
    assert [(model["model_id"], model["promoted"]) for model in listed] == [(model_id, True)]
    shown = json.loads(clipdecoder("models", "show", model_id, "--store", world.store, "--json").stdout)
    assert shown["name"] == "bundled:scenes" and shown["calibration"] == "none"
    assert clipdecoder("models", "promote", model_id, "--store", world.store).returncode == 0
    for words, message in ((("rollback",), "no earlier model"), (("promote", "abc"), "unknown model 'abc'")):
        done = clipdecoder("models", *words, "--store", world.store)
        assert done.returncode == 2 and message in done.stderr


def test_dry_run_measures_and_writes_nothing(world: World) -> None:
    shards = str(world.folder / "shards" / "*.tar")
    done = clipdecoder("tag", shards, "--taxonomy", str(world.taxonomy), "--store", world.store, "--dry-run", "--json")
    estimate = json.loads(done.stdout)
    assert (estimate["pending"], estimate["sampled"]) == (2, 5)
    assert estimate["limit"].partition("-bound: ")[0] in {"read", "decode", "device", "write"}
    assert {"decode", "encode"} <= estimate["stage_images_per_second"].keys() and estimate["images_per_second"] > 0
    assert 5 <= estimate["images_expected"] <= 20 and estimate["output_bytes"] > 0
    assert not Path(world.store).exists()


def test_pack_then_tag(world: World, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(5):
        (pictures / f"p {i}.jpg").write_bytes(jpeg(i))
    packed = clipdecoder(
        "pack", str(pictures), "--to", str(tmp_path / "packed" / "{:05d}.tar"), "--samples-per-shard", "2"
    )
    assert packed.returncode == 0, packed.stderr
    outcome = world.tag(shards=(str(tmp_path / "packed" / "{00000..00002}.tar"),), store=str(tmp_path / "other"))
    assert outcome.whole and outcome.statuses.total() == 5


def commands(group: typer.Typer = app, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return every command, as the words that call it."""
    found = [
        (*prefix, info.name or info.callback.__name__.replace("_", "-"))
        for info in group.registered_commands
        if info.callback is not None
    ]
    for info in group.registered_groups:
        if info.typer_instance is not None:
            found += commands(info.typer_instance, (*prefix, str(info.name)))
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example_and_json(words: tuple[str, ...]) -> None:
    done = clipdecoder(*words, "--help", COLUMNS="200")
    assert done.returncode == 0
    assert f"Example: clipdecoder {' '.join(words)}" in done.stdout
    assert "--json" in done.stdout or words == ("demo",)


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [words for words in commands() if f"clipdecoder {' '.join(words)}" not in readme]
    assert not missing
