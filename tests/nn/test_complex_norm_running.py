"""Complex norms as modules: running values, memory layouts, precision, compilers, state."""

import pytest
import torch
from complex_inputs import (
    FLOAT32,
    FLOAT64,
    MODES,
    channels_last,
    covariance,
    improper,
    perturbed,
)
from torch.testing import assert_close

from medseg.nn.complex.norm import BatchNorm, GroupNorm, InstanceNorm, RMSNorm


def by_hand(batches):
    """Mean and rr, ii, ri of each batch."""
    for batch in batches:
        square, mean = covariance(batch)
        yield mean, torch.stack([square[:, 0, 0], square[:, 1, 1], square[:, 0, 1]], -1)


@pytest.mark.parametrize("mode", MODES)
def test_running_statistics_follow_three_batches(mode):
    layer = BatchNorm(3, mode=mode, momentum=0.3).double()
    mean, spread = torch.zeros(3, 2).double(), torch.tensor([0.5, 0.5, 0]).double().repeat(3, 1)
    batches = [improper(2, 3, 4, 5, seed=seed) * (seed + 1) for seed in range(3)]
    for found_mean, found_spread in by_hand(batches):
        mean, spread = 0.7 * mean + 0.3 * found_mean, 0.7 * spread + 0.3 * found_spread
    for batch in batches:
        layer(batch)
    assert_close(layer.running_mean, mean)
    assert_close(layer.running_covariance, spread)
    assert layer.num_batches_tracked == 3


def test_without_momentum_all_batches_count_alike():
    layer = BatchNorm(3, momentum=None).double()
    batches = [improper(2, 3, 4, 5, seed=seed) * (seed + 1) for seed in range(3)]
    for batch in batches:
        layer(batch)
    means, spreads = zip(*by_hand(batches), strict=True)
    assert_close(layer.running_mean, torch.stack(means).mean(0))
    assert_close(layer.running_covariance, torch.stack(spreads).mean(0))


def test_uncentred_running_statistics_are_about_zero():
    layer = BatchNorm(3, mode="circular", center=False, momentum=1.0).double()
    x = improper(2, 3, 4, 5)
    out = layer(x)
    assert not layer.running_mean.any()
    assert_close(layer.eval()(x), out, **FLOAT64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_evaluation_repeats_training_where_its_statistics_are_the_batch(mode, held, relative):
    layer = BatchNorm(3, mode=mode, momentum=1.0, eps_in_running=held, relative=relative).double()
    x = improper(2, 3, 4, 5)
    out = layer(x)
    assert_close(layer.eval()(x), out, **FLOAT64)


def test_without_tracking_evaluation_takes_the_batch():
    layer = BatchNorm(3, track=False)
    x = improper(2, 3, 4, 5, dtype=torch.complex64)
    assert_close(layer.eval()(x), layer.train()(x))
    assert set(layer.state_dict()) == {"gain", "bias"}


def test_evaluation_changes_no_statistics():
    layer = BatchNorm(3)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.eval()(improper(2, 3, 4, 5, dtype=torch.complex64))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 6, 3, 4, 5), (3, 6, 8)])
def test_any_memory_layout_gives_the_same(mode, shape):
    for layer in (BatchNorm(6, mode=mode), GroupNorm(3, 6, mode=mode), RMSNorm(6)):
        layer = perturbed(layer)
        x = improper(*shape, dtype=torch.complex64)
        slope = improper(*shape, seed=5, dtype=torch.complex64)
        first = x.clone().requires_grad_()
        second = channels_last(x).requires_grad_()
        one, other = layer(first), layer(second)
        assert_close(one, other)
        assert one.movedim(1, -1).is_contiguous()
        assert other.movedim(1, -1).is_contiguous()
        one.backward(slope)
        other.backward(channels_last(slope))
        assert_close(first.grad, second.grad)
        strided = torch.stack([x, x.conj()], -1)[..., 1].conj()
        assert_close(layer(strided), one.detach())


def test_many_blocks_give_the_same_as_one(monkeypatch):
    """Float32 sums of other blocks differ in the last bits alone."""
    x = improper(3, 6, 16, 10, dtype=torch.complex64)
    for layer in (BatchNorm(6), GroupNorm(2, 6)):
        results = []
        for block in (2**20, 2**7):
            monkeypatch.setattr("medseg.nn.complex.whitening._BLOCK", block)
            leaf = x.clone().requires_grad_()
            out = layer(leaf)
            out.backward(x.conj())
            results += [(out.detach(), leaf.grad)]
        for one, other in zip(*results, strict=True):
            assert_close(one, other, **FLOAT32)


@pytest.mark.parametrize("layer", [BatchNorm(4), GroupNorm(2, 4), RMSNorm(4)], ids=str)
def test_mixed_precision_changes_nothing(layer):
    x = improper(2, 4, 6, 6, dtype=torch.complex64).requires_grad_()
    plain = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(x)
    assert torch.equal(mixed, plain)
    one, other = (torch.autograd.grad(out.abs().sum(), x)[0] for out in (plain, mixed))
    assert torch.equal(one, other)


def test_a_compiler_sees_the_same_function(monkeypatch):
    for layer in (
        BatchNorm(4),
        BatchNorm(4).eval(),
        GroupNorm(2, 4),
        GroupNorm(2, 4, mode="split"),
    ):
        x = improper(2, 4, 5, 6).requires_grad_()
        layer = perturbed(layer.double())
        found = []
        for compiling in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(torch.compiler, "is_compiling", lambda on=compiling: on)
                out = layer(x)
            found.append([out, *torch.autograd.grad(out, [x, *layer.parameters()], x.detach())])
        for one, other in zip(*found, strict=True):
            assert_close(one, other, **FLOAT64)


def test_a_norm_can_be_exported():
    layer = torch.nn.Sequential(BatchNorm(3), InstanceNorm(3), RMSNorm(3)).eval()
    x = improper(2, 3, 4, 4, dtype=torch.complex64)
    program = torch.export.export(layer, (x,)).module()
    assert_close(program(x), layer(x))


def test_the_state_is_real_and_comes_back():
    layer = perturbed(BatchNorm(3))
    layer(improper(2, 3, 4, 4, dtype=torch.complex64))
    state = layer.state_dict()
    assert not any(value.is_complex() for value in state.values())
    again = BatchNorm(3)
    again.load_state_dict(state)
    x = improper(1, 3, 4, 4, seed=9, dtype=torch.complex64)
    assert torch.equal(again.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("layer", [BatchNorm(3), InstanceNorm(3)], ids=str)
def test_one_value_a_channel_is_refused_in_training(layer):
    x = improper(1, 3, 1, 1, dtype=torch.complex64)
    with pytest.raises(ValueError, match="one value per channel"):
        layer(x)
    BatchNorm(3).eval()(x)
    BatchNorm(3, mode="circular", center=False)(x)


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="choose a divisor of 4"):
        GroupNorm(3, 4)
