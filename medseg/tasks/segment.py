"""Segmentation: one class a voxel, scored by the Dice overlap of whole cases."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from medseg import losses
from medseg.data.intensity import normalise
from medseg.geometry.resample import Passage
from medseg.sample import Batch, Prediction, Sample

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: Mapping[str, Loss] = {
    "dice": losses.dice,
    "ce": losses.cross_entropy,
    "dice_ce": losses.dice_ce,
}

FIELDS = ("labels", "spacing_mm", "intensity", "slice_axis", "ndim", "patch_size")
AGREE = ("labels", "instances", "spacing_mm", "intensity")
OUTPUTS = ("labels", "entropy", "probabilities")


class Segment:
    """Class probabilities from images.

    Args:
        model: the network, images to logits.
        n_classes: background included.
        loss: a name, or a function of logits and target that the recipe builds.
    """

    monitor = "dice"

    def __init__(
        self,
        model: nn.Module,
        n_classes: int,
        *,
        loss: Literal["dice_ce", "ce", "dice"] | Loss = "dice_ce",
    ) -> None:
        self.model = model
        self.n_classes = n_classes
        self.criterion = LOSSES[loss] if isinstance(loss, str) else loss

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


@runtime_checkable
class Networks(Protocol):
    """What predicting asks of the networks of a call."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The `model.json` that they share."""

    def segment(
        self,
        image: Float[np.ndarray, "c x y z"],
        passage: Passage,
        *,
        single: Sequence[int],
        mirror: bool,
        uncertainty: bool,
        probabilities: bool,
    ) -> dict[str, Num[np.ndarray, "i j k *n"] | None]:
        """Labels and maps on the scan's own grid."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be asked of a prediction."""
    add = parser.add_argument
    add("--mirror", action="store_true", help="average over mirrored views (slower)")
    add("--uncertainty", action="store_true", help="also CASE_entropy: 0 certain, 1 undecided")
    add(
        "--probabilities", action="store_true", help="also CASE_probabilities, 4-D, a class a frame"
    )


def predict(
    sample: Sample, networks: Networks, *, options: argparse.Namespace
) -> tuple[dict[str, Num[np.ndarray, "i j k *n"] | None], dict[str, Any]]:
    """Labels and maps of one scan, and what its sidecar says of the labels."""
    spec = networks.spec
    passage = Passage.to(sample.space, spec["spacing_mm"] and tuple(spec["spacing_mm"]))
    image, _ = normalise(passage.image(sample.image), spec["intensity"])
    rules = spec.get("postprocess") or {}
    single = [
        index
        for index, name in enumerate(spec["labels"], start=1)
        if (rules.get(name) or {}).get("largest_component")
    ]
    arrays = networks.segment(
        image,
        passage,
        single=single,
        mirror=options.mirror,
        uncertainty=options.uncertainty,
        probabilities=options.probabilities,
    )
    facts = {
        "labels": {name: n for n, name in enumerate(spec["labels"], start=1)},
        "sources": spec["labels"],
        "instances": spec.get("instances", []),
    }
    return arrays, facts
