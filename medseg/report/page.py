"""The page itself: runs in, one self-contained HTML text out."""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import stdev
from typing import Any

from medseg.provenance import versions
from medseg.report import arms, classes, regression, robustness, skies
from medseg.report.charts import Dot, curves, interval, strips
from medseg.report.comparison import SHARES, columns, goodness, tables
from medseg.report.pools import Pool, pools
from medseg.report.runs import Run
from medseg.report.summary import DEFINITIONS, case_means

BAD = ("failed", "missed", "spurious")
MOST_ROWS = 2000
MOST_LANES = 24
MOST_FAILURES = 400
MANY = 12
TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95",
    "assd_mm": "ASSD",
    "nsd": "NSD",
    "volume_ml": "Volume",
    "volume_error_ml": "Volume error",
    "distance_mm": "Centre distance",
    "hd_mm": "HD",
    "mse_px2": "MSE",
    "components": "Pieces",
    "self_intersections": "Crossings",
    **classes.TITLES,
    **skies.TITLES,
}
UNITS = {"_mm": "mm", "_px2": "px²", "_ml": "ml", "_uK": "µK", "_deg": "°", "_s": "s"}
DRAWN = ("dice", "nsd", "hd95_mm", "hd_mm", "assd_mm", "mse_px2", "probability", "nrmse", "ssim")
NOTHING = "\N{EN DASH}"
SEVERITY = {"failed": 0, "missed": 1, "spurious": 2, "ok": 3, "absent": 4}


def render(runs: Sequence[Run], *, title: str) -> str:
    """The page; every text from a file is escaped, and nothing is loaded from elsewhere."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("medseg.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (number, percent, found, label, unit, arms.count, arms.chance)
    environment.filters |= {function.__name__: function for function in filters}
    views = [_view(run, f"run-{place}") for place, run in enumerate(runs)]
    entries = _entries(views)
    pooled = any(entry["members"] for entry in entries)
    return environment.get_template("page.html.j2").render(
        title=title,
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=versions(("medseg",)).get("medseg", ""),
        views=views,
        entries=entries,
        shelves=_shelves(entries),
        groups=[table | {"columns": columns(table)} for table in tables(entries)],
        singles=[t | {"columns": columns(t)} for t in tables(views)] if pooled else [],
        robustness=robustness.charts(robustness.alike({e["name"]: e["run"] for e in entries})),
        arms=arms.section(views),
        skies=skies.section(views),
        many=MANY,
        failures=_failures(runs),
        most_failures=MOST_FAILURES,
        notes=_notes(runs, [entry["run"] for entry in entries]),
        contours=any(run.summary.get("task") == "landmarks" for run in runs),
        n_cases=len({row["case"] for run in runs for row in run.rows}),
        definitions=_definitions(runs),
        tolerances=sorted({f"{t:g}" for r in runs if (t := r.summary.get("tolerance_mm"))}),
    )


def label(metric: str) -> str:
    """A metric's name as people write it, without its unit."""
    if metric in TITLES:
        return TITLES[metric]
    suffix = next((s for s in UNITS if metric.endswith(s)), "")
    return metric.removesuffix(suffix).replace("_", " ").capitalize()


def unit(metric: str) -> str:
    """A metric's unit, read off its name."""
    return next((u for suffix, u in UNITS.items() if metric.endswith(suffix)), "")


def number(value: object, metric: str = "") -> str:
    """Three digits after the point for shares, two for the rest; a dash for nothing."""
    if not isinstance(value, int | float):
        return NOTHING
    if metric in (*SHARES, *skies.FINE, *regression.FINE, ""):
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: object) -> str:
    """A share in whole per cent; 100 % only where it is all."""
    if not isinstance(value, int | float):
        return NOTHING
    return f"{_hundredths(value)} %"


def found(rates: Mapping[str, float] | None) -> str:
    """Detection rates at 2, 4 and 6 mm in one cell."""
    if not rates:
        return NOTHING
    return " / ".join(str(_hundredths(rates[t])) for t in ("2", "4", "6")) + " %"


def _hundredths(value: float) -> int:
    return int(value * 100) if value in (0, 1) else round(min(max(value * 100, 1), 99))


def _view(run: Run, anchor: str) -> dict[str, Any]:
    """What the template shows of one run."""
    parts = _parts(run)
    rows = sorted(run.rows, key=_worst_first)
    structures: Mapping[str, Mapping[str, Any]] = run.summary["structures"]
    wholes = _wholes(run)
    qualities: Mapping[str, Mapping[str, Any]] = run.summary.get("quality") or {}
    known = {
        "run": run,
        "anchor": anchor,
        "name": run.name,
        "summary": run.summary,
        "headline": _headline(run, wholes),
        "wrong": Counter(failure["status"] for failure in _failures([run])),
        "wholes": wholes,
        "structures": structures,
        "metrics": [m for m in run.metrics if any(m in s["metrics"] for s in structures.values())],
        "strips": _strips(run, parts),
        "curves": _panels(run),
        "rows": rows[:MOST_ROWS],
        "n_rows": len(rows),
        "facts": _facts(run),
        "pooled": {m: _pooled(run, m, parts) for m in run.metrics},
        "main": _main(run),
        "means": case_means([r for r in run.rows if r["structure"] not in parts], _main(run)),
        "robustness": robustness.means(run.perturbed, run.summary.get("subjects") or {}),
        "rejected": _rejected(run),
        "judged": sum(q.get("accepted") is not None for q in qualities.values()),
        "members": [],
        "sd": None,
    }
    return skies.view(classes.view(known))


def _parts(run: Run) -> set[str]:
    """Structures that a case's mean leaves out: instances, organs of a pair, totals."""
    instances: Mapping[str, Sequence[str]] = run.summary.get("instances") or {}
    return {p for names in instances.values() for p in names} | {*(run.summary.get("aside") or ())}


def _rejected(run: Run) -> list[dict[str, str]]:
    """The images that predict did not trust, and why."""
    qualities: Mapping[str, Mapping[str, Any]] = run.summary.get("quality") or {}
    return [
        {"case": case, "why": "; ".join(str(reason) for reason in told.get("reasons") or ())}
        for case, told in qualities.items()
        if told.get("accepted") is False
    ]


def _entries(views: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pools and the runs that belong to none, in the order of the runs."""
    owner: dict[int, dict[str, Any]] = {}
    for number, pool in enumerate(pools([view["run"] for view in views])):
        inside = {id(run) for run in pool.members}
        members = [view for view in views if id(view["run"]) in inside]
        entry = _pool_view(pool, members, f"pool-{number}")
        owner |= dict.fromkeys(inside, entry)
    every = [owner.get(id(view["run"]), view) for view in views]
    return list({entry["anchor"]: entry for entry in every}.values())


def _pool_view(pool: Pool, members: Sequence[dict[str, Any]], anchor: str) -> dict[str, Any]:
    """A pool as a view: its runs' problems are added up, its seeds' means have a spread."""
    view = _view(pool.run, anchor)
    means = [_headline(run, _wholes(run))["mean"] for run in pool.seeds]
    known = [mean for mean in means if mean is not None]
    wrong: Counter[str] = sum((member["wrong"] for member in members), Counter())
    return view | {
        "members": members,
        "wrong": wrong,
        "sd": stdev(known) if len(known) > 1 else None,
        "facts": [],
    }


def _shelves(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cards: on one shelf, or where they are many on a shelf an experiment, best first."""
    if len(entries) <= MANY:
        return [{"name": "", "views": entries, "shown": MANY}]
    shelves: dict[str, list[Mapping[str, Any]]] = {}
    for entry in sorted(entries, key=goodness):
        shelves.setdefault(entry["run"].experiment, []).append(entry)
    return [{"name": name, "views": shelves[name], "shown": 4} for name in sorted(shelves)]


def _wholes(run: Run) -> dict[str, Mapping[str, Any]]:
    structures: Mapping[str, Mapping[str, Any]] = run.summary["structures"]
    parts = _parts(run)
    return {name: s for name, s in structures.items() if name not in parts}


def _main(run: Run) -> str:
    return "dice" if "dice" in run.metrics or not run.metrics else run.metrics[0]


def _headline(run: Run, wholes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The number on the card: mean Dice, or the first metric of a task that has none."""
    if run.summary.get("classification"):
        return classes.headline(run.summary)
    metric = _main(run)
    mean, span = run.summary.get("mean_dice"), run.summary.get("mean_dice_interval")
    if metric != "dice":
        first: Mapping[str, Any] = next(iter(wholes.values()), {}).get("metrics", {})
        found = first.get(metric) or {}
        mean = found.get("mean")
        span = None if found.get("low") is None else [found["low"], found["high"]]
    share = metric in SHARES
    low, high = span or (None, None)
    bar = interval(mean, low=low, high=high) if share and mean is not None else ""
    return {"metric": metric, "mean": mean, "interval": span, "bar": bar}


def _pooled(run: Run, metric: str, parts: set[str]) -> float | None:
    """Mean over cases of the mean over whole structures; of an error, its size counts."""
    rows = [r for r in run.rows if r["structure"] not in parts and r.get(metric) is not None]
    if metric == "volume_error_ml":
        rows = [{**row, metric: abs(row[metric])} for row in rows]
    means = case_means(rows, metric)
    return sum(means.values()) / len(means) if means else None


def _worst_first(row: Mapping[str, Any]) -> tuple[int, float, str]:
    value = row.get("dice")
    return SEVERITY.get(row["status"], 3), 2.0 if value is None else value, str(row["case"])


def _strips(run: Run, parts: set[str]) -> list[dict[str, Any]]:
    """A drawing a metric with a lane a structure; instances follow their structure."""
    chosen = [m for m in DRAWN if m in run.metrics] or list(run.metrics[:4])
    drawn = []
    for metric in chosen:
        lanes: dict[str, list[Dot]] = {}
        for row in run.rows:
            if row["status"] != "absent" and row.get(metric) is not None:
                dot = Dot(str(row["case"]), float(row[metric]), row["status"] in BAD)
                lanes.setdefault(str(row["structure"]), []).append(dot)
        names = list(lanes)
        if len(names) > MOST_LANES:
            names = [n for n in names if n not in parts][:MOST_LANES] or names[:MOST_LANES]
        if names:
            top = 1.0 if metric in SHARES else None
            svg = strips({name: lanes[name] for name in names}, unit=unit(metric), top=top)
            drawn.append({"metric": metric, "svg": svg, "hidden": len(lanes) - len(names)})
    return drawn


def _panels(run: Run) -> list[str]:
    """Losses in one panel, scores in another; rates and clocks are left to the log."""
    kinds: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("Loss", lambda name: "loss" in name),
        ("Score", lambda name: not re.search("loss|mse", name) and name not in {"lr", "seconds"}),
        ("Error", lambda name: "mse" in name),
    )
    panels = [
        curves({name: line for name, line in run.curves.items() if of_kind(name)}, title)
        for title, of_kind in kinds
    ]
    return [panel for panel in panels if panel]


def _failures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every row that went wrong, with its reason; a failed case is one line for all structures."""
    found = []
    for run in runs:
        reasons = {f["case"]: f["reason"] for f in run.summary.get("failures") or []}
        told = set()
        for row in sorted(run.rows, key=_worst_first):
            key = row["case"] if row["status"] == "failed" else (row["case"], row["structure"])
            if row["status"] not in BAD or key in told:
                continue
            told.add(key)
            whole = row["status"] == "failed"
            found.append(
                {
                    "run": run.name,
                    "case": row["case"],
                    "structure": "all" if whole else row["structure"],
                    "status": row["status"],
                    "reason": reasons.get(row["case"], "") if whole else _said(row),
                }
            )
    return sorted(found, key=lambda f: SEVERITY[f["status"]])


def _said(row: Mapping[str, Any]) -> str:
    if row["status"] == "missed":
        return "in the reference, not in the prediction"
    size = row.get("volume_ml")
    return "predicted, not in the reference" + (f" ({size:.2f} ml)" if size else "")


def _notes(runs: Sequence[Run], pooled: Sequence[Run]) -> list[dict[str, str]]:
    """What a reader must know before believing a number; subjects are counted in `pooled`."""
    notes: dict[tuple[str, str], list[str]] = {}
    for run in pooled:
        told = run.summary
        people = told.get("n_subjects")
        if people == 1:
            text = "One subject: this is an illustration, no claim."
            notes.setdefault(("warn", text), []).append(run.name)
        elif people is None and "subjects" in told:
            text = "Subjects are unknown: intervals take every case for a person of its own."
            notes.setdefault(("info", text), []).append(run.name)
    for run in runs:
        told = run.summary
        for leak in told.get("leaks") or []:
            kind = "info" if leak.get("declared") else "bad"
            head = "Declared leak: " if leak.get("declared") else "Leak: "
            notes.setdefault((kind, head + str(leak.get("text")) + "."), []).append(run.name)
        for text in told.get("warnings") or []:
            notes.setdefault(("warn", _sentence(str(text))), []).append(run.name)
    order = {"bad": 0, "warn": 1, "info": 2}
    listed = sorted(notes.items(), key=lambda item: order[item[0][0]])
    return [{"kind": k, "text": text, "runs": _names(names)} for (k, text), names in listed]


def _names(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _facts(run: Run) -> list[tuple[str, str]]:
    """Where the numbers come from."""
    training = run.model.get("training") or {}
    told = run.summary
    card = told.get("model") or {}
    hashes = card.get("sha256") or run.model.get("sha256") or ""
    hashes = [hashes] if isinstance(hashes, str) else hashes
    trained = (training.get("cases") or {}).get("train") or []
    network = run.model.get("network") or {}
    labels = (told.get("labels") or {}).items()
    organs = (told.get("organs") or {}).items()
    facts = {
        "Experiment": run.experiment,
        "Variant": run.variant,
        "Seed": run.seed,
        "Network": network.get("class", ""),
        "Trained on": f"{len(trained)} cases of {training.get('data')}" if trained else "",
        "Recipe fingerprint": training.get("fingerprint", ""),
        "Model": str(card.get("path") or ""),
        "Model sha256": ", ".join(str(h) for h in hashes if h),
        "Predictions": told.get("predictions", ""),
        "Reference": told.get("reference", ""),
        "Split": told.get("split") or "",
        "Organs": ", ".join(f"{n} ({o['nodes']} nodes)" for n, o in organs),
        "Structures": "; ".join(f"{n} = {', '.join(map(str, v))}" for n, v in labels),
        "NSD tolerance": f"{told['tolerance_mm']:g} mm" if told.get("tolerance_mm") else "",
        "Subjects": str(told.get("n_subjects") or "unknown"),
        "Evaluated": told.get("evaluated", ""),
        "Versions": ", ".join(f"{n} {v}" for n, v in (told.get("versions") or {}).items()),
        "Trained with": ", ".join(f"{n} {v}" for n, v in (run.model.get("versions") or {}).items()),
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def _definitions(runs: Sequence[Run]) -> dict[str, str]:
    found: dict[str, str] = {}
    for run in runs:
        found |= run.summary.get("definitions") or {}
    return found or DEFINITIONS
