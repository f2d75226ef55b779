"""Angular power spectra from files: npz, healpy FITS and CAMB or plain text, as C_l in µK².

D_l = l (l + 1) C_l / 2π. Text is D_l as CAMB writes it, the others C_l, if nothing says otherwise.
A spectrum is no image: this file has no `handles`.
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.geometry.spectrum import KINDS
from medseg.io import skytable
from medseg.provenance import shipped

SCALES = ("cl", "dl")

_KEY = "total"
_FITS = {"TEMPERATURE": "TT", "GRADIENT": "EE", "GRAD": "EE", "CURL": "BB", "G_T": "TE"}
_FITS |= {"E_MODE": "EE", "B_MODE": "BB", "T_E": "TE", "E_T": "TE", "TXE": "TE", "ET": "TE"}
_ORDER = ("TT", "EE", "BB", "TE", "EB", "TB")
_SAID_CL, _SAID_DL = re.compile(r"\bC_?\{?(l|ell)\b", re.I), re.compile(r"\bD_?\{?(l|ell)\b", re.I)
_SLACK = 1e-3  # by which rounded tables may break |TE|² ≤ TT EE
_SAMPLE = "data/samples/sky/planck18_cl.npz"


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What a file says of a sky's angular power.

    Attributes:
        values: C_l in µK², a row for each of TT, EE, BB, TE (zeros where the file has none), l
            from 0; what a `Prior` wants.
        kind: `cl` or `dl`, how the file's numbers were read.
        columns: which of the rows the file has.
        said: a sentence for people: what was read, and how.
    """

    values: Float[np.ndarray, "4 l"]
    kind: str
    columns: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class _Found:
    """A file's numbers before they are judged: rows by name, and what the file says of them."""

    rows: Mapping[str, np.ndarray]
    kind: str
    why: str
    factor: float = 1.0
    unit: str = "µK²"


def read(path: Path, *, kind: str | None = None) -> Spectrum:
    """The spectrum in a file; `kind` (`cl` or `dl`) overrides what the file says or is taken for.

    npz: `total`, a row an l from 0, columns TT, EE, BB, TE. FITS: as healpy writes it, up to six
    columns. Text: l, then columns that a line `# L TT EE BB TE` names, in that order if none does;
    it may start at l = 2.

    Raises:
        ValueError: it cannot be read, has gaps, or is no spectrum of a real sky.
    """
    if kind is not None and kind not in SCALES:
        raise ValueError(f"{path}: --spectrum-kind {kind}: a spectrum holds cl or dl")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a spectrum")
    if path.is_dir() or not path.stat().st_size:
        what = "a folder" if path.is_dir() else "empty (0 bytes)"
        raise ValueError(f"{path} is {what}; give a spectrum as .npz, .fits or text")
    with path.open("rb") as stream:
        start = stream.read(6)
    if start[:2] == b"PK":
        found = _npz(path)
    elif start == b"SIMPLE" or start[:2] == b"\x1f\x8b":
        found = _fits(path)
    else:
        found = _text(path, kind)
    return _judged(path, found, kind)


def planck18() -> Float[np.ndarray, "4 l"]:
    """C_l in µK² of a flat ΛCDM sky with Planck's 2018 parameters, up to l = 768.

    Raises:
        FileNotFoundError: the package lacks its samples.
    """
    return read(shipped(_SAMPLE)).values


def _judged(path: Path, found: _Found, kind: str | None) -> Spectrum:
    """Units and scale made one, and whatever cannot be a sky's spectrum refused."""
    why = f"{found.kind if kind is None else kind} ({found.why if kind is None else 'as was told'})"
    kind = found.kind if kind is None else kind
    columns = tuple(name for name in KINDS if name in found.rows)
    if "TT" not in columns and not {"EE", "BB"} & set(columns):
        raise ValueError(f"{path} has columns {', '.join(found.rows)}; TT (or EE and BB) is wanted")
    length = len(next(iter(found.rows.values())))
    degree = np.arange(length, dtype=float)
    scale = np.full(length, found.factor)
    if kind == "dl":
        scale *= 2 * np.pi / np.maximum(degree * (degree + 1), 1)
        scale[0] = 0
    values = np.zeros((len(KINDS), length))
    for name in columns:
        values[KINDS.index(name)] = found.rows[name] * scale
    _check(path, values, columns)
    auto = values[0] if values[0].any() else values[1] + values[2]
    rms = float(np.sqrt(((2 * degree + 1) * auto / (4 * np.pi))[2:].sum()))
    said = (
        f"{path.name}: {', '.join(columns)} of l up to {length - 1} read as {why}, in "
        f"{found.unit}; a sky of {rms:.3g} µK rms"
    )
    return Spectrum(values, kind, columns, said)


def _check(path: Path, values: Float[np.ndarray, "4 l"], columns: Sequence[str]) -> None:
    for name, row in zip(KINDS, values, strict=True):
        wrong = ~np.isfinite(row)
        if wrong.any():
            raise ValueError(
                f"{path}: {name} is NaN or infinite at l = {int(wrong.argmax())} "
                f"({int(wrong.sum())} such values); give a spectrum without gaps"
            )
        wrong = row < 0
        if name != "TE" and wrong.any():
            raise ValueError(
                f"{path}: {name} is negative at l = {int(wrong.argmax())}, and power is not; are "
                "the columns in the order TT EE BB TE? A measured spectrum needs smoothing first"
            )
    if values.shape[1] < 3 or not values[:3, 2:].any():
        raise ValueError(f"{path}: {', '.join(columns)} hold no power at l ≥ 2; give another file")
    tt, ee, _, te = values
    wrong = te**2 > tt * ee * (1 + _SLACK)
    wrong[:2] = False
    if wrong.any():
        raise ValueError(
            f"{path}: |TE|² exceeds TT EE at l = {int(wrong.argmax())}, which no sky does; are the "
            "columns in the order TT EE BB TE? A text file may name them: # L TT TE EE BB"
        )


def _npz(path: Path) -> _Found:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            names = list(stored)
            table = np.asarray(stored[_KEY]) if _KEY in names else None
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); save it again by np.savez") from None
    if table is None:
        raise ValueError(
            f"{path} holds {', '.join(names) or 'nothing'}, and no `{_KEY}`; save C_l in µK² with "
            "np.savez(path, total=table), a row an l from 0, columns TT, EE, BB, TE"
        )
    if table.ndim == 1:
        table = table[:, None]
    if table.dtype.kind not in "iuf" or table.ndim != 2 or not 1 <= table.shape[1] <= 4:
        turned = "; turn it round: total.T" if table.ndim == 2 and table.shape[0] <= 4 else ""
        raise ValueError(
            f"{path}: `{_KEY}` has the shape {table.shape} ({table.dtype}), and a row an l from 0 "
            f"with the columns TT, EE, BB, TE is wanted{turned}"
        )
    rows = dict(zip(KINDS, table.astype(float).T, strict=False))
    return _Found(rows, "cl", "as .npz files hold")


def _fits(path: Path) -> _Found:
    with skytable.hdus(path) as found:
        tables = [part for part in found if getattr(part, "columns", None)]
        if not tables or not skytable.is_spectrum(found):
            raise ValueError(
                f"{path} holds no angular power spectrum (a map, a beam or an image?); give a file "
                "of healpy.write_cl, or C_l as .npz"
            )
        table = tables[0]
        names = [skytable.plain(name) for name in table.columns.names]
        unit = str(table.columns[0].unit or "").strip()
        try:
            rows = [np.asarray(table.data.field(n), dtype=float).ravel() for n in range(len(names))]
        except (ValueError, TypeError, OSError, IndexError) as error:
            raise ValueError(f"{path} is cut short or damaged ({error}); copy it again") from None
    kinds = [_FITS.get(name, name) for name in names]
    known = [kind in (*_ORDER, "C_T", "C_G") for kind in kinds]
    if not all(known):
        kinds = list(_ORDER[: len(names)])
    factor = _square(unit)
    said = "µK²" if factor else "µK² (the file names no unit that is known)"
    good = {kind: row for kind, row in zip(kinds, rows, strict=False) if kind in KINDS}
    return _Found(good, "cl", "as FITS files hold", 1.0 if factor is None else factor, said)


def _square(unit: str) -> float | None:
    """What makes µK² of a unit; None where it is none of temperature squared."""
    match = re.fullmatch(r"\(?(.+?)\)?(?:\^|\*\*)?2", skytable.in_ascii(unit).replace(" ", ""))
    factor = skytable.micro_kelvin(match[1]) if match else None
    return None if factor is None else factor**2


def _text(path: Path, kind: str | None) -> _Found:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        parts = [line.replace(",", " ").split() for line in lines]
        head = [row for row in parts if row and not _number(row[0])]
        body = [row for row in parts if row and _number(row[0])]
        table = np.array(body, dtype=float)
    except (UnicodeDecodeError, ValueError):
        table = np.zeros(0)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(
            f"{path} is no table of numbers (l, then TT or TT EE BB TE in every line); give a "
            "spectrum as .npz, .fits or text"
        )
    rows = dict(zip(_columns(path, head, table.shape[1] - 1), table[:, 1:].T, strict=True))
    comments = " ".join(" ".join(row) for row in head)
    says_dl = bool(_SAID_DL.search(comments)) or "l(l+1)" in comments.replace(" ", "").lower()
    says_cl = bool(_SAID_CL.search(comments)) and not says_dl
    if kind is None and not (says_cl or says_dl) and table.shape[1] == 2:
        raise ValueError(
            f"{path} holds l and one column, which may be C_l or D_l = l(l+1)C_l/2π; say which "
            "with --spectrum-kind cl or dl, or in a first line: # L C_l"
        )
    why = "as its heading says" if says_cl or says_dl else "as CAMB writes it"
    whole = {name: _filled(path, table[:, 0], row) for name, row in rows.items()}
    return _Found(whole, "cl" if says_cl else "dl", why)


def _columns(path: Path, head: Sequence[Sequence[str]], count: int) -> list[str]:
    """The columns' names behind l: the last heading that names them all, else CAMB's order."""
    for words in reversed(head):
        names = [word.strip("#|,").upper() for word in words if word.strip("#|,")]
        if len(names) == count + 1 and names[0] in {"L", "ELL"} and count > 1:
            return [{"ET": "TE"}.get(name, name) for name in names[1:]]
    if count not in (1, 4):
        raise ValueError(
            f"{path} has {count} columns behind l, and which they are is not said; name them in a "
            "first line: # L TT TE EE"
        )
    return list(KINDS[:count])


def _filled(path: Path, degree: Float[np.ndarray, " n"], row: Any) -> Float[np.ndarray, " l"]:  # noqa: ANN401
    """A row from l = 0, where the file's first l may be 2; what is before is zero."""
    start = float(degree[0])
    if start not in (0.0, 1.0, 2.0) or (np.diff(degree) != 1).any():
        raise ValueError(
            f"{path}: l runs from {degree[0]:g} to {degree[-1]:g} with gaps or bands, and every l "
            "from 2 on is wanted, a line each; interpolate it"
        )
    return np.concatenate([np.zeros(int(start)), row])


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
