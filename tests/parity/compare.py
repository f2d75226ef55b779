"""Compare our numbers with published ones: `python tests/parity/compare.py FILE...`

Each file is recognised by one of `formats/*.py`, whose `compare(path)` gives rows. Exit code 1 if a
row is past its tolerance or cannot be computed, 2 if no format knows a file or it cannot be read;
of several files, the highest code.
"""

import importlib
import sys
from pathlib import Path

FORMATS = Path(__file__).parent / "formats"


def formats():
    """Every module of `formats/`, by name."""
    if str(FORMATS.parent) not in sys.path:
        sys.path.insert(0, str(FORMATS.parent))
    stems = sorted(path.stem for path in FORMATS.glob("[!_]*.py"))
    return {stem: importlib.import_module(f"formats.{stem}") for stem in stems}


def compare(path, known):
    """Print one file's comparison, the largest differences first; returns its exit code."""
    if not path.is_file():
        print(f"{path}: no such file", file=sys.stderr)
        return 2
    name = next((name for name, module in known.items() if module.recognise(path)), None)
    if name is None:
        print(f"{path}: unknown format; known are {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        rows = known[name].compare(path)
    except Exception as error:  # whatever is wrong in the file, the others are still compared
        what = f"it holds no {error}" if isinstance(error, KeyError) else error
        print(f"{path} ({name}): {what}", file=sys.stderr)
        return 1
    if not rows:
        print(f"{path} ({name}): nothing to compare in it", file=sys.stderr)
        return 1
    show(path, name, rows)
    return 0 if all(row.passed for row in rows) else 1


def show(path, name, rows):
    """A table of the rows, those closest to or past their tolerance first."""

    def strain(row):
        if row.difference != row.difference:
            return float("inf")
        return row.difference / row.tolerance if row.tolerance else row.difference * 1e30

    failed = sum(not row.passed for row in rows)
    print(f"{path} ({name}): {len(rows)} compared, {failed} past the tolerance")
    print(f"  {'':4} {'difference':>12} {'tolerance':>12}  name")
    for row in sorted(rows, key=strain, reverse=True):
        mark = "ok" if row.passed else "PAST"
        note = f"  ({row.note})" if row.note else ""
        print(f"  {mark:4} {row.difference:12.3e} {row.tolerance:12.3e}  {row.name}{note}")


def main(arguments):
    """Compare all files; returns the exit code."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(__doc__.strip())
        return 0 if arguments else 2
    known = formats()
    codes = [compare(Path(argument), known) for argument in arguments]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
