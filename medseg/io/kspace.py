"""Complex numbers in `.npy` files: k-space of one or more coils, or an image; magnitude and phase.

K-space has the axes (coil, y, x) or, encoded in three dimensions, (coil, z, y, x), its origin at
n // 2, and exact zeros where nothing was measured. It is read as the complex image the coils see.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex, Shaped

from medseg.geometry import coils, fourier, phase
from medseg.geometry.grid import Grid
from medseg.io import nifti
from medseg.sample import Sample

SUFFIXES = (".npy",)
DOMAINS = ("kspace", "image")

Spacing = float | tuple[float, ...] | str

_MOST_COILS = 128
_COIL_LIKE = 64
_COPIES = 9  # of the k-space that reading it takes at most


@dataclass(frozen=True)
class _Stored:
    """An array that lies on disk, and which of its axes are what."""

    array: Shaped[np.ndarray, "..."]
    domain: str
    coil_axis: int | None

    @property
    def space(self) -> tuple[int, ...]:
        shape = self.array.shape
        return tuple(n for axis, n in enumerate(shape) if axis != self.coil_axis)


def handles(path: Path) -> bool:
    """A `.npy` file, except real numbers in two or three columns, which are points."""
    if not path.name.lower().endswith(SUFFIXES) or path.name.startswith(".") or path.is_dir():
        return False
    try:
        array = _mapped(path)
    except (ValueError, OSError):
        return True
    return not (array.ndim == 2 and array.shape[1] in (2, 3) and array.dtype.kind in "iuf")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--domain`, `--coil-axis` and what HDF5 files share with these."""
    add_shared_options(parser)
    parser.add_argument(
        "--domain", choices=DOMAINS, help="what .npy files hold: k-space (default), or an image"
    )
    parser.add_argument(
        "--coil-axis", type=int, metavar="N", help="which axis of a .npy k-space counts coils"
    )
    nifti.add_options(parser)


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--spacing-mm` and `--reconstruction`, if another format has not."""
    if "--spacing-mm" not in parser.format_usage():
        parser.add_argument(
            "--spacing-mm",
            type=_spacing_option,
            metavar="X[,Y[,Z]]",
            help="size of a pixel or voxel of files that do not say it: one number, or x,y[,z]",
        )
    if "--reconstruction" not in parser.format_usage():
        parser.add_argument(
            "--reconstruction",
            choices=coils.METHODS,
            help="k-space to image: what was not measured is zero (default) or solved for",
        )


def read(
    path: Path,
    *,
    spacing_mm: Spacing | None = None,
    reconstruction: str | None = None,
    domain: str = "kspace",
    coil_axis: int | None = None,
    volume: int | None = None,
) -> Sample:
    """One complex64 channel (x, y, z): columns first, as the last axis of the file runs along x.

    Without `spacing_mm` a voxel counts as 1 mm and `meta["spacing_known"]` is false. Images have
    the axes (y, x), (z, y, x) or, with `volume`, (volume, z, y, x).
    """
    from medseg.io.formats import stem

    method = _method(path, reconstruction, domain)
    stored = _open(path, domain=domain, coil_axis=coil_axis, volume=volume)
    copies = _COPIES if domain == "kspace" else 2
    nifti.check_memory(path, stored.array.shape, needed=stored.array.size * 8 * copies)
    values = to_complex(path, stored.array)
    check_values(path, values)
    facts: dict[str, Any] = {"domain": domain, "reconstructed": domain == "kspace"}
    if domain == "kspace":
        axis = stored.coil_axis
        values = values[None] if axis is None else np.moveaxis(values, axis, 0)
        check_origin(path, values)
        try:
            image = coils.reconstruct(values, method)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        facts |= {"coils": len(values), "reconstruction": method}
        facts["sampled"] = float(fourier.sampled(values).mean())
    else:
        image = values
    known = spacing_mm is not None
    facts |= {"spacing_known": known, "spacing_from": "given" if known else "unknown"}
    return Sample(
        id=stem(path),
        image=columns_first(image)[None],
        space=grid_of(path, stored.space, spacing_mm=spacing_mm),
        channels=(domain,),
        sources={domain: str(path)},
        meta={"format": "kspace", "units": "mm", **facts},
    )


def read_header(
    path: Path,
    *,
    spacing_mm: Spacing | None = None,
    reconstruction: str | None = None,
    domain: str = "kspace",
    coil_axis: int | None = None,
    volume: int | None = None,
) -> Grid:
    """Where the voxels lie, from the header alone; refuses what `read` refuses by header."""
    _method(path, reconstruction, domain)
    stored = _open(path, domain=domain, coil_axis=coil_axis, volume=volume)
    return grid_of(path, stored.space, spacing_mm=spacing_mm)


def read_pair(magnitude: Path, phase_image: Path, *, volume: int | None = None) -> Sample:
    """A complex image from two NIfTI files; the volumes of 4-D ones are channels `echo1`, ….

    The phase comes to radians as `medseg.geometry.phase.radians` says, over all volumes at once,
    whatever slope its header carries. `volume` takes one of them, from 0, as the channel `image`.
    """
    from medseg.io.formats import stem

    count = nifti.count_volumes(magnitude)
    if nifti.count_volumes(phase_image) != count:
        raise ValueError(
            f"{magnitude} holds {count} volumes and {phase_image} "
            f"{nifti.count_volumes(phase_image)}; give the phase of the same echoes"
        )
    picked = [volume] if volume is not None or count == 1 else list(range(count))
    pairs = [[nifti.read(path, volume=v) for path in (magnitude, phase_image)] for v in picked]
    own, other = pairs[0]
    if not own.grid.misalignment_mm(other.grid) < 1e-2:
        raise ValueError(
            f"{magnitude} ({own.space.shape}) and {phase_image} ({other.space.shape}) lie on "
            "different grids; give magnitude and phase of one scan, as the scanner wrote them"
        )
    sizes = np.stack([pair[0].image[0] for pair in pairs])
    if sizes.dtype.kind == "c" or sizes.min() < 0:
        raise ValueError(
            f"{magnitude} holds negative or complex values, so it is no magnitude; "
            "give the magnitude first and the phase second"
        )
    angles = phase.radians(np.stack([pair[1].image[0] for pair in pairs]), where=str(phase_image))
    image = (sizes * np.exp(1j * angles)).astype(np.complex64)
    check_values(magnitude, image)
    names = tuple(f"echo{v + 1}" for v in picked if v is not None)
    facts = {"format": "nifti", "phase": str(phase_image), "reconstructed": False}
    return Sample(
        id=stem(magnitude),
        image=image,
        space=own.space,
        channels=names if len(image) > 1 else ("image",),
        sources={"magnitude": str(magnitude), "phase": str(phase_image)},
        meta={**own.meta, **facts},
    )


def to_complex(path: Path, array: Shaped[np.ndarray, "*n"]) -> Complex[np.ndarray, "*n"]:
    """complex64 from any complex type; pairs of numbers as HDF5 stores them, half precision too."""
    names = array.dtype.names
    if names and len(names) == 2 and all(array.dtype[n].kind in "iuf" for n in names):
        found = np.empty(array.shape, np.complex64)
        found.real, found.imag = (array[name] for name in names)
        return found
    if array.dtype.kind == "c":
        return array.astype(np.complex64)
    if array.dtype.kind == "f" and array.ndim > 2 and array.shape[-1] == 2:
        raise ValueError(
            f"{path} holds {array.dtype} with a last axis of 2, which looks like (real, imaginary);"
            " complex numbers are wanted: np.save(path, (a[..., 0] + 1j * a[..., 1])"
            ".astype('complex64')) with a = np.load(path).astype('float32')"
        )
    raise ValueError(
        f"{path} holds {array.dtype} values of shape {array.shape}, and k-space or a complex image "
        "is wanted; save complex64. If these are magnitudes, save them as NIfTI or PNG: "
        "data.complex_input makes complex numbers of real images"
    )


def check_values(path: Path, values: Complex[np.ndarray, "..."]) -> None:
    """Refuse what is not finite, and nothing but zeros."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{path}: {int(wrong.sum())} values are NaN or infinite, the first at {index}; half "
            "precision overflows beyond 65504: save complex64, and 0 where nothing was measured"
        )
    if not values.any():
        raise ValueError(f"{path} holds nothing but zeros; export the scan again")


def check_origin(path: Path, kspace: Complex[np.ndarray, " coil *space"]) -> None:
    """Refuse k-space whose origin lies in the corner, as np.fft leaves it."""
    space = kspace.shape[1:]
    if min(space) < 16:
        return
    power = coils.rss(kspace) ** 2
    block = fourier.middle(space, [n // 4 for n in space])
    if power[block].sum() * 10 < np.fft.fftshift(power)[block].sum():
        axes = tuple(range(-len(space), 0))
        raise ValueError(
            f"{path}: the strongest samples lie in the corners, and the origin of k-space is wanted"
            f" in the middle; save np.fft.fftshift(kspace, axes={axes}), or say --domain image"
        )


def _method(path: Path, reconstruction: str | None, domain: str) -> str:
    """The reconstruction to take; an image has none."""
    if domain == "image" and reconstruction is not None:
        raise ValueError(
            f"{path}: an image needs no reconstruction={reconstruction}; leave it out, or leave "
            "out --domain image if this is k-space"
        )
    method = reconstruction or "zero_filled"
    check_method(path, method)
    return method


def check_method(path: Path, reconstruction: str) -> None:
    """Refuse a reconstruction that is not offered."""
    if reconstruction not in coils.METHODS:
        why = " (root sum of squares has no phase)" if reconstruction == "rss" else ""
        raise ValueError(
            f"{path}: reconstruction={reconstruction} is not offered{why}; "
            f"take {' or '.join(coils.METHODS)}"
        )


def columns_first(image: Complex[np.ndarray, "..."]) -> Complex[np.ndarray, "x y z"]:
    """(x, y, z) from (y, x) or (z, y, x)."""
    turned = np.ascontiguousarray(image.T)
    return turned[:, :, None] if turned.ndim == 2 else turned


def grid_of(path: Path, space: Sequence[int], *, spacing_mm: Spacing | None) -> Grid:
    """A grid (nx, ny, nz) in a frame of its own from the file's (y, x) or (z, y, x)."""
    shape = (*reversed(space), 1)[:3]
    try:
        spacing = (1.0,) if spacing_mm is None else spacing_of(spacing_mm)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(spacing) == 1:
        spacing = spacing * len(space)
    if len(spacing) < len(space):
        raise ValueError(f"{path}: spacing-mm is {spacing_mm!r} and this is a volume; give x,y,z")
    return Grid((shape[0], shape[1], shape[2]), np.diag([*(*spacing, 1.0)[:3], 1.0]))


def spacing_of(given: Spacing) -> tuple[float, ...]:
    """One to three millimetres along x, y and z, from numbers or from text `x,y,z`."""
    words = given.split(",") if isinstance(given, str) else np.atleast_1d(given).tolist()
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = []
    if not 1 <= len(found) <= 3 or not all(1e-4 <= value <= 1e3 for value in found):
        raise ValueError(
            f"spacing-mm is {given!r}; give the size of a pixel in millimetres, e.g. 0.9, or "
            "x,y or x,y,z, e.g. 0.9,0.9,4"
        )
    return tuple(found)


def _spacing_option(text: str) -> tuple[float, ...]:
    try:
        return spacing_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _mapped(path: Path) -> Shaped[np.ndarray, "..."]:
    """The array as it lies on disk; nothing is read but its header."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a .npy file")
    with path.open("rb") as stream:
        begin = stream.read(6)
    if begin != b"\x93NUMPY":
        what = "is empty (0 bytes)" if not begin else f"begins with {begin!r}"
        raise ValueError(f"{path} {what}, so it is no .npy file; write it with np.save")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for damaged headers
        raise ValueError(
            f"{path} is cut short or damaged, or holds Python objects ({error}); copy it again, or "
            "save one complex array with np.save"
        ) from None


def _open(path: Path, *, domain: str, coil_axis: int | None, volume: int | None) -> _Stored:
    """An array whose type and axes have been found good."""
    array = _mapped(path)
    if array.dtype.kind != "c" and not array.dtype.names:
        to_complex(path, array)  # says why real numbers are refused
    if domain not in DOMAINS:
        raise ValueError(f"{path}: domain {domain!r} is none of {', '.join(DOMAINS)}")
    if min(array.shape, default=0) < 1:
        raise ValueError(f"{path} has the shape {array.shape}; at least one sample is wanted")
    if domain == "image":
        return _Stored(_picked(path, array, coil_axis, volume), domain, None)
    if volume is not None:
        raise ValueError(f"{path}: --volume does not apply to k-space; leave it out")
    return _Stored(array, domain, _coil_axis(path, array.shape, coil_axis))


def _picked(
    path: Path, array: Shaped[np.ndarray, "..."], coil_axis: int | None, volume: int | None
) -> Shaped[np.ndarray, "..."]:
    """One image of two or three axes."""
    if coil_axis is not None:
        raise ValueError(
            f"{path}: --coil-axis does not apply to images; leave it out, and combine coil images "
            "first (medseg.geometry.coils)"
        )
    shape = array.shape
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"{path} has the shape {shape}; (y, x) or (z, y, x) is wanted")
    if array.ndim < 4:
        if volume is not None:
            raise ValueError(f"{path} holds one image; leave --volume out")
        return array
    if shape[-1] < min(shape[:-1]) and shape[-1] <= _COIL_LIKE:
        raise ValueError(
            f"{path} has the shape {shape}, whose last axis looks like echoes or coils, and (volume"
            ", z, y, x) is wanted; save np.moveaxis(image, -1, 0), with x last: "
            "np.ascontiguousarray(image.T) if the axes are (x, y, z, echo)"
        )
    if volume is None or not 0 <= volume < shape[0]:
        raise ValueError(
            f"{path} holds {shape[0]} volumes (shape {shape}) and one is wanted; choose with "
            f"--volume N, N from 0 to {shape[0] - 1}"
        )
    return array[volume]


def _coil_axis(path: Path, shape: tuple[int, ...], given: int | None) -> int | None:
    """Which axis counts coils; what looks like another order is refused, unless it is given."""
    if len(shape) not in (2, 3, 4):
        raise ValueError(
            f"{path} has the shape {shape}; (coil, y, x), (coil, z, y, x), or (y, x) of one coil is"
            " wanted"
        )
    if given is not None:
        if not -len(shape) <= given < len(shape) or len(shape) == 2:
            raise ValueError(f"{path}: --coil-axis {given} is no coil axis of the shape {shape}")
        return given % len(shape)
    if len(shape) == 2:
        return None
    least = int(np.argmin(shape))
    axis = len(shape) - 1 if shape[-1] == shape[least] else least
    if shape[0] >= 2 * shape[least] and shape[least] <= _COIL_LIKE:
        raise ValueError(
            f"{path} has the shape {shape}: axis {axis} of {shape[axis]} looks like coils, and "
            f"(coil, {'z, ' * (len(shape) == 4)}y, x) is wanted; say --coil-axis {axis}, save "
            f"np.moveaxis(kspace, {axis}, 0), or say --coil-axis 0 if {shape[0]} coils are right. "
            "If this is an image: --domain image"
        )
    if shape[0] > _MOST_COILS:
        raise ValueError(
            f"{path} has the shape {shape}: {shape[0]} coils are more than a scanner has; save "
            "kspace[None] for a volume of one coil, or say --coil-axis 0"
        )
    return 0
