"""The networks of one call on one device: what predict hands to a task, whatever the task is."""

import itertools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num

from medseg import package
from medseg.data.classes import centred, flat
from medseg.data.table import coarsest_axis
from medseg.geometry.frame import Frame
from medseg.geometry.resample import Passage
from medseg.geometry.sphere import Regrid
from medseg.inference import (
    BATCH_SIZE,
    Found,
    Member,
    Wish,
    fit,
    half,
    keep_largest,
    segment,
    sky_maps,
    whole_sky,
)
from medseg.package import Package
from medseg.windows import OVERLAP, Tiling


def load(model: str, device: str, *, options: Mapping[str, Any]) -> list[Package]:
    """Models that agree on what goes in and what comes out.

    `model` is a model folder, a folder of these, or `method:NAME`, which takes its arguments from
    those of `options` that it knows.
    """
    kind, colon, stem = model.partition(":")
    if kind == "method" and colon:
        one = package.method(stem, options)
        one.network.to(device)
        return [one]
    packages = [package.load(folder, device) for folder in package.find(Path(model))]
    first = packages[0]
    agree = ("task", "channels", *getattr(package.task(first.spec), "AGREE", ()))
    for other in packages:
        for key in agree:
            mine, its = first.spec.get(key), other.spec.get(key)
            if json.dumps(mine) != json.dumps(its):
                raise ValueError(
                    f"the models of an ensemble must agree on {key}: {first.folder} has {mine}, "
                    f"{other.folder} has {its}; give models of one recipe"
                )
    return packages


def wanted(one: Package) -> tuple[str, ...]:
    """The files that a case may have: the model's channels, and what its task takes beside them."""
    extras = getattr(package.task(one.spec), "EXTRAS", ())
    return (*one.channels, *(name for name in extras if name not in one.channels))


@dataclass
class Ensemble:
    """One model or several that agree, and how to apply them.

    Attributes:
        packages: the models; their networks are `package.network`.
        device: where they are; the processor from then on if a card proves too small.
        batch_size: windows at a time; None is the usual number.
        limit: bytes to stay below.
        folder: where scores that do not fit into memory may lie.
        progress: is told the share of a case that was done since it was told last.
    """

    packages: Sequence[Package]
    device: str = "cpu"
    batch_size: int | None = None
    limit: int | None = None
    folder: Path | None = None
    progress: Callable[[float], object] = lambda share: share

    @property
    def spec(self) -> Mapping[str, Any]:
        """The first model's `model.json`."""
        return self.packages[0].spec

    def segment(
        self,
        image: Float[np.ndarray, " c *s"],
        passage: Passage | Frame | Regrid,
        *,
        single: Sequence[int] = (),
        mirror: bool = False,
        uncertainty: bool = False,
        probabilities: bool = False,
    ) -> dict[str, Num[np.ndarray, "..."] | None]:
        """Labels and maps of a prepared volume by windows, on the scan's own grid.

        Of the classes in `single` only the largest connected piece is kept. Maps of the sphere are
        seen whole, and `single` and `mirror` do not act on them.
        """
        if isinstance(passage, Regrid):
            shares = self._on_sphere(image, passage)
            return sky_maps(shares, uncertainty=uncertainty, probabilities_too=probabilities)
        members = [self._member(one, passage) for one in self.packages]
        wish = Wish(
            device=self.device,
            batch_size=self.batch_size or BATCH_SIZE,
            mirror=mirror,
            uncertainty=uncertainty,
            probabilities=probabilities,
            progress=self.progress,
        )
        n_classes = len(self.packages[0].labels) + 1
        if self.limit is not None:
            counts = (image.shape[0], n_classes)
            folder = self.folder or Path()
            wish = fit(members, passage, counts=counts, wish=wish, limit=self.limit, folder=folder)

        def run(wish: Wish) -> Found:
            return segment(members, image, passage=passage, n_classes=n_classes, wish=wish)

        try:
            found = run(wish)
        except torch.OutOfMemoryError:
            if self.device == "cpu":
                raise
            self.leave_card()
            found = run(replace(wish, device="cpu", batch_size=1))
        frames = found.probabilities
        return {
            "labels": keep_largest(found.labels, single, passage=passage),
            "entropy": found.entropy,
            "probabilities": None if frames is None else frames.transpose(1, 2, 3, 0),
        }

    def _on_sphere(
        self, image: Float[np.ndarray, "c m"], passage: Regrid
    ) -> Float[np.ndarray, "k n"]:
        """Probabilities of the networks together on the map's own pixels."""
        return passage.back(self._of_each([image] * len(self.packages), whole_sky).mean(0))

    def regress(
        self, images: Float[np.ndarray, "s c m"], passage: Regrid
    ) -> Float[np.ndarray, "s k n"]:
        """Each network's numbers of its own version of a map, on the map's own pixels.

        NaN stands where the working pixels have none.
        """
        return np.stack([passage.back(one) for one in self._of_each(images, _numbers)])

    def _of_each(
        self, images: Sequence[np.ndarray] | np.ndarray, apply: Callable[..., torch.Tensor]
    ) -> Float[np.ndarray, "s k m"]:
        """What `apply` makes of each network and its map of the sphere."""
        pairs = list(zip(self.packages, map(torch.from_numpy, images), strict=True))
        try:
            found = [apply(one.network, batch.to(self.device)).cpu() for one, batch in pairs]
        except torch.OutOfMemoryError:
            if self.device == "cpu":
                raise
            self.leave_card()
            found = [apply(one.network, batch) for one, batch in pairs]
        self.progress(1.0)
        return torch.stack(found).numpy()

    def classify(
        self,
        image: Float[np.ndarray, " c *space"],
        passage: Passage | Frame | Regrid,
        *,
        mirror: bool = False,
    ) -> Float[np.ndarray, "m k"]:
        """Each network's class probabilities of a prepared volume, seen about its centre."""
        try:
            return np.stack([self._shares(one, image, passage, mirror) for one in self.packages])
        except torch.OutOfMemoryError:
            if self.device == "cpu":
                raise
            self.leave_card()
            return np.stack([self._shares(one, image, passage, mirror) for one in self.packages])
        finally:
            self.progress(1.0)

    @torch.no_grad()
    def _shares(
        self, one: Package, image: np.ndarray, passage: Passage | Frame | Regrid, mirror: bool
    ) -> Float[np.ndarray, " k"]:
        """One network's class probabilities, averaged over flips if `mirror`."""
        if isinstance(passage, Regrid):
            logits = one.network(torch.from_numpy(image).float()[None].to(self.device))
            return _distribution(logits, one.spec)
        member, spec = self._member(one, passage), one.spec
        size, axis = spec["patch_size"], member.tiling.slice_axis
        seen = flat(torch.from_numpy(image).float(), axis if spec["ndim"] == 2 else None)
        if any(length > wanted for length, wanted in zip(seen.shape[1:], size, strict=True)):
            voxels, middle = (" x ".join(map(str, n)) for n in (seen.shape[1:], size))
            text = f"the image has {voxels} voxels and the network sees the middle {middle} of them"
            warnings.warn(text, stacklevel=2)
        batch = centred(seen, size, outside=member.tiling.outside)[None].to(self.device)
        axes = range(2, batch.ndim)
        flips = [f for n in range(batch.ndim - 1) for f in itertools.combinations(axes, n)]
        views = [batch.flip(flip) for flip in (flips if mirror else flips[:1])]
        return _distribution(torch.cat([member.forward(view).float() for view in views]), spec)

    def leave_card(self) -> None:
        """Go on with the processor, as after a card's OutOfMemoryError."""
        warnings.warn(f"{self.device} is too small; going on with the cpu", stacklevel=2)
        for one in self.packages:
            one.network.to("cpu")
        self.device = "cpu"
        torch.cuda.empty_cache()

    def _member(self, one: Package, passage: Passage | Frame) -> Member:
        """One network and how it sees this scan."""
        spec = one.spec
        axis = spec.get("slice_axis")
        axis = coarsest_axis(passage.native) if axis is None else axis
        overlap = spec.get("overlap")
        tiling = Tiling(
            ndim=spec["ndim"],
            slice_axis=axis,
            patch_size=tuple(spec["patch_size"]),
            stride=one.stride,
            overlap=OVERLAP if overlap is None else overlap,
            outside=0.0 if spec.get("complex_input") else None,
        )
        return Member(half(one.network, spec.get("precision")), tiling, one.network)


@torch.no_grad()
def _numbers(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """A network's own outputs for one map of the sphere."""
    found: torch.Tensor = network(image[None])[0].float()
    if not bool(torch.isfinite(found).all()):
        raise ValueError("the network's output is not finite; its weights or its input are broken")
    return found


def _distribution(logits: torch.Tensor, spec: Mapping[str, Any]) -> Float[np.ndarray, " k"]:
    """Class probabilities of the views of one case, averaged, at the model's temperature."""
    if logits.shape[1:] != (len(spec["classes"]),):
        raise ValueError(
            f"the network made {tuple(logits.shape[1:])} numbers of an image; wanted one a "
            f"class, {len(spec['classes'])}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the network's output is not finite; its weights or its input are broken")
    return (logits.float() / spec["temperature"]).softmax(1).mean(0).cpu().numpy()
