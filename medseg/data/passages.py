"""The way from a case's own space to the one that a model works in, as its `model.json` says."""

from collections.abc import Mapping
from typing import Any

from medseg.geometry.frame import Frame
from medseg.geometry.resample import Passage
from medseg.geometry.sphere import Regrid, Sphere
from medseg.sample import Sample


def way(sample: Sample, spec: Mapping[str, Any]) -> Passage | Frame | Regrid:
    """To a grid of some spacing, a square of some size, or the sphere's pixels.

    Maps keep their own nside unless the recipe's data.nside brings all to one.

    Raises:
        ValueError: the model sees images and the case is a map of the sphere, or the reverse.
    """
    sky = isinstance(sample.space, Sphere)
    if sky != (spec["ndim"] == 1):
        kinds = ("a map of the sphere", "an image")
        came, wanted = kinds if sky else kinds[::-1]
        raise ValueError(f"case {sample.id} is {came}, and the model works on {wanted}: give one")
    if isinstance(sample.space, Sphere):
        part = spec.get("footprint")
        if part is None and not sample.space.whole:  # what is not there is not known
            part = (1, range(12))
        nside = spec["nside"] if spec.get("regrids") else None
        return Regrid.to(sample.space, nside, footprint=part and (part[0], part[1]))
    if spec.get("size"):
        return Frame.to(sample.grid, spec["size"])
    return Passage.to(sample.grid, spec["spacing_mm"] and tuple(spec["spacing_mm"]))
