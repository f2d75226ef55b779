"""HEALPix maps in FITS tables: whole skies and parts, RING or NESTED, temperatures in µK inside.

What is UNSEEN or NaN in a file is NaN here. Nothing is fetched from anywhere.
"""

import argparse
import gzip
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped

from medseg.geometry.sphere import Sphere
from medseg.io import nifti, skytable
from medseg.io.skytable import SkyTable
from medseg.provenance import atomic
from medseg.sample import Sample

SUFFIXES = (".fits", ".fits.gz", ".fit", ".fit.gz")
WRITES = ".fits"
UNSEEN = -1.6375e30

Meta = Mapping[str, Any]
Field = int | str | Sequence[int | str]

_ROW = 1024  # values in a row of a whole sky's table, as HEALPix' own tools write it
_CODES = {"u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D"}
_AS_WHOLE = 1e-3
_HEADERS = 1 << 17  # bytes that tell a spectrum from a map


def handles(path: Path) -> bool:
    """A FITS file, unless its tables are angular power spectra; `read` tells what is wrong."""
    if not path.name.lower().endswith(SUFFIXES) or path.name.startswith(".") or path.is_dir():
        return False
    try:
        with skytable.hdus(path, most=_HEADERS) as found:
            return not skytable.is_spectrum(found)
    except (ValueError, OSError):
        return True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--unit`, `--field` and `--ordering`."""
    parser.add_argument(
        "--unit", metavar="K|mK|uK", help="of the values of sky maps whose header says none or lies"
    )
    parser.add_argument(
        "--field",
        metavar="N|NAME[,…]",
        help="which columns of a sky map to read, from 0 (default: by the channel's name)",
    )
    parser.add_argument(
        "--ordering",
        choices=skytable.ORDERINGS,
        help="of the pixels of sky maps whose header says none or lies",
    )


def read(
    path: Path,
    *,
    channel: str | None = None,
    field: Field | None = None,
    unit: str | None = None,
    ordering: str | None = None,
) -> Sample:
    """One channel a column, in the file's own pixels and order; NaN where nothing was seen.

    Temperatures (K, mK, µK) come in µK, float64 where that needs it; U follows the COSMO
    convention. `meta` keeps what `write` needs to give unit, column names and number type back.

    Args:
        path: of the file.
        channel: map, T, Q and U are temperatures and need a unit; `mask` has none; others are
            taken as they are, or converted if the header has a unit of temperature. Where several
            columns are, it chooses.
        field: columns by name or number, from 0, pixel numbers not counted; "0,1,2" gives three.
        unit: instead of the header's.
        ordering: ring or nested, instead of the header's.
    """
    from medseg.io.formats import stem

    if unit is not None and skytable.micro_kelvin(unit) is None:
        raise ValueError(f"--unit {unit} is no temperature that is known; give K, mK or uK")
    with skytable.opened(path, ordering=ordering) as sky:
        picked = _picked(sky, channel, field)
        nifti.check_memory(path, sky.sphere.shape, needed=sky.sphere.shape[0] * 32 * len(picked))
        said, factor = _unit(sky, picked, channel, unit)
        stored = [sky.column(index) for index in picked]
        values = [_known(a, sky.null(i), factor) for i, a in zip(picked, stored, strict=True)]
        iau = str(sky.header.get("POLCCONV", "")).strip().upper() == "IAU"
    names = [sky.names[index] for index in picked]
    for row, name in zip(values, names, strict=True):
        if iau and skytable.stokes(name) == "U":
            np.negative(row, out=row)
    facts = {"unit": said, "columns": names, "dtype": str(np.result_type(*stored))}
    facts |= {"missing": _missing(stored), "polcconv": "COSMO" if "POLCCONV" in sky.header else ""}
    return Sample(
        id=stem(path),
        image=np.stack(values),
        space=sky.sphere,
        channels=(channel or "map",) if len(names) == 1 else tuple(names),
        sources=dict.fromkeys((channel or "map",) if len(names) == 1 else names, str(path)),
        meta={"format": "healpix", **facts},
    )


def read_header(
    path: Path,
    *,
    channel: str | None = None,
    field: Field | None = None,
    unit: str | None = None,
    ordering: str | None = None,
) -> Sphere:
    """Where the pixels lie, without the values; refuses what `read` refuses by header."""
    with skytable.opened(path, ordering=ordering) as sky:
        _unit(sky, _picked(sky, channel, field), channel, unit)
        return sky.sphere


def read_labels(
    path: Path, *, field: Field | None = None, ordering: str | None = None
) -> tuple[Integer[np.ndarray, " n"], Sphere, dict[str, Any]]:
    """Labels of the first column in the smallest integer type, their pixels, and `write`'s facts.

    Floating point files are fine as long as every value is a whole number.
    """
    with skytable.opened(path, ordering=ordering) as sky:
        index = _picked(sky, "mask", field)[0]
        stored, null = sky.column(index), sky.null(index)
    real = stored.astype(np.float64)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(real - np.round(real)) <= _AS_WHOLE) | (np.abs(real) >= 2**31)
    if null is not None and stored.dtype.kind != "f":
        wrong |= stored == null
    if wrong.any():
        place = int(np.argmax(wrong))
        pixel, value = int(sky.sphere.numbers()[place]), float(real[place])
        text = "UNSEEN" if _unseen(real[place : place + 1])[0] else format(value, "g")
        raise ValueError(
            f"{path}: value {text} at pixel {pixel} is no label ({int(wrong.sum())} such pixels); "
            "whole numbers are wanted: round them, leave unseen pixels out (a partial map), or is "
            "this a map of values?"
        )
    found = np.round(real).astype(np.int64)
    low, high = int(found.min()), int(found.max())
    kind = np.int32 if low < 0 or high > 65535 else np.uint8 if high <= 255 else np.uint16
    meta = {"format": "healpix", "unit": None, "columns": [sky.names[index]], "missing": "unseen"}
    return found.astype(kind), sky.sphere, meta


def write(path: Path, array: Shaped[np.ndarray, "..."], *, grid: Sphere, meta: Meta) -> None:
    """Write atomically, in the sphere's own order; equal arrays and facts give equal bytes.

    One column for "n", k columns for "n k" or "k n". Floating point values are taken as µK where
    `meta` has a unit of temperature, and written in that unit and in the number type that was
    read; NaN becomes UNSEEN. Whole numbers and truths are written as they are (see `plain`).
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: a HEALPix map ends with .fits or .fits.gz; rename the output")
    rows = _rows(path, array, grid)
    real = array.dtype.kind == "f"
    columns = [_stored(path, row, meta) for row in rows]
    names, units = _names(len(rows), meta, real=real), meta.get("unit") if real else None
    table = _built(columns, names, units or None, grid)
    if real and meta.get("polcconv"):
        table.header["POLCCONV"] = (meta["polcconv"], "Sign of U")
    content = BytesIO()
    table.writeto(content)
    with atomic(path) as part, part.open("wb") as stream:
        if not path.name.lower().endswith(".gz"):
            stream.write(content.getbuffer())
            return
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0) as packed:
            packed.write(content.getbuffer())


def plain(meta: Meta, *columns: str, unit: str | None = None) -> dict[str, Any]:
    """Facts for values that are not the map's own (probabilities, masks): other columns, no unit.

    A `unit` is that of other numbers; temperatures are written in µK.
    """
    return {**meta, "unit": unit, "columns": list(columns), "dtype": None, "polcconv": ""}


def _picked(sky: SkyTable, channel: str | None, field: Field | None) -> list[int]:
    """The columns to read: those asked for, else by the channel's name, else the first."""
    if field is not None and (channel != "mask" or len(sky.names) > 1):
        asked = str(field).split(",") if isinstance(field, int | str) else field
        return [_asked(sky, one) for one in asked]
    names = [skytable.plain(name) for name in sky.names]
    if channel == "mask":
        return [names.index("MASK") if "MASK" in names else 0]
    kinds = [skytable.stokes(name) for name in sky.names]
    kind = "T" if channel in (None, "map") else skytable.stokes(channel or "")
    if len(names) == 1:
        if channel and kind:
            _check_stokes(sky, kinds[0], channel=channel, wanted=kind)
        return [0]
    if channel and skytable.plain(channel) in names:
        return [names.index(skytable.plain(channel))]
    if kind in kinds and kind:
        return [kinds.index(kind)]
    if channel in (None, "map"):
        if channel:
            _check_stokes(sky, kinds[0], channel=channel, wanted=kind)
        return [0]
    if kind and len(names) == 3 and not any(kinds):
        return ["TQU".index(kind)]
    raise ValueError(
        f"{sky.path} has {len(names)} columns and none is named {channel}; choose with --field (in "
        f"recipes data.reading.field): {skytable.listed(sky.names)}"
    )


def _check_stokes(sky: SkyTable, kind: str, *, channel: str, wanted: str) -> None:
    """Refuse a column of polarisation where a temperature, or the other of Q and U, is wanted."""
    if kind in {"Q", "U"} and kind != wanted:
        names = skytable.listed(sky.names)
        raise ValueError(
            f"{sky.path} holds Stokes {kind} ({names}), and {channel} is Stokes {wanted}; name the "
            "channels Q=PATH and U=PATH, or choose the column to read with --field"
        )


def _asked(sky: SkyTable, field: int | str) -> int:
    """A column by its number or name."""
    text = str(field).strip()
    names = [skytable.plain(name) for name in sky.names]
    if text.isdigit() and int(text) < len(names):
        return int(text)
    if skytable.plain(text) in names:
        return names.index(skytable.plain(text))
    kinds = [skytable.stokes(name) for name in sky.names]
    if skytable.stokes(text) and skytable.stokes(text) in kinds:
        return kinds.index(skytable.stokes(text))
    raise ValueError(
        f"{sky.path} has no column {text}; choose --field from {skytable.listed(sky.names)}"
    )


def _unit(
    sky: SkyTable, picked: list[int], channel: str | None, unit: str | None
) -> tuple[str | None, float]:
    """The file's unit as it is spelled, and what makes µK of it."""
    if channel == "mask":
        return None, 1.0
    said = {sky.units[index] for index in picked} if unit is None else {unit}
    if len(said) > 1:
        raise ValueError(
            f"{sky.path}: columns in {' and '.join(sorted(s or 'no unit' for s in said))}; read "
            "them one by one with --field, or say one with --unit"
        )
    text = said.pop()
    factor = skytable.micro_kelvin(text)
    if factor is None and channel and (channel == "map" or skytable.stokes(channel)):
        known = f"the unit {text!r}, which is no temperature" if text else "no unit"
        raise ValueError(
            f"{sky.path}: column {sky.names[picked[0]]} has {known}; say it with --unit mK (or K, "
            "uK; in recipes data.reading.unit), or give the channel a name other than map, T, Q "
            "and U to have values taken as they are"
        )
    return skytable.in_ascii(text) or None, 1.0 if factor is None else factor


def _known(
    stored: Num[np.ndarray, " n"], null: int | None, factor: float
) -> Float[np.ndarray, " n"]:
    """Values in µK where a factor says so, NaN where there is none."""
    narrow = stored.dtype == np.float32 or stored.dtype.itemsize <= 2
    found = stored.astype(np.float32 if narrow and factor == 1 else np.float64)
    if stored.dtype.kind == "f":
        found[_unseen(stored)] = np.nan
    elif null is not None:
        found[stored == null] = np.nan
    if factor != 1:
        found *= factor
    return found


def _unseen(stored: Float[np.ndarray, " n"]) -> Any:  # noqa: ANN401 -- a mask
    """Where a value is the one that HEALPix calls UNSEEN, but for rounding."""
    return np.abs(stored - UNSEEN) <= 1e-5 * abs(UNSEEN)


def _missing(stored: Sequence[Num[np.ndarray, " n"]]) -> str:
    """How the file spells that nothing was seen: `nan` if it never says UNSEEN."""
    real = [row for row in stored if row.dtype.kind == "f"]
    nan = any(np.isnan(row).any() for row in real)
    return "nan" if nan and not any(_unseen(row).any() for row in real) else "unseen"


def _rows(path: Path, array: Shaped[np.ndarray, "..."], grid: Sphere) -> Shaped[np.ndarray, "k n"]:
    count = grid.shape[0]
    if array.ndim == 1 and len(array) == count:
        return array[None]
    if array.ndim == 2 and len(array) == count:
        return array.T
    if array.ndim == 2 and array.shape[1] == count:
        return array
    raise ValueError(
        f"{path}: an array of shape {array.shape} is not on a sphere of {count} pixels"
    )


def _stored(path: Path, row: Shaped[np.ndarray, " n"], meta: Meta) -> Shaped[np.ndarray, " n"]:
    """A column as it is written: in the file's unit and number type."""
    if row.dtype.kind != "f":
        if row.dtype.kind not in "biu":
            raise ValueError(
                f"{path}: {row.dtype} values are none that a map can hold; give numbers"
            )
        small = {"b1": "u1", "i1": "i2", "u2": "i4", "u4": "i8", "u8": "i8"}
        return row.astype(small.get(row.dtype.str[1:], row.dtype.str[1:]))
    own = "f8" if row.dtype.itemsize >= 8 else "f4"
    kind = {"float32": "f4", "float64": "f8"}.get(str(meta.get("dtype")), own)
    factor = skytable.micro_kelvin(meta.get("unit") or "")
    found = row if factor in (None, 1.0) else row.astype(np.float64) / factor
    found = found.astype(kind)
    if meta.get("missing") != "nan":
        found[np.isnan(found)] = UNSEEN
    return found


def _names(count: int, meta: Meta, *, real: bool) -> list[str]:
    """The columns' names: those that were read if they are as many."""
    names = list(meta.get("columns") or ())
    if len(names) == count and (real or count == 1):
        return names
    usual = {1: ["TEMPERATURE" if real and meta.get("unit") else "VALUE"]}
    return usual.get(count, [f"COLUMN_{number + 1}" for number in range(count)])


def _built(
    columns: Sequence[Shaped[np.ndarray, " n"]],
    names: Sequence[str],
    unit: str | None,
    grid: Sphere,
) -> Any:  # noqa: ANN401 -- a FITS table
    """The table with the keywords that HEALPix' tools look for."""
    fits: Any = import_module("astropy.io.fits")

    count = grid.shape[0]
    each = _ROW if grid.whole and count % _ROW == 0 else 1
    parts = []
    if grid.pixels is not None:
        kind = "J" if grid.npix < 2**31 else "K"
        parts.append(fits.Column("PIXEL", kind, array=grid.numbers()))
    for name, values in zip(names, columns, strict=True):
        code = f"{each if each > 1 else ''}{_CODES[values.dtype.str[1:]]}"
        shaped = values.reshape(-1, each) if each > 1 else values
        parts.append(fits.Column(name, code, unit=unit, array=shaped))
    table = fits.BinTableHDU.from_columns(parts)
    cards: dict[str, tuple[Any, str]] = {
        "PIXTYPE": ("HEALPIX", "HEALPIX pixelisation"),
        "ORDERING": ("NESTED" if grid.nest else "RING", "Pixel ordering scheme"),
        "NSIDE": (grid.nside, "Resolution parameter of HEALPIX"),
        "INDXSCHM": ("IMPLICIT" if grid.whole else "EXPLICIT", "Indexing scheme"),
        "OBJECT": ("FULLSKY" if grid.whole else "PARTIAL", "Sky coverage"),
        "EXTNAME": ("xtension", "name of this binary table extension"),
    }
    if grid.whole:
        cards |= {"FIRSTPIX": (0, "First pixel"), "LASTPIX": (grid.npix - 1, "Last pixel")}
    if grid.frame:
        cards["COORDSYS"] = (grid.frame, "G Galactic, E ecliptic, C celestial")
    if any(values.dtype.kind == "f" for values in columns):
        cards["BAD_DATA"] = (UNSEEN, "Value of pixels that were not seen")
    for key, card in cards.items():
        table.header[key] = card
    return table
