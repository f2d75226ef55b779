"""The figures of inpainting at nside 32, through the documented commands, each with its bound.

    python tests/acceptance/sky_numbers.py [MODEL] [--skies 200] [--folder FOLDER]

Prepares the held-out skies of data=cmb (WMAP mask, 320' beam) and of data=cmb_rotated (twenty
rotations of the mask), fills them by diffusion, by the exact Wiener filter with its realisations
and, if a MODEL of SkyReconNet is given, by that, and evaluates all. Exit code 1 if a figure is not
as claimed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from medseg import cli

TOLD = ["--noise-uk", "1"]


def run(*words):
    """One command of medseg; it must succeed."""
    code = cli.main([str(word) for word in words])
    if code:
        raise SystemExit(f"medseg {' '.join(map(str, words))}: exit code {code}")


def prepared(folder, data, skies):
    """The sheet of held-out skies."""
    out = folder / data
    few = ["data.source.n_train=2", "data.source.n_val=1", f"data.source.n_test={skies}"]
    run("prepare", f"data={data}", *few, "--out", out)
    return out / "samples.csv"


def filled(folder, name, model, sheet, *options):
    """What a method makes of a sheet: the summary of its scores."""
    found, scores = folder / name / "predictions", folder / name
    options = [*options, "--no-picture"]
    run("predict", model, sheet, "--split", "test", "--out", found, *options)
    run("evaluate", "--in", found, "--reference", sheet, "--split", "test", "--out", scores,
        "--pictures", "3")  # fmt: skip
    return json.loads((scores / "summary.json").read_text())


def pooled(summary):
    """NRMSE over all holes of all skies."""
    return summary["sky"]["map"]["nrmse"]["mean"]


def ratios(summary, kind):
    """Power of the filled skies over that of the true ones, a number a band."""
    return [band["mean"] for band in summary["sky"]["map"][f"{kind}_ratio"].values()]


def main():
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--skies", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="sky-numbers-"))
    sheet = prepared(folder, "cmb", options.skies)
    claims = []
    diffusion = pooled(filled(folder, "diffusion", "method:diffusion", sheet))
    claims.append(("diffusion, NRMSE", diffusion, 0.46, 0.48))
    exact = filled(folder, "wiener", "method:wiener", sheet, *TOLD, "--samples", "1")
    claims.append(("exact Wiener, NRMSE", pooled(exact), 0.30, 0.32))
    for number, ratio in enumerate(ratios(exact, "sample"), 1):
        claims.append((f"realisations, power, band {number}", ratio, 0.98, 1.02))
    if options.model:
        rotated = prepared(folder, "cmb_rotated", max(20, options.skies // 2))
        mine = filled(
            folder, "skyreconnet", options.model, sheet, "--samples", "1", "--uncertainty"
        )
        other = filled(folder, "rotated", options.model, rotated)
        claims.append(("SkyReconNet, NRMSE", pooled(mine), 0.0, 0.36))
        for number, ratio in enumerate(ratios(mine, "sample"), 1):
            claims.append((f"its samples, power, band {number}", ratio, 0.95, 1.05))
        claims.append(("rotated masks over the mask", pooled(other) / pooled(mine), 0.0, 1.10))
    good = [low <= value <= high for _, value, low, high in claims]
    for (name, value, low, high), fine in zip(claims, good, strict=True):
        told = "ok" if fine else "NOT AS CLAIMED"
        print(f"{name:<34}{value:>9.4f}   {low:g} to {high:g}   {told}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
