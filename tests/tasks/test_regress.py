"""Regression: its scale, its loss over what is known, its pooled score."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medseg.models.threshold import Threshold
from medseg.sample import Batch
from medseg.tasks.regress import Regress, _statistics

NAMES = ("u", "v")
WHOLE = functools.partial(torch.zeros)


class Copy(nn.Module):
    """The inputs as they are."""

    def forward(self, image):
        return image


def task(**changes) -> Regress:
    made = Regress(Copy(), 2, **changes)
    made.mean = torch.tensor([0.0, 0.0, 10.0, 0.0])
    made.deviation = torch.tensor([1.0, 1.0, 2.0, 5.0])
    made.names = NAMES
    return made


def batch(inputs: torch.Tensor, truth: torch.Tensor) -> Batch:
    image = torch.cat([inputs, truth], 1)
    return Batch(image, None, ("x",) * len(image), torch.ones(image.shape[:2], dtype=torch.bool))


def prepared(maps: np.ndarray) -> SimpleNamespace:
    samples = [SimpleNamespace(image=one, meta={"units": {"u": "mK", "v": "km/s"}}) for one in maps]
    meta = {"nside": 4, "footprint": None, "regrids": False}
    about = {"channels": ("x", *NAMES), "inputs": ("x",), "targets": NAMES}
    return SimpleNamespace(load=samples.__getitem__, meta=meta, **about)


@pytest.fixture
def maps() -> np.ndarray:
    """Six cases of one input and two targets, of which some pixels are not known."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(6, 3, 192)) * [[1], [3], [0.1]] + [[0], [1e4], [-2]]
    found[:, 1:][rng.random((6, 2, 192)) < 0.3] = np.nan
    return found.astype(np.float32)


def test_mean_and_deviation_are_those_of_all_known_pixels(maps: np.ndarray) -> None:
    mean, deviation = _statistics(prepared(maps), range(6))
    wanted = maps.astype(np.float64).swapaxes(0, 1).reshape(3, -1)
    np.testing.assert_allclose(mean, np.nanmean(wanted, 1), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(deviation, np.nanstd(wanted, 1), rtol=1e-9)


def test_what_is_learnt_is_told_with_units(maps: np.ndarray) -> None:
    made = Regress(Copy(), 2)
    made.begin(range(6), prepared=prepared(maps), whole=WHOLE)
    told = made.learnt([], val=[], device="cpu")
    assert told["targets"] == ["u", "v"]
    assert [one["unit"] for one in told["scales"].values()] == [None, "uK", "km/s"]
    assert told["nside"] == 4
    assert "footprint" not in told


def test_inputs_are_seen_about_their_mean_and_in_deviations() -> None:
    made = task()
    made.mean[:2], made.deviation[:2] = 7, 3
    inputs = 7 + 3 * torch.randn(1, 2, 12, generator=torch.Generator().manual_seed(0))
    scaled = (inputs - 7) / 3
    truth = scaled * made.deviation[2:, None] + made.mean[2:, None]
    assert float(made.loss(batch(inputs, truth))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("loss", "wanted"), [("mse", 0.5 * (1 + 4)), ("l1", 0.5 * (1 + 2))])
def test_the_loss_counts_deviations(loss: str, wanted: float) -> None:
    inputs = torch.stack([torch.zeros(1, 12), torch.zeros(1, 12)], 1)
    truth = torch.stack([torch.full((1, 12), 12.0), torch.full((1, 12), -10.0)], 1)
    found = task(loss=loss).loss(batch(inputs, truth))
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_unknown_targets_and_inputs_take_no_part() -> None:
    torch.manual_seed(0)
    inputs, truth = torch.randn(2, 2, 12), torch.randn(2, 2, 12) * 5
    truth[:, :, ::3] = torch.nan
    inputs[:, :, ::3] = torch.nan
    inputs.requires_grad_()
    found = task().loss(batch(inputs, truth))
    found.backward()
    assert bool(inputs.grad.isfinite().all())
    assert not inputs.grad[:, :, ::3].any()
    left = [n for n in range(12) if n % 3]
    alone = task().loss(batch(inputs.detach()[..., left], truth[..., left]))
    torch.testing.assert_close(found, alone)


def test_nothing_known_costs_nothing() -> None:
    truth = torch.full((1, 2, 12), torch.nan)
    assert task().loss(batch(torch.zeros(1, 2, 12), truth)) == 0


def test_the_score_is_the_nrmse_of_all_cases_together() -> None:
    torch.manual_seed(1)
    made = task()
    cases = [(torch.randn(1, 2, 12), torch.randn(1, 2, 12) * 3 + 10) for _ in range(4)]
    found = [made.score(batch(*case)) for case in cases]
    joined = made.joined({name: sum(float(f[name]) for f in found) / 4 for name in found[0]})
    scale = made.deviation[2:, None], made.mean[2:, None]
    inputs, truth = (torch.cat([case[n] for case in cases]) for n in (0, 1))
    truth = (truth - scale[1]) / scale[0]
    errors, powers = ((x.square().sum((0, 2))) for x in (inputs - truth, truth))
    assert joined["nrmse"] == pytest.approx(float((errors.sum() / powers.sum()).sqrt()), rel=1e-5)
    assert joined["skill"] == 1 - joined["nrmse"]
    assert joined["nrmse_v"] == pytest.approx(float((errors[1] / powers[1]).sqrt()), rel=1e-5)


def test_methods_that_are_fitted_to_labels_and_other_losses_are_refused() -> None:
    fitted = Copy()
    fitted.fit = print
    with pytest.raises(ValueError, match="Copy is fitted to labels"):
        Regress(fitted, 2)
    with pytest.raises(ValueError, match="fit"):
        Regress(Threshold(2, 2), 2)


def test_maps_that_say_nothing_are_refused(maps: np.ndarray) -> None:
    maps[:, 2] = 3
    with pytest.raises(ValueError, match="target v is 3 wherever"):
        Regress(Copy(), 2).begin(range(6), prepared=prepared(maps), whole=WHOLE)
    with pytest.raises(ValueError, match="nothing can be scored"):
        task().joined({f"{what}_{n}": 0.0 for what in ("error", "power") for n in NAMES})
    with pytest.raises(ValueError, match="2 targets and task=regress wants 1"):
        Regress(Copy(), 1).begin(range(6), prepared=prepared(maps), whole=WHOLE)
