"""Hybrid blocks: what is linear, what one padding saves, and norms of whole skies."""

import torch
from torch.nn import functional
from torch.testing import assert_close

from medseg.nn.hybrid import GatedHybrid, Hybrid, SkyNorm


def planes(channels=8, side=8, skies=1):
    dice = torch.Generator().manual_seed(0)
    return torch.randn(12 * skies, channels, side, side, generator=dice)


def test_one_padding_serves_both_convolutions():
    torch.manual_seed(0)
    block = GatedHybrid(8, gates=3, dilation=4)
    x, features = planes(), planes(3)
    inner, outer = block.gate(features).chunk(2, 1)
    both = torch.cat([block.near(x), block.far(x)], 1) * (1 + inner)
    expected = x * (1 + outer.tanh()) + block.fuse(both)
    assert_close(block(x, features), expected, atol=1e-5, rtol=1e-5)


def test_the_gated_block_is_linear_in_the_map():
    torch.manual_seed(0)
    block = GatedHybrid(8, gates=3, dilation=2)
    features = planes(3)
    first, second = planes(8, 8, 2).split(12)
    both = block(2 * first - second, features)
    apart = 2 * block(first, features) - block(second, features)
    assert_close(both, apart, atol=1e-5, rtol=1e-5)


def test_the_plain_block_is_its_formula():
    torch.manual_seed(0)
    block = Hybrid(16, dilation=4)
    x = planes(16)
    h = block.norm(x)
    seen = torch.cat([block.near(h), block.far(h)], 1)
    assert_close(block(x), x + block.fuse(functional.gelu(seen)), atol=1e-5, rtol=1e-5)


def test_a_norm_takes_the_whole_sky():
    torch.manual_seed(0)
    norm = SkyNorm(16, tiles=12)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = planes(16, 4, 2) * 3 + 1
    skies = x.unflatten(0, (2, 12)).transpose(1, 2)
    expected = functional.group_norm(skies, 8, norm.weight, norm.bias).transpose(1, 2).flatten(0, 1)
    assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)
