"""Arms of one network side by side, on the same cases: what each costs, and what is shown of it.

Source: the question and its arms are those of Chatterjee et al. 2023, arXiv:2302.04584 (a complex
network, a real one, a real one with as many numbers). Differs: the controls of equal work and of
two channels, and the tests, which that paper's abstract does not tell.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import yaml

from medseg.metrics.paired import Paired, compare, holm, p_over_trainings, superiority
from medseg.report.charts import Dot, Span, spans
from medseg.report.comparison import SHARES
from medseg.report.runs import Run
from medseg.report.summary import mean_interval

View = Mapping[str, Any]

REFERENCE = "complex"
ORDER = ("real", "real_x2", "complex", "iso_flop", "two_channel")
ALPHA = 0.05
NOTHING = "\N{EN DASH}"
MEANING = {
    "real": "the same network with real weights; it sees the magnitude",
    "real_x2": "real, widened to twice the degrees of freedom; it sees the magnitude",
    "complex": "complex weights; it sees the complex image",
    "iso_flop": "real, widened to the work of complex; it sees the magnitude",
    "two_channel": "real; it sees the real and the imaginary part as two channels",
}
ALSO = ("balanced_accuracy", "macro_f1")
"""What is told of classes beside the share of cases that are right; it has no value of a case."""

_MACHINE = ("accelerator", "devices", "strategy", "workers", "threads", "restart")
_APART = re.compile(r"\+*(model\.arm|data\.folds?)=.*")


@dataclass(frozen=True)
class _Arm:
    """The runs of one arm: for each seed the score of each case, a mean where it ran twice."""

    name: str
    views: Sequence[View]
    seeds: Mapping[str, Mapping[str, float]]

    def cases(self) -> set[str]:
        """The cases that every seed scored."""
        return set.intersection(*(set(scores) for scores in self.seeds.values()))

    def means(self, cases: Iterable[str]) -> list[float]:
        """The mean of each case over seeds, which are no cases of their own."""
        return [fmean(scores[case] for scores in self.seeds.values()) for case in cases]

    def by_seed(self, cases: Sequence[str]) -> dict[str, float]:
        """The mean of each seed over cases."""
        if not cases:
            return {}
        return {seed: fmean(told[c] for c in cases) for seed, told in self.seeds.items()}


def section(views: Sequence[View]) -> dict[str, Any] | None:
    """What the template shows; None where no two runs differ in their arm alone.

    p is corrected by Holm over all comparisons of the page.
    """
    groups = [_group(arms) for arms in _gathered(views) if len(arms) > 1]
    rows = [row for group in groups for row in group["rows"] if not row["is_reference"]]
    for row, p in zip(rows, holm([row["p_both"] for row in rows]), strict=True):
        row["p"] = p
        row["verdict"] = 0 if row["paired"] is None else superiority(row["paired"], p, alpha=ALPHA)
    if not groups:
        return None
    for group in groups:
        _conclude(group)
    return {"groups": groups, "family": len(rows), "note": _note(groups), "meaning": MEANING}


def _gathered(views: Sequence[View]) -> list[list[_Arm]]:
    """The arms of every group of runs that differ in arm, seed and fold alone."""
    groups: dict[str, dict[str, list[View]]] = {}
    for view in views:
        name = (_network(view["run"]).get("arguments") or {}).get("arm")
        if name:
            groups.setdefault(repr(_key(view)), {}).setdefault(str(name), []).append(view)
    return [
        [_arm(name, arms[name]) for name in sorted(arms, key=_place)] for arms in groups.values()
    ]


def _network(run: Run) -> Mapping[str, Any]:
    return run.model.get("network") or {}


def _place(arm: str) -> tuple[int, str]:
    return ORDER.index(arm) if arm in ORDER else len(ORDER), arm


def _key(view: View) -> list[Any]:
    """All that sets a run apart but its arm, seed, fold and machine, as plain values.

    The recipe tells it; without one the overrides in the variant's name do.
    """
    run = view["run"]
    network, training = _network(run), run.model.get("training") or {}
    experiment = training.get("experiment") or run.experiment
    kind = [experiment, network.get("name"), (network.get("arguments") or {}).get("topology")]
    told = [training.get("data"), run.summary.get("split"), run.summary.get("tolerance_mm")]
    recipe = _recipe(run.recipe)
    return [*kind, *told, view["main"], recipe or _rest(run)]


def _recipe(text: str) -> dict[str, Any]:
    """A recipe without arm, seed, fold and machine; empty where there is none to read."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    if not isinstance(content, dict):
        return {}
    dropped = {"model": ("arm",), "data": ("fold", "folds"), "trainer": _MACHINE}
    return {
        name: {k: v for k, v in part.items() if k not in dropped.get(name, ())}
        if isinstance(part, dict)
        else part
        for name, part in content.items()
        if name != "seed"
    }


def _rest(run: Run) -> str:
    """The variant's overrides but arm and fold."""
    pieces = [p for p in run.variant.split(",") if p != "base" and not _APART.fullmatch(p)]
    return ", ".join(pieces)


def _arm(name: str, views: Sequence[View]) -> _Arm:
    scores: dict[str, dict[str, list[float]]] = {}
    for view in views:
        training = view["run"].model.get("training") or {}
        own = scores.setdefault(str(training.get("seed", view["run"].seed)), {})
        for case, value in view["means"].items():
            own.setdefault(case, []).append(value)
    ordered = sorted(scores, key=lambda seed: (len(seed), seed))
    means = {seed: {c: fmean(v) for c, v in scores[seed].items()} for seed in ordered}
    return _Arm(name, views, means)


def _group(arms: Sequence[_Arm]) -> dict[str, Any]:
    """One table: its arms as rows over the cases that all of them have under all their seeds."""
    cases = sorted(set.intersection(*(arm.cases() for arm in arms)))
    every = {case for arm in arms for scores in arm.seeds.values() for case in scores}
    views = [view for arm in arms for view in arm.views]
    subjects: dict[str, str] = {}
    for view in views:
        subjects |= view["summary"].get("subjects") or {}
    first, metric = views[0]["run"], views[0]["main"]
    reference = next((arm for arm in arms if arm.name == REFERENCE), arms[0])
    trainings = {arm.name: [*arm.by_seed(cases).values()] for arm in arms}
    rows = []
    for arm in arms:
        row = _row(arm, cases, subjects=subjects) | {"is_reference": arm is reference}
        if arm is not reference:
            pair = [reference.means(cases), arm.means(cases)]
            people = [subjects.get(case) or ("case", case) for case in cases]
            row |= _compared(pair, people, higher=metric in SHARES)
            ours, theirs = trainings[reference.name], trainings[arm.name]
            row["p_trainings"] = p_over_trainings(ours, theirs, every=[*trainings.values()])
            row |= {"p_both": _both(row), "ends": _ends(row)}
        rows.append(row)
    real = next((row["dof"] for row in rows if row["arm"] == "real"), None)
    return {
        "title": _title(first),
        "metric": metric,
        "reference": reference.name,
        "rows": [row | {"ratio": _ratio(row["dof"], real)} for row in rows],
        "n_cases": len(cases),
        "n_subjects": len({subjects[c] for c in cases}) if all(map(subjects.get, cases)) else None,
        "left_out": len(every) - len(cases),
        "data": str((first.model.get("training") or {}).get("data") or ""),
    }


def _title(run: Run) -> str:
    network = _network(run)
    topology = (network.get("arguments") or {}).get("topology")
    kind = " ".join(str(word) for word in (network.get("name"), topology) if word)
    return " · ".join(word for word in (run.experiment, kind, _rest(run)) if word)


def _row(arm: _Arm, cases: Sequence[str], *, subjects: Mapping[str, str]) -> dict[str, Any]:
    """An arm's mean over cases, its spread over seeds, and what it costs."""
    seeds = arm.by_seed(cases)
    told = mean_interval(arm.means(cases), cases, subjects=subjects) if cases else {}
    models = [view["run"].model for view in arm.views]
    seconds = [(model.get("training") or {}).get("seconds") for model in models]
    known = [float(value) for value in seconds if isinstance(value, int | float)]
    costs: list[Mapping[str, Any]] = [model.get("cost") or {} for model in models]
    wrong: Counter[str] = sum((view["wrong"] for view in arm.views), Counter())
    return {
        "arm": arm.name,
        "mean": told.get("mean"),
        "low": told.get("low"),
        "high": told.get("high"),
        "seeds": seeds,
        "n_seeds": len(arm.seeds),
        "sd": stdev(seeds.values()) if len(seeds) > 1 else None,
        "dof": next((cost["dof"] for cost in costs if "dof" in cost), None),
        "macs": next((cost["macs"] for cost in costs if "macs" in cost), None),
        "minutes": fmean(known) / 60 if known else None,
        "wrong": sum(wrong.values()),
        "also": _also(arm.views),
        "paired": None,
    }


def _also(views: Sequence[View]) -> dict[str, float]:
    """Numbers over all cases of a run, in the mean over runs."""
    told = [(view["summary"].get("classification") or {}).get("overall") or {} for view in views]
    known = {
        name: [
            float(one[name]["mean"])
            for one in told
            if (one.get(name) or {}).get("mean") is not None
        ]
        for name in ALSO
    }
    return {name: fmean(values) for name, values in known.items() if values}


def _compared(
    pair: Sequence[Sequence[float]], people: Sequence[Any], *, higher: bool
) -> dict[str, Any]:
    """The reference against an arm so that a positive difference is a gain; `sign` undoes it."""
    sign = 1.0 if higher else -1.0
    ours, theirs = ([sign * value for value in values] for values in pair)
    return {"paired": compare(ours, theirs, clusters=people) if people else None, "sign": sign}


def _both(row: Mapping[str, Any]) -> float:
    """The larger p of the test over cases and that over trainings: a claim has to pass both.

    1 where one of the two cannot be made.
    """
    paired: Paired | None = row["paired"]
    if paired is None or row["p_trainings"] is None:
        return 1.0
    return max(paired.p, float(row["p_trainings"]))


def _conclude(group: dict[str, Any]) -> None:
    """Say in words what the table shows, and draw it."""
    others = [row for row in group["rows"] if not row["is_reference"]]
    group["sentences"] = [
        {"verdict": row["verdict"], "text": _sentence(group["reference"], row)} for row in others
    ]
    group["sum"] = _sum({row["arm"]: row["verdict"] for row in others}, group["reference"])
    means = {
        row["arm"]: Span(
            row["mean"],
            row["low"],
            row["high"],
            [Dot(f"seed {s}", v) for s, v in row["seeds"].items()],
        )
        for row in group["rows"]
        if row["mean"] is not None
    }
    differences = {
        row["arm"]: Span(row["sign"] * found.mean, *row["ends"])
        for row in others
        if (found := row["paired"]) is not None
    }
    group["charts"] = [spans(means), spans(differences, zero=True)] if means else []


def _ends(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The difference's interval in the metric's own direction."""
    paired: Paired | None = row["paired"]
    low, high = (paired.low, paired.high) if paired else (None, None)
    if row["sign"] > 0 or low is None or high is None:
        return low, high
    return -high, -low


def _sentence(reference: str, row: Mapping[str, Any]) -> str:
    """A win only where it is shown, a loss as plainly as a win."""
    arm, paired = row["arm"], row["paired"]
    if paired is None:
        return f"Nothing can be said of {reference} and {arm}: no case was scored by every arm."
    low, high = row["ends"]
    span = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    numbers = f"{row['sign'] * paired.mean:+.3f}{span}, p {chance(row['p'])}"
    if row["verdict"]:
        word = "better" if row["verdict"] > 0 else "worse"
        return f"{reference} is {word} than {arm} ({numbers})."
    return f"No difference was shown between {reference} and {arm} ({numbers}){_why(row)}."


def _why(row: Mapping[str, Any]) -> str:
    """What stands against a difference that cases alone would suggest."""
    paired, trainings = row["paired"], row["p_trainings"]
    if paired.note:
        return f": {paired.note}"
    if trainings is None:
        return (
            f"; over cases alone p {chance(paired.p)}, but with one training an arm, chance in "
            "training is unknown"
        )
    if paired.p < ALPHA <= trainings:
        alone = f"; over cases alone p {chance(paired.p)}"
        return f"{alone}, but trainings of one arm differ about as much (p {chance(trainings)})"
    return "; not after the correction for many comparisons" if row["p_both"] < ALPHA else ""


def _sum(verdicts: Mapping[str, int], reference: str) -> str:
    """What the comparisons say together; empty where the reference is not `complex`."""
    if reference != REFERENCE or "real" not in verdicts:
        return ""
    if verdicts["real"] < 1:
        return "A gain of complex over real is not shown."
    controls = [arm for arm in verdicts if arm != "real"]
    level = [arm for arm in controls if verdicts[arm] < 1]
    missing = [arm for arm in ORDER if arm not in (reference, "real", *controls)]
    if level:
        gain = f"complex gains over real, but no gain is shown over {_listed(level)}"
        return f"{gain}: complex arithmetic is not shown to be what it comes from."
    lack = f"; {_listed(missing)} did not run" if missing else ""
    return f"complex gains over real and over every control that ran{lack}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def chance(p: float | None) -> str:
    """A p-value as text; a dash where the test could not be made."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _ratio(dof: int | None, real: int | None) -> float | None:
    return dof / real if dof and real else None


def count(value: float | None) -> str:
    """A large number with three digits and its prefix; a dash for nothing."""
    if value is None:
        return NOTHING
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:#.3g}".rstrip(".") + f" {prefix}"
    return f"{value:g}"


def _note(groups: Sequence[Mapping[str, Any]]) -> str:
    """How far the section's word reaches."""
    data = sorted({group["data"] for group in groups} - {""})
    cases = sorted({group["n_cases"] for group in groups})
    seeds = sorted({row["n_seeds"] for group in groups for row in group["rows"]})
    one = len(data) == 1
    where = f"One data set ({data[0]})" if one else f"Data: {', '.join(data) or 'unknown'}"
    return (
        f"{where}, {_range(cases)} scored case{'' if cases == [1] else 's'}, {_range(seeds)} "
        f"seed{'' if seeds == [1] else 's'} an arm: a word about these, not about all data. In the "
        "style of arXiv 2302.04584, not a reproduction of that paper."
    )


def _range(values: Sequence[int]) -> str:
    ends = sorted({values[0], values[-1]})
    return " to ".join(str(value) for value in ends)
