"""What a recipe asks of prepared data, checked before a file is opened."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medseg.data import complex_input, intensity, labels
from medseg.data.prepared import FORMAT
from medseg.data.table import Table, coarsest_axis, spaced, volumes
from medseg.geometry.contour import contours
from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid
from medseg.geometry.resample import Passage
from medseg.geometry.sphere import Regrid, Sphere, check_nside
from medseg.provenance import plain

Spacing = tuple[float | None, float | None, float | None]
Footprint = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Recipe:
    """The data section of a recipe, checked; `slice_axis` is settled by the first case."""

    data: str
    channels: tuple[str, ...]
    labels: Mapping[str, tuple[int, ...]]
    instances: tuple[str, ...] = ()
    spacing_mm: Spacing | None = None
    intensity: str = "zscore"
    slice_axis: int | None = None
    volume: int | None = None
    organs: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    complex_input: str | None = None
    classes: tuple[str, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    nside: int | None = None
    footprint: Footprint | None = None
    targets: tuple[str, ...] = ()
    regrids: bool = False  # whether maps come to one nside, or keep their own in prediction

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Recipe":
        """From plain values; what cannot be meant is refused."""
        named = labels.classes(content.get("labels"))
        instances = tuple(content.get("instances") or ())
        stray = [name for name in instances if name not in named]
        if stray:
            raise ValueError(
                f"data.instances names '{stray[0]}', which data.labels ({', '.join(named)}) has not"
            )
        method, definition = content.get("intensity", "zscore"), content.get("complex_input")
        if method not in intensity.METHODS:
            known = ", ".join(intensity.METHODS)
            raise ValueError(f"data.intensity={method}; it must be one of {known}")
        complex_input.check(definition, channels=content["channels"], method=method)
        return cls(
            data=str(content.get("data", "table")),
            channels=tuple(content["channels"]),
            labels=named,
            instances=instances,
            spacing_mm=_spacing(content.get("spacing_mm")),
            intensity=method,
            slice_axis=content.get("slice_axis"),
            volume=content.get("volume"),
            organs=_organs(content, named),
            size=_size(content),
            complex_input=definition,
            classes=_classes(content, named),
            reading=dict(content.get("reading") or {}),
            nside=None if content.get("nside") is None else check_nside(content["nside"]),
            footprint=_footprint(content.get("footprint")),
            targets=_targets(content, named),
        )

    def settled(self, table: Table) -> "Recipe":
        """With the slice axis of the first case in place of none."""
        if not table.records():
            raise ValueError(f"{table.path} holds no case")
        if self.slice_axis is not None and not self.targets:
            return self  # a volume's
        from medseg.io import formats

        first = table.records()[0]
        channel, path = next(iter(first.paths.items()))
        if not path.exists():
            raise FileNotFoundError(f"case {first.case}: there is no file {path}; mend the sheet")
        try:
            options = spaced(first, path, options=self.reading)
            volume = volumes(first, self.volume)[channel]
            space = formats.read_header(path, volume=volume, **options)
            if isinstance(space, Sphere):
                return replace(self, nside=self.nside or space.nside, regrids=bool(self.nside))
            if self.targets:
                raise ValueError(
                    f"{path} is an image, and data.targets is for maps of the sphere; leave it out"
                )
            return replace(self, slice_axis=coarsest_axis(space))
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"case {first.case}: {error}") from error

    def content(self) -> dict[str, Any]:
        """Everything that decides the arrays of a case, as plain JSON values."""
        fields = ("channels", "labels", "spacing_mm", "intensity", "slice_axis", "volume")
        found: dict[str, Any] = plain({name: getattr(self, name) for name in fields})
        own = (
            "organs",
            "size",
            "complex_input",
            "classes",
            "reading",
            "nside",
            "footprint",
            "targets",
        )
        return {"format": FORMAT, **found, **{n: plain(v) for n in own if (v := getattr(self, n))}}

    def scaling(self, channel: str) -> str:
        """The method that scales a channel; targets keep their own numbers."""
        return "none" if channel in self.targets else self.intensity

    def passage(self, native: Grid | Sphere) -> Passage | Frame | Regrid:
        """The way from a scan's own grid, or a map's pixels, to those that this recipe wants."""
        if isinstance(native, Sphere):
            return Regrid.to(native, self.nside, footprint=self.footprint)
        if self.size is not None:
            return Frame.to(native, self.size)
        return Passage.to(native, self.spacing_mm)


def _organs(content: Mapping[str, Any], named: Mapping[str, Any]) -> Mapping[str, Any]:
    organs: Mapping[str, Any] = content.get("organs") or {}
    if organs:
        contours(organs)
        if named:
            raise ValueError(
                f"data.labels names {', '.join(named)} and data.organs {', '.join(organs)}; a data "
                "set has classes (labels) or contours (organs): leave one empty"
            )
        if content.get("size") is None:
            raise ValueError("data.organs needs data.size, the side of the square in pixels")
    return dict(organs)


def _classes(content: Mapping[str, Any], named: Mapping[str, Any]) -> tuple[str, ...]:
    classes = tuple(str(name) for name in content.get("classes") or ())
    if not classes:
        return ()
    if named or content.get("organs"):
        raise ValueError(
            "data.classes tells whole cases apart, and data.labels or data.organs names parts of "
            "them; a data set has one of the three: leave the others empty"
        )
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"data.classes={list(classes)}; give at least two names, each once")
    return classes


def _targets(content: Mapping[str, Any], named: Mapping[str, Any]) -> tuple[str, ...]:
    targets = tuple(str(name) for name in content.get("targets") or ())
    if not targets:
        return ()
    for other in ("labels", "organs", "classes", "complex_input"):
        if named if other == "labels" else content.get(other):
            raise ValueError(
                f"data.targets={list(targets)} has maps predicted, and data.{other} is of other "
                "tasks; leave one of them out"
            )
    channels = [str(name) for name in content["channels"]]
    stray = [name for name in targets if name not in channels]
    if stray:
        raise ValueError(
            f"data.targets names '{stray[0]}', which data.channels ({', '.join(channels)}) has "
            "not; name inputs there and then targets"
        )
    if len(targets) == len(channels) or tuple(channels[-len(targets) :]) != targets:
        raise ValueError(
            f"data.targets={list(targets)} must end data.channels={channels}, in this order and "
            "behind an input, such as data.channels=[x,y] data.targets=[y]"
        )
    return targets


def _footprint(given: Any) -> Footprint | None:  # noqa: ANN401 -- any YAML value
    if given is None:
        return None
    if not (isinstance(given, list | tuple) and len(given) == 2 and isinstance(given[0], int)):
        raise ValueError(
            f"data.footprint={given}; give [nside, [pixels]], whole coarse NESTED pixels, such as "
            "[1, [0]] for a twelfth of the sky"
        )
    pixels = tuple(sorted({int(number) for number in given[1]}))
    Sphere(check_nside(given[0]), pixels=np.array(pixels))
    return int(given[0]), pixels


def _size(content: Mapping[str, Any]) -> int | None:
    size = content.get("size")
    if size is not None and content.get("spacing_mm") is not None:
        raise ValueError(
            f"data.size={size} and data.spacing_mm are both given; take size for radiographs, "
            "spacing_mm for volumes"
        )
    return size


def _spacing(given: Sequence[float | None] | None) -> Spacing | None:
    if given is None:
        return None
    spacing = tuple(None if value is None else float(value) for value in given)
    good = all(v is None or (math.isfinite(v) and v > 0) for v in spacing)
    if len(spacing) != 3 or not good:
        raise ValueError(
            f"data.spacing_mm={list(given)}; it must be three positive millimetres along R, A, S "
            "(null keeps an axis as it is)"
        )
    return (spacing[0], spacing[1], spacing[2])
