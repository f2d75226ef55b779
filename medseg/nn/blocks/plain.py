"""Convolution, normalisation, activation: the second half of a U-Net's double convolution.

Source: Ronneberger, Fischer, Brox 2015, arXiv:1505.04597, fig. 1. Differs: zero padding keeps the
shape, and a normalisation stands before the activation.
"""

from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.conv import activation, conv, norm


class Plain(nn.Module):
    """One convolution that keeps shape and channels, normalised and activated."""

    def __init__(
        self,
        channels: int,
        *,
        ndim: int = 2,
        kernel: int = 3,
        norm: str = "instance",
        activation: str = "leaky_relu",
    ) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_layers(channels, ndim, kernel, norm, activation))

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """The same shape out as in."""
        return self.inner(x)


def _layers(channels: int, ndim: int, kernel: int, kind: str, act: str) -> list[nn.Module]:
    bias = kind == "none"
    convolution = conv(channels, channels, kernel=kernel, ndim=ndim, bias=bias)
    return [convolution, norm(channels, kind, ndim=ndim), activation(act)]
