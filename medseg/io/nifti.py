"""NIfTI-1 and NIfTI-2 files: read in any axis order, written back with their own geometry.

Source: the NIfTI-1.1 and NIfTI-2 headers (nifti.nimh.nih.gov), whose C library also reads a scale
that is zero or not finite as no scale and an offset that is not finite as zero.
"""

import argparse
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Integer, Shaped

from medseg.geometry.grid import Grid
from medseg.geometry.transforms import affine_of, facts_of, set_geometry
from medseg.provenance import atomic
from medseg.sample import Sample

SUFFIXES = (".nii", ".nii.gz")
WRITES = ".nii.gz"

Meta = Mapping[str, Any]

_GZIP_LIMIT = 1040  # deflate never packs more than 1032 bytes into one
_AS_WHOLE = 1e-3  # a label scaled by a float32 factor strays less than this from its number


def handles(path: Path) -> bool:
    """A file with a NIfTI suffix; names with a leading dot are other programs' leftovers."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not path.is_dir()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--volume`, if another format has not."""
    if "--volume" not in parser.format_usage():
        parser.add_argument(
            "--volume", type=int, metavar="N", help="which volume of a 4-D file, from 0"
        )


def read(path: Path, *, volume: int | None = None) -> Sample:
    """One volume as one channel named `image`, float32, in the file's axis order and scale.

    Complex files give complex64; a scale is that of both parts. `volume` chooses from a 4-D file,
    from 0. Values that are not finite are kept: they are for
    `medseg check` to report.
    """
    from medseg.io.formats import stem

    file = _open(path, volume)
    working = np.dtype(_working_dtype(file.dtype, file.scaled))
    copies = 12 if working.itemsize == 8 else 4
    _check_memory(file, bytes_a_voxel=file.dtype.itemsize + copies)
    raw = _raw(file)
    slope, inter = file.scale
    with np.errstate(all="ignore"):
        image: np.ndarray = raw.astype(working, copy=True)
        if file.scaled:
            image *= slope
            image += complex(inter, inter) if image.dtype.kind == "c" else inter
        if image.dtype.kind != "c":
            image = image.astype(np.float32, copy=False)
    return Sample(
        id=stem(path),
        image=image[None],
        space=file.grid,
        channels=("image",),
        sources={"image": str(path)},
        meta=file.meta,
    )


def read_header(path: Path, *, volume: int | None = None) -> Grid:
    """Where the voxels lie, from the header alone; refuses what `read` refuses by header."""
    return _open(path, volume).grid


def count_volumes(path: Path) -> int:
    """The length of the fourth axis: what `volume` chooses from."""
    count, *lengths = (int(n) for n in _header(path)["dim"])
    return max([1, *lengths[3:count]])


def read_labels(
    path: Path, *, volume: int | None = None
) -> tuple[Integer[np.ndarray, "i j k"], Grid, dict[str, Any]]:
    """Labels in the smallest integer type, their grid, and the facts that `write` needs.

    Floating point files are fine as long as every value is a whole number.
    """
    file = _open(path, volume)
    if file.dtype.kind == "c":
        raise ValueError(
            f"{path} holds {file.dtype} values, which are no labels; give whole numbers"
        )
    real = file.scaled or file.dtype.kind == "f"
    _check_memory(file, bytes_a_voxel=file.dtype.itemsize + (33 if real else 4))
    raw = _raw(file)
    if real:
        raw = raw.astype(np.float64) * file.scale[0] + file.scale[1]
        whole = np.round(raw)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(raw - whole) <= _AS_WHOLE)
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"{path}: value {raw[index]:g} at voxel {index} is no label ({int(wrong.sum())} "
                "such voxels); whole numbers are wanted: round them, or is this an image?"
            )
        raw = whole
    low, high = float(raw.min()), float(raw.max())
    if max(-low, high) >= 2**31:
        raise ValueError(f"{path}: label {max(high, low, key=abs):g} is too large; use 0 to 65535")
    kind = np.int32 if low < 0 or high > 65535 else np.uint8 if high <= 255 else np.uint16
    return raw.astype(kind, copy=True), file.grid, file.meta


def write(
    path: Path,
    array: Shaped[np.ndarray, "i j k *n"],
    *,
    grid: Grid,
    meta: Meta,
    dtype: Any = None,  # noqa: ANN401 -- whatever numpy takes for a type
) -> None:
    """Write atomically; equal arrays and geometry give equal bytes.

    On the grid that `meta` was read with, both transforms, their codes and the units come back as
    they were; on another grid the codes stay and the transforms are those of the grid. Labels
    (integers, booleans) become uint8 or uint16 by their largest value, all else float32.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: a NIfTI file ends with .nii.gz or .nii; rename the output")
    if array.shape[:3] != grid.shape or array.ndim > 4:
        raise ValueError(f"{path}: an array of shape {array.shape} is not on a grid {grid.shape}")
    kind = np.dtype(dtype) if dtype is not None else _dtype(path, array)
    version = 2 if meta.get("version") == 2 or max(array.shape) > 32767 else 1
    kinds: dict[int, Any] = {1: Nifti1Header, 2: Nifti2Header}
    header = kinds[version](endianness="<")
    header.set_data_shape(array.shape)
    header.set_data_dtype(kind)
    set_geometry(header, grid, facts=meta)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    with atomic(path) as part, part.open("wb") as stream:
        if not path.name.lower().endswith(".gz"):
            _write_to(stream, header, array, kind)
            return
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=stream, mtime=0) as packed:
            _write_to(packed, header, array, kind)


def _write_to(
    stream: BufferedIOBase,
    header: Any,  # noqa: ANN401 -- a nibabel header
    array: Shaped[np.ndarray, "i j k *n"],
    kind: np.dtype[Any],
) -> None:
    """Header, four zero bytes for no extension, and the voxels slice by slice."""
    stream.write(header.binaryblock)
    stream.write(bytes(4))
    for last in range(array.shape[-1]):
        part = array[..., last].astype(kind.newbyteorder("<"), copy=False)
        stream.write(part.tobytes(order="F"))


def _dtype(path: Path, array: Shaped[np.ndarray, "..."]) -> np.dtype[Any]:
    """The smallest type for labels; float32 for all else."""
    if array.dtype.kind not in "biu":
        return np.dtype(np.float32)
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if low < 0 or high > 65535:
        raise ValueError(f"{path}: labels from {low} to {high}; 0 to 65535 can be written")
    return np.dtype(np.uint8 if high <= 255 else np.uint16)


@dataclass(frozen=True, eq=False)
class _File:
    """One volume of a file whose header has been found good."""

    path: Path
    grid: Grid
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    volume: int | None
    scale: tuple[float, float]
    meta: dict[str, Any]

    @property
    def scaled(self) -> bool:
        return self.scale != (1.0, 0.0)


def _open(path: Path, volume: int | None) -> _File:
    """Read and judge a header; every refusal names the file, the fault and the cure."""
    header = _header(path)
    try:
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
        offset = int(header.get_data_offset())
        if offset < header.sizeof_hdr:
            raise ValueError(f"voxels from byte {offset}")
    except Exception as error:
        raise ValueError(f"{path}: the header is damaged ({error}); convert it again") from None
    shape = tuple(int(n) for n in shape)
    if dtype.kind not in "biufc":
        raise ValueError(
            f"{path} holds RGB colour values, but one number a voxel is wanted; "
            "save one colour as its own file"
        )
    if not 1 < len(shape) < 8 or min(shape) < 1:
        raise ValueError(
            f"{path} claims the shape {shape}, but two or three axes of at least one voxel are "
            "wanted; the header is damaged: convert the scan again"
        )
    _check_size(path, prod(shape) * dtype.itemsize + offset, f"{shape} voxels of {dtype}")
    spatial, volume = _choose(path, shape, volume)
    try:
        grid = Grid(spatial, affine_of(header, spatial))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    version = 2 if int(header["sizeof_hdr"]) == 540 else 1
    meta = {"format": "nifti", "version": version, "dtype": str(dtype), **facts_of(header)}
    return _File(path, grid, shape, dtype, offset, volume, _scale(header), meta)


def _header(path: Path) -> Any:  # noqa: ANN401 -- a nibabel header
    """The header block, of either version and byte order."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = _first_bytes(path, 540)
    kinds: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}
    for size, kind in kinds.items():
        for order, endianness in (("little", "<"), ("big", ">")):
            if len(block) >= size and int.from_bytes(block[:4], cast(Any, order)) == size:
                header = kind(block[:size], endianness=endianness, check=False)
                if bytes(header["magic"].item())[:3] == kind.single_magic[:3]:
                    return header
                raise ValueError(
                    f"{path} begins like NIfTI but lacks its mark (an Analyze file or half of a "
                    ".hdr/.img pair?); convert it to .nii.gz"
                )
    raise ValueError(
        f"{path} is not a NIfTI file: it begins with {block[:8]!r} and no known header size; "
        "give a .nii or .nii.gz file"
    )


def _first_bytes(path: Path, count: int) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a NIfTI file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a NIfTI file inside it")
    with path.open("rb") as stream:
        block = stream.read(count)
    if not block:
        raise ValueError(f"{path} is empty (0 bytes); copy it again from its source")
    packed = block[:2] == b"\x1f\x8b"
    if packed != path.name.lower().endswith(".gz"):
        found, cure = ("is", "to end with .nii.gz") if packed else ("is not", "to end with .nii")
        raise ValueError(f"{path} {found} gzip-compressed, against its name; rename it {cure}")
    if not packed:
        return block
    try:
        with gzip.open(path) as stream:
            return stream.read(count)
    except (EOFError, OSError, zlib.error) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is cut short or damaged ({error}); copy or download it again from its source"
    )


def _check_size(path: Path, claimed: int, what: str) -> None:
    """Refuse a header that claims more bytes than the file can hold."""
    size = path.stat().st_size
    limit = size * (_GZIP_LIMIT if path.name.lower().endswith(".gz") else 1)
    if claimed > limit:
        raise ValueError(
            f"{path} claims {what} ({_bytes(claimed)}), but a file of {_bytes(size)} cannot hold "
            "them: it is cut short or its header is damaged; copy it again from its source"
        )


def _check_memory(file: _File, *, bytes_a_voxel: int) -> None:
    check_memory(file.path, file.grid.shape, needed=prod(file.grid.shape) * bytes_a_voxel)


def check_memory(path: Path, shape: tuple[int, ...], *, needed: int) -> None:
    """Refuse to read a file of some shape that needs more bytes than are free."""
    available = _available()
    if available is not None and needed > available:
        raise ValueError(
            f"{path} has the shape {shape}: reading it takes {_bytes(needed)} of "
            f"memory, {_bytes(available)} are free; use a larger machine or cut the scan in parts"
        )


def _available() -> int | None:
    """Free memory in bytes, the container's limit included; None where the system does not say."""
    found = []
    for name, unit in (("/proc/meminfo", 1024), ("/sys/fs/cgroup/memory.max", 1)):
        try:
            text = Path(name).read_text()
        except OSError:
            continue
        words = text[text.find("MemAvailable:") :].split() if unit > 1 else ["", text.strip()]
        if len(words) > 1 and words[1].isdigit():
            found.append(int(words[1]) * unit)
    return min(found, default=None)


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def _scale(header: Any) -> tuple[float, float]:  # noqa: ANN401 -- a nibabel header
    """Slope and intercept from stored numbers to values."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    return slope, inter if np.isfinite(inter) else 0.0


def _choose(
    path: Path, shape: tuple[int, ...], volume: int | None
) -> tuple[tuple[int, int, int], int | None]:
    """The three axes in space, and the volume to read of a fourth."""
    x, y, *rest = shape
    z = rest[0] if rest else 1
    lengths = [n for n in shape[3:] if n != 1]
    if len(lengths) > 1 or (len(shape) > 4 and shape[3] == 1 and lengths):
        raise ValueError(
            f"{path} has the shape {shape}: vectors or tensors, not an image; "
            "give a file with one value a voxel"
        )
    count = lengths[0] if lengths else 1
    if count > 1 and volume is None:
        raise ValueError(
            f"{path} is 4-D: it holds {count} volumes (shape {shape}) and one is wanted; "
            f"choose with --volume N (in recipes data.source.volume=N), N from 0 to {count - 1}"
        )
    if volume is not None and not 0 <= volume < count:
        raise ValueError(
            f"{path} holds {count} volume{'s' if count > 1 else ''}, so --volume {volume} does "
            f"not exist; choose from 0 to {count - 1}"
        )
    return (x, y, z), volume if count > 1 else None


def _raw(file: _File) -> Shaped[np.ndarray, "i j k"]:
    """Stored numbers of the chosen volume; unpacked to the end, where gzip keeps its checksum."""
    count = prod(file.grid.shape)
    start = file.offset + (file.volume or 0) * count * file.dtype.itemsize
    if not file.path.name.lower().endswith(".gz"):
        return np.asarray(np.memmap(file.path, file.dtype, "r", start, file.grid.shape, "F"))
    size = count * file.dtype.itemsize
    try:
        with gzip.open(file.path) as stream:
            stream.seek(start)
            block = stream.read(size)
            while stream.read(1 << 20):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise _damaged(file.path, error) from None
    if len(block) < size:
        error = EOFError(f"{_bytes(size)} of voxels are claimed, {_bytes(len(block))} found")
        raise _damaged(file.path, error)
    return np.frombuffer(block, file.dtype).reshape(file.grid.shape, order="F")


def _working_dtype(dtype: np.dtype[Any], scaled: bool) -> type:
    """Scaled wide integers need double precision on the way to float32; all else does not."""
    if dtype.kind == "c":
        return np.complex64
    return np.float64 if scaled and dtype.itemsize > 2 and dtype.kind != "f" else np.float32
