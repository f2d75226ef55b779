"""A sky's holes filled: what is seen decides, what is hidden does not."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg import filling
from medseg.ensemble import Ensemble
from medseg.filling import Ask, fill, resolved
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import Sphere, centres, native_order
from medseg.models.diffusion import Diffusion
from medseg.models.harmonic import Harmonic
from medseg.models.skyreconnet import SkyReconNet
from medseg.models.wiener import Wiener
from medseg.package import Package
from medseg.sample import Sample

NSIDE = 16
SEEN = np.abs(centres(NSIDE)[:, 2]) > 0.3
NET = {"widths": [8], "dilations": [[1]], "decoder": [], "features": 8, "stem": 8}
QU = ("Q", "U", "mask")


def prior(nside: int = NSIDE) -> Prior:
    degree = np.arange(2 * nside + 1)
    power = np.divide(1e3, degree * (degree + 1.0), out=np.zeros(len(degree)), where=degree > 1)
    return Prior(np.stack([power, 0.1 * power, 0.05 * power, 0 * power]), 320.0, 1.0)


SKY = prior().draw(NSIDE, seed=5)
RING = Sphere(NSIDE, nest=False)


def sample(values=SKY, seen=SEEN, *, space=None, channels=("map", "mask"), meta=None) -> Sample:
    """Fields with 0 in their holes, then the mask, as `hidden.load` makes them."""
    image = np.concatenate([np.where(seen, values, 0.0), seen[None]])
    return Sample("a", image, space or Sphere(NSIDE), channels, meta=meta or {})


def net(seed: int = 0, fields: int = 1, **more) -> SkyReconNet:
    torch.manual_seed(seed)
    found = SkyReconNet(fields + 1, **NET, **more).eval()
    found.scale.fill_(30.0)
    for one in found.parameters():  # a new network starts as its diffusion fill
        one.data += 0.05 * torch.randn_like(one)
    return found


def networks(*found: nn.Module, channels=("map", "mask")) -> Ensemble:
    spec = {"channels": list(channels)}
    return Ensemble([Package(one, spec, "0", Path()) for one in found])


def filled(network: nn.Module, case: Sample | None = None, **ask):
    return fill(case or sample(), networks(network), prior=prior(), ask=Ask(**ask))


FILLERS = {"net": net, "wiener": Wiener, "diffusion": Diffusion, "harmonic": Harmonic}


@pytest.mark.parametrize("name", FILLERS)
def test_what_is_seen_comes_back_and_the_order_of_pixels_does_not_matter(name: str) -> None:
    network = FILLERS[name]()
    nested = filled(network).mean
    assert np.array_equal(nested[:, SEEN], SKY[:, SEEN])
    assert (nested[:, ~SEEN] != 0).all()
    rows = [native_order(one, RING) for one in (SKY, SEEN)]
    ring = filled(network, sample(*rows, space=RING)).mean
    assert np.array_equal(ring, native_order(nested, RING))


@pytest.mark.parametrize("name", FILLERS)
def test_what_is_hidden_does_not_count(name: str) -> None:
    network, case = FILLERS[name](), sample()
    junk = case.image.copy()
    junk[:-1, ~SEEN] = np.resize([np.nan, 1e30, -1e3, np.inf], (~SEEN).sum())
    assert np.array_equal(filled(network, case.with_(image=junk)).mean, filled(network, case).mean)


@pytest.mark.parametrize("name", FILLERS)
@pytest.mark.parametrize("nest", [True, False])
def test_a_part_of_the_sky_is_a_sky_whose_rest_is_hidden(name: str, nest: bool) -> None:
    network = FILLERS[name]()
    place = Sphere(NSIDE, nest=nest)
    there = native_order(centres(NSIDE)[:, 0], place) > -0.2
    part = Sphere(NSIDE, nest=nest, pixels=np.flatnonzero(there))
    values, seen = (native_order(one, place) for one in (SKY, SEEN))
    whole = filled(network, sample(values, seen & there, space=place)).mean
    own = filled(network, sample(values[:, there], seen[there], space=part)).mean
    assert np.array_equal(own, whole[:, there])


@pytest.mark.parametrize("name", FILLERS)
@pytest.mark.parametrize("what", ["monopole", "dipole"])
def test_what_is_removed_is_put_back(name: str, what: str) -> None:
    network = FILLERS[name]()
    added = np.full((1, 12 * NSIDE**2), 250.0)
    if what == "dipole":
        added += 40 * centres(NSIDE)[:, 2] - 25 * centres(NSIDE)[:, 0]
    more = {"samples": 1} if name in ("net", "wiener") else {}
    plain = filled(network, remove=what, **more)
    offset = filled(network, sample(SKY + added), remove=what, **more)
    # networks see float32; harmonic stops where a step is 1e-6 of the map
    loose = {"net": 1e-3, "harmonic": 1e-3}.get(name, 1e-8)
    np.testing.assert_allclose(offset.mean, plain.mean + added, atol=loose)
    if more:
        np.testing.assert_allclose(offset.samples, plain.samples + added, atol=loose)
    assert len(offset.removed[0]) == (1 if what == "monopole" else 4)
    assert offset.removed[0][0] == pytest.approx(plain.removed[0][0] + 250, abs=1e-8)


@pytest.mark.parametrize("name", ["net", "wiener"])
def test_samples_agree_where_the_sky_is_seen_and_follow_their_seed(name: str) -> None:
    network = FILLERS[name]()
    found = filled(network, samples=3, seed=4, uncertainty=True)
    again = filled(network, samples=2, seed=4)
    assert found.samples.shape == (3, 1, 12 * NSIDE**2)
    assert np.array_equal(found.samples[:, 0, SEEN], np.repeat(SKY[:, SEEN], 3, 0))
    # how many are computed at a time moves float32 by roundings alone
    np.testing.assert_allclose(again.samples, found.samples[:2], atol=1e-3)
    assert np.array_equal(filled(network, samples=2, seed=4).samples, again.samples)
    other = filled(network, samples=1, seed=9).samples[0, 0, ~SEEN]
    apart = [np.std(other - one[0, ~SEEN]) for one in found.samples]
    apart.append(np.std(found.samples[0, 0, ~SEEN] - found.samples[1, 0, ~SEEN]))
    assert min(apart) > 1
    assert (found.deviation[:, SEEN] == 0).all()
    assert (found.deviation[:, ~SEEN] > 0).all()


class Exact(nn.Module):
    """A network that is the conditional mean."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = Wiener()

    def both(self, image):
        seen = image[0, -1].numpy() > 0.5
        maps = [self.filter.fill(i[:-1].double().numpy(), seen=seen, prior=prior()) for i in image]
        return torch.from_numpy(np.stack(maps)), None


def test_samples_of_the_exact_mean_have_the_exact_posterior() -> None:
    found = filled(Exact(), samples=120)
    exact = filled(Wiener(), uncertainty=True)
    np.testing.assert_allclose(found.mean, exact.mean, atol=1e-3)  # it saw float32
    inside = found.samples[:, 0, ~SEEN]
    away = (inside - exact.mean[0, ~SEEN]) / exact.deviation[0, ~SEEN]
    # a variance of 120 draws is known to 13 % a pixel, its mean over the holes' many modes better
    assert np.sqrt(np.square(away).mean()) == pytest.approx(1, abs=0.05)
    assert np.abs(away.mean(0)).max() < 5 / np.sqrt(120)


def test_wiener_on_the_road_is_the_class_itself() -> None:
    case = filled(Wiener(), samples=2, seed=3, uncertainty=True)
    known = {"seen": SEEN, "prior": prior()}
    hidden = np.where(SEEN, SKY, 0)
    assert np.array_equal(case.mean, Wiener().fill(hidden, **known))
    assert np.array_equal(case.deviation, Wiener().deviation(hidden, **known))
    seeds = filling._seeds(hidden, Ask(samples=2, seed=3))
    assert len(set(seeds)) == 2
    assert seeds != filling._seeds(2 * hidden, Ask(samples=2, seed=3)), "each sky has its own"
    assert np.array_equal(case.samples, Wiener().draw(hidden, seeds=seeds, **known))


def test_several_networks_are_averaged_and_doubt_where_they_disagree() -> None:
    one, other = net(1), net(2)
    both = fill(sample(), networks(one, other), prior=prior(), ask=Ask(uncertainty=True))
    first, second = (filled(n, uncertainty=True) for n in (one, other))
    np.testing.assert_allclose(both.mean, (first.mean + second.mean) / 2, atol=1e-9)
    wanted = (first.deviation**2 + second.deviation**2) / 2 + (first.mean - second.mean) ** 2 / 4
    np.testing.assert_allclose(both.deviation, np.sqrt(wanted), atol=1e-9)


def test_polarisation_is_filled_field_by_field() -> None:
    maps = prior().draw(NSIDE, seed=8, fields="QU")
    case = sample(maps, channels=QU)
    for network in (net(fields=2), Wiener(), Diffusion()):
        found = fill(case, networks(network, channels=QU), prior=prior(), ask=Ask())
        assert np.array_equal(found.mean[:, SEEN], maps[:, SEEN])
        assert np.abs(found.mean[:, ~SEEN]).mean(1).min() > 0.01
    found = fill(case, networks(net(fields=2), channels=QU), prior=prior(), ask=Ask(samples=2))
    assert found.samples.shape == (2, *maps.shape)


@pytest.mark.parametrize(
    ("network", "ask", "known", "told"),
    [
        (net, {"samples": 2}, False, "spectrum=FILE with --beam-arcmin and --noise-uk"),
        (lambda: net(uncertainty=False), {"uncertainty": True}, True, "leave --uncertainty out"),
        (lambda: net(fields=2), {}, True, "fills Q, U and the case has 1 fields"),
        (Wiener, {}, False, "method wiener needs the sky's spectrum; give spectrum=FILE"),
        (Diffusion, {"samples": 1}, True, "leave --samples out, or take wiener"),
        (Harmonic, {"uncertainty": True}, True, "leave --uncertainty out, or take wiener"),
    ],
)
def test_what_cannot_be_told_is_refused(network, ask, known, told) -> None:
    one = network()
    channels = QU if getattr(one, "in_channels", 2) == 3 else ("map", "mask")
    asked = {"prior": prior() if known else None, "ask": Ask(**ask)}
    with pytest.raises(ValueError, match=told):
        fill(sample(), networks(one, channels=channels), **asked)


def test_a_network_refuses_a_map_too_coarse_for_it() -> None:
    seen = np.arange(768) % 3 > 0
    case = sample(prior(8).draw(8, seed=0), seen, space=Sphere(8))
    with pytest.raises(ValueError, match="nside 16 or finer; take method:wiener"):
        filled(net(), case)


def options(**given) -> argparse.Namespace:
    usual = {"beam_arcmin": None, "noise_uk": None, "lmax": None, "spectrum_kind": None}
    return argparse.Namespace(**{**usual, **given})


def test_the_prior_is_the_cases_own_or_the_models_and_options_come_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "cl.npz", total=2 * prior().spectrum.T)
    notes = {"beam_arcmin": "80", "noise_uk": "7"}
    own = {"beside": {"spectrum": tmp_path / "cl.npz", "notes": notes}}
    none = {"beside": {"spectrum": None, "notes": notes}}
    spec = {"prior": {"spectrum": prior().spectrum.tolist(), "beam_arcmin": 320, "noise_uk": 1}}

    found, said = resolved(sample(meta=own), spec, options=options())
    np.testing.assert_allclose(found.spectrum, 2 * prior().spectrum)
    assert (found.beam_arcmin, found.noise_uk, found.lmax) == (80, 7, 32)
    assert said["source"].endswith("cl.npz")
    found, said = resolved(sample(meta=own), spec, options=options(beam_arcmin=0.0, lmax=20))
    assert (found.beam_arcmin, found.noise_uk, found.lmax) == (0, 7, 20)
    assert (said["lmax"], said["beam_arcmin"]) == (20, 0)
    found, said = resolved(sample(meta=none), spec, options=options(noise_uk=3.0))
    np.testing.assert_allclose(found.spectrum, prior().spectrum)
    assert (found.beam_arcmin, found.noise_uk) == (320, 3)
    assert said["source"] == "the model's training"
    assert resolved(sample(meta=none), {}, options=options()) == (None, None)


def test_a_spectrum_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "cl.npz", total=prior().spectrum.T[:21])
    case = sample(
        meta={
            "beside": {
                "spectrum": tmp_path / "cl.npz",
                "notes": {"beam_arcmin": "0", "noise_uk": "1"},
            }
        }
    )
    with pytest.raises(ValueError, match="ends at l = 20, and l = 32 is needed"):
        resolved(case, {}, options=options())
    assert resolved(case, {}, options=options(lmax=20))[0].lmax == 20
    with pytest.raises(ValueError, match="0 or more"):
        resolved(case, {}, options=options(lmax=20, noise_uk=-1.0))
