"""Segmentation: one class a voxel, scored by the Dice overlap of whole cases."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg import losses
from medseg.sample import Batch, Prediction

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: Mapping[str, Loss] = {
    "dice": losses.dice,
    "ce": losses.cross_entropy,
    "dice_ce": losses.dice_ce,
}


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
