"""What networks on the sphere are made of: convolution, normalisation, activation; ReZero blocks.

A unit takes its convolution from a factory of two numbers, the channels before and after it, so
that it need not know which graph the convolution works on.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medseg.geometry.sphere import FACES
from medseg.nn.conv import InstanceNorm, activation
from medseg.nn.sphere import ChebConv, Footprint, operator_of, sphere_of
from medseg.nn.stencil import chebyshev

Convolve = Callable[[int, int], nn.Module]
Widths = Sequence[int | Sequence[int]]

NORMS = ("batch", "instance", "group", "none")


class WideConv(ChebConv):
    """A Chebyshev convolution whose filters keep their angle on maps finer than those it learned.

    With L the rescaled Laplacian, -T(d)(L) has the spectrum in [-1, 1] that L has on a map of d
    times less nside, where that spectrum is smooth: T(k) becomes (-1)^k T(dk)(L), and between the
    pixels that the filter was learned on it takes those d steps away.

    Args:
        in_channels: of the maps that come.
        out_channels: of the maps that go.
        nside: of the maps it learns from; coarser ones are filtered pixel by pixel, as those.
        options: of `ChebConv`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, nside: int, **options: Any) -> None:  # noqa: ANN401
        super().__init__(in_channels, out_channels, **options)
        self.nside = nside

    def forward(self, x: Float[Tensor, "b i n"]) -> Float[Tensor, "b o n"]:
        """Maps of the same pixels."""
        times = footprint_nside(x.shape[-1], self.footprint) // self.nside
        if times < 2:
            return super().forward(x)
        order = len(self.weight)
        signs = (-1.0) ** torch.arange(order, device=x.device)
        wide = self.weight.new_zeros(times * (order - 1) + 1, *self.weight.shape[1:])
        wide[::times] = self.weight * signs[:, None, None]
        operator = operator_of(
            x, kind=self.kind, laplacian=self.laplacian, footprint=self.footprint
        )
        y = chebyshev(rearrange(x, "b i n -> n b i"), wide, operator=operator, bias=self.bias)
        return rearrange(y, "n b o -> b o n")


class PixelNorm(nn.BatchNorm1d):
    """Batch normalisation over all pixels of all skies, for maps whose channels lie innermost."""

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        """The normalised maps, their memory as it was."""
        rows = rearrange(x, "b c n -> (n b) c")
        return rearrange(super().forward(rows), "(n b) c -> b c n", b=x.shape[0])


def normalisation(channels: int, kind: str = "batch") -> nn.Module:
    """Normalisation of maps by name: batch, instance, group (of 8 channels where they divide)."""
    if kind == "batch":
        return PixelNorm(channels)
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 8) if channels % 8 == 0 else 1, channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm {kind!r} is not known; choose one of {', '.join(NORMS)}")


class Unit(nn.Module):
    """Convolution, normalisation, activation; a plain unit is the convolution alone."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        convolve: Convolve,
        norm: str = "batch",
        act: str = "relu",
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.conv = convolve(in_channels, out_channels)
        self.norm = normalisation(out_channels, "none" if plain else norm)
        self.activation = activation("none" if plain else act)
        if isinstance(self.activation, nn.ReLU | nn.LeakyReLU):
            self.activation.inplace = norm != "none"  # a convolution's result must stay as it is

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b d n"]:
        """Other channels on the same pixels."""
        return self.activation(self.norm(self.conv(x)))


def units(
    in_channels: int,
    widths: Sequence[int],
    *,
    convolve: Convolve,
    norm: str = "batch",
    act: str = "relu",
    plain_last: bool = False,
) -> nn.Sequential:
    """A unit for each width, one after another; the last one may be a convolution alone."""
    found = nn.Sequential()
    for n, (i, o) in enumerate(itertools.pairwise((in_channels, *widths)), 1):
        plain = plain_last and n == len(widths)
        found.append(Unit(i, o, convolve=convolve, norm=norm, act=act, plain=plain))
    return found


class Residual(nn.Module):
    """Units whose result is added to the input with a learned gain that starts at zero (ReZero).

    The last unit has no activation, so that the sum can fall as well as rise. Where the number of
    channels changes, the input goes through a linear map of each pixel's channels.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        convolve: Convolve,
        norm: str = "none",
        act: str = "relu",
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        pairs = itertools.pairwise((in_channels, *widths))
        self.path = nn.Sequential(
            *(
                Unit(i, o, convolve=convolve, norm=norm, act="none" if n == last else act)
                for n, (i, o) in enumerate(pairs)
            )
        )
        same = in_channels == widths[-1]
        self.residual = nn.Identity() if same else nn.Conv1d(in_channels, widths[-1], 1)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b d n"]:
        """The input at first; the units' part in it is learned."""
        return self.residual(x) + self.gain * self.path(x)


def joined(x: Float[Tensor, "b c n"], y: Float[Tensor, "b d n"]) -> Float[Tensor, "b e n"]:
    """The channels of both, innermost in memory as the convolutions want them."""
    both = torch.cat([rearrange(z, "b c n -> n b c") for z in (x, y)], -1)
    return rearrange(both, "n b c -> b c n")


def stages(widths: Widths, *, name: str = "widths") -> tuple[tuple[int, ...], ...]:
    """The widths of each level's units; a number stands for a single unit.

    Raises:
        ValueError: a level has no unit, or a width is less than 1.
    """
    found = tuple((w,) if isinstance(w, int) else tuple(w) for w in widths)
    if not found or any(not level or min(level) < 1 for level in found):
        raise ValueError(
            f"{name} is {list(widths)}; give each level a width of at least 1, or a list of them"
        )
    return found


def footprint_of(given: Sequence[int | Sequence[int]] | None) -> Footprint | None:
    """`[nside, [pixels]]` of a recipe as a tuple, the NESTED pixels ascending.

    Raises:
        ValueError: it has another form, or there are no such pixels.
    """
    if given is None:
        return None
    nside, pixels = given if len(given) == 2 else (None, None)
    if not isinstance(nside, int) or isinstance(pixels, int) or not pixels:
        raise ValueError(
            f"footprint is {given!r}; give a coarse nside and the NESTED pixels of it that are "
            "seen, such as [1, [0]] for a twelfth of the sky"
        )
    found = tuple(sorted(int(p) for p in pixels))
    if nside < 1 or nside & (nside - 1):
        raise ValueError(f"footprint is in pixels of nside {nside}; give a power of two")
    if found[0] < 0 or found[-1] >= 12 * nside**2 or len(set(found)) < len(found):
        raise ValueError(
            f"footprint names pixels {list(found)}; those of nside {nside} are 0 to "
            f"{12 * nside**2 - 1}, each once"
        )
    return nside, found


def least_nside(kind: str) -> int:
    """The coarsest nside on which a graph has the neighbours that its name promises."""
    wanted = int(kind.strip("abcdefghijklmnopqrstuvwxyz") or 0)
    nside = 1
    while FACES * nside**2 <= wanted:
        nside *= 2
    return nside


@functools.lru_cache(maxsize=64)
def footprint_nside(pixels: int, footprint: Footprint | None = None) -> int:
    """The nside of a NESTED map of so many pixels.

    Raises:
        ValueError: no nside has so many.
    """
    return sphere_of(pixels, footprint).nside


def check_levels(
    pixels: int, depth: int, *, least: int = 1, spare: int = 0, footprint: Footprint | None = None
) -> int:
    """The nside of a map that a network can halve `depth` times.

    Args:
        pixels: of the map.
        depth: how often its nside is halved.
        least: the coarsest nside that the graph can be made on.
        spare: how many of the last halvings no graph follows.
        footprint: the part of the sky that is seen; its pixels stay whole.

    Raises:
        ValueError: no nside has so many pixels, or the map is too coarse.
    """
    nside = footprint_nside(pixels, footprint)
    coarse = footprint[0] if footprint else 1
    wanted = max(least * 2 ** max(depth - spare, 0), coarse * 2**depth)
    if nside >= wanted:
        return nside
    why = f"pixels of the footprint have nside {coarse}" if footprint else "none is below 1"
    if wanted > coarse * 2**depth:
        why = f"the graph has the neighbours it is named after from nside {least} on"
    raise ValueError(
        f"the map has nside {nside} and the network halves it {depth} times, and {why}; "
        f"give a map of nside {wanted} or finer, or a network of fewer levels"
    )
