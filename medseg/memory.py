"""How much memory a prediction takes, known before it runs, and what to do where it is too much."""

import os
import re
import resource
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_WORKSPACE = 2.0
_MARGIN = 64 << 20
_FLOAT = 4


def parse_size(text: str) -> int:
    """Bytes of `4G`, `1500M` or `1.5GiB`; powers of 1024."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].upper()] if match else 0
    if size < 1:
        raise ValueError(f"--max-memory is {text!r}; wanted a size such as 4G or 1500M")
    return int(size)


def format_size(count: float) -> str:
    """Bytes as a person writes them, rounded up so that the size given is enough."""
    unit = "G" if count >= 1 << 30 else "M"
    scaled = count / _UNITS[unit]
    return f"{-(-scaled * 10 // 1) / 10:.1f}G" if unit == "G" else f"{int(-(-scaled // 1))}M"


def peak_mb() -> float:
    """The most memory this process has held so far, in MiB."""
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (1 << 20) if sys.platform == "darwin" else usage / 1024


def resident() -> int:
    """Bytes this process holds now; where the system does not say, the most it has held."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return int(peak_mb() * (1 << 20))
    return pages * os.sysconf("SC_PAGE_SIZE")


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that are still referred to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()
        self.alive = self.most = 0

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._meet(tensor.untyped_storage())
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.alive += size
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


def activation_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    """Most bytes of features alive at once when a network without gradients sees `shape`.

    Counted by a run on tensors that have a shape and no memory; the workspace that convolutions
    take on top of their inputs and outputs comes in as a factor.
    """
    state = {k: v.to("meta") for k, v in [*network.named_parameters(), *network.named_buffers()]}
    with torch.no_grad(), _Live() as live:
        torch.func.functional_call(network, state, (torch.empty(*shape, device="meta"),))
    return int(live.most * _WORKSPACE)


@dataclass(frozen=True)
class Load:
    """What a prediction needs in memory, in voxels and classes; see `choose`.

    `held` bytes are taken already. `members` networks hold `depth` planes of their sums each.
    `spillable` says that the working scores may lie in a file, `whole` that all native scores are
    wanted at once.
    """

    held: int
    n_classes: int
    working: int
    native: int
    planes: int
    members: int
    spillable: bool
    stored: bool
    whole: bool
    activations: Callable[[int], int]

    def bytes(self, batch_size: int, *, spill: bool) -> int:
        """The estimated peak for a batch size, with the scores in memory or in a file."""
        scores = self.n_classes * self.working * _FLOAT if self.stored and not spill else 0
        sums = 3 * self.members * self.n_classes * self.planes * _FLOAT
        walking = scores + sums + self.activations(batch_size)
        leaving = scores + self.working * _FLOAT + 3 * self.native * _FLOAT
        if self.whole:
            leaving += 2 * self.n_classes * self.native * _FLOAT
        return self.held + _MARGIN + 2 * self.native + max(walking, leaving)


def choose(load: Load, *, limit: int | None, batch_size: int) -> tuple[int, bool]:
    """Batch size, and whether to keep the scores in a file, so that the peak stays below `limit`.

    Smaller batches come first, the file second: both give the same labels. Where neither is enough
    the error names the size that would be.
    """
    if limit is None:
        return batch_size, False
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    for spill in (False, True) if load.spillable else (False,):
        for size in sizes:
            if load.bytes(size, spill=spill) <= limit:
                return size, spill
    least = load.bytes(1, spill=load.spillable)
    cure = f"--max-memory {format_size(least)} would do"
    if load.whole:
        cure += ", or leave --probabilities out"
    raise ValueError(
        f"the prediction needs about {format_size(least)} of memory and --max-memory allows "
        f"{format_size(limit)}; {cure}"
    )


class Scores:
    """Class probabilities of a volume, written slab by slab and read class by class.

    Held in memory, or in a nameless temporary file of `folder` that vanishes with the process.
    """

    def __init__(
        self, n_classes: int, shape: tuple[int, int, int], *, axis: int, folder: Path | None = None
    ) -> None:
        self.n_classes, self.shape, self.axis = n_classes, shape, axis
        self._walked = (shape[axis], *(n for a, n in enumerate(shape) if a != axis))
        if folder is None:
            self._array = np.empty((n_classes, *self._walked), dtype=np.float32)
            self._file = None
        else:
            self._array = np.empty((0, *self._walked), dtype=np.float32)
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".part-")  # noqa: SIM115

    def write(self, start: int, part: Float[np.ndarray, "k x y z"]) -> None:
        """Keep a slab whose first plane along the axis is `start`."""
        slab = np.moveaxis(part, self.axis + 1, 1)
        if self._file is None:
            self._array[:, start : start + slab.shape[1]] = slab
            return
        length, *plane = self._walked
        for index, volume in enumerate(slab):
            self._file.seek((index * length + start) * plane[0] * plane[1] * _FLOAT)
            self._file.write(np.ascontiguousarray(volume, dtype=np.float32).data)

    def __iter__(self) -> Iterator[Float[np.ndarray, "x y z"]]:
        count = int(np.prod(self._walked))
        for index in range(self.n_classes):
            if self._file is None:
                volume = self._array[index]
            else:
                self._file.seek(index * count * _FLOAT)
                raw = self._file.read(count * _FLOAT)
                volume = np.frombuffer(raw, dtype=np.float32).reshape(self._walked)
            yield np.moveaxis(volume, 0, self.axis)

    def close(self) -> None:
        """Give the memory or the file back."""
        self._array = self._array[:0]
        if self._file is not None:
            self._file.close()
