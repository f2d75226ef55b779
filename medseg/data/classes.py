"""Whole cases with the index of their class, as classification reads them for training."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medseg.data.patches import Item, Key
from medseg.data.prepared import Prepared, PreparedRecord


class Classes:
    """Training cases at one size; a key (epoch, position, item) gives the item's.

    Args:
        prepared: what `medseg prepare` wrote, with `classes`.
        records: the cases to learn from; each has a class.
        size: voxels along the axes that the network sees; see `centred`.
        slice_axis: the axis across 2-D slices, of which each case has one; None in 3-D.
    """

    def __init__(
        self,
        prepared: Prepared,
        records: Sequence[PreparedRecord],
        *,
        size: Sequence[int],
        slice_axis: int | None,
    ) -> None:
        self.prepared, self.records = prepared, list(records)
        self.size, self.slice_axis = tuple(size), slice_axis
        self.outside = 0.0 if prepared.meta.get("complex_input") else None
        bare = [record.case for record in self.records if record.category is None]
        if bare:
            more = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
            raise ValueError(
                f"training case {bare[0]}{more} has no class; fill the sheet's column `class` and "
                "prepare the data again"
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Item:
        """Image, index of the class (0-d), case and present channels of one case."""
        record = self.records[key[2]]
        sample = self.prepared.load(record, with_target=False)
        image = torch.from_numpy(np.array(sample.image, dtype=np.float32))
        try:
            seen = flat(image, self.slice_axis)
        except ValueError as error:
            raise ValueError(f"training case {record.case}: {error}") from None
        present = sample.meta.get("present") or (True,) * len(image)
        return (
            centred(seen, self.size, outside=self.outside).contiguous(),
            torch.tensor(record.category),
            record.case,
            torch.tensor(present, dtype=torch.bool),
        )


def flat(image: Float[Tensor, " c *n"], slice_axis: int | None) -> Float[Tensor, " c *s"]:
    """What the network sees of a case: all of it, or its only slice across `slice_axis`."""
    if slice_axis is None:
        return image
    slices = image.shape[slice_axis + 1]
    if slices != 1:
        raise ValueError(
            f"it has {slices} slices and a 2-D network tells one slice's class; take a 3-D one "
            "(model.topology=resnet3d_18), or give each slice a row of its own (the sheet's column "
            "`slices`)"
        )
    return image.squeeze(slice_axis + 1)


def centred(
    image: Float[Tensor, " c *s"], size: Sequence[int], *, outside: float | None = None
) -> Float[Tensor, " c *t"]:
    """The image about its centre at another size: margins are cut, or filled evenly.

    Voxels beyond the image are `outside`, or each channel's smallest value. Where a difference is
    odd, the end loses or gains the further voxel.
    """
    spatial = tuple(range(1, image.ndim))
    floor = image.amin(spatial, keepdim=True) if outside is None else image.new_tensor(outside)
    found = floor.expand(len(image), *size).clone()
    here, there = [slice(None)], [slice(None)]
    for length, wanted in zip(image.shape[1:], size, strict=True):
        count = min(length, wanted)
        first, start = (length - count) // 2, (wanted - count) // 2
        there.append(slice(first, first + count))
        here.append(slice(start, start + count))
    found[tuple(here)] = image[tuple(there)]
    return found
