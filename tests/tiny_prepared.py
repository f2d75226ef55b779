"""Prepared data of any recipe: noise with a bright box to find, small enough to train on."""

from pathlib import Path

import numpy as np

from medseg import config
from medseg.data import framed
from medseg.data.complex_input import stored
from medseg.geometry import contour
from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid
from medseg.provenance import write_json
from medseg.sample import Sample

SPLITS = ("train", "train", "val", "test")
SHAPE = (6, 20, 24)


def outlined(home: Path, organs, rng, *, size: int) -> None:
    """Landmarks on circles, one an organ, and what is drawn from them."""
    known = contour.contours(organs)
    points = []
    for organ in known:
        angle = np.linspace(0, 2 * np.pi, organ.nodes, endpoint=False)
        centre = rng.uniform(0.35, 0.65, 2) * size
        points.append(centre + size / 6 * np.stack([np.cos(angle), np.sin(angle)], 1))
    landmarks = np.concatenate(points).astype(np.float32)
    flags = framed.drawn(landmarks, None, known=known, size=size)
    space = Grid((size, size, 1), np.eye(4))
    image = np.zeros((1, size, size, 1), np.float32)
    sample = Sample("a", image, space, ("image",), landmarks=landmarks.astype(float))
    frame = Frame.to(space, size)
    np.save(home / "landmarks.npy", landmarks)
    np.save(home / "label.npy", flags[..., None])
    np.save(home / "outlines.npy", framed.outlines(sample, known, frame=frame).astype(np.float32))


def prepared(folder: Path, cfg, splits=SPLITS, shape=SHAPE) -> Path:
    """Write a prepared folder that fits a recipe's data section."""
    data = config.plain(cfg.data)
    if data["size"]:
        shape = (data["size"], data["size"], 1)
    rng = np.random.default_rng(0)
    rows = []
    for place, split in enumerate(splits):
        name = f"{split or 'none'}{place}"
        home = folder / "cases" / name
        home.mkdir(parents=True)
        label = np.zeros(shape, np.uint8)
        corner = rng.integers(2, 6, size=2)
        for k in range(1, len(data["labels"]) + 1):
            label[1:5, corner[0] : corner[0] + 9, corner[1] : corner[1] + 9] = k
        count = stored(data["channels"], data["complex_input"])
        image = rng.normal(size=(count, *shape)).astype(np.float32)
        np.save(home / "image.npy", image + 2 * (label > 0).astype(np.float32))
        np.save(home / "label.npy", label)
        if data["organs"]:
            outlined(home, data["organs"], rng, size=data["size"])
        write_json(home / "case.json", {"affine": np.eye(4)})
        rows.append(
            {
                "place": place,
                "case": name,
                "subject": f"s{place}",
                "split": split,
                "folder": f"cases/{name}",
                "key": name,
                "shape": shape,
                "spacing_mm": [1.0, 1.0, 1.0],
                "slices": None,
                "present": [True] * len(data["channels"]),
                "label": {"path": "label.nii.gz", "sha256": "0"},
                "category": place % len(data["classes"]) if data["classes"] else None,
                "landmarks": {"path": "points.csv", "sha256": "0"} if data["organs"] else None,
            }
        )
    write_json(folder / "index" / "1-of-1.json", {"fingerprint": "tiny", "cases": rows})
    axis = data["slice_axis"] if data["slice_axis"] is not None else 0
    names = ("channels", "labels", "instances", "organs", "size", "spacing_mm", "intensity")
    names += ("source", "complex_input", "classes", "reading")
    meta = {"format": 1, "fingerprint": "tiny", "slice_axis": axis}
    write_json(folder / "prepared.json", meta | {name: data[name] for name in names})
    return folder
