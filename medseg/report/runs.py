"""Everything that lies beside a scores.csv: summary, curves, pictures, recipe, model card."""

import base64
import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.provenance import read_json
from medseg.report import robustness, skies
from medseg.report.scores import Row, parts, read_rows
from medseg.report.summary import judged, summarise

Curve = list[tuple[float, float]]
_JOINED = ("leaks", "failures", "pictures", "warnings")


@dataclass(frozen=True)
class Run:
    """One evaluated set of predictions.

    Attributes:
        experiment: what was run; the folder's name where nothing else says.
        variant: the overrides that were given; empty where unknown.
        seed: of the training; empty where unknown.
        metrics: the score columns.
        rows: the scores of all shards.
        summary: means and counts of these rows, and the facts that evaluate wrote.
        curves: a column of metrics.csv to its (epoch, value) points.
        pictures: case, role, dice, and the picture as a data URI.
        recipe: the resolved recipe's text.
        model: the model card, without its network.
        perturbed: scores of disturbed images, of all shards.
    """

    folder: Path
    experiment: str
    variant: str
    seed: str
    metrics: tuple[str, ...]
    rows: list[Row]
    summary: Mapping[str, Any]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    pictures: Sequence[Mapping[str, Any]] = ()
    recipe: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    perturbed: Sequence[Row] = ()

    @property
    def name(self) -> str:
        """How the run is called on the page; the base variant and an unknown seed are not said."""
        bits = [self.experiment, "" if self.variant == "base" else self.variant]
        bits.append(f"seed {self.seed}" if self.seed else "")
        return " · ".join(bit for bit in bits if bit)


def find(paths: Iterable[Path]) -> list[Run]:
    """The runs of score files and of folders that hold some at any depth, each once."""
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted({p.parent for p in path.rglob("scores*.csv") if _is_scores(p)})
            if not inside:
                raise FileNotFoundError(f"{path} holds no scores.csv; run medseg evaluate first")
            folders |= {folder: parts(folder) for folder in inside}
        elif not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give a scores.csv or a folder of them")
        elif _is_scores(path):
            folders[path.parent] = parts(path.parent)
        else:
            folders[path] = [path]
    return [load(folder, files) for folder, files in folders.items()]


def _is_scores(path: Path) -> bool:
    return path.name == "scores.csv" or (path.name.startswith("scores.") and "-of-" in path.name)


def load(folder: Path, files: Sequence[Path]) -> Run:
    """Join the score files of one run and read what lies beside them."""
    metrics, rows = _rows(files)
    home = folder if folder.is_dir() else folder.parent
    summary = _joined(_told(files))
    summary |= summarise(rows, metrics, **judged(summary))
    origin = _origin(home, summary, files[0])
    card = origin / "model" / "model.json"
    model = read_json(card) if card.is_file() else {}
    experiment, variant, seed = _names(home, model if origin == home else {})
    recipe = origin / "recipe.yaml"
    return Run(
        folder=home,
        experiment=experiment if folder.is_dir() else folder.stem,
        variant=variant,
        seed=seed,
        metrics=metrics,
        rows=rows,
        summary=summary,
        curves=read_curves(origin / "metrics.csv"),
        pictures=_pictures(home, summary),
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        model=model if isinstance(model, dict) else {},
        perturbed=[row for file in files for row in _perturbed(file)],
    )


def _origin(home: Path, summary: Mapping[str, Any], scores: Path) -> Path:
    """The run's folder: where the scores lie, or where they say that their model is.

    A model that is younger than the scores is another one.
    """
    told = (summary.get("model") or {}).get("path")
    card = Path(told or ".") / "model.json"
    if (home / "model").is_dir() or not told or Path(told).name != "model" or not card.is_file():
        return home
    return home if card.stat().st_mtime > scores.stat().st_mtime else card.parents[1]


def _perturbed(file: Path) -> list[Row]:
    path = _beside(file, "robustness").with_suffix(".csv")
    return robustness.read(path) if path != file and path.is_file() else []


def _beside(file: Path, name: str) -> Path:
    """The file of another kind that belongs to a score file."""
    return file.with_name(file.name.replace("scores", name, 1))


def _rows(files: Sequence[Path]) -> tuple[tuple[str, ...], list[Row]]:
    rows: list[Row] = []
    metrics: tuple[str, ...] = ()
    owner: dict[str, Path] = {}
    for file in files:
        found, part = read_rows(file)
        if metrics and found != metrics:
            raise ValueError(f"{file} has other columns than {files[0]}; evaluate them again")
        for case in {row["case"] for row in part}:
            if case in owner:
                raise ValueError(f"case {case} is scored in {owner[case]} and in {file}")
            owner[case] = file
        metrics = found
        rows += part
    return metrics, rows


def _told(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The summaries that belong to score files, as far as they are there."""
    found = []
    for file in files:
        path = _beside(file, "summary").with_suffix(".json")
        if path != file and path.is_file():
            content = read_json(path)
            if isinstance(content, dict):
                found.append(content)
    return found


def _joined(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One summary of all shards: facts of the first, lists put together."""
    if not told:
        return {}
    out = dict(told[0])
    for key in _JOINED:
        every = [entry for one in told for entry in one.get(key) or []]
        out[key] = [entry for n, entry in enumerate(every) if entry not in every[:n]]
    for key in ("subjects", "instances", "quality", "organs"):
        out[key] = {k: v for one in told for k, v in (one.get(key) or {}).items()}
    if "spectra" in out:
        out["spectra"] = skies.joined(entry for one in told for entry in one.get("spectra") or ())
    return out


def _names(home: Path, model: Mapping[str, Any]) -> tuple[str, str, str]:
    """Experiment, variant and seed from the folders of a study, else from the model card."""
    names = home.resolve().parts
    if "runs" in names[:-3] and names[-4] == "runs":
        return names[-3], names[-2], names[-1]
    training = model.get("training") or {} if isinstance(model, Mapping) else {}
    if training.get("experiment"):
        seed = str(training.get("seed", ""))
        swept = names[-2] if len(names) > 2 and names[-1] == seed else ""  # a sweep's own folders
        return str(training["experiment"]), swept, seed
    return names[-1], "", ""


def read_curves(path: Path) -> dict[str, Curve]:
    """Columns of a training log against the epoch, a mean where an epoch has several values.

    A log that cannot be read gives no curves: the page is about scores.
    """
    if not path.is_file():
        return {}
    groups: dict[str, dict[float, list[float]]] = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream)):
            epoch = _value(row.get("epoch"))
            at = float(number) if epoch is None else epoch
            for column, cell in row.items():
                value = _value(cell)
                if value is not None and column not in {"epoch", "step", None}:
                    groups.setdefault(column, {}).setdefault(at, []).append(value)
    return {
        column: [(at, sum(v) / len(v)) for at, v in sorted(points.items())]
        for column, points in groups.items()
    }


def _value(cell: object) -> float | None:
    try:
        value = float(str(cell))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _pictures(home: Path, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pictures that evaluate named, else every one in the folder, as data URIs."""
    named = summary.get("pictures")
    if named is None:
        files = sorted((home / "pictures").glob("*.png"))
        named = [
            {"case": f.stem, "role": "", "dice": None, "file": f"pictures/{f.name}"} for f in files
        ]
    found = []
    for entry in named:
        path = home / str(entry.get("file", ""))
        inside = path.resolve().is_relative_to(home.resolve())
        if inside and path.is_file() and path.suffix == ".png":
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            found.append({**entry, "uri": f"data:image/png;base64,{data}"})
    return found
