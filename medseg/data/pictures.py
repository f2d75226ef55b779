"""Whole radiographs with their landmarks and outlines, as training and validation read them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medseg.data.patches import Key
from medseg.data.prepared import Prepared, PreparedRecord
from medseg.geometry.contour import Contour, contours, resample, slices

Picture = tuple[Tensor, Tensor, str, Tensor, Tensor, Tensor]


class Pictures:
    """Training cases of a data set with organs; a key (epoch, position, item) gives the item's."""

    def __init__(self, prepared: Prepared, records: Sequence[PreparedRecord]) -> None:
        self.prepared, self.records = prepared, list(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Picture:
        """Image, flags, case, present channels, landmarks and outlines of one case."""
        record = self.records[key[2]]
        sample = self.prepared.load(record)
        if sample.target is None:
            raise ValueError(
                f"training case {record.case} has neither landmarks nor a label; add one"
            )
        image = torch.from_numpy(np.array(sample.image[..., 0], dtype=np.float32))
        flags = torch.from_numpy(np.array(sample.target[..., 0]).astype(np.int32))
        landmarks, outlines = points(self.prepared, record)
        present = torch.tensor(record.present or (True,) * len(image), dtype=torch.bool)
        return image, flags, record.case, present, landmarks, outlines


def points(
    prepared: Prepared, record: PreparedRecord
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "k m 2"]]:
    """Landmarks and outlines of a case in units of the square; NaN where it has none."""
    organs = contours(prepared.meta["organs"])
    path = record.folder / "landmarks.npy"
    nodes = sum(organ.nodes for organ in organs)
    found = np.full((nodes, 2), np.nan, dtype=np.float32)
    if path.is_file():
        found = np.load(path) / np.float32(record.shape[0])
    outlines = np.load(record.folder / "outlines.npy").astype(np.float32)
    return torch.from_numpy(found.astype(np.float32)), torch.from_numpy(outlines)


def numbered(outlines: Float[Tensor, "k m 2"], organs: Sequence[Contour]) -> Float[Tensor, "n 2"]:
    """Nodes along outlines: clockwise on the image from the point above the centre."""
    parts = slices(organs)
    found = torch.full((sum(organ.nodes for organ in organs), 2), math.nan)
    for organ, line in zip(organs, outlines.double().numpy(), strict=True):
        if not np.isfinite(line).all():
            continue
        x, y = (line - line.mean(0)).T
        if (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() < 0:
            line, x, y = line[::-1], x[::-1], y[::-1]
        start = int(np.abs(np.arctan2(x, -y)).argmin())
        nodes = resample(np.roll(line, -start, 0), organ.nodes)
        found[parts[organ.name]] = torch.from_numpy(nodes).float()
    return found
