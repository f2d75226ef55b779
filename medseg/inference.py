"""From a prepared volume to class probabilities: windows, mirrored views, ensembles.

A volume is walked along one axis. What no later window can touch is finished and leaves at once as
a slab, so that the whole (class, x, y, z) tensor need never exist.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from medseg.geometry.frame import Frame
from medseg.geometry.resample import Passage
from medseg.memory import Load, Scores, activation_bytes, choose, resident
from medseg.precision import FULL, exact, half_type
from medseg.windows import OVERLAP, Slab, Start, Tiling, Total, cut, slab_axis

Forward = Callable[[Tensor], Tensor]

BATCH_SIZE = 4


def sliding_window(
    network_fn: Forward,
    image: Float[Tensor, "c x y z"],
    *,
    n_classes: int,
    ndim: int,
    slice_axis: int | None,
    patch_size: Sequence[int],
    stride: int | Sequence[int] = 1,
    overlap: float = OVERLAP,
    batch_size: int = BATCH_SIZE,
    mirror: bool = False,
    outside: float | None = None,
) -> Float[Tensor, "k x y z"]:
    """Class probabilities of a volume that fits into memory, on the image's device.

    `network_fn` takes windows "b c *s" to logits "b k *s"; put it in evaluation mode first, then
    the result does not depend on the batch size. `mirror` averages over all flips of the window;
    `outside` is what lies around the volume, by default each channel's smallest value.
    """
    sizes = (stride,) * ndim if isinstance(stride, int) else tuple(stride)
    tiling = Tiling(ndim, slice_axis or 0, tuple(patch_size), sizes, overlap, outside)
    out = torch.empty((n_classes, *image.shape[1:]), device=image.device)
    axis = slab_axis(tiling, image.shape[1:])
    walk = slabs(
        network_fn, image, tiling=tiling, n_classes=n_classes, axis=axis, batch_size=batch_size,
        mirror=mirror,
    )  # fmt: skip
    for start, part in walk:
        out.narrow(axis + 1, start, part.shape[axis + 1]).copy_(part)
    return out


def slabs(
    forward: Forward,
    image: Float[Tensor, "c x y z"],
    *,
    tiling: Tiling,
    n_classes: int,
    axis: int,
    batch_size: int = BATCH_SIZE,
    mirror: bool = False,
    device: Any = None,  # noqa: ANN401 -- torch.device or its name
) -> Iterator[Slab]:
    """Probabilities in finished pieces along `axis`: (first voxel, "k x y z"), one after the other.

    Windows are computed on `device` (default: the image's), which then holds one window's depth of
    the result.
    """
    shape = (image.shape[1], image.shape[2], image.shape[3])
    size = tiling.window(shape)
    device = torch.device(device or image.device)
    total = Total(n_classes, shape, tiling=tiling, axis=axis, device=device)
    todo = _route(tiling.starts(shape), axis)
    fill = tiling.fill(image)
    while todo:
        batch = todo[:batch_size]
        windows = torch.stack([cut(image, s, size=size, fill=fill) for s in batch]).to(device)
        try:
            found = _probabilities(forward, windows, tiling, n_classes, mirror=mirror)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size = max(1, len(batch) // 2)
            warnings.warn(
                f"{device} ran out of memory; going on with {batch_size} windows at a time",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        for start, part in zip(batch, found, strict=True):
            total.add(start, part)
        todo = todo[len(batch) :]
        yield from total.finish(max(0, todo[0][axis]) if todo else shape[axis])


def _route(starts: Sequence[Sequence[int]], axis: int) -> list[Start]:
    """All windows' first voxels, those that come first along `axis` first."""
    order = [axis, *(a for a in range(3) if a != axis)]
    found = itertools.product(*(starts[a] for a in order))
    x, y, z = (order.index(a) for a in range(3))
    return [(start[x], start[y], start[z]) for start in found]


@torch.no_grad()
def _probabilities(
    forward: Forward,
    windows: Float[Tensor, "b c x y z"],
    tiling: Tiling,
    n_classes: int,
    *,
    mirror: bool,
) -> Float[Tensor, "b k x y z"]:
    """Softmax of the logits, averaged over the flips of the axes that the network sees."""
    flat = windows.squeeze(tiling.slice_axis + 2) if tiling.ndim == 2 else windows
    axes = range(2, flat.ndim)
    flips = [f for n in range(flat.ndim - 1) for f in itertools.combinations(axes, n)]
    flips = flips if mirror else flips[:1]
    mean = flat.new_zeros((len(flat), n_classes, *flat.shape[2:]))
    for flip in flips:
        logits = forward(flat.flip(flip) if flip else flat).float()
        if logits.shape != (len(flat), n_classes, *flat.shape[2:]):
            raise ValueError(
                f"the network made {tuple(logits.shape)} of {tuple(flat.shape)}; "
                f"wanted {n_classes} classes on the same grid"
            )
        part = logits.softmax(1)
        mean += part.flip(flip) if flip else part
    mean /= len(flips)
    if not bool(torch.isfinite(mean).all()):
        raise ValueError("the network's output is not finite; its weights or its input are broken")
    return mean.unsqueeze(tiling.slice_axis + 2) if tiling.ndim == 2 else mean


def mean_of(walks: Sequence[Iterator[Slab]], axis: int) -> Iterator[Slab]:
    """The mean of several members' slabs along `axis`, whatever pieces each of them comes in."""
    if len(walks) == 1:
        yield from ((start, part.cpu()) for start, part in walks[0])
        return
    base = 0
    held: list[Tensor | None] = [None] * len(walks)
    while True:
        for n, walk in enumerate(walks):
            if held[n] is None:
                piece = next(walk, None)
                held[n] = None if piece is None else piece[1].cpu()
        ready = [h for h in held if h is not None]
        if len(ready) < len(walks):
            return
        count = min(h.shape[axis + 1] for h in ready)
        mean = torch.stack([h.narrow(axis + 1, 0, count) for h in ready]).mean(0)
        yield base, mean
        base += count
        for n, h in enumerate(ready):
            rest = h.shape[axis + 1] - count
            held[n] = h.narrow(axis + 1, count, rest) if rest else None


def entropy(probabilities: Float[Tensor, " k *s"]) -> Float[Tensor, "*s"]:
    """Uncertainty of each voxel: 0 where one class is certain, 1 where all are equally likely."""
    p = probabilities.clamp_min(torch.finfo(torch.float32).tiny)
    return -(p * p.log()).sum(0) / math.log(max(2, len(p)))


def half(network: Forward, trained: str | None = None) -> Forward:
    """The network in half precision on CUDA; a batch that overflows is computed again in full.

    One that was `trained` in `32-true` is computed in true float32 there as well.
    """

    def forward(windows: Tensor) -> Tensor:
        if windows.device.type != "cuda" or trained == FULL:
            with exact(trained == FULL):
                return network(windows)
        with torch.autocast("cuda", dtype=half_type()):
            logits = network(windows)
        return logits if bool(torch.isfinite(logits).all()) else network(windows)

    return forward


@dataclass(frozen=True, eq=False)
class Member:
    """One network of an ensemble (or the only one), and how it sees a volume.

    `forward` is the network, or a wrapper of it such as `half`.
    """

    forward: Forward
    tiling: Tiling
    network: nn.Module


@dataclass(frozen=True)
class Wish:
    """What is asked of a prediction: how it is made, and which maps come with the labels.

    `spill` is a folder for a temporary file of scores where they would not fit into memory;
    `progress` is told the share of the volume that was done since it was told last.
    """

    device: Any = "cpu"
    batch_size: int = BATCH_SIZE
    mirror: bool = False
    uncertainty: bool = False
    probabilities: bool = False
    spill: Path | None = None
    progress: Callable[[float], object] = lambda share: share


@dataclass(frozen=True, eq=False)
class Found:
    """A prediction on the scan's own grid."""

    labels: Integer[np.ndarray, "i j k"]
    entropy: Float[np.ndarray, "i j k"] | None
    probabilities: Float[np.ndarray, "n i j k"] | None


def segment(
    members: Sequence[Member],
    image: Float[np.ndarray, "c x y z"],
    *,
    passage: Passage | Frame,
    n_classes: int,
    wish: Wish,
) -> Found:
    """Predict a normalised working volume and bring labels and maps back to the native grid.

    Where the working grid has the scan's own spacing, labels are the arg-max of each slab as it
    comes. Else probabilities are interpolated (linearly) before the arg-max, a class at a time.
    """
    shape = passage.working.shape
    resampled = shape != passage.canonical_shape
    axis = slab_axis(members[0].tiling, shape)
    kind = np.uint8 if n_classes <= 256 else np.uint16
    labels = np.zeros(shape if not resampled else (0, 0, 0), dtype=kind)
    doubt = np.zeros(shape if wish.uncertainty else (0, 0, 0), dtype=np.float32)
    kept = n_classes if resampled or wish.probabilities else 0
    scores = Scores(kept, shape, axis=axis, folder=wish.spill)
    source = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    asked = {"batch_size": wish.batch_size, "mirror": wish.mirror, "device": wish.device}
    common: dict[str, Any] = {"n_classes": n_classes, "axis": axis, **asked}
    walks = [slabs(m.forward, source, tiling=m.tiling, **common) for m in members]
    try:
        for start, part in mean_of(walks, axis):
            stop = start + part.shape[axis + 1]
            where = tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))
            if kept:
                scores.write(start, part.numpy())
            if not resampled:
                labels[where] = part.argmax(0).numpy()
            if wish.uncertainty:
                doubt[where] = entropy(part).numpy()
            wish.progress((stop - start) / shape[axis])
        return Found(
            passage.restore_scores(scores) if resampled else passage.restore_labels(labels),
            passage.restore_image(doubt) if wish.uncertainty else None,
            np.stack([passage.restore_image(s) for s in scores]) if wish.probabilities else None,
        )
    finally:
        scores.close()


def fit(
    members: Sequence[Member],
    passage: Passage | Frame,
    *,
    counts: tuple[int, int],
    wish: Wish,
    limit: int,
    folder: Path,
) -> Wish:
    """The wish with a batch size, and scores in a file of `folder`, that keep below `limit` bytes.

    `counts` are channels and classes. On a card only what the processor holds is counted.
    """
    shape = passage.working.shape
    axis = slab_axis(members[0].tiling, shape)
    on_cpu = torch.device(wish.device).type == "cpu"

    def activations(batch_size: int) -> int:
        return max(_live(m, shape, counts, batch_size) for m in members) if on_cpu else 0

    activations(1)  # what counting itself takes is then part of what is held
    resampled = shape != passage.canonical_shape
    deepest = max(m.tiling.window(shape)[axis] for m in members)
    load = Load(
        held=resident(),
        n_classes=counts[1],
        working=math.prod(shape),
        native=math.prod(passage.native.shape),
        planes=min(shape[axis], 2 * deepest + wish.batch_size) * math.prod(shape) // shape[axis],
        members=len(members),
        spillable=resampled and not wish.probabilities,
        stored=resampled or wish.probabilities,
        whole=wish.probabilities,
        activations=activations,
    )
    size, to_file = choose(load, limit=limit, batch_size=wish.batch_size)
    return replace(wish, batch_size=size, spill=folder if to_file else None)


def _live(member: Member, shape: Start, counts: tuple[int, int], batch_size: int) -> int:
    """Bytes of a batch's features and of its probabilities, which exist four times for a moment."""
    n_channels, n_classes = counts
    size = member.tiling.window(shape)
    spatial = [size[a] for a in member.tiling.plane]
    features = activation_bytes(member.network, (batch_size, n_channels, *spatial))
    return features + 16 * batch_size * n_classes * math.prod(size)


def keep_largest(
    labels: Integer[np.ndarray, "i j k"], indices: Sequence[int], *, passage: Passage | Frame
) -> Integer[np.ndarray, "i j k"]:
    """Only the largest connected piece (corners touch) of each of some classes, on the native grid.

    Pieces are counted in canonical axis order, so of two equal ones the same stays however the
    scan is stored.
    """
    if not indices:
        return labels
    from scipy.ndimage import generate_binary_structure, label

    kept = labels.copy()
    turned = passage.orientation.apply(kept)
    for index in indices:
        pieces, count = label(turned == index, structure=generate_binary_structure(3, 3))
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            turned[(pieces > 0) & (pieces != int(sizes.argmax()))] = 0
    return kept


@torch.no_grad()
def whole_sky(
    network: nn.Module, image: Float[Tensor, "c n"], **seen: object
) -> Float[Tensor, "k n"]:
    """Class probabilities of a map of the sphere; what else volumes need (`seen`) plays no part."""
    del seen
    mode = network.training
    network.eval()
    try:
        return network(image[None]).float().softmax(1)[0]
    finally:
        network.train(mode)


def sky_maps(
    probabilities: Float[np.ndarray, "k n"], *, uncertainty: bool, probabilities_too: bool
) -> dict[str, Any]:
    """Labels and what else is asked for of a map's pixels; unknown ones are background."""
    known = np.nan_to_num(probabilities)
    entropy = None
    if uncertainty:
        logs = np.log(np.maximum(known, np.finfo(np.float32).tiny))
        entropy = (-(known * logs).sum(0) / np.log(len(known))).astype(np.float32)
    labels = known.argmax(0).astype(np.uint8)
    shares = known.T.astype(np.float32) if probabilities_too else None
    return {"labels": labels, "entropy": entropy, "probabilities": shares}
