"""What is written about one radiograph: landmarks, how far to trust them, ratios, a picture."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from medseg.data import reverse
from medseg.data.landmarks import points_text
from medseg.data.table import Record, Table
from medseg.delineation import Delineation, delineate, evidence, framed, perturbed
from medseg.geometry import contour
from medseg.geometry.contour import Contour
from medseg.geometry.frame import Frame
from medseg.metrics import cardiothoracic, quality
from medseg.provenance import hash_array
from medseg.sample import Sample


def facts(
    sample: Sample, frame: Frame, *, found: Delineation, organs: Sequence[Contour]
) -> dict[str, Any]:
    """What the sidecar says of the labels, the pixels and the cardiothoracic ratio."""
    return {
        "task": "landmarks",
        "encoding": "flags",
        "labels": {organ.name: 1 << k for k, organ in enumerate(organs)},
        "organs": {o.name: {"nodes": o.nodes, "closed": o.closed} for o in organs},
        "spacing_mm": list(sample.grid.spacing_mm[:2]),
        "spacing_known": bool(sample.meta.get("spacing_known", True)),
        "size": frame.size,
        "uncertainty_px": round(float(np.median(found.sd * frame.side)), 3),
        "ctr": _ratio(frame, found, organs),
    }


def _ratio(frame: Frame, found: Delineation, organs: Sequence[Contour]) -> dict[str, float] | None:
    """The cardiothoracic ratio with its 90 % interval; None without heart or lungs.

    Draws of the latent move whole organs; what the nodes' own covariance adds is carried to the
    ratio from the four nodes that it is measured at.
    """
    scale = frame.side / frame.side.max()
    measured = cardiothoracic.lines(found.landmarks, organs)
    if measured is None:
        return None
    drawn = found.samples.var(axis=0)[:, 0]
    own = (found.covariance[:, 0, 0] - drawn).clip(0)
    parts = contour.slices(organs)
    x = found.landmarks[:, 0]
    heart = np.arange(len(x))[parts[cardiothoracic.HEART]]
    chest = np.concatenate([np.arange(len(x))[parts[n]] for n in cardiothoracic.LUNGS])
    width, whole = (
        own[nodes[x[nodes].argmin()]] + own[nodes[x[nodes].argmax()]] for nodes in (heart, chest)
    )
    ratio = measured[0].width / measured[1].width
    extra = float(np.sqrt(width + ratio**2 * whole) / measured[1].width)
    found_ratio = cardiothoracic.ctr_samples(
        found.samples * scale, organs, landmarks=found.landmarks * scale, extra_sd=extra
    )
    if found_ratio is None:
        return None
    return {name: round(value, 4) for name, value in vars(found_ratio).items()}


def verdict(
    sample: Sample,
    image: Tensor,
    *,
    found: Delineation,
    organs: Sequence[Contour],
    gate: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Whether the image looks like what the network knows, with the reasons where it does not."""
    fault = quality.fault(sample.image[0])
    if fault is not None:
        said = quality.refused(fault)
    elif gate is None:
        return {"score": None, "accepted": None, "reasons": ["the model has no quality gate"]}
    else:
        features, signals = evidence(found, organs)
        plane = image[0, 0].float().cpu().numpy()
        said = quality.Gate.from_json(gate).judge(plane, features=features, signals=signals)
    return {
        "score": round(said.quality, 4),
        "accepted": said.accepted,
        "reasons": list(said.reasons),
    }


def table(frame: Frame, found: Delineation, *, organs: Sequence[Contour]) -> str:
    """Landmarks in pixels of the image and the standard deviations of x and y, a line a node."""
    sd = found.sd * frame.side
    extra = {"sd_x": sd[:, 0], "sd_y": sd[:, 1]}
    return points_text(frame.to_pixels(found.landmarks), organs, extra=extra)


def points(frame: Frame, found: Delineation, *, organs: Sequence[Contour]) -> str:
    """The same by organ, as JSON."""
    parts = contour.slices(organs)
    pixels, sd = frame.to_pixels(found.landmarks), found.sd * frame.side
    content = {
        "unit": "pixels from the top left corner of the image, x to the right, y down",
        "organs": {
            organ.name: {
                "closed": organ.closed,
                "points": pixels[parts[organ.name]].round(3).tolist(),
                "sd": sd[parts[organ.name]].round(3).tolist(),
            }
            for organ in organs
        },
    }
    return json.dumps(content, indent=1) + "\n"


@torch.no_grad()
def robustness(
    image: Tensor, nets: Sequence[Any], *, frame: Frame, organs: Sequence[Contour]
) -> str:
    """Landmarks of the image under perturbations, a line a node."""
    lines = ["kind,level,repeat,organ,index,x,y"]
    for kind, level, number, changed in perturbed(image):
        unit = np.mean([net(changed)[0].double().cpu().numpy() for net in nets], axis=0)
        pixels = frame.to_pixels(unit)
        for organ, part in contour.slices(organs).items():
            lines += [
                f"{kind},{level:g},{number},{organ},{node},{x:.3f},{y:.3f}"
                for node, (x, y) in enumerate(pixels[part])
            ]
    return "\n".join(lines) + "\n"


def picture(
    sample: Sample,
    frame: Frame,
    *,
    found: Delineation,
    organs: Sequence[Contour],
    facts: Mapping[str, Any],
) -> bytes:
    """The radiograph with its contours, how sure they are, the ratio's lines and the verdict."""
    from medseg.drawing.contours import draw

    judged, ratio = facts["quality"], facts["ctr"]
    notes = list(judged["reasons"])
    if ratio is not None:
        notes.insert(0, f"cardiothoracic ratio {ratio['value']:.2f} "
                     f"(90 %: {ratio['low']:.2f} to {ratio['high']:.2f})")  # fmt: skip
    badge = None
    if judged["score"] is not None:
        word = "accepted" if judged["accepted"] else "not accepted"
        badge = (f"{word} · quality {judged['score']:.2f}", bool(judged["accepted"]))
    return draw(
        sample.image[0, :, :, 0].T,
        frame.to_pixels(found.landmarks),
        contours=organs,
        sd=found.sd * frame.side,
        title=sample.id,
        badge=badge,
        notes=notes,
        measured=ratio is not None,
    )


class Reverse:
    """Reverse classification accuracy against radiographs whose contours are known.

    Args:
        path: a sheet or a folder of these radiographs.
        networks: those of the prediction; the first one's latents say which are alike.
        spec: their `model.json`.
        device: where they are.
    """

    def __init__(
        self, path: Path, networks: Sequence[Any], *, spec: Mapping[str, Any], device: str
    ) -> None:
        self.organs = networks[0].organs
        self.table = Table(path, spec["channels"])
        self.table.organs = {o.name: {"nodes": o.nodes, "closed": o.closed} for o in self.organs}
        self.references: list[reverse.Reference] = []
        self.marks: dict[str, str] = {}
        for record in self.table.records():
            if record.label is None and record.landmarks is None:
                continue
            sample = self.table.load(record, with_target=False)
            _, shown = framed(sample, spec, device=device)
            latent = delineate(shown, networks[:1], samples=2).latent
            load = functools.partial(self._known, record)
            self.marks[record.case] = hash_array(sample.image)
            self.references.append(reverse.Reference(record.case, latent, load))
        if not self.references:
            raise ValueError(
                f"--reference {path} has no radiograph with a label or landmarks; give the sheet "
                "a column of either"
            )

    def _known(self, record: Record) -> reverse.Known:
        """A reference's image and label flags, rows first."""
        sample = self.table.load(record)
        columns, rows, _ = sample.grid.shape
        if sample.landmarks is not None:
            flags = contour.flags(sample.landmarks, self.organs, shape=(rows, columns))
        else:
            mine = (1 << len(self.organs)) - 1  # further organs of the reference do not count
            flags = np.ascontiguousarray(np.asarray(sample.target)[..., 0].T).astype(np.uint16)
            flags &= np.uint16(mine)
        return reverse.Known(sample.image[0, :, :, 0].T, flags)

    def __call__(
        self, sample: Sample, flags: Integer[np.ndarray, "h w"], *, latent: np.ndarray
    ) -> dict[str, Any]:
        """Largest and mean overlap over the references that are most alike; never with itself.

        A case is itself by its name, or by its pixels where it has another name here.
        """
        mark = hash_array(sample.image)
        others = [r for r in self.references if r.id != sample.id and self.marks[r.id] != mark]
        image = sample.image[0, :, :, 0].T
        return reverse.reverse_accuracy(image, flags, latent=latent, references=others)
