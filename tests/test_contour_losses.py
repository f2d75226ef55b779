"""Losses of contours: values in closed form, gradients by differences, and a circle that moves."""

import math
import time

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medseg import losses


def circle(n: int, *, radius: float = 0.3, at: tuple[float, float] = (0.5, 0.5)) -> torch.Tensor:
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    return torch.stack([at[0] + radius * angle.cos(), at[1] + radius * angle.sin()], -1)[None]


def rough(n: int, seed: int, batch: int = 2) -> torch.Tensor:
    """A circle with every node moved, in double precision, with a gradient."""
    source = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, n, 2, generator=source, dtype=torch.float64)
    return (circle(n) + 0.02 * noise).requires_grad_()


def signed_area(points: torch.Tensor) -> torch.Tensor:
    x, y = points.unbind(-1)
    return ((x * y.roll(-1, 1) - x.roll(-1, 1) * y).sum(1) / 2).abs()


def test_the_landmark_error_is_over_coordinates_and_leaves_out_the_unknown() -> None:
    found = torch.zeros(2, 3, 2, requires_grad=True)
    target = torch.tensor([[[3.0, 4], [1, 1], [float("nan")] * 2], [[float("nan")] * 2] * 3])
    loss = losses.landmark_mse(found, target)
    assert_close(loss, torch.tensor(27 / 4))
    loss.backward()
    assert found.grad is not None
    assert found.grad.isfinite().all()
    assert not found.grad[1].any()
    first = torch.tensor([[True, False, True], [True, True, True]])
    assert_close(losses.landmark_mse(found, target, mask=first), torch.tensor(12.5))
    nothing = losses.landmark_mse(found, torch.full_like(found, float("nan")))
    nothing.backward()
    assert nothing.item() == 0
    whole = torch.rand(4, 7, 2), torch.rand(4, 7, 2)
    assert_close(losses.landmark_mse(*whole), torch.nn.functional.mse_loss(*whole))


def test_the_divergence_is_a_mean_and_that_of_torch() -> None:
    source = torch.Generator().manual_seed(0)
    mu, logvar = (torch.randn(3, 64, generator=source) for _ in range(2))
    normal = torch.distributions.Normal(mu, (logvar / 2).exp())
    unit = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    wanted = torch.distributions.kl_divergence(normal, unit).mean()
    assert_close(losses.kl(mu, logvar), wanted)
    assert_close(losses.kl(torch.zeros(2, 4), torch.zeros(2, 4)), torch.tensor(0.0))


def test_the_likelihood_is_that_of_a_normal_in_the_plane() -> None:
    source = torch.Generator().manual_seed(1)
    found, target = (torch.rand(2, 5, 2, generator=source, dtype=torch.float64) for _ in range(2))
    parameters = torch.randn(2, 5, 3, generator=source, dtype=torch.float64)
    covariance = losses.covariance_matrix(parameters)
    normal = torch.distributions.MultivariateNormal(found, covariance)
    nll = losses.gaussian_nll(found, target, covariance=parameters)
    assert_close(nll, -normal.log_prob(target).mean())
    target[0, 2] = float("nan")
    kept = torch.ones(2, 5, dtype=torch.bool)
    kept[0, 2] = kept[1, 1] = False
    some = losses.gaussian_nll(found, target, covariance=parameters, mask=kept)
    safe = target.nan_to_num()
    assert_close(some, -normal.log_prob(safe)[kept].mean())


def test_the_likelihood_has_the_gradient_of_differences() -> None:
    target, parameters = rough(4, 2).detach(), rough(6, 3).detach().reshape(2, 4, 3)
    assert torch.autograd.gradcheck(
        lambda p, c: losses.gaussian_nll(p, target, covariance=c),
        (rough(4, 4), parameters.requires_grad_()),
    )


def test_a_contour_lies_on_its_own_refinement() -> None:
    coarse = rough(12, 0)
    middle = (coarse + coarse.roll(-1, 1)) / 2
    fine = torch.stack([coarse, middle], 2).flatten(1, 2).detach()
    assert losses.contour_distance(coarse, fine).item() < 1e-15


def test_the_contour_distance_is_the_brute_one() -> None:
    found, outline = rough(9, 1).detach(), rough(23, 2).detach()

    def off(point: np.ndarray, corners: np.ndarray) -> float:
        share = np.linspace(0, 1, 2001)[:, None]
        ends = np.roll(corners, -1, axis=0)
        return min(
            float(np.hypot(*(a + share * (b - a) - point).T).min())
            for a, b in zip(corners, ends, strict=True)
        )

    each = [
        np.mean([off(p, f) for p in o]) + np.mean([off(p, o) for p in f])
        for f, o in zip(found.numpy(), outline.numpy(), strict=True)
    ]
    loss = losses.contour_distance(found, outline, squared=False)
    assert float(loss) == pytest.approx(np.mean(each), abs=1e-5)


def test_padding_and_unknown_outlines_do_not_count() -> None:
    found, outline = rough(9, 1).detach(), rough(23, 2).detach()
    alone = losses.contour_distance(found[:1], outline[:1])
    padded = torch.cat([outline, torch.full((2, 6, 2), float("nan"), dtype=torch.float64)], 1)
    padded[1] = float("nan")
    both = found.clone().requires_grad_()
    loss = losses.contour_distance(both, padded)
    assert_close(loss, alone)
    loss.backward()
    assert both.grad is not None
    assert both.grad.isfinite().all()
    assert not both.grad[1].any()


def test_an_open_contour_is_not_closed_for_the_distance() -> None:
    line = torch.tensor([[[0.0, 0], [1, 0], [1, 1]]])
    diagonal = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
    assert float(losses.contour_distance(line, diagonal)) < float(
        losses.contour_distance(line, diagonal, closed=False)
    )
    padded = torch.cat([line, torch.full((1, 4, 2), float("nan"))], 1)
    assert float(losses.contour_distance(line, padded, closed=False)) == 0


@pytest.mark.parametrize("squared", [True, False])
def test_the_contour_distance_has_the_gradient_of_differences(squared: bool) -> None:
    outline = rough(23, 5).detach()
    assert torch.autograd.gradcheck(
        lambda p: losses.contour_distance(p, outline, squared=squared), (rough(9, 6),)
    )


def test_the_shape_terms_of_a_regular_polygon() -> None:
    hexagon = circle(6, radius=0.2)
    assert_close(losses.elasticity(hexagon), hexagon.new_tensor(0.04))
    assert_close(losses.curvature(hexagon), hexagon.new_tensor(0.04))
    assert float(losses.evenness(hexagon)) < 1e-12
    path = torch.tensor([[[0.0, 0], [1, 0], [4, 0]]])
    assert_close(losses.elasticity(path, closed=False), torch.tensor(5.0))
    assert_close(losses.curvature(path, closed=False), torch.tensor(4.0))
    assert_close(losses.evenness(path, closed=False), torch.tensor(0.25))
    assert_close(losses.evenness(7 * path, closed=False), torch.tensor(0.25))


@pytest.mark.parametrize("name", ["elasticity", "curvature", "evenness"])
@pytest.mark.parametrize("closed", [True, False])
def test_the_shape_terms_have_the_gradient_of_differences(name: str, closed: bool) -> None:
    term = getattr(losses, name)
    assert torch.autograd.gradcheck(lambda p: term(p, closed=closed), (rough(7, 7),))


def test_nodes_that_fall_together_leave_the_gradients_finite() -> None:
    points = torch.full((1, 5, 2), 0.4, requires_grad=True)
    outline = circle(9).float()
    loss = losses.contour_distance(points, outline) + losses.evenness(points)
    (loss + losses.soft_raster(points, 8).sum()).backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("size", [16, 64, 128])
def test_the_soft_polygons_area_comes_to_the_polygons(size: int) -> None:
    points = rough(15, 8).detach()
    soft = losses.soft_raster(points, size, sharpness=4.0).mean((1, 2))
    assert_close(soft, signed_area(points), atol=0.4 / size**1.5, rtol=0)
    turned = losses.soft_raster(points.flip(1), size, sharpness=4.0).mean((1, 2))
    assert_close(turned, soft)


def test_a_sharp_soft_polygon_is_the_polygon_of_pixel_centres() -> None:
    points = rough(11, 9)
    soft = losses.soft_raster(points, 40, sharpness=200.0).detach()
    paths = pytest.importorskip("matplotlib.path")
    centres = (np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1) + 0.5) / 40
    for raster, corners in zip(soft, points.detach().numpy(), strict=True):
        inside = paths.Path(corners).contains_points(centres.reshape(-1, 2)).reshape(40, 40)
        assert (raster.round().bool().numpy() == inside).mean() > 0.999


def test_the_soft_polygon_has_the_gradient_of_differences() -> None:
    assert torch.autograd.gradcheck(
        lambda p: losses.soft_raster(p, 12, sharpness=1.5), (rough(7, 10),), atol=1e-5
    )


def test_what_a_contour_surrounds_twice_is_outside() -> None:
    twice = torch.cat([circle(30, radius=0.4), circle(30, radius=0.2)], 1)
    soft = losses.soft_raster(twice, 32, sharpness=8.0)[0]
    assert float(soft[16, 16]) < 0.01
    assert float(soft[16, 6]) > 0.99
    assert float(soft[16, 1]) < 0.01


def test_a_circle_moves_onto_a_disc() -> None:
    target = losses.soft_raster(circle(60, radius=0.25, at=(0.62, 0.55)), 32).round().float()
    points = circle(24, radius=0.15, at=(0.35, 0.45)).float().requires_grad_()
    optimiser = torch.optim.Adam([points], lr=0.01)
    for _ in range(100):
        optimiser.zero_grad()
        soft = losses.soft_raster(points, 32)
        overlap = 2 * (soft * target).sum() / (soft.sum() + target.sum())
        (1 - overlap + losses.curvature(points)).backward()
        optimiser.step()
    hard = losses.soft_raster(points.detach(), 32).round()
    assert 2 * (hard * target).sum() / (hard.sum() + target.sum()) > 0.97


def test_eight_soft_contours_and_their_gradient_take_under_sixty_milliseconds() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    points = circle(50).float().expand(8, -1, -1).clone().requires_grad_()
    times = []
    try:
        for _ in range(6):
            start = time.perf_counter()
            losses.soft_raster(points, 64).square().sum().backward()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(times) < 0.06
