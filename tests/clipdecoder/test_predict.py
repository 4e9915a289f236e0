"""One answer for every input, in order, whatever the threads do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from clipdecoder.clock import StageClock
from clipdecoder.encoders.model import ClipModel, load_model
from clipdecoder.encoders.open_clip_models import load_open_clip
from clipdecoder.encoders.predict import EmbeddedImage, embed_images
from schemas.sample import SampleStatus

Encode = Callable[..., bytes]


@pytest.fixture
def model(model_folders: dict[str, Path]) -> ClipModel:
    return load_model(f"open_clip:{model_folders['plain']}", device="cpu")


def embed(files: list[bytes], model: ClipModel, *, batch_size: int = 4, threads: int = 2) -> list[EmbeddedImage]:
    return list(
        embed_images(files, model, batch_size=batch_size, threads=threads, max_pixels=50_000, clock=StageClock())
    )


def test_failures_stay_in_their_place(model: ClipModel, encode_picture: Encode) -> None:
    good = [encode_picture(60 + i, 40, seed=i) for i in range(6)]
    bad = [b"", b"text", good[0][:300], encode_picture(300, 200)]
    embedded = embed([bad[0], good[0], good[1], bad[1], bad[2], bad[3], bad[0], bad[1], good[2]], model)
    assert [str(image.status) for image in embedded] == [
        *("empty", "ok", "ok", "unsupported"),
        *("truncated", "too_large", "empty", "unsupported", "ok"),
    ]
    alone = embed(good[:3], model)
    ok = [image for image in embedded if image.status is SampleStatus.OK]
    for one, other in zip(ok, alone, strict=True):
        assert (one.width, one.height, one.error) == (other.width, 40, None)
        assert one.embedding is not None and other.embedding is not None
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-3)
    assert all(image.embedding is None and image.error for image in embedded if image.status is not SampleStatus.OK)


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_as_many_answers_as_inputs(model: ClipModel, encode_picture: Encode, count: int) -> None:
    assert len(embed([encode_picture(30, 30)] * count, model)) == count


def test_threads_change_no_bit(model: ClipModel, encode_picture: Encode) -> None:
    files = [encode_picture(20 + 7 * (i % 5), 90 - 3 * i, seed=i) for i in range(25)]
    runs = [embed(files, model, threads=threads) for threads in (1, 2, 7)]
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert np.array_equal(one.embedding, other.embedding)  # type: ignore[arg-type]
            assert (one.width, one.height) == (other.width, other.height)


def test_batch_size_moves_nothing_but_rounding(model: ClipModel, encode_picture: Encode) -> None:
    files = [encode_picture(40, 40, seed=i) for i in range(10)]
    runs = [np.stack([i.embedding for i in embed(files, model, batch_size=n)]) for n in (1, 3, 64)]  # type: ignore[misc]
    for run in runs[1:]:
        np.testing.assert_allclose(run, runs[0], atol=1e-3)


def test_size_is_as_a_person_sees_it(model: ClipModel, encode_picture: Encode) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (turned,) = embed([encode_picture(60, 40, exif=exif)], model)
    assert (turned.width, turned.height) == (40, 60)


def test_thin_pictures_fail_with_their_size(model: ClipModel, encode_picture: Encode) -> None:
    (thin,) = embed([encode_picture(20_000, 1, "PNG")], model)
    assert (thin.status, thin.width, thin.height) == (SampleStatus.TOO_LARGE, 20_000, 1)


def test_an_embedding_that_is_not_finite_is_a_failure(model_folders: dict[str, Path], encode_picture: Encode) -> None:
    loaded = load_open_clip(f"open_clip:{model_folders['plain']}")
    loaded.network.state_dict()["visual.proj"].fill_(torch.nan)
    broken = ClipModel(loaded, torch.device("cpu"))
    (image,) = embed([encode_picture(50, 40)], broken)
    assert (image.status, image.embedding, image.width) == (SampleStatus.NON_FINITE, None, 50)


def test_tokens_come_with_the_embeddings_that_come_without(model: ClipModel, encode_picture: Encode) -> None:
    files = [encode_picture(40 + i, 40, seed=i) for i in range(5)]
    files.insert(2, b"text")
    options = {"batch_size": 3, "threads": 2, "max_pixels": 50_000}
    with_tokens = list(embed_images(files, model.image, **options, clock=StageClock(), tokens=True))
    for one, other in zip(with_tokens, embed_images(files, model, **options, clock=StageClock()), strict=True):
        assert one.status is other.status and np.array_equal(one.embedding, other.embedding)  # type: ignore[arg-type]
        assert other.tokens is None and (one.tokens is None) == (one.embedding is None)
        if one.tokens is not None:
            assert one.tokens.shape == model.image.token_shape and one.tokens.dtype == np.float16


def test_tokens_that_are_not_finite_are_a_failure_only_where_they_are_wanted(
    model_folders: dict[str, Path], encode_picture: Encode
) -> None:
    loaded = load_open_clip(f"open_clip:{model_folders['plain']}")
    # The embedding is normalised before it is rounded; tokens are not.
    loaded.network.state_dict()["visual.proj"].mul_(1e7)
    huge = ClipModel(loaded, torch.device("cpu"))
    options = {"batch_size": 3, "threads": 2, "max_pixels": 50_000, "clock": StageClock()}
    (without,) = embed_images([encode_picture(50, 40)], huge, **options)
    (wanted,) = embed_images([encode_picture(50, 40)], huge, **options, tokens=True)
    assert without.status is SampleStatus.OK
    assert (wanted.status, wanted.embedding, wanted.tokens) == (SampleStatus.NON_FINITE, None, None)


def test_inputs_are_read_only_as_far_ahead_as_needed(model: ClipModel, encode_picture: Encode) -> None:
    data, read = encode_picture(30, 30), 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield data

    embedded = embed_images(endless(), model, batch_size=4, threads=3, max_pixels=10_000, clock=StageClock())
    for taken in range(1, 20):
        assert next(embedded).status is SampleStatus.OK
        batches = 12 + 2 + 1  # that wait, of 4 each for 3 threads with two handfuls each; being filled; in hand
        assert read <= taken + 4 * batches
    before = threading.active_count()
    embedded.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before


def test_an_error_of_the_input_passes_through(model: ClipModel, encode_picture: Encode) -> None:
    def failing() -> Iterator[bytes]:
        yield encode_picture(30, 30)
        raise ConnectionError("the store went away")

    with pytest.raises(ConnectionError, match="went away"):
        list(embed_images(failing(), model, batch_size=1, threads=1, max_pixels=10_000, clock=StageClock()))


def test_the_clock_adds_up_stages_over_threads(model: ClipModel, encode_picture: Encode) -> None:
    clock = StageClock()
    files = [encode_picture(30, 30)] * 6
    list(embed_images(files, model, batch_size=4, threads=2, max_pixels=10_000, clock=clock))
    assert set(clock.seconds) == {"decode", "encode"} and min(clock.seconds.values()) > 0
    threads = [threading.Thread(target=lambda: [clock.add("write", 0.5) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds["write"] == 200
    with pytest.raises(KeyError), clock.stage("read"):
        raise KeyError
    assert "read" in clock.seconds
