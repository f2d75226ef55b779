"""The U-Net takes any block, any strides, two or three axes."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from medseg.models.unet import UNet
from medseg.nn.blocks.convnext import ConvNeXt
from medseg.nn.blocks.residual import Residual


@pytest.mark.parametrize("block", [None, partial(Residual, norm="instance"), ConvNeXt])
@pytest.mark.parametrize("ndim", [2, 3])
def test_any_block_in_any_dimension_keeps_size_and_learns(block, ndim):
    torch.manual_seed(0)
    network = UNet(3, 2, block=block, width=4, depth=2, ndim=ndim)
    image = torch.randn(1, 3, *(8, 12, 16)[:ndim])
    logits = network(image)
    assert logits.shape == (1, 2, *image.shape[2:])
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_strides_an_axis_and_level():
    network = UNet(1, 2, width=2, depth=3, ndim=3, strides=[(1, 2, 2), 2, 2])
    assert network.stride == (4, 8, 8)
    assert network(torch.randn(1, 1, 4, 8, 16)).shape == (1, 2, 4, 8, 16)


def test_widths_stop_at_the_largest():
    with torch.device("meta"):
        network = UNet(1, 2, width=32, depth=5, max_width=128)
    assert network.up[0].in_channels == 128


def test_images_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    network = UNet(2, 2, width=4, depth=2)
    image = torch.randn(3, 2, 16, 16)
    assert_close(network(image)[1:2], network(image[1:2]))


def test_a_bottom_of_one_voxel_trains():
    assert torch.isfinite(UNet(1, 2, width=4, depth=4)(torch.randn(1, 1, 16, 16))).all()


def test_wrong_strides_are_refused():
    with pytest.raises(ValueError, match="strides has 1 entries for depth 4"):
        UNet(1, 2, strides=[2])
