"""Bring scores, curves and pictures together on one HTML page that works offline."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Write the page of all runs that the arguments name."""
    parser = argparse.ArgumentParser(prog="medseg report", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "scores",
        nargs="+",
        type=Path,
        metavar="SCORES",
        help="scores.csv files, or folders of them",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="X.html", help="the page")
    parser.add_argument("--title", help="what it is called (the file's name)")
    options = parser.parse_args(arguments)
    if options.out.is_dir():
        raise IsADirectoryError(f"--out {options.out} is a folder; name a file, e.g. report.html")
    if options.out.suffix.lower() not in {".html", ".htm"}:
        raise ValueError(
            f"--out {options.out}: the report is an HTML page; give "
            f"{options.out.with_suffix('.html')}"
        )
    from medseg.provenance import writable, write_text
    from medseg.report.page import render
    from medseg.report.runs import find

    runs = find(options.scores)
    empty = [str(run.folder) for run in runs if not run.rows]
    if empty:
        raise ValueError(
            f"no rows in the scores of {', '.join(empty)}; run medseg evaluate on cases, or leave "
            "them out"
        )
    writable(options.out.parent)
    write_text(options.out, render(runs, title=options.title or options.out.stem))
    sys.stdout.write(f"{len(runs)} run{'' if len(runs) == 1 else 's'}: {options.out}\n")
    return 0
