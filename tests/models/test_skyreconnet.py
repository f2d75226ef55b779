"""SkyReconNet: symmetry, homogeneity, what is hidden stays hidden, any nside, all grids."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.testing import assert_close

from medseg.geometry.sphere import centres
from medseg.geometry.symmetry import rotations_about_axis
from medseg.models.skyreconnet import SkyReconNet
from medseg.nn.cost import dof

PRESETS = Path(__file__).parents[2] / "conf/model"
NSIDE = 16
SMALL = {"widths": (16, 16), "dilations": ((2, 4), (2,)), "decoder": ((2,),), "stem": 8}
PLAIN = {**SMALL, "gates": "none", "fill": "none"}
KINDS = [SMALL, {**SMALL, "fill": "none"}, PLAIN, {**PLAIN, "fill": "pyramid"}]


def network(fields=1, **options):
    """A network whose last layer does not start as zero."""
    torch.manual_seed(0)
    net = SkyReconNet(fields + 1, **options)
    for weight in net.body.head.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    net.scale.fill_(50.0)
    return net.eval()


def image(many=1, fields=1, nside=NSIDE, holes=True):
    dice = torch.Generator().manual_seed(1)
    fields = 50 * torch.randn(many, fields, 12 * nside**2, generator=dice)
    seen = np.abs(centres(nside)[:, 2]) > 0.3
    mask = torch.tensor(seen, dtype=torch.float32).expand(many, 1, -1)
    mask = mask * (torch.rand(mask.shape, generator=dice) > 0.1) if holes else mask * 0 + 1
    return torch.cat([fields * mask, mask], 1)


@pytest.mark.parametrize("options", KINDS)
def test_quarter_turns_about_the_axis_are_kept(options):
    net, sky = network(**options), image()
    with torch.no_grad():
        found = net.both(sky)
        for turn in torch.tensor(rotations_about_axis(NSIDE).copy()):
            for mine, theirs in zip(found, net.both(sky[..., turn]), strict=True):
                # 1e-5 of the maps' deviation of 50 µK.
                assert_close(theirs, mine[..., turn], atol=5e-4, rtol=1e-5)


def test_with_gates_it_is_linear_in_the_map():
    net, sky = network(2, **SMALL), image(2, 2)
    mask = sky[:1, -1:]
    first, second = (sky[i : i + 1, :-1] * mask for i in (0, 1))
    with torch.no_grad():
        one, other, both = (
            net(torch.cat([m, mask], 1)) for m in (first, second, 3 * first - 2 * second)
        )
    assert_close(both, 3 * one - 2 * other, atol=2e-3, rtol=1e-4)
    assert one.abs().mean() > 1


def test_without_gates_it_is_not():
    net, sky = network(**PLAIN), image()
    with torch.no_grad():
        twice = net(torch.cat([2 * sky[:, :1], sky[:, 1:]], 1))
        assert (twice - 2 * net(sky)).abs().mean() > 0.1


@pytest.mark.parametrize("options", KINDS)
def test_what_is_hidden_never_matters(options):
    net, sky = network(**options), image()
    other = sky.clone()
    other[:, :1] += 1000 * torch.randn(sky[:, :1].shape) * (1 - sky[:, 1:])
    with torch.no_grad():
        for mine, theirs in zip(net.both(sky), net.both(other), strict=True):
            assert torch.equal(mine, theirs)


def test_the_deviation_depends_on_the_mask_alone_and_keeps_its_gradient():
    net, sky = network(**SMALL), image()
    other = torch.cat([torch.randn_like(sky[:, :1]), sky[:, 1:]], 1)
    deviation, again = net.both(sky)[1], net.both(other)[1]
    assert torch.equal(deviation, again)
    assert (deviation > 0).all()
    deviation.log().sum().backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None}
    assert moved
    assert all(name.startswith("spread.") for name in moved)


@pytest.mark.parametrize(
    ("grid", "fields"), [("faces", 1), ("faces", 2), ("regions", 3), ("equirectangular", 1)]
)
def test_every_grid_and_every_field_learns(grid, fields):
    """Twenty steps bring mean and deviation below the fill that it starts from."""
    torch.manual_seed(0)
    net, sky = SkyReconNet(fields + 1, **SMALL, grid=grid), image(2, fields)
    net.scale.fill_(50.0)
    truth = image(2, fields, holes=False)[:, :fields]
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    hidden, told = (sky[:, -1:] == 0).expand_as(truth), []
    for _ in range(21):
        mean, deviation = net.both(sky)
        left, told_by = (mean - truth)[hidden], deviation[hidden]
        error = left.square().mean() / 50**2
        spread = (left.detach().square() / told_by.square() + 2 * told_by.log()).mean()
        told.append((error.item(), spread.item()))
        optimiser.zero_grad()
        (error + spread).backward()
        optimiser.step()
    with torch.no_grad():
        fill = SkyReconNet(fields + 1, **SMALL, grid=grid)(sky)
    assert told[0][0] == pytest.approx(float((fill - truth)[hidden].square().mean()) / 50**2)
    assert told[-1][0] < 0.9 * told[0][0]
    assert told[-1][1] < told[0][1]


def test_the_same_weights_keep_quarter_turns_at_every_nside():
    """Also after another nside's tables were made, of which none may stay."""
    net, small = network(**SMALL), image()
    with torch.no_grad():
        before, sky = net(small), image(nside=32)
        found = net(sky)
        turn = torch.tensor(rotations_about_axis(32)[1].copy())
        assert_close(net(sky[..., turn]), found[..., turn], atol=5e-4, rtol=1e-5)
        assert (found * sky[:, 1:] - sky[:, :1]).abs().mean() > 1  # more than the fill
        assert torch.equal(net(small), before)


def test_skies_of_a_batch_do_not_mix():
    for options in (SMALL, PLAIN):
        net, skies = network(**options), image(3)
        with torch.no_grad():
            assert_close(net(skies)[1:2], net(skies[1:2]), atol=1e-3, rtol=1e-5)


def test_it_starts_from_the_fill():
    torch.manual_seed(0)
    sky = image()
    with torch.no_grad():
        mean = SkyReconNet(**SMALL)(sky)
    assert_close(mean * sky[:, 1:], sky[:, :1], atol=1e-4, rtol=1e-5)


def test_scales_are_one_a_field():
    net, sky = network(2, **SMALL), image(1, 2)
    with torch.no_grad():
        mean = net(sky)
        net.scale.mul_(torch.tensor([1.0, 4.0]))
        sky[:, 1] *= 4
        again = net(sky)
    assert_close(again, mean * torch.tensor([1.0, 4.0])[:, None], atol=2e-3, rtol=1e-4)


def test_the_plain_preset_is_the_design():
    plain = yaml.safe_load((PRESETS / "skyreconnet_s.yaml").read_text())
    del plain["_target_"]
    net = SkyReconNet(**plain, uncertainty=False)
    near = [m.dilation[0] for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sorted(d for d in near if d > 1) == [2, 2, 4, 4, 4, 8, 8, 8, 16]
    assert 4e5 < dof(net) < 6e5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"in_channels": 1}, "2 \\(T, mask\\)"),
        ({"widths": (16,)}, "a row of dilations a width"),
        ({"widths": (16, 12, 16)}, "multiple of 8"),
        ({"gates": "both"}, "choose one of mask, none"),
        ({"grid": "cube"}, "choose one of faces, regions"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SkyReconNet(**options)
