"""Settings come from arguments, then the environment, then the file; a wrong one is named."""

from pathlib import Path

import pytest

from schemas.config import load_settings, tag_request
from schemas.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "FLOOR", "ORCHESTRATE"):
        monkeypatch.delenv(f"CLIPDECODER_{name}", raising=False)


def test_defaults() -> None:
    assert load_settings().store == "store"


def test_environment_wins_over_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("clipdecoder.toml").write_text('store = "s3://bucket/store"\nfloor = 0.5\n')
    monkeypatch.setenv("CLIPDECODER_FLOOR", "0.25")
    settings = load_settings()
    assert (settings.store, settings.floor) == ("s3://bucket/store", 0.25)


def test_zero_is_not_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPDECODER_FLOOR", "0")
    assert load_settings().floor == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('stor = "x"', "unknown setting 'stor'; known: batch_size, "),
        ("floor = 2", r"setting floor = 2.*CLIPDECODER_FLOOR\)"),
        (
            "[retraining]\nmax_seen_drop = 2",
            r"retraining.max_seen_drop = 2.*or CLIPDECODER_RETRAINING__MAX_SEEN_DROP\)",
        ),
        ("[retraining]\nmax_drop = 2", "unknown setting 'retraining.max_drop'; known: retraining.ap_below, "),
        ("floor = ", "clipdecoder.toml: "),
    ],
)
def test_wrong_file(text: str, words: str) -> None:
    Path("clipdecoder.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_settings()


def test_wrong_request_names_option_and_value() -> None:
    with pytest.raises(ConfigError, match="floor = 1.5"):
        tag_request(shards=("a.tar",), taxonomy="t.yaml", store="s", floor=1.5)
    with pytest.raises(ConfigError, match="device = 'tpu'"):
        tag_request(shards=("a.tar",), taxonomy="t.yaml", store="s", device="tpu")


@pytest.mark.parametrize(("given", "meant"), [("auto", 0), ("0", 0), (0, 0), ("16", 16), (16, 16)])
def test_a_batch_size_may_be_a_word(given: str | int, meant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tag_request(shards=("a.tar",), taxonomy="t.yaml", store="s", batch_size=given).batch_size == meant
    monkeypatch.setenv("CLIPDECODER_BATCH_SIZE", str(given))
    assert load_settings().batch_size == meant


@pytest.mark.parametrize("wrong", ["fast", "-1", "1.5"])
def test_a_batch_size_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"batch_size = '{wrong}'"):
        tag_request(shards=("a.tar",), taxonomy="t.yaml", store="s", batch_size=wrong)


def test_a_name_that_cannot_be_one_is_told_what_it_may_have() -> None:
    with pytest.raises(ConfigError, match=r"a name is made of a-z, A-Z, 0-9, _, - and \., and does not") as error:
        tag_request(store="s", shards=("a.tar",), taxonomy="t.yaml", name="d's et")
    assert "pattern" not in str(error.value) and '"d\'s et"' in str(error.value)
