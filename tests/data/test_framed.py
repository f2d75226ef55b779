"""A radiograph's reference in its square: flags from landmarks, outlines from flags."""

import numpy as np
import pytest

from medseg.data.framed import OUTLINE, drawn, outlines, write
from medseg.geometry import contour
from medseg.geometry.contour import contours
from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid
from medseg.sample import Sample

KNOWN = contours({"disc": 24, "box": 4, "rim": {"nodes": 5, "closed": False}})
SIZE = 64


def points(size: int = SIZE) -> np.ndarray:
    """A disc, a box beside it, and a line across both, in pixels."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    disc = np.array([22.3, 24.6]) + 13.2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    box = np.array([[30.0, 34.0], [52.0, 34.0], [52.0, 55.0], [30.0, 55.0]])
    rim = np.stack([np.linspace(4, 60, 5), np.full(5, 40.0)], 1)
    return np.concatenate([disc, box, rim]) * (size / SIZE)


def masks() -> np.ndarray:
    """Another drawing of the same organs: a box and a disc, columns first."""
    x, y = np.mgrid[:SIZE, :SIZE]
    disc = (x - 40) ** 2 + (y - 40) ** 2 < 144
    box = (abs(x - 20) < 8) & (abs(y - 30) < 5)
    return (disc + 2 * box).astype(np.uint8)


def lines_of(flags: np.ndarray) -> np.ndarray:
    """The outlines of a square image's flags."""
    space = Grid((SIZE, SIZE, 1), np.eye(4))
    sample = Sample("a", np.zeros((1, SIZE, SIZE, 1)), space, ("image",), target=flags[..., None])
    return outlines(sample, KNOWN, frame=Frame.to(space, SIZE))


def test_flags_are_those_of_the_landmarks() -> None:
    found = drawn(points(), None, known=KNOWN, size=SIZE)
    np.testing.assert_array_equal(found.T, contour.flags(points(), KNOWN, shape=(SIZE, SIZE)))
    assert set(np.unique(found)) == {0, 1, 2, 3}, "organs overlap; a line bounds nothing"


def test_an_organs_landmarks_go_before_its_mask_and_the_mask_fills_in() -> None:
    half = points()
    half[0] = np.nan
    found = drawn(half, masks(), known=KNOWN, size=SIZE)
    np.testing.assert_array_equal(found & 1, masks() & 1)
    np.testing.assert_array_equal(found & 2, drawn(points(), None, known=KNOWN, size=SIZE) & 2)
    np.testing.assert_array_equal(drawn(None, masks(), known=KNOWN, size=SIZE), masks())


def test_a_ninth_organ_takes_sixteen_bits() -> None:
    known = contours({f"organ {k}": 4 for k in range(9)})
    found = drawn(
        np.tile([[9.0, 9], [30, 9], [30, 30], [9, 30]], (9, 1)), None, known=known, size=SIZE
    )
    assert found.dtype == np.uint16
    assert found.max() == 0x1FF


def test_outlines_trace_the_masks() -> None:
    """Drawn finely, an outline covers its mask but for the corners that 128 points cut."""
    found = lines_of(masks())
    assert found.shape == (3, OUTLINE, 2)
    assert np.isnan(found[2]).all()
    for k in range(2):
        again = contour.rasterise(found[k] * 1024, (1024, 1024)).T
        mask = np.kron(masks() >> k & 1, np.ones((1024 // SIZE,) * 2, np.uint8)).astype(bool)
        assert 2 * (again & mask).sum() / (again.sum() + mask.sum()) > 0.97
        assert abs(again.sum() / mask.sum() - 1) < 0.03, "neither too far in nor too far out"
        steps = np.linalg.norm(np.diff(found[k], axis=0, append=found[k][:1]), axis=1)
        assert steps.max() < 2 * steps.min(), "evenly spaced, but for the corners moved out"


def test_an_organ_without_a_mask_has_no_outline() -> None:
    found = lines_of(masks() & 2)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
    assert np.isnan(lines_of(np.zeros((SIZE, SIZE), np.uint8))).all()


@pytest.mark.parametrize("native", [(SIZE, SIZE), (2 * SIZE, SIZE), (SIZE, 3 * SIZE)])
def test_what_is_written_lies_in_the_square(native, tmp_path) -> None:
    """Landmarks on an image of any shape come back as that image's landmarks."""
    grid = Grid((*native, 1), np.eye(4))
    frame = Frame.to(grid, SIZE)
    given = points()
    image = np.zeros((1, *native, 1), np.float32)
    sample = Sample("a", image, grid, ("image",), landmarks=given)
    organs = {o.name: {"nodes": o.nodes, "closed": o.closed} for o in KNOWN}
    counts = write(sample, frame, organs=organs, folder=tmp_path)
    landmarks = np.load(tmp_path / "landmarks.npy")
    np.testing.assert_allclose(frame.to_pixels(landmarks / SIZE), given, atol=1e-4)
    flags = np.load(tmp_path / "label.npy")[..., 0]
    assert counts == {o.name: int((flags >> k & 1).sum()) for k, o in enumerate(KNOWN)}
    assert counts["rim"] == 0 < counts["box"]
    found = np.load(tmp_path / "outlines.npy")
    centre = landmarks[contour.slices(KNOWN)["box"]].mean(0) / SIZE
    np.testing.assert_allclose(found[1].mean(0), centre, atol=0.6 / SIZE)


def test_a_case_without_a_reference_writes_nothing(tmp_path) -> None:
    grid = Grid((SIZE, SIZE, 1), np.eye(4))
    sample = Sample("a", np.zeros((1, SIZE, SIZE, 1), np.float32), grid, ("image",))
    assert write(sample, Frame.to(grid, SIZE), organs={"disc": 9}, folder=tmp_path) == {}
    assert not list(tmp_path.iterdir())
