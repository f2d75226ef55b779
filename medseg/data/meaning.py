"""Which values of a prediction and of its reference mean which structure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medseg.data.labels import parse
from medseg.data.perturbed import count_nodes
from medseg.data.shapes import PAIRS, Shapes
from medseg.data.sheet import Record
from medseg.geometry.contour import Contour, contours
from medseg.metrics.structures import Structure


def structures_of(
    sidecars: Mapping[str, Mapping[str, Any]],
    recipe: Mapping[str, Any],
    *,
    labels: Sequence[str],
    instances: Sequence[str],
) -> tuple[Structure, ...] | None:
    """What to score: as the sidecars say, else the command line, else the prepared recipe."""
    given = parse(labels)
    kinds = [s for s in sidecars.values() if isinstance(s.get("labels"), dict)]
    if kinds:
        first = kinds[0]
        odd = [s.get("case") for s in kinds if _meaning(s) != _meaning(first)]
        if odd:
            raise ValueError(
                "the predictions come from models of different labels (case "
                f"{first.get('case')} and case {odd[0]}); evaluate each model's folder apart"
            )
        return _of_sidecar(first, given, instances)
    named = given or {n: tuple(v) for n, v in dict(recipe.get("labels") or {}).items()}
    parts = instances or ([] if given else recipe.get("instances") or [])
    _known(parts, named, "--instances")
    structures = tuple(Structure(n, v, v, instances=n in parts) for n, v in named.items())
    return structures or None


def _meaning(sidecar: Mapping[str, Any]) -> tuple[Any, ...]:
    return sidecar.get("labels"), sidecar.get("sources"), sidecar.get("instances")


def _of_sidecar(
    sidecar: Mapping[str, Any], given: Mapping[str, tuple[int, ...]], parts: Sequence[str]
) -> tuple[Structure, ...]:
    indices: dict[str, int] = sidecar["labels"]
    sources = {**(sidecar.get("sources") or {}), **given}
    instances = [*(sidecar.get("instances") or []), *parts]
    _known(given, indices, "--labels")
    _known(parts, indices, "--instances")
    return tuple(
        Structure(name, (int(index),), tuple(sources.get(name, (index,))), name in instances)
        for name, index in indices.items()
    )


def _known(names: Sequence[str] | Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"{what} names '{name}'; the structures are: {there}")


def shapes_of(
    records: Sequence[Record],
    sidecars: Mapping[str, Mapping[str, Any]],
    *,
    recipe: Mapping[str, Any],
    organs: Sequence[str],
    labels: Sequence[str],
    spacing_mm: str,
    pixels: bool,
) -> Shapes | None:
    """What contours to score, if anything says that it is contours: the reference, then predict.

    Args:
        records: of the reference.
        sidecars: what predict wrote, by case.
        recipe: of prepared data, where the reference is that.
        organs: words such as `heart=26`.
        labels: words such as `heart=3`, values of the reference's label images.
        spacing_mm: of images of which nothing is known.
        pixels: all predictions are label maps.
    """
    given, models = _organs(organs), [s for s in sidecars.values() if _organs_said(s) is not None]
    said = any(record.landmarks for record in records) or recipe.get("organs") or given
    drawn = any(s.get("task") == "landmarks" or s.get("encoding") == "flags" for s in models)
    if not said and not drawn:
        return None
    for other in models[1:]:
        if _organs_said(other) != _organs_said(models[0]):
            raise ValueError(
                "the predictions come from models of different labels (case "
                f"{models[0].get('case')} and case {other.get('case')}); evaluate each model's "
                "folder apart"
            )
    model = models[0] if models else {}
    reference = _reference(records, given or recipe.get("organs") or {}, model.get("organs") or {})
    values = dict(parse(labels))
    _known(values, {contour.name: 0 for contour in reference}, "--labels")
    predicted = contours(model["organs"], least=1) if model.get("organs") else reference
    known = {contour.name for contour in reference}
    shapes = Shapes(
        reference,
        predicted,
        numbered=model.get("learn") != "masks",
        given=values,
        spacing_mm=spacing_mm,
        stray=tuple(contour.name for contour in predicted if contour.name not in known),
    )
    if not model.get("organs") and (pixels or model):
        shapes = _of_pixels(shapes, model)
    if not shapes.scored:
        raise ValueError(
            f"the predictions hold {', '.join(shapes.stray)}, the reference's organs are "
            f"{', '.join(sorted(known))}: no name is in both"
        )
    return shapes


def _of_pixels(shapes: Shapes, model: Mapping[str, Any]) -> Shapes:
    """The values of a label map: as its sidecar says, else numbered in the organs' order."""
    closed = [contour.name for contour in shapes.reference if contour.closed]
    pairs = [name for name, organs in PAIRS.items() if set(organs) <= set(closed)]
    labels = model.get("labels") or {name: n for n, name in enumerate(closed, start=1)}
    return replace(
        shapes,
        values={n: int(v) for n, v in labels.items() if n in {*closed, *pairs}},
        bits=model.get("encoding") == "flags",
        highest=max(map(int, labels.values()), default=0),
        stray=tuple(name for name in labels if name not in {*closed, *pairs}),
        predicted=(),
    )


def _organs_said(sidecar: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What a sidecar says of its organs or labels; None if it says nothing."""
    found = sidecar.get("organs"), sidecar.get("labels"), sidecar.get("encoding")
    return (*found, sidecar.get("learn")) if found[0] or found[1] else None


def _organs(words: Sequence[str]) -> dict[str, Any]:
    """Organs from a command line's words such as `right_lung=44,left_lung=50` or `rib=9:open`."""
    found: dict[str, Any] = {}
    for word in ",".join(words).split(",") if words else ():
        name, _, count = word.strip().partition("=")
        nodes, _, kind = count.partition(":")
        if not name or not nodes.isdecimal() or kind not in {"", "open", "closed"}:
            raise ValueError(
                f"--organs: '{word}' is no organ; write name=nodes, e.g. right_lung=44,heart=26, "
                "or name=nodes:open for a contour that is a line"
            )
        found[name] = {"nodes": int(nodes), "closed": kind != "open"}
    return found


def _reference(
    records: Sequence[Record], said: Mapping[str, Any], model: Mapping[str, Any]
) -> tuple[Contour, ...]:
    """The reference's contours: as they are said, else as its files of points name them."""
    if said:
        return contours(said, least=1)
    found: dict[str, Any] = dict(model)
    for record in records:
        path = record.landmarks
        if path is not None and path.suffix.lower() != ".npy" and path.is_file():
            for name, nodes in count_nodes(path).items():
                closed = contours({name: found[name]}, least=1)[0].closed if name in found else True
                found[name] = {"nodes": nodes, "closed": closed}
    if not found:
        raise ValueError(
            "nothing says which organs the reference holds; give --organs name=nodes, e.g. "
            "right_lung=44,left_lung=50,heart=26"
        )
    return contours(found, least=1)
