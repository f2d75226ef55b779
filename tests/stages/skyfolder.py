"""Made-up skies with holes on disk: a sheet, its maps and mask, and predictions of a task."""

import json
from functools import cache

import healpy
import numpy as np

NSIDE = 16
UNIT = "uK"


def prior(nside=NSIDE):
    from medseg.geometry.spectrum import Prior

    degree = np.arange(2 * nside + 1)
    cl = np.divide(1e3, degree * (degree + 1.0), out=np.zeros(len(degree)), where=degree > 1)
    return Prior(np.stack([cl, 0.1 * cl, 0.05 * cl, 0 * cl]))


@cache
def sky(case, fields="T", nside=NSIDE):
    """The true fields of a case, NESTED."""
    return prior(nside).draw(nside, seed=ord(case), fields=fields)


def belt(nside=NSIDE, width=20):
    """Whether a pixel is hidden: within some degrees of the equator, NESTED."""
    theta, _ = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=True)
    return np.abs(90 - np.degrees(theta)) < width


def save(path, maps, *, nest=True, unit=UNIT, names=None, dtype=np.float64):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.atleast_2d(maps)
    if not nest:
        rows = healpy.reorder(rows, n2r=True)
    named = {} if names is None else {"column_names": names}
    healpy.write_map(
        path, list(rows), nest=nest, dtype=dtype, column_units=unit, overwrite=True, **named
    )


def sidecar(folder, case, **changes):
    content = {"case": case, "status": "ok", "task": "inpaint", "fields": ["map"], "unit": "µK",
               "model": {"path": "model", "sha256": ["abc"]}, **changes}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case}.json").write_text(json.dumps(content))


def study(folder, cases="abc", *, nest=False):
    """A sheet of cases (and one of training) with one mask, without predictions."""
    hidden = belt()
    save(folder / "mask.fits", (~hidden).astype(float), unit=None, nest=nest)
    rows = ["case,subject,split,map,mask,spectrum,beam_arcmin,noise_uk"]
    for case in (*cases, "t"):
        split = "train" if case == "t" else "test"
        rows.append(f"{case},,{split},{case}_map.fits,mask.fits,cl.npz,320,1")
        save(folder / f"{case}_map.fits", sky(case), nest=nest)
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return hidden


def predicted(folder, case, values, *, deviation=None, samples=None, **more):
    """A filled map of a case as predict writes it, with what lies beside it."""
    save(folder / f"{case}.fits", values, **more)
    if deviation is not None:
        save(folder / f"{case}_deviation.fits", deviation, **more)
    if samples is not None:
        save(folder / f"{case}_samples.fits", samples, **more)
    sidecar(folder, case)
