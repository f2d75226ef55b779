"""Augmentation of whole batches: chance is drawn in `draw`, the deed done in `apply`.

All numbers come from one CPU generator, so a batch is changed alike on every device and whenever
it is drawn again. Voxels from outside hold a channel's smallest value, as inference pads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from medseg.sample import Batch


@dataclass(frozen=True)
class Chance:
    """Where random numbers come from, and the spacing of the image axes that they act on."""

    generator: Generator
    spacing_mm: tuple[float, ...]

    def picked(self, n: int, share: float) -> Bool[Tensor, " n"]:
        """Which of `n` images are changed."""
        return torch.rand(n, generator=self.generator) < share

    def uniform(self, shape: Sequence[int], *, low: float, high: float) -> Float[Tensor, "*shape"]:
        """Numbers between two bounds."""
        return torch.rand(tuple(shape), generator=self.generator) * (high - low) + low


@runtime_checkable
class Transform(Protocol):
    """One kind of change; what `draw` returns says everything that `apply` needs."""

    def draw(self, batch: Batch, source: Chance) -> Any:  # noqa: ANN401
        """Decide which images change, and how."""

    def apply(self, batch: Batch, drawn: Any) -> Batch:  # noqa: ANN401
        """Change them."""


class Chain:
    """Transforms one after the other, each under a name that overrides can reach."""

    def __init__(self, transforms: Mapping[str, Transform]) -> None:
        self.transforms = dict(transforms)

    def __call__(self, batch: Batch, source: Chance) -> Batch:
        """The batch as training sees it; `spacing_mm` of the image axes."""
        for transform in self.transforms.values():
            batch = transform.apply(batch, transform.draw(batch, source))
        return batch

    @property
    def drops_channels(self) -> bool:
        """Whether a network trained so has seen cases with missing channels."""
        return any(isinstance(t, DropChannels) and t.chance > 0 for t in self.transforms.values())


def _floor(image: Float[Tensor, "b c *s"], batch: Batch) -> Float[Tensor, "b c *one"]:
    """What stands for nothing: each channel's smallest value, zero for complex ones."""
    low = image.amin(tuple(range(2, image.ndim)), keepdim=True)
    return torch.zeros_like(low) if batch.complex_parts else low


class Spatial:
    """Rotation and scaling in millimetres, and flips: one resampling, labels by nearest voxel.

    Args:
        rotate_deg: largest angle, in the plane of 2-D images, about every axis of 3-D ones.
        scale: largest change of size; 0.15 is from 1/1.15 to 1.15.
        flip: image axes that may be mirrored, each with even odds; none for anatomy with sides.
        chance: share of the images that are rotated and scaled.
    """

    def __init__(
        self,
        *,
        rotate_deg: float = 10.0,
        scale: float = 0.15,
        flip: Sequence[int] = (),
        chance: float = 0.5,
    ) -> None:
        self.rotate, self.scale = math.radians(rotate_deg), math.log1p(scale)
        self.flip, self.chance = tuple(flip), chance

    def draw(self, batch: Batch, source: Chance) -> tuple[Tensor, Tensor]:
        """Which images, and for each a matrix in the normalised coordinates of `grid_sample`."""
        n, ndim = len(batch.image), batch.image.ndim - 2
        picked = source.picked(n, self.chance)
        angles = source.uniform((n, 3), low=-self.rotate, high=self.rotate)
        sizes = source.uniform((n, 1, 1), low=-self.scale, high=self.scale).exp()
        turn = (_in_plane(angles[:, 0]) if ndim == 2 else _in_space(angles)) * sizes
        turn[~picked] = torch.eye(ndim)
        for axis in self.flip:
            mirrored = source.picked(n, 0.5)
            turn[mirrored, axis] *= -1
            picked |= mirrored
        extent = torch.tensor(
            [s * mm for s, mm in zip(batch.image.shape[2:], source.spacing_mm, strict=True)]
        )
        matrix = turn * extent[None, None, :] / extent[None, :, None]
        return picked, matrix.flip(1, 2)

    def apply(self, batch: Batch, drawn: tuple[Tensor, Tensor]) -> Batch:
        """Resample the picked images and their labels on one grid."""
        picked, matrix = drawn
        if not bool(picked.any()):
            return batch
        index = picked.nonzero()[:, 0].to(batch.image.device)
        image = batch.image.index_select(0, index)
        theta = pad(matrix[picked], (0, 1)).to(image)
        grid = affine_grid(theta, list(image.shape), align_corners=False)
        floor = _floor(image, batch)
        moved = grid_sample(image - floor, grid, mode="bilinear", align_corners=False) + floor
        changed = replace(batch, image=batch.image.index_copy(0, index, moved))
        if batch.target is None or batch.target.ndim == 1:
            return changed
        chosen = batch.target.index_select(0, index)[:, None].to(grid.dtype)
        labels = grid_sample(chosen, grid, mode="nearest", align_corners=False)[:, 0]
        target = batch.target.index_copy(0, index, labels.to(batch.target.dtype))
        return replace(changed, target=target)


def _in_plane(angle: Float[Tensor, " b"]) -> Float[Tensor, "b 2 2"]:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def _in_space(angles: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    turn = torch.eye(3).repeat(len(angles), 1, 1)
    for fixed in range(3):
        i, j = [axis for axis in range(3) if axis != fixed]
        flat = _in_plane(angles[:, fixed])
        step = torch.eye(3).repeat(len(angles), 1, 1)
        step[:, i, i], step[:, i, j] = flat[:, 0, 0], flat[:, 0, 1]
        step[:, j, i], step[:, j, j] = flat[:, 1, 0], flat[:, 1, 1]
        turn = turn @ step
    return turn


class Gamma:
    """Brightness curve: each channel between its extremes is raised to a power near one.

    Of complex channels the magnitude is raised, and the phase stays.
    """

    def __init__(self, *, power: float = 1.5, chance: float = 0.3) -> None:
        self.power, self.chance = math.log(power), chance

    def draw(self, batch: Batch, source: Chance) -> Tensor:
        """Exponents, one an image and channel; one where nothing changes."""
        n, channels = len(batch.image), batch.image.shape[1] // (2 if batch.complex_parts else 1)
        power = source.uniform((n, channels), low=-self.power, high=self.power).exp()
        power[~source.picked(n, self.chance)] = 1.0
        return power

    def apply(self, batch: Batch, drawn: Tensor) -> Batch:
        """Raise the picked images."""
        index = (drawn != 1).any(1).nonzero()[:, 0]
        if not len(index):
            return batch
        there = index.to(batch.image.device)
        image = batch.image.index_select(0, there)
        power = drawn[index].to(image).reshape(*drawn[index].shape, *[1] * (image.ndim - 2))
        if batch.complex_parts:
            magnitude = torch.hypot(*image.chunk(2, 1))
            gain = _raised(magnitude, power, floor=0) / magnitude.clamp_min(1e-12)
            changed = image * gain.repeat(1, 2, *[1] * (image.ndim - 2))
        else:
            changed = _raised(image, power, floor=_floor(image, batch))
        return replace(batch, image=batch.image.index_copy(0, there, changed))


def _raised(
    image: Float[Tensor, "b c *s"], power: Tensor, *, floor: Tensor | float
) -> Float[Tensor, "b c *s"]:
    """Values between `floor` and each channel's largest, to a power in units of that range."""
    span = (image.amax(tuple(range(2, image.ndim)), keepdim=True) - floor).clamp_min(1e-6)
    return ((image - floor) / span).clamp_min(0).pow(power) * span + floor


class Noise:
    """Gaussian noise of a strength up to `sigma`, in units of the normalised image.

    Complex values get it in both parts, as from a scanner.
    """

    def __init__(self, *, sigma: float = 0.1, chance: float = 0.3) -> None:
        self.sigma, self.chance = sigma, chance

    def draw(self, batch: Batch, source: Chance) -> tuple[Tensor, int]:
        """A strength for each image, and the seed of the noise itself."""
        n = len(batch.image)
        sigma = source.uniform((n,), low=0.0, high=self.sigma) * source.picked(n, self.chance)
        return sigma, int(torch.randint(2**31, (), generator=source.generator))

    def apply(self, batch: Batch, drawn: tuple[Tensor, int]) -> Batch:
        """Add noise drawn on the image's own device, where that is fast."""
        sigma, seed = drawn
        index = sigma.nonzero()[:, 0]
        if not len(index):
            return batch
        there = index.to(batch.image.device)
        image = batch.image.index_select(0, there)
        source = Generator(device=image.device).manual_seed(seed)
        grain = torch.randn(image.shape, generator=source, device=image.device, dtype=image.dtype)
        scale = sigma[index].to(image).reshape(-1, *[1] * (image.ndim - 1))
        changed = image + grain * scale
        return replace(batch, image=batch.image.index_copy(0, there, changed))


def coarse_field(
    batch: Batch, source: Chance, *, strength: float, points: int, share: float
) -> Float[Tensor, "b one *points"]:
    """Uniform numbers within `strength`, `points` an axis; zero for images that are not picked."""
    n, ndim = len(batch.image), batch.image.ndim - 2
    field = source.uniform((n, 1, *[points] * ndim), low=-strength, high=strength)
    field[~source.picked(n, share)] = 0.0
    return field


class BiasField:
    """A smooth gain from the coil: exp of a field that `points` numbers an axis describe."""

    def __init__(self, *, strength: float = 0.3, points: int = 3, chance: float = 0.3) -> None:
        self.strength, self.points, self.chance = strength, points, chance

    def draw(self, batch: Batch, source: Chance) -> Tensor:
        """The coarse field of each image, the same for its channels; zero where nothing changes."""
        return coarse_field(
            batch, source, strength=self.strength, points=self.points, share=self.chance
        )

    def apply(self, batch: Batch, drawn: Tensor) -> Batch:
        """Multiply what lies above a channel's smallest value."""
        index = drawn.flatten(1).any(1).nonzero()[:, 0]
        if not len(index):
            return batch
        there = index.to(batch.image.device)
        image = batch.image.index_select(0, there)
        mode = "bicubic" if image.ndim == 4 else "trilinear"
        coarse = drawn[index].to(image)
        gain = interpolate(coarse, image.shape[2:], mode=mode, align_corners=True).exp()
        floor = _floor(image, batch)
        changed = (image - floor) * gain + floor
        return replace(batch, image=batch.image.index_copy(0, there, changed))


class DropChannels:
    """Modality dropout: a channel is taken away (zero, `present` false); one always stays."""

    def __init__(self, *, chance: float = 0.1) -> None:
        self.chance = chance

    def draw(self, batch: Batch, source: Chance) -> Bool[Tensor, "b c"]:
        """Which channels stay."""
        n, parts = len(batch.image), 2 if batch.complex_parts else 1
        channels = batch.image.shape[1] // parts
        luck = torch.rand((n, channels), generator=source.generator)
        there = batch.present[:, :channels].cpu()
        keep = (luck >= self.chance) & there
        best = torch.where(there, luck, -1.0).argmax(1)
        keep[torch.arange(n), best] |= ~keep.any(1)
        return keep.repeat(1, parts)

    def apply(self, batch: Batch, drawn: Bool[Tensor, "b c"]) -> Batch:
        """Fill the others with zeros."""
        keep = drawn.to(batch.image.device)
        mask = keep.reshape(*keep.shape, *[1] * (batch.image.ndim - 2))
        return replace(batch, image=batch.image * mask, present=batch.present & keep)
