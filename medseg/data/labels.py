"""Named label values: which values of a reference file mean which structure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped


def classes(labels: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]]:
    """Structures with their source values, in order; the class index is the place, from 1."""
    named: dict[str, tuple[int, ...]] = {}
    owner: dict[int, str] = {}
    for name, given in (labels or {}).items():
        values = (given,) if isinstance(given, int) else tuple(given)
        if not values:
            raise ValueError(f"label '{name}' names no value; write e.g. labels: {{{name}: [1]}}")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"label '{name}' has the value {value!r}; it must be an integer")
            if value == 0:
                raise ValueError(f"label '{name}' has the value 0, which is always background")
            if value in owner:
                raise ValueError(
                    f"value {value} is named twice, by '{owner[value]}' and by '{name}'; "
                    "a value belongs to one label"
                )
            owner[value] = str(name)
        named[str(name)] = values
    return named


def parse(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Labels from a command line's words such as `disc=1,255`."""
    found: dict[str, list[int]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        try:
            found.setdefault(name.strip(), []).extend(int(value) for value in values.split(","))
        except ValueError:
            name = ""
        if not name.strip():
            raise ValueError(f"'{text}' is no label; write name=value[,value], e.g. disc=1,255")
    return classes(found)


def values_in(target: Integer[np.ndarray, "*space"]) -> list[int]:
    """The distinct values, sorted; counted rather than sorted where they are small."""
    if target.size and target.min() >= 0 and target.max() < 1 << 16:
        return [int(value) for value in np.flatnonzero(np.bincount(target.ravel()))]
    return [int(value) for value in np.unique(target)]


def remap(
    target: Integer[np.ndarray, "*space"], labels: Mapping[str, Sequence[int]], *, where: str
) -> Shaped[np.ndarray, "*space"]:
    """Class indices 1..K in place of source values; a value without a name is an error.

    `where` begins the error's text: the case and the file.
    """
    found = values_in(target)
    index = {value: place for place, name in enumerate(labels, 1) for value in labels[name]}
    stray = [value for value in found if value != 0 and value not in index]
    if stray:
        name = next(iter(labels), "structure")
        known = ", ".join(f"{name}: {list(values)}" for name, values in labels.items())
        wanted = [*labels.get(name, ()), stray[0]]
        raise ValueError(
            f"{where} holds the value{'s' if len(stray) > 1 else ''} {_shown(stray)}, which the "
            f"recipe does not name (it names {{{known}}}, and 0 as background); name it, e.g. "
            f"data.labels.{name}={str(wanted).replace(' ', '')}, or mend the file"
        )
    dtype = np.uint8 if len(labels) < 256 else np.uint16
    out = np.zeros(target.shape, dtype=dtype)
    for value in found:
        if value:
            out[target == value] = index[value]
    return out


def _shown(values: Sequence[int], most: int = 8) -> str:
    text = ", ".join(str(value) for value in values[:most])
    return text + (f", ... ({len(values)} in all)" if len(values) > most else "")
