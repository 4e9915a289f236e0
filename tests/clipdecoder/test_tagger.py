"""Batches through a tagger: the numbers of stored features, whatever the batches; failures; too little memory."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from clipdecoder.encoders.backbone import Backbone, Features
from clipdecoder.encoders.encoder import EncoderFacts, ImageEncoder
from clipdecoder.encoders.model import load_model
from clipdecoder.scoring.cosine import CosineScorer
from clipdecoder.scoring.label_maps import LabelMaps
from clipdecoder.scoring.scores import KeptScores
from clipdecoder.scoring.tagger import BatchTagger, TaggedBatch
from schemas.errors import RunError

CPU = torch.device("cpu")
WIDTH, NUM_TOKENS = 12, 5


class Means(Backbone):
    """Gives numbers of each picture alone; one of a black picture has no direction. Too much for it: `most` at once."""

    local = True

    def __init__(self, most: int = 10**6) -> None:
        super().__init__(nn.Linear(3, WIDTH, bias=False).eval())
        torch.manual_seed(0)
        nn.init.normal_(self.tower.weight)
        self.most, self.seen = most, list[int]()
        self.failed: weakref.ref[torch.Tensor] | None = None

    def forward(self, x_BCHW: torch.Tensor, *, tokens: bool = True) -> Features:
        assert self.failed is None or self.failed() is None, "what did not fit is still there"
        if len(x_BCHW) > self.most:
            self.failed = weakref.ref(x_BCHW)
            raise torch.OutOfMemoryError("out of memory")
        self.seen.append(len(x_BCHW))
        lowest_B1 = x_BCHW.amin(dim=(1, 2, 3))[:, None]
        tokens_BTD = self.tower(x_BCHW[:, :, 0, :NUM_TOKENS].transpose(1, 2))
        blank_B1 = (x_BCHW == lowest_B1[:, :, None, None]).all(dim=(1, 2, 3), keepdim=False)[:, None]
        return Features(tokens_BTD.mean(dim=1).masked_fill(blank_B1, 0.0), tokens_BTD if tokens else None)


def make_encoder(most: int = 10**6) -> ImageEncoder:
    transform = load_model("bundled:scenes", device="cpu").transform
    facts = EncoderFacts(name="x", architecture="x", embedding_width=WIDTH, joint_text_id="t", identity={})
    return ImageEncoder(Means(most).eval(), transform, facts, CPU)


def make_tagger(
    *, num_labels: int = 7, local: bool = True, tokens: bool = False, most: int = 10**6, top_k: int = 3
) -> BatchTagger:
    queries = np.random.default_rng(1).normal(size=(num_labels, WIDTH)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    maps = LabelMaps(np.linspace(1, 3, num_labels), np.full(num_labels, -0.5))
    scorer = CosineScorer(queries_KD=queries, maps=maps, local=local)
    return BatchTagger(make_encoder(most), scorer, floor=0.6, top_k=top_k, tokens=tokens)


def make_pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def tag(tagger: BatchTagger, pixels: np.ndarray, size: int) -> list[TaggedBatch]:
    """Send pixels through in batches, two under way at a time."""
    started = []
    for first in range(0, len(pixels), size):
        buffer, count = tagger.buffer(size), len(pixels[first : first + size])
        buffer[:count] = pixels[first : first + size]
        started.append(tagger.start(buffer, count))
    return [batch.finish() for batch in started]


def cells(kept: KeptScores, first: int = 0) -> list[tuple[int, int, float, float]]:
    columns = (kept.sample + first, kept.label, kept.logit, kept.score)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("num_labels", [1, 7, 40])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("size", [8, 32])
def test_scores_of_fresh_and_of_stored_features_are_the_same_numbers(num_labels: int, local: bool, size: int) -> None:
    tagger = make_tagger(num_labels=num_labels, local=local, tokens=True)
    batches = tag(tagger, make_pixels(50), size)
    embeddings_ND = np.concatenate([batch.embeddings_BD for batch in batches])
    tokens_NTD = np.concatenate([batch.tokens_BTC for batch in batches if batch.tokens_BTC is not None])
    assert embeddings_ND.dtype == tokens_NTD.dtype == np.float16 and len(embeddings_ND) == len(tokens_NTD) == 50
    fresh = sorted(
        cell for place, batch in enumerate(batches) if batch.kept for cell in cells(batch.kept, place * size)
    )
    stored = tagger.score(embeddings_ND, tokens_NTD)
    assert fresh == sorted(cells(stored)) and len(stored) >= 3 * min(50, 50 * num_labels // 3)
    assert set(batches[0].seconds) == {"encode", "score"} and min(batches[0].seconds.values()) >= 0


def test_a_picture_without_an_embedding_has_no_scores() -> None:
    tagger = make_tagger(tokens=True)
    pixels = make_pixels(8)
    pixels[3] = 0
    (batch,) = tag(tagger, pixels, 8)
    assert batch.tokens_BTC is not None and batch.kept is not None
    assert np.flatnonzero(np.isnan(batch.embeddings_BD).any(axis=1)).tolist() == [3]
    assert np.isnan(batch.tokens_BTC[3]).all() and np.isfinite(batch.tokens_BTC[4]).all()
    assert set(batch.kept.sample.tolist()) == {0, 1, 2, 4, 5, 6, 7}


def test_nothing_is_scored_or_kept_that_nobody_wants() -> None:
    tagger = BatchTagger(make_encoder(), None, floor=0.0, top_k=0, tokens=False)
    (batch,) = tag(tagger, make_pixels(3), 8)
    assert batch.kept is None and batch.tokens_BTC is None and batch.embeddings_BD.shape == (3, WIDTH)


def test_stored_embeddings_count_in_place_of_new_ones() -> None:
    tagger = make_tagger(local=False)
    pixels, stored = make_pixels(8), np.full((8, WIDTH), np.nan, np.float16)
    stored[2] = np.float16(WIDTH**-0.5)
    batch = tagger.start(pixels, 8, stored_BD=stored).finish()
    (alone,) = tag(tagger, pixels, 8)
    assert np.array_equal(batch.embeddings_BD[2], stored[2]) and batch.kept is not None
    assert np.array_equal(np.delete(batch.embeddings_BD, 2, 0), np.delete(alone.embeddings_BD, 2, 0))
    expected = tagger.score(batch.embeddings_BD, None)
    assert cells(batch.kept) == cells(expected)


def test_a_batch_that_memory_is_too_small_for_is_taken_in_parts_and_so_are_all_after_it() -> None:
    small, large = make_tagger(most=3, tokens=True), make_tagger(tokens=True)
    pixels = make_pixels(20)
    parts, whole = tag(small, pixels, 8), tag(large, pixels, 8)
    for part, other in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part.embeddings_BD, other.embeddings_BD, atol=1e-3)
        assert part.embeddings_BD.shape == other.embeddings_BD.shape
    assert small.encoder.backbone.seen == [2] * 12  # type: ignore[comparison-overlap]


def test_a_device_without_memory_for_one_picture_is_an_error_with_advice() -> None:
    with pytest.raises(RunError, match=r"no memory for a single picture of \(64, 64\).*--device cpu"):
        tag(make_tagger(most=0), make_pixels(2), 8)


def test_a_device_without_memory_for_the_scores_is_an_error_with_advice() -> None:
    class Greedy(CosineScorer):
        def device_logits(self, embeddings_RD: torch.Tensor, tokens_RTD: torch.Tensor | None) -> torch.Tensor:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    maps = LabelMaps(np.ones(2), np.zeros(2))
    scorer = Greedy(queries_KD=np.ones((2, WIDTH), np.float32), maps=maps)
    tagger = BatchTagger(make_encoder(), scorer, floor=0.6, top_k=1, tokens=False)
    with pytest.raises(RunError, match="no memory for 5 pictures and their scores at once.*20 GiB.*--batch-size"):
        tag(tagger, make_pixels(5), 8)
