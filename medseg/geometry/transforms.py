"""The two transforms of a NIfTI header, sform and qform: to one grid in millimetres, and back.

Source: nifti1.h, methods 1 to 3. The sform counts where its code is above zero, else the qform,
else the voxel sizes alone (centred, first axis towards the left, as nibabel reads them).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.geometry.grid import Grid

Facts = Mapping[str, Any]

_FIELDS = {
    "quatern": ("quatern_b", "quatern_c", "quatern_d"),
    "qoffset": ("qoffset_x", "qoffset_y", "qoffset_z"),
    "srow": ("srow_x", "srow_y", "srow_z"),
}
_UNITS = {1: ("m", 1000.0), 2: ("mm", 1.0), 3: ("um", 0.001)}


def affine_of(header: Any, shape: tuple[int, int, int]) -> Float[np.ndarray, "4 4"]:  # noqa: ANN401
    """Voxel indices to RAS+ millimetres; it may be singular or not finite, as the header is."""
    if int(header["sform_code"]) > 0:
        affine = np.array(header.get_sform(), dtype=np.float64)
    else:
        header = _with_good_sizes(header, shape)
        known = int(header["qform_code"]) > 0
        affine = np.array(header.get_qform() if known else header.get_base_affine(), np.float64)
    affine[:3] *= _unit(header)[1]
    return affine


def facts_of(header: Any) -> dict[str, Any]:  # noqa: ANN401 -- a nibabel header
    """Everything that `set_geometry` needs to give both transforms back bit for bit."""
    facts: dict[str, Any] = {
        "qform_code": int(header["qform_code"]),
        "sform_code": int(header["sform_code"]),
        "units": _unit(header)[0],
        "xyzt_units": int(header["xyzt_units"]),
        "pixdim": [float(v) for v in header["pixdim"][:4]],
    }
    for key, names in _FIELDS.items():
        facts[key] = [np.asarray(header[name], dtype=np.float64).tolist() for name in names]
    return facts


def set_geometry(header: Any, grid: Grid, *, facts: Facts) -> None:  # noqa: ANN401 -- a nibabel header
    """Put a grid into a header whose shape is set.

    Facts of the same grid come back as they were. On another grid their codes and units stay; a
    sheared grid fits no qform, which then gets code 0.
    """
    if "srow" in facts:
        _put_back(header, facts)
        affine = affine_of(header, grid.shape)
        if np.allclose(affine, grid.affine, rtol=0, atol=1e-6):
            return
    else:
        header.set_xyzt_units("mm")
        header["sform_code"] = header["qform_code"] = 1
    _set_both(header, grid)


def _set_both(header: Any, grid: Grid) -> None:  # noqa: ANN401 -- a nibabel header
    """Both transforms from one grid; a header without any code gets one for the sform."""
    from nibabel.spatialimages import HeaderDataError

    affine = np.array(grid.affine)
    affine[:3] /= _unit(header)[1]
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    try:
        header.set_qform(affine, qform, strip_shears=False)
    except HeaderDataError:
        header.set_qform(affine, 0, strip_shears=True)
        qform = 0
    header.set_sform(affine, sform if sform or qform else 2)


def _put_back(header: Any, facts: Facts) -> None:  # noqa: ANN401 -- a nibabel header
    for key, names in _FIELDS.items():
        for name, value in zip(names, facts[key], strict=True):
            header[name] = np.asarray(value, dtype=np.float64)
    for key in ("qform_code", "sform_code", "xyzt_units"):
        header[key] = facts[key]
    header["pixdim"][:4] = np.asarray(facts["pixdim"], dtype=np.float64)


def _with_good_sizes(header: Any, shape: tuple[int, int, int]) -> Any:  # noqa: ANN401
    """A copy whose voxel sizes are positive, as readers take them: the sign carries no meaning."""
    header = header.copy()
    header.set_data_shape(shape)
    sizes = np.abs(header["pixdim"][1:4])
    header["pixdim"][1:4] = np.where(sizes == 0, 1, sizes)
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1
    return header


def _unit(header: Any) -> tuple[str, float]:  # noqa: ANN401 -- a nibabel header
    """The unit of length and its millimetres; unknown counts as millimetres."""
    return _UNITS.get(int(header["xyzt_units"]) & 7, ("unknown", 1.0))
