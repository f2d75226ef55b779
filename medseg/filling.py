"""A sky with holes through networks and classical methods: mean, deviation and samples.

Samples of a network that tells only a mean are made as Hoffman and Ribak 1991 (ApJ 380, L5) do for
the exact one: a sky of the prior is drawn, hidden and filled, and its error is added. Where the
network is the conditional mean this is the exact posterior; where it is not, its own error keeps
the power of what is filled.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float

from medseg.data.hidden import prior_of
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import Sphere, carried, native_order, nested
from medseg.sample import Sample

LEAST_NSIDE = 16
_AT_ONCE = 8

Maps = Float[np.ndarray, "c n"]


@runtime_checkable
class Networks(Protocol):
    """What filling asks of the networks of a call."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The `model.json` that they share."""

    @property
    def packages(self) -> Sequence[Any]:
        """The models; each has its `network`."""

    @property
    def device(self) -> str:
        """Where they are."""

    @property
    def progress(self) -> Callable[[float], object]:
        """Is told the share of the case that was done since it was told last."""


@dataclass(frozen=True)
class Ask:
    """What is wanted of a sky beside its mean; `remove` is none, monopole or dipole."""

    samples: int = 0
    uncertainty: bool = False
    seed: int = 0
    remove: str = "none"


@dataclass(frozen=True, eq=False)
class Filled:
    """A sky without holes, on the sample's own pixels.

    Attributes:
        mean: seen pixels as they were, the mean of what may be in the holes; µK.
        deviation: its standard deviation, 0 where the sky is seen.
        samples: skies that agree with what is seen.
        removed: monopole and dipole (x, y, z) of each field that were fitted and put back, in µK.
    """

    mean: Float[np.ndarray, "c n"]
    deviation: Float[np.ndarray, "c n"] | None
    samples: Float[np.ndarray, "s c n"] | None
    removed: list[list[float]]


def resolved(
    sample: Sample, spec: Mapping[str, Any], *, options: argparse.Namespace
) -> tuple[Prior | None, dict[str, Any] | None]:
    """What is known of the sky, and what a sidecar says of that.

    The case's own spectrum, or else the model's; options take the place of either's beam and noise.
    """
    beside = sample.meta["beside"]
    path = beside["spectrum"]
    prior = prior_of(beside["notes"], path, kind=options.spectrum_kind)
    own = spec.get("prior")
    if prior is None and own:
        about = {name: own[name] for name in ("beam_arcmin", "noise_uk")}
        prior = Prior(np.array(own["spectrum"]), **about)
    if prior is None:
        return None, None
    given = {"beam_arcmin": options.beam_arcmin, "noise_uk": options.noise_uk}
    numbers = {k: getattr(prior, k) if v is None else v for k, v in given.items()}
    if min(numbers.values()) < 0:
        raise ValueError(f"--beam-arcmin and --noise-uk are 0 or more; here are {numbers}")
    prior = Prior(prior.spectrum, **numbers)
    usual = 2 * _sphere(sample).nside
    if options.lmax is None and not path:
        usual = min(usual, prior.lmax)
    prior = prior.upto(usual if options.lmax is None else options.lmax)
    said = {"source": str(path) if path else "the model's training", "lmax": prior.lmax, **numbers}
    return prior, said


def fill(sample: Sample, networks: Networks, *, prior: Prior | None, ask: Ask) -> Filled:
    """Fill the holes of a sky; what is seen comes back as it was.

    Args:
        sample: fields with 0 in their holes, then the mask (`medseg.data.hidden.load`).
        networks: of `task=inpaint`; several are averaged.
        prior: the sky's spectrum; samples need it, and so do some methods.
        ask: what is wanted beside the mean.
    """
    native = _sphere(sample)
    whole = Sphere(native.nside, frame=native.frame)
    rows = carried(nested(sample.image, native), native.nested(), onto=whole)
    seen = np.nan_to_num(rows[-1]) > 0.5
    values = np.where(seen, np.nan_to_num(rows[:-1]), 0.0).astype(np.float64)
    values, fitted, removed = _removed(values, seen, whole, what=ask.remove)
    method = getattr(networks.packages[0], "network", None)
    means, spread, draws = (_classical if hasattr(method, "needs_prior") else _learnt)(
        networks, values, seen=seen, prior=prior, ask=ask
    )
    networks.progress(1.0)

    def back(maps: Float[np.ndarray, "*s c n"]) -> np.ndarray:
        own = np.where(seen, values, maps) + fitted
        flat = own.reshape(-1, own.shape[-1])
        here = native_order(carried(flat, whole, onto=native.nested()), native)
        here = here.reshape(*own.shape[:-1], -1)
        return np.where(sample.image[-1] > 0.5, sample.image[:-1], here)

    deviation = None
    if spread is not None:
        own = carried(np.where(seen, 0.0, spread), whole, onto=native.nested())
        deviation = native_order(own, native)
    return Filled(back(means), deviation, None if draws is None else back(draws), removed)


def _sphere(sample: Sample) -> Sphere:
    assert isinstance(sample.space, Sphere)  # noqa: S101 -- hidden.load sees to it
    return sample.space


def _removed(
    values: Maps, seen: Bool[np.ndarray, " n"], sphere: Sphere, *, what: str
) -> tuple[Maps, Maps, list[list[float]]]:
    """Fields without the monopole (and dipole) that fits what is seen best, and what was fitted."""
    if what == "none":
        return values, np.zeros_like(values), []
    base = np.ones((len(seen), 1))
    if what == "dipole":
        base = np.concatenate([base, sphere.vectors()], 1)
    found = np.linalg.lstsq(base[seen], values[:, seen].T, rcond=None)[0].T
    fitted = found @ base.T
    return np.where(seen, values - fitted, 0.0), fitted, found.tolist()


Parts = tuple[Maps, Maps | None, Float[np.ndarray, "s c n"] | None]


def _classical(
    networks: Networks,
    values: Maps,
    *,
    seen: Bool[np.ndarray, " n"],
    prior: Prior | None,
    ask: Ask,
) -> Parts:
    """A method of its own numbers; what it cannot tell is refused."""
    method = networks.packages[0].network
    name = type(method).__name__.lower()
    if prior is None and method.needs_prior:
        raise ValueError(
            f"method {name} needs the sky's spectrum; give spectrum=FILE (.npz, FITS or text), and "
            "--beam-arcmin and --noise-uk"
        )
    known: dict[str, Any] = {"seen": seen, "prior": prior}
    for wanted, there in (("deviation", ask.uncertainty), ("draw", bool(ask.samples))):
        if there and not hasattr(method, wanted):
            flag = "--uncertainty" if wanted == "deviation" else "--samples"
            raise ValueError(f"method {name} tells no {flag[2:]}; leave {flag} out, or take wiener")
    mean = method.fill(values, **known)
    spread = method.deviation(values, **known) if ask.uncertainty else None
    seeds = [ask.seed + number for number in range(ask.samples)]
    return mean, spread, method.draw(values, seeds=seeds, **known) if seeds else None


def _learnt(
    networks: Networks,
    values: Maps,
    *,
    seen: Bool[np.ndarray, " n"],
    prior: Prior | None,
    ask: Ask,
) -> Parts:
    """Trained networks, averaged: their means, their deviations and what they disagree by."""
    nside = round((len(seen) / 12) ** 0.5)
    if nside < LEAST_NSIDE:
        raise ValueError(
            f"the map has nside {nside}, and the networks see nside {LEAST_NSIDE} or finer; take "
            "method:wiener, which is exact there"
        )
    wanted = networks.spec["channels"]
    if len(wanted) != len(values) + 1:
        raise ValueError(
            f"the model fills {', '.join(wanted[:-1])} and the case has {len(values)} fields; give "
            "just these"
        )
    found = [_both(networks, one.network, values[None], seen) for one in networks.packages]
    means = np.stack([mean[0] for mean, _ in found])
    spread = None
    if ask.uncertainty:
        if any(deviation is None for _, deviation in found):
            raise ValueError("the model tells no deviation; leave --uncertainty out")
        squares = np.mean([np.square(deviation[0]) for _, deviation in found], 0)
        spread = np.sqrt(squares + means.var(0))
    draws = None
    if ask.samples:
        if prior is None:
            raise ValueError(
                "samples need the sky's spectrum, and the model was trained without one; give "
                "spectrum=FILE with --beam-arcmin and --noise-uk"
            )
        draws = means.mean(0) + _errors(networks, len(values), seen=seen, prior=prior, ask=ask)
    return means.mean(0), spread, draws


def _errors(
    networks: Networks,
    fields: int,
    *,
    seen: Bool[np.ndarray, " n"],
    prior: Prior,
    ask: Ask,
) -> Float[np.ndarray, "s c n"]:
    """What the networks get wrong of skies drawn from the prior: one for each sample."""
    nside = round((len(seen) / 12) ** 0.5)
    letters = {1: "T", 2: "QU", 3: "TQU"}[fields]
    rows = []
    for first in range(0, ask.samples, _AT_ONCE):
        seeds = range(first, min(first + _AT_ONCE, ask.samples))
        dice = [np.random.default_rng([ask.seed, number]) for number in seeds]
        skies = np.stack([prior.draw(nside, seed=d, fields=letters) for d in dice])
        noise = np.stack([d.standard_normal(skies[0].shape) for d in dice]) * prior.noise_uk
        hidden = np.where(seen, skies + noise, 0.0)
        found = [_both(networks, one.network, hidden, seen)[0] for one in networks.packages]
        rows.append(skies - np.mean(found, 0))
        networks.progress(0.9 * len(skies) / ask.samples)
    return np.concatenate(rows)


@torch.no_grad()
def _both(
    networks: Networks,
    network: Any,  # noqa: ANN401 -- a learned filler
    values: Float[np.ndarray, "b c n"],
    seen: Bool[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "b c n"], Float[np.ndarray, "b c n"] | None]:
    """A network's mean and deviation of maps behind one mask, in µK."""
    mask = np.broadcast_to(seen, (len(values), 1, len(seen)))
    image = torch.from_numpy(np.concatenate([values, mask], 1)).float().to(networks.device)
    mean, deviation = network.both(image)
    if not bool(torch.isfinite(mean).all()):
        raise ValueError("the network's output is not finite; its weights or its input are broken")
    told = None if deviation is None else deviation.double().cpu().numpy()
    return mean.double().cpu().numpy(), told


def picture(sample: Sample, found: Filled) -> bytes:
    """What is seen and what was filled in, with a sample and the deviation if there are any: PNG.

    The first field, in µK; the common scale is that of what was filled.
    """
    from medseg.drawing.sky import Panel, panels

    native = _sphere(sample)
    whole = Sphere(native.nside)

    def across(row: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
        return carried(nested(row, native)[None], native.nested(), onto=whole)[0]

    seen = across(sample.image[-1]) > 0.5
    name, filled = sample.channels[0], across(found.mean[0])
    maps = [Panel(filled, f"{name} seen", mask=seen), Panel(filled, f"{name} filled")]
    if found.samples is not None:
        maps.append(Panel(across(found.samples[0, 0]), "a sample"))
    if found.deviation is not None:
        own = {"colours": "sequential", "unit": "µK"}
        maps.append(Panel(across(found.deviation[0]), "standard deviation", mask=~seen, **own))
    return panels(maps, unit="µK", columns=2)
