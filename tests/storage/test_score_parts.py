"""Score parts: what the views make of them is what was computed, whatever the threshold, and it takes few bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import StoreError
from schemas.scores import ODDS_STEPS, grid_odds, scores_of
from storage.catalog import open_catalog
from storage.files import Folder
from storage.score_parts import ScoreColumns, write_scores
from tests.storage.test_catalog import calibrate
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy

COUNT = 200


def columns(logit: Any, label: Any, label_ids: tuple[str, ...], slope: float = 1.0) -> ScoreColumns:
    """Return scores of samples that are counted within each label."""
    label = np.asarray(label, np.int32)
    return ScoreColumns(
        sample=np.concatenate([np.arange((label == each).sum(), dtype=np.int32) for each in np.unique(label)]),
        label=label,
        logit=np.asarray(logit, np.float32),
        label_ids=label_ids,
        slope=np.full(len(label_ids), slope),
        intercept=np.zeros(len(label_ids)),
    )


def read(folder: Folder, part: ScoreColumns) -> Any:
    write_scores(folder, "scores.parquet", "0", part)
    return pq.read_table(io.BytesIO(folder.read_bytes("scores.parquet")))


def test_rows_stand_by_label_id_whatever_the_order_of_the_vocabulary(tmp_path: Path) -> None:
    table = read(Folder(str(tmp_path)), columns([1, 2, 3, 4, 5], [0, 0, 1, 3, 3], ("cow", "ant", "fox", "bee")))
    assert table["label_id"].to_pylist() == ["ant", "bee", "bee", "cow", "cow"]
    assert (table["odds"].to_numpy() / ODDS_STEPS).tolist() == [3, 4, 5, 1, 2]


def test_32_scores_of_an_image_take_at_most_90_bytes(tmp_path: Path) -> None:
    random, images, labels, kept = np.random.default_rng(0), 10_000, 200, 32
    cosines = random.normal(0.18, 0.012, labels) + random.normal(0, 0.025, (images, labels))
    best = np.argpartition(cosines, labels - kept, axis=1)[:, -kept:].ravel()
    order = np.argsort(best, kind="stable")
    part = ScoreColumns(
        sample=np.repeat(np.arange(images, dtype=np.int32), kept)[order],
        label=best[order].astype(np.int32),
        logit=np.take_along_axis(cosines, best.reshape(images, kept), 1).ravel()[order].astype(np.float32),
        label_ids=tuple(f"label-{number:03d}" for number in range(labels)),
        slope=np.full(labels, 100.0),
        intercept=np.full(labels, -25.0),
    )
    assert write_scores(Folder(str(tmp_path)), "scores.parquet", "0", part).bytes <= 90 * images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A store with scores of one label, many near 0, near 1 and beside each other."""
    folder = Folder(str(tmp_path_factory.mktemp("store")))
    make_model(folder)
    near = np.linspace(0.3, 0.301, COUNT // 4)
    scores = [*np.geomspace(1e-7, 0.5, COUNT // 4), *near, *(1 - np.geomspace(1e-9, 0.5, COUNT // 2))]
    make_run(folder, "r1", make_taxonomy("ant"), {"0": Shard(scores={"ant": scores}, statuses=[OK] * COUNT)})
    return folder


def test_scores_are_those_that_were_computed(folder: Folder) -> None:
    with open_catalog(folder) as connection:
        found = connection.execute("SELECT logit, score, odds FROM internal.scores ORDER BY sample").fetchnumpy()
    assert np.array_equal(found["score"], scores_of(found["odds"]))
    assert np.array_equal(grid_odds(found["logit"]), found["odds"]), "a logit that was read is on the grid as it was"


def test_a_tag_is_a_score_at_or_above_the_threshold(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    scores = [1e-7, 1e-3, 0.01, 0.3, 0.3001, 0.5, 0.7, 0.99, 1 - 1e-6, 1 - 1e-7, 1 - 1e-8]
    stored = scores_of(grid_odds(np.log(scores) - np.log1p(-np.array(scores))))
    # At a score, just above and just below it: as many thresholds as there are labels, each of which has all scores.
    beside = [np.nextafter(stored, np.float32(towards)).astype(np.float64) for towards in (0, 2)]
    thresholds = dict(enumerate([0.0, 1.0, *stored.astype(np.float64), *beside[0], *beside[1]]))
    labels = {f"l{number:02d}": scores for number in thresholds}
    make_run(folder, "r1", make_taxonomy(*labels), {"0": Shard(scores=labels, statuses=[OK] * len(scores))})
    calibrate(folder, "m1", **{f"l{number:02d}": threshold for number, threshold in thresholds.items()})
    with open_catalog(folder) as connection:
        query = "SELECT label_id, list(sample ORDER BY sample) FROM {} GROUP BY 1 ORDER BY 1"
        tagged = dict(connection.execute(query.format("tags")).fetchall())
        above = "(SELECT s.* FROM scores s JOIN thresholds t USING (label_id) WHERE s.score >= t.threshold)"
        asked = dict(connection.execute(query.format(above)).fetchall())
    computed = {name: np.flatnonzero(stored >= thresholds[number]).tolist() for number, name in enumerate(labels)}
    assert tagged == asked == {name: samples for name, samples in computed.items() if samples}


@given(st.lists(st.floats(-800, 800, width=32), min_size=2, max_size=50))
def test_rounding_keeps_the_order_and_moves_a_score_by_little(log_odds: list[float]) -> None:
    exact = np.sort(np.array(log_odds))
    odds = grid_odds(exact)
    assert (np.diff(odds) >= 0).all() and (np.diff(scores_of(odds)) >= 0).all()
    assert np.abs(scores_of(odds) - 1 / (1 + np.exp(-np.clip(exact, -700, 700)))).max() < 1.6e-5


def test_scores_of_another_layout_are_refused_with_the_next_step(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_run(folder, "r1", make_taxonomy("ant"), {"0": Shard(scores={"ant": [0.9] * 3})})
    path = tmp_path / "runs/r1/run.json"
    record = path.read_text()
    for other in (record.replace('"layout": 2', '"layout": 3'), record.replace(',\n  "layout": 2', "")):
        assert other != record
        path.write_text(other)
        with pytest.raises(StoreError, match=r"'r1'.*laid out as another version.*move runs/r1/ away"):
            open_catalog(folder)
