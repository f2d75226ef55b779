"""PNG, JPEG, BMP, TIFF and WebP: one plane of grey values, columns first, as a viewer shows it.

Pillow decodes them. Bright is taken for dense (bones white), as radiographs are shown; a file
cannot say that it is the other way round, so `invert` must. Colour becomes luminance (ITU-R BT.601)
and what is transparent fades to black.
"""

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped

from medseg.geometry.grid import Grid
from medseg.provenance import atomic
from medseg.sample import Sample

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
WRITES = ".png"
WRITTEN = (".png",)

Spacing = float | tuple[float, float] | str

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_LOSSY = ("JPEG", "MPO", "WEBP")
_LUMINANCE = np.array([19595, 38470, 7471]) / 65536  # in Pillow's whole numbers
_FEWER_BITS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of 2 and 4 bits by
_WIDE = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_DEEP = {"PNG": "PNGImageIO", "TIFF": "TIFFImageIO"}


@dataclass(frozen=True)
class _Opened:
    """A Pillow image, how its file stores a pixel, and how EXIF wants it turned."""

    image: Any
    stored: str
    turn: int

    @property
    def left(self) -> int:
        """The turn that is still to be done; Pillow turns TIFF files itself."""
        return 1 if self.image.format == "TIFF" else self.turn


def handles(path: Path) -> bool:
    """A file with an image's suffix; names with a leading dot are other programs' leftovers."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not path.is_dir()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--spacing-mm` and `--invert`, if another format has not."""
    if "--spacing-mm" not in parser.format_usage():
        parser.add_argument(
            "--spacing-mm",
            type=_spacing_option,
            metavar="X[,Y]",
            help="size of a pixel of a radiograph: one number, or across,down",
        )
    if "--invert" not in parser.format_usage():
        parser.add_argument(
            "--invert",
            action="store_true",
            default=None,
            help="the radiograph shows dense parts dark: turn its grey values round",
        )


def read(path: Path, *, spacing_mm: Spacing | None = None, invert: bool = False) -> Sample:
    """One channel named `image`, float32, in the file's own numbers (16 bits stay 16 bits).

    The turn that EXIF asks for is done. Without `spacing_mm` a pixel counts as 1 mm and
    `meta["spacing_known"]` is false.
    """
    from medseg.io.formats import stem

    opened = _open(path)
    values, top = _grey(path, opened)
    values = _turned(turn_round(values, top) if invert else values, opened.left)
    space, facts = plane(values.shape[::-1], spacing_mm)
    return Sample(
        id=stem(path),
        image=np.ascontiguousarray(values.T, dtype=np.float32)[None, :, :, None],
        space=space,
        channels=("image",),
        sources={"image": str(path)},
        meta={**_meta(opened), "inverted": bool(invert), **facts},
    )


def read_header(path: Path, *, spacing_mm: Spacing | None = None, invert: bool = False) -> Grid:
    """Where the pixels lie, from the header alone; grey values (`invert`) do not matter."""
    del invert
    opened = _open(path, whole=False)
    across, down = opened.image.size
    return plane((down, across) if opened.left >= 5 else (across, down), spacing_mm)[0]


def read_labels(
    path: Path, *, spacing_mm: Spacing | None = None
) -> tuple[Integer[np.ndarray, "i j k"], Grid, dict[str, Any]]:
    """Stored numbers as labels: grey values or palette indices, 0 and 1 of one-bit files."""
    opened = _open(path)
    _check_labels(path, opened)
    raw = _turned(np.asarray(opened.image), opened.left) // _FEWER_BITS.get(opened.stored, 1)
    low, high = int(raw.min()), int(raw.max())
    if low < 0 or high > 65535:
        raise ValueError(f"{path}: labels from {low} to {high}; 0 to 65535 are wanted")
    space, facts = plane(raw.shape[::-1], spacing_mm)
    labels = np.ascontiguousarray(raw.T, dtype=np.uint8 if high <= 255 else np.uint16)
    return labels[:, :, None], space, {**_meta(opened), **facts}


def write(
    path: Path, array: Shaped[np.ndarray, "i j k *n"], *, grid: Grid, meta: Mapping[str, Any]
) -> None:
    """Write labels of one plane as grey PNG of 8 or 16 bits, atomically.

    Equal labels give equal bytes. No resolution is written (see `plane`): `grid` is only checked.
    """
    del meta
    if not path.name.lower().endswith(".png"):
        raise ValueError(f"{path}: labels are written as PNG, which keeps them; name it .png")
    if array.ndim != 3 or array.shape != grid.shape or array.shape[2] != 1:
        raise ValueError(
            f"{path}: an array of shape {array.shape} on a grid {grid.shape} is no plane of labels;"
            " a PNG holds (columns, rows, 1): write volumes as .nii.gz"
        )
    if array.dtype.kind not in "biu":
        raise ValueError(f"{path}: a PNG holds whole numbers, not {array.dtype}; write .nii.gz")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise ValueError(f"{path}: labels from {low} to {high}; 0 to 65535 can be written")
    rows = np.ascontiguousarray(array[:, :, 0].T, dtype=np.uint8 if high <= 255 else np.uint16)
    with atomic(path) as part:
        import_module("PIL.Image").fromarray(rows).save(part, format="PNG")


def plane(size: tuple[int, ...], spacing_mm: Spacing | None) -> tuple[Grid, dict[str, Any]]:
    """A grid of (columns, rows, 1) in a frame of its own, and what is known of its spacing.

    What a PNG, TIFF or JPEG file says of its resolution is passed over: it is the density at which
    to print or show it (72 or 96 an inch by default), and often outlives a change of size.
    """
    across, down = (1.0, 1.0) if spacing_mm is None else spacing_of(spacing_mm)
    known = spacing_mm is not None
    facts = {"spacing_known": known, "spacing_from": "given" if known else "unknown"}
    return Grid((size[0], size[1], 1), np.diag([across, down, 1.0, 1.0])), facts


def spacing_of(given: Spacing) -> tuple[float, float]:
    """Millimetres across and down, from one number for both, from two, or from text `x,y`."""
    words = given.split(",") if isinstance(given, str) else np.atleast_1d(given).tolist()
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = []
    if len(found) not in (1, 2) or not all(1e-4 <= value <= 1e3 for value in found):
        raise ValueError(
            f"spacing-mm is {given!r}; give the size of a pixel in millimetres, e.g. 0.35, or "
            "across,down, e.g. 0.35,0.4"
        )
    return found[0], found[-1]


def turn_round(
    values: Num[np.ndarray, "h w"], top: float | None = None
) -> Float[np.ndarray, "h w"]:
    """Bright for dark: from 0 to `top`, or over the range of the values where none is known."""
    ends = (np.nanmin(values), np.nanmax(values)) if top is None else (0, top)
    return float(ends[0]) + float(ends[1]) - values.astype(np.float64)


def _meta(opened: _Opened) -> dict[str, Any]:
    kind, mode = str(opened.image.format), str(opened.image.mode)
    facts = {"kind": kind, "mode": mode, "exif_orientation": opened.turn}
    return {"format": "image", "units": "mm", **facts}


def _spacing_option(text: str) -> tuple[float, float]:
    try:
        return spacing_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _open(path: Path, *, whole: bool = True) -> _Opened:
    """A file's one image, checked and (if `whole`) decoded to the end."""
    pillow = import_module("PIL.Image")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of an image file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); copy it again from its source")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        try:
            if whole:
                with path.open("rb") as stream, pillow.open(stream, formats=_FORMATS) as image:
                    image.verify()
            # As a stream: plain TIFF files opened by name and turned sideways come out garbled.
            with path.open("rb") as stream, pillow.open(stream, formats=_FORMATS) as image:
                _check_plane(path, image)
                opened = _Opened(image, _stored(image), _turn(image))
                if whole:
                    image.load()
        except (pillow.DecompressionBombWarning, pillow.DecompressionBombError):
            raise ValueError(
                f"{path} claims more than {pillow.MAX_IMAGE_PIXELS} pixels; a radiograph has "
                "fewer: the file is damaged, or shrink it first"
            ) from None
        except pillow.UnidentifiedImageError:
            raise ValueError(
                f"{path} is no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image, or one of a "
                "kind that is not read; save it as a grey PNG of 8 or 16 bits"
            ) from None
        except (_RefusedError, MemoryError, PermissionError):
            raise
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise ValueError(
                f"{path} is cut short or damaged ({error}); copy it again from its source"
            ) from None
    return opened


class _RefusedError(ValueError):
    """What is wrong with a file that can be decoded."""


def _check_plane(path: Path, image: Any) -> None:  # noqa: ANN401 -- a Pillow image
    """Refuse what holds more than one picture."""
    count = int(getattr(image, "n_frames", 1))
    if count > 1 or getattr(image, "is_animated", False):
        raise _RefusedError(
            f"{path} holds {count} pages or frames and one image is wanted; save the one that "
            "counts as its own file (a stack of slices: as NIfTI)"
        )
    if min(image.size) < 1:
        raise _RefusedError(f"{path} has the size {image.size}; at least one pixel is wanted")


def _check_labels(path: Path, opened: _Opened) -> None:
    """Refuse what cannot hold labels as they were meant."""
    kind, mode = opened.image.format, opened.image.mode
    if kind in _LOSSY:
        raise ValueError(f"{path} is {kind}, which may change label values; save the labels as PNG")
    if mode not in {"1", "P", "L", *_WIDE} - {"F"}:
        raise ValueError(
            f"{path} holds {mode} values, and labels are one whole number a pixel; save it as a "
            "grey PNG of 8 or 16 bits (or with a palette, whose indices are the labels)"
        )
    if _white_is_zero(opened.image):
        raise ValueError(
            f"{path} is a TIFF file that shows 0 as white, so its labels may be meant either way; "
            "save it as PNG"
        )


def _stored(image: Any) -> str:  # noqa: ANN401 -- a Pillow image that is not decoded yet
    """How the file stores a pixel, in Pillow's words."""
    args = image.tile[0][3] if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _white_is_zero(image: Any) -> bool:  # noqa: ANN401 -- a Pillow image
    return image.format == "TIFF" and image.tag_v2.get(262) == 0


def _turn(image: Any) -> int:  # noqa: ANN401 -- a Pillow image
    """The EXIF orientation, 1 to 8, from what stands before the pixels."""
    if image.format == "TIFF":
        turn = image.tag_v2.get(0x0112, 1)
    else:  # the base class's own: that of PNG would decode the image to look behind it
        turn = import_module("PIL.Image").Image.getexif(image).get(0x0112, 1)
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _turned(values: Shaped[np.ndarray, "h w"], turn: int) -> Shaped[np.ndarray, "..."]:
    """Rows as EXIF wants them shown."""
    rows = values.T if turn >= 5 else values
    across, down = turn in (2, 3, 6, 7), turn in (3, 4, 7, 8)
    return rows[:: -1 if down else 1, :: -1 if across else 1]


def _grey(path: Path, opened: _Opened) -> tuple[Num[np.ndarray, "h w"], float | None]:
    """Grey values as stored, or the luminance of colours; and the white of 8 bits.

    What is transparent fades to black.
    """
    image = opened.image
    if image.mode in _WIDE:
        values = np.asarray(image)
        top = 65535.0 if image.mode.startswith("I;16") else None
        return (turn_round(values, top) if _white_is_zero(image) else values), None
    clear = image.mode.upper() in {"LA", "PA", "RGBA"} or "transparency" in image.info
    if image.mode in {"1", "L"} and not clear:
        return np.asarray(image.convert("L")), 255.0
    if image.mode == "LAB":
        raise ValueError(f"{path} holds LAB colours, which are not read; save it as a grey PNG")
    deep = _deep(path, opened)
    colours = np.asarray(image.convert("RGBA" if clear else "RGB")) if deep is None else deep
    top = float(np.iinfo(colours.dtype).max)
    # Unrounded: 8 bits of each colour make more than 256 greys.
    luminance = colours[..., :3].astype(np.float64) @ _LUMINANCE
    return luminance * (colours[..., 3] / top) if colours.shape[-1] == 4 else luminance, top


def _deep(path: Path, opened: _Opened) -> Integer[np.ndarray, "h w c"] | None:
    """Colours of 16 bits, of which Pillow keeps 8; None for all else."""
    kind, size = opened.image.format, opened.image.size
    deep = opened.stored.startswith("RGB") and ";16" in opened.stored and kind in _DEEP
    if not deep or opened.turn != opened.left:
        return None
    sitk: Any = import_module("SimpleITK")
    try:
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO=_DEEP[kind]))
    except RuntimeError:
        return None
    right = found.dtype == np.uint16 and found.shape[:2] == size[::-1]
    return found if right and found.ndim == 3 and found.shape[2] in (3, 4) else None
