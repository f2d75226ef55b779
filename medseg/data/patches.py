"""Training patches: which slice or volume, and which piece of it, drawn anew for each epoch.

What is drawn depends on (seed, epoch, position) alone, so neither workers, nor the number of
processes, nor an interruption changes what a network sees.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor

Key = tuple[int, int, int]
Item = tuple[Tensor, Tensor, str, Tensor]

_VOXELS = 20_000


@dataclass(frozen=True, eq=False)
class Case:
    """A case to cut from: its arrays (perhaps mapped from disk) and which channels are real."""

    id: str
    image: Float[np.ndarray, "c x y z"]
    target: Integer[np.ndarray, "x y z"]
    present: tuple[bool, ...]


def generator(*parts: int) -> Generator:
    """A generator that depends on every one of some numbers, and on their order."""
    words = np.random.SeedSequence([p & 0xFFFFFFFF for p in parts]).generate_state(2, np.uint32)
    return Generator().manual_seed((int(words[0]) << 32 | int(words[1])) >> 1)


class Patches:
    """Pieces of one size; a key (epoch, position, item) always gives the same piece.

    Args:
        load: makes the case of a number; it is asked again for every patch, so it maps files.
        items: case number and slice (2-D) or None (3-D), what one pass goes through.
        size: voxels of a patch along the axes that the network sees.
        slice_axis: the axis across 2-D patches; None for 3-D ones.
        foreground: share of the patches that hold a voxel of a class drawn first.
        seed: of the whole training.
        outside: what fills a patch beyond the volume; none is each channel's smallest value.
    """

    def __init__(
        self,
        load: Callable[[int], Case],
        items: Sequence[tuple[int, int | None]],
        *,
        size: Sequence[int],
        slice_axis: int | None,
        foreground: float,
        seed: int,
        outside: float | None = None,
    ) -> None:
        self.outside = outside
        self.load, self.items, self.size = load, list(items), tuple(size)
        self.slice_axis, self.foreground, self.seed = slice_axis, foreground, seed
        self._places: dict[int, list[np.ndarray]] = {}
        self._floors: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Item:
        """The patch of a key: image, target, its case and the channels that are real."""
        epoch, position, item = key
        source = generator(self.seed, epoch, position)
        number, index = self.items[item]
        case = self.load(number)
        centre: Sequence[int] | None = None
        if float(torch.rand((), generator=source)) < self.foreground:
            centre = self._labelled(number, case, source)
        if centre is not None and self.slice_axis is not None:
            index = centre[self.slice_axis]
        image, target = self._flat(case, index)
        if centre is not None:
            centre = [v for axis, v in enumerate(centre) if axis != self.slice_axis]
        start = [
            _start(length, size, None if centre is None else centre[axis], source)
            for axis, (length, size) in enumerate(zip(target.shape, self.size, strict=True))
        ]
        floor = self._floor(number, case)
        return (
            torch.from_numpy(_cut(image, start, self.size, floor)),
            torch.from_numpy(_cut(target[None], start, self.size, np.zeros(1))[0]).to(torch.uint8),
            case.id,
            torch.tensor(case.present, dtype=torch.bool),
        )

    def _flat(self, case: Case, index: int | None) -> tuple[np.ndarray, np.ndarray]:
        if self.slice_axis is None or index is None:
            return case.image, case.target
        where = (slice(None),) * self.slice_axis + (index,)
        return case.image[(slice(None), *where)], case.target[where]

    def _labelled(self, number: int, case: Case, source: Generator) -> list[int] | None:
        """A voxel of one of the case's classes, each class as likely as the others."""
        if number not in self._places:
            flat = np.asarray(case.target).ravel()
            found = [np.flatnonzero(flat == k) for k in np.unique(flat[flat > 0])]
            self._places[number] = [f[:: 1 + len(f) // _VOXELS].astype(np.int32) for f in found]
        places = self._places[number]
        if not places:
            return None
        voxels = places[int(torch.randint(len(places), (), generator=source))]
        voxel = int(voxels[int(torch.randint(len(voxels), (), generator=source))])
        return [int(i) for i in np.unravel_index(voxel, case.target.shape)]

    def _floor(self, number: int, case: Case) -> np.ndarray:
        """What fills a patch outside the volume, as in inference."""
        if number not in self._floors:
            low = np.asarray(case.image.min((1, 2, 3)))
            self._floors[number] = low if self.outside is None else np.full_like(low, self.outside)
        return self._floors[number]


def _start(length: int, size: int, centre: int | None, source: Generator) -> int:
    """First voxel along one axis; negative where a short axis is padded evenly."""
    if length <= size:
        return -((size - length) // 2)
    if centre is None:
        return int(torch.randint(length - size + 1, (), generator=source))
    shift = int(torch.randint(-(size // 4), size // 4 + 1, (), generator=source))
    return min(max(centre - size // 2 + shift, 0), length - size)


def _cut(
    array: np.ndarray, start: Sequence[int], size: Sequence[int], floor: np.ndarray
) -> np.ndarray:
    here, there = [slice(None)], [slice(None)]
    for first, count, length in zip(start, size, array.shape[1:], strict=True):
        low, high = max(0, first), min(length, first + count)
        there.append(slice(low, high))
        here.append(slice(low - first, high - first))
    patch = np.empty((len(array), *size), dtype=array.dtype)
    patch[:] = floor.reshape(-1, *[1] * len(size))
    patch[tuple(here)] = array[tuple(there)]
    return patch


class Batches:
    """Keys of the batches of an epoch, for one of `world` processes.

    Items come in shuffled passes; process r takes every world-th one, so together the processes
    see what one process with as many batches would.
    """

    def __init__(
        self, n_items: int, *, steps: int | None, batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        self.n_items, self.batch_size, self.seed = n_items, batch_size, seed
        self.rank, self.world, self.epoch = rank, world, 0
        self.steps = -(-n_items // (batch_size * world)) if steps is None else steps

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose keys come next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        total = self.steps * self.batch_size * self.world
        passes = -(-total // self.n_items)
        source = generator(self.seed, self.epoch, -1)
        order = torch.cat([torch.randperm(self.n_items, generator=source) for _ in range(passes)])
        own = [(self.epoch, n, int(order[n])) for n in range(self.rank, total, self.world)]
        for step in range(self.steps):
            yield own[step * self.batch_size : (step + 1) * self.batch_size]
