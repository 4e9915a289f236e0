"""What a trained model can say of an image and a label, branch by branch.

`clip`     cosine of the picture's embedding and the label's query, where both share a space
`local`    cosine of the patch that fits best, where patches lie in that space
`linear`   closed-form regression from the embedding to the label, by way of its query
`decoder`  the head over patch tokens

Shapes: R images, B images of a batch, K labels, D embedding width, T patch tokens, C token width, Q query width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.heads.decoder_layer import PreparedQueries
from clipdecoder.heads.group_head import GroupHead, Head
from clipdecoder.heads.text_query_head import TextQueryHead
from clipdecoder.onednn import use_onednn
from clipdecoder.regression.linear import LinearBranch
from clipdecoder.scoring.cosine import QueryColumns, best_cosines, cosines, filled
from clipdecoder.scoring.scores import tensor_of
from schemas.checkpoint import Branch

TOKEN_BRANCHES: frozenset[Branch] = frozenset(("local", "decoder"))
# What the decoder works on. On a processor more are no faster; on a GPU, with few labels, so few would leave it waiting
# for the next launch.
IMAGES_PER_BATCH, GPU_IMAGES_PER_BATCH = 16, 256
IMAGES_AT_ONCE = 1024  # what is taken to the device at a time


@dataclass(frozen=True, kw_only=True)
class Queries:
    """A vocabulary as the branches see it: text queries, and which labels the model was trained on."""

    queries_KQ: NDArray[np.float32]  # L2-normalised
    seen_K: NDArray[np.int64]  # the label's column in training, -1 where it is novel

    def __len__(self) -> int:
        return len(self.seen_K)

    @property
    def novel_K(self) -> NDArray[np.bool_]:
        """Which labels the model was not trained on."""
        return np.asarray(self.seen_K < 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedQueries:
    """A vocabulary on a device."""

    queries: Queries
    columns: QueryColumns
    prepared: PreparedQueries | None  # for the decoder, where it takes text queries; filled up as the columns are


class Branches:
    """The branches of one trained model, on one device. A label's logit depends on no other label that is asked for.

    Args:
        kinds: those that there are, in a fixed order.
        linear: the regression, where `linear` is one of them.
        head: the decoder, where `decoder` is one of them.
        device: where patch tokens are looked at.
    """

    def __init__(
        self, kinds: Sequence[Branch], *, linear: LinearBranch | None, head: Head | None, device: torch.device
    ) -> None:
        assert ("linear" in kinds) == (linear is not None)
        assert ("decoder" in kinds) == (head is not None)
        self.kinds = tuple(kinds)
        self.linear = linear
        self.head = head.to(device).eval() if head is not None else None
        if self.head is not None and device.type == "cpu":
            use_onednn(self.head)
        self.device = device

    @property
    def knows_novel(self) -> bool:
        """Whether the decoder, if there is one, scores labels that it was not trained on."""
        return not isinstance(self.head, GroupHead)

    def knows(self, branch: Branch, queries: Queries) -> NDArray[np.bool_]:
        """Return for each label whether a branch can score it: a head with groups knows none but those it trained."""
        if branch == "decoder" and isinstance(self.head, GroupHead):
            return ~queries.novel_K
        return np.ones(len(queries), bool)

    def place(self, queries: Queries) -> PlacedQueries:
        """Return a vocabulary on the device, with all that depends on no image: it is computed once for many batches.

        Of the weights that the head has now: whoever trains it places anew.
        """
        with torch.inference_mode():
            prepared = None
            if isinstance(self.head, TextQueryHead):
                prepared = self.head.prepare(tensor_of(filled(queries.queries_KQ), self.device))
            columns = QueryColumns.of(queries.queries_KQ, self.device)
            return PlacedQueries(queries=queries, columns=columns, prepared=prepared)

    def logits(
        self,
        branch: Branch,
        queries: Queries,
        embeddings_RD: NDArray[np.float16],
        tokens_RTC: NDArray[np.float16] | None,
    ) -> NDArray[np.float32]:
        """Return logits_RK of one branch as an array; 0 for labels that it does not know."""
        tokens = tensor_of(tokens_RTC, self.device) if branch in TOKEN_BRANCHES and tokens_RTC is not None else None
        with torch.inference_mode():
            logits_RK = self.device_logits(branch, self.place(queries), tensor_of(embeddings_RD, self.device), tokens)
            return np.asarray(logits_RK.cpu().numpy())

    def device_logits(
        self, branch: Branch, placed: PlacedQueries, embeddings_RD: Tensor, tokens_RTC: Tensor | None
    ) -> Tensor:
        """Return logits_RK of one branch, float32, of features on the device; 0 for labels that it does not know."""
        if branch == "clip":
            return cosines(embeddings_RD, placed.columns)
        if branch == "linear":
            assert self.linear is not None
            queries = placed.queries
            # A few numbers an image, on the processor: its kernel is numpy's.
            logits_RK = self.linear.logits(embeddings_RD.cpu().numpy(), queries.queries_KQ, queries.seen_K)
            return tensor_of(logits_RK, self.device)
        assert tokens_RTC is not None, f"branch {branch} looks at patch tokens"
        if branch == "local":
            return best_cosines(tokens_RTC, placed.columns)
        return self._decode(placed, tokens_RTC)

    def decode(self, queries: Queries, tokens_RTC: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return the decoder's logits_RK as an array; 0 for labels that a head with groups does not know."""
        placed = self.place(queries)
        logits_RK = np.zeros((len(tokens_RTC), len(queries)), np.float32)
        with torch.inference_mode():
            # The tokens may be a file in memory's clothes, larger than what the device has.
            for start in range(0, len(tokens_RTC), IMAGES_AT_ONCE):
                rows = slice(start, start + IMAGES_AT_ONCE)
                logits_RK[rows] = self._decode(placed, tensor_of(tokens_RTC[rows], self.device)).cpu().numpy()
        return logits_RK

    def _decode(self, placed: PlacedQueries, tokens_RTC: Tensor) -> Tensor:
        size = IMAGES_PER_BATCH if self.device.type == "cpu" else GPU_IMAGES_PER_BATCH
        return torch.cat([self._decode_batch(placed, x_BTC) for x_BTC in torch.split(tokens_RTC, size)])

    def _decode_batch(self, placed: PlacedQueries, x_BTC: Tensor) -> Tensor:
        """Decode one batch, filled up with blank images: so an image's logits do not depend on its company."""
        rows = max(1, -(-len(x_BTC) // IMAGES_PER_BATCH)) * IMAGES_PER_BATCH
        filled_BTC = torch.zeros(rows, *x_BTC.shape[1:], device=self.device)
        filled_BTC[: len(x_BTC)] = x_BTC
        if placed.prepared is not None:
            assert isinstance(self.head, TextQueryHead)
            logits_BK: Tensor = self.head(filled_BTC, placed.prepared)[: len(x_BTC), : len(placed.queries)]
            return logits_BK
        assert isinstance(self.head, GroupHead)
        seen = np.flatnonzero(~placed.queries.novel_K)
        logits_BK = filled_BTC.new_zeros(len(x_BTC), len(placed.queries))
        logits_BK[:, seen] = self.head(filled_BTC)[: len(x_BTC), placed.queries.seen_K[seen]]
        return logits_BK
