"""Pooling of NESTED maps, where four consecutive pixels have one parent, and the way back.

Source: Perraudin, Defferrard, Kacprzak, Sgier 2019, arXiv:1810.12186, section 3. The layers' order
of memory, pixels outermost, is kept.
"""

from dataclasses import replace

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from medseg.geometry.sphere import Sphere

CHILDREN = 4
KINDS = ("mean", "max", "max_places")


class Pool(nn.Module):
    """Pooling by name, to half the nside, and the unpooling that goes with it.

    Args:
        kind: mean, or max, whose way back repeats a parent's value for all its children; or
            max_places, whose way back puts it where the largest was, and 0 elsewhere.
    """

    def __init__(self, kind: str = "max") -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"pooling {kind!r} is not known; choose one of {', '.join(KINDS)}")
        self.kind = kind

    def forward(
        self, x: Float[Tensor, "b c n"]
    ) -> tuple[Float[Tensor, "b c m"], Int[Tensor, "b c m"] | None]:
        """The coarser map, and what `back` needs to know of the fine one."""
        if self.kind == "max_places":
            return max_pool_places(x)
        return (mean_pool if self.kind == "mean" else max_pool)(x), None

    def back(
        self, x: Float[Tensor, "b c m"], places: Int[Tensor, "b c m"] | None = None
    ) -> Float[Tensor, "b c n"]:
        """A map of the finer nside."""
        return unpool(x) if places is None else max_unpool(x, places)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return self.kind


def coarser(sphere: Sphere) -> Sphere:
    """The parents of a NESTED sky's pixels: where its maps lie when they are pooled.

    Raises:
        ValueError: pixels are not NESTED, have no parents, or a parent lacks some of its four.
    """
    if not sphere.nest:
        raise ValueError(f"pooling takes NESTED maps, and here is {sphere}; use .nested()")
    if sphere.nside == 1:
        raise ValueError("a map of nside 1 cannot be pooled; give a finer map or fewer levels")
    nside = sphere.nside // 2
    if sphere.pixels is None:
        return replace(sphere, nside=nside)
    parents, children = torch.unique(torch.as_tensor(sphere.pixels) // CHILDREN, return_counts=True)
    if bool((children < CHILDREN).any()):
        raise ValueError(
            f"{int((children < CHILDREN).sum())} of {len(parents)} pixels of nside {nside} have "
            f"only some of their 4 children among the {sphere}; give whole pixels of nside {nside}"
        )
    return replace(sphere, nside=nside, pixels=parents.numpy())


def mean_pool(x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c m"]:
    """The mean of every parent's children; this is `healpy.ud_grade` to half the nside."""
    return rearrange(_families(x).mean(1), "m b c -> b c m")


def max_pool(x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c m"]:
    """The largest of every parent's children; the gradient is shared among equals."""
    return rearrange(_families(x).amax(1), "m b c -> b c m")


def max_pool_places(
    x: Float[Tensor, "b c n"],
) -> tuple[Float[Tensor, "b c m"], Int[Tensor, "b c m"]]:
    """The largest of every parent's children, and the number of its pixel."""
    largest, child = _families(x).max(1)
    first = CHILDREN * torch.arange(len(child), device=x.device)
    places = child + first[:, None, None]
    return rearrange(largest, "m b c -> b c m"), rearrange(places, "m b c -> b c m")


def unpool(x: Float[Tensor, "b c m"]) -> Float[Tensor, "b c n"]:
    """Every parent's value for all its children."""
    fine = repeat(x, "b c m -> (m four) b c", four=CHILDREN)
    return rearrange(fine, "n b c -> b c n")


def max_unpool(x: Float[Tensor, "b c m"], places: Int[Tensor, "b c m"]) -> Float[Tensor, "b c n"]:
    """Every parent's value at the pixel that `max_pool_places` named, 0 at its other children."""
    values, places = (rearrange(t, "b c m -> m 1 b c") for t in (x, places))
    child = torch.arange(CHILDREN, device=x.device)[:, None, None]
    fine = torch.where(places % CHILDREN == child, values, 0)
    return rearrange(fine, "m four b c -> b c (m four)")


def _families(x: Float[Tensor, "b c n"]) -> Float[Tensor, "m 4 b c"]:
    return rearrange(x, "b c (m four) -> m four b c", four=CHILDREN)
