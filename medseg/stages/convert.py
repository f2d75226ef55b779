"""`medseg convert`: the weights that a network's authors published, as a model folder."""

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_OF_SKIES = ("nside", "channels", "labels")
_INNER = ("state_dict", "model_state_dict")
_NOTE = (
    "the authors divide 8-bit values by 255; here they enter as they are, which the first "
    "normalisation undoes but for its smallest number"
)


def main(arguments: list[str]) -> int:
    """Convert one checkpoint; the folder appears only if the network takes all of its tensors."""
    from medseg import package
    from medseg.provenance import hash_file

    options = _parser().parse_args(arguments)
    checkpoint, out = Path(options.checkpoint), Path(options.out)
    module = _converter(options.network)
    state = read_state(checkpoint)
    chosen = _chosen(options, module)
    try:
        given = module.published_arguments(state, **chosen)
        renamed = module.from_published(state)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
    if options.size is not None and options.size != given.get("size", options.size):
        raise ValueError(
            f"{checkpoint} is for images of {given['size']} x {given['size']} pixels, which its "
            f"first linear layer fixes; leave out --size {options.size}"
        )
    meaning = _of_landmarks(given) if "organs" in given else _of_skies(given, options)
    spec = _spec(module, given, checkpoint=checkpoint, source=hash_file(checkpoint)) | meaning
    network = package.build(spec["network"])
    try:
        network.load_state_dict(renamed)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"{checkpoint} does not fit {options.network}: {why}") from None
    package.save(out, network.eval(), spec=spec)
    _tell(out, given, guessed=options.lookups is None)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medseg convert",
        allow_abbrev=False,
        description="Turn the weights that a network's authors published (a PyTorch state dict) "
        "into a model folder for `medseg predict`. Sizes follow from the weights.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file of a state dict, .pt")
    parser.add_argument("--network", required=True, metavar="NAME", help="such as hybridgnet")
    parser.add_argument("--out", required=True, metavar="MODEL", help="the model folder to write")
    parser.add_argument(
        "--organs",
        metavar="NAME=NODES,…",
        help="contours in the order of the nodes, such as right_lung=44,left_lung=50,heart=26 "
        "(an open one: NAME=NODES:open); without it, the published set of that many nodes",
    )
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="side of the images, to be sure of it"
    )
    parser.add_argument(
        "--lookups",
        metavar="LEVEL,…",
        help="levels that are looked up in, where the weights do not tell: 5 instead of 6",
    )
    add = parser.add_argument
    add("--nside", type=int, metavar="N", help="of a sphere's maps that the weights learned from")
    add("--kind", metavar="GRAPH", help="that they learned on: knn20 unless another is named")
    add("--laplacian", metavar="NAME", help="of that graph, combinatorial or normalized")
    add("--pool", metavar="NAME", help="mean unless another is named: max or max_places")
    add("--channels", metavar="NAME,…", help="of the maps that enter, in the network's order")
    add("--labels", metavar="NAME,…", help="of the classes behind the background, in order")
    return parser


def _chosen(options: argparse.Namespace, module: ModuleType) -> dict[str, Any]:
    """What was said of the network, for its file; what it cannot use is refused."""
    read: dict[str, Callable[[str], Any]] = {
        "organs": parse_organs,
        "lookups": _levels,
        "kind": str,
        "laplacian": str,
        "pool": str,
    }
    known = inspect.signature(module.published_arguments).parameters
    asked = {name: getattr(options, name) for name in (*read, *_OF_SKIES)}
    skies = "kind" in known
    for name, value in asked.items():
        if value is not None and name not in known and not (skies and name in _OF_SKIES):
            raise ValueError(f"--{name} says nothing of {options.network}; leave it out")
    if skies and options.nside is None:
        raise ValueError("--nside is missing: the nside of the maps that the weights learned from")
    return {n: read[n](v) for n, v in asked.items() if n in known and v is not None}


def _converter(name: str) -> ModuleType:
    """The network's file, if it reads its authors' weights."""
    places = importlib.import_module("medseg.models").__path__
    stems = sorted(m.name for m in pkgutil.iter_modules(places) if not m.name.startswith("_"))
    if name in stems:
        module = importlib.import_module(f"medseg.models.{name}")
        if hasattr(module, "published_arguments"):
            return module
    known = [stem for stem in stems if _reads(stem)]
    raise ValueError(
        f"--network {name}: no published weights of this network can be read; there are "
        f"{', '.join(known)}"
    )


def _reads(stem: str) -> bool:
    try:
        module = importlib.import_module(f"medseg.models.{stem}")
    except ImportError:
        return False
    return hasattr(module, "published_arguments")


def read_state(path: Path) -> "dict[str, Tensor]":
    """Tensors by name from a file of a state dict, alone or in a dictionary under `state_dict`.

    Nothing but tensors is loaded, so the file cannot run code.
    """
    import pickle

    import torch

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; CHECKPOINT is one file of weights, such as a .pt")
    cure = (
        "save only its tensors, torch.save(network.state_dict(), 'weights.pt'), in the program "
        "that made it"
    )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"\x1b\[[0-9;]*m", "", first[0]).partition(". ")[0][:150]
        raise ValueError(f"{path} is no plain file of tensors ({reason}); {cure}") from None
    for key in _INNER:
        found = found[key] if isinstance(found, Mapping) and key in found else found
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items())
    ):
        raise ValueError(f"{path} holds {type(found).__name__} and no state dict; {cure}")
    return dict(found)


def parse_organs(text: str) -> dict[str, Any]:
    """`right_lung=44,diaphragm=20:open` as contours of a recipe."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, rest = part.strip().partition("=")
        nodes, _, kind = rest.partition(":")
        if not name or not nodes.isdecimal() or kind not in {"", "open", "closed"}:
            raise ValueError(
                f"--organs: '{part}' is not NAME=NODES or NAME=NODES:open, such as right_lung=44"
            )
        if name in found:
            raise ValueError(f"--organs names {name} twice; give every organ once")
        count = int(nodes)
        found[name] = {"nodes": count, "closed": False} if kind == "open" else count
    return found


def _levels(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--lookups {text}: give levels, coarser first, such as 6,5")
    return [int(word) for word in words]


def _spec(
    module: ModuleType, given: Mapping[str, Any], *, checkpoint: Path, source: str
) -> dict[str, Any]:
    """What `model.json` says of converted weights; a hash says which file they are from."""
    note = {"intensity": _NOTE} if "organs" in given else {}
    return {
        "network": {
            "name": module.__name__.rpartition(".")[2],
            "class": _class(module),
            "arguments": dict(given),
        },
        "spacing_mm": None,
        "intensity": "none",
        "converted": {"file": checkpoint.name, "sha256": source, **note},
    }


def _of_landmarks(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": {"name": "landmarks", "arguments": {}},
        "channels": ["image"],
        "ndim": 2,
        "size": given["size"],
    }


def _of_skies(given: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Classes of each pixel of a sky; names that were not given are numbers."""
    from medseg.geometry.sphere import FACES, check_nside

    nside = check_nside(options.nside)
    channels = _names("channels", options.channels, given["in_channels"], stem="map")
    labels = _names("labels", options.labels, given["n_classes"] - 1, stem="class")
    return {
        "task": {"name": "segment", "arguments": {}},
        "channels": channels,
        "labels": {name: [value] for value, name in enumerate(labels, 1)},
        "instances": [],
        "ndim": 1,
        "nside": nside,
        "slice_axis": None,
        "patch_size": [FACES * nside**2],
    }


def _names(option: str, text: str | None, count: int, *, stem: str) -> list[str]:
    found = [f"{stem}_{n}" for n in range(1, count + 1)]
    if text is not None:
        found = [word.strip() for word in text.split(",")]
    if len(found) != count or len(set(found)) != count or not all(found):
        raise ValueError(f"--{option} {text}: give {count} different names, such as a,b")
    return found


def _class(module: ModuleType) -> str:
    """The name of the network that a file defines."""
    from torch import nn

    return next(
        name
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and kind.__module__ == module.__name__
        and name[0] != "_"
    )


def _tell(out: Path, given: Mapping[str, Any], *, guessed: bool) -> None:
    """One line of what was found, and a warning of what the weights cannot tell."""
    if "organs" not in given:
        inner = f"{given['in_channels']} maps to {given['n_classes']} classes, {given['kind']}"
        sys.stdout.write(f"{out}: {inner}, {len(given['widths'])} levels\n")
        return
    organs = ", ".join(f"{name} {nodes}" for name, nodes in given["organs"].items())
    levels = " and ".join(str(level) for level in given["lookups"]) or "none"
    sys.stdout.write(f"{out}: {given['size']} pixels, {organs}; lookups {levels}\n")
    widths = given["widths"]
    twins = [level for level in given["lookups"] if widths.count(widths[level - 1]) > 1]
    if guessed and len(given["lookups"]) == 1 and twins:
        sys.stderr.write(
            f"medseg convert: warning: levels of {widths[twins[0] - 1]} channels look alike in the "
            f"weights and level {twins[0]} was taken; if it was another, give --lookups\n"
        )
