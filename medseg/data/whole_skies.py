"""Whole maps of the sphere for training: each item is one map, with labels or a class if any."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.data.patches import Key
from medseg.data.prepared import Prepared, PreparedRecord

Sky = tuple[Tensor, Tensor | None, str, Tensor]


class Skies:
    """Training maps; a key (epoch, position, item) gives the item's.

    Args:
        prepared: what `medseg prepare` wrote of maps of the sphere.
        records: the cases to learn from; all have the same pixels.
    """

    def __init__(self, prepared: Prepared, records: Sequence[PreparedRecord]) -> None:
        self.prepared, self.records = prepared, list(records)
        sizes = {record.shape: record.case for record in self.records}
        if len(sizes) > 1:
            told = " and ".join(f"{n[0]} ({case})" for n, case in list(sizes.items())[:2])
            raise ValueError(
                f"the maps have different numbers of pixels: {told}; a training wants one part of "
                "the sky: set data.footprint=[nside,[pixels]] and data.nside, and prepare again"
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Sky:
        """Image, labels or index of the class or None, case, and present channels."""
        record = self.records[key[2]]
        sample = self.prepared.load(record)
        target = None
        if sample.target is not None:
            target = torch.from_numpy(np.array(sample.target, dtype=np.int64))
        if record.category is not None:
            target = torch.tensor(record.category)
        image = torch.from_numpy(np.array(sample.image, dtype=np.float32))
        present = sample.meta.get("present") or (True,) * len(image)
        return image, target, record.case, torch.tensor(present, dtype=torch.bool)


def check_space(meta: Mapping[str, Any], ndim: int, *, name: str) -> None:
    """Refuse a network of the sphere for images, and one of images for maps of the sphere."""
    if bool(meta.get("nside")) == (ndim == 1):
        return
    if ndim == 1:
        raise ValueError(
            f"model={name} sees maps of the sphere, and the prepared data are images; choose "
            "another network, e.g. model=unet, or data on the sphere"
        )
    raise ValueError(
        f"the prepared data are maps of the sphere, and model={name} sees images; choose "
        "model=spherenet, or model=skyreconnet task=inpaint"
    )
