"""The JSRT chest radiographs as a user has them on disk, with SCR masks and published landmarks.

Everything lies somewhere below one folder: images (`JPCLN001.IMG` as given out, 12 bits big-endian
in 16, dense is low; or PNG, JPEG or TIFF with dense bright), masks (`heart/JPCLN001.gif` and so on
in SCR's `fold1` and `fold2`, or label flags `masks/JPCLN001.png`), `landmarks/JPCLN001.npy` in
pixels of a 1024 x 1024 frame, and the published split's lists.
Source: Shiraishi et al. 2000, doi:10.2214/ajr.174.1.1740071; masks of van Ginneken et al. 2006,
doi:10.1016/j.media.2005.02.002; landmarks and split of Gaggion et al. 2022,
doi:10.1109/TMI.2022.3224660. None of these data is here.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from medseg.data import walk
from medseg.data.radiographs import NODES, Radiograph, chosen, write_sheet
from medseg.data.sheet import SPLITS, Record
from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid
from medseg.io import image as image_file
from medseg.provenance import atomic_folder
from medseg.sample import Sample

LUNGS_AND_HEART = MappingProxyType({name: NODES[name] for name in list(NODES)[:3]})
FRAME = 1024
WIDTH_MM = 0.175 * 2048
OUTLIER = "JPCLN016"
WHERE = "github.com/ngaggion/HybridGNet (Datasets/JSRT)"
IMAGES = (".img", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
MASKS = (".gif", ".png", ".bmp", ".tif", ".tiff")
_NAME = re.compile(r"JPC[LN]N\d{3}", re.IGNORECASE)
_LIST = re.compile(r"(train|val|test)(_files)?\.txt", re.IGNORECASE)


@dataclass
class _Found:
    """What a folder holds: files by kind and case; `folders` is the split a landmark file is in."""

    files: dict[tuple[str, str], Path] = field(default_factory=dict)
    lists: dict[str, Path] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def of(self, case: str) -> dict[str, Path]:
        """A case's files by kind: image, flags, landmarks, or an organ's name."""
        return {kind: path for (kind, name), path in self.files.items() if name == case}

    def cases(self, *kinds: str) -> list[str]:
        """The cases that have a file of one of these kinds."""
        return sorted({name for kind, name in self.files if kind in kinds})


class JSRT:
    """Cases of the JSRT database; masks and landmarks are each optional, but not both at once.

    Which cases are for what comes from the lists train.txt, val.txt and test.txt (or
    train_files.txt and so on) in the folder, else from the folders Train, Val and Test around the
    landmarks; with neither, folds must be asked for. JPCLN016 is left out unless a list names it.

    Args:
        path: the folder with everything below it.
        organs: which contours are read, in this order, with their published counts of nodes.
        side: images larger than this are brought to it by averaging areas; smaller ones stay.
        landmarks: whether landmarks are read where there are some; without them masks speak alone.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        organs: Mapping[str, Any] = LUNGS_AND_HEART,
        side: int = FRAME,
        landmarks: bool = True,
    ) -> None:
        self.path, self.side, self.contours = Path(path), side, chosen(organs)
        self.organs = [contour.name for contour in self.contours]
        self.landmarks = landmarks
        if side < 32:
            raise ValueError(f"side is {side}; give at least 32 pixels")
        found = _gathered(self.path)
        images = found.cases("image")
        if not images:
            raise ValueError(
                f"{self.path} holds no JSRT image; wanted files such as JPCLN001.IMG or "
                "JPCLN001.png in it or in folders below it"
            )
        if not found.cases("flags", "landmarks", *NODES):
            raise ValueError(
                f"{self.path} holds {len(images)} images and neither masks nor landmarks; add "
                "SCR's folders (fold1/masks/heart/JPCLN002.gif …), masks/NAME.png or "
                f"landmarks/NAME.npy of {WHERE}"
            )
        lists = {f"{split} list": path for split, path in found.lists.items()}
        self._records = [
            Record(case, case, split, {**found.of(case), **lists})
            for case, split in _splits(found, self.path)
        ]
        for record in self._records:
            self._complete(record)

    def records(self) -> list[Record]:
        """One record a radiograph; its paths are all that it is made of, the lists included."""
        return list(self._records)

    def load(self, record: Record, *, with_target: bool = True) -> Sample:
        """A radiograph of grey values 0 to 255 (bright is dense), label flags and landmarks."""
        return self._radiograph(record).sample(record, with_target=with_target)

    def write(self, folder: Path) -> Path:
        """Write every case as PNG and CSV files and a sheet; returns the sheet."""
        with atomic_folder(folder) as part:
            rows = [
                self._radiograph(record).write(part, record, organs=self.contours)
                for record in self._records
            ]
            write_sheet(part, rows)
        return folder / "samples.csv"

    def _complete(self, record: Record) -> None:
        """Refuse a case that has masks of some of the wanted organs and lacks others."""
        there = [organ for organ in self.organs if organ in record.paths]
        lost = [organ for organ in self.organs if organ not in record.paths]
        if there and lost and "flags" not in record.paths:
            example = record.paths[there[0]]
            wanted = example.parent.parent / lost[0].replace("_", " ") / example.name
            raise FileNotFoundError(
                f"{record.case} has a mask of the {there[0]} and none of the {', '.join(lost)}: "
                f"there is no {wanted}; add it or leave the organ out of data.organs"
            )

    def _radiograph(self, record: Record) -> Radiograph:
        paths = record.paths
        values = read_film(paths["image"])
        side = min(self.side, len(values))
        pixels = np.rint(255 * np.clip(_sized(values, side), 0, 1)).astype(np.uint8)
        flags = self._flags(record, side)
        points = None
        if self.landmarks and "landmarks" in paths:
            points = read_landmarks(paths["landmarks"], self.organs) * (side / FRAME)
        return Radiograph(np.ascontiguousarray(pixels.T), flags, points, WIDTH_MM / side)

    def _flags(self, record: Record, side: int) -> UInt8[np.ndarray, "w h"] | None:
        paths = record.paths
        if "flags" in paths:
            given = _square(paths["flags"], image_file.read_labels(paths["flags"])[0][..., 0].T)
            planes = [given.astype(int) >> list(NODES).index(name) & 1 for name in self.organs]
        elif self.organs[0] in paths:
            files = [paths[name] for name in self.organs]
            planes = [_square(path, read_mask(path)) for path in files]
        else:
            return None
        flags = np.zeros((side, side), np.uint8)
        for k, plane in enumerate(planes):
            flags |= _voted(plane, side).astype(np.uint8) << k
        return np.ascontiguousarray(flags.T)


def read_film(path: Path) -> Float[np.ndarray, "n n"]:
    """A radiograph's values from 0 to 1, bright where dense, rows first."""
    if path.suffix.lower() == ".img":
        size = path.stat().st_size
        side = round((size / 2) ** 0.5)
        if size == 0 or 2 * side * side != size:
            raise ValueError(
                f"{path} has {size} bytes, which is no square of 16-bit values; JSRT's files have "
                f"{2 * 2048**2}: fetch it again"
            )
        values = np.fromfile(path, dtype=">u2").reshape(side, side)
        if values.max() > 4096:
            raise ValueError(
                f"{path} holds values up to {values.max()}; JSRT's have 12 bits, big-endian: take "
                "the file as it is given out"
            )
        return (1 - values.astype(np.float32) / 4096).astype(np.float32)
    grey = _square(path, image_file.read(path).image[0, ..., 0].T)
    highest = float(grey.max())
    full = next((top for top in (255, 4095) if highest <= top), 65535)
    return (grey / np.float32(full)).astype(np.float32)


def read_mask(path: Path) -> Bool[np.ndarray, "h w"]:
    """Where a picture is not black, rows first; SCR's masks are GIF files."""
    pillow: Any = import_module("PIL.Image")
    try:
        with pillow.open(path, formats=("GIF", "PNG", "BMP", "TIFF")) as picture:
            return np.asarray(picture.convert("L")) > 0
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a mask ({error}); fetch it again") from None


def read_landmarks(path: Path, organs: Sequence[str]) -> Float[np.ndarray, "n 2"]:
    """The chosen organs' nodes in pixels of the 1024 x 1024 frame; NaN where a file has none.

    A file holds x and y of the lungs (94 nodes), also of the heart (120), or of all five (166).
    """
    try:
        given = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array ({error}); fetch it again") from None
    ends = np.cumsum(list(NODES.values()))
    if given.dtype.kind not in "fiu" or given.size not in 2 * ends[[1, 2, 4]]:
        raise ValueError(
            f"{path} has shape {given.shape} of {given.dtype}; wanted x and y of {ends[1]}, "
            f"{ends[2]} or {ends[4]} nodes"
        )
    points = given.astype(np.float64).reshape(-1, 2)
    highest = float(points.max())
    if not np.isfinite(points).all() or not 2 < highest <= 1.02 * FRAME:
        raise ValueError(
            f"{path} has coordinates up to {highest:.4g}; wanted pixels of a frame of "
            f"{FRAME} x {FRAME}"
        )
    parts = dict(zip(NODES, np.split(points, ends[:-1]), strict=True))
    none = {name: np.full((NODES[name], 2), np.nan) for name in organs}
    return np.concatenate([parts[n] if len(parts[n]) else none[n] for n in organs])


def _square(path: Path, values: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "n n"]:
    if values.shape[0] != values.shape[1]:
        height, width = values.shape
        raise ValueError(
            f"{path} is {width} x {height}; JSRT's images and masks are whole squares, and "
            "landmarks would not fit a cropped one: take the original"
        )
    return values


def _sized(plane: Float[np.ndarray, "n n"], side: int) -> Float[np.ndarray, "m m"]:
    """A square of `side` pixels, each the mean of the area it covers."""
    count, rest = divmod(len(plane), side)
    if rest == 0:
        return plane.reshape(side, count, side, count).mean((1, 3), dtype=np.float32)
    frame = Frame.to(Grid((*plane.shape, 1), np.eye(4)), side)
    return frame.image(plane[..., None])[..., 0]


def _voted(plane: Shaped[np.ndarray, "n n"], side: int) -> Bool[np.ndarray, "m m"]:
    """A mask on a square of `side` pixels: where it covers most of one; a tie goes by the middle.

    Ties are common where sides halve, and giving them all away would shift every border.
    """
    middle = ((np.arange(side) + 0.5) * len(plane) / side).astype(int)
    share = _sized(plane.astype(np.float32), side)
    return share + 1e-3 * (plane[np.ix_(middle, middle)] - 0.5) > 0.5


def _gathered(folder: Path) -> _Found:
    """Everything known below a folder; the same file of a case twice is refused."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the one that holds JSRT's data")
    found = _Found()
    for path in walk.files(folder):
        split = _LIST.fullmatch(path.name)
        if split:
            _only(found.lists, split[1].lower(), path)
        elif _NAME.fullmatch(path.stem):
            kind, case = _kind(path), path.stem.upper()
            if kind:
                _only(found.files, (kind, case), path)
            around = path.parent.parent.name.lower()
            if kind == "landmarks" and around in SPLITS[:3]:
                found.folders[case] = around
    return found


def _kind(path: Path) -> str:
    """What a file of a case is, by its folder and suffix; empty for what is none of ours."""
    suffix, around = path.suffix.lower(), path.parent.name.lower()
    organ = around.replace(" ", "_")
    if suffix == ".npy":
        return "landmarks" if around == "landmarks" else ""
    if organ in NODES or around == "masks":
        return "" if suffix not in MASKS else organ if organ in NODES else "flags"
    return "image" if suffix in IMAGES else ""


def _only(held: dict[Any, Path], key: Any, path: Path) -> None:  # noqa: ANN401 -- any key
    if key in held:
        raise ValueError(f"{held[key]} and {path} are the same thing of one case; remove one")
    held[key] = path


def _splits(found: _Found, folder: Path) -> list[tuple[str, str]]:
    """Cases with their split, by lists, by the landmarks' folders, or none with a warning."""
    images = found.cases("image")
    known = _listed(found.lists) if found.lists else found.folders
    if not known:
        warnings.warn(
            f"{folder} holds no train.txt, val.txt and test.txt (or train_files.txt …), so no case "
            f"has a split; they are in {WHERE}: copy them into the folder, or give data.folds=5",
            stacklevel=3,
        )
        return [(case, "") for case in images if case != OUTLIER]
    lost = sorted(set(known) - set(images))
    if lost and found.lists:
        some = f"{', '.join(lost[:5])}{' …' if len(lost) > 5 else ''}"
        raise FileNotFoundError(
            f"the lists name {len(lost)} cases without an image below {folder}: {some}; add the "
            "images or take the names out of the lists"
        )
    stray = [case for case in images if case not in known and case != OUTLIER]
    if stray:
        some = f"{', '.join(stray[:5])}{' …' if len(stray) > 5 else ''}"
        warnings.warn(f"{len(stray)} images without a split stay out: {some}", stacklevel=3)
    return [(case, split) for split in SPLITS[:3] for case in images if known.get(case) == split]


def _listed(lists: Mapping[str, Path]) -> dict[str, str]:
    known: dict[str, str] = {}
    for split, path in lists.items():
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            name = Path(line.strip()).stem.upper()
            if not name:
                continue
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{path}, line {number}: '{line.strip()}' names no case; wanted a name such as "
                    "JPCLN001 a line"
                )
            if known.setdefault(name, split) != split:
                raise ValueError(f"{name} is listed for {known[name]} and for {split}; choose one")
    return known
