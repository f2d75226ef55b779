"""Classification: one class a case, with probabilities that are calibrated on validation cases.

Source: Guo et al. 2017, arXiv:1706.04599, sec. 4.2 (temperature scaling). Differs: the temperature
is found by bisection, and stays 1 where the validation cases determine none.
"""

import argparse
import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from medseg.data.classes import centred, flat
from medseg.data.classified import predictions, table
from medseg.data.complex_input import origin, stored, working
from medseg.data.passages import way
from medseg.geometry.frame import Frame
from medseg.geometry.resample import Passage
from medseg.geometry.sphere import Regrid
from medseg.metrics import classification
from medseg.provenance import write_text
from medseg.sample import Batch, Prediction, Sample

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]

FIELDS = ("classes", "temperature", "spacing_mm", "intensity", "slice_axis", "ndim", "patch_size")
AGREE = ("classes", "spacing_mm", "intensity", "complex_input", "size", "reading", "nside")
OUTPUTS = ("probabilities.csv",)
TABLE = "predictions.csv"

_HOTTEST = 20.0


class Classify:
    """Class probabilities of whole cases.

    Args:
        model: the network, images to one number a class.
        n_classes: how many classes there are; background is none of them.
        loss: cross-entropy, or a function of logits and target that the recipe builds.
        label_smoothing: share of a case's truth that is spread over all classes.
        balanced: whether a class counts as much as the others, however few its training cases.
    """

    monitor = "balanced_accuracy"
    of_cases = True

    def __init__(
        self,
        model: nn.Module,
        n_classes: int,
        *,
        loss: Literal["ce"] | Loss = "ce",
        label_smoothing: float = 0.0,
        balanced: bool = False,
    ) -> None:
        if n_classes < 2:
            raise ValueError(
                f"n_classes={n_classes}: classification tells two classes or more apart; name them "
                "in data.classes, e.g. data.classes=[glioma,meningioma]"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing}; give a share below 1")
        if loss != "ce" and (label_smoothing or balanced):
            raise ValueError(
                "task.label_smoothing and task.balanced belong to task.loss=ce; a loss of your own "
                "takes such arguments itself"
            )
        self.model, self.n_classes, self.loss_of = model, n_classes, loss
        self.label_smoothing, self.balanced = label_smoothing, balanced
        self.weights: Tensor | None = None

    def begin(
        self,
        train: Sequence[Any],
        *,
        prepared: Any,  # noqa: ANN401
        whole: functools.partial[Tensor],
    ) -> None:
        """Before training: the classes, their weights, and what the network sees of a case."""
        meta = prepared.meta
        names = list(meta.get("classes") or ())
        if len(names) != self.n_classes:
            raise ValueError(
                f"the prepared data have {len(names)} classes and task=classify wants "
                f"{self.n_classes}; name them in data.classes and prepare the data again"
            )
        seen = whole.keywords
        self.classes, self.size = names, list(seen["patch_size"])
        self.slice_axis = seen["slice_axis"] if seen["ndim"] == 2 else None
        self.outside = seen.get("outside")
        self.sky = {n: meta[n] for n in ("nside", "footprint", "regrids") if meta.get(n)}
        counts = np.bincount([r.category for r in train], minlength=self.n_classes)
        lost = [name for name, count in zip(names, counts, strict=True) if not count]
        if lost and self.balanced:
            raise ValueError(
                f"no training case is of class {lost[0]}, so task.balanced=true cannot weigh it; "
                "add cases, or leave the class out of data.classes"
            )
        if lost:
            log.warning("no training case is of class %s", ", ".join(lost))
        if self.balanced:
            self.weights = torch.tensor(len(train) / (self.n_classes * counts)).float()
        self._try(stored(prepared.channels, prepared.meta.get("complex_input")))

    @torch.no_grad()
    def _try(self, channels: int) -> None:
        """Refuse a network that makes something other than one number a class."""
        mode, one = self.model.training, next(iter(self.model.parameters()), torch.zeros(()))
        image = torch.zeros(1, channels, *self.size, device=one.device)
        shape = tuple(self.model.eval()(image).shape)
        self.model.train(mode)
        if shape != (1, self.n_classes):
            raise ValueError(
                f"task=classify wants (1, {self.n_classes}) numbers of one image, and the network "
                f"makes {shape}; choose a network for whole cases, e.g. model=complexresnet"
            )

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What training makes small."""
        return self._loss(self.model(batch.image).float(), _target(batch))

    def _loss(self, logits: Float[Tensor, "b k"], target: Integer[Tensor, " b"]) -> Tensor:
        if callable(self.loss_of):
            return self.loss_of(logits, target)
        weights = None if self.weights is None else self.weights.to(logits.device)
        return cross_entropy(logits, target, weights, label_smoothing=self.label_smoothing)

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities and the most probable class."""
        probabilities = self.model(batch.image).float().softmax(1)
        return Prediction(probabilities, probabilities.argmax(1))

    @torch.no_grad()
    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of one whole case, and its one in the confusion matrix: `<class>_taken_for_<class>`.

        Rates are no means over cases; `joined` makes them of the means of these.
        """
        logits, target = self._logits(batch), _target(batch)
        cell = f"{int(target[0])}_taken_for_{int(logits[0].argmax())}"
        return {"loss": cross_entropy(logits, target), cell: logits.new_ones(())}

    def joined(self, means: Mapping[str, float]) -> dict[str, float]:
        """What the cases' mean numbers amount to: loss, accuracies and macro-F1."""
        table = np.zeros((1, self.n_classes, self.n_classes + 1))
        for name, share in means.items():
            if "_taken_for_" in name:
                true, found = name.split("_taken_for_")
                table[0, int(true), int(found)] = share
        rates = classification.rates(table)
        names = ("balanced_accuracy", "macro_f1", "accuracy")
        return {"loss": means["loss"], **{name: float(rates[name][0]) for name in names}}

    def learnt(
        self, train: Iterable[Batch], *, val: Iterable[Batch], device: str
    ) -> dict[str, Any]:
        """What prediction needs beside the weights: the classes and the temperature."""
        del train
        self.model.eval().to(device)
        cases = [case for case in val if case.target is not None]
        found: dict[str, Any] = {"classes": self.classes, "temperature": 1.0, **self.sky}
        if not cases:
            return found
        with torch.no_grad():
            rows = [self._logits(case.to(device))[0].double().cpu() for case in cases]
        logits = torch.stack(rows).numpy()
        true = torch.cat([_target(case) for case in cases]).numpy()
        best = temperature(logits, true)
        before, after = (_nll(logits / t, true) for t in (1.0, best))
        if after < before:
            found["temperature"] = best
        nll = {"nll": before, "nll_calibrated": min(before, after)}
        return found | {"calibration": {"cases": len(cases), **nll}}

    def _logits(self, batch: Batch) -> Float[Tensor, "1 k"]:
        """Of one whole case, as the network sees it in prediction."""
        seen = centred(flat(batch.image[0], self.slice_axis), self.size, outside=self.outside)
        return self.model(seen[None]).float()


def _target(batch: Batch) -> Integer[Tensor, " b"]:
    if batch.target is None:
        raise ValueError(f"case {batch.ids[0]} has no class; training needs one for each case")
    return batch.target.long()


def temperature(logits: Float[np.ndarray, "n k"], true: Integer[np.ndarray, " n"]) -> float:
    """What logits are divided by so that the cases' mean negative log-likelihood is least.

    From 0.05 to 20; 1 where every case is right, as then the likelihood grows without end.
    """
    if not len(true) or bool((logits.argmax(1) == true).all()):
        return 1.0
    own = logits[np.arange(len(true)), true]

    def slope(cold: float) -> float:
        weights = np.exp(cold * (logits - logits.max(1, keepdims=True)))
        return float(((weights * logits).sum(1) / weights.sum(1) - own).mean())

    low, high = 1 / _HOTTEST, _HOTTEST
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def _nll(logits: Float[np.ndarray, "n k"], true: Integer[np.ndarray, " n"]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    own = shifted[np.arange(len(true)), true]
    return float((np.log(np.exp(shifted).sum(1)) - own).mean())


@runtime_checkable
class Networks(Protocol):
    """What predicting asks of the networks of a call."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The `model.json` that they share."""

    @property
    def packages(self) -> Sequence[Any]:
        """The models; each has its own `spec`."""

    def classify(
        self,
        image: Float[np.ndarray, " c *space"],
        passage: Passage | Frame | Regrid,
        *,
        mirror: bool,
    ) -> Float[np.ndarray, "m k"]:
        """Each network's class probabilities of a working volume."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be asked of a prediction."""
    add = parser.add_argument
    add("--mirror", action="store_true", help="average over mirrored views (slower)")
    add("--uncertainty", action="store_true",
        help="also the entropy: 0 certain, 1 undecided; of several models, how far they disagree",
        )  # fmt: skip


def predict(
    sample: Sample, networks: Networks, *, options: argparse.Namespace
) -> tuple[dict[str, str], dict[str, Any]]:
    """The probabilities of one scan's classes as a table, and what its sidecar says of them."""
    spec = networks.spec
    passage = way(sample, spec)
    image, _ = working(
        sample.image,
        passage,
        method=spec["intensity"],
        definition=spec.get("complex_input"),
        slice_axis=spec.get("slice_axis"),
    )
    members = networks.classify(image, passage, mirror=options.mirror).astype(float)
    found = members.mean(0) / members.mean(0).sum()
    named = dict(zip(spec["classes"], found.tolist(), strict=True))
    heat = [float(package.spec["temperature"]) for package in networks.packages]
    facts: dict[str, Any] = {
        "task": "classify",
        "class": spec["classes"][int(found.argmax())],
        "classes": list(spec["classes"]),
        "probabilities": named,
        "temperature": heat[0] if len(heat) == 1 else heat,
        **origin(sample),
    }
    if options.uncertainty:
        facts["entropy"] = _entropy(found)
        if len(members) > 1:
            own = [_entropy(one) for one in members]
            facts["disagreement"] = max(0.0, facts["entropy"] - sum(own) / len(own))
    return {"probabilities.csv": table([(sample.id, facts)])}, facts


def _entropy(probabilities: Float[np.ndarray, " k"]) -> float:
    """0 where one class is certain, 1 where all are equally likely."""
    some = probabilities[probabilities > 0]
    return float(-(some * np.log(some)).sum() / math.log(len(probabilities))) + 0.0


def gather(folder: Path) -> None:
    """All predictions of a folder in one table, beside the files of the cases."""
    sidecars = predictions(folder)
    if sidecars and TABLE.removesuffix(".csv") not in sidecars:
        write_text(folder / TABLE, table(sidecars.items()))
