"""Structural similarity of two skies, a window around each pixel, without seams between faces.

Source: Wang et al. 2004, doi 10.1109/TIP.2003.819861, eq. 13: Gaussian window of 11 x 11 pixels
with sigma 1.5, K1 0.01, K2 0.03. Differs: the data range is given, not taken from the map, and
windows lie on base faces padded by their neighbours.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medseg.metrics.sky import SPREAD, STABLE, WINDOW
from medseg.nn.faces import from_faces, pad, to_faces

RADIUS = WINDOW // 2
K1, K2 = STABLE


def sky_ssim(
    found: Float[Tensor, "b c n"], target: Float[Tensor, "b c n"], *, data_range: float
) -> Float[Tensor, "b c n"]:
    """SSIM of the window around each NESTED pixel, at most 1; nside 8 at least.

    `data_range` is in the maps' unit, the same for all maps: that of one map would change with what
    is hidden. Differentiable.
    """
    both = torch.cat([to_faces(found), to_faces(target)], 1)
    x, y = pad(both, RADIUS, grid="faces").chunk(2, 1)
    means = _blurred(torch.cat([x, y, x * x, y * y, x * y], 1))
    mean_x, mean_y, square_x, square_y, product = means.chunk(5, 1)
    first, second = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    covariance = product - mean_x * mean_y
    squares = mean_x.square() + mean_y.square()
    variances = square_x + square_y - squares
    above = (2 * mean_x * mean_y + first) * (2 * covariance + second)
    return from_faces(above / ((squares + first) * (variances + second)))


def ssim_loss(
    found: Float[Tensor, "b c n"],
    target: Float[Tensor, "b c n"],
    *,
    data_range: float,
    weight: Float[Tensor, "b 1 n"] | None = None,
) -> Float[Tensor, ""]:
    """One minus the mean SSIM; `weight` says which windows count, by their middle."""
    each = sky_ssim(found, target, data_range=data_range)
    if weight is None:
        return 1 - each.mean()
    return 1 - (each * weight).sum() / (weight.sum() * each.shape[1]).clamp_min(1e-6)


def near_holes(seen: Float[Tensor, "b 1 n"], *, reach: int = RADIUS) -> Float[Tensor, "b 1 n"]:
    """1 in holes and up to `reach` pixels around them (a square on the face), else 0."""
    hidden = pad(1 - to_faces(seen), reach, grid="faces")
    return from_faces(functional.max_pool2d(hidden, 2 * reach + 1, 1))


def _blurred(padded: Float[Tensor, "f c u v"]) -> Float[Tensor, "f c x y"]:
    """Gaussian means, without the padding."""
    weights = [math.exp(-0.5 * (k / SPREAD) ** 2) for k in range(-RADIUS, RADIUS + 1)]
    taps = padded.new_tensor(weights) / sum(weights)
    rows = rearrange(padded, "f c u v -> (f c) 1 u v")
    means = functional.conv2d(
        functional.conv2d(rows, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1)
    )
    return rearrange(means, "(f c) 1 x y -> f c x y", f=len(padded))
