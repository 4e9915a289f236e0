"""The losses of CLIP-Decoder: alpha * L_clip + beta * L_c, and distillation. All are computed in float32.

Unknown targets (-1) are left out of the first two. A label that no image of the batch knows costs nothing.

Shapes: B batch, K labels, D width, P width of the contrastive space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP's own bound


def asymmetric_loss(
    logits_BK: Tensor,
    targets_BK: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    probability_clip: float = 0.05,
) -> Tensor:
    """Return the asymmetric loss, summed over labels, mean over images (Ridnik et al. 2021, arXiv:2009.14119).

    With p = sigmoid(logit) and q = max(p - probability_clip, 0): a positive costs -(1 - p)^gamma_pos * log(p), a
    negative -q^gamma_neg * log(1 - q). Easy negatives, which are nearly all cells, cost next to nothing, and those
    below the clip nothing.

    Upstream keeps the weights out of the gradient or in it, by a switch; here they are in it, as in its equation.

    Args:
        logits_BK: any float type.
        targets_BK: 1 positive, 0 negative, -1 unknown.
    """
    logits_BK = logits_BK.float()
    # log(sigmoid) and its mirror never reach log(0), so that neither loss nor gradient is infinite at any logit.
    positive_BK = -F.logsigmoid(logits_BK) * torch.sigmoid(-logits_BK) ** gamma_pos
    # Not quite 0, where a power below 1 has no gradient.
    shifted_BK = (torch.sigmoid(logits_BK) - probability_clip).clamp(min=1e-8)
    # log(1 - q), written so that nothing cancels.
    rest_BK = (torch.sigmoid(-logits_BK) + probability_clip).clamp(max=1)
    log_rest_BK = rest_BK.log() if probability_clip else F.logsigmoid(-logits_BK)
    negative_BK = -log_rest_BK * shifted_BK**gamma_neg
    cells_BK = torch.where(targets_BK == 1, positive_BK, negative_BK) * (targets_BK >= 0)
    return cells_BK.sum() / len(logits_BK)


class JointProjection(nn.Module):
    """The space of the contrastive loss: one projection that images and labels share, and a learnable temperature."""

    def __init__(self, width: int, projection_width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, projection_width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's own start

    def forward(self, image_BD: Tensor) -> Tensor:
        """Return the projection of images or labels, L2-normalised, float32."""
        return F.normalize(self.projection(image_BD).float(), dim=-1)

    def logits(self, image_BP: Tensor, text_KP: Tensor) -> Tensor:
        """Return logits_BK: cosines times the temperature's inverse, which stays at or below 100."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        return self.logit_scale.exp() * (image_BP @ text_KP.T)


def contrastive_loss(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Return the multi-positive contrastive loss, mean of both directions.

    Image to labels: cross-entropy between a softmax over the labels and the uniform distribution over the image's
    labels, mean over images that have one. Label to images: the same with the roles exchanged.

    Args:
        logits_BK: scaled cosines.
        targets_BK: 1 positive, 0 negative, -1 unknown: in no softmax.
    """
    logits_BK = logits_BK.float()
    known_BK = targets_BK >= 0
    return (_uniform(logits_BK, targets_BK == 1, known_BK) + _uniform(logits_BK.T, targets_BK.T == 1, known_BK.T)) / 2


def _uniform(logits_RC: Tensor, positive_RC: Tensor, known_RC: Tensor) -> Tensor:
    """Return the mean over rows with a positive of the cross-entropy with the uniform distribution over positives."""
    # A large negative number and not infinity: a row without a known cell must not give NaN, not even to be masked.
    log_share_RC = logits_RC.masked_fill(~known_RC, -1e9).log_softmax(dim=-1)
    count_R = positive_RC.sum(dim=-1)
    loss_R = -torch.where(positive_RC, log_share_RC, 0).sum(dim=-1) / count_R.clamp(min=1)
    return loss_R.sum() / (count_R > 0).sum().clamp(min=1)


def distillation_loss(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Return 1 - correlation over the batch between head and teacher, mean over labels: 0 to 2.

    Standardised per label, logits of any scale can be compared; half the mean squared difference of standardised
    logits is one minus their correlation. Annotations have no part in it, so it also holds for labels that nobody
    annotated. A label on which the teacher does not move over the batch costs nothing.
    """
    student_BK, moves_K = _standardise(logits_BK.float())
    teacher_BK, teacher_moves_K = _standardise(teacher_BK.float())
    moves_K = moves_K & teacher_moves_K
    correlation_K = (student_BK * teacher_BK).mean(dim=0)
    return ((1 - correlation_K) * moves_K).sum() / moves_K.sum().clamp(min=1)


def _standardise(logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    centred_BK = logits_BK - logits_BK.mean(dim=0)
    variance_K = centred_BK.square().mean(dim=0)
    moves_K = variance_K > 1e-10
    return centred_BK * torch.where(moves_K, variance_K, 1).rsqrt(), moves_K
