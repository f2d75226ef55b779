"""Landmarks of organs in radiographs: contours learnt from points, or from masks alone.

Source: Gaggion et al. 2022 (doi:10.1109/TMI.2022.3224660), the coordinate loss with deep
supervision and the latent's divergence; Gaggion et al. 2026 (arXiv:2602.21179), learning from
masks. Differs: squared distances count a hundredfold beside the pixel head's loss; distances to an
outline are taken to its sides; positions are told apart by what is annotated, node by node.
"""

import argparse
import logging
import math
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from medseg import findings, losses
from medseg.data.pictures import numbered, points
from medseg.data.poses import copies
from medseg.delineation import SAMPLES, calibrated, delineate, framed
from medseg.geometry import contour, graph
from medseg.sample import Batch, Sample

log = logging.getLogger(__name__)

FIELDS = ("size", "intensity", "ndim")
AGREE = ("size", "intensity")
OUTPUTS = ("labels", "landmarks.csv", "landmarks.json", "overlay.png", "robustness.csv")

_LEAST = 8
_SQUARE = 100.0
_RASTER = 64
_PX = 1024


class Landmarks:
    """Contours from radiographs.

    Args:
        model: the network; images (rows first) to landmarks in shares of the side.
        organs: contours by name, in the order of the nodes.
        learn: from `landmarks` where nodes are numbered, or from `masks` alone.
        kl: weight of the latent's divergence at the end of training.
        kl_start: the same at the beginning; it grows evenly in the logarithm over the first half.
        pixels: weight of the pixel head, for networks that have one.
        raster: weight of the overlap of drawn contours, from the middle of training on.
        covariance: weight of the likelihood that the covariance head is taught by.
        elasticity: weight of a contour's squared sides, for masks.
        curvature: weight of their squared changes, for masks.
        evenness: weight of their unequal lengths, for masks.
    """

    monitor = "dice"

    def __init__(
        self,
        model: nn.Module,
        organs: Mapping[str, Any],
        *,
        learn: Literal["landmarks", "masks"] = "landmarks",
        kl: float = 1e-5,
        kl_start: float = 1e-6,
        pixels: float = 1.0,
        raster: float = 0.0,
        covariance: float = 0.01,
        elasticity: float = 0.02,
        curvature: float = 0.1,
        evenness: float = 0.01,
    ) -> None:
        if learn not in ("landmarks", "masks"):
            raise ValueError(f"task.learn={learn}; choose landmarks or masks")
        self.model: Any = model
        self.organs = contour.contours(organs)
        self.parts = contour.slices(self.organs)
        if learn == "masks":
            _only_closed(self.organs, model)
        self.learn, self.kl, self.kl_start = learn, kl, kl_start
        self.pixels, self.raster, self.covariance = pixels, raster, covariance
        self.regular = {"elasticity": elasticity, "curvature": curvature, "evenness": evenness}
        self.progress = 0.0

    def begin(self, train: Sequence[Any], *, prepared: Any, whole: Any) -> None:  # noqa: ANN401
        """Before training: the mean shape of the training cases is where contours start from."""
        del whole
        found = [points(prepared, record) for record in train]
        shapes = [landmarks for landmarks, _ in found if bool(torch.isfinite(landmarks).any())]
        if self.learn == "landmarks" and not shapes:
            raise ValueError(
                "no training case has landmarks; give the sheet a column `landmarks`, or learn "
                "from the labels alone: task.learn=masks"
            )
        if self.learn == "masks":
            shapes = [numbered(outlines, self.organs) for _, outlines in found]
        stacked = torch.stack(shapes)
        if hasattr(self.model, "fit_shapes"):
            self.model.fit_shapes(stacked)
        elif hasattr(self.model, "set_mean"):
            mean = stacked.nanmean(0)
            self.model.set_mean(torch.where(mean.isfinite(), mean, 0.5))

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What training makes small."""
        image = rows_first(batch.image)
        encoding = self.model.encode(image)
        noise = torch.randn(encoding.mu.shape, device=image.device, dtype=encoding.mu.dtype)
        shape = self.model.decode(encoding.latent(noise), encoding.maps)
        found = _SQUARE * self._divergence() * losses.kl(encoding.mu, encoding.logvar)
        found = found + (
            self._from_points(shape, batch)
            if self.learn == "landmarks"
            else self._from_masks(shape, batch)
        )
        if self.raster and self.progress > 0.5:
            found = found + self.raster * self._overlap(shape.landmarks, batch)
        if self.pixels and getattr(self.model, "pixels", None) is not None:
            logits = self.model.decode_pixels(encoding.maps)
            found = found + self.pixels * self._pixels(logits, batch)
        return found

    def _divergence(self) -> float:
        """The latent's weight now."""
        if not self.kl:
            return 0.0
        start = min(self.kl_start, self.kl) or self.kl
        return float(start * (self.kl / start) ** min(1.0, 2 * self.progress))

    def _from_points(self, shape: Any, batch: Batch) -> Tensor:  # noqa: ANN401
        """Squared distances of the landmarks and of every position that was looked up at."""
        target = batch.landmarks
        if target is None:
            raise ValueError(f"case {batch.ids[0]} has no landmarks; learn with task.learn=masks")
        found = losses.landmark_mse(shape.landmarks, target)
        for positions in shape.positions:
            wanted = target
            if positions.shape[1] != target.shape[1]:
                wanted = _pooled(self.model.down, target)
            found = found + losses.landmark_mse(positions, wanted)
        found = _SQUARE * found
        if shape.covariance is not None and self.covariance:
            likelihood = losses.gaussian_nll(
                shape.landmarks.detach(), target, covariance=shape.covariance
            )
            found = found + self.covariance * likelihood
        return found

    def _from_masks(self, shape: Any, batch: Batch) -> Tensor:  # noqa: ANN401
        """Distances to the outlines of the masks, of even and smooth contours."""
        coarse = contour.slices(graph.coarse(self.organs))
        total = shape.landmarks.new_zeros(())
        for k, organ in enumerate(self.organs):
            known = self._known(batch)[:, k]
            if not organ.closed or not bool(known.any()):
                continue
            line = batch.outlines[known, k]  # type: ignore[index]
            for number, nodes in enumerate((shape.landmarks, *shape.positions)):
                part = (self.parts if nodes.shape[1] == self._count else coarse)[organ.name]
                mine = nodes[known, part]
                total = total + _SQUARE * losses.contour_distance(mine, line)
                if number == 0:
                    total = total + sum(
                        self._firmness() * weight * getattr(losses, name)(mine)
                        for name, weight in self.regular.items()
                        if weight
                    )
        return total

    def _firmness(self) -> float:
        """How many times its final weight a regulariser has now: thirtyfold at the beginning."""
        return 30.0 ** (1 - min(1.0, 2 * self.progress))

    @property
    def _count(self) -> int:
        return sum(organ.nodes for organ in self.organs)

    def _known(self, batch: Batch) -> Bool[Tensor, "b k"]:
        """Whether somebody outlined the organ in the image; open contours have no outline."""
        if batch.outlines is None:
            raise ValueError(f"case {batch.ids[0]} has no outlines; prepare it with data.organs")
        return batch.outlines.isfinite().flatten(2).all(2)

    def _masks(self, batch: Batch, size: int) -> Float[Tensor, "b k h w"]:
        """How much of each pixel of a raster an organ covers, rows first."""
        if batch.target is None:
            raise ValueError(f"case {batch.ids[0]} has no label; training needs one for each case")
        bits = torch.arange(len(self.organs), device=batch.target.device)
        flags = (batch.target[:, None].int() >> bits[None, :, None, None].int()) & 1
        return interpolate(flags.float(), size=(size, size), mode="area").transpose(2, 3)

    def _overlap(self, landmarks: Tensor, batch: Batch) -> Tensor:
        """One minus the soft Dice of the contours as they would be drawn."""
        masks, known = self._masks(batch, _RASTER), self._known(batch)
        found = []
        for k, organ in enumerate(self.organs):
            here = known[:, k]
            if organ.closed and bool(here.any()):
                drawn = losses.soft_raster(landmarks[here, self.parts[organ.name]], _RASTER)
                found.append(_dice(drawn, masks[here, k]))
        return torch.cat(found).mean() if found else landmarks.sum() * 0.0

    def _pixels(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy and soft Dice of the pixel head; organs that nobody outlined count not."""
        masks, known = self._masks(batch, logits.shape[-1]), self._known(batch)
        if not bool(known.any()):
            return logits.sum() * 0.0
        chosen, wanted = logits[known], masks[known]
        overlap = _dice(chosen.sigmoid(), wanted).mean()
        return binary_cross_entropy_with_logits(chosen, wanted) + overlap

    @torch.no_grad()
    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Mean Dice of the drawn organs; squared error in px² at 1024 where nodes are known."""
        landmarks = self.model(rows_first(batch.image))
        unit = landmarks[0].double().cpu().numpy()
        found: dict[str, float] = {}
        target = None if batch.landmarks is None else batch.landmarks[0].double().cpu().numpy()
        numbered = self.learn == "landmarks"  # nodes learnt from masks have numbers of their own
        if numbered and target is not None and np.isfinite(target).any():
            known = np.isfinite(target)
            found["mse_px2"] = float((((unit - target) * _PX)[known] ** 2).mean())
        found["dice"] = self._dice(unit, target, batch)
        found["loss"] = 1 - found["dice"]
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def _dice(self, unit: np.ndarray, target: np.ndarray | None, batch: Batch) -> float:
        scores = []
        size = batch.image.shape[2]
        flags = None if batch.target is None else batch.target[0].cpu().numpy().T.squeeze()
        for k, organ in enumerate(self.organs):
            part = self.parts[organ.name]
            if not organ.closed:
                continue
            side = size
            if target is not None and np.isfinite(target[part]).all():
                side = _PX
                wanted = contour.rasterise(target[part] * side, (side, side))
            elif flags is not None:
                wanted = (flags >> k & 1).astype(bool)
            else:
                continue
            drawn = contour.rasterise(unit[part] * side, (side, side))
            total = int(drawn.sum() + wanted.sum())
            if wanted.any():
                scores.append(2 * int((drawn & wanted).sum()) / total)
        return float(np.mean(scores)) if scores else 0.0

    def learnt(
        self, train: Iterable[Batch], *, val: Iterable[Batch], device: str
    ) -> dict[str, Any]:
        """What prediction needs beside the weights: organs, size, and what is familiar."""
        del val
        self.model.eval().to(device)
        batches = iter(train)
        first = list(islice(batches, _LEAST))
        if len(first) < _LEAST:
            log.warning("fewer than %d training images: the model gets no quality gate", _LEAST)
            return {}
        seen = copies(chain(first, batches))
        images = ((number, rows_first(one.image).to(device)) for number, one in seen)
        return {"gate": calibrated(images, self.model, organs=self.organs).to_json()}


def _only_closed(organs: Sequence[contour.Contour], model: Any) -> None:  # noqa: ANN401
    """Refuse what masks cannot teach: lines, and the covariance of nodes without numbers."""
    lines = [organ.name for organ in organs if not organ.closed]
    if lines:
        raise ValueError(
            f"task.learn=masks cannot teach the open contour '{lines[0]}', which no mask shows; "
            "leave it out of data.organs or learn from landmarks"
        )
    if getattr(model, "covariance", None) is not None:
        raise ValueError(
            "task.learn=masks cannot teach the covariance of landmarks; set model.covariance=false"
        )


def rows_first(image: Float[Tensor, "b c x y *one"]) -> Float[Tensor, "b c y x"]:
    """An image as its file is shown: rows, then columns; a third axis of one plane is dropped."""
    plane = image[..., 0] if image.ndim == 5 else image
    return plane.transpose(2, 3)


def _pooled(down: Float[Tensor, "m n"], target: Float[Tensor, "b n 2"]) -> Float[Tensor, "b m 2"]:
    """Coarse nodes from fine ones; one whose parts are not all known is not known."""
    known = target.isfinite()
    pooled = down @ torch.where(known, target, 0.0)
    missing = down @ (~known).to(target.dtype)
    return torch.where(missing > 0, math.nan, pooled)


def _dice(found: Float[Tensor, "n h w"], wanted: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    both = (found * wanted).flatten(1).sum(1)
    return 1 - (2 * both + 1e-3) / ((found + wanted).flatten(1).sum(1) + 1e-3)


@runtime_checkable
class Networks(Protocol):
    """What predicting asks of the networks of a call."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The `model.json` that they share."""

    @property
    def packages(self) -> Sequence[Any]:
        """The models; each has its `network`."""

    @property
    def device(self) -> str:
        """Where they are."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be asked of a prediction."""
    add = parser.add_argument
    add("--samples", type=int, default=SAMPLES, metavar="N",
        help=f"draws that uncertainty is taken from ({SAMPLES})")  # fmt: skip
    add("--no-overlay", action="store_true", help="without the picture, for many images")
    add("--robustness", action="store_true",
        help="also CASE_robustness.csv: landmarks under occlusion and other intensity")  # fmt: skip
    add("--reference", metavar="TABLE_OR_FOLDER",
        help="radiographs with known contours, for reverse classification accuracy")  # fmt: skip


_JUDGES: "weakref.WeakKeyDictionary[Any, dict[str, findings.Reverse]]"
_JUDGES = weakref.WeakKeyDictionary()


def _judge(path: str, networks: Networks) -> findings.Reverse:
    """The references of a call, read once: they live as long as its first network."""
    known = _JUDGES.setdefault(networks.packages[0].network, {})
    if path not in known:
        nets = [package.network for package in networks.packages]
        known[path] = findings.Reverse(Path(path), nets, spec=networks.spec, device=networks.device)
    return known[path]


def predict(
    sample: Sample, networks: Networks, *, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Label flags, landmarks, a picture, and what the sidecar says of them."""
    spec = networks.spec
    if options.samples < 2:
        raise ValueError(f"--samples {options.samples}: uncertainty needs at least 2 draws")
    frame, shown = framed(sample, spec, device=networks.device)
    nets = [package.network for package in networks.packages]
    organs = nets[0].organs
    found = delineate(shown, nets, samples=options.samples)
    # rounded as in the table, so that it draws the label exactly
    pixels = frame.to_pixels(found.landmarks).round(4)
    columns, rows, _ = sample.grid.shape
    flags = contour.flags(pixels, organs, shape=(rows, columns))
    made: dict[str, Any] = {"labels": np.ascontiguousarray(flags.T)[..., None]}
    facts = findings.facts(sample, frame, found=found, organs=organs)
    facts["quality"] = findings.verdict(
        sample, shown, found=found, organs=organs, gate=spec.get("gate")
    )
    facts["learn"] = (spec["task"].get("arguments") or {}).get("learn", "landmarks")
    if facts["quality"]["accepted"] is None:
        warnings.warn(facts["quality"]["reasons"][0], stacklevel=2)
    if facts["quality"]["accepted"] is False:
        facts["ctr"] = None
        reasons = "; ".join(facts["quality"]["reasons"])
        warnings.warn(f"do not trust these contours: {reasons}", stacklevel=2)
    if not facts["spacing_known"]:
        text = "the file has no spacing: millimetres count 1 mm a pixel; --spacing-mm tells it"
        warnings.warn(text, stacklevel=2)
    if options.reference:
        judge = _judge(options.reference, networks)
        facts["reverse"] = judge(sample, flags, latent=found.latent)
    made["landmarks.csv"] = findings.table(frame, found, organs=organs)
    made["landmarks.json"] = findings.points(frame, found, organs=organs)
    if not options.no_overlay:
        made["overlay.png"] = findings.picture(
            sample, frame, found=found, organs=organs, facts=facts
        )
    if options.robustness:
        made["robustness.csv"] = findings.robustness(shown, nets, frame=frame, organs=organs)
    return made, facts
