"""Augmentation of batches of HEALPix skies: the sixteen symmetries of the grid, and brightness.

Chance is drawn in `draw`, the deed done in `apply`, as in `transforms`; pixels are NESTED. A
symmetry moves every pixel's centre onto another's, so nothing is interpolated.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from medseg.data.transforms import Chance
from medseg.geometry.sphere import nside_of
from medseg.geometry.symmetry import symmetries
from medseg.sample import Batch


class Turn:
    """Each sky is turned or mirrored by one of the grid's symmetries, its labels with it.

    Args:
        mirror: whether reflections take part beside the eight rotations.
        odd: numbers of the channels that a reflection gives the other sign, as it does to Stokes U;
            rotations of the grid's own leave Q and U as they are.
        chance: share of the skies that are turned; the identity may be drawn too.
    """

    def __init__(
        self, *, mirror: bool = True, odd: Sequence[int] = (), chance: float = 1.0
    ) -> None:
        self.mirror, self.odd, self.chance = mirror, list(odd), chance

    def draw(self, batch: Batch, source: Chance) -> Int64[Tensor, " b"]:
        """The number of each sky's symmetry, as `symmetries` counts them."""
        n = len(batch.image)
        which = torch.randint(16 if self.mirror else 8, (n,), generator=source.generator)
        return which * source.picked(n, self.chance)

    def apply(self, batch: Batch, drawn: Int64[Tensor, " b"]) -> Batch:
        """Move the pixels of maps and labels."""
        if not bool(drawn.any()):
            return batch
        image, target = batch.image, batch.target
        moves = torch.from_numpy(symmetries(nside_of(image.shape[-1]))[drawn.numpy()])
        places = moves.to(image.device, torch.int64)
        turned = image.gather(2, places[:, None].expand_as(image))
        if self.odd:
            sign = torch.ones(image.shape[:2], dtype=image.dtype)
            sign[:, self.odd] = torch.where(drawn >= 8, -1.0, 1.0)[:, None].to(image.dtype)
            turned = turned * sign[..., None].to(image.device)
        if target is not None and target.ndim == 2:
            target = target.gather(1, places)
        return replace(batch, image=turned, target=target)


class Brightness:
    """Each channel is multiplied by a factor of its own, between 1 / `gain` and `gain`.

    Args:
        gain: the largest factor.
        chance: share of the skies that change.
    """

    def __init__(self, *, gain: float = 1.1, chance: float = 0.5) -> None:
        if gain < 1:
            raise ValueError(f"gain is {gain}; give the largest factor, 1 or more")
        self.gain, self.chance = float(torch.tensor(gain).log()), chance

    def draw(self, batch: Batch, source: Chance) -> Float[Tensor, "b c"]:
        """The factors; one where nothing changes."""
        n, channels = batch.image.shape[:2]
        gain = source.uniform((n, channels), low=-self.gain, high=self.gain).exp()
        return torch.where(source.picked(n, self.chance)[:, None], gain, 1.0)

    def apply(self, batch: Batch, drawn: Float[Tensor, "b c"]) -> Batch:
        """Multiply."""
        return replace(batch, image=batch.image * drawn.to(batch.image)[..., None])
