"""The best single threshold of any one channel: what a task asks of a network at the least.

Source: none; it stands beside the networks as the floor that any of them has to leave.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn


class Threshold(nn.Module):
    """Calls one class wherever one channel lies above (or below) one level.

    Nothing is trained by gradients: `fit` tries every channel, both directions, every class and
    `levels` quantiles of the channel, and keeps what gives the largest mean foreground Dice.
    """

    channel: Tensor
    level: Tensor
    direction: Tensor
    label: Tensor
    stride = 1

    def __init__(
        self, in_channels: int, n_classes: int = 2, *, ndim: int = 2, levels: int = 256
    ) -> None:
        super().__init__()
        if in_channels < 1 or n_classes < 2 or levels < 2:
            raise ValueError(
                f"in_channels {in_channels}, n_classes {n_classes}, levels {levels}: "
                "at least 1, 2 and 2 are needed"
            )
        self.in_channels, self.n_classes, self.ndim, self.levels = (
            in_channels,
            n_classes,
            ndim,
            levels,
        )
        self.register_buffer("channel", torch.tensor(0))
        self.register_buffer("level", torch.tensor(0.0))
        self.register_buffer("direction", torch.tensor(1.0))
        self.register_buffer("label", torch.tensor(1))

    def fit(
        self, images: Sequence[Float[Tensor, "c ..."]], targets: Sequence[Integer[Tensor, "..."]]
    ) -> float:
        """Search the best threshold over all cases and return its mean foreground Dice.

        The Dice of a case and class that the reference lacks is left out of the mean.
        """
        best = -1.0
        for channel in range(self.in_channels):
            values = [image[channel].flatten() for image in images]
            levels = _quantiles(values, self.levels)
            for label in range(1, self.n_classes):
                masks = [target.flatten() == label for target in targets]
                dice = _mean_dice(values, masks, levels) / (self.n_classes - 1)
                if float(dice.max()) > best:
                    best = float(dice.max())
                    side, index = divmod(int(dice.argmax()), len(levels))
                    self.channel.fill_(channel)
                    self.level.fill_(float(levels[index]))
                    self.direction.fill_(1.0 if side == 0 else -1.0)
                    self.label.fill_(label)
        return best

    def forward(self, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """Logits: the signed distance to the level for the class, its opposite for background."""
        chosen = image.index_select(1, self.channel.reshape(1))
        margin = self.direction * (chosen - self.level)
        shape = (1, -1, *[1] * (image.ndim - 2))
        index = torch.arange(self.n_classes, device=image.device).reshape(shape)
        sign = (index == self.label).to(margin.dtype) - (index == 0).to(margin.dtype)
        never = (sign == 0).to(margin.dtype) * 1e4
        return sign * margin - never


def _quantiles(values: Sequence[Tensor], n: int, most: int = 1 << 22) -> Tensor:
    """Levels halfway between `n` quantiles; of a huge data set every k-th voxel counts."""
    step = 1 + sum(len(v) for v in values) // most
    pooled = torch.cat([v[::step].float() for v in values]).sort().values
    index = torch.linspace(0, len(pooled) - 1, n, device=pooled.device).long()
    found = torch.unique_consecutive(pooled[index])
    return (found[1:] + found[:-1]) / 2 if len(found) > 1 else found


def _mean_dice(values: Sequence[Tensor], masks: Sequence[Tensor], levels: Tensor) -> Tensor:
    """Mean Dice of the cases at every level: first row above the level, second row below it."""
    scores = list(_case_dice(values, masks, levels))
    if not scores:
        return torch.zeros(2, len(levels))
    return torch.stack(scores).mean(0)


def _case_dice(
    values: Sequence[Tensor], masks: Sequence[Tensor], levels: Tensor
) -> Iterator[Tensor]:
    bins = len(levels) + 1
    for value, mask in zip(values, masks, strict=True):
        if not bool(mask.any()):
            continue
        found = torch.searchsorted(levels, value.float())
        everything = torch.bincount(found, minlength=bins).cumsum(0)[:-1]
        inside = torch.bincount(found[mask], minlength=bins).cumsum(0)[:-1]
        n, size = len(value), int(mask.sum())
        above = 2 * (size - inside) / (n - everything + size)
        below = 2 * inside / (everything + size)
        yield torch.stack([above, below])
