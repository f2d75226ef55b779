"""Convolution, normalisation and activation in two or three dimensions, chosen by `ndim`."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

_Made = dict[int, Callable[..., nn.Module]]
_CONV: _Made = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: _Made = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: _Made = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_BATCH: _Made = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_ACTIVATION = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "none": nn.Identity}
_NORMS = ("batch", "instance", "group", "none")

Size = int | Sequence[int]


def check_ndim(ndim: int) -> int:
    """The number of spatial axes, 2 or 3; anything else is refused."""
    if ndim not in _CONV:
        raise ValueError(f"ndim is {ndim!r}; set it to 2 (slices) or 3 (volumes)")
    return ndim


def sizes(value: Size, ndim: int) -> tuple[int, ...]:
    """One number for every axis, or one a axis, as a tuple of `ndim` numbers."""
    if isinstance(value, int):
        return (value,) * ndim
    if len(value) != ndim:
        raise ValueError(f"{list(value)} has {len(value)} numbers for {ndim} axes; give {ndim}")
    return tuple(int(number) for number in value)


def conv(
    in_channels: int,
    out_channels: int,
    *,
    kernel: Size = 3,
    ndim: int = 2,
    stride: Size = 1,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """Convolution whose zero padding keeps the size at stride 1 (odd kernels)."""
    kernel, dilation = sizes(kernel, ndim), sizes(dilation, ndim)
    return _CONV[check_ndim(ndim)](
        in_channels,
        out_channels,
        kernel,
        stride=sizes(stride, ndim),
        padding=tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)),
        dilation=dilation,
        groups=groups,
        bias=bias,
    )


def transposed(
    in_channels: int,
    out_channels: int,
    *,
    kernel: Size | None = None,
    stride: Size = 2,
    ndim: int = 2,
) -> nn.Module:
    """Transposed convolution that multiplies the size by `stride`; kernel = stride unless given.

    A kernel that is given is odd: padding (k-1)/2, output padding stride-1.
    """
    stride = sizes(stride, ndim)
    make = _TRANSPOSED[check_ndim(ndim)]
    if kernel is None:
        return make(in_channels, out_channels, stride, stride=stride)
    kernel = sizes(kernel, ndim)
    return make(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=tuple((k - 1) // 2 for k in kernel),
        output_padding=tuple(s - 1 for s in stride),
    )


def max_pool(size: Size, *, ndim: int = 2) -> nn.Module:
    """Maximum over windows of `size` that do not overlap."""
    return _POOL[check_ndim(ndim)](sizes(size, ndim))


class InstanceNorm(nn.GroupNorm):
    """Each channel of each image to mean 0 and variance 1, with a learned gain and offset.

    A map of a single voxel, which torch's own layers refuse, gives the offset.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """The normalised map, in training and evaluation alike."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def norm(channels: int, kind: str = "batch", *, ndim: int = 2) -> nn.Module:
    """Normalisation by name: batch, instance, group (of 8 channels where they divide) or none."""
    check_ndim(ndim)
    if kind == "batch":
        return _BATCH[ndim](channels)
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 8) if channels % 8 == 0 else 1, channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm {kind!r} is not known; choose one of {', '.join(_NORMS)}")


def activation(kind: str = "relu") -> nn.Module:
    """Activation by name: relu, leaky_relu (slope 0.01), gelu, silu or none."""
    if kind == "leaky_relu":
        return nn.LeakyReLU(0.01, inplace=True)
    if kind == "relu":
        return nn.ReLU(inplace=True)
    if kind not in _ACTIVATION:
        known = ", ".join(sorted({*_ACTIVATION, "leaky_relu"}))
        raise ValueError(f"activation {kind!r} is not known; choose one of {known}")
    return _ACTIVATION[kind]()


def stride_of(strides: Sequence[Size], ndim: int) -> int | tuple[int, ...]:
    """What image sizes must be multiples of, after these strides: a number, or one an axis."""
    per_axis = [math.prod(axis) for axis in zip(*(sizes(s, ndim) for s in strides), strict=True)]
    return plain_size(per_axis)


def plain_size(per_axis: Sequence[int]) -> int | tuple[int, ...]:
    """A single number where all axes agree, else the tuple."""
    return per_axis[0] if len(set(per_axis)) == 1 else tuple(per_axis)


def padded(size: Sequence[int], stride: Size) -> tuple[int, ...]:
    """The smallest size, axis by axis, that is a multiple of `stride` and holds `size`."""
    steps = sizes(stride, len(size))
    return tuple(-(-n // step) * step for n, step in zip(size, steps, strict=True))


def check_size(size: Sequence[int], stride: Size) -> None:
    """Refuse an image or patch size that a network of this `stride` cannot take."""
    wanted = padded(size, stride)
    if tuple(size) != wanted:
        raise ValueError(
            f"image size {tuple(size)} must be a multiple of {stride}; pad it to {wanted}"
        )
