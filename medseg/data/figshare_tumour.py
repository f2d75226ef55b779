"""The three-class brain tumour set of figshare as a user has it: one MATLAB file a slice.

Expected at any depth below the folder: `1.mat` to `3064.mat` (MATLAB 7.3, which is HDF5; given
out in four archives) and `cvind.mat`. A group `cjdata` holds `label` (1 meningioma, 2 glioma, 3
pituitary tumour), `PID` (the patient, as character codes), `image` (T1 with contrast agent, 16
bits, 512 x 512 and some 256 x 256), `tumorMask` on its pixels, and `tumorBorder`, the hand-drawn
line that the mask was made of, which is not read. Slices are axial, coronal or sagittal, and none
says which. No file of the set is here, and none has been read: names and types follow what is
published and what its users' programs do. Pixels of 0.49 mm are published for 512 x 512; those of
256 x 256 are taken to show as much, 0.98 mm each. Slices are 6 mm thick with gaps of 1 mm.
Source: Cheng et al. 2015, doi:10.1371/journal.pone.0140381 (classes, resolution); Cheng 2017,
doi:10.6084/m9.figshare.1512427 (files, folds).
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from medseg.data import sheet, walk
from medseg.data.folds import folds
from medseg.data.table import SHEET, Record
from medseg.geometry.grid import Grid
from medseg.io import image as image_file
from medseg.provenance import atomic_folder, write_text
from medseg.sample import Sample

CLASSES = ("meningioma", "glioma", "pituitary")
FOLDS = 5
WIDTH_MM = 0.49 * 512
FIELDS = ("label", "PID", "image", "tumorMask")
_RANGE = re.compile(r"(\d+)-(\d+)\.zip", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Slice:
    """Pixels as a viewer shows them, columns first, and the tumour's class on its mask."""

    pixels: Integer[np.ndarray, "w h"]
    labels: UInt8[np.ndarray, "w h"]

    @property
    def spacing_mm(self) -> float:
        """The side of a pixel."""
        return WIDTH_MM / max(self.pixels.shape)

    @property
    def grid(self) -> Grid:
        """A frame of its own: where in the head a slice lies is not known."""
        return image_file.plane(self.pixels.shape, self.spacing_mm)[0]


class FigshareTumour:
    """Slices with the tumour drawn (label values 1, 2, 3) and named (column `class`).

    The published folds, in which a patient stands once, part the slices if `cvind.mat` is there:
    one fold is test and the next one val (after 5 comes 1). Without that file five folds of whole
    patients are made here, which nobody else has.

    Args:
        path: the folder with everything below it.
        test_fold: which of the folds 1 to 5 is test.
    """

    def __init__(self, path: Path | str, *, test_fold: int = 1) -> None:
        self.path = Path(path)
        if not 1 <= test_fold <= FOLDS:
            raise ValueError(f"test_fold is {test_fold}; it must be 1 to {FOLDS}")
        found, listed = _gathered(self.path)
        records = [_record(number, found[number]) for number in sorted(found)]
        if listed is None:
            self._records = _divided(records, self.path, test_fold)
        else:
            self._records = _published(records, listed, test_fold)

    def records(self) -> list[Record]:
        """One record a slice, in the order of the files' numbers."""
        return list(self._records)

    def load(self, record: Record, *, with_target: bool = True) -> Sample:
        """A slice in the file's own values, and its class's value where the tumour is."""
        found = read_slice(record.paths["image"])
        return Sample(
            id=record.case,
            image=np.ascontiguousarray(found.pixels[None, ..., None], dtype=np.float32),
            space=found.grid,
            channels=("image",),
            target=np.ascontiguousarray(found.labels[..., None]) if with_target else None,
            subject=record.subject,
            split=record.split,
        )

    def write(self, folder: Path) -> Path:
        """Write every slice as a PNG of 16 bits with one of its labels, and a sheet."""
        rows = []
        with atomic_folder(folder) as part:
            for record in self._records:
                found = read_slice(record.paths["image"])
                image, label = part / f"{record.case}.png", part / f"{record.case}_label.png"
                for path, plane in ((image, found.pixels), (label, found.labels)):
                    image_file.write(path, plane[..., None], grid=found.grid, meta={})
                spacing = f"{found.spacing_mm:.6g}"
                rows.append(
                    replace(record, paths={"image": image}, label=label, spacing_mm=spacing)
                )
            write_text(part / SHEET, sheet.text(rows, ["image"], folder=part))
        return folder / SHEET


def read_slice(path: Path) -> Slice:
    """One file's slice.

    MATLAB stores columns first and HDF5 says so by naming the axes the other way round: what is
    (row, column) in MATLAB comes as (column, row), which is the order wanted here. Values below
    zero, which a PNG has none of, are raised with all others of the slice.
    """
    with _opened(path) as data:
        image, mask = np.asarray(data["image"]), np.asarray(data["tumorMask"])
        value = CLASSES.index(_class(path, data)) + 1
    if image.ndim != 2 or min(image.shape) < 2 or image.shape != mask.shape:
        raise ValueError(
            f"{path}: image has shape {image.shape} and tumorMask {mask.shape}; one plane of the "
            "same pixels is wanted: fetch the file again"
        )
    wrong = not np.isfinite(image).all() or (image != np.rint(image)).any()
    if wrong or np.ptp(image.astype(np.float64)) > 65535:
        raise ValueError(
            f"{path}: image holds {image.dtype} values that are no whole numbers of 16 bits; take "
            "the file as it is given out"
        )
    pixels = image.astype(np.int64)
    pixels -= min(0, int(pixels.min()))
    return Slice(pixels.astype(np.uint16), np.where(mask > 0, value, 0).astype(np.uint8))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The group of a slice's file; every refusal names the file, the fault and the cure."""
    with _hdf5(path) as file:
        data = file.get("cjdata")
        lost = [name for name in FIELDS if data is None or name not in data]
        if lost:
            held = ", ".join(sorted(file if data is None else data)) or "nothing"
            what = "no group cjdata" if data is None else f"no {', '.join(lost)} in cjdata"
            raise ValueError(
                f"{path} has {what} (it holds {held}); give the folder of the figshare set alone: "
                "a numbered .mat file is one of its slices"
            )
        yield data


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    """A MATLAB 7.3 file; older ones are something else altogether."""
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        raise ImportError(f"{path} is an HDF5 file, which h5py reads: pip install h5py") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        with path.open("rb") as stream:
            old = stream.read(10) == b"MATLAB 5.0"
        if old:
            raise ValueError(
                f"{path} is in MATLAB's older format (5); the set is given out in 7.3: fetch it "
                "again, or save it in MATLAB with save(…, '-v7.3')"
            ) from None
        raise ValueError(
            f"{path} is no MATLAB 7.3 file, or cut short or damaged ({error}); fetch it again"
        ) from None
    with file:
        yield file


def _class(path: Path, data: Any) -> str:  # noqa: ANN401 -- of h5py
    value = float(np.asarray(data["label"]).ravel()[0]) if data["label"].size else 0.0
    if value not in (1.0, 2.0, 3.0):
        raise ValueError(
            f"{path}: the label is {value:g}; it must be 1, 2 or 3 ({', '.join(CLASSES)}): fetch "
            "the file again"
        )
    return CLASSES[int(value) - 1]


def _record(number: int, path: Path) -> Record:
    with _opened(path) as data:
        codes = np.asarray(data["PID"]).ravel()
        category = _class(path, data)
    person = "".join(map(chr, codes.astype(int))) if codes.dtype.kind in "iu" else ""
    if not person.strip() or not person.isprintable():
        raise ValueError(
            f"{path}: PID holds {codes[:8].tolist()}, which are no characters of a patient's "
            "number; without it slices of one patient could stand on both sides: fetch it again"
        )
    return Record(f"{number:04d}", person.strip(), "", {"image": path}, category=category)


def _gathered(folder: Path) -> tuple[dict[int, Path], Path | None]:
    """The slices' files by number, and the file of folds if there is one."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; give the one that holds 1.mat to 3064.mat"
        )
    found: dict[int, Path] = {}
    listed: list[Path] = []
    packed: list[Path] = []
    for path in walk.files(folder):
        suffix = path.suffix.lower()
        if suffix == ".zip":
            packed.append(path)
        if suffix == ".mat" and path.stem.lower() == "cvind":
            listed.append(path)
        if suffix != ".mat" or not re.fullmatch(r"[0-9]+", path.stem):
            continue
        if int(path.stem) in found:
            raise ValueError(f"{found[int(path.stem)]} and {path} are the same slice; remove one")
        found[int(path.stem)] = path
    _unpacked(folder, found, packed)
    return found, listed[0] if listed else None


def _unpacked(folder: Path, found: Mapping[int, Path], packed: Sequence[Path]) -> None:
    """Refuse a folder without slices, and archives of which not one slice lies beside them."""
    spans = [(path, re.search(_RANGE, path.name)) for path in packed]
    waiting = [
        path.name
        for path, span in spans
        if span and not any(int(span[1]) <= number <= int(span[2]) for number in found)
    ]
    if waiting or (packed and not found):
        names = ", ".join(waiting or [path.name for path in packed])
        raise ValueError(f"{folder}: {names} not unpacked yet; unpack there, or take out")
    if not found:
        raise ValueError(
            f"{folder} holds no slice; wanted figshare 1512427 as it is given out: 1.mat to "
            "3064.mat in it or in folders below it, and cvind.mat"
        )


def _published(records: Sequence[Record], listed: Path, test_fold: int) -> list[Record]:
    """Splits by the published folds: the n-th number is the fold of slice n."""
    with _hdf5(listed) as file:
        if "cvind" not in file:
            raise ValueError(f"{listed} holds {', '.join(file)}, not cvind; fetch it again")
        numbers = np.asarray(file["cvind"]).ravel()
    lowest, highest = int(records[0].case), int(records[-1].case)
    known = np.isin(numbers, np.arange(1, FOLDS + 1)).all()
    if not known or lowest < 1 or highest > len(numbers):
        raise ValueError(
            f"{listed} holds {len(numbers)} numbers of folds, and slices go up to {highest}; one "
            f"from 1 to {FOLDS} for each slice is wanted: fetch it again, or remove it to have "
            "folds made by patient"
        )
    return [_split(record, int(numbers[int(record.case) - 1]), test_fold) for record in records]


def _split(record: Record, fold: int, test_fold: int) -> Record:
    name = {test_fold: "test", test_fold % FOLDS + 1: "val"}.get(fold, "train")
    return replace(record, split=name)


def _divided(records: Sequence[Record], folder: Path, test_fold: int) -> list[Record]:
    """Splits by folds of whole patients; too few patients are left without."""
    people = len({record.subject for record in records})
    if people < FOLDS:
        warnings.warn(
            f"{folder} has no cvind.mat and {people} patients, too few for {FOLDS} folds, so no "
            "slice has a split; fetch the rest, or give data.folds",
            stacklevel=3,
        )
        return list(records)
    warnings.warn(
        f"{folder} has no cvind.mat, the published folds; {FOLDS} folds of whole patients are made "
        "in their place, so scores compare with no published ones: fetch it from figshare 1512427",
        stacklevel=3,
    )
    own: dict[str, int] = {}
    for fold in range(FOLDS):
        held = folds(records, FOLDS, fold=fold)
        own |= {record.case: fold + 1 for record in held if record.split == "val"}
    return [_split(record, own[record.case], test_fold) for record in records]
