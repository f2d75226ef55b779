"""The FITS table that a HEALPix map lies in: found, judged and taken apart, for `healpix`.

Source: the HEALPix keywords (PIXTYPE, ORDERING, NSIDE, INDXSCHM, OBJECT, COORDSYS, POLCCONV) as
healpy, HEALPix' Fortran and IDL tools write them; FITS standard 4.0, section 7.3.
"""

import gzip
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped

from medseg.geometry.sphere import FACES, MOST_NSIDE, Sphere, nside_of
from medseg.io import nifti

ORDERINGS = ("ring", "nested")

_PIXELS = {"PIXEL", "PIXELS", "PIX", "IPIX", "PIXNUM", "PIXEL_INDEX", "HPX_PIXEL", "INDEX"}
_STOKES = {
    "T": {"T", "I", "TEMPERATURE", "INTENSITY", "TEMP", "I_STOKES", "T_STOKES", "STOKES_I"},
    "Q": {"Q", "Q_POLARISATION", "Q_POLARIZATION", "Q_STOKES", "STOKES_Q"},
    "U": {"U", "U_POLARISATION", "U_POLARIZATION", "U_STOKES", "STOKES_U"},
}
_SPECTRA = {"TT", "EE", "BB", "TE", "GRADIENT", "CURL", "G_T", "GRAD"}
_FRAMES = {"G": "G", "GAL": "G", "GALACTIC": "G", "E": "E", "ECL": "E", "ECLIPTIC": "E"}
_FRAMES |= dict.fromkeys(("C", "Q", "EQ", "CEL", "CELESTIAL", "EQUATORIAL", "ICRS", "FK5"), "C")
_KELVIN = re.compile(
    r"(|m|milli|u|mu|micro|n|nano)(?:K|[Kk]elvins?)(?:[ _,(]*(?i:cmb|thermo|thermodynamic)\)?)?"
)
_MICRO = {"": 1e6, "m": 1e3, "milli": 1e3, "n": 1e-3, "nano": 1e-3}
_BROKEN = (OSError, EOFError, TypeError, ValueError, KeyError, IndexError, zlib.error)


@dataclass(frozen=True, eq=False)
class SkyTable:
    """An open table whose header has been found good.

    Attributes:
        path: of the file.
        sphere: the pixels there are, in the file's own numbering.
        names: of the columns that hold values, as the file spells them.
        units: one text a column, empty where nothing says it.
        header: the table's.
        order: which row a pixel of `sphere` has; None where they lie in order.
    """

    path: Path
    sphere: Sphere
    names: tuple[str, ...]
    units: tuple[str, ...]
    header: Any
    order: Integer[np.ndarray, " n"] | None
    _table: Any
    _places: tuple[int, ...]

    def column(self, index: int) -> Shaped[np.ndarray, " n"]:
        """The stored values of one column, a number a pixel of `sphere`."""
        place = self._places[index]
        found = _values(self.path, self._table, place)
        if found.dtype.kind not in "biuf":
            raise ValueError(
                f"{self.path}: column {self.names[index]} holds {found.dtype} values, and one real "
                f"number a pixel is wanted; choose another with --field ({listed(self.names)})"
            )
        if len(found) != self.sphere.shape[0]:
            raise ValueError(
                f"{self.path}: column {self.names[index]} has {len(found)} values for "
                f"{self.sphere.shape[0]} pixels; write the map again with one value a pixel"
            )
        return found if self.order is None else found[self.order]

    def null(self, index: int) -> int | None:
        """The whole number that stands for no value in a column, if the header names one."""
        found = self.header.get(f"TNULL{self._places[index] + 1}")
        return None if found is None else int(found)


@contextmanager
def opened(path: Path, *, ordering: str | None = None) -> Iterator[SkyTable]:
    """The file's first HEALPix table; `ordering` overrides the header.

    Raises:
        ValueError: it is cut short, or holds no HEALPix map, or its header does not say which
            pixels its rows are.
    """
    if ordering is not None and ordering.lower() not in ORDERINGS:
        raise ValueError(f"--ordering {ordering}: a map's pixels are numbered ring or nested")
    with hdus(path) as found:
        table = _table(path, found)
        _check_whole(path, table)
        yield _judged(path, table, first=found[0].header, ordering=ordering)


@contextmanager
def hdus(path: Path, *, most: int = -1) -> Iterator[Any]:
    """The parts of a FITS file, packed or not; of a packed one the first `most` bytes alone."""
    fits: Any = import_module("astropy.io.fits")

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a FITS file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the FITS file inside it")
    with path.open("rb") as stream:
        start = stream.read(9)
    if not start:
        raise ValueError(f"{path} is empty (0 bytes); copy it again from its source")
    try:
        packed = start[:2] == b"\x1f\x8b"
        source: Any = path
        if packed:
            with gzip.open(path) as stream:
                source = BytesIO(stream.read(most))
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from None
    if (source.getvalue() if packed else start)[:6] != b"SIMPLE":
        raise ValueError(f"{path} is no FITS file: it begins with {start!r}; is its name right?")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fits.open(source)
            for part in found:
                str(part.header)
    except _BROKEN as error:
        raise _damaged(path, error) from None
    with found:
        yield found


def is_spectrum(found: Any) -> bool:  # noqa: ANN401 -- an HDUList
    """Whether a FITS file's tables are angular power spectra and no maps."""
    tables = [part for part in found if _is_table(part)]
    names = {plain(name) for table in tables for name in table.columns.names or []}
    skies = any({"PIXTYPE", "ORDERING", "INDXSCHM"} & set(table.header) for table in tables)
    title = " ".join(str(table.header.get("EXTNAME", "")) for table in tables).upper()
    alone = names == {"TEMPERATURE"} and _count(tables[0]) % FACES > 0
    return bool(tables) and not skies and (bool(names & _SPECTRA) or "SPECTR" in title or alone)


def stokes(name: str) -> str:
    """Which of T, Q and U a column or channel is by its name; empty for others."""
    return next((kind for kind, names in _STOKES.items() if plain(name) in names), "")


def plain(name: str) -> str:
    """A column's name in capitals, with one kind of joint."""
    return name.strip().upper().replace("-", "_").replace(" ", "_")


def micro_kelvin(unit: str) -> float | None:
    """What turns a thermodynamic temperature into µK; None for whatever is none."""
    match = _KELVIN.fullmatch(in_ascii(unit).strip("'[]"))
    return _MICRO.get(match[1], 1.0) if match else None


def in_ascii(unit: str) -> str:
    """A unit as a FITS header can hold it: both signs for micro are u."""
    return unit.strip().replace("\u00b5", "u").replace("\u03bc", "u")


def listed(names: tuple[str, ...]) -> str:
    """Columns with the numbers that choose them."""
    return ", ".join(f"{number} {name}" for number, name in enumerate(names))


def _table(path: Path, found: Any) -> Any:  # noqa: ANN401 -- parts of a FITS file
    """The first table that says it is a map; else the first table."""
    fits: Any = import_module("astropy.io.fits")

    tables = [part for part in found if _is_table(part) and isinstance(part, fits.BinTableHDU)]
    if not tables:
        shapes = [part.shape for part in found if not _is_table(part) and part.shape]
        what = f"an image of shape {shapes[0]}" if shapes else "no binary table"
        raise ValueError(
            f"{path} holds {what}, and a HEALPix map is a binary table; write the map with "
            "healpy.write_map (a flat image is put on the sphere by reproject_to_healpix of the "
            "package reproject), or copy the file again if it is cut short"
        )
    for table in tables:
        if str(table.header.get("PIXTYPE", "")).upper() == "HEALPIX" or "NSIDE" in table.header:
            return table
    table = tables[0]
    kind = table.header.get("PIXTYPE")
    if kind is not None or ("ORDERING" not in table.header and not _fits(_count(table))):
        said = f"PIXTYPE is {kind}" if kind else "no PIXTYPE, ORDERING or NSIDE"
        raise ValueError(
            f"{path} holds a table that is no HEALPix map ({said}; columns "
            f"{', '.join(table.columns.names) or 'none'}); give a map that healpy.read_map reads"
        )
    return table


def _judged(path: Path, table: Any, *, first: Any, ordering: str | None) -> SkyTable:  # noqa: ANN401
    """Which pixels the rows are, by header and pixel numbers."""
    header, columns = table.header, table.columns
    marked = _pixel_column(header, columns)
    places = tuple(place for place in range(len(columns)) if place != marked)
    if not places or not _count(table):
        raise ValueError(f"{path} holds a table without values; write the map again")
    nest = _nest(path, header, first, ordering)
    frame = _FRAMES.get(plain(str(header.get("COORDSYS", first.get("COORDSYS", "")))), "")
    try:
        if marked is None:
            sphere, order = _whole(path, header, _count(table, places[0])), None
            sphere = Sphere(sphere.nside, nest, frame=frame)
        else:
            numbers = _values(path, table, marked)
            nifti.check_memory(path, numbers.shape, needed=numbers.size * 32)
            order, sphere = _part(path, header, numbers, nest=nest, frame=frame)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None
    names = tuple(str(columns.names[place]) for place in places)
    units = tuple(str(columns[place].unit or "").strip() for place in places)
    return SkyTable(path, sphere, names, units, header, order, table, places)


def _whole(path: Path, header: Any, count: int) -> Sphere:  # noqa: ANN401 -- a FITS header
    """The sphere of a map that has a value for every pixel."""
    nside = _nside(path, header)
    if nside is None:
        return Sphere(nside_of(count))
    npix = FACES * nside**2
    if count == npix:
        return Sphere(nside)
    said = {str(header.get(key, "")).strip().upper() for key in ("INDXSCHM", "OBJECT")}
    if count < npix and (said & {"EXPLICIT", "PARTIAL"} or not _fits(count)):
        raise ValueError(
            f"{path} is a part of the sky ({count} of {npix} pixels at nside {nside}) without "
            "pixel numbers; write it again with a column PIXEL: healpy.write_map(…, partial=True)"
        )
    raise ValueError(
        f"{path}: NSIDE is {nside}, whose sky has {npix} pixels, and {count} values are there; "
        "one of them is wrong: write the map again"
        + (f", or set NSIDE to {nside_of(count)}" if _fits(count) else "")
    )


def _part(
    path: Path,
    header: Any,  # noqa: ANN401 -- a FITS header
    stored: Shaped[np.ndarray, " n"],
    *,
    nest: bool,
    frame: str,
) -> tuple[Integer[np.ndarray, " n"] | None, Sphere]:
    """Where the rows of ascending pixels are, and the sphere of a map that numbers its pixels."""
    nside = _nside(path, header)
    if nside is None:
        raise ValueError(
            f'{path} numbers its pixels and NSIDE is missing; set it: python -c "from astropy.io '
            f"import fits; fits.setval('{path}', 'NSIDE', value=…, ext=1)\""
        )
    numbers = stored.astype(np.int64)
    if stored.dtype.kind not in "iuf" or (numbers != stored).any():
        raise ValueError(f"{path}: pixel numbers are whole; write the map again")
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    twice = numbers[1:][np.diff(numbers) == 0]
    if len(twice):
        raise ValueError(
            f"{path}: {len(twice)} pixel numbers stand there twice, the first is {twice[0]}; "
            "write each pixel once"
        )
    sphere = Sphere(nside, nest, numbers, frame)
    if len(numbers) == sphere.npix:
        sphere = Sphere(nside, nest, None, frame)
    return (None if (np.diff(order) == 1).all() else order), sphere


def _nest(path: Path, header: Any, first: Any, ordering: str | None) -> bool:  # noqa: ANN401
    """Whether pixels are numbered NESTED."""
    if ordering is not None:
        return ordering.lower() == "nested"
    words = {
        str(part["ORDERING"]).strip().upper() for part in (header, first) if "ORDERING" in part
    }
    kinds = {"NESTED" if word in {"NEST", "NESTED"} else word for word in words if word}
    cure = "say it with --ordering ring or --ordering nested (in recipes data.reading.ordering)"
    if kinds == {"NUNIQ"}:
        raise ValueError(
            f"{path} is a map of several resolutions (ORDERING is NUNIQ), and one nside is wanted; "
            "flatten it first (ligo-skymap-flatten)"
        )
    if len(kinds) != 1 or kinds - {"RING", "NESTED"}:
        said = "is missing" if not kinds else f"says {' and '.join(sorted(kinds))}"
        raise ValueError(f"{path}: ORDERING {said}; {cure}")
    return kinds == {"NESTED"}


def _nside(path: Path, header: Any) -> int | None:  # noqa: ANN401 -- a FITS header
    found = header.get("NSIDE")
    if found is None:
        return None
    good = isinstance(found, int | float) and found == int(found) and 1 <= found <= MOST_NSIDE
    if not good or int(found) & (int(found) - 1):
        raise ValueError(
            f"{path}: NSIDE is {found}; it must be a power of two (1, 2, 4, … {MOST_NSIDE}): mend "
            "the header, or bring the map to one with healpy.ud_grade"
        )
    return int(found)


def _pixel_column(header: Any, columns: Any) -> int | None:  # noqa: ANN401 -- of a FITS table
    """Which column numbers the pixels: by its name, else the first of whole numbers where said."""
    for place, name in enumerate(columns.names):
        if plain(name) in _PIXELS:
            return place
    said = str(header.get("INDXSCHM", "")).strip().upper() == "EXPLICIT"
    whole = bool(re.fullmatch(r"\d*[IJKB]", str(columns[0].format))) if len(columns) else False
    return 0 if said and whole and len(columns) > 1 else None


def _values(path: Path, table: Any, place: int) -> Shaped[np.ndarray, " n"]:  # noqa: ANN401
    """A column's values in this machine's byte order, free of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = np.asarray(table.data.field(place)).ravel()
            return np.array(found, dtype=found.dtype.newbyteorder("="))
    except _BROKEN as error:
        raise _damaged(path, error) from None


def _check_whole(path: Path, table: Any) -> None:  # noqa: ANN401 -- a FITS table
    """Refuse a table that claims more bytes than the file has."""
    place = table.fileinfo()
    stream = place["file"]
    needed = place["datLoc"] + table.header["NAXIS1"] * table.header["NAXIS2"]
    if needed > stream.size:
        raise _damaged(path, EOFError(f"{needed} bytes are claimed, {stream.size} are there"))


def _is_table(part: Any) -> bool:  # noqa: ANN401 -- a part of a FITS file
    fits: Any = import_module("astropy.io.fits")

    return isinstance(part, fits.BinTableHDU | fits.TableHDU) and not isinstance(
        part, fits.CompImageHDU
    )


def _count(table: Any, place: int = 0) -> int:  # noqa: ANN401 -- a FITS table
    """Values of a column, all rows together."""
    if not len(table.columns):
        return 0
    repeat = re.fullmatch(r"(\d+)[BIJKEDLXCM]", str(table.columns[place].format))
    return int(table.header["NAXIS2"]) * (int(repeat[1]) if repeat else 1)


def _fits(count: int) -> bool:
    """Whether a whole sky may have so many pixels."""
    try:
        return nside_of(count) > 0
    except ValueError:
        return False


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is cut short or damaged ({error}); copy or download it again from its source"
    )
