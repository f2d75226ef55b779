"""Inpainting: the holes of a sky filled by a network or by a classical method.

The network sees the fields with 0 in their holes and the mask; it learns to say the fields
themselves. Numbers of scores are taken in the holes alone, in units of the sky's own deviation.

Source: the loss of masked and seen pixels with SSIM follows SkyReconNet, arXiv:2501.06139
(abstract: SSIM and MSE); weights, window and the likelihood of the deviation are ours.
"""

import argparse
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medseg.data import hidden
from medseg.filling import Ask, Filled, Networks, fill, picture, resolved
from medseg.geometry.spectrum import Prior
from medseg.nn.skyssim import near_holes, ssim_loss
from medseg.sample import Batch, Sample

log = logging.getLogger(__name__)

FIELDS = ("ndim",)
AGREE = ("reading",)
OUTPUTS = ("filled", "deviation", "samples", "sky.png")
EXTRAS = ("mask", "spectrum")
NOTES = ("beam_arcmin", "noise_uk", "remove")
REMOVED = ("none", "monopole", "dipole")
RANGE = 6.0  # of SSIM, in deviations of the sky

load = hidden.load


class Inpaint:
    """Fills holes.

    Args:
        model: the network (see `medseg/models/skyreconnet.py`), or a classical method.
        observed: weight of the squared error of seen pixels beside that of the holes.
        ssim: weight of 1 - SSIM around the holes.
        likelihood: weight of the Gaussian likelihood that teaches the deviation, where the network
            tells one; the mean does not feel it.
    """

    monitor = "skill"
    of_maps = True

    def __init__(
        self,
        model: nn.Module,
        *,
        observed: float = 0.1,
        ssim: float = 0.2,
        likelihood: float = 0.1,
    ) -> None:
        for name, weight in {"observed": observed, "ssim": ssim, "likelihood": likelihood}.items():
            if weight < 0:
                raise ValueError(f"task.{name}={weight}; a weight is 0 or more")
        self.model: Any = model
        self.observed, self.ssim, self.likelihood = observed, ssim, likelihood
        self.prior: Prior | None = None

    def begin(
        self,
        train: Sequence[Any],
        *,
        prepared: Any,  # noqa: ANN401
        whole: functools.partial[Tensor],
    ) -> None:
        """Before training: the sky's deviation, and what the sheet says of its spectrum."""
        del whole
        self.channels = list(prepared.channels)
        if self.channels[-1] != "mask" or len(self.channels) < 2:
            raise ValueError(
                f"task=inpaint wants channels that end with mask, such as [map, mask] or [Q, U, "
                f"mask], and the data have {self.channels}; name them so in data.channels"
            )
        self.nside = int(prepared.meta["nside"])
        notes = train[0].notes
        spectrum = notes.get("spectrum")
        path = prepared.folder / spectrum if spectrum else None
        told = hidden.prior_of(notes, path)
        if told is not None:
            self.prior = told[0].upto(min(told[0].lmax, 3 * self.nside - 1))
        if hasattr(self.model, "scale"):
            self.model.scale.copy_(_deviation(prepared, train))

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What training makes small: errors in units of the sky's deviation."""
        seen, known, image = _parted(batch.image)
        mean, deviation = self.model.both(image)
        scale = self.model.scale[:, None]
        truth = batch.image[:, :-1].nan_to_num() / scale
        error, holes = mean / scale - truth, (known & ~seen)[:, None].float()
        watched = (known & seen)[:, None].float()
        loss = _mean(error.square(), holes) + self.observed * _mean(error.square(), watched)
        if self.ssim:
            here = mean / scale
            drawn = torch.where(holes > 0, here, torch.where(watched > 0, truth, here.detach()))
            wanted = torch.where(known[:, None], truth, here.detach())
            around = near_holes(seen[:, None].to(here))
            unlike = ssim_loss(drawn, wanted, data_range=RANGE, weight=around)
            loss = loss + self.ssim * unlike
        if self.likelihood and deviation is not None:
            spread = deviation / scale
            surprise = spread.log() + 0.5 * (error.detach() / spread).square()
            loss = loss + self.likelihood * _mean(surprise, holes)
        return loss

    @torch.no_grad()
    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Of one whole case: squared error and power in the holes, and a trained network's loss."""
        seen, known, image = _parted(batch.image)
        truth, holes = batch.image[:, :-1].nan_to_num(), (known & ~seen)[:, None].float()
        mean = self._mean(image[0], seen[0])[None].to(truth)
        found = {
            "squared_error": ((mean - truth).square() * holes).mean(),
            "power": (truth.square() * holes).mean(),
        }
        return found if hasattr(self.model, "needs_prior") else {"loss": self.loss(batch), **found}

    def _mean(self, image: Float[Tensor, "m n"], seen: Bool[Tensor, " n"]) -> Float[Tensor, "c n"]:
        if not hasattr(self.model, "needs_prior"):
            return self.model(image[None])[0]
        values = image[:-1].double().cpu().numpy()
        return torch.from_numpy(self.model.fill(values, seen=seen.cpu().numpy(), prior=self.prior))

    def joined(self, means: Mapping[str, float]) -> dict[str, float]:
        """Of all cases together: 1 - NRMSE in the holes as `skill`, NRMSE, and the loss."""
        if not means["power"]:
            raise ValueError(
                "no validation map has a hole whose truth is known, so that nothing can be scored; "
                "give masks that are 0 in holes, and maps without holes of their own"
            )
        ratio = (means["squared_error"] / means["power"]) ** 0.5
        loss = {"loss": means["loss"]} if "loss" in means else {}
        return {**loss, "skill": 1 - ratio, "nrmse": ratio}

    def learnt(
        self, train: Iterable[Batch], *, val: Iterable[Batch], device: str
    ) -> dict[str, Any]:
        """What prediction needs beside the weights: the maps' nside, and the sky's spectrum."""
        del train, val, device
        found: dict[str, Any] = {"nside": self.nside, "optional_channels": True}
        if self.prior is not None:
            spectrum = [[float(f"{value:.9g}") for value in row] for row in self.prior.spectrum]
            about = {"beam_arcmin": self.prior.beam_arcmin, "noise_uk": self.prior.noise_uk}
            found["prior"] = {"spectrum": spectrum, **about}
        return found


def _parted(
    image: Float[Tensor, "b m n"],
) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b n"], Float[Tensor, "b m n"]]:
    """What is seen and what is known of each pixel, and the image without what is hidden."""
    known = image[:, :-1].isfinite().all(1)
    seen = (image[:, -1] > 0.5) & known
    shown = image[:, :-1].nan_to_num() * seen[:, None]
    return seen, known, torch.cat([shown, seen[:, None].to(image.dtype)], 1)


def _mean(values: Float[Tensor, "b c n"], weight: Float[Tensor, "b 1 n"]) -> Float[Tensor, ""]:
    return (values * weight).sum() / (weight.sum() * values.shape[1]).clamp_min(1)


def _deviation(prepared: Any, train: Sequence[Any]) -> Float[Tensor, " c"]:  # noqa: ANN401
    """Each field's root mean square, in µK, over what is seen of at most 64 training maps."""
    squares, count = torch.zeros(()).double(), 0
    for record in train[:64]:
        seen, _, image = _parted(torch.from_numpy(np.array(prepared.load(record).image))[None])
        squares = squares + image[0, :-1].double().square().sum(1)
        count += int(seen.sum())
    if not bool((squares > 0).all()):
        raise ValueError(
            "the training maps are 0 wherever they are seen; are these the right maps?"
        )
    return (squares / count).sqrt().float()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be asked of a prediction."""
    add = parser.add_argument
    add("--uncertainty", action="store_true",
        help="also CASE_deviation: the standard deviation of what is filled in")  # fmt: skip
    add("--samples", type=int, default=None, metavar="N",
        help="also CASE_samples: N skies that agree with what is seen")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the samples (0)")
    add("--beam-arcmin", type=float, metavar="FWHM", help="of the sky's beam; 0 for none")
    add("--noise-uk", type=float, metavar="µK", help="standard deviation of a pixel's noise")
    add("--lmax", type=int, metavar="L", help="largest multipole (2 nside, or the model's own)")
    add("--spectrum-kind", choices=("cl", "dl"), help="what the spectrum's file holds")
    add("--remove", choices=REMOVED,
        help="fit these on what is seen, fill without them, put them back")  # fmt: skip
    add("--no-picture", action="store_true", help="without CASE_sky.png, for many maps")


def predict(
    sample: Sample, networks: Networks, *, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The filled map, deviation and samples if asked for, a picture, and the sidecar's facts."""
    count = 0 if options.samples is None else options.samples
    if options.samples is not None and count < 1:
        raise ValueError(f"--samples {count}: give 1 or more, or leave it out")
    prior, said = resolved(sample, networks.spec, options=options)
    remove = options.remove or sample.meta["beside"]["notes"].get("remove") or "none"
    if remove not in REMOVED:
        raise ValueError(f"the sheet's remove is '{remove}'; write one of {', '.join(REMOVED)}")
    ask = Ask(samples=count, uncertainty=options.uncertainty, seed=options.seed, remove=remove)
    found: Filled = fill(sample, networks, prior=prior, ask=ask)
    names = sample.channels[:-1]
    made: dict[str, Any] = {"filled": found.mean.T, "deviation": None, "samples": None}
    if found.deviation is not None:
        made["deviation"] = found.deviation.T
    if found.samples is not None:
        made["samples"] = found.samples.reshape(-1, found.samples.shape[-1]).T
    if not options.no_picture:
        made["sky.png"] = picture(sample, found)
    facts = {
        "task": "inpaint",
        "fields": list(names),
        "unit": sample.meta.get("unit"),
        "holes": int((sample.image[-1] < 0.5).sum()),
        "seen_share": float((sample.image[-1] >= 0.5).mean()),
        "samples": count,
        "seed": options.seed,
        "removed": found.removed,
        "prior": said,
    }
    return made, facts
