"""Texts to label queries, and how long a text may be.

Shapes: M texts, K labels, D embedding width, L tokens of the context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional as F

from schemas.digests import canonical_json, digest_of
from schemas.taxonomy import Taxonomy, VocabularyLabel

TEXTS_PER_CHUNK = 256


def average_texts(
    vocabulary: Sequence[VocabularyLabel], embed: Callable[[Sequence[str]], Tensor]
) -> NDArray[np.float32]:
    """Return queries_KD, L2-normalised float32: the recipe of open_clip's `build_zero_shot_classifier`.

    Each text is embedded and normalised, a label's texts are averaged, the mean is normalised again. Distinct texts
    are embedded once, however many labels share them.

    Args:
        vocabulary: labels with at least one text each.
        embed: L2-normalised embeddings_MD, float32, of at most `TEXTS_PER_CHUNK` texts.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(t for label in vocabulary for t in label.texts))}
    texts = list(rows)
    chunks = [embed(texts[at : at + TEXTS_PER_CHUNK]).cpu() for at in range(0, len(texts), TEXTS_PER_CHUNK)]
    embeddings_MD = torch.cat(chunks)
    means = [embeddings_MD[[rows[text] for text in label.texts]].mean(dim=0) for label in vocabulary]
    return np.asarray(F.normalize(torch.stack(means), dim=-1).numpy(), dtype=np.float32)


def text_problems(taxonomy: Taxonomy, tokenizer: Any, context_length: int) -> Iterator[str]:
    """Yield one problem for every text of a scored label that the text encoder would cut."""
    for label in taxonomy.scored_labels():
        for text in taxonomy.texts_of(label):
            num_tokens = count_tokens(tokenizer, text)
            if num_tokens > context_length:
                yield (
                    f"{taxonomy.locate(label.id)}: label {label.id!r}: a text of {num_tokens} tokens, "
                    f"and the model reads {context_length}: {text!r}; shorten it"
                )


def count_tokens(tokenizer: Any, text: str) -> int:
    """Return the tokens of `text` as the text encoder would see it uncut, start and end tokens included."""
    if isinstance(tokenizer, SimpleTokenizer):
        return len(tokenizer.encode(text)) + 2
    cleaned = tokenizer.clean_fn(text)
    if tokenizer.tokenizer_mode == "clips":
        # open_clip adds a start, an end and a class token of its own in this mode.
        return len(tokenizer.tokenizer(cleaned, add_special_tokens=False, verbose=False).input_ids) + 3
    return len(tokenizer.tokenizer(cleaned, verbose=False).input_ids)


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of everything that decides a tokenizer's output, wherever it was loaded from."""
    identity = {
        "class": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
        "clean": tokenizer.clean_fn.__name__,
    }
    if isinstance(tokenizer, SimpleTokenizer):
        identity["reduction"] = getattr(tokenizer.reduction_fn, "__name__", repr(tokenizer.reduction_fn))
        identity["vocabulary"] = _sha256([tokenizer.encoder, list(tokenizer.bpe_ranks)])
    else:
        inner = tokenizer.tokenizer
        identity |= {"mode": tokenizer.tokenizer_mode, "strip_sep_token": tokenizer.strip_sep_token}
        identity["vocabulary"] = _sha256([inner.get_vocab(), inner.special_tokens_map])
    return digest_of(identity)


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
