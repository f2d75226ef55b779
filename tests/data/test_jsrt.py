"""JSRT as users have it: raw files with SCR masks, pictures, and the prepared layout."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.data.jsrt import JSRT
from medseg.data.landmarks import read_points
from medseg.data.radiographs import NODES
from medseg.io import image

SIDE = 64
SPLIT = {"JPCLN001": "train", "JPCLN002": "train", "JPCNN001": "val", "JPCNN002": "test"}


def values(case: str) -> np.ndarray:
    return np.random.default_rng(list(case.encode())).integers(0, 4097, (SIDE, SIDE))


def mask(organ: str, side: int = SIDE) -> np.ndarray:
    """A box of its own for every organ, lungs and heart overlapping."""
    start = 10 * list(NODES).index(organ) * side // SIDE
    out = np.zeros((side, side), np.uint8)
    out[side // 4 : side // 2, start : start + side // 4] = 255
    return out


def nodes(case: str) -> np.ndarray:
    return np.random.default_rng(list(case.encode())).uniform(100, 900, (166, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The raw download beside SCR's masks and the repository's landmarks and lists."""
    home = tmp_path / "JSRT"
    (home / "All247images").mkdir(parents=True)
    for place, (case, split) in enumerate([*SPLIT.items(), ("JPCLN016", "")]):
        values(case).astype(">u2").tofile(home / "All247images" / f"{case}.IMG")
        for organ in NODES:
            masks = home / "scratch" / f"fold{1 + place % 2}" / "masks" / organ.replace("_", " ")
            masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask(organ)).save(masks / f"{case}.gif")
        if split:
            points = home / split.capitalize() / "landmarks"
            points.mkdir(parents=True, exist_ok=True)
            np.save(points / f"{case}.npy", nodes(case).ravel())
    for split in ("train", "val", "test"):
        names = [f"{case}.png" for case, own in SPLIT.items() if own == split]
        (home / f"{split}_files.txt").write_text("\n".join(names) + "\n")
    (home / "scratch" / "readme.txt").write_text("not a list")
    return home


def splits(data: JSRT) -> dict[str, str]:
    return {record.case: record.split for record in data.records()}


def test_raw_values_are_turned_so_that_bright_is_dense(folder: Path) -> None:
    data = JSRT(folder)
    sample = data.load(data.records()[0])
    wanted = np.rint(255 * (1 - values("JPCLN001") / 4096))
    assert np.abs(sample.image[0, :, :, 0].T - wanted).max() <= 1
    assert sample.channels == ("image",)
    assert sample.space.spacing_mm == pytest.approx((0.175 * 2048 / SIDE,) * 2 + (1,))
    assert (sample.subject, sample.split) == ("JPCLN001", "train")


def test_masks_become_flags_in_the_recipes_order(folder: Path) -> None:
    data = JSRT(folder, organs={"heart": 26, "right_clavicle": 23})
    target = data.load(data.records()[0]).target
    assert np.array_equal(target[..., 0].T & 1, mask("heart") > 0)
    assert np.array_equal(target[..., 0].T >> 1, mask("right_clavicle") > 0)


def test_landmarks_come_into_the_images_own_pixels(folder: Path) -> None:
    points = nodes("JPCLN001") * SIDE / 1024
    data = JSRT(folder)
    assert data.load(data.records()[0]).landmarks == pytest.approx(points[:120])
    other = JSRT(folder, organs={"heart": 26, "left_lung": 50})
    wanted = np.concatenate([points[94:120], points[44:94]])
    assert other.load(other.records()[0]).landmarks == pytest.approx(wanted)


def test_large_images_shrink_by_mean_areas_and_all_else_follows(folder: Path) -> None:
    data = JSRT(folder, side=32)
    sample = data.load(data.records()[0])
    assert sample.image.shape == (1, 32, 32, 1)
    film = 255 * (1 - values("JPCLN001").reshape(32, 2, 32, 2).mean((1, 3)) / 4096)
    assert np.abs(sample.image[0, :, :, 0].T - film).max() <= 0.51
    assert np.array_equal(sample.target[..., 0].T >> 2 & 1, mask("heart", 32) > 0)
    assert sample.landmarks == pytest.approx(nodes("JPCLN001")[:120] * 32 / 1024)
    uneven = JSRT(folder, side=48).load(data.records()[0])
    assert uneven.image.mean() == pytest.approx(film.mean(), abs=1)


def test_the_published_split_leaves_the_outlier_out(folder: Path) -> None:
    assert splits(JSRT(folder)) == SPLIT
    for path in folder.glob("*_files.txt"):
        path.unlink()
    assert splits(JSRT(folder)) == SPLIT
    for name in ("Train", "Val", "Test"):
        shutil.rmtree(folder / name)
    with pytest.warns(UserWarning, match=r"train_files\.txt.*github.*data\.folds=5"):
        data = JSRT(folder)
    assert splits(data) == dict.fromkeys(sorted(SPLIT), "")


def test_pictures_of_any_depth_stand_in_for_raw_files(folder: Path) -> None:
    raw = values("JPCLN001")
    raw[0, 0] = 0  # as bright as can be, so that each depth reaches its end
    raw.astype(">u2").tofile(folder / "All247images" / "JPCLN001.IMG")
    wanted = JSRT(folder).load(JSRT(folder).records()[0]).image
    (folder / "All247images" / "JPCLN001.IMG").unlink()
    film = 1 - raw / 4096
    twelve, sixteen = np.rint(4095 * film), np.rint(65535 * film)
    colour = np.repeat(np.rint(255 * film)[..., None], 3, 2)
    kinds = [(twelve, np.uint16), (sixteen, np.uint16), (colour, np.uint8)]
    for array, kind in kinds:
        Image.fromarray(array.astype(kind)).save(folder / "JPCLN001.png")
        data = JSRT(folder)
        assert np.abs(data.load(data.records()[0]).image - wanted).max() <= 1


def test_masks_alone_and_landmarks_alone_are_enough(folder: Path) -> None:
    shutil.move(folder / "scratch", folder.parent / "scratch")
    sample = JSRT(folder).load(JSRT(folder).records()[0])
    assert sample.target is None
    assert sample.landmarks is not None
    for name in ("Train", "Val", "Test"):
        shutil.rmtree(folder / name)
    with pytest.raises(ValueError, match="neither masks nor landmarks"):
        JSRT(folder)
    shutil.move(folder.parent / "scratch", folder / "scratch")
    sample = JSRT(folder).load(JSRT(folder).records()[0])
    assert sample.target is not None
    assert sample.landmarks is None


def test_landmarks_of_lungs_alone_leave_the_heart_open(folder: Path) -> None:
    np.save(folder / "Train" / "landmarks" / "JPCLN001.npy", nodes("JPCLN001")[:94])
    points = JSRT(folder).load(JSRT(folder).records()[0]).landmarks
    assert np.isfinite(points[:94]).all()
    assert np.isnan(points[94:]).all()


def test_written_files_hold_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    data = JSRT(folder)
    sheet = data.write(tmp_path / "out")
    rows = [line.split(",") for line in sheet.read_text().splitlines()]
    assert rows[0] == ["case", "subject", "image", "label", "split", "landmarks", "spacing_mm"]
    for record, row in zip(data.records(), rows[1:], strict=True):
        sample = data.load(record)
        assert row[0] == record.case
        assert row[4] == record.split
        assert np.array_equal(image.read(sheet.parent / row[2]).image, sample.image)
        assert np.array_equal(image.read_labels(sheet.parent / row[3])[0], sample.target)
        points = read_points(sheet.parent / row[5], data.contours)
        assert points == pytest.approx(sample.landmarks, abs=1e-4)


def test_what_is_missing_or_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    def refused(kind: type[Exception], match: str, at: Path = folder, **arguments: object) -> None:
        with pytest.raises(kind, match=match):
            data = JSRT(at, **arguments)
            data.load(data.records()[0])

    (tmp_path / "empty").mkdir()
    refused(FileNotFoundError, "there is no folder", tmp_path / "none")
    refused(ValueError, r"no JSRT image; wanted files such as JPCLN001\.IMG", tmp_path / "empty")
    refused(ValueError, "liver", organs={"liver": 12})
    refused(ValueError, "closed contour of 26 nodes", organs={"heart": 12})
    gif = folder / "scratch/fold1/masks/heart/JPCLN001.gif"
    gif.rename(gif.with_suffix(".away"))
    refused(FileNotFoundError, r"JPCLN001 has a mask of the right_lung .*heart.JPCLN001\.gif")
    gif.write_bytes(b"GIF89a")
    refused(ValueError, r"JPCLN001\.gif cannot be read as a mask")
    gif.with_suffix(".away").replace(gif)
    points = folder / "Train/landmarks/JPCLN001.npy"
    np.save(points, nodes("JPCLN001")[:100])
    refused(ValueError, r"shape \(100, 2\).*wanted x and y of 94, 120 or 166 nodes")
    np.save(points, nodes("JPCLN001") / 1024)
    refused(ValueError, r"coordinates up to 0\.8.*1024 x 1024")
    np.save(points, nodes("JPCLN001"))
    raw = folder / "All247images/JPCLN001.IMG"
    shutil.copy(raw, folder / "JPCLN001.img")
    refused(ValueError, "the same thing of one case; remove one")
    (folder / "JPCLN001.img").unlink()
    raw.write_bytes(raw.read_bytes()[:-3])
    refused(ValueError, "no square of 16-bit values")
    values("JPCLN001").astype("<u2").tofile(raw)
    refused(ValueError, "12 bits, big-endian")
    raw.unlink()
    refused(FileNotFoundError, "1 cases without an image .*: JPCLN001")
    Image.new("L", (40, 50)).save(folder / "JPCLN001.png")
    refused(ValueError, "40 x 50; .* whole squares")


def test_lists_are_checked(folder: Path) -> None:
    (folder / "val_files.txt").write_text("JPCNN001.png\nJPCLN001\n")
    with pytest.raises(ValueError, match=r"JPCLN001 is listed for .* choose one"):
        JSRT(folder)
    (folder / "val_files.txt").write_text("hello\n")
    with pytest.raises(ValueError, match=r"val_files\.txt, line 1: 'hello' names no case"):
        JSRT(folder)
    (folder / "val_files.txt").unlink()
    with pytest.warns(UserWarning, match="1 images without a split stay out: JPCNN001"):
        assert "JPCNN001" not in splits(JSRT(folder))


def test_the_prepared_layout_is_read(reference: Path) -> None:
    home = reference / "data" / "jsrt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = JSRT(home, organs=NODES)
    counts = list(splits(data).values())
    assert (counts.count("train"), counts.count("val"), len(counts)) == (174, 21, 195)
    for record in data.records()[:2]:
        sample = data.load(record)
        assert sample.image.shape == (1, 512, 512, 1)
        assert sample.space.spacing_mm[0] == pytest.approx(0.7)
        points = np.load(home / "landmarks" / f"{record.case}.npy")
        assert sample.landmarks == pytest.approx(points / 2)
        stored = np.asarray(Image.open(home / "masks" / f"{record.case}.png"))
        for bit in range(5):
            area = (stored >> bit & 1).sum() / 4
            assert (sample.target >> bit & 1).sum() == pytest.approx(area, rel=0.01)
            assert (stored[::2, ::2] >> bit & 1).sum() == pytest.approx(area, rel=0.01)
