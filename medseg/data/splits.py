"""Which prepared cases a training learns from, and whether they are what its recipe asks for."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from medseg.data.folds import folds
from medseg.data.prepared import Prepared, PreparedRecord
from medseg.provenance import plain

log = logging.getLogger(__name__)


MASK = "mask"  # the channel that says what is seen of a sky; cases may share it
_SAME = (
    *("channels", "targets", "labels", "instances", "organs", "classes", "size"),
    *("complex_input", "reading"),
    *("spacing_mm", "intensity", "slice_axis", "nside", "footprint"),
)


def split(prepared: Prepared, n_folds: int, *, fold: int) -> dict[str, list[PreparedRecord]]:
    """The cases by train, val, test and "" (none); folds stand in for the sheet's own split."""
    records = folds(prepared.records(), n_folds, fold=fold)
    found: dict[str, list[PreparedRecord]] = {"train": [], "val": [], "test": [], "": []}
    for record in records:
        found[record.split].append(record)
    if not found["train"]:
        count = Counter(r.split or "no split" for r in records)
        raise ValueError(
            f"{prepared.folder} has no training case ({dict(count)}); fill the sheet's column "
            "`split` with train, val or test, or make folds: data.folds=5 data.fold=0"
        )
    named = bool(prepared.meta.get("classes"))
    bare = [r.case for r in (*found["train"], *found["val"]) if not _taught(r, named=named)]
    if bare and not of_maps(prepared.meta):
        column, many = ("class", "classes") if named else ("label", "labels")
        raise ValueError(
            f"training and validation need {many}; none for {', '.join(bare[:5])}"
            f"{' …' if len(bare) > 5 else ''}: fill the sheet's column `{column}` or empty their "
            "split"
        )
    if not found["val"]:
        log.warning("no validation case: the last weights are kept, whether they are best or not")
    return found


def of_maps(meta: Mapping[str, Any]) -> bool:
    """Whether prepared data are maps of the sphere that are themselves what is to be learnt."""
    return bool(meta.get("nside")) and not (meta.get("labels") or meta.get("classes"))


def _taught(record: PreparedRecord, *, named: bool) -> bool:
    """Whether a case has what is to be learnt: its class, or a label or landmarks."""
    if named:
        return record.category is not None
    return record.label is not None or record.landmarks is not None


def shared(splits: Mapping[str, Sequence[PreparedRecord]]) -> list[str]:
    """Subjects and images that stand in training and in validation, in words.

    Cases that the sheet cuts from one volume by `slices` without overlap are meant so.
    """
    sides = {"train": splits["train"], "val": splits["val"]}
    groups: dict[tuple[str, str], list[tuple[str, PreparedRecord]]] = {}
    for side, records in sides.items():
        for record in records:
            own = {name: s for name, s in record.sources.items() if name != MASK}
            marks = {("image", str(s.get("sha256", ""))) for s in own.values()}
            for kind, name in sorted({("subject", record.subject), *marks}):
                if name:
                    groups.setdefault((kind, name), []).append((side, record))
    told: dict[frozenset[str], str] = {}
    for (kind, name), members in sorted(groups.items(), key=lambda item: item[0][0] == "image"):
        cases = [record.case for _, record in members]
        if len({side for side, _ in members}) > 1 and not _cut(r for _, r in members):
            label = f"subject {name}" if kind == "subject" else "the same image"
            some = f"{', '.join(cases[:5])}{' …' if len(cases) > 5 else ''}"
            text = f"{label} stands in training and in validation ({some}): its Dice is too good"
            told.setdefault(frozenset(cases), text)
    return list(told.values())


def _cut(records: Iterable[PreparedRecord]) -> bool:
    """Whether these are slices of one volume that do not overlap."""
    known = list(records)
    spans = sorted(r.slices for r in known if r.slices is not None)
    volumes = {str(sorted(s.get("sha256", "") for s in r.sources.values())) for r in known}
    apart = all(a[1] <= b[0] for a, b in pairwise(spans))
    return len(spans) == len(known) and len(volumes) == 1 and apart


def mismatches(meta: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What prepared data and a recipe disagree in; an open slice axis or nside fits any."""
    found = []
    for name in _SAME:
        asked = plain(wanted[name])
        if (meta.get(name) or None) != (asked or None) and not (
            name in ("slice_axis", "nside") and asked is None
        ):
            found.append(f"{name}: prepared {meta.get(name)}, recipe {asked}")
        elif name == "labels" and list(meta[name]) != list(asked):
            found.append(f"order of labels: prepared {list(meta[name])}, recipe {list(asked)}")
    old, new = meta.get("source") or {}, plain(wanted["source"])
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            was, asked = (part.get(key, "its default") for part in (old, new))
            found.append(f"source.{key}: prepared {was}, recipe {asked}")
    return found
