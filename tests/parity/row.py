"""One line of a comparison: how far we are from published numbers, and how far we may be."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

RELATIVE = 1e-5
FLOAT64 = 1e-10
ZERO = 1e-12


@dataclass(frozen=True)
class Row:
    """The largest difference of one tensor or group; a note says what else a reader should know."""

    name: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def passed(self):
        return self.difference <= self.tolerance  # a NaN does not pass


def largest(ours, theirs):
    """The largest absolute difference; infinite where shapes differ."""
    if tuple(ours.shape) != tuple(theirs.shape):
        return float("inf")
    if theirs.numel() == 0:
        return 0.0
    return float((ours.detach().double() - theirs.double()).abs().max())


def tensor_row(name: str, ours: Tensor, theirs: Tensor, tolerance: float | None = None) -> Row:
    """A row for a tensor; without a tolerance, 1e-5 of the largest published value."""
    if tolerance is None:
        high = float(theirs.double().abs().max()) if theirs.numel() else 0.0
        tolerance = RELATIVE * high or ZERO
    note = "" if tuple(ours.shape) == tuple(theirs.shape) else f"{[*ours.shape]} {[*theirs.shape]}"
    return Row(name, largest(ours, theirs), tolerance, note)


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of a safetensors file's tensors; none if it is no such file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return {}


def json_object(path: Path) -> dict:
    """The JSON object in a file; nothing if the file holds no such thing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else None
    except (ValueError, OSError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
