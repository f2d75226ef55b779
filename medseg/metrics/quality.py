"""Does an image look like those a network learned from: one score an image, without a reference.

What enters, each as a ratio to what training images reach that the fit has not seen:

- `image`: how far a thumbnail, the edge strength at five scales, the grey-value quantiles and the
  left-right symmetry of the framed image lie from the training images (no network needed);
- the network's own features, as many groups as the caller has (channel means and deviations of
  its maps, the latent mean, the size and place of its organs from `shape_features`);
- `orientation`: whether the image turned or mirrored would look more familiar than as it came;
- scalar signals of the caller: `disagreement` of a pixel head with the contours, `displacement`
  of the last lookup position to the landmark, `uncertainty`,
  `self_intersections`, or any other number that grows with trouble.

The ratios are joined by a fourth-power mean, so that one loud signal counts as much as several
quiet ones; the limit of the mean comes from the same unseen training images.
Source: Lee et al. 2018, arXiv:1807.03888 (distances of features; see `familiarity`). Differs:
joins them with signals of the contours themselves, by a mean whose limit is calibrated as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

from medseg.geometry.contour import Contour, area, slices
from medseg.metrics.familiarity import Familiarity, fit, folds, held_out, image_features, shrunk

QUANTILE = 0.995
HEADROOM = 1.25
POWER = 4
BEYOND = 1e6
LEVELS = 16
SAMPLE = 1 << 20
ORIENTATION_QUANTILE = 0.99
# Below these no signal counts as trouble, however tightly the training images lie.
FLOORS = {
    "disagreement": 0.1,
    "displacement": 0.004,
    "uncertainty": 0.01,
    "self_intersections": 1.0,
    "orientation": 0.1,
}
TURNS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned by 90 degrees": lambda image: np.rot90(image),
    "turned by 180 degrees": lambda image: np.rot90(image, 2),
    "turned by 270 degrees": lambda image: np.rot90(image, 3),
    "mirrored left to right": lambda image: image[:, ::-1],
    "mirrored top to bottom": lambda image: image[::-1],
}
SENTENCES = {
    "image": "the image looks unlike the training images",
    "orientation": "the image would look more familiar turned or mirrored",
    "disagreement": "contours and pixel map do not agree",
    "displacement": "the landmarks moved far in the last step",
    "uncertainty": "the landmarks are uncertain",
    "self_intersections": "contours cross themselves",
    "shape": "organs have an unusual size or place",
}


def fault(image: Num[np.ndarray, "..."]) -> str | None:
    """Why an image as it was read cannot be a radiograph at all; None where nothing speaks so."""
    values = image.reshape(-1)[:: max(1, image.size // SAMPLE)]
    if not values.size:
        return "the image is empty"
    if not np.isfinite(values).all():
        return "the image holds values that are not finite"
    levels = len(np.unique(values))
    if levels == 1:
        return f"the image has one value everywhere ({values[0]:g})"
    if levels < LEVELS:
        return f"the image has only {levels} grey values; a radiograph has {LEVELS} or more"
    low, high = np.percentile(values, [1, 99])
    return None if high > low else f"nearly the whole image has one value ({low:g})"


def shape_features(
    landmarks: Float[np.ndarray, "n 2"], contours: Sequence[Contour]
) -> Float[np.ndarray, " f"]:
    """Size and place of every organ: log area, centre, log width and log height, in the unit."""
    found: list[float] = []
    for contour, span in zip(contours, slices(contours).values(), strict=True):
        points = np.asarray(landmarks[span], dtype=float)
        extent = np.log(np.ptp(points, axis=0) + 1e-3)
        size = [float(np.log(abs(area(points)) + 1e-4))] if contour.closed else []
        found += [*size, *points.mean(0).tolist(), *extent.tolist()]
    return np.array(found)


def disagreement(
    pixels: Bool[np.ndarray, "organ h w"], contours: Bool[np.ndarray, "organ h w"]
) -> float:
    """One minus the mean Dice of two sets of organ masks; 1 for an organ that only one has."""
    axes = (1, 2)
    both = 2.0 * (pixels & contours).sum(axes)
    total = pixels.sum(axes) + contours.sum(axes)
    return float(1 - np.where(total > 0, both / np.maximum(total, 1), 1.0).mean())


def uncertainty(sd: Float[np.ndarray, "n 2"]) -> float:
    """Median over landmarks of the mean standard deviation of x and y."""
    return float(np.median(sd.mean(1)))


def orientation(familiarity: Familiarity, image: Num[np.ndarray, "h w"]) -> tuple[float, str]:
    """By what share the best turned or mirrored copy is nearer than the image, and which it is."""
    small = shrunk(image)
    turned = np.stack([image_features(turn(small)) for turn in TURNS.values()])
    others = familiarity.distance(turned)
    own = float(familiarity.distance(image_features(small)[None])[0])
    best = int(others.argmin())
    return max(0.0, own / max(float(others[best]), 1e-9) - 1), list(TURNS)[best]


def quality(distance: float, *, threshold: float) -> float:
    """A score in [0, 1] that falls with the distance and is one half at the threshold."""
    if np.isnan(distance):
        return 0.0
    return float(1 / (1 + min(max(distance, 0.0) / threshold, BEYOND) ** POWER))


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one image.

    Attributes:
        quality: 0 to 1; one half is the limit.
        accepted: whether the prediction may be trusted as far as this can be seen.
        reasons: plain sentences why not; empty where it is accepted.
        ratios: every signal over its own limit, for the record.
    """

    quality: float
    accepted: bool
    reasons: tuple[str, ...] = ()
    ratios: Mapping[str, float] | None = None


def refused(reason: str) -> Verdict:
    """The verdict on an image that never reached a network."""
    return Verdict(0.0, accepted=False, reasons=(reason,))


@dataclass(frozen=True, eq=False)
class Gate:
    """Every signal's limits, learned from training images.

    Attributes:
        families: what each group of features looks like; `image` is always among them.
        scales: the value of each signal that few unseen training images pass.
        limit: of the joined ratios; above it an image is not accepted.
    """

    families: Mapping[str, Familiarity]
    scales: Mapping[str, float]
    limit: float

    def judge(
        self,
        image: Num[np.ndarray, "h w"],
        *,
        features: Mapping[str, Float[np.ndarray, " f"]],
        signals: Mapping[str, float],
    ) -> Verdict:
        """The verdict on one framed image with the features and signals that calibration had."""
        small = shrunk(image)
        given = {"image": image_features(small), **features}
        wanted = (set(self.families), set(self.scales) - set(self.families) - {"orientation"})
        if (set(given), set(signals)) != wanted:
            message = f"features {sorted(given)} and signals {sorted(signals)} came"
            raise ValueError(f"{message}, {sorted(wanted[0])} and {sorted(wanted[1])} are known")
        values = dict(signals)
        for name, family in self.families.items():
            values[name] = float(family.distance(np.asarray(given[name], dtype=float)[None])[0])
        values["orientation"], turn = orientation(self.families["image"], small)
        ratios = {name: _ratio(values[name], scale) for name, scale in self.scales.items()}
        joined = float(_join(np.array([list(ratios.values())]))[0])
        score = quality(joined, threshold=self.limit)
        if joined <= self.limit:
            return Verdict(score, accepted=True, ratios=ratios)
        return Verdict(score, accepted=False, reasons=self._reasons(values, turn), ratios=ratios)

    def _reasons(self, values: Mapping[str, float], turn: str) -> tuple[str, ...]:
        limits = {name: self.limit * scale for name, scale in self.scales.items()}
        order = sorted(limits, key=lambda name: -_ratio(values[name], limits[name]))
        loud = [name for name in order if not values[name] <= limits[name]] or order[:2]
        return tuple(_sentence(name, values[name], limit=limits[name], turn=turn) for name in loud)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON to stand in a model's description."""
        families = {name: family.to_json() for name, family in self.families.items()}
        return {"families": families, "scales": dict(self.scales), "limit": self.limit}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "Gate":
        """What `to_json` wrote."""
        try:
            families = {n: Familiarity.from_json(f) for n, f in stored["families"].items()}
            scales = {name: float(scale) for name, scale in stored["scales"].items()}
            return Gate(families, scales, float(stored["limit"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"the model's quality gate cannot be read ({error!r})"
            raise ValueError(f"{message}: copy the model folder again or train it anew") from error


def _ratio(value: float, scale: float) -> float:
    return min(float(value / scale), BEYOND) if np.isfinite(value) else BEYOND


def _join(ratios: Float[np.ndarray, "n signal"]) -> Float[np.ndarray, " n"]:
    return (ratios**POWER).mean(1) ** (1 / POWER)


def _sentence(name: str, value: float, *, limit: float, turn: str) -> str:
    known = SENTENCES.get(name, f"the network's {name} features look unlike those of training")
    if name == "orientation":
        known = f"the image would look more familiar {turn}"
    unit = "distance" if name in {"image", "shape"} or name not in SENTENCES else "value"
    return f"{known} ({unit} {value:.3g}, limit {limit:.3g})"


def calibrate(
    images: Sequence[Num[np.ndarray, "h w"]],
    *,
    groups: Integer[np.ndarray, " n"],
    features: Mapping[str, Float[np.ndarray, "n f"]],
    signals: Mapping[str, Float[np.ndarray, " n"]],
) -> Gate:
    """Limits from training images and mildly augmented copies of them; never from other cases.

    Args:
        images: framed as the network sees them.
        groups: which original each of them is a copy of.
        features: any groups of numbers, a row an image; each is judged on its own.
        signals: numbers that grow with trouble, one an image.
    """
    given = {"image": np.stack([image_features(image) for image in images]), **features}
    families = {name: fit(rows) for name, rows in given.items()}
    values = {name: held_out(rows, groups) for name, rows in given.items()}
    floors = {name: 2 * float(np.median(found)) for name, found in values.items()} | FLOORS
    values |= {name: np.asarray(found, dtype=float) for name, found in signals.items()}
    scales = {
        name: max(float(np.quantile(found, QUANTILE)), floors.get(name, 1e-9))
        for name, found in values.items()
    }
    turning = _held_out_orientation(images, given["image"], groups=groups)
    usual = turning[np.isfinite(turning)]
    scales["orientation"] = max(
        float(np.quantile(usual, ORIENTATION_QUANTILE)), FLOORS["orientation"]
    )
    values["orientation"] = np.where(np.isfinite(turning), turning, 0.0)
    ratios = np.stack([values[name] / scale for name, scale in scales.items()], 1)
    limit = HEADROOM * max(float(np.quantile(_join(ratios), QUANTILE)), 1e-3)
    return Gate(families, scales, limit)


def _held_out_orientation(
    images: Sequence[Num[np.ndarray, "h w"]],
    features: Float[np.ndarray, "n f"],
    *,
    groups: Integer[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Of the first image of each group, by a fit to others; the copies stay NaN."""
    first = np.zeros(len(groups), dtype=bool)
    first[np.unique(groups, return_index=True)[1]] = True
    found = np.full(len(groups), np.nan)
    for left_out in folds(groups):
        family = fit(features[~left_out])
        for n in np.flatnonzero(left_out & first):
            found[n] = orientation(family, images[int(n)])[0]
    return found
