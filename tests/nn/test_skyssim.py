"""Structural similarity on faces: the reference's values inside a face, no seams, a gradient."""

import torch
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from medseg.geometry.symmetry import rotations_about_axis
from medseg.metrics.sky import similarity
from medseg.nn.faces import to_faces
from medseg.nn.skyssim import near_holes, sky_ssim, ssim_loss

NSIDE = 16
RANGE = 6.0


def skies(many=1, fields=1):
    dice = torch.Generator().manual_seed(0)
    target = torch.randn(many, fields, 12 * NSIDE**2, generator=dice)
    return target + 0.5 * torch.randn(target.shape, generator=dice), target


def test_inside_a_face_it_is_the_references():
    found, target = skies()
    ours = to_faces(sky_ssim(found, target, data_range=RANGE))
    x, y = to_faces(found), to_faces(target)
    inner = (slice(5, -5),) * 2
    for face in range(12):
        _, full = structural_similarity(
            x[face, 0].double().numpy(), y[face, 0].double().numpy(), data_range=RANGE, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        # Float32 differences of squares near one.
        assert_close(ours[face, 0][inner].double(), torch.tensor(full)[inner], atol=2e-5, rtol=0)


def test_it_is_the_score_that_evaluate_tells():
    found, target = skies()
    ours = sky_ssim(found.double(), target.double(), data_range=RANGE)[0, 0]
    scored = similarity(found[0, 0].numpy(), target[0, 0].numpy(), data_range=RANGE)
    assert_close(ours, torch.tensor(scored), rtol=0, atol=1e-9)


def test_a_sky_is_wholly_like_itself():
    found, _ = skies(2, 2)
    assert_close(sky_ssim(found, found, data_range=RANGE), torch.ones_like(found))
    assert_close(ssim_loss(found, found, data_range=RANGE), torch.zeros(()), atol=1e-6, rtol=0)


def test_a_quarter_turn_turns_it():
    found, target = skies()
    each = sky_ssim(found, target, data_range=RANGE)
    for turn in torch.tensor(rotations_about_axis(NSIDE)):
        turned = sky_ssim(found[..., turn], target[..., turn], data_range=RANGE)
        assert_close(turned, each[..., turn], atol=1e-5, rtol=0)


def test_only_weighted_windows_count():
    found, target = skies(2, 2)
    weight = torch.zeros(2, 1, found.shape[-1])
    weight[0, 0, 100] = 1
    each = sky_ssim(found, target, data_range=RANGE)
    loss = ssim_loss(found, target, data_range=RANGE, weight=weight)
    assert_close(loss, 1 - each[0, :, 100].mean())


def test_near_holes_is_a_square_about_each():
    seen = torch.ones(1, 1, 12 * NSIDE**2)
    seen[0, 0, 300] = 0
    assert near_holes(seen, reach=2).sum() == 25
    assert near_holes(seen, reach=0).sum() == 1


def test_its_gradient_is_that_of_differences():
    found, target = skies()
    found, target = found.double().requires_grad_(), target.double()
    way = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = ssim_loss(found, target, data_range=RANGE)
    (gradient,) = torch.autograd.grad(loss, found)
    step = 1e-5
    with torch.no_grad():
        ends = [ssim_loss(found + s * way, target, data_range=RANGE) for s in (step, -step)]
    assert_close((gradient * way).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-10)
