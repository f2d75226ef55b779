"""Image features at given positions: the mean over a small window of a map.

Source: Gaggion et al. 2022, arXiv:2203.10977 (image-to-graph skip connection); He, Gkioxari,
Dollár, Girshick 2017, arXiv:1703.06870, sec. 3 (region alignment). No code followed.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_OUTSIDE = -3.0


def lookup(
    positions: Float[Tensor, "b n 2"],
    maps: Float[Tensor, "m c h w"],
    *,
    window: int = 3,
    shift: float = 0.5,
) -> Float[Tensor, "b n c"]:
    """Mean of bilinear samples one pixel apart, `window` in each direction, about each position.

    A position (x, y) is a share of the map's sides. A sample up to one pixel outside the pixels'
    centres takes the border's value, one beyond counts as zero.

    Args:
        positions: where; every row with its own map, or all rows with the only one.
        maps: the features.
        window: samples in each direction; an even number counts as the next odd one.
        shift: what is taken from position times side to reach pixel indices: 0.5 where 0 and 1 are
            the image's edges; 0 where pixel i stands at i / side, as published.
    """
    h, w = maps.shape[-2:]
    reach = window // 2
    steps = torch.arange(-reach, reach + 1, device=positions.device, dtype=positions.dtype)
    x = _inside(positions[..., 0] * w - shift, steps, w)
    y = _inside(positions[..., 1] * h - shift, steps, h)
    count = len(steps)
    columns, rows = x[:, None].expand(-1, count, -1, -1), y[:, :, None].expand(-1, -1, count, -1)
    grid = torch.stack([columns, rows], -1)
    grid = rearrange(grid, "b row column n xy -> b (row column) n xy")
    maps = maps.expand(len(positions), -1, -1, -1)
    found = functional.grid_sample(maps, grid, align_corners=False).sum(2) / count**2
    return rearrange(found, "b c n -> b n c")


def _inside(
    centre: Float[Tensor, "b n"], steps: Float[Tensor, " s"], side: int
) -> Float[Tensor, "b s n"]:
    """Samples in the units of `grid_sample`, which gives zero for those that count as outside."""
    index = centre[:, None] + steps[:, None]
    units = (2 * index.clamp(0, side - 1) + 1) / side - 1
    return torch.where((index < -1) | (index > side), _OUTSIDE, units)


def lookup_adaptive(
    positions: Float[Tensor, "b n 2"],
    maps: Float[Tensor, "m c h w"],
    *,
    window: int = 3,
    shift: float = 0.0,
) -> Float[Tensor, "b n c"]:
    """The same with the number of samples of the published weights, bit by bit.

    Their box is as wide as the window but for rounding, and holds as many samples as its width in
    float32 rounded up: mostly `window`, sometimes one more. Takes the arguments of `lookup`.
    """
    h, w = maps.shape[-2:]
    points = positions.float()
    x, many_x = _samples(points[..., 0] * w - shift, window // 2, w)
    y, many_y = _samples(points[..., 1] * h - shift, window // 2, h)
    pixels = rearrange(maps, "m c h w -> m (h w) c").expand(len(positions), -1, -1)
    total = pixels.new_zeros(*positions.shape[:2], maps.shape[1])
    for row in y:
        for column in x:
            total = total + _bilinear(pixels, row, column, width=w)
    return total / (many_x * many_y).clamp(min=1)[..., None]


_Sample = tuple[Tensor, Tensor, Tensor, Tensor]


def _samples(
    centre: Float[Tensor, "b n"], reach: int, side: int
) -> tuple[list[_Sample], Float[Tensor, "b n"]]:
    """For every sample of a box: lower and upper pixel, share of the upper, and whether it counts.

    Beside them their number, which differs between boxes.
    """
    low, high = (centre - reach) - 0.5, (centre + reach + 1) - 0.5
    extent = high - low
    many = extent.ceil()
    found = []
    for number in range(2 * reach + 2):
        index = low + (number + 0.5) * extent / many
        counts = (number < many) & (index >= -1) & (index <= side)
        index = index.nan_to_num(0).clamp(0, side)
        lower = index.floor().clamp(max=side - 1)
        share = torch.where(index >= side - 1, 0.0, index - lower)
        upper = (lower + 1).clamp(max=side - 1)
        found.append((lower.long(), upper.long(), share, counts))
    return found, many


def _bilinear(
    pixels: Float[Tensor, "b hw c"], row: _Sample, column: _Sample, *, width: int
) -> Float[Tensor, "b n c"]:
    """One sample of every box; the order of the sum is that of the published weights."""
    top, bottom, y, row_counts = row
    left, right, x, column_counts = column
    total = None
    for line, line_share in ((top, 1 - y), (bottom, y)):
        for place, place_share in ((left, 1 - x), (right, x)):
            index = (line * width + place)[..., None].expand(-1, -1, pixels.shape[-1])
            term = (line_share * place_share)[..., None] * pixels.gather(1, index)
            total = term if total is None else total + term
    return torch.where((row_counts & column_counts)[..., None], total, 0.0)  # type: ignore[arg-type]
