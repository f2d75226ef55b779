"""How far features of an image lie from those of the training images.

Source: Lee et al. 2018, arXiv:1807.03888 (Mahalanobis distance of features); Tipping & Bishop
1999, Probabilistic principal component analysis, J. R. Stat. Soc. B 61:611-622. Differs: the
distance is the root mean of the in-plane and the residual part, each scaled to about one.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

RANK = 48
SHRINK = 0.1
FOLDS = 5
THUMB = 16
TEXTURE = 128
# A channel that hardly moves in training is given this share of the usual spread, and no feature
# counts beyond so many spreads: one dead channel, or one blackened corner, must not decide alone.
STILL = 0.1
FAR = 4.0
# The residual counts as at least this share of the whole variance: a plane through as many
# directions as there are images would leave nothing, and then every new image looks strange.
RESIDUE = 0.02


def image_features(image: Num[np.ndarray, "h w"]) -> Float[np.ndarray, " f"]:
    """What an image looks like from afar, whatever its size, brightness and contrast."""
    small = shrunk(image)
    low, high = np.percentile(small, [1, 99])
    small = np.clip((small - low) / max(high - low, 1e-6), 0, 1)
    thumb = _area(small, THUMB)
    deviation = float(thumb.std())
    edges: list[float] = []
    quantiles = np.quantile(small, [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
    while len(small) >= 8:
        steps = [np.diff(small, axis=axis) for axis in (0, 1)]
        edges += [float(np.abs(step).mean()) for step in steps]
        edges += [float(np.sqrt((step**2).mean())) for step in steps]
        small = _area(small, len(small) // 2)
    thumb = (thumb - thumb.mean()) / (deviation + 1e-3)
    symmetry = float((thumb * thumb[:, ::-1]).mean())
    return np.concatenate([thumb.ravel(), np.log(np.array(edges) + 1e-3), quantiles, [symmetry]])


def shrunk(image: Num[np.ndarray, "h w"]) -> Float[np.ndarray, "s s"]:
    """The image as small as its features need it; a second time changes nothing."""
    return _area(image, TEXTURE) if image.shape != (TEXTURE, TEXTURE) else np.asarray(image, float)


def _area(image: Num[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "s s"]:
    rows, columns = (_overlap(n, side) for n in image.shape)
    return rows @ np.asarray(image, dtype=float) @ columns.T


def _overlap(pixels: int, side: int) -> Float[np.ndarray, "side pixels"]:
    """Each of `side` equal cells as an average over the pixels that it covers."""
    edges = np.linspace(0, pixels, side + 1)
    low, high = edges[:-1, None], edges[1:, None]
    start = np.arange(pixels)
    covered = np.minimum(high, start + 1) - np.maximum(low, start)
    return np.clip(covered, 0, None) * (side / pixels)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """A plane of principal components through the training features, and the spread about it.

    Attributes:
        centre: mean of the features.
        scale: their standard deviation, not less than a share of the usual one.
        basis: directions of largest variance of the scaled features.
        variance: shrunken variance along each direction.
        rest: summed variance across the other directions.
    """

    centre: Float[np.ndarray, " f"]
    scale: Float[np.ndarray, " f"]
    basis: Float[np.ndarray, "r f"]
    variance: Float[np.ndarray, " r"]
    rest: float

    def distance(self, features: Float[np.ndarray, "m f"]) -> Float[np.ndarray, " m"]:
        """About one for the training features; infinite where a feature is not finite."""
        if features.shape[1] != len(self.centre):
            message = f"{features.shape[1]} features came, {len(self.centre)} are known"
            raise ValueError(f"{message}: the model and its quality gate are not of one training")
        known = np.isfinite(features).all(1)
        scaled = (np.where(known[:, None], features, 0.0) - self.centre) / self.scale
        scaled = np.clip(scaled, -FAR, FAR)
        along = scaled @ self.basis.T
        across = np.clip((scaled**2).sum(1) - (along**2).sum(1), 0, None)
        squared = 0.5 * (along**2 / self.variance).mean(1) + 0.5 * across / self.rest
        return np.where(known, np.sqrt(squared), np.inf)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, the numbers as base64 of 4-byte (the basis: 2-byte) little-endian floats."""
        vectors = {name: _encode(getattr(self, name), "<f4") for name in ("centre", "scale")}
        rank, basis = len(self.basis), _encode(self.basis, "<f2")
        variance = _encode(self.variance, "<f4")
        return vectors | {"rank": rank, "basis": basis, "variance": variance, "rest": self.rest}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "Familiarity":
        """What `to_json` wrote."""
        return Familiarity(
            centre=_decode(stored["centre"], "<f4"),
            scale=_decode(stored["scale"], "<f4"),
            basis=_decode(stored["basis"], "<f2").reshape(int(stored["rank"]), -1),
            variance=_decode(stored["variance"], "<f4"),
            rest=float(stored["rest"]),
        )


def _encode(values: Float[np.ndarray, "..."], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def _decode(text: str, kind: str) -> Float[np.ndarray, " n"]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).astype(float)


def fit(features: Float[np.ndarray, "n f"], *, rank: int = RANK) -> Familiarity:
    """Learn what features look like; there may be more of them than images, the rank is lower."""
    if len(features) < 2 or not np.isfinite(features).all():
        message = f"{len(features)} rows of features came, finite ones of at least 2 are wanted"
        raise ValueError(f"{message} to learn what training images look like")
    centre = features.mean(0).astype(float)
    spread = features.std(0)
    scale = np.maximum(spread, STILL * float(np.median(spread))) + 1e-6
    scaled = np.clip((features - centre) / scale, -FAR, FAR)
    _, values, basis = np.linalg.svd(scaled, full_matrices=False)
    variance = values**2 / len(features)
    rank = max(1, min(rank, len(features) // 4, 3 * features.shape[1] // 4))
    shrunk = (1 - SHRINK) * variance[:rank] + SHRINK * variance.mean() + 1e-9
    rest = max(float(variance[rank:].sum()), RESIDUE * float(variance.sum()), 1e-6)
    return Familiarity(centre, scale.astype(float), basis[:rank].astype(float), shrunk, rest)


def held_out(
    features: Float[np.ndarray, "n f"], groups: Integer[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The distance of each row from a fit to other groups; copies of one image share a group."""
    found = np.empty(len(features))
    for left_out in folds(groups):
        found[left_out] = fit(features[~left_out]).distance(features[left_out])
    return found


def folds(groups: Integer[np.ndarray, " n"]) -> list[Bool[np.ndarray, " n"]]:
    """Which rows each fold leaves out; a group is never divided."""
    names, place = np.unique(groups, return_inverse=True)
    if len(names) < 4:
        message = f"{len(names)} training images came, at least 4 are wanted"
        raise ValueError(f"{message} to set the limits of the quality score")
    count = min(FOLDS, len(names))
    return [place % count == fold for fold in range(count)]
