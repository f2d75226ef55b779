"""Complex convolution, transposed convolution and linear map, by kernels for real numbers.

y = w * z + b, a cross-correlation whose weight is not conjugated. Gradients are torch's:
dL/dRe + i dL/dIm. Three forms give the same values; `auto` takes the one that measured fastest:

- block: one real convolution of the interleaved channels (re0, im0, re1, …), which are a view of a
  channels-last tensor, with the weight [[a, -b], [b, a]] in place of a + ib; a kernel of one voxel
  is a matrix product. Forward and backward on one CPU thread, against torch's complex64: 0.65 of
  the time (2-D, 32 to 32 channels, 128²; 0.55 if the input lies channels-last), 0.78 (3-D, 16 to
  16, 48³; 0.72), 0.3 to 0.5 (1 to 16 channels, and transposed of kernel 2), 0.4 to 0.8 (one voxel),
  but 1.1 to 1.5 from 128 channels on.
- gauss: three real convolutions of contiguous parts, a·x, b·y and (a+b)·(x+y). 0.8 to 1.0 whatever
  the channels, so `auto` takes it on the CPU above 2¹⁵ complex weights a group, where the two are
  even. Its differences cancel digits, so under autocast it is not taken.
- native: torch's complex convolution.

Accelerators get block, since real kernels are what their libraries have; not measured on any.
Under autocast the real kernel runs in half precision and the result is complex64 again.

Source: Trabelsi et al. 2018, sec. 3.2; arXiv:1705.09792. Differs: real and imaginary channels
alternate, so that complex tensors need no copy.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.complex.init import rayleigh_
from medseg.nn.complex.parts import (
    MEMORY,
    ComplexParameter,
    as_complex,
    channels_last,
    interleaved,
    merged,
)
from medseg.nn.conv import Size, sizes

Form = Literal["auto", "block", "gauss", "native"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Kernel = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_CONV: dict[int, Callable[..., Tensor]]
_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]]
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
FEW = 2**15


def block(
    weight: Float[Tensor, "o i *k 2"], *, transposed: bool = False
) -> Float[Tensor, "p q *k"]:
    """The real weight (2o, 2i, *k) that acts on interleaved channels, channels-last.

    With groups the pairs stay inside their group. Transposed, the first axis is the input.
    """
    a, b = weight.movedim(1, -2).unbind(-1)
    upper, lower = (b, -b) if transposed else (-b, b)
    rows = torch.stack([torch.stack([a, upper], -1), torch.stack([lower, a], -1)], 1)
    return rows.flatten(0, 1).flatten(-2).movedim(-1, 1)


def convolved(
    z: Complex[Tensor, "b i *s"],
    kernel: Kernel,
    *,
    weight: Float[Tensor, "_ _ *k 2"],
    bias: Float[Tensor, "o 2"] | None,
    form: Form,
    transposed: bool = False,
) -> Complex[Tensor, "b o *t"]:
    """A torch convolution of real numbers, its geometry bound, applied to complex ones."""
    if form == "native":
        return kernel(z, as_complex(weight), None if bias is None else as_complex(bias))
    if form == "gauss":
        return _gauss(z, kernel, weight=weight, bias=bias)
    flat = None if bias is None else bias.flatten()
    return merged(kernel(_channels(z), block(weight, transposed=transposed), flat))


def _channels(z: Complex[Tensor, "b i *s"]) -> Float[Tensor, "b 2*i *s"]:
    """`interleaved`; a contiguous input's gradient gets its layout back by matrix transposes.

    On the CPU those take half the time of the copy that torch would make in the end.
    """
    z = z.resolve_conj()
    last = channels_last(z)
    if last is not z and last.requires_grad and z.is_contiguous() and z.device.type == "cpu":
        last.register_hook(_channels_first)  # type: ignore[no-untyped-call]
    return interleaved(last)


def _channels_first(
    gradient: Complex[Tensor, "b i *s"] | None,
) -> Complex[Tensor, "b i *s"] | None:
    """The same numbers, contiguous; torch hands in None where nothing depends on the input."""
    if gradient is None:
        return None
    if torch.is_grad_enabled():  # to be differentiated again, so nothing is written in place
        return gradient.contiguous()
    first = torch.empty_like(gradient, memory_format=torch.contiguous_format)
    voxels = gradient.movedim(1, -1).flatten(1, -2)
    for image, place in zip(voxels, first.flatten(2), strict=True):
        place.copy_(image.mT)
    return first


def _gauss(
    z: Tensor, kernel: Kernel, *, weight: Tensor, bias: Tensor | None
) -> Complex[Tensor, "b o *t"]:
    memory = MEMORY.get(z.ndim, torch.contiguous_format)
    x, y = (part.contiguous(memory_format=memory) for part in (z.real, z.imag))
    a, b = weight.unbind(-1)
    at_x, at_sum = (None, None) if bias is None else (bias[:, 0], bias.sum(-1))
    first, second = _single(kernel(x, a, at_x)), _single(kernel(y, b, None))
    third = _single(kernel(x + y, a + b, at_sum))
    return torch.complex(first - second, third - first - second)


def _single(x: Tensor) -> Tensor:
    """Half precision as float32; anything else as it is."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _pointwise(
    z: Complex[Tensor, "b i *s"],
    *,
    weight: Float[Tensor, "o i *k 2"],
    bias: Float[Tensor, "o 2"] | None,
) -> Complex[Tensor, "b o *s"]:
    """The block form of a kernel of one voxel: a matrix product over the channels."""
    flat = None if bias is None else bias.flatten()
    matrix = block(weight.flatten(1, -2))
    return merged(functional.linear(_channels(z).movedim(1, -1), matrix, flat).movedim(-1, 1))


class _Layer(nn.Module):
    """A complex weight of He variance for CReLU, and a bias of zeros or none."""

    bias: ComplexParameter | None

    def __init__(
        self, shape: Sequence[int], out: int, *, fan_in: float, fan_out: float, bias: bool
    ) -> None:
        super().__init__()
        self.fan_in, self.fan_out = float(fan_in), float(fan_out)
        self.weight = ComplexParameter(torch.empty(*shape, 2))
        self.register_parameter("bias", ComplexParameter(torch.zeros(out, 2)) if bias else None)
        rayleigh_(self.weight, fan_in=fan_in)

    def extra_repr(self) -> str:
        """Shape of the complex weight."""
        return f"weight={tuple(self.weight.shape[:-1])}, bias={self.bias is not None}"


class _Spatial(_Layer):
    """A layer with a kernel, and the form it is computed in."""

    def __init__(
        self,
        shape: Sequence[int],
        out: int,
        *,
        fan_in: float,
        fan_out: float,
        groups: int,
        bias: bool,
        form: Form,
    ) -> None:
        super().__init__(shape, out, fan_in=fan_in, fan_out=fan_out, bias=bias)
        self.form, self.groups = form, groups
        self.few = math.prod(shape) // groups <= FEW

    def chosen(self, z: Complex[Tensor, "b i *s"]) -> Form:
        """The form for this input; see the head of this file."""
        if self.form != "auto":
            return self.form
        gauss = not self.few and z.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        return "gauss" if gauss else "block"


class Conv(_Spatial):
    """Complex convolution over 1, 2 or 3 axes; the weight is (o, i/groups, *kernel).

    Without `padding`, dilation·(kernel-1)//2 a side: odd kernels keep the size at stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Size = 3,
        ndim: int = 2,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        form: Form = "auto",
    ) -> None:
        _check(in_channels, out_channels, ndim=ndim, groups=groups)
        kernel, dilation = sizes(kernel, ndim), sizes(dilation, ndim)
        if padding is None:
            padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
        padding, stride = sizes(padding, ndim), sizes(stride, ndim)
        super().__init__(
            (out_channels, in_channels // groups, *kernel),
            out_channels,
            fan_in=in_channels // groups * math.prod(kernel),
            fan_out=out_channels // groups * math.prod(kernel),
            groups=groups,
            bias=bias,
            form=form,
        )
        zeros = padding_mode == "zeros"
        self.padding_mode = padding_mode
        self.margin = () if zeros else tuple(p for side in padding[::-1] for p in (side, side))
        self.pointwise = groups == 1 and max(kernel) == 1 and max(padding) == 0
        self.steps = (slice(None),) * 2 + tuple(slice(None, None, step) for step in stride)
        self.strided = any(step > 1 for step in stride)
        self.kernel = partial(
            _CONV[ndim],
            stride=stride,
            padding=padding if zeros else (0,) * ndim,
            dilation=dilation,
            groups=groups,
        )

    def forward(self, z: Complex[Tensor, "b i *s"]) -> Complex[Tensor, "b o *t"]:
        """The map, channels-last in memory in the block form."""
        if self.margin:
            z = merged(functional.pad(_channels(z), self.margin, self.padding_mode))
        if self.pointwise and self.form in ("auto", "block"):
            kept = z[self.steps] if self.strided else z  # a slice of all would not export
            return _pointwise(kept, weight=self.weight, bias=self.bias)
        return convolved(z, self.kernel, weight=self.weight, bias=self.bias, form=self.chosen(z))


class ConvTranspose(_Spatial):
    """Complex transposed convolution; the weight is (i, o/groups, *kernel), not conjugated.

    So it is the adjoint of a convolution with the conjugate weight. An output voxel is a sum of
    i/groups·Π(kernel/stride) products, which is the fan that its first weights are drawn for.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Size = 2,
        ndim: int = 2,
        stride: Size = 2,
        padding: Size = 0,
        output_padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        form: Form = "auto",
    ) -> None:
        _check(in_channels, out_channels, ndim=ndim, groups=groups)
        kernel, stride = sizes(kernel, ndim), sizes(stride, ndim)
        super().__init__(
            (in_channels, out_channels // groups, *kernel),
            out_channels,
            fan_in=in_channels // groups * math.prod(kernel) / math.prod(stride),
            fan_out=out_channels // groups * math.prod(kernel),
            groups=groups,
            bias=bias,
            form=form,
        )
        self.kernel = partial(
            _TRANSPOSED[ndim],
            stride=stride,
            padding=sizes(padding, ndim),
            output_padding=sizes(output_padding, ndim),
            dilation=sizes(dilation, ndim),
            groups=groups,
        )

    def forward(self, z: Complex[Tensor, "b i *s"]) -> Complex[Tensor, "b o *t"]:
        """The larger map, channels-last in memory in the block form."""
        return convolved(
            z,
            self.kernel,
            weight=self.weight,
            bias=self.bias,
            form=self.chosen(z),
            transposed=True,
        )


class Linear(_Layer):
    """Complex linear map of the last axis, by one real matrix product; the weight is (o, i)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(
            (out_features, in_features),
            out_features,
            fan_in=in_features,
            fan_out=out_features,
            bias=bias,
        )

    def forward(self, z: Complex[Tensor, "*b i"]) -> Complex[Tensor, "*b o"]:
        """The mapped features."""
        flat = None if self.bias is None else self.bias.flatten()
        pairs = torch.view_as_real(z.resolve_conj()).flatten(-2)
        real = _single(functional.linear(pairs, block(self.weight), flat))
        return as_complex(rearrange(real, "... (o part) -> ... o part", part=2))


def _check(in_channels: int, out_channels: int, *, ndim: int, groups: int) -> None:
    if ndim not in _CONV:
        raise ValueError(f"ndim is {ndim!r}; set it to 1, 2 or 3")
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{groups} groups do not divide {in_channels} channels into {out_channels}; "
            "take a number of groups that divides both"
        )
