"""Augmentation of complex images by what a scanner does to their phase: the magnitude stays.

Chance is drawn in `draw`, the deed done in `apply`, as in `transforms`. Batches of real data pass
unchanged: they have no phase.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from medseg.data.transforms import Chance, coarse_field
from medseg.nn.complex.parts import from_parts, to_parts
from medseg.sample import Batch


def _turned(batch: Batch, phase: Float[Tensor, "b one *s"]) -> Batch:
    """Every channel of a case turned by the same phase, in radians."""
    z = from_parts(batch.image)
    angle = phase.to(batch.image)
    return replace(batch, image=to_parts(z * torch.polar(torch.ones_like(angle), angle)))


def _axis(size: int, *, axis: int, ndim: int) -> Float[Tensor, "one one *s"]:
    """Voxel numbers from the middle along one axis, shaped to broadcast over images."""
    place = torch.arange(size) - size // 2
    return place.float().reshape([1, 1, *(size if a == axis else 1 for a in range(ndim))])


class GlobalPhase:
    """One phase for a whole case: what a receiver's clock decides. Uniform over the circle."""

    def __init__(self, *, chance: float = 1.0) -> None:
        self.chance = chance

    def draw(self, batch: Batch, source: Chance) -> Tensor:
        """An angle a case, zero where nothing changes."""
        n = len(batch.image)
        angle = source.uniform((n,), low=-math.pi, high=math.pi)
        return angle * source.picked(n, self.chance)

    def apply(self, batch: Batch, drawn: Tensor) -> Batch:
        """Turn the cases."""
        if not batch.complex_parts or not bool(drawn.any()):
            return batch
        return _turned(batch, drawn.reshape(-1, *[1] * (batch.image.ndim - 1)))


class SmoothPhase:
    """A smooth phase across the image, as an uneven field gives: `points` numbers an axis.

    Args:
        strength: largest angle at a point, in radians.
        points: along each axis.
        chance: share of the cases that change.
    """

    def __init__(self, *, strength: float = 1.0, points: int = 3, chance: float = 0.5) -> None:
        self.strength, self.points, self.chance = strength, points, chance

    def draw(self, batch: Batch, source: Chance) -> Tensor:
        """The coarse field of each case; zero where nothing changes."""
        return coarse_field(
            batch, source, strength=self.strength, points=self.points, share=self.chance
        )

    def apply(self, batch: Batch, drawn: Tensor) -> Batch:
        """Turn every voxel by the field."""
        if not batch.complex_parts or not bool(drawn.any()):
            return batch
        mode = "bicubic" if batch.image.ndim == 4 else "trilinear"
        field = interpolate(drawn, batch.image.shape[2:], mode=mode, align_corners=True)
        return _turned(batch, field)


class PhaseRamp:
    """A linear phase across the image: k-space moved by up to `samples` along each axis."""

    def __init__(self, *, samples: float = 1.0, chance: float = 0.5) -> None:
        self.samples, self.chance = samples, chance

    def draw(self, batch: Batch, source: Chance) -> Tensor:
        """Samples by which k-space moves, a case and axis."""
        n, ndim = len(batch.image), batch.image.ndim - 2
        moved = source.uniform((n, ndim), low=-self.samples, high=self.samples)
        moved[~source.picked(n, self.chance)] = 0.0
        return moved

    def apply(self, batch: Batch, drawn: Tensor) -> Batch:
        """Turn every voxel by its place."""
        if not batch.complex_parts or not bool(drawn.any()):
            return batch
        return _turned(batch, _ramp(batch, drawn))


def _ramp(batch: Batch, drawn: Float[Tensor, "b axis"]) -> Float[Tensor, "b one *s"]:
    """2 pi times shift times place over size, summed over the axes."""
    sizes = batch.image.shape[2:]
    total: Any = 0.0
    for axis, size in enumerate(sizes):
        amount = drawn[:, axis].reshape(-1, *[1] * (len(sizes) + 1))
        total = total + amount * (2 * math.pi / size) * _axis(size, axis=axis, ndim=len(sizes))
    return total


class FourierShift:
    """The image moved by whole or broken voxels as a scanner would: by ramps over its k-space.

    Moving wraps around the edges, as k-space does; labels move to the nearest voxel. Exact for
    whole voxels, and back again for broken ones.

    Args:
        voxels: largest move along each axis.
        chance: share of the cases that move.
    """

    def __init__(self, *, voxels: float = 4.0, chance: float = 0.5) -> None:
        self.voxels, self.chance = voxels, chance

    def draw(self, batch: Batch, source: Chance) -> Tensor:
        """Voxels by which each case moves along each axis."""
        n, ndim = len(batch.image), batch.image.ndim - 2
        moved = source.uniform((n, ndim), low=-self.voxels, high=self.voxels)
        moved[~source.picked(n, self.chance)] = 0.0
        return moved

    def apply(self, batch: Batch, drawn: Tensor) -> Batch:
        """Move images and labels."""
        if not batch.complex_parts or not bool(drawn.any()):
            return batch
        axes = tuple(range(2, batch.image.ndim))
        angle = _frequencies(batch.image.shape[2:], drawn).to(batch.image)
        spectrum = torch.fft.fftn(from_parts(batch.image), dim=axes)
        turned = spectrum * torch.polar(torch.ones_like(angle), -angle)
        image = to_parts(torch.fft.ifftn(turned, dim=axes))
        changed = replace(batch, image=image)
        if batch.target is None or batch.target.ndim == 1:
            return changed
        moved = [
            torch.roll(labels, [int(s) for s in steps.round()], list(range(labels.ndim)))
            for labels, steps in zip(batch.target, drawn, strict=True)
        ]
        return replace(changed, target=torch.stack(moved))


def _frequencies(sizes: torch.Size, drawn: Tensor) -> Float[Tensor, "b one *s"]:
    """2 pi times shift times frequency, summed over the axes, in the order of `fftn`."""
    total: Any = 0.0
    for axis, size in enumerate(sizes):
        frequency = torch.fft.fftfreq(size).reshape(
            [-1 if a == axis else 1 for a in range(len(sizes))]
        )
        amount = drawn[:, axis].reshape(-1, *[1] * (len(sizes) + 1))
        total = total + 2 * math.pi * amount * frequency
    return total
