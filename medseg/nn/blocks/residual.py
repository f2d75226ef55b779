"""The basic residual block of ResNet.

Source: He, Zhang, Ren, Sun 2016, arXiv:1512.03385, sec. 3.2 and fig. 2; no code followed.
"""

from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.conv import activation, conv, norm


class Residual(nn.Module):
    """Two normalised convolutions whose sum with the input is activated.

    Args:
        channels: in and out.
        ndim: 2 or 3.
        kernel: odd size of both convolutions.
        norm: batch (the paper's), instance, group or none.
        dropout: share of whole feature maps that training drops between the convolutions.
    """

    def __init__(
        self,
        channels: int,
        *,
        ndim: int = 2,
        kernel: int = 3,
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *_layers(channels, ndim, kernel, norm),
            activation("relu"),
            nn.Dropout2d(dropout) if ndim == 2 else nn.Dropout3d(dropout),
            *_layers(channels, ndim, kernel, norm),
        )
        self.activation = activation("relu")

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """ReLU(x + F(x))."""
        return self.activation(x + self.inner(x))


def _layers(channels: int, ndim: int, kernel: int, kind: str) -> list[nn.Module]:
    convolution = conv(channels, channels, kernel=kernel, ndim=ndim, bias=kind == "none")
    return [convolution, norm(channels, kind, ndim=ndim)]
