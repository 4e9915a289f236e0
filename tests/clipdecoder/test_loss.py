"""Losses against their formulas written in NumPy, and where their gradients go."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.training.loss import JointProjection, asymmetric_loss, contrastive_loss, distillation_loss


def random_cells(seed: int = 0, *, num_images: int = 6, num_labels: int = 9) -> tuple[Tensor, Tensor]:
    """Return logits_BK and targets_BK with unknown cells."""
    generator = torch.Generator().manual_seed(seed)
    logits_BK = 4 * torch.randn(num_images, num_labels, generator=generator, dtype=torch.float32)
    targets_BK = torch.randint(-1, 2, (num_images, num_labels), generator=generator).to(torch.int8)
    return logits_BK, targets_BK


def plain_asymmetric(
    logits_BK: NDArray[np.float64], targets_BK: NDArray[np.int8], gamma_neg: float, gamma_pos: float, clip: float
) -> float:
    """The equations (4) to (7) of arXiv:2009.14119, cell by cell."""
    total = 0.0
    for row, targets in zip(logits_BK, targets_BK, strict=True):
        for logit, target in zip(row, targets, strict=True):
            p = 1 / (1 + math.exp(-logit))
            p_shifted = max(p - clip, 0)
            if target == 1:
                total -= (1 - p) ** gamma_pos * math.log(p)
            elif target == 0:
                total -= p_shifted**gamma_neg * math.log(1 - p_shifted)
    return total / len(logits_BK)


@pytest.mark.parametrize("gammas", [(4.0, 0.0), (0.0, 0.0), (2.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("clip", [0.05, 0.0, 0.3])
def test_asymmetric_loss_is_its_formula(gammas: tuple[float, float], clip: float) -> None:
    logits_BK, targets_BK = random_cells()
    loss = asymmetric_loss(logits_BK, targets_BK, gamma_neg=gammas[0], gamma_pos=gammas[1], probability_clip=clip)
    assert loss.item() == pytest.approx(
        plain_asymmetric(logits_BK.double().numpy(), targets_BK.numpy(), *gammas, clip), rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gamma_neg", [4.0, 1.0, 0.5, 0.0])
@pytest.mark.parametrize("clip", [0.05, 0.0])
def test_asymmetric_loss_and_gradient_are_finite_far_out(dtype: torch.dtype, gamma_neg: float, clip: float) -> None:
    logits_BK = torch.tensor([[80.0, -80.0, 0.0, 200.0, -200.0]] * 2, dtype=dtype, requires_grad=True)
    targets_BK = torch.tensor([[1] * 5, [0] * 5])
    loss = asymmetric_loss(logits_BK, targets_BK, gamma_neg=gamma_neg, probability_clip=clip)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert logits_BK.grad is not None and torch.isfinite(logits_BK.grad).all()


def test_unknown_cells_have_no_part_in_any_loss_of_annotations() -> None:
    logits_BK, targets_BK = random_cells()
    for loss in (asymmetric_loss, contrastive_loss):
        moved_BK = (logits_BK + 3.0 * (targets_BK < 0)).requires_grad_()
        value = loss(moved_BK, targets_BK)
        value.backward()  # type: ignore[no-untyped-call]
        assert value.item() == pytest.approx(float(loss(logits_BK, targets_BK)), rel=1e-6)
        assert moved_BK.grad is not None and (moved_BK.grad[targets_BK < 0] == 0).all()


def test_asymmetric_loss_is_the_mean_over_images() -> None:
    logits_BK, targets_BK = random_cells()
    twice = asymmetric_loss(logits_BK.repeat(2, 1), targets_BK.repeat(2, 1))
    assert twice.item() == pytest.approx(float(asymmetric_loss(logits_BK, targets_BK)), rel=1e-6)


def plain_contrastive(logits_BK: NDArray[np.float64], targets_BK: NDArray[np.int8]) -> float:
    """One direction, row by row: cross-entropy with the uniform distribution over a row's positives."""
    losses = []
    for row, targets in zip(logits_BK, targets_BK, strict=True):
        positives, known = np.flatnonzero(targets == 1), targets >= 0
        if len(positives):
            log_sum = math.log(sum(math.exp(logit) for logit in row[known]))
            losses.append(sum(log_sum - row[k] for k in positives) / len(positives))
    return float(np.mean(losses))


def test_contrastive_loss_is_its_formula_in_both_directions() -> None:
    logits_BK, targets_BK = random_cells(seed=1)
    targets_BK[0] = 0  # an image without a label
    targets_BK[:, 1] = 0  # a label without an image
    targets_BK[2] = -1  # an image that nobody annotated
    logits, targets = logits_BK.double().numpy(), targets_BK.numpy()
    expected = (plain_contrastive(logits, targets) + plain_contrastive(logits.T, targets.T)) / 2
    assert float(contrastive_loss(logits_BK, targets_BK)) == pytest.approx(expected, rel=1e-5)


def test_contrastive_loss_of_a_batch_without_labels_is_zero_and_has_a_gradient() -> None:
    logits_BK = torch.randn(3, 4, requires_grad=True)
    loss = contrastive_loss(logits_BK, torch.zeros(3, 4, dtype=torch.int8))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits_BK.grad is not None and torch.isfinite(logits_BK.grad).all()


def test_the_temperature_starts_as_clips_and_never_exceeds_a_hundred() -> None:
    joint = JointProjection(6, 4)
    assert joint.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        joint.logit_scale.fill_(9.0)
    image_BP, text_KP = joint(torch.randn(3, 6)), joint(torch.randn(5, 6))
    torch.testing.assert_close(image_BP.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(joint.logits(image_BP, text_KP), 100 * image_BP @ text_KP.T)
    assert joint.logit_scale.exp().item() == pytest.approx(100)


def test_distillation_is_one_minus_correlation() -> None:
    logits_BK, _ = random_cells(num_images=20)
    teacher_BK = logits_BK + torch.randn(20, 9, generator=torch.Generator().manual_seed(5))
    expected = np.mean([1 - np.corrcoef(logits_BK[:, k], teacher_BK[:, k])[0, 1] for k in range(9)])
    assert float(distillation_loss(logits_BK, teacher_BK)) == pytest.approx(expected, rel=1e-5)
    # The scale and offset of a teacher's logits say nothing.
    assert float(distillation_loss(logits_BK, 0.01 * logits_BK - 7)) == pytest.approx(0, abs=1e-4)
    assert float(distillation_loss(logits_BK, -logits_BK)) == pytest.approx(2)


def test_distillation_ignores_labels_on_which_either_says_the_same_of_all_images() -> None:
    logits_BK, _ = random_cells()
    logits_BK.requires_grad_()
    teacher_BK = -logits_BK.detach()
    teacher_BK[:, 0] = 3.0
    loss = distillation_loss(logits_BK, teacher_BK)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(2)
    assert logits_BK.grad is not None and (logits_BK.grad[:, 0] == 0).all()
    assert torch.isfinite(logits_BK.grad).all()
    one_image = distillation_loss(torch.randn(1, 4), torch.randn(1, 4))
    assert one_image.item() == 0
