"""Batch, group, instance and root-mean-square norms of complex channels.

Source: Trabelsi et al. 2018, arXiv:1705.09792, sec. 3.5. Differs: epsilon is relative to the
variance, so that numbers on a line (no imaginary part, one phase) stay finite at any scale; the
covariance starts at 1/2 on the diagonal, so that an untrained network in evaluation is the
identity. The circular norm without a mean: Singhal, Xing, Yu 2022, arXiv:2112.01525.
"""

import math
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Complex
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.complex.parts import ComplexParameter, channels_last, interleaved, merged
from medseg.nn.complex.whitening import (
    Mode,
    Statistics,
    gain_matrix,
    inverse_root,
    normalised,
    product,
    spread_unit,
)


class _Norm(nn.Module):
    """A norm by the mean and the spread of groups of channels, with its gain and bias."""

    def __init__(
        self,
        channels: int,
        groups: int,
        *,
        mode: Mode,
        affine: bool,
        symmetric: bool,
        eps: float,
        relative: bool,
        unbiased: bool,
        center: bool,
    ) -> None:
        super().__init__()
        if mode not in ("whiten", "circular", "split"):
            raise ValueError(f"mode {mode!r}; choose whiten, circular or split")
        if groups < 1 or channels % groups:
            raise ValueError(
                f"{channels} channels in {groups} groups; choose a divisor of {channels}"
            )
        self.channels, self.groups, self.mode = channels, groups, mode
        self.eps, self.relative, self.unbiased, self.center = eps, relative, unbiased, center
        self.gain = nn.Parameter(_gain(channels, mode, symmetric)) if affine else None
        shifted = affine and center
        self.bias = ComplexParameter(torch.zeros(channels, 2)) if shifted else None

    def extra_repr(self) -> str:
        """What tells one norm from another."""
        told = f"{self.channels}, groups={self.groups}, mode={self.mode!r}, eps={self.eps}"
        return told if self.center else f"{told}, center=False"

    def _normalised(
        self,
        z: Complex[Tensor, "b c *s"],
        *,
        sets: int,
        given: Statistics | None = None,
        ridge: bool = True,
    ) -> tuple[Complex[Tensor, "b c *s"], Statistics]:
        """The output, and mean and spread (s, c, …) of the channels or as given."""
        z = channels_last(z.resolve_conj())
        last = z.movedim(1, -1)
        rows = last.reshape(sets, -1, last.shape[-1])
        count = rows.shape[1] * self.channels // self.groups
        if given is None and self.center and count == 1:
            raise ValueError(
                f"one value per channel in an input of shape {tuple(z.shape)}, which has no spread;"
                " give more images or voxels, or call eval() on a batch norm"
            )
        factor = count / (count - 1) if self.unbiased and self.center and given is None else 1.0
        out, (mean, spread) = normalised(
            rows,
            partial(self._recipe, factor=factor, ridge=ridge),
            parameters=[p for p in (self.gain, self.bias) if p is not None],
            given=given,
        )
        return out.view(last.shape).movedim(-1, 1), (mean, spread * factor)

    def _recipe(
        self,
        mean: Tensor,
        spread: Tensor,
        gain: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        factor: float,
        ridge: bool,
    ) -> tuple[Tensor, Tensor]:
        """Matrix (s, c, 2, 2) and offset (s, c, 2) for numbers that the mean is taken off."""
        centre, spread = self._pooled(mean, spread, factor=factor)
        matrix = inverse_root(
            spread, mode=self.mode, eps=self.eps, relative=self.relative, ridge=ridge
        )
        if gain is not None:
            matrix = product(gain_matrix(gain.double()), matrix)
        offset = product(matrix, (mean - centre)[..., None])[..., 0]
        return matrix, offset if bias is None else offset + bias.double()

    def _pooled(self, mean: Tensor, spread: Tensor, *, factor: float) -> Statistics:
        """Mean and spread of a channel's group, for each channel; about zero without centring."""
        if self.center and self.groups == self.channels:
            return mean, spread * factor
        centre = self._over_group(mean) if self.center else torch.zeros_like(mean)
        r, i = (mean - centre).unbind(-1)
        return centre, self._over_group(spread + torch.stack([r * r, i * i, r * i], -1)) * factor

    def _over_group(self, values: Tensor) -> Tensor:
        """Mean over a group's channels, for each of them."""
        grouped = rearrange(values, "s (group c) part -> s group c part", group=self.groups)
        return grouped.mean(2, keepdim=True).expand_as(grouped).flatten(1, 2)


def _gain(channels: int, mode: Mode, symmetric: bool) -> Tensor:
    """The gain that gives E|out|² = 1: (c), (c, 2), (c, 3) as rr, ii, ri, or (c, 2, 2)."""
    if mode == "circular":
        return torch.ones(channels)
    half = math.sqrt(0.5)
    if mode == "split":
        return torch.full((channels, 2), half)
    if symmetric:
        return torch.tensor([half, half, 0.0]).repeat(channels, 1)
    return (half * torch.eye(2)).repeat(channels, 1, 1)


class BatchNorm(_Norm):
    """Normalises each channel over batch and space, for any number of spatial axes.

    `whiten`: gain · V^(-1/2) (z - mean), V the covariance of real and imaginary part; the output
    has E|out|² = 1 and uncorrelated parts until the gain learns otherwise. `circular`: one real
    gain over the root of E|z - mean|², which commutes with a rotation of all phases but for the
    bias. `split`: two real norms. Numbers are at least float32, statistics double, also under
    autocast. In training a channel of one value is refused. Each process has the statistics of its
    own batch; give it enough images, as none are exchanged. A channel that is constant in a batch
    gets a gradient of up to 3e8 times that of its output.
    """

    running_mean: Tensor | None
    running_covariance: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        mode: Mode = "whiten",
        affine: bool = True,
        symmetric: bool = True,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        relative: bool = True,
        unbiased: bool = False,
        eps_in_running: bool = False,
        center: bool = True,
        track: bool = True,
    ) -> None:
        """A new norm, the identity in evaluation.

        Args:
            channels: complex channels.
            mode: whiten, circular or split.
            affine: gain and bias are trained; without them each part of a white output has
                variance 1.
            symmetric: the gain of `whiten` has three numbers (rr, ii, ri), else a matrix of four.
            momentum: share of a batch in the running statistics; None: all batches count alike.
            eps: added to the variances.
            relative: eps counts in units of the parts' mean variance (at least 1e-12), else as is.
            unbiased: covariance by n - 1, also in the running one; else by n.
            eps_in_running: the running covariance holds eps, and none is added in evaluation.
            center: the mean is taken off; without it there is no bias, and `circular` commutes
                with a rotation of all phases.
            track: running statistics are kept; without them evaluation takes the batch's.
        """
        super().__init__(
            channels,
            channels,
            mode=mode,
            affine=affine,
            symmetric=symmetric,
            eps=eps,
            relative=relative,
            unbiased=unbiased,
            center=center,
        )
        self.momentum, self.eps_in_running, self.track = momentum, eps_in_running, track
        start = torch.tensor([0.5, 0.5, 0.0]).repeat(channels, 1)
        self.register_buffer("running_mean", torch.zeros(channels, 2) if track else None)
        self.register_buffer("running_covariance", start if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """The normalised channels, channels-last in memory."""
        if self.training or not self.track:
            out, found = self._normalised(z, sets=1)
            if self.track:
                self._follow(*self._pooled(*found, factor=1.0))
            return out
        mean, spread = self.get_buffer("running_mean"), self.get_buffer("running_covariance")
        given = mean.double()[None], spread.double()[None]
        return self._normalised(z, sets=1, given=given, ridge=not self.eps_in_running)[0]

    @torch.no_grad()
    def _follow(self, mean: Tensor, spread: Tensor) -> None:
        """One step of the running statistics towards those of a batch."""
        seen = self.get_buffer("num_batches_tracked").add_(1)
        share: Tensor | float = 1 / seen.double() if self.momentum is None else self.momentum
        if self.eps_in_running:
            unit = spread_unit(spread, relative=self.relative)
            share_of = 0.5 if self.mode == "circular" else 1.0  # it adds eps to the sum of both
            added = share_of * self.eps * unit
            spread = spread + torch.stack([added, added, torch.zeros_like(added)], -1)
        for name, value in (("running_mean", mean[0]), ("running_covariance", spread[0])):
            kept = self.get_buffer(name)
            kept.copy_(kept + share * (value - kept))


class GroupNorm(_Norm):
    """Normalises each image by the mean and spread of groups of channels over space.

    The modes, the gain and the bias (per channel) are those of `BatchNorm`; there are no running
    statistics. `mode="circular", center=False` divides a group by the root of its mean |z|², which
    commutes with a rotation of all phases.
    """

    def __init__(
        self,
        groups: int,
        channels: int,
        *,
        mode: Mode = "whiten",
        affine: bool = True,
        symmetric: bool = True,
        eps: float = 1e-5,
        relative: bool = True,
        unbiased: bool = False,
        center: bool = True,
    ) -> None:
        """A new norm; the arguments are those of `BatchNorm`."""
        super().__init__(
            channels,
            groups,
            mode=mode,
            affine=affine,
            symmetric=symmetric,
            eps=eps,
            relative=relative,
            unbiased=unbiased,
            center=center,
        )

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """The normalised channels, channels-last in memory."""
        return self._normalised(z, sets=z.shape[0])[0]


class InstanceNorm(GroupNorm):
    """Normalises each channel of each image over space: a group norm with a group a channel."""

    def __init__(
        self,
        channels: int,
        *,
        mode: Mode = "whiten",
        affine: bool = True,
        symmetric: bool = True,
        eps: float = 1e-5,
        relative: bool = True,
        center: bool = True,
    ) -> None:
        """A new norm; the arguments are those of `BatchNorm`."""
        super().__init__(
            channels,
            channels,
            mode=mode,
            affine=affine,
            symmetric=symmetric,
            eps=eps,
            relative=relative,
            center=center,
        )


class RMSNorm(nn.Module):
    """Divides each voxel's channels by the root of their mean |z|² + eps, times a real gain each.

    Without a mean and a bias, it commutes with a rotation of all phases. Eps is absolute: a voxel
    of the empty background stays small instead of growing to the size of the others. For a norm
    over space as well: `GroupNorm(1, channels, mode="circular", center=False)`.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4. Differs: complex.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.gain = nn.Parameter(torch.ones(channels)) if affine else None

    def extra_repr(self) -> str:
        """What tells one norm from another."""
        return f"{self.channels}, eps={self.eps}"

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """The normalised channels, channels-last in memory."""
        parts = interleaved(z.resolve_conj()).movedim(1, -1)
        gain = parts.new_full((2 * self.channels,), math.sqrt(0.5))
        if self.gain is not None:
            gain = gain * self.gain.to(gain.dtype).repeat_interleave(2)
        out = functional.rms_norm(parts, gain.shape, weight=gain, eps=self.eps / 2)
        return merged(out.movedim(-1, 1))
