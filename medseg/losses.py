"""Losses of segmentation: soft Dice, cross-entropy and their sum; logits in, a number out.

Source: Milletari et al. 2016, arXiv:1606.04797 (soft Dice). Differs: the denominator holds plain
sums, not squares, as in MONAI's `DiceLoss` with which the tests compare.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn


def dice(
    logits: Float[Tensor, "b k *s"],
    target: Integer[Tensor, " b *s"],
    *,
    batch: bool = False,
    background: bool = False,
    smooth: float = 1e-5,
) -> Float[Tensor, ""]:
    """One minus the soft Dice overlap of softmax probabilities; an absent class counts as a match.

    Mean over images and classes; with `batch` all images of the batch are one, so that a slice
    without a structure does not weigh as much as a slice that is full of it.
    """
    return 1 - _overlap(logits.float().softmax(1), target, batch, background, smooth).mean()


def _overlap(
    p: Float[Tensor, "b k *s"],
    target: Integer[Tensor, " b *s"],
    batch: bool,
    background: bool,
    smooth: float,
) -> Float[Tensor, "n classes"]:
    flat, index = p.flatten(2), target.long().flatten(1)[:, None]
    hit = torch.zeros_like(flat).scatter_(1, index, 1.0)
    both = (flat * hit).sum(2)
    sizes = flat.sum(2) + hit.sum(2)
    if batch:
        both, sizes = both.sum(0, keepdim=True), sizes.sum(0, keepdim=True)
    score = (2 * both + smooth) / (sizes + smooth)
    return score if background or score.shape[1] == 1 else score[:, 1:]


def cross_entropy(
    logits: Float[Tensor, "b k *s"],
    target: Integer[Tensor, " b *s"],
    *,
    weights: Sequence[float] | None = None,
) -> Float[Tensor, ""]:
    """Mean negative log-probability of the true class; `weights` one a class, background first."""
    scale = None if weights is None else logits.new_tensor(list(weights), dtype=torch.float32)
    return nn.functional.cross_entropy(logits.float(), target.long(), scale)


def dice_ce(
    logits: Float[Tensor, "b k *s"],
    target: Integer[Tensor, " b *s"],
    *,
    batch: bool = True,
    background: bool = False,
    dice_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Soft Dice loss times its weight, plus cross-entropy."""
    overlap = dice(logits, target, batch=batch, background=background)
    return dice_weight * overlap + cross_entropy(logits, target)
