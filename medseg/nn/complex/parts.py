"""Complex tensors as real ones and back: for kernels that take real numbers, and for the road.

Two forms. Interleaved: the real and imaginary part of a channel are neighbours, which is a view of
a complex tensor that lies channels-last in memory; real kernels run on it without a copy. Parts:
all real parts, then all imaginary ones, as complex data travel through transforms and windows.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor, nn

MEMORY = {4: torch.channels_last, 5: torch.channels_last_3d}


class ComplexParameter(nn.Parameter):
    """A trainable complex tensor held as real numbers, (real, imaginary) along its last axis.

    Real numbers survive casts, mixed precision and every optimiser, and are counted rightly.
    """

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> "ComplexParameter":  # noqa: ANN401
        """As `nn.Parameter`, which copies and unpickles through these two arguments."""
        made: ComplexParameter = super().__new__(cls, data, requires_grad)
        return made

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Stay of this class on the way to another process."""
        del protocol
        return type(self), (self.data, self.requires_grad)


def as_complex(pair: Float[Tensor, "*shape 2"]) -> Complex[Tensor, "*shape"]:
    """The complex numbers of a real tensor whose last axis is (real, imaginary); a view."""
    return torch.view_as_complex(pair.contiguous())


def channels_last(z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
    """The same numbers with a voxel's channels side by side in memory; itself if they are."""
    z = z.resolve_conj()
    if z.ndim in MEMORY:
        return z.contiguous(memory_format=MEMORY[z.ndim])
    return z.movedim(1, -1).contiguous().movedim(-1, 1)


def interleaved(z: Complex[Tensor, "b c *s"]) -> Float[Tensor, "b 2*c *s"]:
    """Channels re0, im0, re1, im1, …, channels-last; a view where the input lies so."""
    real = torch.view_as_real(channels_last(z).movedim(1, -1))
    return real.flatten(-2).movedim(-1, 1)


def merged(real: Float[Tensor, "b parts *s"]) -> Complex[Tensor, "b parts//2 *s"]:
    """Back from `interleaved`; half precision, which has no complex form here, becomes float32."""
    last = real.movedim(1, -1)
    if last.dtype not in (torch.float32, torch.float64):
        last = last.float()
    return as_complex(rearrange(last, "... (c part) -> ... c part", part=2)).movedim(-1, 1)


def from_parts(image: Float[Tensor, "b parts *s"]) -> Complex[Tensor, "b parts//2 *s"]:
    """Complex channels of a real tensor of all real parts, then all imaginary parts."""
    if image.dtype not in (torch.float32, torch.float64):
        image = image.float()
    return as_complex(rearrange(image, "b (part c) ... -> b ... c part", part=2)).movedim(-1, 1)


def to_parts(z: Complex[Tensor, "b c *s"]) -> Float[Tensor, "b 2*c *s"]:
    """All real parts, then all imaginary parts."""
    return torch.cat([z.real, z.imag], 1)
