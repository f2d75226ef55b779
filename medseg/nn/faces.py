"""Convolutions on the sphere's twelve base faces, each an image padded by its neighbours.

Inside, a sky is a batch of square images in channels-last memory; outside it is one pixel axis in
NESTED order. Three grids: `faces`, padded from the neighbouring faces by one gather; `regions`,
the same squares on their own, padded by their own border; `equirectangular`, one plane of
colatitude and longitude, which goes round in longitude and over the poles.
"""

from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medseg.geometry import faces
from medseg.geometry.sphere import FACES, centres, nside_of

MEANS, SPREAD = (0.5, 1.11, 1.11, 0.15), 4.0
GRIDS = ("faces", "regions", "equirectangular")


def to_faces(maps: Float[Tensor, "b c n"]) -> Float[Tensor, "f c x y"]:
    """The twelve faces of each NESTED sky, sky after sky; x to north-east, y to north-west."""
    nside = nside_of(maps.shape[-1])
    pixels = maps.transpose(1, 2).index_select(1, _order(nside, maps.device))
    return rearrange(pixels, "b (k x y) c -> (b k) c x y", k=FACES, x=nside)


def from_faces(planes: Float[Tensor, "f c x y"]) -> Float[Tensor, "b c n"]:
    """NESTED skies of their faces; the way back from `to_faces`."""
    pixels = rearrange(planes, "(b k) c x y -> b (k x y) c", k=FACES)
    return pixels.index_select(1, _places(planes.shape[-1], planes.device)).transpose(1, 2)


def to_planes(maps: Float[Tensor, "b c n"], grid: str) -> Float[Tensor, "f c x y"]:
    """NESTED skies as the images of a grid: twelve a sky, or one plane 2 nside x 4 nside."""
    if grid != "equirectangular":
        return to_faces(maps)
    plane, _ = _plane(nside_of(maps.shape[-1]), maps.device)
    pixels = maps.transpose(1, 2).index_select(1, plane.flatten())
    return rearrange(pixels, "b (x y) c -> b c x y", x=plane.shape[0])


def from_planes(planes: Float[Tensor, "f c x y"], grid: str) -> Float[Tensor, "b c n"]:
    """NESTED skies of a grid's images; from the plane each pixel takes the place of its centre."""
    if grid != "equirectangular":
        return from_faces(planes)
    _, back = _plane(planes.shape[-2] // 2, planes.device)
    pixels = rearrange(planes, "b c x y -> b (x y) c")
    return pixels.index_select(1, back).transpose(1, 2)


def pad(planes: Float[Tensor, "f c x y"], width: int, *, grid: str) -> Float[Tensor, "f c u v"]:
    """Images with `width` pixels more on every side; at most a face's side on `faces`."""
    if width == 0:
        return planes
    if grid == "faces":
        return _pad_faces(planes, width)
    if grid == "regions":
        return functional.pad(planes, (width,) * 4, mode="replicate")
    half = planes.shape[-1] // 2
    north, south = planes[:, :, :width].flip(2), planes[:, :, -width:].flip(2)
    over = torch.cat([north.roll(half, 3), planes, south.roll(half, 3)], 2)
    return functional.pad(over, (width, width, 0, 0), mode="circular")


def _pad_faces(planes: Float[Tensor, "f c x y"], width: int) -> Float[Tensor, "f c u v"]:
    nside = planes.shape[-1]
    sources, corners, others = _padding(nside, width, planes.device)
    pixels = rearrange(planes, "(b k) c x y -> b (k x y) c", k=FACES)
    found = pixels.index_select(1, sources)
    both = pixels.index_select(1, others) - pixels.index_select(1, sources[corners])
    found.index_add_(1, corners, both, alpha=0.5)
    return rearrange(found, "b (k u v) c -> (b k) c u v", k=FACES, u=nside + 2 * width)


class FaceConv(nn.Conv2d):
    """A convolution of a grid's images that keeps their size.

    Args:
        in_channels: of the images.
        out_channels: of what comes out.
        kernel: odd size.
        dilation: pixels between the kernel's taps.
        bias: whether a constant is added.
        grid: one of `GRIDS`, how an image goes on beyond its border.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        dilation: int = 1,
        bias: bool = True,
        grid: str = "faces",
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}; take an odd one, so that it has a middle")
        if grid not in GRIDS:
            raise ValueError(f"grid {grid!r} is not known; choose one of {', '.join(GRIDS)}")
        super().__init__(in_channels, out_channels, kernel, dilation=dilation, bias=bias)
        self.grid = grid
        self.reach = dilation * (kernel // 2)

    def forward(self, planes: Float[Tensor, "f c x y"]) -> Float[Tensor, "f o x y"]:
        """Images of the same size."""
        return self.inside(pad(planes, self.reach, grid=self.grid))

    def inside(self, padded: Float[Tensor, "f c u v"]) -> Float[Tensor, "f o x y"]:
        """The convolution of images that are padded already; what is beyond `reach` is cut off."""
        return super().forward(padded)


@lru_cache(maxsize=16)
def position(nside: int) -> Float[np.ndarray, "4 n"]:
    """What the grid looks like at each NESTED pixel: |z| and the pixel's shape, of mean 0, about 1.

    The shape is the metric in the face's own x and y: squared lengths of a step along x and along
    y and the product of the two steps, in units of 1/nside². All four less their means, times 4.
    Nearly the same at every nside; a quarter turn about the axis changes none of it. Read-only.
    """
    first, second = faces.padded(nside, 1)
    points = (centres(nside)[first] + centres(nside)[second]) / 2
    points = points.reshape(FACES, nside + 2, nside + 2, 3)
    along_x = (points[:, 2:, 1:-1] - points[:, :-2, 1:-1]) * (nside / 2)
    along_y = (points[:, 1:-1, 2:] - points[:, 1:-1, :-2]) * (nside / 2)
    shape = [(along_x**2).sum(-1), (along_y**2).sum(-1), (along_x * along_y).sum(-1)]
    height = np.abs(centres(nside)[faces.raster(nside), 2]).reshape(FACES, nside, nside)
    found = np.empty((4, FACES * nside**2), dtype=np.float32)
    centred = np.stack([height, *shape]).reshape(4, -1) - np.array(MEANS)[:, None]
    found[:, faces.raster(nside)] = SPREAD * centred
    found.setflags(write=False)
    return found


@lru_cache(maxsize=32)
def _order(nside: int, device: torch.device) -> Int[Tensor, " n"]:
    return _kept(faces.raster(nside), device)


@lru_cache(maxsize=32)
def _places(nside: int, device: torch.device) -> Int[Tensor, " n"]:
    return _kept(np.argsort(faces.raster(nside)), device)


@lru_cache(maxsize=16)
def _plane(nside: int, device: torch.device) -> tuple[Int[Tensor, "r s"], Int[Tensor, " n"]]:
    plane, back = faces.equirectangular(nside)
    return _kept(plane, device), _kept(back, device)


@lru_cache(maxsize=64)
def _padding(
    nside: int, width: int, device: torch.device
) -> tuple[Int[Tensor, " m"], Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Sources of the padded places, which places have a second one, and that, all as faces."""
    place = np.argsort(faces.raster(nside))
    first, second = faces.padded(nside, width)
    corners = np.flatnonzero(first != second)
    others = place[second[corners]]
    return _kept(place[first], device), _kept(corners, device), _kept(others, device)


def _kept(table: Int[np.ndarray, "*s"], device: torch.device) -> Int[Tensor, "*s"]:
    """A tensor that serves training too, wherever it was first asked for."""
    with torch.inference_mode(mode=False):
        return torch.tensor(table, device=device)
