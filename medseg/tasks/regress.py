"""Regression: channels of maps of the sphere predicted from the others, pixel by pixel.

The network sees every input and learns every target about its mean and in units of its deviation,
both over the known pixels of all training maps. So data.intensity=none keeps what lies in the
inputs' size, which the other methods take out map by map. Pixels whose target is not known take no
part; an input that is not known counts as its mean.
"""

import argparse
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from medseg.data.complex_input import working
from medseg.data.passages import way
from medseg.geometry.sphere import Regrid
from medseg.io.skytable import in_ascii, micro_kelvin
from medseg.sample import Batch, Sample

FIELDS = ("intensity", "ndim", "nside")
AGREE = ("targets", "intensity", "reading", "nside", "footprint")
OUTPUTS = ("regressed", "deviation")

_ROUNDING = 1e-7


class Regress:
    """Numbers from maps.

    Args:
        model: the network, inputs to a map of each target.
        n_classes: how many targets there are.
        loss: mse, or l1, which a few wrong pixels disturb less.
    """

    monitor = "skill"
    of_targets = True

    def __init__(
        self, model: nn.Module, n_classes: int, *, loss: Literal["mse", "l1"] = "mse"
    ) -> None:
        if loss not in ("mse", "l1"):
            raise ValueError(f"task.loss={loss}; choose mse or l1")
        if hasattr(model, "fit"):
            raise ValueError(
                f"{type(model).__name__} is fitted to labels and predicts no numbers; choose "
                "another network for task=regress, e.g. model=spherenet"
            )
        self.model, self.n_targets, self.squared = model, n_classes, loss == "mse"

    def begin(
        self,
        train: Sequence[Any],
        *,
        prepared: Any,  # noqa: ANN401
        whole: functools.partial[Tensor],
    ) -> None:
        """Before training: mean and deviation of each channel over what is known, and units."""
        del whole
        names, meta = prepared.targets, prepared.meta
        if len(names) != self.n_targets or not meta.get("nside"):
            raise ValueError(
                f"the prepared data have {len(names)} targets and task=regress wants "
                f"{self.n_targets} on the sphere; name them in data.targets and prepare again"
            )
        mean, deviation = _statistics(prepared, train)
        units = prepared.load(train[0]).meta["units"]
        self.names = names
        self.scales = {
            name: {"mean": float(mu), "deviation": float(spread), "unit": _unit(units.get(name))}
            for name, mu, spread in zip(prepared.channels, mean, deviation, strict=True)
        }
        for name in names:
            if not self.scales[name]["deviation"]:
                raise ValueError(
                    f"target {name} is {self.scales[name]['mean']:.4g} wherever the training maps "
                    "know it, so that there is nothing to learn; are these the right maps?"
                )
        deviation[deviation == 0] = 1  # an input that is the same everywhere
        self.mean, self.deviation = (torch.from_numpy(row).float() for row in (mean, deviation))
        self.sky = {name: meta[name] for name in ("nside", "footprint", "regrids") if meta[name]}

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What training makes small: errors in units of the targets' deviations."""
        error, _, known = self._compared(batch)
        each = error.square() if self.squared else error.abs()
        return (each * known).sum() / known.sum().clamp_min(1)

    def _compared(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "b k n"], Float[Tensor, "b k n"], Float[Tensor, "b k n"]]:
        """Error and truth about the mean, in deviations and 0 where unknown; 1 where known."""
        mean, deviation = (row.to(batch.image)[:, None] for row in (self.mean, self.deviation))
        known = batch.image[:, -self.n_targets :].isfinite()
        scaled = ((batch.image - mean) / deviation).nan_to_num()
        image, truth = scaled[:, : -self.n_targets], scaled[:, -self.n_targets :]
        error = torch.where(known, self.model(image).float() - truth, 0)
        return error, truth, known.float()

    @torch.no_grad()
    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Of one whole case: the loss, and each target's squared error and power."""
        error, truth, _ = self._compared(batch)
        rows = zip(self.names, error.square().sum((0, 2)), truth.square().sum((0, 2)), strict=True)
        found = {"loss": self.loss(batch)}
        for name, wrong, power in rows:
            found |= {f"error_{name}": wrong, f"power_{name}": power}
        return found

    def joined(self, means: Mapping[str, float]) -> dict[str, float]:
        """Of all cases together: NRMSE about the training's mean, 1 - NRMSE as `skill`, the loss.

        Of several targets also each one's NRMSE.
        """
        errors, powers = ([means[f"{what}_{n}"] for n in self.names] for what in ("error", "power"))
        if not sum(powers):
            raise ValueError(
                "the validation maps know no pixel of a target, or only the training's mean, so "
                "that nothing can be scored; give other maps the split val"
            )
        ratio = (sum(errors) / sum(powers)) ** 0.5
        found = {"loss": means["loss"], "skill": 1 - ratio, "nrmse": ratio}
        if self.n_targets > 1:
            rows = zip(self.names, errors, powers, strict=True)
            found |= {f"nrmse_{name}": (e / p) ** 0.5 for name, e, p in rows if p}
        return found

    def learnt(
        self, train: Iterable[Batch], *, val: Iterable[Batch], device: str
    ) -> dict[str, Any]:
        """What prediction needs beside the weights: the channels' scales, and the maps' pixels."""
        del train, val, device
        return {"targets": list(self.names), "scales": self.scales, **self.sky}


def _statistics(
    prepared: Any,  # noqa: ANN401
    train: Sequence[Any],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Mean and standard deviation of each channel over the known pixels of all training maps.

    A deviation that is but rounding is 0.
    """
    rows = []
    for record in train:
        maps = np.asarray(prepared.load(record).image, dtype=np.float64)
        known = [row[np.isfinite(row)] for row in maps]  # prepare refuses maps that know nothing
        rows.append([(len(row), row.mean(), row.var()) for row in known])
    count, mean, variance = np.moveaxis(np.array(rows), 2, 0)
    share = count / count.sum(0)
    centre = (share * mean).sum(0)
    deviation = np.sqrt((share * (variance + (mean - centre) ** 2)).sum(0))
    return centre, np.where(deviation > _ROUNDING * np.abs(centre), deviation, 0)


def _unit(said: str | None) -> str | None:
    """The unit of a target's numbers: temperatures came in µK, others as they are."""
    if not said:
        return None
    return "uK" if micro_kelvin(said) is not None else in_ascii(said)


@runtime_checkable
class Networks(Protocol):
    """What predicting asks of the networks of a call."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The `model.json` that they share."""

    @property
    def packages(self) -> Sequence[Any]:
        """The models; each has its own `spec`."""

    def regress(
        self, images: Float[np.ndarray, "s c m"], passage: Regrid
    ) -> Float[np.ndarray, "s k n"]:
        """Each network's numbers of its own version of a map, on the map's own pixels."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be asked of a prediction."""
    parser.add_argument("--uncertainty", action="store_true",
        help="also CASE_deviation: how far several models lie apart")  # fmt: skip


def predict(
    sample: Sample, networks: Networks, *, options: argparse.Namespace
) -> tuple[dict[str, Num[np.ndarray, "..."] | None], dict[str, Any]]:
    """The targets' maps on the input's own pixels, and what the sidecar says of them."""
    spec, count = networks.spec, len(networks.packages)
    if not all(one.spec.get("targets") and one.spec.get("scales") for one in networks.packages):
        raise ValueError("model.json names no targets or no scales; package the model again")
    if options.uncertainty and count < 2:
        raise ValueError(
            "--uncertainty tells how far several models lie apart, and here is one; give a folder "
            "of several, or leave it out"
        )
    passage = way(sample, spec)
    assert isinstance(passage, Regrid)  # noqa: S101 -- way sees to it, as ndim is 1
    image, _ = working(sample.image, passage, method=spec["intensity"])
    mean, deviation = _scales(networks, spec["channels"])
    seen = np.nan_to_num((image - mean) / np.where(deviation > 0, deviation, 1))
    mean, deviation = _scales(networks, spec["targets"])
    found = networks.regress(seen.astype(np.float32), passage) * deviation + mean
    units = {name: spec["scales"][name]["unit"] for name in spec["targets"]}
    made = {"regressed": found.mean(0), "deviation": found.std(0) if options.uncertainty else None}
    arrays = {what: None if a is None else a.T.astype(np.float32) for what, a in made.items()}
    return arrays, {"task": "regress", "targets": units, "models": count}


def _scales(
    networks: Networks, names: Sequence[str]
) -> tuple[Float[np.ndarray, "s c 1"], Float[np.ndarray, "s c 1"]]:
    """Mean and deviation of the channels in each network's training."""
    told = [[package.spec["scales"][name] for name in names] for package in networks.packages]
    mean, deviation = (
        np.array([[one[what] for one in own] for own in told], dtype=np.float64)[..., None]
        for what in ("mean", "deviation")
    )
    return mean, deviation
