"""From complex features to real logits, for segmentation and, without axes of space, for classes.

All four are 1x1 layers. A magnitude is never negative, so it becomes a logit through a factor and
an offset a class.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from medseg.nn.complex.conv import Conv, Linear
from medseg.nn.complex.parts import interleaved

KINDS = ("concat", "magnitude", "real", "invariant")
_REAL = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Head(nn.Module):
    """Logits of every class.

    Args:
        channels: complex ones that come in.
        n_classes: real ones that go out.
        ndim: axes of space; 0 for vectors.
        kind: "concat", a real layer of real and imaginary parts; "magnitude", a_c |complex layer|
            + b_c; "real", the real part of a complex layer; "invariant", a real layer of |z|.
            "magnitude" and "invariant" do not see a turn of all phases.
    """

    def __init__(
        self, channels: int, n_classes: int, *, ndim: int = 2, kind: str = "concat"
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"head is {kind!r}; choose one of {', '.join(KINDS)}")
        if ndim not in (0, *_REAL):
            raise ValueError(f"ndim is {ndim!r}; a head stands over 0 (vectors) to 3 axes")
        self.kind, self.shape = kind, (n_classes,) + (1,) * ndim
        if kind in ("magnitude", "real"):
            self.layer = _complex(channels, n_classes, ndim)
            self.bias = nn.Parameter(torch.zeros(n_classes))
        else:
            self.layer = _real(channels * (2 if kind == "concat" else 1), n_classes, ndim)
        if kind == "magnitude":
            self.factor = nn.Parameter(torch.ones(n_classes))

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """Real numbers without bounds."""
        if self.kind == "concat":
            return self.layer(interleaved(z))
        if self.kind == "invariant":
            return self.layer(z.abs())
        bias = self.bias.view(self.shape)
        if self.kind == "real":
            return self.layer(z).real + bias
        return self.layer(z).abs() * self.factor.view(self.shape) + bias


def _complex(channels: int, n_classes: int, ndim: int) -> nn.Module:
    """A complex layer of single voxels, without bias."""
    if ndim == 0:
        return Linear(channels, n_classes, bias=False)
    return Conv(channels, n_classes, kernel=1, ndim=ndim, bias=False)


def _real(channels: int, n_classes: int, ndim: int) -> nn.Module:
    """A real layer of single voxels."""
    return nn.Linear(channels, n_classes) if ndim == 0 else _REAL[ndim](channels, n_classes, 1)
