"""The contours of one radiograph: landmarks, how sure each of them is, and what moves them.

The encoder runs once an image; draws of the latent are decoded together from its maps.
Source: Gaggion et al. 2025 (arXiv:2512.10715), the spread of decoded draws as uncertainty. Differs:
a learnt covariance of each landmark and the disagreement of several models add to it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medseg import losses
from medseg.data.intensity import normalise
from medseg.geometry import contour
from medseg.geometry.contour import Contour
from medseg.geometry.frame import Frame
from medseg.metrics import quality
from medseg.metrics.quality import Gate
from medseg.sample import Sample

SAMPLES = 50
SIDES_PX = (0, 32, 64, 96, 128, 160, 192, 224, 256)
PLACES = 7
SHIFTS = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
GAMMAS = (0.5, 0.7, 1.0, 1.4, 2.0)
_PX = 1024
_CALIBRATION_SAMPLES = 16


@dataclass(frozen=True, eq=False)
class Delineation:
    """What networks make of an image; all in shares of the square's side.

    Attributes:
        landmarks: x and y of every node, the mean over the networks.
        samples: draws of all networks together.
        covariance: of every node: of the draws and what the networks say of it themselves.
        latent: the first network's latent mean.
        displacement: of every node from the last looked-up position to the end.
        organs: each organ's probability on the finest map, rows first, where there is such a head.
    """

    landmarks: Float[np.ndarray, "n 2"]
    samples: Float[np.ndarray, "k n 2"]
    covariance: Float[np.ndarray, "n 2 2"]
    latent: Float[np.ndarray, " z"]
    displacement: Float[np.ndarray, " n"] | None
    organs: Float[np.ndarray, "organ h w"] | None
    features: dict[str, Float[np.ndarray, " f"]]

    @property
    def sd(self) -> Float[np.ndarray, "n 2"]:
        """Standard deviation of x and y."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))


def framed(
    sample: Sample, spec: Mapping[str, Any], *, device: str
) -> tuple[Frame, Float[Tensor, "1 c h w"]]:
    """A case's square frame and its image as the networks of a `model.json` see it, rows first."""
    frame = Frame.to(sample.grid, spec["size"])
    image, _ = normalise(frame.image(sample.image), spec["intensity"])
    return frame, torch.from_numpy(image)[None, ..., 0].transpose(2, 3).to(device)


@torch.no_grad()
def delineate(
    image: Float[Tensor, "1 c h w"], networks: Sequence[Any], *, samples: int = SAMPLES
) -> Delineation:
    """Landmarks of an image and their spread; the draws are the same whenever it is asked again."""
    found = [_one(image, network, -(-samples // len(networks))) for network in networks]
    means = np.stack([landmarks for landmarks, *_ in found])
    draws = np.concatenate([drawn for _, drawn, *_ in found])
    landmarks = means.mean(0)
    own = np.mean([covariance for *_, covariance, _ in found], axis=0)
    away = draws - landmarks
    spread = np.einsum("kni,knj->nij", away, away) / max(1, len(draws) - 1)
    first = found[0][-1]
    return Delineation(landmarks=landmarks, samples=draws, covariance=own + spread, **first)


def _one(image: Tensor, network: Any, samples: int) -> tuple[Any, ...]:  # noqa: ANN401
    """Landmarks, draws, the head's covariance, and what quality is judged by, of one network."""
    if not hasattr(network, "encode"):
        landmarks = network(image)[0].double().cpu().numpy()
        zero = np.zeros((len(landmarks), 2, 2))
        nothing: dict[str, Any] = {
            "latent": np.zeros(0),
            "displacement": None,
            "organs": None,
            "features": {},
        }
        return landmarks, landmarks[None], zero, nothing
    encoding = network.encode(image)
    source = torch.Generator().manual_seed(0)
    noise = torch.randn((samples, encoding.mu.shape[1]), generator=source).to(encoding.mu)
    shape = network.decode(torch.cat([encoding.mu, encoding.latent(noise)]), encoding.maps)
    landmarks, *draws = shape.landmarks.double().cpu().numpy()
    covariance = np.zeros((len(landmarks), 2, 2))
    if shape.covariance is not None:
        covariance = losses.covariance_matrix(shape.covariance[0].double()).cpu().numpy()
    displacement = None
    if shape.positions and shape.positions[-1].shape[1] == len(landmarks):
        last = shape.positions[-1][0].double().cpu().numpy()
        displacement = np.linalg.norm(landmarks - last, axis=1)
    organs = None
    if getattr(network, "pixels", None) is not None:
        organs = network.decode_pixels(encoding.maps)[0].sigmoid().float().cpu().numpy()
    features = {"latent": encoding.mu[0].double().cpu().numpy()}
    for number, values in enumerate(encoding.maps):
        flat = values[0].flatten(1).double()
        features[f"map_{number}"] = torch.cat([flat.mean(1), flat.std(1)]).cpu().numpy()
    about = {"displacement": displacement, "organs": organs, "features": features}
    stacked = np.stack(draws) if draws else landmarks[None]
    return landmarks, stacked, covariance, {"latent": features["latent"], **about}


def perturbed(
    image: Float[Tensor, "1 c h w"],
) -> Iterator[tuple[str, float, int, Float[Tensor, "1 c h w"]]]:
    """Kind, level, number and image of every perturbation that robustness is judged by.

    Occlusions are black squares of some side (px at 1024) at seven places of the middle half, as
    Gaggion et al. 2022 place them; intensity is an offset in shares of the range, or an exponent.
    """
    size = image.shape[-1]
    low, high = image.amin(), image.amax()
    span = (high - low).clamp_min(1e-6)
    places = np.random.default_rng(0).uniform(0.25, 0.75, (len(SIDES_PX), PLACES, 2))
    for side, starts in zip(SIDES_PX, places, strict=True):
        for number, (x, y) in enumerate(starts if side else starts[:1]):
            covered = image.clone()
            rows, columns = (slice(round(v * size), round((v + side / _PX) * size)) for v in (y, x))
            covered[..., rows, columns] = low
            yield "occlusion", float(side), number, covered
    for shift in SHIFTS:
        yield "offset", shift, 0, image + shift * span
    for gamma in GAMMAS:
        yield "gamma", gamma, 0, ((image - low) / span).pow(gamma) * span + low


def evidence(
    found: Delineation, organs: Sequence[Contour]
) -> tuple[dict[str, Float[np.ndarray, " f"]], dict[str, float]]:
    """What the quality gate looks at: groups of features, and signals that grow with trouble."""
    parts = contour.slices(organs)
    features = {**found.features, "shape": quality.shape_features(found.landmarks, organs)}
    crossings = (
        contour.self_intersections(found.landmarks[parts[organ.name]], closed=organ.closed)
        for organ in organs
    )
    signals = {
        "uncertainty": quality.uncertainty(found.sd),
        "self_intersections": float(sum(crossings)),
    }
    if found.displacement is not None:
        signals["displacement"] = float(found.displacement.mean())
    closed = [k for k, organ in enumerate(organs) if organ.closed]
    if found.organs is not None and closed:
        size = found.organs.shape[1:]
        drawn = np.stack(
            [
                contour.rasterise(found.landmarks[parts[organs[k].name]] * size[0], size)
                for k in closed
            ]
        )
        signals["disagreement"] = quality.disagreement(found.organs[closed] > 0.5, drawn)
    return features, signals


def calibrated(
    images: Iterable[tuple[int, Float[Tensor, "1 c h w"]]],
    network: Any,  # noqa: ANN401 -- any network of landmarks
    *,
    organs: Sequence[Contour],
) -> Gate:
    """The gate of a trained network, from training images and copies of them.

    `images` are the number of the original and the image, the original before its copies.
    """
    groups, shown, features, signals = [], [], [], []
    for group, image in images:
        found = delineate(image, [network], samples=_CALIBRATION_SAMPLES)
        mine, told = evidence(found, organs)
        groups.append(group)
        shown.append(image[0, 0].float().cpu().numpy())
        features.append(mine)
        signals.append(told)
    return quality.calibrate(
        shown,
        groups=np.array(groups),
        features={name: np.stack([f[name] for f in features]) for name in features[0]},
        signals={name: np.array([s[name] for s in signals]) for name in signals[0]},
    )
