"""What a search looks for, as an embedding: of texts, of a stored sample, of a picture file.

Shapes: D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from schemas.commands import shell, store_command
from schemas.errors import ConfigError, ModelError, StoreError, TaxonomyError
from schemas.manifest import ModelRecord
from schemas.sample import SampleStatus
from schemas.search import SearchRequest
from schemas.taxonomy import Label, Taxonomy
from storage.embeddings import EmbeddedShard, iter_embeddings
from storage.files import Folder, read_file
from storage.query import run_query

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import EncoderPair, ImageEncoder

Place = tuple[str, str, int]  # dataset, shard and ordinal of a sample

_SHOWN = 5  # names in a message

_PLACES = """
SELECT dataset, shard, sample, status FROM samples
WHERE key = $key AND coalesce(dataset = $dataset, true) AND coalesce(shard = $shard, true)
ORDER BY dataset, shard, sample
"""

_NEAR = f"""
SELECT key FROM (SELECT DISTINCT key FROM samples WHERE coalesce(dataset = $dataset, true))
ORDER BY jaro_winkler_similarity(key, $key) DESC, key LIMIT {_SHOWN}
"""

_ELSEWHERE = f"SELECT DISTINCT dataset, shard FROM samples WHERE key = $key ORDER BY ALL LIMIT {_SHOWN}"


def place_of(connection: Any, request: SearchRequest) -> Place:
    """Return where the sample stands that others are to be like.

    Args:
        connection: an open catalog.
        request: `like` is its key; `shard` and `dataset` say which one is meant where several have that key.

    Raises:
        ConfigError: no sample has the key, several have it, or the one that has it could not be scored.
    """
    asked = {"key": request.like, "dataset": request.dataset, "shard": request.shard}
    rows = run_query(connection, _PLACES, asked).to_pylist()
    if not rows:
        raise ConfigError(_unknown_key(connection, request))
    good = [row for row in rows if row["status"] == SampleStatus.OK]
    if not good:
        raise ConfigError(
            f"the sample {request.like!r} in {rows[0]['dataset']}/{rows[0]['shard']} has no embedding: "
            f"its picture is {rows[0]['status']}; take another"
        )
    if len(good) > 1:
        choices = "; ".join(map(_options, good[:_SHOWN]))
        more = f"; and {len(good) - _SHOWN} more" if len(good) > _SHOWN else ""
        raise ConfigError(f"{len(good)} samples have the key {request.like!r}; say which one: {choices}{more}")
    return good[0]["dataset"], good[0]["shard"], good[0]["sample"]


def _unknown_key(connection: Any, request: SearchRequest) -> str:
    elsewhere = run_query(connection, _ELSEWHERE, {"key": request.like}).to_pylist()
    if elsewhere:
        known = "; ".join(map(_options, elsewhere))
        asked = "/".join(filter(None, (request.dataset, request.shard)))
        return f"no sample of {asked} has the key {request.like!r}; it stands in: {known}"
    near = run_query(connection, _NEAR, {"key": request.like, "dataset": request.dataset}).to_pylist()
    names = ", ".join(row["key"] for row in near) or "none, as the store has no samples"
    return f"no sample has the key {request.like!r}; the nearest keys: {names}"


def _options(row: Mapping[str, str]) -> str:
    """Return how a search is told which shard a key is of."""
    return shell("--dataset", row["dataset"], "--shard", row["shard"])


def find_like(
    folder: Folder, record: ModelRecord, shards: Sequence[EmbeddedShard], place: Place
) -> NDArray[np.floating]:
    """Return the stored embedding of one sample, (D,).

    Raises:
        StoreError: the store has none of this model's encoder.
    """
    shard = next(shard for shard in shards if (shard.dataset, shard.shard) == place[:2])
    for samples_N, embeddings_ND in iter_embeddings(folder, record.encoder_id, shard):
        (row,) = np.nonzero(samples_N == place[2])
        if len(row):
            embedding_D: NDArray[np.floating] = embeddings_ND[row[0]]
            return embedding_D
    raise StoreError(
        f"shard {place[1]!r} of dataset {place[0]!r} has no embeddings by the encoder {record.encoder_id} of model "
        f"{record.model_id} ({record.name}); `{store_command('backfill', '--model', record.model_id)}` makes them"
    )


def embed_texts(encoders: EncoderPair, record: ModelRecord, texts: Sequence[str]) -> NDArray[np.floating]:
    """Return the mean of the texts' embeddings, (D,), as that of a label's texts.

    Raises:
        ModelError: texts and pictures share no space.
        ConfigError: a text is empty, too long, or not in the model's table.
    """
    if not encoders.joint:
        raise ModelError(
            f"model {record.model_id} ({record.name}) has no space that texts and pictures share, so no text is near "
            "any picture; --like KEY and --like-file PICTURE work, and texts with --model ID of an open_clip model"
        )
    distinct = tuple(dict.fromkeys(text.strip() for text in texts))
    if not all(distinct):
        raise ConfigError("a text is empty; say what to look for")
    label = Label(id="search", name=distinct[0], query_names=distinct)
    taxonomy = Taxonomy(name="search", templates=("{}",), labels=(label,))
    try:
        encoders.text.check_texts(taxonomy)
    except TaxonomyError as error:  # there is no file to mend, so where in it the text stands says nothing
        raise ConfigError("; ".join(problem.partition("'search': ")[2] for problem in error.problems)) from None
    query_D: NDArray[np.floating] = encoders.text.encode_vocabulary(taxonomy.vocabulary())[0]
    return query_D


def embed_picture(encoder: ImageEncoder, request: SearchRequest) -> NDArray[np.floating]:
    """Return the embedding of a picture file, (D,), made as those of the store are.

    Raises:
        RequestError: the file cannot be read.
        ConfigError: it is no picture that could be tagged.
    """
    from clipdecoder.encoders.predict import embed_images

    assert request.like_file is not None
    pictures = embed_images(
        [read_file(request.like_file)],
        encoder,
        batch_size=1,
        threads=1,
        max_pixels=request.max_pixels,
        clock=StageClock(),
    )
    (image,) = pictures
    if image.embedding is None:
        raise ConfigError(f"--like-file {request.like_file!r}: {image.status}: {image.error}; take another picture")
    return image.embedding
