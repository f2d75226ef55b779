"""State dicts of the 2022 HybridGNet as its authors saved them, under the names used here.

Source: Gaggion, Mansilla, Mosquera, Milone, Ferrante 2022, arXiv:2203.10977; the names and shapes
of its tensors, in both of their namings. No code followed.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medseg.geometry import graph
from medseg.geometry.contour import contours

ORGANS = {
    "right_lung": 44,
    "left_lung": 50,
    "heart": 26,
    "right_clavicle": 23,
    "left_clavicle": 23,
}
PRESET = {
    "norm": "batch_stats",
    "sampling": "adaptive",
    "align": "index",
    "circular": False,
    "residual": False,
    "bottleneck": "flatten",
    "init": "published",
}

_RENAMED: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"encoder\.dconv_down(\d+)\.(.+)", lambda m: f"encoder.stages.{int(m[1]) - 1}.{m[2]}"),
    (r"encoder\.fc_(mu|logvar)\.(weight|bias)", r"\1.\2"),
    (r"dec_lin\.(weight|bias)", r"start.\1"),
    (r"graphConv_up1\.lins\.0\.weight", "out.weight"),
    (r"(?:SC_1\.graphConv_pre|graphConv_pre1?)\.lins\.0\.weight", "heads.0.weight"),
    (r"(?:SC_2\.graphConv_pre|graphConv_pre2)\.lins\.0\.weight", "heads.1.weight"),
    (
        r"graphConv_up([2-6])\.lins\.(\d+)\.weight",
        lambda m: f"layers.{6 - int(m[1])}.weight/{m[2]}",
    ),
    (r"graphConv_up([2-6])\.bias", lambda m: f"layers.{6 - int(m[1])}.bias"),
)


def published_key(key: str) -> str:
    """The name here of a tensor of the authors' network, in either of their namings.

    A tensor that is one term of a Chebyshev layer's weight ends in `/k`.
    """
    for pattern, name in _RENAMED:
        match = re.fullmatch(pattern, key.removeprefix("module."))
        if match is not None:
            return name(match) if callable(name) else match.expand(name)
    raise ValueError(f"{key!r} is no tensor of the 2022 HybridGNet; give its state dict")


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict under the names of `HybridGNet`, with Chebyshev terms stacked."""
    plain: dict[str, Tensor] = {}
    terms: dict[str, dict[int, Tensor]] = {}
    for key, tensor in state.items():
        name, _, term = published_key(key).partition("/")
        if term:
            terms.setdefault(name, {})[int(term)] = tensor
        else:
            plain[name] = tensor
    stacked = {
        name: torch.stack([found[k] for k in sorted(found)]) for name, found in terms.items()
    }
    return plain | stacked


def published_arguments(
    state: Mapping[str, Tensor],
    *,
    organs: Mapping[str, Any] | None = None,
    lookups: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Arguments of the `HybridGNet` that an authors' state dict fits.

    Args:
        state: the authors' tensors.
        organs: contours in the order of the nodes; without them lungs, then heart, then clavicles,
            as many as the tensors have nodes for.
        lookups: levels of the lookups; without them the deepest neighbouring levels that have the
            channels of the tensors. Levels of one width look alike: 6 may have been 5.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in from_published(state).items()}
    try:
        order, half, _ = ours["layers.0.weight"]
        width = ours["layers.3.weight"][1]
        looked = ours["layers.2.weight"][2] - half, ours["layers.4.weight"][2] - width
        levels = len({name.split(".")[2] for name in ours if name.startswith("encoder.stages.")})
        widths = [ours[f"encoder.stages.{n}.block.5.bias"][0] for n in range(levels)]
        rows, latent = ours["start.weight"]
        in_channels, cells = ours["encoder.stages.0.block.2.weight"][1], ours["mu.weight"][1]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"this is no whole state dict of a 2022 HybridGNet: {error}") from None
    steps = sum(name.startswith("heads.") for name in ours)
    chosen, pooling = _organs(rows // half, organs)
    return {
        "organs": dict(chosen),
        "in_channels": in_channels,
        "widths": widths,
        "latent": latent,
        "width": width,
        "order": order,
        "lookups": list(lookups or _levels(widths, [count - 2 for count in looked[:steps]])),
        "pooling": pooling,
        "size": math.isqrt(cells // widths[-1]) * 2 ** (levels - 1),
        **PRESET,
    }


def _organs(nodes: int, organs: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], bool]:
    """The organs whose contours start with this many nodes, and whether that is half of them."""
    names = list(ORGANS)
    known = [{name: ORGANS[name] for name in names[:count]} for count in (2, 3, 5)]
    for choice in known if organs is None else [organs]:
        fine = contours(choice)
        for pooling, few in ((True, graph.coarse(fine)), (False, fine)):
            if sum(contour.nodes for contour in few) == nodes:
                return choice, pooling
    if organs is None:
        raise ValueError(
            f"the decoder starts with {nodes} nodes, which is no published set of organs; name "
            "them with their nodes, such as right_lung=44,left_lung=50,heart=26"
        )
    fine_nodes = sum(contour.nodes for contour in contours(organs))
    raise ValueError(
        f"the organs have {fine_nodes} nodes, but the decoder starts with {nodes}, which is "
        "neither that number nor half of each organ's; mend the organs"
    )


def _levels(widths: Sequence[int], channels: Sequence[int]) -> list[int]:
    """Deepest neighbouring levels, coarser first, with these channels."""
    for deepest in range(len(widths), len(channels) - 1, -1):
        levels = [deepest - step for step in range(len(channels))]
        if [widths[level - 1] for level in levels] == list(channels):
            return levels
    raise ValueError(
        f"no neighbouring levels have {list(channels)} channels among {list(widths)}; name the "
        "levels of the lookups"
    )
