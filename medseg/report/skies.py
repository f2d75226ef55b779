"""What is said of filled skies: errors in the holes, power beside the truth's, coverage, seams.

Numbers over all cases are ratios of sums, with the bootstrap of these; the spectra of all cases are
summed as well, so that parts of a call add up.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.geometry.spectrum import bins
from medseg.metrics.sky import DEFINITIONS, MAIN, MASKS, METRICS, OF_MASKS
from medseg.metrics.skypower import BANDS, RATIOS, Spectra, cosmic_variance, ratio_of_sums
from medseg.report.charts import curves

Row = Mapping[str, Any]
Found = dict[str, float | None]

FIRST = MAIN[0]
FINE = (*MAIN, *MASKS)
"""Numbers around 1, which are told to three digits."""
POOLED = {
    "nrmse": ("error_squares", "truth_squares"),
    "nrmse_edge": ("edge_error_squares", "edge_truth_squares"),
    "seam": ("border_jump", "expected_jump"),
}
TITLES = {
    "nrmse": "NRMSE",
    "nrmse_edge": "NRMSE at the edge",
    "ssim": "SSIM",
    "coverage_68": "Coverage, 68 %",
    "coverage_95": "Coverage, 95 %",
    "mean_iou": "Mean IoU",
}
LEAST, MOST = 2, 1.75
POINTS = 24


def is_filled(metrics: Sequence[str]) -> bool:
    """Whether score columns are those of filled skies."""
    return tuple(metrics) == METRICS


def summarised(
    rows: Sequence[Row], metrics: Sequence[str], *, subjects: Mapping[str, str]
) -> dict[str, Any]:
    """Of filled skies what each field and spectrum has over all cases; of others nothing."""
    if not is_filled(metrics):
        return {}
    names = dict.fromkeys(str(row["structure"]) for row in rows)
    groups = {name: [row for row in rows if row["structure"] == name] for name in names}
    return {"sky": {name: _over_all(group, subjects) for name, group in groups.items()}}


def _over_all(rows: Sequence[Row], subjects: Mapping[str, str]) -> dict[str, Any]:
    """Pooled errors and seam, and the ratios of power band by band, each with its interval."""
    found: dict[str, Any] = {
        name: told for name, pair in POOLED.items() if (told := _ratio(rows, pair, subjects, name))
    }
    for name, (part, whole) in RATIOS.items():
        bands = {b: _ratio(rows, (f"{part}_{b}", f"{whole}_{b}"), subjects) for b in BANDS}
        if any(bands.values()):
            found[name] = {band: told for band, told in bands.items() if told}
    return found


def _ratio(
    rows: Sequence[Row], pair: Sequence[str], subjects: Mapping[str, str], name: str = ""
) -> Found | None:
    """A ratio of two columns' sums over the cases that have both; None where none has."""
    above, below = pair
    have = [row for row in rows if row.get(above) is not None and row.get(below) is not None]
    cases = [str(row["case"]) for row in have]
    found = ratio_of_sums(
        [float(row[above]) for row in have],
        [float(row[below]) for row in have],
        clusters=[("subject", subjects[c]) if subjects.get(c) else ("case", c) for c in cases],
        root=name.startswith("nrmse"),
    )
    return None if found["mean"] is None else found


def facts(fields: Sequence[str], spectra: Iterable[Spectra]) -> dict[str, Any]:
    """What a summary says of filled skies, or without fields of segmented ones."""
    if not fields:
        return {"definitions": OF_MASKS}
    summed = gathered(spectra)
    return {
        "task": "inpaint",
        "fields": list(fields),
        "spectra": summed,
        "bands": {
            str(n): dict(zip(BANDS, bins(n), strict=True)) for n in {s["nside"] for s in summed}
        },
        "definitions": DEFINITIONS,
    }


def gathered(spectra: Iterable[Spectra]) -> list[dict[str, Any]]:
    """Sums of the spectra of cases, a list entry a kind and nside; l runs from 0."""
    single = []
    for told in spectra:
        for kind, power in told.items():
            last = int(MOST * power.nside) + 1
            sums = {what: cl[:last].tolist() for what, cl in power.of.items()}
            counts = dict.fromkeys(sums, 1)
            single.append({"kind": kind, "nside": power.nside, "n": counts, "of": sums})
    return joined(single)


def joined(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sums of the entries that are of one kind and nside."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in entries:
        own = found.setdefault(
            (entry["kind"], entry["nside"]),
            {"kind": entry["kind"], "nside": entry["nside"], "n": {}, "of": {}},
        )
        for what, cl in entry["of"].items():
            before = own["of"].get(what, [0.0] * len(cl))
            own["of"][what] = [a + b for a, b in zip(before, cl, strict=True)]
            own["n"][what] = own["n"].get(what, 0) + entry["n"][what]
    return list(found.values())


def words(summary: Mapping[str, Any]) -> list[str]:
    """The main numbers, for a line."""
    bits = []
    for name, told in (summary.get("sky") or {}).items():
        scores = summary["structures"][name]["metrics"]
        if "nrmse" in told:
            bits.append(f"{name} NRMSE {told['nrmse']['mean']:.3f} over all holes")
            if "nrmse" in scores:
                bits.append(f"{scores['nrmse']['mean']:.3f} in the mean")
        if "nrmse_edge" in told:
            bits.append(f"{told['nrmse_edge']['mean']:.3f} at the edge")
        for ratio, title in (("power_ratio", "power ratio"), ("sample_ratio", "of samples")):
            if ratio in told:
                parts = [f"{one['mean']:.3f}" for one in told[ratio].values()]
                own = f"{name} " if "nrmse" not in told else ""
                bits.append(f"{own}{title} {' / '.join(parts)}")
        if "coverage_68" in scores:
            bits.append(f"68 % coverage {scores['coverage_68']['mean']:.3f}")
        if "seam" in told:
            bits.append(f"seam {told['seam']['mean']:.2f}")
    if summary.get("mean_iou") is not None:
        bits.append(f"mean IoU {summary['mean_iou']:.3f}")
    return bits


def view(known: dict[str, Any]) -> dict[str, Any]:
    """A view of the page; where it is of filled skies, with the columns that people read."""
    if not is_filled(known["run"].metrics):
        return known
    return known | {"metrics": [name for name in MAIN if name in known["metrics"]]}


def section(views: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the template shows of all runs of filled skies; None where there are none."""
    filled = [view for view in views if view["summary"].get("sky")]
    if not filled:
        return None
    rows = [
        _line(view, name, told) for view in filled for name, told in view["summary"]["sky"].items()
    ]
    return {
        "rows": sorted(rows, key=lambda row: (row["field"], row["place"])),
        "bands": _bands(filled),
        "seams": [row for row in rows if ((row["seam"] or {}).get("mean") or 0) >= 1.1],
        "drawn": any(row["samples"] for row in rows),
        "covered": any(row["coverage"] for row in rows),
        "charts": _charts(filled),
        "all": len(filled) == len(views),
    }


def _line(view: Mapping[str, Any], name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table: a run's field, or one of its spectra."""
    scores = view["structures"][name]["metrics"]
    pooled = (told.get("nrmse") or {}).get("mean")
    return {
        "view": view,
        "field": name,
        "place": float("inf") if pooled is None else pooled,
        "nrmse": told.get("nrmse"),
        "mean": scores.get("nrmse"),
        "edge": told.get("nrmse_edge"),
        "correlation": scores.get("correlation"),
        "ssim": scores.get("ssim"),
        "power": [(told.get("power_ratio") or {}).get(band) for band in BANDS],
        "samples": [
            told["sample_ratio"].get(band) for band in BANDS
        ] if "sample_ratio" in told else [],
        "coverage": [
            scores[level] for level in ("coverage_68", "coverage_95") if level in scores
        ],
        "seam": told.get("seam"),
    }  # fmt: skip


def _bands(views: Sequence[Mapping[str, Any]]) -> list[str]:
    """The bands as people write them; with l where all runs are of one nside."""
    told = {n: b for view in views for n, b in (view["summary"].get("bands") or {}).items()}
    if len(told) != 1:
        return list(BANDS)
    (only,) = told.values()
    return [f"l {only[band][0]}\N{EN DASH}{only[band][1]}" for band in BANDS]


def _charts(views: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Power over that of the truth against l, and the spectra themselves, a panel each kind."""
    kinds: dict[tuple[str, int], list[tuple[str, Mapping[str, Any]]]] = {}
    for view in views:
        for entry in view["summary"].get("spectra") or ():
            kinds.setdefault((entry["kind"], entry["nside"]), []).append((view["name"], entry))
    found = []
    for (kind, nside), entries in kinds.items():
        title = f"{kind}, nside {nside}"
        found.append({"title": f"{title}: power over the truth's", "svg": _ratios(entries)})
        found.append({"title": f"{title}: l(l+1) C_l / 2π in µK²", "svg": _levels(entries)})
    return [chart for chart in found if chart["svg"]]


def _lines(
    entries: Sequence[tuple[str, Mapping[str, Any]]],
) -> dict[str, tuple[Float[np.ndarray, " l"], Float[np.ndarray, " l"]]]:
    """Mean C_l of the filled skies (and of samples) of each run, with that of the truth."""
    found = {}
    for name, entry in entries:
        truth = np.array(entry["of"]["truth"]) / entry["n"]["truth"]
        for what, said in (("filled", ""), ("sample", " · samples")):
            if entry["n"].get(what) == entry["n"]["truth"]:
                found[name + said] = np.array(entry["of"][what]) / entry["n"][what], truth
    return found


def _ratios(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    lines = _lines(entries)
    if not lines:
        return ""
    first = entries[0][1]
    truth = next(iter(lines.values()))[1]
    parts = _parts(len(truth))
    spread = (cosmic_variance(len(truth) - 1, first["n"]["truth"]) * truth) ** 2
    band, series = [], {}
    for part in parts:
        whole, at = truth[part].sum(), float((part.start + part.stop - 1) / 2)
        width = float(spread[part].sum() ** 0.5 / whole) if whole > 0 else 0.0
        band.append((at, 1 - width, 1 + width))
    own = "truth, cosmic variance"
    series[own] = [(at, 1.0) for at, _, _ in band]
    for name, (cl, true) in lines.items():
        series[name] = [
            (float((p.start + p.stop - 1) / 2), float(cl[p].sum() / true[p].sum()))
            for p in parts
            if true[p].sum() > 0
        ]
    return curves(series, "C_l ratio", axis="l", bands={own: band}, base=None)


def _levels(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    lines = _lines(entries)
    if not lines:
        return ""
    truth = next(iter(lines.values()))[1]
    degree = np.arange(len(truth))
    scale = degree * (degree + 1) / (2 * np.pi)
    width = cosmic_variance(len(truth) - 1, entries[0][1]["n"]["truth"])
    parts = _parts(len(truth))

    def points(cl: Float[np.ndarray, " l"]) -> list[tuple[float, float]]:
        values = scale * cl
        return [(float((p.start + p.stop - 1) / 2), float(values[p].mean())) for p in parts]

    sides = [points(truth * (1 + sign * width)) for sign in (-1, 1)]
    band = [(low[0], low[1], high[1]) for low, high in zip(*sides, strict=True)]
    own = "truth, cosmic variance"
    series = {own: points(truth), **{name: points(cl) for name, (cl, _) in lines.items()}}
    return curves(series, "Power", axis="l", bands={own: band})


def _parts(length: int) -> list[slice]:
    """Runs of l from 2 on, at most `POINTS` of them."""
    step = max(1, -(-(length - LEAST) // POINTS))
    return [slice(at, min(at + step, length)) for at in range(LEAST, length, step)]
