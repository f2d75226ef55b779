"""Inpainting as a task: what its loss looks at, what it learns from, what its scores pool."""

import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import centres
from medseg.models.skyreconnet import SkyReconNet
from medseg.models.wiener import Wiener
from medseg.sample import Batch
from medseg.tasks.inpaint import Inpaint

NSIDE = 16
PIXELS = 12 * NSIDE**2
SEEN = torch.from_numpy(np.abs(centres(NSIDE)[:, 2]) > 0.3)
NET = {"widths": [8], "dilations": [[1]], "decoder": [], "features": 8, "stem": 8}


def prior() -> Prior:
    degree = np.arange(2 * NSIDE + 1)
    power = np.divide(1e3, degree * (degree + 1.0), out=np.zeros(len(degree)), where=degree > 1)
    return Prior(np.stack([power, 0.1 * power, 0.05 * power, 0 * power]), 320.0, 1.0)


def batch(*seeds: int, unknown: Tensor | None = None) -> Batch:
    """Maps with their mask; NaN where `unknown`."""
    maps = np.stack([prior().draw(NSIDE, seed=seed) for seed in seeds])
    sky = torch.from_numpy(maps).float()
    if unknown is not None:
        sky[:, :, unknown] = torch.nan
    mask = SEEN.float().expand(len(seeds), 1, -1)
    names = tuple(map(str, seeds))
    return Batch(
        torch.cat([sky, mask], 1), None, names, torch.ones(len(seeds), 2, dtype=torch.bool)
    )


class Told(nn.Module):
    """A network whose answer is given, and that keeps what it was shown."""

    def __init__(self, mean: Tensor, deviation: Tensor | None = None, scale: float = 20.0) -> None:
        super().__init__()
        self.mean, self.deviation = nn.Parameter(mean), deviation
        self.register_buffer("scale", torch.tensor([scale]))

    def both(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        self.shown = image
        return self.mean, self.deviation

    def forward(self, image: Tensor) -> Tensor:
        return self.both(image)[0]


def noise(seed: int, count: int = 2) -> Tensor:
    return 20 * torch.randn(count, 1, PIXELS, generator=torch.Generator().manual_seed(seed))


def test_the_network_is_shown_nothing_of_the_holes() -> None:
    model = Told(noise(0))
    hidden = batch(1, 2)
    odd = Batch(torch.where(SEEN, hidden.image, 1e6), None, hidden.ids, hidden.present)
    odd.image[:, -1] = hidden.image[:, -1]
    for case in (hidden, odd):
        Inpaint(model).loss(case)
        assert_close(model.shown[:, 0], torch.where(SEEN, hidden.image[:, 0], 0.0))
        assert_close(model.shown[:, 1], SEEN.float().expand(2, -1))


def test_the_plain_loss_is_the_squared_error_of_holes_and_a_share_of_that_seen() -> None:
    case, model = batch(1, 2), Told(noise(0))
    task = Inpaint(model, observed=0.3, ssim=0, likelihood=0)
    error = ((model.mean - case.image[:, :1]) / 20).square()
    wanted = error[..., ~SEEN].mean() + 0.3 * error[..., SEEN].mean()
    assert_close(task.loss(case), wanted)


def test_pixels_that_nobody_knows_teach_nothing() -> None:
    unknown = torch.arange(PIXELS) % 7 == 0
    case, model = batch(1, 2, unknown=unknown), Told(noise(0), noise(4).abs() + 1)
    loss = Inpaint(model).loss(case)
    loss.backward()
    slope = model.mean.grad[..., unknown]
    assert bool(loss.isfinite())
    assert not slope.any()
    assert model.mean.grad[..., ~unknown & ~SEEN].ne(0).all()
    assert not model.shown[:, :, unknown].any()


def test_the_likelihood_teaches_the_deviation_and_leaves_the_mean_alone() -> None:
    case, spread = batch(1, 2), (noise(4).abs() + 5).requires_grad_()
    slopes = []
    for weight in (0.0, 5.0):
        model = Told(noise(0), spread)
        Inpaint(model, likelihood=weight).loss(case).backward()
        slopes.append(model.mean.grad)
    assert_close(slopes[0], slopes[1])
    assert spread.grad[..., ~SEEN].ne(0).all()
    assert not spread.grad[..., SEEN].any()


def test_the_likelihood_is_least_at_the_true_deviation() -> None:
    case, model = batch(1), Told(torch.zeros(1, 1, PIXELS))
    model.requires_grad_(False)
    true = case.image[0, 0, ~SEEN].square().mean().sqrt()
    found = []
    for factor in (0.8, 1.0, 1.25):
        model.deviation = torch.full((1, 1, PIXELS), float(true) * factor)
        found.append(Inpaint(model, likelihood=1.0).loss(case).item())
    assert found[1] < min(found[0], found[2])


def test_training_makes_the_loss_smaller() -> None:
    torch.manual_seed(0)
    model = SkyReconNet(2, **NET)
    model.scale.fill_(30.0)
    task, case = Inpaint(model), batch(1, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(8):
        optimizer.zero_grad()
        value = task.loss(case)
        value.backward()
        optimizer.step()
        seen.append(value.item())
    assert seen[-1] < 0.9 * seen[0]


def test_the_joined_score_is_the_pooled_nrmse_in_the_holes() -> None:
    mean = noise(0, 1)
    task, cases = Inpaint(Told(mean)), [batch(1), batch(2)]
    scores = [task.score(case) for case in cases]
    means = {name: float(np.mean([float(s[name]) for s in scores])) for name in scores[0]}
    found = task.joined(means)
    truth = torch.stack([case.image[0, 0, ~SEEN] for case in cases])
    wanted = ((mean[0, 0, ~SEEN] - truth).square().sum() / truth.square().sum()).sqrt()
    assert found["nrmse"] == pytest.approx(float(wanted), rel=1e-5)
    assert found["skill"] == 1 - found["nrmse"]
    assert found["loss"] == pytest.approx(means["loss"])


def test_validation_without_holes_is_refused() -> None:
    task, case = Inpaint(Told(noise(0, 1))), batch(1, unknown=~SEEN)
    means = {name: float(value) for name, value in task.score(case).items()}
    with pytest.raises(ValueError, match="no validation map has a hole whose truth is known"):
        task.joined(means)


class Data:
    """Prepared cases in memory."""

    def __init__(self, cases: Batch, folder: Path = Path(), channels=("map", "mask")) -> None:
        self.images, self.folder, self.channels = cases.image.numpy(), folder, channels
        self.meta = {"nside": NSIDE}

    def load(self, record: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(image=self.images[record.place])


def begun(task: Inpaint, data: Data, notes: dict[str, str]) -> Inpaint:
    records = [SimpleNamespace(place=n, notes=notes) for n in range(len(data.images))]
    task.begin(records, prepared=data, whole=functools.partial(torch.zeros))
    return task


def learnt(task: Inpaint) -> dict:
    return task.learnt([], val=[], device="cpu")


def test_the_sky_s_deviation_is_that_of_seen_training_pixels() -> None:
    case, model = batch(1, 2), SkyReconNet(2, **NET)
    case.image[:, :1, ~SEEN] *= 1e3
    begun(Inpaint(model), Data(case), {})
    assert_close(model.scale, case.image[:, 0, SEEN].square().mean().sqrt()[None])


def test_the_model_file_gets_nside_and_the_sheets_spectrum(tmp_path: Path) -> None:
    np.savez(tmp_path / "cl.npz", total=prior().spectrum.T)
    notes = {"spectrum": "cl.npz", "beam_arcmin": "320", "noise_uk": "1"}
    found = learnt(begun(Inpaint(SkyReconNet(2, **NET)), Data(batch(1), tmp_path), notes))
    assert found["nside"] == NSIDE
    np.testing.assert_allclose(found["prior"]["spectrum"], prior().spectrum, rtol=1e-8)
    assert (found["prior"]["beam_arcmin"], found["prior"]["noise_uk"]) == (320, 1)
    assert "prior" not in learnt(begun(Inpaint(SkyReconNet(2, **NET)), Data(batch(1)), {}))


def test_a_classical_method_is_scored_with_the_sheets_spectrum(tmp_path: Path) -> None:
    np.savez(tmp_path / "cl.npz", total=prior().spectrum.T)
    notes = {"spectrum": "cl.npz", "beam_arcmin": "320", "noise_uk": "1"}
    case = batch(1)
    task = begun(Inpaint(Wiener()), Data(case, tmp_path), notes)
    found = task.score(case)
    assert "loss" not in found
    hidden = np.where(SEEN, case.image[0, :1].double(), 0)
    exact = Wiener().fill(hidden, seen=SEEN.numpy(), prior=prior())
    error = np.square(exact - case.image[0, :1].numpy()) * ~SEEN.numpy()
    assert float(found["squared_error"]) == pytest.approx(error.mean(), rel=1e-4)  # float32


def test_data_that_teach_no_filling_are_refused() -> None:
    task = Inpaint(SkyReconNet(2, **NET))
    with pytest.raises(ValueError, match=r"channels that end with mask, such as \[map, mask\]"):
        begun(task, Data(batch(1), channels=("mask", "map")), {})
    blank = batch(1)
    blank.image[:, :1] = 0
    with pytest.raises(ValueError, match="0 wherever they are seen; are these the right maps"):
        begun(task, Data(blank), {})
    for name in ("observed", "ssim", "likelihood"):
        with pytest.raises(ValueError, match=f"task.{name}=-1; a weight is 0 or more"):
            Inpaint(SkyReconNet(2, **NET), **{name: -1})
