"""A trained model as a folder: `model.safetensors` for the numbers, `model.json` for their meaning.

Nothing in the folder is code. `model.json` names a file of `medseg/models` (and of
`medseg/nn/blocks`) by its plain stem, never a path or an import target, so that a model from
elsewhere can choose among our networks and nothing else.
"""

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.provenance import atomic_folder, hash_file, hash_value, read_json, versions, write_json

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "model.safetensors"
SPEC = "model.json"
FORMAT = 1

_STEM = re.compile(r"[a-z][a-z0-9_]*")
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_DEPTH = 3
_LONG = 300


@dataclass(frozen=True, eq=False)
class Package:
    """A network ready to be applied, and what its inputs and outputs mean.

    `sha256` covers the weights and `model.json`: two packages of one hash predict alike.
    """

    network: "nn.Module"
    spec: Mapping[str, Any]
    sha256: str
    folder: Path

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the input channels, in the network's order."""
        return tuple(self.spec["channels"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes 1..K; class 0 is the background."""
        return tuple(self.spec["labels"])

    @property
    def stride(self) -> tuple[int, ...]:
        """What each of the network's spatial sizes must be a multiple of."""
        stride = getattr(self.network, "stride", 1)
        ndim = int(self.spec["ndim"])
        return (int(stride),) * ndim if isinstance(stride, int) else tuple(int(s) for s in stride)


def save(folder: Path, network: "nn.Module", spec: Mapping[str, Any]) -> None:
    """Write a model folder, whole or not at all; a folder already there is replaced.

    `format`, `versions` and `sha256` are filled in. The written folder is read back before it takes
    its place, so a spec that would not build this network is an error now and not at predict time.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if (
        folder.exists()
        and not (folder / SPEC).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise ValueError(f"{folder} holds something other than a model; give a new folder")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    with atomic_folder(folder) as part:
        save_file(tensors, str(part / WEIGHTS))
        content = {**spec, "format": FORMAT, "sha256": hash_file(part / WEIGHTS)}
        content.setdefault("versions", versions())
        write_json(part / SPEC, content)
        load(part)


def load(folder: Path, device: Any = "cpu") -> Package:  # noqa: ANN401 -- torch.device or its name
    """Read a model folder onto a device, in evaluation mode.

    The weights' sha256 is compared with the one in `model.json`; names, classes and the tensors'
    shapes are checked before anything large is allocated.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing; the model folder is not complete")
    found = hash_file(weights)
    if found != spec["sha256"]:
        raise ValueError(
            f"{weights} is not the file that {SPEC} describes: sha256 {found[:12]}…, wanted "
            f"{str(spec['sha256'])[:12]}…; copy the model folder again"
        )
    network = _fill(spec["network"], weights)
    return Package(
        network.eval().requires_grad_(False).to(device), spec, hash_value([found, spec]), folder
    )


def find(path: Path) -> list[Path]:
    """The model folders at `path`: itself, or those up to three levels below, sorted by name."""
    path = Path(path)
    if (path / SPEC).is_file():
        return [path]
    if not path.is_dir():
        what = "is not a model folder" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; MODEL is a folder that holds {SPEC} and {WEIGHTS}")
    found: list[Path] = []
    level = [path]
    for _ in range(_DEPTH):
        level = [p for f in level for p in sorted(f.iterdir()) if p.is_dir() and p.name[0] != "."]
        found += [p for p in level if (p / SPEC).is_file()]
        level = [p for p in level if p not in found]
    if not found:
        raise FileNotFoundError(
            f"no model in {path} (no {SPEC} up to {_DEPTH} folders deep); "
            "MODEL is a model folder or a folder of model folders"
        )
    return sorted(found)


def read_spec(folder: Path) -> dict[str, Any]:
    """`model.json`, checked: every field that predict relies on is there and of its kind."""
    path = Path(folder) / SPEC
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a model folder holds {SPEC} and {WEIGHTS}")
    spec = read_json(path)
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        came = spec.get("format") if isinstance(spec, dict) else type(spec).__name__
        raise ValueError(f"{path} has format {came!r}; this version of medseg reads {FORMAT}")
    for key, (fits, wanted) in _FIELDS.items():
        if not fits(spec.get(key)):
            raise ValueError(
                f"{path}: '{key}' is {spec.get(key)!r}; wanted {wanted}; package the model again"
            )
    if len(spec["patch_size"]) != spec["ndim"]:
        raise ValueError(
            f"{path}: patch_size {spec['patch_size']} has not ndim = {spec['ndim']} numbers"
        )
    return spec


def _words(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(v, str) and v for v in value)
        and 0 < len(value) == len(set(value))
    )


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and v > 0 for v in value)


def _spacing(value: object) -> bool:
    numbers = value if isinstance(value, list) and len(value) == 3 else [0]
    return value is None or all(n is None or (type(n) in {int, float} and n > 0) for n in numbers)


_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "task": (lambda v: isinstance(v, dict) and isinstance(v.get("name"), str), "a task's name"),
    "network": (lambda v: isinstance(v, dict), "a network's name, class and arguments"),
    "channels": (_words, "a list of different names"),
    "labels": (lambda v: isinstance(v, dict) and _words(list(v)), "names and source values"),
    "spacing_mm": (_spacing, "null or three millimetres"),
    "intensity": (lambda v: isinstance(v, str), "the name of a normalisation"),
    "ndim": (lambda v: v in {2, 3}, "2 or 3"),
    "slice_axis": (lambda v: v is None or v in {0, 1, 2}, "0, 1 or 2"),
    "patch_size": (_sizes, "whole numbers of voxels"),
    "sha256": (lambda v: isinstance(v, str), "the sha256 of the weights"),
}


def _fill(network: Mapping[str, Any], weights: Path) -> "nn.Module":
    """The network with its weights; built without memory first, so that no number is drawn twice.

    A network whose constructor computes buffers that its state does not hold is built once more.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(str(weights))
    except SafetensorError as error:
        raise ValueError(f"{weights} is not a safetensors file: {error}") from None
    with torch.device("meta"):
        module = build(network)
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        why = why if len(why) < _LONG else f"{why[:_LONG]} …"
        raise ValueError(f"{weights} does not fit the network in {SPEC}: {why}") from None
    if any(t.is_meta for t in [*module.parameters(), *module.buffers()]):
        module = build(network)
        module.load_state_dict(state, strict=True)
    return module


def build(network: Mapping[str, Any]) -> "nn.Module":
    """The untrained network that `{"name", "class", "arguments"}` describes."""
    kind = _named("models", network.get("name"), network.get("class"))
    arguments = {str(k): _argument(v) for k, v in dict(network.get("arguments") or {}).items()}
    try:
        return kind(**arguments)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"the network '{network['name']}' cannot be built from {SPEC}: {error}; "
            "was it packaged by another version of medseg?"
        ) from None


def _argument(value: Any) -> Any:  # noqa: ANN401 -- any JSON value
    """A JSON value as it is, except the description of a block or graph layer: its factory."""
    if isinstance(value, Mapping) and "block" in value:
        kind = _named("nn.blocks", value["block"], value.get("class"))
        inner = {str(k): _argument(v) for k, v in dict(value.get("arguments") or {}).items()}
        return functools.partial(kind, **inner)
    if isinstance(value, Mapping) and "graph" in value:
        inner = {str(k): _argument(v) for k, v in dict(value.get("arguments") or {}).items()}
        return functools.partial(_graph(value["graph"]), **inner)
    return value


def _graph(name: object) -> "type[nn.Module]":
    """A layer of `torch_geometric.nn` by its plain name."""
    import torch_geometric.nn as layers
    from torch import nn

    kind = getattr(layers, name, None) if isinstance(name, str) and _CLASS.fullmatch(name) else None
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise ValueError(f"{SPEC} names the graph layer {name!r}, which torch_geometric.nn has not")
    return kind


def _named(room: str, stem: object, name: object) -> "type[nn.Module]":
    """The class `name` of `medseg/<room>/<stem>.py`: defined there, and a module."""
    from torch import nn

    here = Path(__file__).parent.joinpath(*room.split("."))
    stems = sorted(p.stem for p in here.glob("[a-z]*.py"))
    if not isinstance(stem, str) or not _STEM.fullmatch(stem) or stem not in stems:
        raise ValueError(f"{SPEC} names {stem!r}; wanted one of medseg.{room}: {', '.join(stems)}")
    module = importlib.import_module(f"medseg.{room}.{stem}")
    kind = getattr(module, name, None) if isinstance(name, str) and _CLASS.fullmatch(name) else None
    if (
        not isinstance(kind, type)
        or not issubclass(kind, nn.Module)
        or kind.__module__ != module.__name__
    ):
        raise ValueError(f"{SPEC} names the class {name!r}, which medseg/{room}/{stem}.py has not")
    return kind
