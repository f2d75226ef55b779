"""What evaluate wrote, read back: rows by case and structure, and the summary."""

import csv
import json


def table(path):
    with path.open(newline="") as stream:
        return {(row["case"], row["structure"]): row for row in csv.DictReader(stream)}


def summary(folder, out="out"):
    return json.loads((folder / out / "summary.json").read_text())
