"""Which format a path has: every file of this room that handles some is asked, found by listing.

A format is a module with `SUFFIXES`, `handles(path)`, `read(path, **options)`; it may have
`read_header`, `read_labels`, `count_volumes(path)`, `write`, `add_options(parser)`, `WRITES`,
the suffix that predictions for its inputs get, and `WRITTEN`, the suffixes that its `write` takes
if they are fewer than `SUFFIXES`.
"""

import argparse
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Integer, Num, Shaped

from medseg import io
from medseg.geometry.grid import Grid
from medseg.geometry.sphere import Sphere
from medseg.sample import Sample

Meta = Mapping[str, Any]


@cache
def modules() -> tuple[ModuleType, ...]:
    """All formats, sorted by name."""
    own = __name__.rpartition(".")[2]
    names = sorted(m.name for m in pkgutil.iter_modules(io.__path__) if m.name != own)
    found = (import_module(f"{io.__name__}.{name}") for name in names)
    return tuple(module for module in found if hasattr(module, "handles"))


def is_image(path: Path) -> bool:
    """Whether some format reads this file or folder; what does not exist is no image."""
    return path.exists() and any(module.handles(path) for module in modules())


def stem(path: Path) -> str:
    """The name without a format's suffix (`a.b.nii.gz` is `a.b`); a folder's whole name."""
    if path.is_dir():
        return path.resolve().name
    suffix = _suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def output_suffix(path: Path) -> str:
    """The suffix of a prediction for this input."""
    return str(getattr(_module(path), "WRITES", ".nii.gz"))


def add_options(parser: argparse.ArgumentParser, *paths: Path) -> None:
    """Declare the options of the formats that these paths have (of all formats without paths)."""
    wanted = {_module(path).__name__ for path in paths}
    for module in modules():
        if hasattr(module, "add_options") and (not paths or module.__name__ in wanted):
            module.add_options(parser)


def read(path: Path, **options: Any) -> Sample:  # noqa: ANN401 -- each format's own
    """Read an image of any format; options that are None count as not given."""
    module = _module(path)
    return _call(module, "read", path, options)


def read_header(path: Path, **options: Any) -> Grid | Sphere:  # noqa: ANN401 -- each format's own
    """Where an image's voxels or a map's pixels lie, without reading them if the format allows."""
    module = _module(path)
    if hasattr(module, "read_header"):
        return _call(module, "read_header", path, options)
    sample: Sample = _call(module, "read", path, options)
    return sample.space


def accepts(path: Path, option: str) -> bool:
    """Whether the format of a path has a reading option, as plane files have `spacing_mm`."""
    return option in inspect.signature(_module(path).read).parameters


def count_volumes(path: Path) -> int:
    """How many volumes a file has to choose from by `volume`; 1 where that cannot be told."""
    try:
        module = _module(path)
        return int(module.count_volumes(path)) if hasattr(module, "count_volumes") else 1
    except (ValueError, OSError, EOFError):
        return 1


def read_labels(
    path: Path,
    **options: Any,  # noqa: ANN401 -- each format's own
) -> tuple[Integer[np.ndarray, "*n"], Any, Meta]:
    """Read a label image: whole numbers, their grid and the facts its writer needs."""
    module = _module(path)
    if not hasattr(module, "read_labels"):
        raise ValueError(
            f"{path}: labels are not read from {_name(module)}; give a label file as NIfTI"
        )
    return _call(module, "read_labels", path, options)


def write(
    path: Path,
    array: Shaped[np.ndarray, " n *m"] | Num[np.ndarray, " n *m"],
    *,
    grid: Grid | Sphere,
    meta: Meta,
) -> None:
    """Write an array in the format that the path's suffix names, in the geometry of `meta`."""
    for module in modules():
        if hasattr(module, "write") and path.name.lower().endswith(module.SUFFIXES):
            module.write(path, array, grid=grid, meta=meta)
            return
    known = sorted({s for m in modules() if hasattr(m, "write") for s in _written(m)})
    raise ValueError(f"{path}: nothing writes this suffix; take one of {', '.join(known)}")


def _module(path: Path) -> ModuleType:
    """The format of a path that exists; else an error that says what is read."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of an image file or folder")
    for module in modules():
        if module.handles(path):
            return module
    known = ", ".join(sorted({suffix for module in modules() for suffix in module.SUFFIXES}))
    if path.is_dir():
        inside = "is empty" if not any(path.iterdir()) else "holds no DICOM slices directly"
        raise ValueError(
            f"{path} is a folder that {inside}; give a folder of DICOM slices or a file ({known})"
        )
    raise ValueError(f"{path} is of no known image format; files that are read: {known}")


def _call(module: ModuleType, name: str, path: Path, options: Meta) -> Any:  # noqa: ANN401
    """Call a format's function with those options that were given, if it knows them."""
    given = {key: value for key, value in options.items() if value is not None}
    function = getattr(module, name)
    known = inspect.signature(function).parameters
    for key in given:
        if key not in known:
            flag = "--" + key.replace("_", "-")
            raise ValueError(f"{path}: {flag} does not apply to {_name(module)}; leave it out")
    return function(path, **given)


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _written(module: ModuleType) -> tuple[str, ...]:
    """The suffixes that a format's `write` takes, which may be fewer than are read."""
    return getattr(module, "WRITTEN", module.SUFFIXES)


def _suffix(path: Path) -> str:
    """The longest suffix of any format that the name ends with, as long as the name spells it."""
    suffixes = (s for module in modules() for s in module.SUFFIXES)
    fitting = [s for s in suffixes if path.name.lower().endswith(s) and len(path.name) > len(s)]
    return max(fitting, key=len, default="")
