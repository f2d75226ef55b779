"""Spaces in files: what is told of a grid or a sphere gives it back."""

import json

import numpy as np
import pytest

from medseg.data import spaces
from medseg.geometry.grid import Grid
from medseg.geometry.sphere import Sphere
from medseg.provenance import plain

SKIES = {
    "whole": Sphere(8, frame="G"),
    "ring": Sphere(4, nest=False),
    "part": Sphere(8, pixels=np.array([0, 1, 2, 7, 9, 10, 767])),
    "one": Sphere(4, nest=False, pixels=np.array([5]), frame="E"),
}


def through_json(value):
    return json.loads(json.dumps(plain(value)))


@pytest.mark.parametrize("name", SKIES)
def test_a_sphere_comes_back_from_what_a_prepared_case_says_of_it(name: str) -> None:
    space = SKIES[name]
    about = through_json(spaces.spaced(space))
    found = spaces.restored(about, about["sphere"]["shape"])
    assert found.same(space)
    assert found.frame == space.frame
    assert about["spacing_mm"] == []


def test_pixels_are_told_in_runs() -> None:
    assert spaces.told(SKIES["part"])["pixels"] == [[0, 3], [7, 8], [9, 11], [767, 768]]
    assert spaces.told(SKIES["whole"])["pixels"] is None


def test_a_grid_comes_back_from_its_affine() -> None:
    grid = Grid((4, 5, 6), np.diag([1.0, 2, 3, 1]))
    about = through_json(spaces.spaced(grid))
    found = spaces.restored(about, (4, 5, 6))
    assert found.shape == grid.shape
    np.testing.assert_array_equal(found.affine, grid.affine)
    assert spaces.told(grid)["spacing_mm"] == (1, 2, 3)
    assert "nside" in spaces.native(SKIES["ring"])
    assert spaces.native(grid)["shape"] == grid.shape


def test_a_sphere_is_no_grid_and_that_is_said() -> None:
    grid = Grid((4, 5, 6), np.eye(4))
    assert spaces.as_grid(grid, "it") is grid
    with pytest.raises(ValueError, match=r"case a is a map of the sphere \(nside 8 NESTED, 7 of"):
        spaces.as_grid(SKIES["part"], "case a")
