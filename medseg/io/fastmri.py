"""fastMRI HDF5 files: `kspace` (slice, coil, y, x) or (slice, y, x), each slice one plane.

Source: Zbontar et al. 2018, arXiv:1811.08839, section 4: the readout runs along y (ISMRMRD's x)
and is oversampled; `ismrmrd_header` says how many millimetres the encoded and the reconstructed
field of view measure.
"""

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Complex

from medseg.geometry import coils, fourier
from medseg.geometry.grid import Grid
from medseg.io import kspace, nifti
from medseg.sample import Sample

SUFFIXES = (".h5", ".hdf5")

_COPIES = 9  # of one slice's k-space that reconstructing it takes at most


@dataclass(frozen=True)
class _Plan:
    """What a file's headers say: sizes of its k-space, what is kept of a slice, and its spacing."""

    slices: int
    coils: int
    space: tuple[int, int]
    kept: tuple[int, int]
    grid: Grid
    spacing_from: str


def handles(path: Path) -> bool:
    """A file with an HDF5 suffix; names with a leading dot are other programs' leftovers."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not path.is_dir()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--spacing-mm` and `--reconstruction`, if another format has not."""
    kspace.add_shared_options(parser)


def read(
    path: Path, *, spacing_mm: kspace.Spacing | None = None, reconstruction: str = "zero_filled"
) -> Sample:
    """One complex64 channel named `kspace`, (x, y, slice), cut to the reconstructed field of view.

    The spacing is that of `spacing_mm`, else of the header, else 1 mm with a warning; slices are
    taken to touch. Slices share the virtual coil of the middle one, so that phase is comparable.
    """
    from medseg.io.formats import stem

    kspace.check_method(path, reconstruction)
    with _opened(path) as (file, data):
        plan = _plan(path, file, data, spacing_mm)
        if plan.spacing_from == "unknown":
            warnings.warn(
                f"{path} has no usable ismrmrd_header: a voxel counts as 1 mm", stacklevel=2
            )
        size = plan.coils * plan.space[0] * plan.space[1] * _COPIES + int(np.prod(plan.grid.shape))
        nifti.check_memory(path, data.shape, needed=8 * size)
        image, fraction = _images(path, data, plan, reconstruction)
        acquisition = str(file.attrs.get("acquisition", ""))
    known = plan.spacing_from != "unknown"
    facts = {"coils": plan.coils, "reconstruction": reconstruction, "sampled": fraction}
    facts |= {"spacing_known": known, "spacing_from": plan.spacing_from}
    return Sample(
        id=stem(path),
        image=kspace.columns_first(image)[None],
        space=plan.grid,
        channels=("kspace",),
        sources={"kspace": str(path)},
        meta={"format": "kspace", "units": "mm", "domain": "kspace", "reconstructed": True, **facts}
        | ({"acquisition": acquisition} if acquisition else {}),
    )


def read_header(
    path: Path, *, spacing_mm: kspace.Spacing | None = None, reconstruction: str = "zero_filled"
) -> Grid:
    """Where the voxels lie, without reading any k-space."""
    kspace.check_method(path, reconstruction)
    with _opened(path) as (file, data):
        return _plan(path, file, data, spacing_mm).grid


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The file and its k-space; every refusal names the file, the fault and the cure."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a fastMRI .h5 file")
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        raise ImportError(f"{path} is an HDF5 file, which h5py reads: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            yield file, _data(path, file)
    except (OSError, RuntimeError, KeyError, UnicodeError) as error:  # as h5py names damage
        raise ValueError(
            f"{path} is no HDF5 file, or cut short or damaged ({error}); copy it again"
        ) from None


def _data(path: Path, file: Any) -> Any:  # noqa: ANN401 -- of h5py
    """The data set `kspace`, of three or four axes."""
    if "kspace" in file and len(getattr(file["kspace"], "shape", ())) in (3, 4):
        data = file["kspace"]
        fields = [data.dtype[name].itemsize for name in data.dtype.names or ()]
        if sum(fields) > data.dtype.itemsize:  # reading these would crash the HDF5 library
            raise OSError("the parts of its complex numbers overlap")
        if min(data.shape) > 0:
            return data
    if "data" in file.get("dataset", ()) or "xml" in file.get("dataset", ()):
        raise ValueError(
            f"{path} holds ISMRMRD acquisitions (dataset/data), whose lines are not sorted yet; "
            "sort them into (coil, y, x) with the ismrmrd package, and save that as .npy"
        )
    found = ", ".join(f"{key} {getattr(file[key], 'shape', '')}" for key in sorted(file))
    raise ValueError(
        f"{path} has no data set kspace of (slice, coil, y, x); it holds: {found or 'nothing'}. "
        "Give a fastMRI file, or save (coil, y, x) as .npy"
    )


def _plan(path: Path, file: Any, data: Any, spacing_mm: kspace.Spacing | None) -> _Plan:  # noqa: ANN401
    count, rows, columns = data.shape[0], data.shape[-2], data.shape[-1]
    fields = _fields_mm(file)
    kept, spacing, source = (rows, columns), (1.0, 1.0, 1.0), "unknown"
    if fields is not None:
        encoded, wanted = fields
        along = (encoded[0] / rows, encoded[1] / columns)
        kept = (
            max(1, min(rows, round(wanted[0] / along[0]))),
            max(1, min(columns, round(wanted[1] / along[1]))),
        )
        spacing, source = (along[1], along[0], wanted[2]), "header"
    given = spacing if spacing_mm is None else spacing_mm
    grid = kspace.grid_of(path, (count, *kept), spacing_mm=given)
    source = source if spacing_mm is None else "given"
    return _Plan(count, _count_coils(data), (rows, columns), kept, grid, source)


def _count_coils(data: Any) -> int:  # noqa: ANN401 -- a data set of h5py
    return int(data.shape[1]) if len(data.shape) == 4 else 1


def _fields_mm(file: Any) -> tuple[list[float], list[float]] | None:  # noqa: ANN401
    """Encoded and reconstructed field of view along ISMRMRD's x, y, z; None if not to be had."""
    if "ismrmrd_header" not in file:
        return None
    text = file["ismrmrd_header"][()]
    try:
        # Entities are not expanded without bound by expat 2.4.1 and later.
        root = ElementTree.fromstring(text)  # noqa: S314
        found = [
            [
                float(
                    root.findtext(f"{{*}}encoding/{{*}}{space}/{{*}}fieldOfView_mm/{{*}}{axis}", "")
                )
                for axis in "xyz"
            ]
            for space in ("encodedSpace", "reconSpace")
        ]
    except (ElementTree.ParseError, ValueError, TypeError):
        return None
    good = all(1e-3 <= value <= 1e4 for field in found for value in field)
    return (found[0], found[1]) if good else None


def _images(
    path: Path,
    data: Any,  # noqa: ANN401 -- a data set of h5py
    plan: _Plan,
    method: str,
) -> tuple[Complex[np.ndarray, "z y x"], float]:
    """Slice by slice, so that only one slice's coils are held; and the share that was sampled."""
    image = np.zeros((plan.slices, *plan.kept), np.complex64)
    cut = fourier.middle(plan.space, plan.kept)
    reference = coils.virtual_coil(_slice(path, data, plan.slices // 2))
    fraction = 0.0
    for index in range(plan.slices):
        values = _slice(path, data, index)
        kspace.check_origin(path, values)
        fraction += float(fourier.sampled(values).mean()) / plan.slices
        try:
            image[index] = coils.reconstruct(values, method, reference=reference)[cut]
        except ValueError as error:
            raise ValueError(f"{path}, slice {index}: {error}") from None
    kspace.check_values(path, image)
    return image, fraction


def _slice(path: Path, data: Any, index: int) -> Complex[np.ndarray, "coil y x"]:  # noqa: ANN401
    """The coils of one slice."""
    stored = data[index]
    values = kspace.to_complex(path, stored if stored.ndim == 3 else stored[None])
    if values.any():
        kspace.check_values(path, values)
    return values
