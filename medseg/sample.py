"""What travels along the road: a tensor, always with the space its points lie in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

from medseg.geometry.grid import Grid
from medseg.geometry.sphere import Sphere

if TYPE_CHECKING:
    from torch import Tensor

# How complex numbers are made of files; the recipe chooses, nothing is guessed.
COMPLEX_INPUT = {
    "zero_imag": "the values with zero imaginary part",
    "fft": "the centred Fourier transform of each slice",
    "synthetic_phase": "the values with a made-up smooth phase",
    "mag_phase": "channels in pairs of magnitude and phase",
    "real_imag": "files that are complex themselves, or k-space",
}


@dataclass(frozen=True, eq=False)
class Sample:
    """One case as it was read: channels first, the other axes as the space orders them.

    Attributes:
        id: the case's name, unique in its data set; it names every output file.
        image: values in the file's own scale (slope and intercept applied); complex64 where the
            file holds complex numbers.
        space: where the voxels lie, or the pixels of a sphere.
        channels: one name a channel.
        target: label values on the same grid, if the case has a reference.
        landmarks: x and y in pixels of the image from its top left corner, NaN where a node is
            not annotated, if the case has any.
        category: the case's class as an index into the recipe's classes, if it has one.
        subject: the person; cases of one subject never stand on both sides of a split.
        split: train, val, test, or empty.
        sources: channel name to the path it was read from.
        meta: facts of the file that a writer needs to give its geometry back (header codes, units).
    """

    id: str
    image: Num[np.ndarray, " c *space"]
    space: Grid | Sphere
    channels: tuple[str, ...]
    target: Integer[np.ndarray, "*space"] | None = None
    landmarks: Float[np.ndarray, "n 2"] | None = None
    category: int | None = None
    subject: str = ""
    split: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The voxels' grid, for whoever can only go on with an image.

        Raises:
            ValueError: the case is a map of the sphere.
        """
        if isinstance(self.space, Sphere):
            raise ValueError(
                f"case {self.id} is a map of the sphere ({self.space}) where an image is wanted"
            )
        return self.space

    def with_(self, **changes: Any) -> "Sample":  # noqa: ANN401 -- any field
        """The same case with some fields replaced."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one shape, stacked; `present` says which channels each one really has.

    The target is a class a voxel, or one a case. With `complex_parts` the first half of the
    channels are real parts and the second half the imaginary parts of the same complex channels.
    Points are x and y in the unit square that the image covers, NaN where not annotated: landmarks
    node by node, outlines of each organ's mask as closed contours whose points have no number.
    """

    image: "Float[Tensor, 'b c *space']"
    target: "Integer[Tensor, ' b *space'] | None"
    ids: tuple[str, ...]
    present: "Bool[Tensor, 'b c']"
    landmarks: "Float[Tensor, 'b n 2'] | None" = None
    outlines: "Float[Tensor, 'b k m 2'] | None" = None
    complex_parts: bool = False

    def to(self, device: Any) -> "Batch":  # noqa: ANN401 -- torch.device or its name
        """The batch on another device."""
        target, points, lines = (
            None if there is None else there.to(device, non_blocking=True)
            for there in (self.target, self.landmarks, self.outlines)
        )
        return Batch(
            image=self.image.to(device, non_blocking=True),
            target=target,
            ids=self.ids,
            present=self.present.to(device, non_blocking=True),
            landmarks=points,
            outlines=lines,
            complex_parts=self.complex_parts,
        )


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a task makes of a batch: class probabilities and the labels they lead to."""

    probabilities: "Float[Tensor, 'b k *space']"
    labels: "Integer[Tensor, ' b *space']"


def collate(items: Sequence[tuple[Any, ...]]) -> Batch:
    """Stack (image, target or None, id, present[, landmarks, outlines]) of one shape."""
    import torch

    images, targets, ids, present, *points = zip(*items, strict=True)
    return Batch(
        image=torch.stack(images),
        target=None if targets[0] is None else torch.stack(targets),
        ids=tuple(ids),
        present=torch.stack(present),
        landmarks=torch.stack(points[0]) if points else None,
        outlines=torch.stack(points[1]) if points else None,
    )
