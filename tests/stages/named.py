"""Sheets with classes and the sidecars of predicted ones."""

import json
from pathlib import Path

CLASSES = ("glioma", "meningioma", "none")


def sheet(folder: Path, rows, name="samples.csv") -> Path:
    """Rows of (case, subject, class, split)."""
    lines = ["case,subject,t1,class,split"]
    lines += [
        f"{case},{subject},{case}.nii.gz,{kind},{split}" for case, subject, kind, split in rows
    ]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def predicted(folder: Path, case: str, shares, classes=CLASSES, **changes) -> None:
    """The sidecar of one case, as predict writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    named = dict(zip(classes, shares, strict=True))
    content = {
        "case": case,
        "status": "ok",
        "task": "classify",
        "class": max(named, key=named.get),
        "classes": list(classes),
        "probabilities": named,
        "temperature": 1.0,
        "model": {"path": "model", "sha256": ["abc"]},
        **changes,
    }
    (folder / f"{case}.json").write_text(json.dumps(content))
