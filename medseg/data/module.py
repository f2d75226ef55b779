"""The one LightningDataModule: prepared cases in, batches of patches and whole cases out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from medseg.data.classes import Classes
from medseg.data.patches import Batches, Case, Patches, generator
from medseg.data.phase import FourierShift
from medseg.data.pictures import Pictures, points
from medseg.data.prepared import Prepared, PreparedRecord
from medseg.data.skyturns import Turn
from medseg.data.transforms import Chain, Chance, Spatial
from medseg.data.whole_skies import Skies
from medseg.nn.conv import padded, sizes
from medseg.sample import Batch, collate


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn: batches of how many, how many of them an epoch (None: one pass)."""

    batch_size: int
    steps: int | None
    foreground: float
    workers: int
    seed: int


class DataModule(LightningDataModule):
    """Patches of the training cases, whole validation cases one by one.

    Args:
        prepared: what `medseg prepare` wrote.
        train: the records to learn from.
        val: the records to choose the best weights by; may be empty.
        ndim: 2 (slices across `slice_axis`) or 3.
        patch_size: see `patch_size`, which settles it.
        augment: changes training batches on the device that they were moved to.
        sampling: how patches are drawn.
    """

    def __init__(
        self,
        prepared: Prepared,
        train: Sequence[PreparedRecord],
        *,
        val: Sequence[PreparedRecord],
        ndim: int,
        patch_size: Sequence[int],
        augment: Chain,
        sampling: Sampling,
    ) -> None:
        super().__init__()
        _check_moves(prepared.meta, augment)
        self.prepared, self.train, self.val = prepared, list(train), list(val)
        self.slice_axis = slice_axis(prepared) if ndim == 2 else None
        self.augment, self.sampling = augment, sampling
        spacing = self.train[0].spacing_mm
        self.spacing_mm = tuple(s for a, s in enumerate(spacing) if a != self.slice_axis)
        self.complex_parts = bool(prepared.meta.get("complex_input"))
        self.patches = self._items(patch_size)

    def _items(self, patch_size: Sequence[int]) -> Patches | Pictures | Classes | Skies:
        """What training draws from: patches of scans, or whole radiographs, cases or skies."""
        if self.prepared.meta.get("nside"):
            return Skies(self.prepared, self.train)
        if self.prepared.meta.get("organs"):
            return Pictures(self.prepared, self.train)
        if self.prepared.meta.get("classes"):
            axis = self.slice_axis
            return Classes(self.prepared, self.train, size=patch_size, slice_axis=axis)
        cases = range(len(self.train))
        items: list[tuple[int, int | None]] = [(n, None) for n in cases]
        if self.slice_axis is not None:
            items = [(n, s) for n in cases for s in range(self.train[n].shape[self.slice_axis])]
        return Patches(
            Cases(self.prepared, self.train),
            items,
            size=patch_size,
            slice_axis=self.slice_axis,
            foreground=self.sampling.foreground,
            seed=self.sampling.seed,
            outside=outside(self.prepared.meta),
        )

    def steps_per_epoch(self, world: int = 1) -> int:
        """Batches an epoch for each of `world` processes."""
        return len(self._batches(0, world))

    def _world(self) -> int:
        return 1 if self.trainer is None else int(self.trainer.world_size)

    def _batches(self, rank: int, world: int) -> Batches:
        return Batches(
            len(self.patches),
            steps=self.sampling.steps,
            batch_size=self.sampling.batch_size,
            seed=self.sampling.seed,
            rank=rank,
            world=world,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of patches; the epoch is set by the trainer through the sampler."""
        rank = 0 if self.trainer is None else int(self.trainer.global_rank)
        batches = self._batches(rank, self._world())
        return DataLoader(
            cast(Dataset[Any], self.patches),
            batch_sampler=cast(Any, batches),
            collate_fn=collate,
            num_workers=self.sampling.workers,
            persistent_workers=self.sampling.workers > 0,
            pin_memory=self._pins(),
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Whole cases, every world-th one for each process; none where nothing is to validate."""
        if not self.val:
            return []
        rank = 0 if self.trainer is None else int(self.trainer.global_rank)
        places = range(rank, -(-len(self.val) // self._world()) * self._world(), self._world())
        mine = [self.val[n] if n < len(self.val) else None for n in places]
        return [
            DataLoader(
                cast(Dataset[Any], Whole(self.prepared, mine)),
                batch_size=None,
                num_workers=0,
                pin_memory=self._pins(),
            )
        ]

    def _pins(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """A frozen batch, on another device."""
        del dataloader_idx
        return batch.to(device)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training batches; the step and the process say which numbers are drawn."""
        del dataloader_idx
        trainer = self.trainer
        batch = replace(batch, complex_parts=self.complex_parts)
        if trainer is None or not trainer.training or not self.augment.transforms:
            return batch
        source = generator(self.sampling.seed, trainer.global_step, trainer.global_rank, -2)
        return self.augment(batch, Chance(source, self.spacing_mm))


class Cases:
    """Training cases by their number, mapped from disk."""

    def __init__(self, prepared: Prepared, records: Sequence[PreparedRecord]) -> None:
        self.prepared, self.records = prepared, list(records)

    def __call__(self, number: int) -> Case:
        """The case of a number."""
        record = self.records[number]
        sample = self.prepared.load(record)
        if sample.target is None:
            raise ValueError(f"training case {record.case} has no label; add one to the sheet")
        present = sample.meta.get("present") or (True,) * len(sample.image)
        return Case(record.case, sample.image, sample.target, tuple(present))


class Whole:
    """Whole cases as batches of one; a process that has none left gives an empty batch for None."""

    def __init__(self, prepared: Prepared, records: Sequence[PreparedRecord | None]) -> None:
        self.prepared, self.records = prepared, list(records)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Batch]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Batch:
        """The case of a number."""
        record = self.records[number]
        if record is None:
            return Batch(torch.zeros(0, 1, 1, 1, 1), None, (), torch.zeros(0, 1, dtype=torch.bool))
        sample = self.prepared.load(record)
        image = torch.from_numpy(np.array(sample.image, dtype=np.float32))
        target = None
        if sample.target is not None:
            target = torch.from_numpy(np.array(sample.target, dtype=np.int64))[None]
        if sample.category is not None:
            target = torch.tensor([sample.category])
        present = sample.meta.get("present") or (True,) * len(image)
        batch = Batch(image[None], target, (record.case,), torch.tensor([present]))
        if not self.prepared.meta.get("organs"):
            return batch
        landmarks, outlines = points(self.prepared, record)
        return replace(batch, landmarks=landmarks[None], outlines=outlines[None])


def _check_moves(meta: Mapping[str, Any], augment: Chain) -> None:
    """Refuse to move spectra, whose labels lie in the image, and to change targets' values."""
    changing = [name for name, t in augment.transforms.items() if not isinstance(t, Turn)]
    if meta.get("targets") and changing:
        raise ValueError(
            f"data.targets are channels too, and {' and '.join(changing)} of the augmentation "
            "would change their values; set augment=none, or leave these out: "
            + " ".join(f"'~augment.transforms.{name}'" for name in changing)
        )
    if meta.get("complex_input") != "fft" or not meta.get("labels"):
        return
    moving = [n for n, t in augment.transforms.items() if isinstance(t, Spatial | FourierShift)]
    if moving:
        raise ValueError(
            f"data.complex_input=fft trains on spectra, and {' and '.join(moving)} of the "
            "augmentation would move these otherwise than their labels; set augment=none, or "
            "another complex_input"
        )


def outside(meta: Mapping[str, Any]) -> float | None:
    """What lies around an image: zero for complex values, else each channel's smallest value."""
    return 0.0 if meta.get("complex_input") else None


def slice_axis(prepared: Prepared) -> int:
    """The canonical axis across the slices, as `prepare` settled it."""
    axis = prepared.meta.get("slice_axis")
    return 0 if axis is None else int(axis)


def patch_size(
    asked: Sequence[int] | None,
    records: Sequence[PreparedRecord],
    *,
    stride: int | Sequence[int],
    axis: int | None,
) -> list[int]:
    """The size of training patches: as asked, else the largest slice (or case), made to fit.

    Args:
        asked: voxels along each axis that the network sees; each a multiple of the stride.
        records: the training cases.
        stride: what sizes must be multiples of, one number or one an axis.
        axis: the axis across 2-D slices; None in 3-D.
    """
    if len(records[0].shape) == 1:
        return _of_sphere(asked, records)
    plane = [a for a in range(3) if a != axis]
    largest = [max(r.shape[a] for r in records) for a in plane]
    wanted = largest if asked is None else list(asked)
    if len(wanted) != len(plane):
        raise ValueError(
            f"trainer.patch_size={wanted} has {len(wanted)} numbers; "
            f"the network sees {len(plane)} axes, so give {len(plane)}"
        )
    fitting = list(padded([max(1, n) for n in wanted], stride))
    if asked is not None and fitting != wanted:
        strides = list(sizes(stride, len(plane)))
        raise ValueError(
            f"trainer.patch_size={wanted} must be multiples of {strides}; use {fitting}"
        )
    return fitting


def _of_sphere(asked: Sequence[int] | None, records: Sequence[PreparedRecord]) -> list[int]:
    """All pixels of a map of the sphere, which is not cut into patches."""
    if asked is not None:
        raise ValueError(
            f"trainer.patch_size={list(asked)}: maps of the sphere are seen whole; leave it out, "
            "or choose a part of the sky by data.footprint"
        )
    return list(records[0].shape)
