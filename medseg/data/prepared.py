"""Prepared data: what `medseg prepare` wrote, joined from its parts and mapped from disk.

A folder holds `prepared.json` (the recipe), `index/<i>-of-<n>.json` (a part a shard),
`samples.csv` (the raw files), and `cases/<case>-<key>/` with `image.npy`, `label.npy`, `case.json`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.spaces import restored
from medseg.provenance import hash_value, read_json
from medseg.sample import Sample

FORMAT = 1


@dataclass(frozen=True)
class PreparedRecord:
    """A prepared case: where its arrays lie and what is known without opening them.

    Attributes:
        folder: holds image.npy, label.npy (where there is a reference) and case.json.
        shape: voxels along R, A, S at the working spacing, or the pixels of a map of the sphere.
        spacing_mm: along the same axes; empty on the sphere.
        native: shape and affine of the raw volume (its `slices` only, if the sheet names some).
        sources: channel to path and sha256 of the raw file.
        label: path and sha256 of the raw reference, if there is one.
        landmarks: the same of the file of points.
        statistics: channel to the foreground's numbers before scaling.
        present: whether each channel was there or is filled with zeros.
        category: the index of the case's class, where cases are told apart by `classes`.
        foreground: structure to its count of voxels.
    """

    case: str
    subject: str
    split: str
    folder: Path
    key: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    slices: tuple[int, int] | None = None
    native: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    label: Mapping[str, str] | None = None
    landmarks: Mapping[str, str] | None = None
    statistics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    present: tuple[bool, ...] = ()
    foreground: Mapping[str, int] = field(default_factory=dict)
    category: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


class Prepared:
    """The cases of a prepared folder; images are mapped, not read, until a voxel is asked for."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path = self.folder / "prepared.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} is no prepared data: it has no prepared.json; make it with "
                f"`medseg prepare data=<name> --in <sheet> --out {self.folder}`"
            )
        self.meta: dict[str, Any] = read_json(path)
        if not isinstance(self.meta, dict) or self.meta.get("format") != FORMAT:
            raise ValueError(
                f"{path} is of another format than {FORMAT}; remove the folder and prepare it again"
            )
        self.channels: tuple[str, ...] = tuple(self.meta["channels"])
        self._records = self._join()

    @property
    def targets(self) -> tuple[str, ...]:
        """The channels that are to be predicted, the last ones; most data have none."""
        return tuple(self.meta.get("targets") or ())

    @property
    def inputs(self) -> tuple[str, ...]:
        """The channels that a network sees."""
        return tuple(name for name in self.channels if name not in self.targets)

    def _join(self) -> list[PreparedRecord]:
        rows: list[tuple[int, dict[str, Any]]] = []
        for path in index_parts(self.folder, missing="error"):
            part = read_json(path)
            if part["fingerprint"] != self.meta["fingerprint"]:
                name = path.stem.replace("-of-", "/")
                raise ValueError(
                    f"{path} was prepared by another recipe than {self.folder / 'prepared.json'}; "
                    f"run `medseg prepare` again with --shard {name}"
                )
            rows += [(int(row["place"]), row) for row in part["cases"]]
        rows.sort(key=lambda row: row[0])
        return [self._record(row) for _, row in rows]

    def _record(self, row: Mapping[str, Any]) -> PreparedRecord:
        known = {name: row[name] for name in PreparedRecord.__dataclass_fields__ if name in row}
        known["folder"] = self.folder / row["folder"]
        for name in ("shape", "spacing_mm", "slices", "present"):
            known[name] = None if row[name] is None else tuple(row[name])
        return PreparedRecord(**known)

    def _present(self, record: PreparedRecord) -> tuple[bool, ...]:
        """One truth a stored channel: complex channels are stored as two."""
        definition = self.meta.get("complex_input")
        if definition is None:
            return record.present
        return record.present[:: 2 if definition == "mag_phase" else 1] * 2

    @property
    def fingerprint(self) -> str:
        """Changes with the recipe and with any case's content, subject or split."""
        cases = [
            [r.case, r.subject, r.split, r.key, *([] if r.category is None else [r.category])]
            for r in self._records
        ]
        return hash_value([self.meta["fingerprint"], cases])

    def records(self) -> list[PreparedRecord]:
        """Every case of every part, in the sheet's order."""
        return list(self._records)

    def load(self, record: PreparedRecord, *, with_target: bool = True) -> Sample:
        """A case in its working grid: canonical axes, scaled values, class indices as target.

        Landmarks lie in pixels of the working square.
        """
        try:
            image = np.load(record.folder / "image.npy", mmap_mode="r")
            path = record.folder / "label.npy"
            target = np.load(path, mmap_mode="r") if with_target and path.exists() else None
            points = record.folder / "landmarks.npy"
            landmarks = np.load(points) if with_target and points.exists() else None
            about = read_json(record.folder / "case.json")
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"case {record.case} cannot be read from {record.folder} ({error}); remove that "
                "folder and run `medseg prepare` again"
            ) from error
        return Sample(
            id=record.case,
            image=image,
            space=restored(about, record.shape),
            channels=self.channels,
            target=target,
            landmarks=landmarks,
            category=record.category,
            subject=record.subject,
            split=record.split,
            sources={name: source["path"] for name, source in record.sources.items()},
            meta={
                "present": self._present(record),
                "native": dict(record.native),
                "units": about.get("units", {}),
            },
        )


def index_parts(folder: Path, *, missing: str = "skip") -> list[Path]:
    """Index files in shard order; with `missing="error"` every shard must have written its own."""
    found: dict[tuple[int, int], Path] = {}
    for path in (folder / "index").glob("*.json"):
        if match := re.fullmatch(r"(\d+)-of-(\d+)", path.stem):
            found[int(match[1]), int(match[2])] = path
    if missing == "error":
        counts = {count for _, count in found}
        if len(counts) > 1:
            raise ValueError(
                f"{folder / 'index'} mixes parts of {sorted(counts)} shards; run `medseg prepare` "
                "again with one number of shards"
            )
        count = counts.pop() if counts else 1
        lost = [f"{i}/{count}" for i in range(1, count + 1) if (i, count) not in found]
        if lost:
            raise FileNotFoundError(
                f"{folder} lacks the cases of shard {', '.join(lost)}; run `medseg prepare` again"
                + (f" with --shard {lost[0]}" if count > 1 else "")
            )
    return [found[key] for key in sorted(found)]
