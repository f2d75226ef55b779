"""Whole cases at one size with their class: what is cut, what is filled, and what is refused."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medseg.data.classes import Classes, centred, flat
from medseg.data.module import DataModule, Sampling, Whole
from medseg.data.prepared import Prepared
from medseg.data.transforms import Chain
from medseg.provenance import write_json

NAMES = ("glioma", "none")


def prepared(folder, shapes, categories, *, channels=("t1",), **meta):
    """Prepared cases of noise with these shapes and classes."""
    rng = np.random.default_rng(0)
    rows = []
    for place, (shape, category) in enumerate(zip(shapes, categories, strict=True)):
        home = folder / "cases" / f"c{place}"
        home.mkdir(parents=True)
        count = len(channels) * (2 if meta.get("complex_input") else 1)
        np.save(home / "image.npy", rng.normal(size=(count, *shape)).astype(np.float32))
        write_json(home / "case.json", {"affine": np.eye(4)})
        rows.append(
            {
                **{"place": place, "case": f"c{place}", "subject": f"s{place}", "split": "train"},
                **{"folder": f"cases/c{place}", "key": str(place), "shape": shape},
                **{"spacing_mm": [1.0, 1.0, 1.0], "slices": None},
                **{"present": [True] * len(channels), "label": None, "landmarks": None},
                **({} if category is None else {"category": category}),
            }
        )
    write_json(folder / "index" / "1-of-1.json", {"fingerprint": "tiny", "cases": rows})
    about = {"format": 1, "fingerprint": "tiny", "channels": channels, "labels": {}, **meta}
    write_json(folder / "prepared.json", {"classes": NAMES, "slice_axis": 2, **about})
    return Prepared(folder)


def test_an_item_is_the_case_about_its_centre_with_its_class(tmp_path):
    data = prepared(tmp_path, [(6, 9, 1), (8, 4, 1)], [1, 0])
    items = Classes(data, data.records(), size=(6, 6), slice_axis=2)
    image, target, case, present = items[0, 0, 0]
    assert (image.shape, target.shape, int(target), case) == ((1, 6, 6), (), 1, "c0")
    assert target.dtype == torch.int64
    assert present.tolist() == [True]
    raw = np.load(tmp_path / "cases/c0/image.npy")
    np.testing.assert_array_equal(image.numpy(), raw[:, :, 1:7, 0])
    image, *_ = items[0, 0, 1]
    raw = np.load(tmp_path / "cases/c1/image.npy")
    np.testing.assert_array_equal(image.numpy()[:, :, 1:5], raw[:, 1:7, :, 0])
    assert (image[:, :, [0, 5]] == raw.min()).all()


def test_a_key_is_the_item_and_nothing_else(tmp_path):
    data = prepared(tmp_path, [(6, 6, 1)] * 2, [0, 1])
    items = Classes(data, data.records(), size=(4, 4), slice_axis=2)
    assert_close(items[0, 0, 1][0], items[7, 3, 1][0], rtol=0, atol=0)
    assert len(items) == 2


def test_growing_and_cutting_back_is_the_image():
    image = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    there = centred(image, (8, 9, 7))
    assert_close(centred(there, (5, 6, 7)), image, rtol=0, atol=0)
    assert_close(centred(image, (5, 6, 7)), image, rtol=0, atol=0)


def test_nothing_is_zero_around_complex_values_and_else_the_lowest():
    image = torch.full((1, 2, 2), 3.0)
    assert centred(image, (4, 4), outside=0.0).sum() == 12
    assert (centred(image, (4, 4)) == 3).all()


def test_complex_cases_are_filled_with_zero(tmp_path):
    data = prepared(tmp_path, [(4, 4, 1)], [0], complex_input="real_imag")
    image, _, _, present = Classes(data, data.records(), size=(6, 6), slice_axis=2)[0, 0, 0]
    assert image.shape == (2, 6, 6)
    assert (image[:, 0] == 0).all()
    assert present.tolist() == [True, True]


def test_batches_hold_a_class_a_case(tmp_path):
    data = prepared(tmp_path, [(6, 6, 1)] * 4, [0, 1, 1, 0])
    module = DataModule(
        data, data.records(), val=data.records()[:1], ndim=2, patch_size=(4, 4),
        augment=Chain({}), sampling=Sampling(4, None, 0.0, 0, 0),
    )  # fmt: skip
    (batch,) = list(module.train_dataloader())
    assert batch.image.shape == (4, 1, 4, 4)
    assert sorted(batch.target.tolist()) == [0, 0, 1, 1]
    assert {c: int(t) for c, t in zip(batch.ids, batch.target, strict=True)}["c1"] == 1
    (whole,) = list(Whole(data, data.records()[1:2]))
    assert whole.target.tolist() == [1]


def test_a_3d_network_sees_the_whole_case(tmp_path):
    data = prepared(tmp_path, [(4, 5, 6)], [0])
    assert Classes(data, data.records(), size=(4, 4, 4), slice_axis=None)[0, 0, 0][0].ndim == 4


def test_several_slices_and_a_2d_network_are_refused_with_the_ways_out(tmp_path):
    data = prepared(tmp_path, [(4, 5, 6)], [0])
    items = Classes(data, data.records(), size=(4, 4), slice_axis=2)
    with pytest.raises(ValueError, match=r"case c0: it has 6 slices .*model\.topology=resnet3d_18"):
        items[0, 0, 0]
    assert flat(torch.zeros(1, 1, 5, 6), 0).shape == (1, 5, 6)


def test_a_training_case_without_a_class_is_named(tmp_path):
    data = prepared(tmp_path, [(4, 4, 1)] * 2, [0, None])
    with pytest.raises(ValueError, match="training case c1 has no class; fill"):
        Classes(data, data.records(), size=(4, 4), slice_axis=2)
