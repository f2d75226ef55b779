"""Which prepared cases a training learns from, and whether they are what its recipe asks for."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from medseg.data.prepared import Prepared, PreparedRecord
from medseg.data.table import folds
from medseg.provenance import plain

log = logging.getLogger(__name__)


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
    bare = [r.case for r in (*found["train"], *found["val"]) if r.label is None]
    if bare:
        raise ValueError(
            f"training and validation need labels; none for {', '.join(bare[:5])}"
            f"{' …' if len(bare) > 5 else ''}: fill the sheet's column `label` or empty their split"
        )
    if not found["val"]:
        log.warning("no validation case: the last weights are kept, whether they are best or not")
    return found


def mismatches(meta: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What prepared data and a recipe's data section disagree in; an open slice axis fits any."""
    found = []
    for name in ("channels", "labels", "instances", "spacing_mm", "intensity", "slice_axis"):
        asked = plain(wanted[name])
        if meta[name] != asked and not (name == "slice_axis" and asked is None):
            found.append(f"{name}: prepared {meta[name]}, recipe {asked}")
        elif name == "labels" and list(meta[name]) != list(asked):
            found.append(f"order of labels: prepared {list(meta[name])}, recipe {list(asked)}")
    old, new = meta.get("source") or {}, plain(wanted["source"])
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            was, asked = (part.get(key, "its default") for part in (old, new))
            found.append(f"source.{key}: prepared {was}, recipe {asked}")
    return found
