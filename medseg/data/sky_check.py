"""What is wrong with the maps of a case on the sphere: unknown everywhere, or of other pixels."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.align import onto_sphere, sky_kind
from medseg.data.sheet import Problem, Record
from medseg.data.spaces import Space
from medseg.data.table import spaced
from medseg.geometry.sphere import Sphere
from medseg.io import formats, skytable
from medseg.io import spectrum as spectra
from medseg.sample import Sample

SEEN = 0.5
TEMPERATURES = ("map", "T", "Q", "U")


def reading(record: Record, channel: str, *, path: Path) -> tuple[dict[str, Any], list[str]]:
    """Options that the channel's file is read with here, and a note if its unit is not known.

    The sheet's unit counts, as it does for `predict`. A temperature without any is taken as it is.
    """
    try:
        if not path.exists() or not formats.accepts(path, "unit"):
            return {}, []
        options = spaced(record, path, options={}) | {"channel": channel}
        if channel not in TEMPERATURES or "unit" in options:
            return options, []
        with skytable.opened(path) as sky:
            known = any(skytable.micro_kelvin(unit) is not None for unit in sky.units)
    except (ValueError, OSError, EOFError):
        return {}, []  # told when it is read
    if known:
        return options, []
    note = (
        f"{record.case}, {channel}: {path} says no unit of temperature; give --unit mK (or K, uK; "
        "in recipes data.reading.unit, in the sheet a column unit)"
    )
    return {**options, "unit": "uK"}, [note]


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
        yield from _pixels(record, values, space=found.space, first=first, what=channel)


def of_holes(
    record: Record, channel: str, *, found: Sample, maps: Sequence[Sample]
) -> Iterator[Problem]:
    """Pixels that a mask calls seen and of which a map has no value."""
    if channel != "mask":
        return
    for one in maps:
        try:
            own = onto_sphere(one.image[0], one.space, wanted=found.space, name="the map")
        except ValueError:
            continue  # told as geometry
        known = np.isfinite(own)
        lost = int((np.nan_to_num(found.image[0]) > SEEN)[~known].sum())
        if lost and known.any():
            name = next((n for n, p in record.paths.items() if str(p) in one.sources.values()), "")
            yield Problem(
                record.case, "holes", f"{name}: {lost} pixels are UNSEEN or NaN where mask is 1",
                "0 in the mask where the map has no value", "mend the mask, or give none",
            )  # fmt: skip


def of_spectrum(record: Record, path: Path, *, nside: int) -> Iterator[Problem]:
    """A spectrum that cannot be read, or that ends before the multipoles of the map."""
    try:
        last = spectra.read(path).values.shape[1] - 1
    except (ValueError, OSError, EOFError) as error:
        yield Problem(record.case, "unreadable", str(error), "a spectrum", "mend the file")
        return
    if last < 2 * nside:
        yield Problem(
            record.case, "spectrum", f"{path}: ends at l = {last}", f"l = {2 * nside} (2 nside)",
            "give a longer one, or predict with a smaller --lmax",
        )  # fmt: skip


def of_label(
    record: Record, path: Path, *, labels: Mapping[str, Sequence[int]], first: Space
) -> Iterator[Problem]:
    """A label map that cannot be read, of other pixels, or with values that no class names."""
    try:
        values, space, _ = formats.read_labels(path)
    except (ValueError, OSError, EOFError) as error:
        yield Problem(record.case, "unreadable", str(error), "a label map", "mend the file")
        return
    yield from _pixels(record, values, space=space, first=first, what="label")
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
        path = record.label if what == "label" else record.paths.get(what)
        onto_sphere(values, space, wanted=first, name=what, path=path, kind=sky_kind(what))
    except ValueError as error:
        found, _, cure = str(error).partition("; ")
        wanted = str(first) if isinstance(first, Sphere) else "an image"
        yield Problem(record.case, "geometry", found, wanted, cure)
