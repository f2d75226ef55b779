"""Runs that belong together: the folds of a cross-validation, and the seeds of one recipe."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from medseg.report.runs import Run
from medseg.report.summary import judged, summarise

_OVERRIDE = re.compile(r"\+*data\.(folds?)=(\d+)")
_LINE = re.compile(r" +(folds?): *(\d+)\s*")
_HASH = re.compile(r"-[0-9a-f]{12}$")
_MACHINE = re.compile(r" +(accelerator|devices|strategy|workers|threads|restart):")


@dataclass(frozen=True)
class Pool:
    """Runs of one experiment and variant that differ in fold or seed alone.

    Attributes:
        run: all members' rows as one run; a case scored under several seeds has several rows,
            so that its mean is the mean over seeds.
        members: the runs themselves.
        seeds: one run a seed, of those seeds that scored every case.
        n_seeds: how many seeds there are, complete or not.
    """

    run: Run
    members: Sequence[Run]
    seeds: Sequence[Run]
    n_seeds: int


@dataclass(frozen=True)
class _Place:
    """Where a run stands in a study: its fold of how many, and what else sets it apart."""

    fold: int | None
    folds: int
    variant: str
    key: tuple[object, ...]


def pools(runs: Sequence[Run]) -> list[Pool]:
    """Every pool of two runs or more, in the order of their first runs.

    Folds are pooled where their cases are disjoint, seeds where they scored the same cases;
    other runs stay alone.
    """
    together: dict[tuple[object, ...], list[tuple[_Place, Run]]] = {}
    for run in runs:
        place = _place(run)
        together.setdefault(place.key, []).append((place, run))
    return [pool for members in together.values() for pool in _pools_of(members)]


def _pools_of(members: Sequence[tuple[_Place, Run]]) -> list[Pool]:
    """All folds as one pool, else the seeds of each fold."""
    folds: dict[int | None, list[tuple[_Place, Run]]] = {}
    for place, run in members:
        folds.setdefault(place.fold, []).append((place, run))
    cases = {fold: _cases(runs[0][1]) for fold, runs in folds.items()}
    apart = all(one.isdisjoint(other) for one, other in combinations(cases.values(), 2))
    sound = all(_repeats([run for _, run in runs]) for runs in folds.values())
    if sound and apart and None not in folds and len(folds) > 1:
        return [_pool(members, of_folds=len(folds))]
    alike = [runs for runs in folds.values() if len(runs) > 1]
    return [_pool(runs, of_folds=0) for runs in alike if _repeats([run for _, run in runs])]


def _repeats(runs: Sequence[Run]) -> bool:
    """Whether these are seeds of the same cases, each once; true of a single run."""
    if len(runs) == 1:
        return True
    seeds = Counter(run.seed for run in runs)
    return (
        "" not in seeds
        and max(seeds.values()) == 1
        and len({frozenset(_cases(run)) for run in runs}) == 1
    )


def _pool(members: Sequence[tuple[_Place, Run]], *, of_folds: int) -> Pool:
    place = members[0][0]
    runs = [run for _, run in members]
    by_seed: dict[str, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    bits = ["" if place.variant == "base" else place.variant]
    if of_folds:
        lost = f" of {place.folds}" if of_folds < place.folds else ""
        bits.append(f"{of_folds}{lost} folds")
    elif place.fold is not None:
        bits.append(f"fold {place.fold} of {place.folds}")
    bits.append(f"{len(by_seed)} seeds" if len(by_seed) > 1 else "")
    name = " · ".join(bit for bit in bits if bit)
    whole = {case for run in runs for case in _cases(run)}
    complete = [g for g in by_seed.values() if {c for r in g for c in _cases(r)} == whole]
    return Pool(
        run=_joined(runs, name),
        members=runs,
        seeds=[g[0] if len(g) == 1 else _joined(g, name) for g in complete],
        n_seeds=len(by_seed),
    )


def _joined(runs: Sequence[Run], variant: str) -> Run:
    """One run with the rows of all; what belongs to a single training is left out."""
    rows = [row for run in runs for row in run.rows]
    known = [run.summary["subjects"] for run in runs if "subjects" in run.summary]
    subjects = {case: person for told in known for case, person in told.items()}
    instances: dict[str, list[str]] = {}
    for run in runs:
        for whole, parts in (run.summary.get("instances") or {}).items():
            instances[whole] = list(dict.fromkeys([*instances.get(whole, []), *parts]))
    facts = ("tolerance_mm", "split", "definitions", "task", "organs")
    told: dict[str, Any] = {key: runs[0].summary.get(key) for key in facts}
    told |= {"instances": instances} | ({"subjects": subjects} if known else {})
    of_runs = [run.summary for run in runs]
    told["aside"] = list(dict.fromkeys(n for one in of_runs for n in one.get("aside") or ()))
    told["quality"] = _qualities(of_runs)
    told |= summarise(rows, runs[0].metrics, **judged(told))
    return replace(
        runs[0], variant=variant, seed="", rows=rows, summary=told,
        curves={}, pictures=(), recipe="", model={},
        perturbed=[row for run in runs for row in run.perturbed],
    )  # fmt: skip


def _qualities(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What was said of each image; one that any model rejects is rejected."""
    found: dict[str, Mapping[str, Any]] = {}
    for told in summaries:
        for case, quality in (told.get("quality") or {}).items():
            if found.get(case, {}).get("accepted") is not False:
                found[case] = quality
    return found


def _cases(run: Run) -> set[str]:
    return {str(row["case"]) for row in run.rows}


def _place(run: Run) -> _Place:
    """The fold as the recipe tells it, else as the variant's text does.

    A variant whose long text ends in a hash is known by its recipe; without one it stays alone.
    """
    pieces = run.variant.split(",")
    matches = [_OVERRIDE.fullmatch(piece) for piece in pieces]
    said = {m[1]: int(m[2]) for m in matches if m}
    rest = ",".join(p for p, m in zip(pieces, matches, strict=True) if not m) or "base"
    core = ""
    if run.recipe:
        inside, core = _recipe(run.recipe)
        said |= inside
    hashed = bool(_HASH.search(rest))
    shown = _HASH.sub("…", rest) if hashed else rest
    same = "" if hashed and core else rest
    told = run.summary.get("tolerance_mm")
    return _Place(
        fold=said.get("fold", 0) if said.get("folds") else None,
        folds=said.get("folds", 0),
        variant=shown,
        key=(run.experiment, same, said.get("folds", 0), core, run.metrics, told),
    )


def _recipe(text: str) -> tuple[Mapping[str, int], str]:
    """Folds of the data section, and the recipe without them, its seed and its machine."""
    said: dict[str, int] = {}
    kept = []
    section = ""
    for line in text.splitlines():
        if line[:1].strip() and not line.startswith("- "):
            section = line.partition(":")[0]
        match = _LINE.fullmatch(line) if section == "data" else None
        if match:
            said[match[1]] = int(match[2])
        elif section != "seed" and not (section == "trainer" and _MACHINE.match(line)):
            kept.append(line)
    return said, "\n".join(kept)
