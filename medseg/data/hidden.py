"""A sky with holes as it is filled: the fields that were seen, and what of them is hidden.

A case names its fields (`map`, or `T`, `Q`, `U`), a `mask` where its file does not leave holes
itself, and perhaps a `spectrum`.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medseg.data.align import onto_sphere
from medseg.data.sheet import Record
from medseg.data.spaces import Space
from medseg.data.table import Table, read_image, spaced
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import Sphere
from medseg.io import spectrum as spectra
from medseg.sample import Sample

BESIDE = ("mask", "spectrum")
IN_UNIT = ("filled", "deviation", "samples")
_SEEN = 0.5
_FEW = 0.3


def load(table: Table, record: Record) -> Sample:
    """The fields of a case with 0 in their holes, then the mask: 1 where the sky is seen, else 0.

    What a mask hides is never handed on. Without a mask, pixels that are UNSEEN or NaN are holes.
    `meta["beside"]` has the path of the spectrum and the sheet's notes.
    """
    fields = [name for name in table.channels if name not in BESIDE and name in record.paths]
    if not fields:
        named = [name for name in table.channels if name not in BESIDE]
        raise ValueError(f"case {record.case} has no map; give {named[0]}=PATH")
    first: Sample | None = None
    rows = []
    for name in fields:
        path = record.paths[name]
        options = spaced(record, path, options=table.options)
        one = read_image(record.case, name, path=path, **options)
        first = first or _of_sphere(one, record, path)
        rows.append(
            onto_sphere(one.image[0], one.space, wanted=first.space, name=name, path=path)
        )
    assert first is not None  # noqa: S101 -- there is a field
    values = np.stack(rows).astype(np.float64)
    seen = _seen(table, record, values, space=first.space)
    _tell_few(seen)
    image = np.concatenate([np.where(seen, values, 0), seen[None]])
    meta = {**first.meta, "columns": _columns(fields, first.meta)}
    beside = {"spectrum": record.paths.get("spectrum"), "notes": dict(record.notes)}
    meta["in_unit"] = IN_UNIT
    return Sample(
        id=record.case,
        image=image,
        space=first.space,
        channels=(*fields, "mask"),
        subject=record.subject,
        split=record.split,
        sources={name: str(path) for name, path in record.paths.items()},
        meta={**meta, "beside": beside},
    )


def _of_sphere(sample: Sample, record: Record, path: Path) -> Sample:
    if not isinstance(sample.space, Sphere):
        raise ValueError(
            f"case {record.case}: {path} is an image where a HEALPix map is wanted; give a FITS "
            "file of a map of the sphere"
        )
    return sample


def _columns(fields: list[str], meta: Mapping[str, Any]) -> list[str]:
    """The names of the columns that the filled map gets."""
    return list(meta.get("columns") or fields) if len(fields) == 1 else fields


def _seen(
    table: Table, record: Record, values: Float[np.ndarray, "c n"], *, space: Space
) -> Bool[np.ndarray, " n"]:
    """Which pixels are seen, by the mask or, without one, by what the map itself leaves out.

    Raises:
        ValueError: the mask hides nothing or everything, or lets through what the map has not.
    """
    known = np.isfinite(values).all(0)
    path = record.paths.get("mask")
    if path is None:
        seen, name = known, "the map"
    else:
        options = {k: v for k, v in table.options.items() if k == "ordering"}
        one = read_image(record.case, "mask", path=path, **options)
        mask = onto_sphere(
            one.image[0], one.space, wanted=space, name="mask", path=path, kind="mask"
        )
        seen, name = np.nan_to_num(mask) > _SEEN, f"the mask {path}"
        _check_range(mask, f"case {record.case}: {name}")
        lost = int((seen & ~known).sum())
        if lost:
            raise ValueError(
                f"case {record.case}: {lost} pixels are UNSEEN or NaN in the map where {name} says "
                "that they are seen; set the mask to 0 there, or give no mask: then these pixels "
                "are the holes"
            )
    if seen.all() and isinstance(space, Sphere) and not space.whole:
        raise ValueError(
            f"case {record.case}: the file of the map lacks {space.npix - len(seen)} of the sky's "
            f"{space.npix} pixels, and only holes among its own pixels are filled, of which there "
            "are none; to have them filled write the map whole (partial=False, UNSEEN in the "
            "holes)"
        )
    if seen.all():
        cure = "the right mask" if path else "mask=PATH; 0 in the mask is a hole"
        raise ValueError(
            f"case {record.case}: {name} leaves no hole, so there is nothing to fill; give {cure}"
        )
    if not seen.any():
        raise ValueError(
            f"case {record.case}: {name} hides every pixel; a mask is 1 where the sky is seen and "
            "0 in the holes: is it inverted or the wrong file?"
        )
    return seen


def _tell_few(seen: Bool[np.ndarray, " n"]) -> None:
    if seen.mean() < _FEW:
        share = f"{1 - seen.mean():.0%}"
        text = f"{share} of the pixels are hidden; 1 in a mask is seen, 0 a hole: is it inverted?"
        warnings.warn(text, stacklevel=3)


def _check_range(mask: Float[np.ndarray, " n"], name: str) -> None:
    if np.nanmin(mask, initial=0) < 0 or np.nanmax(mask, initial=1) > 1:
        raise ValueError(
            f"{name} holds values from {np.nanmin(mask):.4g} to {np.nanmax(mask):.4g}; a mask is 1 "
            "where the sky is seen and 0 in the holes: is it another file, or in per cent?"
        )
    soft = int(((mask > 0) & (mask < 1)).sum())
    if soft:
        text = (
            f"the mask is apodised: its {soft} pixels between 0 and 1 count as seen above {_SEEN}"
        )
        warnings.warn(text, stacklevel=3)


def prior_of(
    notes: Mapping[str, str], spectrum: Path | str | None, *, kind: str | None = None
) -> tuple[Prior, spectra.Spectrum] | None:
    """What a case says of its sky: a file of C_l, and its columns beam_arcmin and noise_uk.

    With it comes how the file was read; None where the case names no spectrum.
    """
    if not spectrum:
        return None
    numbers = {}
    for name in ("beam_arcmin", "noise_uk"):
        try:
            numbers[name] = float(notes.get(name) or 0)
        except ValueError:
            raise ValueError(f"the sheet's {name} is '{notes[name]}'; write a number") from None
    found = spectra.read(Path(spectrum), kind=kind)
    return Prior(found.values, **numbers), found
