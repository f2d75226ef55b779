"""Augmentation of radiographs: the landmarks move with the image, and no organ is cut off.

Source: Gaggion et al. 2022 (doi:10.1109/TMI.2022.3224660), as the authors' code augments: a scale
for each axis, a small turn, gamma, noise. Differs: one resampling for all of it, in the unit
square; a shift wherever the organs leave room; gain and offset; squares that hide a part.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from medseg.data.transforms import Chance
from medseg.sample import Batch


class Pose:
    """Scale of each axis, rotation and shift of images (b, c, x, y), labels and landmarks.

    The image is grown at most so far that every known landmark stays inside.

    Args:
        scale: smallest and largest factor of either axis.
        rotate_deg: largest angle.
        shift: largest shift, as a share of the side; less where the organs leave less room.
    """

    def __init__(
        self,
        *,
        scale: Sequence[float] = (0.8, 1.15),
        rotate_deg: float = 6.0,
        shift: float = 0.1,
    ) -> None:
        low, high = scale
        if not 0 < low <= high:
            raise ValueError(f"scale is {list(scale)}; give the smaller factor first: [0.8,1.15]")
        self.low, self.high, self.rotate, self.shift = low, high, math.radians(rotate_deg), shift

    def draw(self, batch: Batch, source: Chance) -> tuple[Tensor, Tensor]:
        """For each image a matrix about the centre and a shift, in units of the square."""
        n = len(batch.image)
        angle = source.uniform((n,), low=-self.rotate, high=self.rotate)
        share = source.uniform((n, 2), low=0.0, high=1.0)
        room = source.uniform((n, 2), low=0.0, high=1.0)
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        points = _points(batch) - 0.5
        turned = torch.einsum("bij,bnj->bni", turn, points)
        widest = (_most(turned) - _least(turned)).clamp_min(1e-3)
        high = (0.98 / widest).clamp(max=self.high).clamp_min(self.low)
        scale = self.low + (high - self.low) * share
        matrix = scale[:, :, None] * turn
        moved = torch.einsum("bij,bnj->bni", matrix, points)
        low = torch.maximum(-0.49 - _least(moved), torch.tensor(-self.shift))
        top = torch.minimum(0.49 - _most(moved), torch.tensor(self.shift))
        least, most = torch.minimum(low, top), torch.maximum(low, top)
        return matrix, least + (most - least) * room

    def apply(self, batch: Batch, drawn: tuple[Tensor, Tensor]) -> Batch:
        """Resample images (linear) and labels (nearest), move the points."""
        matrix, shift = (part.to(batch.image) for part in drawn)
        back = torch.linalg.inv(matrix)
        offset = -2 * (back @ shift[:, :, None])
        # grid_sample wants the last axis (y here) first
        theta = torch.cat([back, offset], 2).flip(1)[:, :, [1, 0, 2]]
        grid = affine_grid(theta, list(batch.image.shape), align_corners=False)
        floor = batch.image.amin((1, 2, 3), keepdim=True)
        image = grid_sample(batch.image - floor, grid, align_corners=False) + floor
        target = batch.target
        if target is not None:
            values = target[:, None].to(grid.dtype)
            picked = grid_sample(values, grid, mode="nearest", align_corners=False)
            target = picked[:, 0].to(target.dtype)
        points, lines = (_moved(p, matrix, shift) for p in (batch.landmarks, batch.outlines))
        return replace(batch, image=image, target=target, landmarks=points, outlines=lines)


def _moved(points: Tensor | None, matrix: Tensor, shift: Tensor) -> Tensor | None:
    if points is None:
        return None
    flat = points.flatten(1, -2) - 0.5
    found = torch.einsum("bij,bnj->bni", matrix, flat) + shift[:, None] + 0.5
    return found.reshape(points.shape)


def _points(batch: Batch) -> Float[Tensor, "b n 2"]:
    """Everything that is known of where the organs lie, on the processor."""
    parts = [p.flatten(1, -2) for p in (batch.landmarks, batch.outlines) if p is not None]
    if not parts:
        raise ValueError("the batch has no landmarks; this augmentation is for data.organs")
    return torch.cat(parts, 1).cpu()


def _least(points: Float[Tensor, "b n 2"]) -> Float[Tensor, "b 2"]:
    return points.nan_to_num(nan=math.inf).amin(1).clamp(-0.49, 0.0)


def _most(points: Float[Tensor, "b n 2"]) -> Float[Tensor, "b 2"]:
    return points.nan_to_num(nan=-math.inf).amax(1).clamp(0.0, 0.49)


class Exposure:
    """Gamma, gain, offset and noise, as exposures and detectors differ.

    Args:
        gamma: smallest and largest exponent's inverse; 1 keeps the curve.
        gain: largest change of contrast, as a share.
        offset: largest change of brightness, as a share of the image's range.
        noise: largest standard deviation of the noise, as a share of the range.
    """

    def __init__(
        self,
        *,
        gamma: Sequence[float] = (0.6, 1.3),
        gain: float = 0.2,
        offset: float = 0.1,
        noise: float = 0.02,
    ) -> None:
        self.gamma, self.gain, self.offset, self.noise = tuple(gamma), gain, offset, noise

    def draw(self, batch: Batch, source: Chance) -> tuple[Tensor, Tensor, int]:
        """Exponent, gain and offset of each image, its noise, and the noise's seed."""
        n = len(batch.image)
        low, high = self.gamma
        power = 1 / source.uniform((n,), low=low, high=high)
        gain = source.uniform((n,), low=1 - self.gain, high=1 + self.gain)
        offset = source.uniform((n,), low=-self.offset, high=self.offset)
        noise = source.uniform((n,), low=0.0, high=self.noise)
        seed = int(torch.randint(2**31, (), generator=source.generator))
        return torch.stack([power, gain, offset]), noise, seed

    def apply(self, batch: Batch, drawn: tuple[Tensor, Tensor, int]) -> Batch:
        """Change what the detector saw."""
        curve, noise, seed = drawn
        image = batch.image
        power, gain, offset, strength = (v.to(image)[:, None, None, None] for v in (*curve, noise))
        low = image.amin((1, 2, 3), keepdim=True)
        span = (image.amax((1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
        source = Generator(device=image.device).manual_seed(seed)
        grain = torch.randn(image.shape, generator=source, device=image.device, dtype=image.dtype)
        shown = ((image - low) / span).clamp_min(0).pow(power) * gain + offset + grain * strength
        return replace(batch, image=shown * span + low)


class Hide:
    """A square, black or of the image's mean, over a part of some images: tubes, boxes, markers.

    Args:
        side: largest side, as a share of the image's.
        chance: share of the images that get one.
    """

    def __init__(self, *, side: float = 0.25, chance: float = 0.3) -> None:
        self.side, self.chance = side, chance

    def draw(self, batch: Batch, source: Chance) -> Tensor:
        """Left, top, right, bottom and fill (0 black, 1 mean) of each image's square."""
        n = len(batch.image)
        side = source.uniform((n, 2), low=0.02, high=self.side)
        side[~source.picked(n, self.chance)] = 0.0
        start = source.uniform((n, 2), low=0.0, high=1.0) * (1 - side)
        fill = source.uniform((n, 1), low=0.0, high=1.0)
        return torch.cat([start, start + side, fill], 1)

    def apply(self, batch: Batch, drawn: Tensor) -> Batch:
        """Cover the squares."""
        image = batch.image.clone()
        size = torch.tensor(image.shape[2:]).repeat(2)
        for number, (*box, fill) in enumerate(drawn.tolist()):
            x0, y0, x1, y1 = (round(v * int(s)) for v, s in zip(box, size, strict=True))
            if x1 > x0 and y1 > y0:
                low, mean = image[number].amin(), image[number].mean()
                image[number, :, x0:x1, y0:y1] = low + fill * (mean - low)
        return replace(batch, image=image)


def copies(batches: Iterable[Batch], *, count: int = 2) -> Iterator[tuple[int, Batch]]:
    """Every case of one plane and copies that are moved and exposed a little, by its number.

    They differ from their original as much as two images of one person do.
    """
    pose = Pose(rotate_deg=3.0, scale=(0.92, 1.08), shift=0.04)
    changes: tuple[Any, ...] = (pose, Exposure(gamma=(0.8, 1.2)))
    for number, batch in enumerate(batches):
        plane = replace(batch, image=batch.image[..., 0], target=None)
        yield number, plane
        for copy in range(count):
            source = Generator().manual_seed(count * number + copy)
            moved = plane
            for change in changes:
                moved = change.apply(moved, change.draw(moved, Chance(source, (1.0, 1.0))))
            yield number, moved
