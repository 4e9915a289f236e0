"""A GPU against the processor: the head, in float32 and in bf16, its training, and patch tokens.

Shapes: B images, T patch tokens, K labels, C width of tokens or queries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdecoder.encoders.batch_size import LARGEST, find_batch_size
from clipdecoder.encoders.model import find_device, load_model
from clipdecoder.heads.text_query_head import TextQueryHead
from clipdecoder.scoring.branches import Branches, Queries
from clipdecoder.scoring.label_maps import LabelMaps
from clipdecoder.scoring.selection import kept_cells
from clipdecoder.scoring.tagger import BatchTagger
from clipdecoder.scoring.zero_shot import ZeroShotModel
from clipdecoder.training.loop import Hooks, train_head
from schemas.checkpoint import Scorer
from schemas.taxonomy import VocabularyLabel
from schemas.training import HeadConfig
from tests.clipdecoder.training_world import make_data, recipe

pytestmark = pytest.mark.gpu

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPE = HeadConfig(token_width=64, query_width=48)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The processor's tensors are small: on several threads they are slower, on busy cores far slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_head() -> tuple[TextQueryHead, Tensor, Tensor]:
    """Return a new head in evaluation mode, tokens of eight images, and 300 L2-normalised queries."""
    torch.manual_seed(0)
    head = TextQueryHead(SHAPE)
    x_BTC, queries_KC = torch.randn(8, 49, 64), F.normalize(torch.randn(300, 48), dim=-1)
    head.fit_statistics(x_BTC, queries_KC)
    return head.eval(), x_BTC, queries_KC


@torch.inference_mode()
def test_a_gpu_scores_as_the_processor_does() -> None:
    head, x_BTC, queries_KC = make_head()
    here_BK = head(x_BTC, queries_KC)
    there_BK = head.to(GPU)(x_BTC.to(GPU), queries_KC.to(GPU))
    torch.testing.assert_close(there_BK.cpu(), here_BK, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_bf16_moves_logits_little_and_ranks_alike() -> None:
    head, x_BTC, queries_KC = make_head()
    head, x_BTC, queries_KC = head.to(GPU), x_BTC.to(GPU), queries_KC.to(GPU)
    exact_BK = head(x_BTC, queries_KC)
    with torch.autocast(GPU.type, torch.bfloat16):
        rounded_BK = head(x_BTC, queries_KC)
    assert rounded_BK.dtype == torch.float32
    torch.testing.assert_close(rounded_BK, exact_BK, rtol=0, atol=2e-2)
    rank_BK, exact_rank_BK = (logits_BK.argsort(dim=1).argsort(dim=1).double() for logits_BK in (rounded_BK, exact_BK))
    correlation = torch.corrcoef(torch.stack([rank_BK.flatten(), exact_rank_BK.flatten()]))[0, 1]
    assert float(correlation) > 0.99


@torch.inference_mode()
def test_chunks_of_labels_change_no_logit_on_a_gpu() -> None:
    head, x_BTC, queries_KC = make_head()
    head, x_BTC, queries_KC = head.to(GPU), x_BTC.to(GPU), queries_KC.to(GPU)
    chunked_BK = head(x_BTC, queries_KC, max_bytes=2**20)
    torch.testing.assert_close(chunked_BK, head(x_BTC, queries_KC), rtol=0, atol=1e-5)


def test_the_decoder_branch_takes_stored_tokens_to_a_gpu() -> None:
    head, x_BTC, queries_KC = make_head()
    queries = Queries(queries_KQ=queries_KC.numpy(), seen_K=np.full(len(queries_KC), -1))
    tokens_NTC = x_BTC.half().repeat(40, 1, 1).numpy()  # more than go through at once
    here_NK = Branches(("decoder",), linear=None, head=head, device=CPU).decode(queries, tokens_NTC)
    there_NK = Branches(("decoder",), linear=None, head=head.to(GPU), device=GPU).decode(queries, tokens_NTC)
    np.testing.assert_allclose(there_NK, here_NK, rtol=0, atol=1e-4)


def test_an_epoch_on_a_gpu_is_in_bf16_and_has_the_losses_of_one_on_the_processor() -> None:
    data, config = make_data(teacher=True), recipe(epochs=1, dropout=0.0, distillation=1.0, amp="auto")
    trained = train_head(config, data, device=GPU)
    losses = trained.reports[0].losses
    # Some processors multiply bfloat16 too.
    here, exact = (
        train_head(config.model_copy(update={"amp": "off"}), data, device=device).reports[0].losses
        for device in (CPU, GPU)
    )
    for name, value in here.items():
        assert exact[name] == pytest.approx(value, rel=1e-3), name
        assert losses[name] == pytest.approx(value, rel=0.03), name
    assert abs(losses["distillation"] / exact["distillation"] - 1) > 1e-5  # bf16 was used, and shows
    assert math.isfinite(trained.reports[0].grad_norm)
    assert {parameter.device.type for parameter in trained.model.parameters()} == {GPU.type}
    assert {parameter.dtype for parameter in trained.model.parameters()} == {torch.float32}


def test_a_killed_training_goes_on_on_a_gpu() -> None:
    data, config = make_data(), recipe(epochs=2, dropout=0.0)
    states: list[bytes] = []
    whole = train_head(config, data, Hooks(save=states.append), device=GPU)
    resumed = train_head(config, data, device=GPU, state=states[0])
    assert [report.epoch for report in resumed.reports] == [2]
    assert resumed.reports[0].losses["loss"] == pytest.approx(whole.reports[1].losses["loss"], rel=0.01)


def test_patch_tokens_of_a_gpu_are_those_of_the_processor() -> None:
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    there, here = (
        load_model("bundled:scenes", device=device.type).encode(pixels_BHWC, tokens=True) for device in (GPU, CPU)
    )
    assert there.tokens_BTC is not None and here.tokens_BTC is not None
    assert there.tokens_BTC.shape == here.tokens_BTC.shape and there.tokens_BTC.dtype == np.float16
    one_BTC, other_BTC = (torch.from_numpy(tokens.tokens_BTC).float() for tokens in (there, here))
    assert float(F.cosine_similarity(one_BTC, other_BTC, dim=-1).min()) > 0.999
    scale = float(other_BTC.square().mean().sqrt())
    torch.testing.assert_close(one_BTC, other_BTC, rtol=0, atol=0.02 * scale)


@pytest.mark.parametrize("suffix", ["+bf16", "+fp16"])
def test_reduced_precision_keeps_embeddings(suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    exact, rounded = (load_model(f"bundled:scenes{end}", device="cuda").image for end in ("", suffix))
    assert rounded.encoder_id != exact.encoder_id and rounded.name == f"bundled:scenes{suffix}"
    left, right = (encoder.encode_pixels(pixels).astype(np.float32) for encoder in (exact, rounded))
    assert (left * right).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("name", ["clip", "clip+local"])
def test_batches_on_a_gpu_keep_what_the_processor_keeps(name: Scorer) -> None:
    labels = tuple(VocabularyLabel(label_id=str(n), name=str(n), texts=(f"a red {n}",)) for n in range(30))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    found = []
    for device in ("cpu", "cuda"):
        model = ZeroShotModel(load_model("bundled:scenes", device=device))
        tagger = BatchTagger(model.encoders.image, model.scorer(labels, name), floor=0.5, top_k=5, tokens=True)
        started = []
        for first in range(0, 40, 16):
            buffer, rows = tagger.buffer(16), pixels[first : first + 16]
            buffer[: len(rows)] = rows
            started.append(tagger.start(buffer, len(rows)))
        found.append([batch.finish() for batch in started])
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there.embeddings_BD, here.embeddings_BD, atol=2e-3)
        assert here.kept is not None and there.kept is not None and min(there.seconds.values()) > 0
        assert abs(len(there.kept) - len(here.kept)) <= 0.05 * len(here.kept)


def test_cells_chosen_on_a_gpu_are_those_of_the_processor() -> None:
    random = np.random.default_rng(0)
    for own in (False, True):
        logits = torch.from_numpy(random.integers(-3, 4, (50, 40)).astype(np.float32) / 4)
        maps = LabelMaps(np.full(40, 10.0) + own * np.arange(40), np.full(40, -2.5))
        here, there = (kept_cells(logits.to(device), maps, 0.9, 4) for device in (CPU, GPU))
        for left, right in zip(here, there, strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_batch_size_is_found_and_works() -> None:
    encoder = load_model("bundled:scenes", device="cuda").image
    size = find_batch_size(encoder)
    assert 32 <= size <= LARGEST and size % 8 == 0
    assert encoder.encode_pixels(np.zeros((size, 64, 64, 3), np.uint8)).shape == (size, encoder.embedding_width)


def test_float32_is_float32_in_convolutions_too() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8))
    here_BD, there_BD = (
        encoder.backbone(encoder.transform.to_device_input(pixels.to(encoder.device))).embeddings_BD.detach().cpu()
        for encoder in (load_model("bundled:scenes", device=device).image for device in ("cpu", "cuda"))
    )
    # Factors rounded to ten bits, as convolutions have by default, would move them further.
    torch.testing.assert_close(there_BD, here_BD, rtol=0, atol=3e-5 * float(here_BD.abs().max()))


def test_batches_under_way_together_count_each_second_once() -> None:
    encoder = load_model("bundled:scenes", device="cuda").image
    tagger = BatchTagger(encoder, None, floor=0.0, top_k=0, tokens=False)
    buffers = [tagger.buffer(2048) for _ in range(12)]
    started_at = time.perf_counter()
    batches = [tagger.start(buffer, len(buffer)) for buffer in buffers]
    seconds = sum(batch.finish().seconds["encode"] for batch in batches)
    assert 0 < seconds <= 1.02 * (time.perf_counter() - started_at)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
def test_cuda_is_the_gpu_that_the_process_has_taken() -> None:
    with torch.cuda.device(1):
        assert find_device("cuda") == find_device("auto") == torch.device("cuda", 1)
    assert find_device("cuda") == torch.device("cuda", 0)
