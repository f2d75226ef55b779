"""The cardiothoracic ratio of a chest radiograph: how wide the heart is against the chest.

Heart and chest are measured along the row direction, on outlines and not on masks: the heart from
its rightmost to its leftmost point (the sum of its two largest distances from any midline), the
chest between the outermost points of both lungs, which lie on the inner rib margin.
Source: Danzer 1919, The cardiothoracic ratio, Am. J. Med. Sci. 157(4):513-521.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medseg.geometry.contour import Contour

LUNGS = ("right_lung", "left_lung")
HEART = "heart"
ENLARGED = 0.5
NORMAL_90 = 1.6448536269514722


@dataclass(frozen=True)
class Line:
    """A horizontal measure: from (left, y) to (right, y), in the landmarks' own unit."""

    left: tuple[float, float]
    right: tuple[float, float]

    @property
    def width(self) -> float:
        """Its length along x."""
        return self.right[0] - self.left[0]


@dataclass(frozen=True)
class Ratio:
    """A cardiothoracic ratio with what samples say about it.

    Attributes:
        value: of the landmarks themselves.
        sd: standard deviation over the samples.
        low: lower end of the 90 % interval.
        high: upper end of the 90 % interval.
        enlarged: probability of a ratio above one half, the usual limit for adults.
    """

    value: float
    sd: float
    low: float
    high: float
    enlarged: float


def ctr(landmarks: Float[np.ndarray, "n 2"], contours: Sequence[Contour]) -> float | None:
    """Heart width over chest width; None where heart or a lung has no landmarks.

    Landmarks are x and y in any unit whose two axes have one scale; NaN marks an absent node.
    """
    found = lines(landmarks, contours)
    return None if found is None else found[0].width / found[1].width


def ctr_samples(
    samples: Float[np.ndarray, "k n 2"],
    contours: Sequence[Contour],
    *,
    landmarks: Float[np.ndarray, "n 2"] | None = None,
    extra_sd: float = 0.0,
) -> Ratio | None:
    """The ratio with its spread over drawn shapes; None where the organs are not there.

    The value is that of `landmarks`, else the samples' mean. `extra_sd` is what the draws do not
    hold (a calibrated remainder): it widens the spread, and the interval about its middle.
    """
    found = [one for one in (ctr(sample, contours) for sample in samples) if one is not None]
    value = ctr(landmarks, contours) if landmarks is not None else None
    if not found or (landmarks is not None and value is None):
        return None
    drawn = np.array(found)
    mean = float(drawn.mean())
    sd = float(np.hypot(drawn.std(ddof=1) if len(drawn) > 1 else 0.0, extra_sd))
    low, high = (float(q) for q in np.percentile(drawn, [5, 95]))
    wide = NORMAL_90 * extra_sd
    return Ratio(
        value=mean if value is None else value,
        sd=sd,
        low=mean - float(np.hypot(mean - low, wide)),
        high=mean + float(np.hypot(high - mean, wide)),
        enlarged=_above(drawn, ENLARGED, extra_sd),
    )


def _above(drawn: Float[np.ndarray, " k"], limit: float, extra_sd: float) -> float:
    """The share of draws above a limit, each of them blurred by what the draws do not hold."""
    if extra_sd <= 0:
        return float((drawn > limit).mean())
    steps = (drawn - limit) / (extra_sd * math.sqrt(2))
    return float(np.mean([(1 + math.erf(step)) / 2 for step in steps]))


def lines(
    landmarks: Float[np.ndarray, "n 2"], contours: Sequence[Contour]
) -> tuple[Line, Line] | None:
    """The two measures, heart then chest, each at the height where its outer points lie.

    None where heart or a lung is not among the contours, not annotated, or has no width.
    """
    organs, start = {}, 0
    for contour in contours:
        points = landmarks[start : start + contour.nodes]
        start += contour.nodes
        organs[contour.name] = points[np.isfinite(points).all(1)]
    if start != len(landmarks):
        message = f"{len(landmarks)} landmarks came, but the contours have {start} nodes"
        raise ValueError(f"{message}: give both of one model")
    if any(len(organs.get(name, ())) < 3 for name in (HEART, *LUNGS)):
        return None
    heart = _widest(organs[HEART])
    chest = _widest(np.concatenate([organs[name] for name in LUNGS]))
    return (heart, chest) if heart.width > 0 and chest.width > 0 else None


def _widest(points: Float[np.ndarray, "n 2"]) -> Line:
    (left, y_left), (right, y_right) = points[points[:, 0].argmin()], points[points[:, 0].argmax()]
    y = (float(y_left) + float(y_right)) / 2
    return Line((float(left), y), (float(right), y))
