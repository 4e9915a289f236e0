"""What a trained model can say of an image and a label, branch by branch.

`clip`     cosine of the picture's embedding and the label's query, where both share a space
`local`    cosine of the patch that fits best, where patches lie in that space
`linear`   closed-form regression from the embedding to the label, by way of its query
`decoder`  the head over patch tokens

Shapes: R images, K labels, D embedding width, T patch tokens, C token width, Q query width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clipdecoder.heads.group_head import GroupHead, Head
from clipdecoder.regression.linear import LinearBranch
from clipdecoder.scoring.cosine import best_patch
from schemas.checkpoint import Branch

TOKEN_BRANCHES: frozenset[Branch] = frozenset(("local", "decoder"))
IMAGES_PER_BATCH = 64


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

    def logits(
        self,
        branch: Branch,
        queries: Queries,
        embeddings_RD: NDArray[np.float16],
        tokens_RTC: NDArray[np.float16] | None,
    ) -> NDArray[np.float32]:
        """Return logits_RK of one branch; 0 for labels that it does not know."""
        if branch == "clip":
            return np.asarray(embeddings_RD.astype(np.float32) @ queries.queries_KQ.T)
        if branch == "linear":
            assert self.linear is not None
            return self.linear.logits(embeddings_RD, queries.queries_KQ, queries.seen_K)
        assert tokens_RTC is not None, f"branch {branch} looks at patch tokens"
        if branch == "local":
            return best_patch(tokens_RTC, queries.queries_KQ, self.device)
        return self.decode(queries, tokens_RTC)

    def decode(self, queries: Queries, tokens_RTC: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return the decoder's logits_RK; 0 for labels that a head with groups does not know."""
        if isinstance(self.head, GroupHead):
            return self._decode_groups(self.head, queries, tokens_RTC)
        assert self.head is not None
        head = self.head
        with torch.inference_mode():
            prepared = head.prepare(torch.from_numpy(queries.queries_KQ).to(self.device))
            batches = [head(x_BTC, prepared).cpu().numpy() for x_BTC in self._batches(tokens_RTC)]
        return np.concatenate([np.empty((0, len(queries)), np.float32), *batches])

    def _decode_groups(self, head: GroupHead, queries: Queries, tokens_RTC: NDArray[np.float16]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batches = [head(x_BTC).cpu().numpy() for x_BTC in self._batches(tokens_RTC)]
        logits_RK = np.zeros((len(tokens_RTC), len(queries)), np.float32)
        seen = np.flatnonzero(~queries.novel_K)
        if batches:
            logits_RK[:, seen] = np.concatenate(batches)[:, queries.seen_K[seen]]
        return logits_RK

    def _batches(self, tokens_RTC: NDArray[np.float16]) -> Iterator[torch.Tensor]:
        starts = range(0, len(tokens_RTC), IMAGES_PER_BATCH)
        batches = (np.array(tokens_RTC[start : start + IMAGES_PER_BATCH]) for start in starts)
        return (torch.from_numpy(batch).to(self.device).float() for batch in batches)
