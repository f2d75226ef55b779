"""A sky with holes through networks and classical methods: mean, deviation and samples.

Samples of a network that tells only a mean are made as Hoffman and Ribak 1991 (ApJ 380, L5) do for
the exact one: a sky of the prior is drawn, hidden and filled, and its error is added. Where the
network is the conditional mean this is the exact posterior; where it is not, its own error keeps
the power of what is filled.
"""

import argparse
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
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
    found = prior_of(beside["notes"], path, kind=options.spectrum_kind)
    own = spec.get("prior")
    said: dict[str, Any] = {"source": "the model's training"}
    if found is not None:
        prior, read = found
        said = {"source": str(path), "kind": read.kind, "read": read.said}
        _tell(read.said)
    elif own:
        about = {name: own[name] for name in ("beam_arcmin", "noise_uk")}
        prior = Prior(np.array(own["spectrum"]), **about)
    else:
        return None, None
    given = {"beam_arcmin": options.beam_arcmin, "noise_uk": options.noise_uk}
    unsaid = [n for n in given if found and given[n] is None and not beside["notes"].get(n)]
    if unsaid:
        flag = "--" + unsaid[0].replace("_", "-")
        raise ValueError(
            f"case {sample.id}: the spectrum is given and {flag[2:]} is not; say {flag} (0 for "
            f"none), or fill the sheet's column {unsaid[0]}"
        )
    numbers = {k: getattr(prior, k) if v is None else v for k, v in given.items()}
    if min(numbers.values()) < 0:
        raise ValueError(f"--beam-arcmin and --noise-uk are 0 or more; here are {numbers}")
    prior = Prior(prior.spectrum, **numbers)
    usual = 2 * _sphere(sample).nside
    if options.lmax is None and not path:
        usual = min(usual, prior.lmax)
    try:
        prior = prior.upto(usual if options.lmax is None else options.lmax)
    except ValueError as error:
        raise ValueError(f"case {sample.id}, {path or 'the model'}: {error}") from None
    return prior, {**said, "lmax": prior.lmax, **numbers}


@cache
def _tell(sentence: str) -> None:
    """Say something once a process, however many cases share it."""
    sys.stderr.write(f"medseg predict: {sentence}\n")


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
    if prior is not None:
        _compared(values, seen, prior)
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


def _compared(values: Maps, seen: Bool[np.ndarray, " n"], prior: Prior) -> None:
    """Warn where what is seen is not the sky that the spectrum speaks of; refuse what has none."""
    kinds = {1: (0,), 2: (1, 2), 3: (0, 1, 2)}[len(values)]
    degrees = 2 * np.arange(prior.lmax + 1) + 1
    power = (prior.seen[list(kinds)] * degrees).sum() / (4 * np.pi)
    if not power:
        told = "TT" if len(values) == 1 else "EE or BB"
        raise ValueError(f"the spectrum has no {told}, which the fields to fill are made of")
    wanted = float(np.sqrt(power + len(values) * prior.noise_uk**2))
    found = float(np.sqrt(np.square(values[:, seen]).mean(1).sum()))
    if not 0.5 < found / wanted < 2:
        warnings.warn(
            f"what is seen has {found:.3g} µK rms, and the spectrum with its beam and noise says "
            f"{wanted:.3g}: check the map's unit (--unit), the spectrum (--spectrum-kind) and "
            "--remove",
            stacklevel=2,
        )
    offset = float(abs(values[0, seen].mean()))
    if len(values) != 2 and offset > 0.25 * wanted:
        warnings.warn(
            f"the mean of what is seen is {offset:.3g} µK; if the map's zero is arbitrary, "
            "--remove monopole (or dipole) keeps it out of the holes",
            stacklevel=2,
        )


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
    seeds = _seeds(values, ask)
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
    _doubts(networks.spec, nside, prior=prior)
    found = [_both(networks, one.network, values[None], seen) for one in networks.packages]
    means = np.stack([mean[0] for mean, _ in found])
    spread = None
    if ask.uncertainty:
        told = [deviation[0] for _, deviation in found if deviation is not None]
        if len(told) < len(found):
            raise ValueError("the model tells no deviation; leave --uncertainty out")
        spread = np.sqrt(np.mean(np.square(told), 0) + means.var(0))
    draws = None
    if ask.samples:
        if prior is None:
            raise ValueError(
                "samples need the sky's spectrum, and the model was trained without one; give "
                "spectrum=FILE with --beam-arcmin and --noise-uk"
            )
        seeds = _seeds(values, ask)
        errors = _errors(networks, len(values), seen=seen, prior=prior, seeds=seeds)
        draws = means.mean(0) + errors
    return means.mean(0), spread, draws


def _seeds(values: Maps, ask: Ask) -> list[int]:
    """A seed a sample: its own for every sky, so that chance averages out over many skies."""
    own = zlib.crc32(np.ascontiguousarray(values, np.float32).tobytes())
    words = [np.random.SeedSequence([ask.seed, own, number]) for number in range(ask.samples)]
    return [int(word.generate_state(1, np.uint64)[0]) for word in words]


def _doubts(spec: Mapping[str, Any], nside: int, *, prior: Prior | None) -> None:
    """Warn where a map is unlike those that the networks learnt from."""
    learnt, own = spec.get("nside"), spec.get("prior")
    if learnt and learnt != nside:
        warnings.warn(
            f"the map has nside {nside} and the network learnt from nside {learnt}: what it fills "
            "in is less sure",
            stacklevel=2,
        )
    if own and prior and abs(prior.beam_arcmin - own["beam_arcmin"]) > 0.1 * own["beam_arcmin"]:
        warnings.warn(
            f"the sky's beam is {prior.beam_arcmin:g}' and the network learnt from "
            f"{own['beam_arcmin']:g}': what it fills in is less sure",
            stacklevel=2,
        )


def _errors(
    networks: Networks,
    fields: int,
    *,
    seen: Bool[np.ndarray, " n"],
    prior: Prior,
    seeds: Sequence[int],
) -> Float[np.ndarray, "s c n"]:
    """What the networks get wrong of skies drawn from the prior: one for each sample."""
    nside = round((len(seen) / 12) ** 0.5)
    letters = {1: "T", 2: "QU", 3: "TQU"}[fields]
    rows = []
    for first in range(0, len(seeds), _AT_ONCE):
        dice = [np.random.default_rng(seed) for seed in seeds[first : first + _AT_ONCE]]
        skies = np.stack([prior.draw(nside, seed=d, fields=letters) for d in dice])
        noise = np.stack([d.standard_normal(skies[0].shape) for d in dice]) * prior.noise_uk
        hidden = np.where(seen, skies + noise, 0.0)
        found = [_both(networks, one.network, hidden, seen)[0] for one in networks.packages]
        rows.append(skies - np.mean(found, 0))
        networks.progress(0.9 * len(skies) / len(seeds))
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
        own = Panel(across(found.deviation[0]), "standard deviation", mask=~seen)
        maps.append(replace(own, colours="sequential", unit="µK"))
    return panels(maps, unit="µK", columns=2)
