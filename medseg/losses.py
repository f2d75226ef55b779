"""Losses: of segmentation, from logits to a number, and of contours in units of the image's side.

Source: Milletari et al. 2016, arXiv:1606.04797 (soft Dice); Gaggion et al. 2022, arXiv:2203.10977
(landmarks, mean KL); arXiv:2602.21179 (contour distance, shape terms, soft polygon). Differs: the
denominator of Dice holds plain sums, not squares, as in MONAI's `DiceLoss` with which the tests
compare; the contour distance goes from points to sides, not to points.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


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


def landmark_mse(
    found: Float[Tensor, "b n 2"],
    target: Float[Tensor, "b n 2"],
    *,
    mask: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over coordinates of the squared error; NaN targets and those off the mask do not count.

    Zero where nothing is annotated.
    """
    known, filled = _annotated(found, target, mask)
    error = (_full(found) - filled).square().sum(-1)
    return (error * known).sum() / (2 * known.sum()).clamp_min(1)


def _annotated(
    found: Float[Tensor, "b n 2"], target: Float[Tensor, "b n 2"], mask: Bool[Tensor, "b n"] | None
) -> tuple[Bool[Tensor, "b n"], Float[Tensor, "b n 2"]]:
    """Which nodes count, and the target with the prediction itself where one does not."""
    known = target.isfinite().all(-1)
    if mask is not None:
        known = known & mask
    return known, torch.where(known[..., None], _full(target), _full(found).detach())


def _full(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """At least single precision."""
    return values if values.dtype == torch.float64 else values.float()


def kl(mu: Float[Tensor, "b z"], logvar: Float[Tensor, "b z"]) -> Float[Tensor, ""]:
    """Divergence from the unit normal, as a mean over latents and batch (a sum elsewhere)."""
    mu, logvar = _full(mu), _full(logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()


def gaussian_nll(
    found: Float[Tensor, "b n 2"],
    target: Float[Tensor, "b n 2"],
    *,
    covariance: Float[Tensor, "b n 3"],
    mask: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over landmarks of their negative log-density under a normal one about `found`.

    Its covariance is L L^T, L lower triangular; given are the logarithms of the diagonal, x first,
    and the entry below it. NaN targets and those off the mask do not count.
    """
    known, filled = _annotated(found, target, mask)
    first, second, below = _full(covariance).unbind(-1)
    x, y = (filled - _full(found)).unbind(-1)
    x = x * (-first).exp()
    y = (y - below * x) * (-second).exp()
    density = 0.5 * (x.square() + y.square()) + first + second + math.log(2 * math.pi)
    return (density * known).sum() / known.sum().clamp_min(1)


def covariance_matrix(parameters: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2 2"]:
    """The covariance that three numbers stand for in `gaussian_nll`."""
    first, second, below = parameters.unbind(-1)
    first, second = first.exp(), second.exp()
    shared = first * below
    rows = [[first.square(), shared], [shared, below.square() + second.square()]]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def contour_distance(
    found: Float[Tensor, "b n 2"],
    outline: Float[Tensor, "b m 2"],
    *,
    closed: bool = True,
    squared: bool = True,
) -> Float[Tensor, ""]:
    """Chamfer distance of two contours, from points to sides: mean one way plus mean the other.

    Mean over the batch; `squared` distances, or plain ones. NaN rows behind an outline's last
    point are padding, and an outline of NaN alone does not count.
    """
    known = outline.isfinite().all(-1)
    there = known.any(1)
    padding = torch.where(there[:, None], _full(outline)[:, 0], 0.0)[:, None]
    filled = torch.where(known[..., None], _full(outline), padding)
    if not closed:
        last = known.sum(1).sub(1).clamp_min(0)[:, None, None].expand(-1, 1, 2)
        filled = torch.where(known[..., None], filled, filled.gather(1, last))
    onto, back = (
        _off(filled, _full(found), closed=closed),
        _off(_full(found), filled, closed=closed),
    )
    if not squared:
        onto, back = ((d + 1e-12).sqrt() for d in (onto, back))
    each = (onto * known).sum(1) / known.sum(1).clamp_min(1) + back.mean(1)
    return torch.where(there, each, 0.0).sum() / there.sum().clamp_min(1)


def _off(
    points: Float[Tensor, "b m 2"], corners: Float[Tensor, "b n 2"], *, closed: bool
) -> Float[Tensor, "b m"]:
    """Squared distance from each point to the nearest side.

    The nearest place is looked up without a gradient: moving it along its side changes nothing.
    """
    starts, sides = corners, corners.roll(-1, 1) - corners
    if not closed:
        starts, sides = starts[:, :-1], sides[:, :-1]
    with torch.no_grad():
        apart = points[:, :, None] - starts[:, None]
        lengths = sides.square().sum(-1).clamp_min(1e-20)
        along = ((apart * sides[:, None]).sum(-1) / lengths[:, None]).clamp_(0, 1)
        nearest = (apart - along[..., None] * sides[:, None]).square().sum(-1).argmin(2)
        along = along.gather(2, nearest[..., None])
        chosen = nearest[..., None].expand(-1, -1, 2)
    places = starts.gather(1, chosen) + along * sides.gather(1, chosen)
    return (points - places).square().sum(-1)


def _sides(points: Float[Tensor, "b n 2"], closed: bool) -> Float[Tensor, "b side 2"]:
    sides = _full(points).roll(-1, 1) - _full(points)
    return sides if closed else sides[:, :-1]


def elasticity(points: Float[Tensor, "b n 2"], *, closed: bool = True) -> Float[Tensor, ""]:
    """Mean squared length of a contour's sides."""
    return _sides(points, closed).square().sum(-1).mean()


def curvature(points: Float[Tensor, "b n 2"], *, closed: bool = True) -> Float[Tensor, ""]:
    """Mean squared change from one side to the next."""
    sides = _sides(points, closed)
    turns = sides.roll(-1, 1) - sides
    return (turns if closed else turns[:, :-1]).square().sum(-1).mean()


def evenness(points: Float[Tensor, "b n 2"], *, closed: bool = True) -> Float[Tensor, ""]:
    """Mean squared deviation of the sides' lengths from their mean, over that mean squared."""
    lengths = _sides(points, closed).square().sum(-1).clamp_min(1e-20).sqrt()
    mean = lengths.mean(1, keepdim=True)
    return ((lengths - mean) / mean).square().mean()


def soft_raster(
    points: Float[Tensor, "b n 2"], size: int, *, sharpness: float = 2.0
) -> Float[Tensor, "b size size"]:
    """How surely each pixel lies inside a closed contour in units of the square's side; rows first.

    The logistic function of `sharpness` times the distance of the pixel's centre from the contour
    in pixels, positive inside. What the contour surrounds twice is outside.
    """
    drawn: Tensor = _SoftPolygon.apply(_full(points) * size - 0.5, size, sharpness)  # type: ignore[no-untyped-call]
    return drawn


class _SoftPolygon(torch.autograd.Function):
    """Signed distance through a logistic function, with the gradient of the nearest place alone."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, points: Float[Tensor, "b n 2"], size: int, sharpness: float
    ) -> Float[Tensor, "b size size"]:
        best, nearest = _nearest_side(points, size)
        sign = _inside(points, size).to(points.dtype).mul_(2).sub_(1)
        probability = (sign * best.sqrt_()).mul_(sharpness).sigmoid_()
        ctx.save_for_backward(points, nearest, sign, probability)
        ctx.sharpness = sharpness  # type: ignore[attr-defined]
        return probability

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, gradient: Float[Tensor, "b size size"]
    ) -> tuple[Float[Tensor, "b n 2"], None, None]:
        points, nearest, sign, probability = ctx.saved_tensors  # type: ignore[attr-defined]
        size, n = probability.shape[-1], points.shape[1]
        slope = ctx.sharpness * gradient * sign * probability * (1 - probability)  # type: ignore[attr-defined]
        first = nearest.flatten(1)[..., None]
        second = (first + 1) % n
        start = points.gather(1, first.expand(-1, -1, 2))
        side = points.gather(1, second.expand(-1, -1, 2)) - start
        rows, columns = torch.meshgrid(*[torch.arange(size).to(points)] * 2, indexing="ij")
        apart = torch.stack([columns, rows], -1).flatten(0, 1) - start
        length = side.square().sum(-1, keepdim=True).clamp_min(1e-20)
        along = ((apart * side).sum(-1, keepdim=True) / length).clamp_(0, 1)
        apart = along * side - apart
        distance = apart.square().sum(-1, keepdim=True).sqrt_().clamp_min_(1e-12)
        pull = slope.flatten(1)[..., None] * apart / distance
        total = torch.zeros_like(points)
        total.scatter_add_(1, first.expand(-1, -1, 2), (1 - along) * pull)
        total.scatter_add_(1, second.expand(-1, -1, 2), along * pull)
        return total, None, None


def _nearest_side(
    points: Float[Tensor, "b n 2"], size: int
) -> tuple[Float[Tensor, "b size size"], Integer[Tensor, "b size size"]]:
    """Squared distance of each pixel's centre to the nearest side, and which; side after side."""
    grid = torch.arange(size).to(points)
    sides = points.roll(-1, 1) - points
    lengths = sides.square().sum(-1).clamp_min(1e-20).sqrt()
    ways = sides / lengths[..., None]
    x, y = (grid - points.transpose(1, 2)[..., None]).unbind(1)
    best = points.new_full((len(points), size, size), torch.inf)
    nearest = torch.zeros_like(best, dtype=torch.long)
    for k in range(points.shape[1]):
        east, south = ways[:, k, :1], ways[:, k, 1:]
        off = (y[:, k] * east)[:, :, None] - (x[:, k] * south)[:, None]
        along = (y[:, k] * south)[:, :, None] + (x[:, k] * east)[:, None]
        past = along - along.clamp_min(0).minimum(lengths[:, k, None, None])
        distance = off.square_().addcmul_(past, past)
        nearest.masked_fill_(distance < best, k)
        torch.minimum(best, distance, out=best)
    return best, nearest


def _inside(points: Float[Tensor, "b n 2"], size: int) -> Bool[Tensor, "b size size"]:
    """Whether an odd number of sides lies to the left of a pixel's centre."""
    grid = torch.arange(size).to(points)
    (x, y), (u, v) = (p.transpose(1, 2)[..., None].unbind(1) for p in (points, points.roll(-1, 1)))
    crossed = (y <= grid) != (v <= grid)
    rise = torch.where(crossed, v - y, 1.0)
    columns = (x + (grid - y) / rise * (u - x)).ceil().clamp(0, size).long()
    counts = torch.zeros(len(points), size, size + 1, dtype=torch.int32, device=points.device)
    counts.scatter_add_(2, columns.transpose(1, 2), crossed.transpose(1, 2).int())
    return counts.cumsum(2)[..., :size] % 2 == 1
