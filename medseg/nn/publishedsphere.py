"""State dicts of the DeepSphere networks as their authors saved them, under the names used here.

Source: Defferrard, Milani, Gusset, Perraudin 2020, arXiv:2012.15000; the names and shapes of the
tensors of `SphericalUNet` (deepsphere-pytorch, MIT) and `UNetSpherical` (deepsphere-weather, MIT).
The former shapes a weight K x in x out but uses its memory as in x K x out, so that is how it is
read here; the latter shapes it so. No code followed.
"""

import re
from collections.abc import Mapping
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

_IN_UNIT = r"(?:spherical_cheb\.chebconv\.(weight|bias)|batchnorm\.(\w+))"
_PLACES = (
    (r"spherical_cheb_bn_pool\.spherical_cheb_bn", "rise"),
    (r"spherical_cheb_bn_1", "first"),
    (r"spherical_cheb_bn_2", "second"),
    (r"spherical_cheb_bn", "first"),
)
_BLOCKS = (
    (r"convblock(\d+)\.conv\.(weight|bias)", r"path.\1.conv.\2"),
    (r"res_connection\.(weight|bias)", r"residual.\1"),
    (r"rezero_weight", "gain"),
)


def published_key(key: str, *, levels: int) -> str:
    """The name in `SphereNet` of a tensor of the authors' U-Net with so many levels.

    Raises:
        ValueError: neither of their networks has such a tensor.
    """
    name = key.removeprefix("module.")
    found = _of_units(name, levels - 1) or _of_blocks(name, levels)
    if found is None:
        raise ValueError(
            f"{key!r} is no tensor of deepsphere-pytorch's SphericalUNet or deepsphere-weather's "
            "UNetSpherical (without batch normalisation); give its state dict"
        )
    return found


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict under the names of `SphereNet`, every weight K x in x out.

    Laplacians are left out: graphs are made anew.
    """
    levels, weather = _levels(state), _weather(state)
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith("laplacian"):
            continue
        name = published_key(key, levels=levels)
        if name.endswith("conv.weight") or name == "head.weight":
            found[name] = coefficients(tensor, stored_by_input=weather)
        elif name.endswith("residual.weight"):
            found[name] = rearrange(tensor, "o i -> o i 1")
        else:
            found[name] = tensor
    return found


def coefficients(
    weight: Float[Tensor, "p q o"], *, stored_by_input: bool = False
) -> Float[Tensor, "k i o"]:
    """What the authors' weight multiplies polynomial k of input i with, for output o.

    Args:
        weight: as stored; K x in x out, its memory in truth used as in x K x out.
        stored_by_input: whether it has the shape in x K x out, as the weather code has it.
    """
    if stored_by_input:
        return rearrange(weight, "i k o -> k i o").contiguous()
    order, inputs, _ = weight.shape
    used = rearrange(weight, "k i o -> (k i) o")
    return rearrange(used, "(i k) o -> k i o", i=inputs, k=order).contiguous()


def unit_key(key: str) -> tuple[str, str] | None:
    """Which unit of a level a tensor belongs to (rise, first, second), and its name there."""
    for pattern, place in _PLACES:
        match = re.fullmatch(rf"{pattern}\.{_IN_UNIT}", key)
        if match is not None:
            conv, norm = match.groups()
            return place, f"conv.{conv}" if conv else f"norm.{norm}"
    return None


def published_arguments(
    state: Mapping[str, Tensor],
    *,
    kind: str = "knn20",
    laplacian: str | None = None,
    pool: str = "mean",
) -> dict[str, Any]:
    """Arguments of the `SphereNet` that an authors' state dict fits.

    Args:
        state: the authors' tensors.
        kind: of the graph they were trained on, which the tensors do not tell.
        laplacian: of that graph; None for the one that the authors' code takes, combinatorial
            for maps of classes and normalized for the weather.
        pool: the pooling they were trained with, which the tensors do not tell either.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in from_published(state).items()}
    weather = _weather(state)
    path = ".path" if weather else ""
    try:
        depth = 1 + max(int(name.split(".")[1]) for name in ours if name.startswith("encoder."))
        down = [_widths(ours, f"encoder.{level}{path}") for level in range(depth)]
        up = [
            _widths(ours, f"join.{n}{path}") or [ours[f"rise.{n}.conv.weight"][-1]]
            for n in range(depth - 1)
        ]
        order, in_channels, _ = ours[f"encoder.0{path}.0.conv.weight"]
        head = ours["head.path.0.conv.weight" if weather else "head.weight"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"this is no whole state dict of a DeepSphere U-Net: {error}") from None
    given: dict[str, Any] = {
        "in_channels": in_channels,
        "n_classes": head[-1],
        "widths": down,
        "up": up,
        "order": order,
        "kind": kind,
        "laplacian": laplacian or ("normalized" if weather else "combinatorial"),
        "pool": pool,
    }
    if weather:
        return given | {"topology": "weather", "norm": "none"}
    bottom = f"encoder.{depth - 1}.{len(down[-1]) - 1}.norm.weight"
    return given | {
        "skip_finest": f"join.{depth - 2}.0.conv.weight" in ours,
        "plain_bottom": bottom not in ours,
    }


def _widths(shapes: Mapping[str, tuple[int, ...]], place: str) -> list[int]:
    """The widths of the units that stand one after another at a place."""
    found: list[int] = []
    while (shape := shapes.get(f"{place}.{len(found)}.conv.weight")) is not None:
        found.append(shape[-1])
    return found


def _of_units(name: str, top: int) -> str | None:
    """The name of a tensor of deepsphere-pytorch's network, whose finest level is number `top`."""
    match = re.fullmatch(r"(?:encoder\.enc|decoder\.dec)_l(\d+)\.(.+)", name)
    if match is None:
        return None
    level, rest = int(match[1]), match[2]
    alone = re.fullmatch(r"spherical_cheb\.chebconv\.(weight|bias)", rest)
    if name.startswith("encoder") and alone:
        return f"encoder.{top - level}.0.conv.{alone[1]}"
    if alone:
        return f"head.{alone[1]}"
    place, tensor = unit_key(rest) or ("", "")
    if name.startswith("encoder") and place in ("first", "second"):
        return f"encoder.{top - level}.{int(place == 'second')}.{tensor}"
    if name.startswith("decoder") and place:
        return f"rise.{level - 1}.{tensor}" if place == "rise" else f"join.{level - 1}.0.{tensor}"
    return None


def _of_blocks(name: str, levels: int) -> str | None:
    """The name of a tensor of deepsphere-weather's network."""
    match = re.fullmatch(r"(u?conv)(\d+)(_final)?\.(.+)", name)
    if match is None:
        return None
    kind, level, final, rest = match[1], int(match[2]), match[3], match[4]
    place = f"encoder.{level - 1}" if kind == "conv" else f"join.{levels - 1 - level}"
    for pattern, ours in _BLOCKS:
        inner = re.fullmatch(pattern, rest)
        if inner is not None:
            tensor = inner.expand(ours)
            if tensor.startswith("path."):
                _, number, *more = tensor.split(".")
                tensor = ".".join(["path", str(int(number) - 1), *more])
            return f"{'head' if final else place}.{tensor}"
    return None


def _weather(state: Mapping[str, Tensor]) -> bool:
    return any(re.match(r"(module\.)?u?conv\d", key) for key in state)


def _levels(state: Mapping[str, Tensor]) -> int:
    """How many levels the encoder of an authors' network has."""
    pattern = r"(?:module\.)?(?:encoder\.enc_l(\d+)|conv(\d+))\."
    found = [re.match(pattern, key) for key in state]
    numbers = [int(m[1]) + 1 if m[1] else int(m[2]) for m in found if m]
    return max(numbers, default=1)
