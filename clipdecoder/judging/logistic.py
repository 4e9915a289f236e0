"""Logistic regressions of one logit, many at once: minimised to the end, with a normal prior each.

Shapes: N images, K regressions, P = 2 (slope, intercept).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# Steps converge quadratically: after one of this size, the next would be below a millionth.
STEPS, TOLERANCE = 50, 1e-3


def fit_logistic(
    logits_NK: Doubles,
    soft_NK: Doubles,
    weights_NK: Doubles,
    start_KP: Doubles,
    mean_KP: Doubles,
    precision_PP: Doubles,
) -> tuple[Doubles, Doubles]:
    """Minimise the cross-entropy plus the distance to the prior, for each column on its own.

    The sum is strictly convex; a step that would raise it is halved until it does not.

    Returns:
        beta_KP, and the inverse second derivative there, covariance_KPP.
    """

    def loss_of(beta_KP: Doubles) -> tuple[Doubles, Doubles]:
        eta_NK = logits_NK * beta_KP[:, 0] + beta_KP[:, 1]
        away_KP = beta_KP - mean_KP
        # log(1 + exp(eta)) without overflow, several times as fast as logaddexp
        softplus_NK = np.maximum(eta_NK, 0.0) + np.log1p(np.exp(-np.abs(eta_NK)))
        entropy_K = (weights_NK * (softplus_NK - soft_NK * eta_NK)).sum(axis=0)
        return eta_NK, entropy_K + 0.5 * ((away_KP @ precision_PP) * away_KP).sum(axis=1)

    beta_KP = start_KP
    eta_NK, loss_K = loss_of(beta_KP)
    for _ in range(STEPS):
        gradient_KP, hessian_KPP = _derivatives(logits_NK, soft_NK, weights_NK, eta_NK)
        gradient_KP += (beta_KP - mean_KP) @ precision_PP
        step_KP = np.linalg.solve(hessian_KPP + precision_PP, gradient_KP[..., None])[..., 0]
        while True:
            eta_NK, stepped_K = loss_of(beta_KP - step_KP)
            worse_K = stepped_K > loss_K + 1e-9 * (1 + np.abs(loss_K))
            if not worse_K.any():
                break
            step_KP[worse_K] /= 2
        beta_KP, loss_K = beta_KP - step_KP, stepped_K
        if np.abs(step_KP).max() < TOLERANCE:
            break
    _, hessian_KPP = _derivatives(logits_NK, soft_NK, weights_NK, eta_NK)
    return beta_KP, inverse(hessian_KPP + precision_PP)


def _derivatives(logits_NK: Doubles, soft_NK: Doubles, weights_NK: Doubles, eta_NK: Doubles) -> tuple[Doubles, Doubles]:
    """Return gradient_KP and hessian_KPP of the cross-entropy."""
    chance_NK = sigmoid(eta_NK)
    excess_NK = weights_NK * (chance_NK - soft_NK)
    curve_NK = weights_NK * chance_NK * (1 - chance_NK)
    cross_K = (curve_NK * logits_NK).sum(axis=0)
    gradient_KP = np.stack([(excess_NK * logits_NK).sum(axis=0), excess_NK.sum(axis=0)], axis=1)
    rows = [[(curve_NK * logits_NK**2).sum(axis=0), cross_K], [cross_K, curve_NK.sum(axis=0)]]
    return gradient_KP, np.moveaxis(np.array(rows), 2, 0)


def inverse(matrices: Doubles) -> Doubles:
    """Return the inverse of each matrix."""
    return np.asarray(np.linalg.inv(matrices), np.float64)


def sigmoid(values: Doubles) -> Doubles:
    """Return `1 / (1 + exp(-values))` without overflow."""
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1.0, small) / (1.0 + small))
