"""Layers by number of axes."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.nn.conv import activation, check_size, conv, norm, padded, stride_of, transposed


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 2), (5, 1), ((3, 1), (4, 1))])
def test_convolution_keeps_size(kernel, dilation):
    x = torch.zeros(1, 2, 11, 13)
    assert conv(2, 3, kernel=kernel, dilation=dilation)(x).shape == (1, 3, 11, 13)


@pytest.mark.parametrize("kernel", [None, 3])
def test_transposed_convolution_multiplies_size(kernel):
    layer = transposed(2, 3, kernel=kernel, stride=(1, 2, 3), ndim=3)
    assert layer(torch.zeros(1, 2, 4, 4, 4)).shape == (1, 3, 4, 8, 12)


def test_instance_norm_equals_torch_and_allows_a_single_voxel():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 7)
    assert_close(norm(6, "instance")(x), nn.InstanceNorm2d(6)(x))
    assert_close(norm(6, "instance")(x[..., :1, :1]), torch.zeros(2, 6, 1, 1), atol=1e-4, rtol=0)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="layer"):
        norm(4, "layer")
    with pytest.raises(ValueError, match="swish"):
        activation("swish")
    with pytest.raises(ValueError, match="ndim"):
        conv(1, 1, ndim=1)


def test_sizes_are_padded_to_the_stride():
    assert stride_of([(1, 2), 2, 2], 2) == (4, 8)
    assert padded((5, 16), (4, 8)) == (8, 16)
    check_size((8, 16), (4, 8))
    with pytest.raises(ValueError, match=r"pad it to \(8, 16\)"):
        check_size((8, 15), (4, 8))
