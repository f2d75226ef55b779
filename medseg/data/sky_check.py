"""What is wrong with the maps of a case on the sphere: unknown everywhere, or of other pixels."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from medseg.data.align import onto_sphere
from medseg.data.sheet import Problem, Record
from medseg.data.spaces import Space
from medseg.geometry.sphere import Sphere
from medseg.sample import Sample


def of_channel(
    record: Record, channel: str, *, found: Sample, first: Space | None
) -> Iterator[Problem]:
    """A map without a value, a mask that hides nothing or everything, pixels unlike the first's."""
    values = found.image[0]
    known = values[np.isfinite(values)]
    where = f"{channel} of {record.paths.get(channel)}"
    if not known.size:
        yield Problem(
            record.case, "values", f"{where}: no pixel has a value", "some values",
            "give the right file",
        )  # fmt: skip
    elif channel == "mask" and known.min() == known.max():
        yield Problem(
            record.case, "mask", f"{where}: {known[0]:g} everywhere", "1 where seen, 0 in holes",
            "give the right mask",
        )  # fmt: skip
    if first is not None:
        yield from _pixels(record, values, space=found.space, first=first, what=where)


def of_label(
    record: Record, path: Path, *, labels: Mapping[str, Sequence[int]], first: Space
) -> Iterator[Problem]:
    """A label map that cannot be read, of other pixels, or with values that no class names."""
    from medseg.io import formats

    try:
        values, space, _ = formats.read_labels(path)
    except (ValueError, OSError, EOFError) as error:
        yield Problem(record.case, "unreadable", str(error), "a label map", "mend the file")
        return
    yield from _pixels(record, values, space=space, first=first, what=f"label {path}")
    named = {0, *(value for group in labels.values() for value in group)}
    stray = sorted(set(np.unique(values).tolist()) - named) if labels else []
    if stray:
        yield Problem(
            record.case, "label values", f"{stray[:5]} in {path}", f"{sorted(named)}",
            "name them in data.labels, or mend the map",
        )  # fmt: skip


def _pixels(
    record: Record, values: np.ndarray, *, space: Space, first: Space, what: str
) -> Iterator[Problem]:
    try:
        onto_sphere(values, space, wanted=first, what=what)
    except ValueError as error:
        found, _, cure = str(error).partition("; ")
        wanted = str(first) if isinstance(first, Sphere) else "an image"
        yield Problem(record.case, "geometry", found, wanted, cure)
