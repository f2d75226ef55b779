"""Every dataset of conf/data gives records and samples, the same ones each time.

A dataset that reads a layout of its own needs a file `raw/<stem of its recipe>.py` with
`write(folder) -> Path`, which writes a few tiny cases; sheets are written here.
"""

import importlib.util
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg import config
from medseg.geometry.sphere import Sphere
from medseg.sample import Sample

RAW = Path(__file__).parent / "raw"
RECIPES = sorted(path.stem for path in (config.conf_dir() / "data").glob("*.yaml"))


def sheet(folder: Path, channels: list[str], values: list[int]) -> Path:
    """A sample sheet of two cases of noise."""
    rng = np.random.default_rng(0)
    rows = [",".join(["case", "subject", *channels, "label", "split"])]
    for case, split in (("a", "train"), ("b", "test")):
        names = [f"{case}_{name}.nii" for name in channels]
        for name in names:
            image = rng.normal(100, 5, (6, 8, 5)).astype(np.float32)
            nib.save(nib.Nifti1Image(image, np.eye(4)), folder / name)
        label = rng.choice([0, *values], size=(6, 8, 5)).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{case}.nii")
        rows.append(",".join([case, f"person-{case}", *names, f"{case}.nii", split]))
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return folder / "samples.csv"


def raw(stem: str, folder: Path, section: dict) -> Path:
    """The files that a dataset reads."""
    own = RAW / f"{stem}.py"
    if own.is_file():
        spec = importlib.util.spec_from_file_location(stem, own)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.write(folder)
    assert section["source"]["_target_"] == "medseg.data.table.Table", f"write {own}"
    return sheet(folder, section["channels"], [v[0] for v in section["labels"].values()])


def built(section: dict, path: Path | None):
    source = section["source"]
    given = {"path": path} if path else {}
    for name in ("channels", "labels", "slice_axis", "organs", "size"):
        if config.accepts(source, name) and name not in source:
            given[name] = section[name]
    return config.build(source, **given)


def of_maps(section: dict) -> bool:
    """Whether the maps themselves are what is to be learnt."""
    return not any(section.get(name) for name in ("labels", "organs", "classes"))


def same(one: Sample, other: Sample) -> bool:
    sky = isinstance(one.space, Sphere)
    return (
        np.array_equal(one.image, other.image)
        and np.array_equal(one.target, other.target)
        and (
            one.space.same(other.space)
            if sky
            else np.array_equal(one.grid.affine, other.grid.affine)
        )
        and (one.id, one.subject, one.split) == (other.id, other.subject, other.split)
    )


@pytest.mark.parametrize("stem", RECIPES)
def test_a_dataset_loads_the_same_samples_each_time(stem: str, tmp_path: Path) -> None:
    own = [] if stem != "table" else ["data.labels={thing:[1]}"]
    section = config.plain(config.compose("prepare", [f"data={stem}", *own]).data)
    path = raw(stem, tmp_path, section) if config.accepts(section["source"], "path") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        one, two = built(section, path), built(section, path)
    records = one.records()
    assert isinstance(records, list)
    assert len({record.case for record in records}) == len(records) > 1
    assert records == two.records()
    forth = [one.load(records[number]) for number in (0, -1)]
    back = [two.load(records[number]) for number in (-1, 0)]
    for first, again in zip(forth, back[::-1], strict=True):
        assert isinstance(first, Sample)
        assert first.channels == tuple(section["channels"])
        assert first.image.shape == (len(section["channels"]), *first.space.shape)
        assert (first.target is None) == of_maps(section)
        assert same(first, again)
    if not of_maps(section):
        assert forth[0].target.max() > 0, "the last one may be healthy"
