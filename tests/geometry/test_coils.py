"""Coil maps, combination and data-consistent reconstruction, on a phantom whose maps are known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from medseg.geometry import coils, fourier


def phantom(*shape):
    """A head of two ellipses, with a smooth phase."""
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = sum(p**2 for p in places)
    inner = sum((p - 0.15) ** 2 * (3 + k) for k, p in enumerate(places))
    size = 1.0 * (radius < 0.75) + 0.6 * (inner < 0.4) - 0.3 * (np.abs(places[0]) < 0.05)
    size *= radius < 0.75
    return (size * np.exp(1j * (0.8 * places[0] - 1.1 * places[-1] ** 2))).astype(np.complex64)


def true_maps(count, *shape):
    """Smooth maps of a ring of coils, each with a phase of its own; root sum of squares one."""
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    found = []
    for k in range(count):
        angle = 2 * np.pi * k / count
        away = (places[0] - 1.3 * np.cos(angle)) ** 2 + (places[-1] - 1.3 * np.sin(angle)) ** 2
        tilt = 0.7 * (places[0] * np.sin(angle) - places[-1] * np.cos(angle))
        found.append(np.exp(-away / 0.7 + 1j * (tilt + 2.1 * k)))
    maps = np.stack(found)
    return (maps / coils.rss(maps)).astype(np.complex64)


def measured(image, maps, *, acceleration=1.0, centre=8, noise=0.0, seed=0):
    axes = range(1, maps.ndim)
    kspace = fourier.fft(maps * image, axes)
    chance = np.random.default_rng(seed)
    added = chance.normal(size=(2, *kspace.shape))
    kspace = kspace + noise * (added[0] + 1j * added[1])
    mask = fourier.random_points(
        image.shape, acceleration=acceleration, centre=centre, generator=chance, power=1.0
    )
    return (kspace * mask).astype(np.complex64), mask


def error(found, image):
    """Relative distance, after the one phase that no reconstruction can know."""
    turn = np.vdot(found, image)
    return np.linalg.norm(found * turn / abs(turn) - image) / np.linalg.norm(image)


def test_root_sum_of_squares_of_unit_maps_is_the_magnitude():
    image, maps = phantom(40, 33), true_maps(6, 40, 33)
    found = coils.rss(maps * image)
    assert found.dtype == np.float32
    assert_allclose(found, np.abs(image), atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 33), (12, 13, 10)])
def test_combining_with_the_true_maps_gives_the_image(shape):
    image, maps = phantom(*shape), true_maps(5, *shape)
    assert_allclose(coils.combine(3 * maps * image, 3 * maps), image, atol=1e-6)


def test_where_no_coil_sees_anything_the_image_is_zero():
    maps = np.zeros((2, 3, 3), np.complex64)
    assert (coils.combine(np.ones_like(maps), maps) == 0).all()


@pytest.mark.parametrize("shape", [(64, 49), (49, 64)])
def test_maps_from_the_centre_are_the_true_ones(shape):
    image, maps = phantom(*shape), true_maps(8, *shape)
    kspace, _ = measured(image, maps, acceleration=3, centre=20)
    found = coils.sensitivities(kspace)
    assert found.dtype == np.complex64
    assert_allclose(coils.rss(found), 1, atol=1e-4)
    inside = np.abs(image) > 0.1
    # Of two unit vectors of coils, in any phase: 1 where they agree. Smoothing costs the edges.
    agreement = np.abs((found.conj() * maps).sum(0))[inside]
    assert np.quantile(agreement, 0.05) > 0.98
    assert np.median(agreement) > 0.997


def test_maps_are_in_phase_with_the_virtual_coil():
    image, maps = phantom(48, 40), true_maps(6, 48, 40)
    kspace, _ = measured(image, maps)
    weights = coils.virtual_coil(kspace)
    assert_allclose(np.linalg.norm(weights), 1, rtol=1e-5)
    strongest = weights[np.abs(weights).argmax()]
    assert_allclose(strongest.imag, 0, atol=1e-6)
    mixture = np.einsum("c,cyx->yx", weights.conj(), coils.sensitivities(kspace, reference=weights))
    inside = (np.abs(image) > 0.1) & (np.abs(mixture) > 0.1)
    assert np.abs(np.angle(mixture[inside])).max() < 0.02
    # So the combined image has the phase that the virtual coil sees.
    images = fourier.ifft(kspace, (1, 2))
    seen = np.einsum("c,cyx->yx", weights.conj(), images)
    combined = coils.combine(images, coils.sensitivities(kspace, reference=weights))
    assert np.quantile(np.abs(np.angle(seen * combined.conj()))[inside], 0.95) < 0.1


def test_the_combined_phase_does_not_know_the_coils_own_phases():
    """Coils in another order, each turned by an angle: one angle for the whole image is left."""
    image, maps = phantom(40, 40), true_maps(6, 40, 40)
    kspace, _ = measured(image, maps)
    turned = (kspace * np.exp(1j * np.arange(6))[:, None, None])[::-1].astype(np.complex64)
    first, second = (coils.reconstruct(k, "zero_filled") for k in (kspace, turned))
    assert error(second, first) < 1e-3


def test_one_coil_is_left_as_it_is():
    image = phantom(33, 20)
    kspace = fourier.fft(image, (0, 1))[None]
    assert (coils.sensitivities(kspace) == 1).all()
    for method, weight in (("zero_filled", 0), ("sense", 0.01)):
        found = coils.reconstruct(kspace, method)
        assert_allclose(found * (1 + weight), image, atol=1e-5)


def test_a_scale_of_the_samples_is_one_of_the_image():
    kspace, _ = measured(phantom(32, 32), true_maps(4, 32, 32), acceleration=2)
    for method in coils.METHODS:
        whole = coils.reconstruct(kspace, method)
        tiny = coils.reconstruct(kspace * np.float32(1e-12), method)
        assert_allclose(tiny * 1e12, whole, atol=1e-4 * np.abs(whole).max())


def test_without_a_sampled_centre_maps_are_refused():
    kspace, _ = measured(phantom(32, 32), true_maps(4, 32, 32))
    kspace[:, 15:18] = 0
    with pytest.raises(ValueError, match=r"centre of k-space is \(0, 0\) samples, and 4 an axis"):
        coils.sensitivities(kspace)


def test_the_normal_equations_are_solved():
    """At the minimum the gradient is zero: what is left of the data equals the weighted image."""
    image, maps = phantom(32, 24), true_maps(4, 32, 24)
    kspace, mask = measured(image, maps, acceleration=3, noise=0.05)
    kspace, maps = kspace.astype(np.complex128), maps.astype(np.complex128)
    found = coils.sense(kspace, mask, maps=maps, iterations=200, weight=0.02)
    rest = mask * (kspace - fourier.fft(maps * found, (1, 2)))
    gradient = (maps.conj() * fourier.ifft(rest, (1, 2))).sum(0) - 0.02 * found
    assert np.abs(gradient).max() < 1e-5 * np.abs(found).max()


@pytest.mark.parametrize(
    ("shape", "acceleration"), [((64, 64), 3), ((49, 64), 3), ((20, 24, 22), 3)]
)
def test_solving_beats_filling_with_zeros_by_far(shape, acceleration):
    image, maps = phantom(*shape), true_maps(8, *shape)
    kspace, mask = measured(image, maps, acceleration=acceleration, noise=0.005)
    axes = range(1, kspace.ndim)
    filled = coils.combine(fourier.ifft(kspace, axes), maps)
    solved = coils.sense(kspace, mask, maps=maps, iterations=40, weight=1e-3)
    assert error(solved, image) < 0.4 * error(filled, image)
    apart = [coils.inconsistency(x, kspace, mask=mask, maps=maps) for x in (filled, solved)]
    assert apart[1] < 0.25 * apart[0]
    # With maps of their own making, and the default effort.
    found = [error(coils.reconstruct(kspace, method), image) for method in coils.METHODS]
    assert found[1] < 0.6 * found[0]


def test_the_true_image_is_consistent_and_none_is_not():
    image, maps = phantom(32, 32), true_maps(4, 32, 32)
    kspace, mask = measured(image, maps, acceleration=3)
    assert coils.inconsistency(image, kspace, mask=mask, maps=maps) < 1e-6
    assert_allclose(coils.inconsistency(0 * image, kspace, mask=mask, maps=maps), 1, rtol=1e-6)


def test_real_samples_that_were_held_back_are_foretold(reference):
    """A tenth of the outer samples is left out: filling with zeros misses all of it (1.0)."""
    kspace = np.load(reference / "data/complex/sigpy_tutorial_cartesian_ksp.npy")
    mask = fourier.sampled(kspace)
    middle = np.zeros_like(mask)
    middle[fourier.middle(mask.shape, (24, 24))] = True
    held = mask & ~middle & (np.random.default_rng(0).random(mask.shape) < 0.1)
    maps = coils.sensitivities(kspace)
    image = coils.sense(kspace * (mask & ~held), mask & ~held, maps=maps)
    assert coils.inconsistency(image, kspace, mask=held, maps=maps) < 0.4
