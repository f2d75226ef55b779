"""A prediction on disk: labels, maps, and the sidecar that says what they were made of."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from medseg.data import spaces
from medseg.data.sheet import Record
from medseg.geometry.grid import Grid
from medseg.io import formats, healpix
from medseg.provenance import (
    hash_file,
    hash_value,
    read_json,
    writable,
    write_bytes,
    write_json,
    write_text,
)
from medseg.sample import Sample

Output = Num[np.ndarray, "..."] | str | bytes

_KEPT = ("case", "status", "error", "key", "outputs", "earlier")


@dataclass(frozen=True)
class Place:
    """Where the prediction of one case lies.

    `key` holds what the prediction is made of: inputs, models, options. `whats` names what a task
    makes: the first is `<case>` alone, others `<case>_<what>`; one with a suffix of its own
    (`points.csv`, `overlay.png`), which its file keeps, is text or bytes, the rest are arrays in
    the format of the case's domain.
    """

    folder: Path
    record: Record
    key: Mapping[str, Any]
    whats: Sequence[str]

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the labels; written last, so it stands for all of them."""
        return self.folder / f"{self.record.case}.json"

    def path(self, what: str) -> Path:
        """The file of one output; arrays have the suffix of the inputs' domain."""
        first = next(iter(self.record.paths.values()))
        suffix = "" if "." in what else formats.output_suffix(first)
        ending = Path(what).suffix if what == self.whats[0] else f"_{what}"
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
        if there.get("key") != self.digest or there.get("status") not in {"ok", "stale"}:
            return False
        files: dict[str, Any] = there.get("outputs") or {}
        return bool(files) and all(
            (self.folder / entry["path"]).is_file()
            and hash_file(self.folder / entry["path"]) == entry["sha256"]
            for entry in files.values()
        )

    def renew(self) -> None:
        """Call a stale prediction that is current after all by its right name."""
        there = self._there()
        if there.get("status") == "stale":
            whole = {"case": self.record.case, "status": "ok", **there["earlier"]}
            write_json(self.sidecar, {**whole, "key": there["key"], "outputs": there["outputs"]})

    def guard(self, *, overwrite: bool) -> None:
        """Refuse to write over an input, or (without `overwrite`) over what is not a prediction."""
        there = self._there()
        ours = {entry.get("path") for entry in there.get("outputs", {}).values()}
        for path in (self.sidecar, *map(self.path, self.whats)):
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
        self, made: Mapping[str, Output | None], sample: Sample, *, facts: Mapping[str, Any]
    ) -> None:
        """Write each output, whole, then the sidecar; outputs of an earlier call go.

        Where no sidecar lies yet a first one marks the files as ours, so that a run that is killed
        in between can be taken up again.
        """
        earlier = self._there().get("outputs", {})
        ready = {what: one for what, one in made.items() if one is not None}
        outputs = {what: {"path": self.path(what).name} for what in ready}
        content = {"case": self.record.case, "status": "ok", **facts, **self.key}
        content |= {"key": self.digest, "grid": spaces.told(sample.space), "outputs": outputs}
        fresh = not self.sidecar.exists()
        try:
            if fresh:
                write_json(self.sidecar, {**content, "status": "incomplete"})
            for what, one in ready.items():
                if isinstance(one, str):
                    write_text(self.path(what), one)
                elif isinstance(one, bytes):
                    write_bytes(self.path(what), one)
                else:
                    meta = _meta(sample, what, facts.get("targets", {}))
                    formats.write(self.path(what), one, grid=sample.space, meta=meta)
                outputs[what]["sha256"] = hash_file(self.path(what))
            write_json(self.sidecar, content)
        except BaseException:
            if fresh:
                done = [self.path(what) for what, entry in outputs.items() if "sha256" in entry]
                for path in (*done, self.sidecar):
                    path.unlink(missing_ok=True)
            raise
        for what, entry in earlier.items():
            known = what in self.whats and what not in outputs
            if known and entry["path"] == self.path(what).name:
                self.path(what).unlink(missing_ok=True)

    def _there(self) -> dict[str, Any]:
        return _read(self.sidecar)


def _meta(sample: Sample, what: str, targets: Mapping[str, str | None]) -> Mapping[str, Any]:
    """The facts that an output's file keeps; on the sphere only some have the map's unit.

    Predicted targets are columns of their own names, with their unit where all have one.
    """
    if isinstance(sample.space, Grid) or what in sample.meta.get("in_unit", ()):
        return sample.meta
    units = set(targets.values())
    return healpix.plain(sample.meta, *targets, unit=units.pop() if len(units) == 1 else None)


def _read(sidecar: Path) -> dict[str, Any]:
    """A sidecar's content; nothing where there is none that can be read."""
    try:
        content = read_json(sidecar)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def outdate(folder: Path, case: str, *, error: str) -> bool:
    """Mark an earlier prediction of a case that failed now as `stale`; its files stay as they are.

    What the sidecar said of it moves under `earlier`, so that nobody takes it for the new result.
    """
    sidecar = folder / f"{case}.json"
    there = _read(sidecar)
    if "key" not in there or there.get("status") not in {"ok", "stale"}:
        return False
    kept = {k: there[k] for k in ("key", "outputs") if k in there}
    earlier = there.get("earlier") or {k: v for k, v in there.items() if k not in _KEPT}
    text = f"the files are of an earlier call and the last one failed: {error}"
    marks = {"case": case, "status": "stale", "error": text}
    write_json(sidecar, {**marks, **kept, "earlier": earlier})
    return True


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[None]:
    """A folder to write into; it and the parents made for it go again if nothing comes of it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        writable(folder)
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def distinct(cases: Sequence[str], whats: Sequence[str]) -> None:
    """No case may bear the name of another one's second output."""
    for name in set(cases):
        for what in whats[1:]:
            if "." not in what and f"{name}_{what}" in cases:
                raise ValueError(
                    f"the files of case '{name}_{what}' would bear the names of outputs of case "
                    f"'{name}'; rename it, or predict the two into different folders"
                )
