"""Segmentation: one class a voxel, scored by the Dice overlap of whole cases."""

import argparse
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from medseg import losses
from medseg.data.complex_input import origin, working
from medseg.data.passages import way
from medseg.geometry.frame import Frame
from medseg.geometry.resample import Passage
from medseg.geometry.sphere import Regrid, Sphere
from medseg.sample import Batch, Prediction, Sample

Loss = Callable[[Tensor, Tensor], Tensor]
Whole = functools.partial[Float[Tensor, " k *space"]]
LOSSES: Mapping[str, Loss] = {
    "dice": losses.dice,
    "ce": losses.cross_entropy,
    "dice_ce": losses.dice_ce,
}

FIELDS = ("labels", "spacing_mm", "intensity", "slice_axis", "ndim", "patch_size")
AGREE = ("labels", "instances", "spacing_mm", "intensity", "complex_input", "reading", "nside")
OUTPUTS = ("labels", "entropy", "probabilities", "magnitude", "phase", "robustness.npz")


class Segment:
    """Class probabilities from images.

    Args:
        model: the network, images to logits.
        n_classes: background included.
        loss: a name, or a function of logits and target that the recipe builds.
        clean_up: whether of each structure only the largest piece is kept: `auto` where that
            betters the validated Dice, `always`, or `never`.
    """

    monitor = "dice"

    def __init__(
        self,
        model: nn.Module,
        n_classes: int,
        *,
        loss: Literal["dice_ce", "ce", "dice"] | Loss = "dice_ce",
        clean_up: Literal["auto", "always", "never"] = "auto",
    ) -> None:
        if clean_up not in ("auto", "always", "never"):
            raise ValueError(f"task.clean_up={clean_up}; choose auto, always or never")
        self.clean_up = clean_up
        self.model = model
        self.n_classes = n_classes
        self.criterion = LOSSES[loss] if isinstance(loss, str) else loss

    def begin(self, train: Sequence[Any], *, prepared: Any, whole: Whole) -> None:  # noqa: ANN401
        """Before training: which data there are, and how whole cases are predicted."""
        del train
        self.prepared, self.whole = prepared.meta, whole

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """The metrics of one whole case, predicted by windows as in prediction."""
        probabilities = self.whole(self.model, batch.image[0])[None]
        return self.metrics(Prediction(probabilities, probabilities.argmax(1)), batch)

    def learnt(
        self, train: Iterable[Batch], *, val: Iterable[Batch], device: str
    ) -> dict[str, Any]:
        """What prediction needs beside the weights: the labels, and which pieces to keep."""
        del train
        labels, instances = self.prepared["labels"], self.prepared["instances"]
        index = {n: k for k, n in enumerate(labels, 1) if n not in instances}
        network = self.model.eval().to(device)
        if self.prepared.get("nside"):
            return self._of_sphere(labels)
        gains = dict.fromkeys(index.values(), 1.0 if self.clean_up == "always" else 0.0)
        if self.clean_up == "auto":
            gains = gain_of_largest(network, self.whole, cases=val, classes=list(index.values()))
        single = {n for n, k in index.items() if gains.get(k, 0.0) > 0}
        return {
            "labels": labels,
            "instances": instances,
            "overlap": self.whole.keywords["overlap"],
            "postprocess": {name: {"largest_component": name in single} for name in labels},
        }

    def _of_sphere(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        """Maps of the sphere are seen whole, and none of a structure's pieces is left out."""
        if self.clean_up == "always":
            raise ValueError("task.clean_up=always is for images; leave it out on the sphere")
        kept = ("nside", "footprint", "regrids")
        sky = {name: self.prepared[name] for name in kept if self.prepared.get(name)}
        return {"labels": labels, "instances": self.prepared["instances"], **sky}

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What training makes small."""
        return self.criterion(self.model(batch.image), self._target(batch))

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities and the most probable class."""
        probabilities = self.model(batch.image).float().softmax(1)
        return Prediction(probabilities, probabilities.argmax(1))

    def metrics(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Loss and mean foreground Dice of whole cases; a class absent from both is left out.

        The loss takes logarithms of probabilities for logits, which softmax leaves as they are.
        """
        target = self._target(batch)
        logits = prediction.probabilities.clamp_min(1e-8).log()
        classes = torch.arange(1, self.n_classes, device=target.device)
        found = prediction.labels.flatten(1)[:, None] == classes[None, :, None]
        there = target.flatten(1)[:, None] == classes[None, :, None]
        sizes = found.sum(2) + there.sum(2)
        score = 2 * (found & there).sum(2) / sizes.clamp_min(1)
        mean = score[sizes > 0].mean() if bool((sizes > 0).any()) else score.new_ones(())
        return {"loss": self.criterion(logits, target), "dice": mean}

    def _target(self, batch: Batch) -> Tensor:
        if batch.target is None:
            raise ValueError(f"case {batch.ids[0]} has no label; training needs one for each case")
        return batch.target


def gain_of_largest(
    network: nn.Module,
    whole: Callable[[nn.Module, Tensor], Tensor],
    *,
    cases: Iterable[Batch],
    classes: Sequence[int],
) -> dict[int, float]:
    """How much the mean Dice of each class grows if only its largest piece is kept.

    Pieces are counted as in prediction, where corners connect; a class in no case is left out.
    """
    gains: dict[int, list[float]] = {k: [] for k in classes}
    for case in cases if classes else ():
        if case.target is None:
            continue
        device = next(iter(network.state_dict().values())).device
        labels = whole(network, case.image[0].to(device)).argmax(0).cpu().numpy()
        target = case.target[0].numpy()
        for k in classes:
            found, there = labels == k, target == k
            if there.any() or found.any():
                gains[k].append(_dice(_largest(found), there) - _dice(found, there))
    return {k: sum(g) / len(g) for k, g in gains.items() if g}


def _largest(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import generate_binary_structure, label

    pieces, count = label(mask, structure=generate_binary_structure(3, 3))
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept: np.ndarray = pieces == int(sizes.argmax())
    return kept


def _dice(found: np.ndarray, there: np.ndarray) -> float:
    return 2 * float((found & there).sum()) / max(1.0, float(found.sum() + there.sum()))


@runtime_checkable
class Networks(Protocol):
    """What predicting asks of the networks of a call."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The `model.json` that they share."""

    def segment(
        self,
        image: Float[np.ndarray, " c *space"],
        passage: Passage | Frame | Regrid,
        *,
        single: Sequence[int],
        mirror: bool,
        uncertainty: bool,
        probabilities: bool,
    ) -> dict[str, Num[np.ndarray, "..."] | None]:
        """Labels and maps on the scan's own grid."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be asked of a prediction."""
    add = parser.add_argument
    add("--mirror", action="store_true", help="average over mirrored views (slower)")
    add("--robustness", action="store_true",
        help="also labels under occlusion and other intensity, for radiographs")  # fmt: skip
    add("--uncertainty", action="store_true", help="also CASE_entropy: 0 certain, 1 undecided")
    add(
        "--probabilities", action="store_true", help="also CASE_probabilities, 4-D, a class a frame"
    )


def _robustness(
    image: Float[np.ndarray, " c *space"],
    networks: Networks,
    *,
    passage: Passage | Frame | Regrid,
    single: Sequence[int],
) -> bytes:
    """Labels in the working square under every perturbation, as a compressed array file."""
    from medseg.delineation import perturbed

    if not isinstance(passage, Frame):
        raise ValueError("--robustness is for radiographs (data.size); leave it out for volumes")
    about, found = [], []
    plane = torch.from_numpy(image[None, ..., 0]).transpose(2, 3)
    for kind, level, number, changed in perturbed(plane):
        seen = changed[0].transpose(1, 2)[..., None].contiguous().numpy()
        arrays = networks.segment(
            seen, passage, single=single, mirror=False, uncertainty=False, probabilities=False
        )
        about.append((kind, level, number))
        found.append(passage.labels(np.asarray(arrays["labels"]))[..., 0].T)
    stream = io.BytesIO()
    kinds, levels, numbers = (np.array(part) for part in zip(*about, strict=True))
    np.savez_compressed(stream, kind=kinds, level=levels, repeat=numbers, labels=np.stack(found))
    return stream.getvalue()


def predict(
    sample: Sample, networks: Networks, *, options: argparse.Namespace
) -> tuple[dict[str, Num[np.ndarray, "..."] | bytes | None], dict[str, Any]]:
    """Labels and maps of one scan, and what its sidecar says of the labels."""
    spec = networks.spec
    passage = way(sample, spec)
    image, _ = working(
        sample.image,
        passage,
        method=spec["intensity"],
        definition=spec.get("complex_input"),
        slice_axis=spec.get("slice_axis"),
    )
    rules = spec.get("postprocess") or {}
    single = [
        index
        for index, name in enumerate(spec["labels"], start=1)
        if (rules.get(name) or {}).get("largest_component")
    ]
    arrays: dict[str, Any] = networks.segment(
        image,
        passage,
        single=single,
        mirror=options.mirror,
        uncertainty=options.uncertainty,
        probabilities=options.probabilities,
    )
    if isinstance(sample.space, Sphere):
        arrays["labels"][~np.isfinite(sample.image).all(0)] = 0  # background where nothing is known
    if sample.meta.get("reconstructed"):
        arrays |= {"magnitude": np.abs(sample.image[0]), "phase": np.angle(sample.image[0])}
    if getattr(options, "robustness", False):
        arrays["robustness.npz"] = _robustness(image, networks, passage=passage, single=single)
    facts = {
        "labels": {name: n for n, name in enumerate(spec["labels"], start=1)},
        "sources": spec["labels"],
        "instances": spec.get("instances", []),
        **origin(sample),
    }
    return arrays, facts
