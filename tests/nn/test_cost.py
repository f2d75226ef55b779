"""Degrees of freedom and multiply-adds against counts by hand."""

import pytest
import torch
from torch import nn

from medseg.nn.complex.conv import Conv, ConvTranspose, Linear
from medseg.nn.complex.parts import from_parts
from medseg.nn.cost import dof, macs


class Complexly(nn.Module):
    """A complex layer behind an image in parts."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, image):
        return self.layer(from_parts(image))


def test_convolutions_transposed_ones_and_linear_maps_cost_what_the_hand_counts():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 12 * 10, 5),
    )
    small, full = 6 * 5, 12 * 10
    by_hand = small * 8 * 3 * 9 + small * 8 * 2 * 9 + small * 8 * 4 * 4 + 4 * full * 5
    assert macs(network, (3, 12, 10)) == by_hand


@pytest.mark.parametrize(("form", "real"), [("block", 4), ("gauss", 3), ("native", 3)])
def test_a_complex_convolution_costs_the_real_ones_that_are_made(form, real):
    assert macs(Complexly(Conv(3, 5, form=form)), (6, 6, 8)) == real * 6 * 8 * 3 * 5 * 9


def test_a_complex_matrix_product_costs_four_real_ones():
    layer = nn.Conv2d(3, 5, 3, dtype=torch.complex64)
    assert macs(Complexly(layer), (6, 8, 8)) == 3 * 6 * 6 * 3 * 5 * 9  # three real convolutions
    assert macs(Complexly(nn.Linear(8, 7, dtype=torch.complex64)), (6, 5, 8)) == 4 * 15 * 8 * 7


@pytest.mark.parametrize("channels", [(4, 6), (64, 128)])
def test_the_count_does_not_hang_on_the_kernel_that_a_device_prefers(channels):
    i, o = channels
    assert macs(Complexly(Conv(i, o)), (2 * i, 4, 4)) == 4 * i * o * 9 * 16


def test_transposed_complex_convolutions_and_single_voxels():
    assert macs(Complexly(ConvTranspose(4, 6)), (8, 3, 5)) == 4 * 15 * 4 * 6 * 4
    assert macs(Complexly(Conv(4, 6, kernel=1, ndim=3)), (8, 2, 3, 4)) == 4 * 24 * 4 * 6


def test_a_complex_linear_map_counts_four():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = Linear(4, 7)

        def forward(self, image):
            return self.map(from_parts(image).movedim(1, -1))

    assert macs(Last(), (8, 5)) == 4 * 5 * 4 * 7


def test_complex_numbers_are_two_degrees_of_freedom_and_frozen_ones_none():
    native = nn.Conv2d(4, 4, 3, dtype=torch.complex64)
    assert dof(native) == dof(Conv(4, 4)) == 2 * (4 * 4 * 9 + 4)
    native.bias.requires_grad_(False)
    assert dof(native) == 2 * 4 * 4 * 9


def test_counting_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    macs(network, (1, 8, 8))
    assert network.training
    assert all(module.training for module in network)
    for name, value in network.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])
