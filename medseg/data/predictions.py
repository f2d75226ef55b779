"""A prediction on disk: labels, maps, and the sidecar that says what they were made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from medseg.data.sheet import Record
from medseg.geometry.grid import Grid
from medseg.io import formats
from medseg.provenance import hash_file, hash_value, read_json, write_json
from medseg.sample import Sample

LABELS = "labels"
MAPS = ("entropy", "probabilities")


@dataclass(frozen=True)
class Place:
    """Where the prediction of one case lies.

    `key` holds what the prediction is made of: inputs, models, options.
    """

    folder: Path
    record: Record
    key: Mapping[str, Any]

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the labels; written last, so it stands for all of them."""
        return self.folder / f"{self.record.case}.json"

    def path(self, what: str) -> Path:
        """The file of the labels or of a map, with the suffix of the inputs' domain."""
        suffix = formats.output_suffix(next(iter(self.record.paths.values())))
        ending = "" if what == LABELS else f"_{what}"
        return self.folder / f"{self.record.case}{ending}{suffix}"

    @property
    def digest(self) -> str:
        """Equal for predictions that would be equal; where the files lie does not count."""
        inputs = {name: entry["sha256"] for name, entry in self.key["inputs"].items()}
        models = self.key["model"]["sha256"]
        return hash_value({**self.key, "inputs": inputs, "model": models})

    def is_current(self) -> bool:
        """Whether the very files that would be made now are there, whole and unchanged."""
        there = self._there()
        if there.get("key") != self.digest or there.get("status") != "ok":
            return False
        files: dict[str, Any] = there.get("outputs") or {}
        return bool(files) and all(
            (self.folder / entry["path"]).is_file()
            and hash_file(self.folder / entry["path"]) == entry["sha256"]
            for entry in files.values()
        )

    def guard(self, *, overwrite: bool) -> None:
        """Refuse to write over an input, or (without `overwrite`) over what is not a prediction."""
        there = self._there()
        ours = {entry.get("path") for entry in there.get("outputs", {}).values()}
        for path in (self.sidecar, *map(self.path, (LABELS, *MAPS))):
            if not path.exists():
                continue
            if any(p.exists() and path.samefile(p) for p in self.record.paths.values()):
                raise ValueError(f"{path} is an input of the case; give another --out")
            known = "key" in there if path == self.sidecar else path.name in ours
            if not known and not overwrite:
                raise ValueError(
                    f"{path} is there already and no prediction of medseg; move it, give another "
                    "--out, or --overwrite"
                )

    def write(
        self,
        arrays: Mapping[str, Num[np.ndarray, "..."] | None],
        sample: Sample,
        facts: Mapping[str, Any],
    ) -> None:
        """Write labels and maps, each whole, then the sidecar; maps of an earlier call go.

        Where no sidecar lies yet a first one marks the files as ours, so that a run that is killed
        in between can be taken up again.
        """
        earlier = self._there().get("outputs", {})
        made = {what: array for what, array in arrays.items() if array is not None}
        outputs = {what: {"path": self.path(what).name} for what in made}
        content = {"case": self.record.case, "status": "ok", **facts, **self.key}
        content |= {"key": self.digest, "grid": _grid(sample.space), "outputs": outputs}
        fresh = not self.sidecar.exists()
        try:
            if fresh:
                write_json(self.sidecar, {**content, "status": "incomplete"})
            for what, array in made.items():
                formats.write(self.path(what), array, sample.space, sample.meta)
                outputs[what]["sha256"] = hash_file(self.path(what))
            write_json(self.sidecar, content)
        except BaseException:
            if fresh:
                done = [self.path(what) for what, entry in outputs.items() if "sha256" in entry]
                for path in (*done, self.sidecar):
                    path.unlink(missing_ok=True)
            raise
        for what, entry in earlier.items():
            if what in MAPS and what not in outputs and entry["path"] == self.path(what).name:
                self.path(what).unlink(missing_ok=True)

    def _there(self) -> dict[str, Any]:
        """The sidecar that lies there; nothing where there is none that can be read."""
        try:
            content = read_json(self.sidecar)
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _grid(grid: Grid) -> dict[str, Any]:
    """A grid as JSON values."""
    return {
        "shape": grid.shape,
        "affine": grid.affine,
        "spacing_mm": grid.spacing_mm,
        "axcodes": grid.axcodes,
    }


def distinct(cases: Sequence[str]) -> None:
    """No case may bear the name of another one's map."""
    for name in set(cases):
        for ending in MAPS:
            if f"{name}_{ending}" in cases:
                raise ValueError(
                    f"the files of case '{name}_{ending}' would bear the names of maps of case "
                    f"'{name}'; rename it, or predict the two into different folders"
                )
