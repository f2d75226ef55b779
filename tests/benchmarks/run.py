"""One table of ratios: every file beside this one is a subject, its `bench()` gives the rows.

A row says what is compared (`subject`, `peer`), the seconds of both (`ours_s`, `peer_s`), the ratio
that is claimed (`ratio`, larger is better), the least that it must be (`bound`), whether the values
agree (`equal`) and a `note`. Both sides are measured in the same run, so ratios mean something on
any machine and seconds only on this one.

    python tests/benchmarks/run.py [SUBJECT …] [--json FILE]
"""

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = ("", "subject", "ours", "peer", "ratio", "wanted", "against", "note")


def main(arguments: list[str]) -> int:
    """Measure the subjects asked for, all by default; 1 if a ratio or a value is not as claimed."""
    subjects = {f.stem: f for f in sorted(HERE.glob("*.py")) if f != Path(__file__).resolve()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(subjects))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    options = parser.parse_args(arguments)
    if strangers := sorted(set(options.subjects) - set(subjects)):
        parser.error(f"no subject {', '.join(strangers)}; there are: {', '.join(subjects)}")
    rows = []
    for name in options.subjects or subjects:
        sys.stderr.write(f"measuring {name} …\n")
        rows += measure(subjects[name])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    sys.stdout.write(machine() + "\n\n" + table(rows) + "\n")
    return 0 if rows and all(map(holds, rows)) else 1


def measure(file: Path) -> list[dict]:
    """The rows of one subject; one that cannot be measured is a row that says why."""
    spec = spec_from_file_location(f"benchmark_{file.stem}", file)
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return list(module.bench())
    except Exception as error:  # the other subjects are still worth measuring
        return [{"subject": file.stem, "note": f"not measured: {type(error).__name__}: {error}"}]


def holds(row: dict) -> bool:
    """Whether the values agree and the ratio is at least what is claimed."""
    return bool(row.get("equal")) and row.get("ratio", 0) >= row.get("bound", 0)


def machine() -> str:
    """Where the numbers come from, in one line."""
    packages = ("torch", "numpy", "scipy", "monai", "scikit-image", "lightning")
    found = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {found}"


def table(rows: list[dict]) -> str:
    """The rows as Markdown, columns aligned."""
    cells = [HEAD, *(line(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    padded = [[cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in cells]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def line(row: dict) -> tuple[str, ...]:
    """One row's cells."""

    def number(key: str, form: str) -> str:
        return form.format(row[key]) if isinstance(row.get(key), int | float) else ""

    return (
        "ok" if holds(row) else "NO",
        str(row["subject"]),
        number("ours_s", "{:.3f} s"),
        number("peer_s", "{:.3f} s"),
        number("ratio", "{:.2f}x"),
        number("bound", ">= {:.2f}x"),
        str(row.get("peer", "")),
        str(row.get("note", "")) + ("" if row.get("equal", True) else " VALUES DIFFER"),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
