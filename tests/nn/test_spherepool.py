"""Pooling of NESTED maps: healpy's grading, torch's indices, the way back, whole parents only."""

import healpy
import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from medseg.geometry.sphere import Sphere
from medseg.nn.spherepool import (
    Pool,
    coarser,
    max_pool,
    max_pool_places,
    max_unpool,
    mean_pool,
    unpool,
)


def maps(*, innermost=False, nside=8):
    """Two skies of three channels; in memory, pixels innermost or channels."""
    x = torch.randn(2, 3, 12 * nside**2, generator=torch.Generator().manual_seed(0))
    return x.permute(2, 0, 1).contiguous().permute(1, 2, 0) if innermost else x


def test_the_mean_is_healpys_grading():
    x = maps()
    graded = healpy.ud_grade(list(x[0].double().numpy()), 4, order_in="NEST", order_out="NEST")
    assert_close(mean_pool(x)[0], torch.tensor(np.array(graded)).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("innermost", [False, True])
def test_values_places_and_the_way_back_are_those_of_torch(innermost):
    x = maps(innermost=innermost)
    values, places = functional.max_pool1d(maps(), 4, return_indices=True)
    found, where = max_pool_places(x)
    assert torch.equal(found, values)
    assert torch.equal(where, places)
    assert torch.equal(max_pool(x), values)
    back = functional.max_unpool1d(values, places, 4)
    assert torch.equal(max_unpool(found, where), back)
    assert torch.equal(unpool(x), functional.interpolate(maps(), scale_factor=4))


@pytest.mark.parametrize("kind", ["mean", "max", "max_places"])
@pytest.mark.parametrize("innermost", [False, True])
def test_the_order_of_memory_stays_where_channels_lie_innermost(kind, innermost):
    pool, x = Pool(kind), maps(innermost=innermost)
    y, places = pool(x)
    assert y.shape == (2, 3, 192)
    assert pool.back(y, places).shape == x.shape
    if innermost:
        assert y.permute(2, 0, 1).is_contiguous()
        assert pool.back(y, places).permute(2, 0, 1).is_contiguous()


@pytest.mark.parametrize("kind", ["mean", "max", "max_places"])
def test_gradients_are_those_of_differences(kind):
    pool = Pool(kind)
    x = maps(nside=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool.back(*pool(x)), x)


def test_what_is_pooled_from_an_unpooled_map_is_the_map():
    x = maps()
    for kind in ("mean", "max"):
        pool = Pool(kind)
        assert_close(pool(pool.back(x))[0], x)


def test_the_sum_over_the_sky_stays():
    x = maps().double()
    assert_close(4 * mean_pool(x).sum(-1), x.sum(-1))
    assert_close(max_unpool(*max_pool_places(x)).sum(-1), max_pool(x).sum(-1))


def test_a_part_of_the_sky_has_parents_where_it_has_all_four_children():
    part = Sphere(4, pixels=np.array([4, 5, 6, 7, 100, 101, 102, 103]))
    parents = coarser(part)
    assert (parents.nside, parents.numbers().tolist()) == (2, [1, 25])
    assert coarser(Sphere(4)).same(Sphere(2))
    with pytest.raises(ValueError, match="1 of 2 pixels of nside 2 have only some"):
        coarser(Sphere(4, pixels=np.array([4, 5, 6, 7, 100, 101, 102])))


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(ValueError, match="nside 1 cannot"):
        coarser(Sphere(1))
    with pytest.raises(ValueError, match="NESTED"):
        coarser(Sphere(4, nest=False))
    with pytest.raises(ValueError, match="'median' is not known"):
        Pool("median")
