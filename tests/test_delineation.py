"""Landmarks of one image: draws that repeat, what their covariance is made of, perturbations."""

import numpy as np
import pytest
import torch
from torch import nn

from medseg import delineation, losses
from medseg.delineation import SIDES_PX, calibrated, delineate, evidence, perturbed
from medseg.geometry.contour import contours, slices
from medseg.models.hybridgnet import HybridGNet

NODES = {"left": 9, "heart": 7, "rim": {"nodes": 5, "closed": False}}
ORGANS = contours(NODES)
N = 21


def network(seed: int = 0, **fields: object) -> HybridGNet:
    torch.manual_seed(seed)
    made = HybridGNet(
        NODES, widths=(4, 6, 8), latent=8, width=8, order=3, lookups=(3, 2), bottleneck=2, **fields
    )
    return made.eval()


class Plain(nn.Module):
    """Landmarks that follow the image's mean, without a latent."""

    organs = ORGANS

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean() + torch.linspace(0, 1, 2 * N).reshape(1, N, 2)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_draws_repeat_exactly_whatever_was_drawn_before(image) -> None:
    nets = [network(covariance=True, pixels=True)]
    torch.manual_seed(5)
    first = delineate(image, nets, samples=6)
    torch.manual_seed(6)
    again = delineate(image, nets, samples=6)
    for name in ("landmarks", "samples", "covariance", "latent", "displacement", "organs"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.samples.shape == (6, N, 2)
    assert len({draw.tobytes() for draw in first.samples}) == 6


def test_landmarks_are_those_of_the_latents_mean(image) -> None:
    net = network()
    with torch.no_grad():
        expected = net(image)[0].double().numpy()
    np.testing.assert_allclose(delineate(image, [net], samples=3).landmarks, expected, atol=1e-6)


def test_covariance_is_the_heads_and_the_spread_of_the_draws(image) -> None:
    net = network(covariance=True)
    found = delineate(image, [net], samples=9)
    encoding = net.encode(image)
    head = net.decode(encoding.mu, encoding.maps).covariance[0]
    own = losses.covariance_matrix(head.detach().double()).numpy()
    away = found.samples - found.landmarks
    spread = sum(a[:, :, None] * a[:, None] for a in away) / 8
    np.testing.assert_allclose(found.covariance, own + spread, atol=1e-9, rtol=1e-5)
    np.testing.assert_allclose(found.sd**2, found.covariance[:, [0, 1], [0, 1]])
    assert (np.linalg.eigvalsh(found.covariance) > 0).all()


def test_several_networks_share_the_draws_and_their_disagreement_counts(image) -> None:
    nets = [network(0), network(1), network(2)]
    alone = [delineate(image, [net], samples=4) for net in nets]
    found = delineate(image, nets, samples=10)
    np.testing.assert_allclose(found.landmarks, np.mean([a.landmarks for a in alone], axis=0))
    assert len(found.samples) == 12, "four each, so that there are at least ten"
    np.testing.assert_array_equal(found.samples[4:8], alone[1].samples)
    np.testing.assert_array_equal(found.latent, alone[0].latent)
    apart = np.var([a.landmarks for a in alone], axis=0)
    assert np.median(found.sd**2 / apart) > 0.9


def test_a_network_without_a_latent_has_no_spread(image) -> None:
    found = delineate(image, [Plain()], samples=5)
    np.testing.assert_array_equal(found.samples[0], found.landmarks)
    assert found.samples.shape == (1, N, 2)
    assert not found.covariance.any()
    assert found.displacement is None
    assert found.latent.size == 0


def test_displacement_is_the_last_step(image) -> None:
    net = network()
    found = delineate(image, [net], samples=2)
    with torch.no_grad():
        encoding = net.encode(image)
        shape = net.decode(encoding.mu, encoding.maps)
    steps = (shape.landmarks - shape.positions[-1])[0].norm(dim=1).double().numpy()
    np.testing.assert_allclose(found.displacement, steps, atol=1e-6)


@pytest.mark.parametrize("size", [64, 256])
def test_an_occlusion_is_a_black_square_of_its_size_over_the_middle(size) -> None:
    shown = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0)) + 0.5
    counts: dict[float, int] = {}
    for kind, level, number, changed in perturbed(shown):
        if kind != "occlusion":
            continue
        counts[level] = counts.get(level, 0) + 1
        assert number < counts[level]
        rows, columns = np.nonzero((changed != shown)[0, 0].numpy())
        side = level / 1024 * size
        if not level:
            assert torch.equal(changed, shown)
            continue
        assert (changed[0, 0][rows, columns] == shown.min()).all(), "as dark as the darkest"
        for place in (rows, columns):
            assert abs(place.max() + 1 - place.min() - side) <= 2, "its darkest pixel may be in it"
            assert place.min() >= size / 4 - 1
            assert place.max() < size * 3 / 4 + side + 1
        assert len(rows) >= (side - 1) ** 2 - 1
    assert counts == {0.0: 1} | {float(side): 7 for side in SIDES_PX[1:]}


def test_identity_levels_leave_the_image(image) -> None:
    found = {(kind, level): changed for kind, level, _, changed in perturbed(image)}
    for kind, level in (("occlusion", 0.0), ("offset", 0.0), ("gamma", 1.0)):
        torch.testing.assert_close(found[kind, level], image)
    shift = found["offset", 0.3] - image
    torch.testing.assert_close(
        shift, torch.full_like(image, 0.3 * float(image.max() - image.min()))
    )
    for gamma in (0.5, 2.0):
        changed = found["gamma", gamma]
        assert changed.min() == image.min()
        torch.testing.assert_close(changed.max(), image.max())
        assert (changed.mean() > image.mean()) == (gamma < 1)


def test_perturbations_repeat_and_leave_a_constant_image_finite() -> None:
    flat = torch.full((1, 1, 32, 32), 3.0)
    first, again = list(perturbed(flat)), list(perturbed(flat))
    assert all(torch.equal(a[-1], b[-1]) for a, b in zip(first, again, strict=True))
    assert all(bool(torch.isfinite(changed).all()) for *_, changed in first)


def test_evidence_counts_crossings_and_compares_the_pixel_head(image) -> None:
    net = network(pixels=True)
    found = delineate(image, [net], samples=2)
    features, signals = evidence(found, ORGANS)
    assert set(signals) == {"uncertainty", "self_intersections", "displacement", "disagreement"}
    assert {"shape", "latent", "map_0", "map_1"} == set(features)
    part = slices(ORGANS)["heart"]
    angle = np.linspace(0, 2 * np.pi, 7, endpoint=False)
    points = np.full((N, 2), 0.5)
    points[part] = 0.5 + 0.3 * np.stack([np.cos(angle), np.sin(angle)], 1)
    crossed = points.copy()
    crossed[[part.start, part.start + 1]] = points[[part.start + 1, part.start]]
    numbers = []
    for landmarks in (points, crossed):
        changed = delineation.Delineation(**{**vars(found), "landmarks": landmarks})
        numbers.append(evidence(changed, ORGANS)[1]["self_intersections"])
    assert numbers[0] == 0 < numbers[1]


def test_a_gate_from_training_images_keeps_them_and_refuses_noise() -> None:
    net = network()
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
    source = torch.Generator().manual_seed(3)
    seen = []
    for number in range(12):
        x, y, grow = (0.1 * torch.randn(3, generator=source)).tolist()
        soft = torch.sigmoid(6 * (1 - ((columns - x) ** 2 + (rows - y) ** 2) * (3 + grow)))
        grain = 0.02 * torch.randn(32, 32, generator=source)
        seen += [(number, (soft + grain)[None, None]), (number, (soft - grain)[None, None])]
    gate = calibrated(seen, net, organs=ORGANS)

    def accepted(image: torch.Tensor) -> bool:
        features, signals = evidence(delineate(image, [net], samples=16), ORGANS)
        return gate.judge(image[0, 0].numpy(), features=features, signals=signals).accepted

    assert sum(accepted(image) for _, image in seen) >= len(seen) - 1
    assert not accepted(torch.rand(1, 1, 32, 32, generator=source))
    assert not accepted(torch.zeros(1, 1, 32, 32))
