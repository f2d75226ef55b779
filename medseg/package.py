"""A trained model as a folder: `model.safetensors` for the numbers, `model.json` for their meaning.

Nothing in the folder is code. `model.json` names a file of `medseg/models` (of `medseg/tasks`, of
`medseg/nn/blocks`) by its plain stem, never a path or an import target, so that a model from
elsewhere can choose among our networks and nothing else.

A file of `medseg/models` that needs no training holds `METHOD`: what `model.json` would say of it
(task, channels, what the task asks for), without `network`. Its class is the file's own
`nn.Module`, built with those options of the command line that its constructor has.
"""

import contextlib
import difflib
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from medseg.provenance import (
    atomic,
    atomic_folder,
    hash_file,
    hash_value,
    read_json,
    versions,
    write_json,
)

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
    def inputs(self) -> tuple[str, ...]:
        """Names of the real numbers that enter a voxel: a complex channel is two of them."""
        from medseg.data.complex_input import entering

        return entering(self.channels, self.spec.get("complex_input"))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes 1..K, if the task has any; class 0 is the background."""
        return tuple(self.spec.get("labels", ()))

    @property
    def stride(self) -> tuple[int, ...]:
        """What each of the network's spatial sizes must be a multiple of."""
        stride = getattr(self.network, "stride", 1)
        ndim = int(self.spec["ndim"])
        return (int(stride),) * ndim if isinstance(stride, int) else tuple(int(s) for s in stride)


def save(folder: Path, network: "nn.Module", *, spec: Mapping[str, Any]) -> None:
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
        with atomic(part / WEIGHTS) as whole:
            save_file(tensors, str(whole))
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
    _check(spec, path, always=(*_ALWAYS, "network", "sha256"))
    return spec


def _check(spec: Mapping[str, Any], path: Path, *, always: tuple[str, ...]) -> None:
    """Fields that are always there, those that the task asks for, and any other one that is."""
    for key in always:
        _field(spec, path, key=key)
    asked = getattr(task(spec), "FIELDS", ())
    for key in _FIELDS:
        if key not in always and (key in asked or key in spec):
            _field(spec, path, key=key)
    if "patch_size" in spec and len(spec["patch_size"]) != spec.get("ndim"):
        raise ValueError(
            f"{path}: patch_size {spec['patch_size']} has not ndim = {spec.get('ndim')} numbers"
        )


def _field(spec: Mapping[str, Any], path: Path, *, key: str) -> None:
    fits, wanted = _FIELDS[key]
    if not fits(spec.get(key)):
        raise ValueError(
            f"{path}: '{key}' is {spec.get(key)!r}; wanted {wanted}; package the model again"
        )


def task(spec: Mapping[str, Any]) -> ModuleType:
    """The file of `medseg/tasks` that says how this model predicts."""
    stem = spec["task"]["name"]
    if stem != "learner":
        module = _module("tasks", stem)
        if hasattr(module, "predict"):
            return module
    raise ValueError(f"{SPEC} names the task {stem!r}, which does not say how to predict")


def sources(spec: Mapping[str, Any]) -> list[ModuleType]:
    """The task's and the network's file, which may declare options."""
    return [task(spec), _module("models", spec["network"].get("name"))]


def methods() -> tuple[str, ...]:
    """Files of `medseg/models` that need no training, but for those that lack a package."""
    found = []
    for stem in _stems("models"):
        with contextlib.suppress(ImportError):
            if hasattr(_module("models", stem), "METHOD"):
                found.append(stem)
    return tuple(found)


def method_spec(stem: str) -> dict[str, Any]:
    """What stands for the `model.json` of a file of `medseg/models` that needs no training."""
    if stem not in _stems("models"):
        known = methods()
        near = difflib.get_close_matches(stem, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        there = f"there are {', '.join(known)}" if known else "give the folder of a trained model"
        raise ValueError(f"'{stem}' is no method that works without training; {hint}{there}")
    module = _module("models", stem)
    given = getattr(module, "METHOD", None)
    if given is None:
        raise ValueError(
            f"'{stem}' has to be trained before it can predict; give the model folder that "
            "`medseg train` wrote"
        )
    network = {"name": stem, "class": _own(module).__name__, "arguments": {}}
    spec = {"ndim": 3, **given, "network": network}
    _check(spec, Path(str(module.__file__)), always=_ALWAYS)
    return spec


def method(stem: str, options: Mapping[str, Any]) -> Package:
    """What needs no training, as a package; those of `options` count that its class knows."""
    spec = method_spec(stem)
    module = _module("models", stem)
    known = inspect.signature(_own(module)).parameters
    arguments = {k: v for k, v in options.items() if k in known and v is not None}
    spec["network"] = {**spec["network"], "arguments": arguments}
    file = Path(str(module.__file__))
    network = build(spec["network"]).eval().requires_grad_(False)
    return Package(network, spec, hash_value([hash_file(file), spec]), file.parent)


def _own(module: ModuleType) -> "type[nn.Module]":
    """The only public `nn.Module` that a file defines."""
    from torch import nn

    found = [
        kind
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and kind.__module__ == module.__name__
        and name[0] != "_"
    ]
    if len(found) != 1:
        raise ValueError(f"{module.__name__} needs one public class to be a method: {len(found)}")
    return found[0]


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


def _share(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value < 1)


_ALWAYS = ("task", "channels")
_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "task": (lambda v: isinstance(v, dict) and isinstance(v.get("name"), str), "a task's name"),
    "network": (lambda v: isinstance(v, dict), "a network's name, class and arguments"),
    "channels": (_words, "a list of different names"),
    "labels": (lambda v: isinstance(v, dict) and _words(list(v)), "names and source values"),
    "classes": (_words, "a list of different names"),
    "temperature": (lambda v: isinstance(v, int | float) and v > 0, "a number above 0"),
    "spacing_mm": (_spacing, "null or three millimetres"),
    "intensity": (lambda v: isinstance(v, str), "the name of a normalisation"),
    "ndim": (lambda v: v in {1, 2, 3}, "1 (the sphere), 2 or 3"),
    "nside": (lambda v: type(v) is int and v > 0, "the nside of the training's maps"),
    "slice_axis": (lambda v: v is None or v in {0, 1, 2}, "0, 1 or 2"),
    "complex_input": (lambda v: v is None or isinstance(v, str), "a definition's name"),
    "size": (lambda v: type(v) is int and v > 0, "the side of the working square in pixels"),
    "patch_size": (_sizes, "whole numbers of voxels"),
    "overlap": (_share, "null or a share of the window below 1"),
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


def _stems(room: str) -> tuple[str, ...]:
    """The files of a room, found by listing."""
    places = importlib.import_module(f"medseg.{room}").__path__
    found = (m.name for m in pkgutil.iter_modules(places) if not m.ispkg)
    return tuple(sorted(name for name in found if _STEM.fullmatch(name)))


def _module(room: str, stem: object) -> ModuleType:
    """A file of a room by its plain stem, and nothing else."""
    stems = _stems(room)
    if stem not in stems:
        raise ValueError(f"{SPEC} names {stem!r}; wanted one of medseg.{room}: {', '.join(stems)}")
    return importlib.import_module(f"medseg.{room}.{stem}")


def _named(room: str, stem: object, name: object) -> "type[nn.Module]":
    """The class `name` of `medseg/<room>/<stem>.py`: defined there, and a module."""
    from torch import nn

    module = _module(room, stem)
    kind = getattr(module, name, None) if isinstance(name, str) and _CLASS.fullmatch(name) else None
    if (
        not isinstance(kind, type)
        or not issubclass(kind, nn.Module)
        or kind.__module__ != module.__name__
    ):
        raise ValueError(f"{SPEC} names the class {name!r}, which medseg/{room}/{stem}.py has not")
    return kind
