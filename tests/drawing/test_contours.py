import io

import numpy as np
import pytest
from matplotlib.image import imread

from medseg.drawing.contours import COLOURS, _band, draw
from medseg.geometry.contour import contours

ORGANS = contours({"right_lung": 12, "left_lung": 12, "heart": 10})


def ring(n, x, y, rx, ry):
    turn = np.arange(n) / n * 2 * np.pi
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


POINTS = np.concatenate(
    [ring(12, 60, 100, 30, 70), ring(12, 150, 100, 30, 70), ring(10, 110, 130, 35, 25)]
)
IMAGE = np.random.default_rng(0).random((200, 220)).astype(np.float32)


def pixels(data):
    return imread(io.BytesIO(data))


def has(picture, colour):
    """Whether some pixel is close to a colour."""
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return bool((np.abs(picture[..., :3] - wanted).max(2) < 0.03).any())


def test_each_organ_has_its_colour_and_the_bytes_repeat():
    data = draw(IMAGE, POINTS, contours=ORGANS, title="case")
    assert data == draw(IMAGE, POINTS, contours=ORGANS, title="case")
    assert data.startswith(b"\x89PNG")
    picture = pixels(data)
    assert all(has(picture, colour) for colour in COLOURS[:3])
    assert not has(picture, COLOURS[3])


def test_uncertainty_reference_and_verdict_change_the_picture():
    plain = pixels(draw(IMAGE, POINTS, contours=ORGANS))
    more = {
        "sd": np.full_like(POINTS, 3.0),
        "reference": POINTS + 4,
        "badge": ("not accepted", False),
        "notes": ("the image looks unlike the training images",),
    }
    for name, value in more.items():
        assert (pixels(draw(IMAGE, POINTS, contours=ORGANS, **{name: value})) != plain).any(), name


def test_the_band_is_as_wide_across_the_contour_as_it_is_uncertain():
    line = contours({"diaphragm": {"nodes": 4, "closed": False}})[0]
    points = np.stack([np.arange(4.0), np.zeros(4)], axis=1)
    quads = _band(points, np.tile([9.0, 2.0], (4, 1)), line)
    assert quads.shape == (3, 4, 2)
    assert np.ptp(quads[..., 1]) == pytest.approx(2 * 1.645 * 2)


@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (1, 1), (3000, 2600)])
def test_any_shape_is_drawn(shape):
    assert pixels(draw(np.zeros(shape), POINTS, contours=ORGANS)).ndim == 3


def test_what_is_not_there_is_not_drawn():
    hidden = POINTS.copy()
    hidden[24:] = np.nan
    assert not has(pixels(draw(IMAGE, None, contours=ORGANS)), COLOURS[0])
    draw(np.full((64, 64), np.nan), hidden, contours=ORGANS, sd=np.full_like(POINTS, np.nan))
    assert pixels(draw(IMAGE, hidden, contours=ORGANS, reference=hidden)).size
