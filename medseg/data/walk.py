"""The files below a folder, for data sets that are given out in folders within folders."""

import os
from collections.abc import Iterator
from pathlib import Path


def files(folder: Path) -> Iterator[Path]:
    """Every file below a folder in order of names, links followed, no folder twice, none hidden."""
    seen = set()
    for here, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(here) / name for name in sorted(names) if not name.startswith("."))
