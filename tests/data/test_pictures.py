"""Radiographs as training reads them: image, flags, landmarks and outlines of one case."""

import numpy as np
import pytest
import tiny_prepared
import torch

from medseg import config
from medseg.data.pictures import Pictures, points
from medseg.data.prepared import Prepared
from medseg.geometry import contour
from medseg.sample import collate

SIZE = 64


@pytest.fixture
def prepared(tmp_path) -> Prepared:
    recipe = config.compose("train", ["experiment=hybridgnet_chest", f"data.size={SIZE}"])
    return Prepared(tiny_prepared.prepared(tmp_path / "prepared", recipe))


def test_a_picture_is_its_case(prepared) -> None:
    records = prepared.records()[:2]
    pictures = Pictures(prepared, records)
    assert len(pictures) == 2
    image, flags, case, present, landmarks, outlines = pictures[0, 5, 1]
    home = records[1].folder
    assert case == records[1].case
    assert present.tolist() == [True]
    np.testing.assert_array_equal(image, np.load(home / "image.npy")[..., 0])
    np.testing.assert_array_equal(flags, np.load(home / "label.npy")[..., 0])
    np.testing.assert_allclose(landmarks * SIZE, np.load(home / "landmarks.npy"), rtol=1e-6)
    np.testing.assert_array_equal(outlines, np.load(home / "outlines.npy"))


def test_landmarks_and_flags_are_of_one_square(prepared) -> None:
    organs = contour.contours(prepared.meta["organs"])
    pictures = Pictures(prepared, prepared.records())
    for number in range(len(pictures)):
        _, flags, _, _, landmarks, _ = pictures[0, 0, number]
        nodes = landmarks.double().numpy() * SIZE
        np.testing.assert_array_equal(
            flags.numpy().T, contour.flags(nodes, organs, shape=(SIZE, SIZE))
        )


def test_without_a_file_of_points_all_nodes_are_unknown(prepared) -> None:
    record = prepared.records()[0]
    (record.folder / "landmarks.npy").unlink()
    landmarks, outlines = points(prepared, record)
    assert landmarks.isnan().all()
    assert outlines.isfinite().all()


def test_pictures_stack_with_those_that_lack_points(prepared) -> None:
    """Cases of landmarks and cases of masks alone go into one batch."""
    (prepared.records()[1].folder / "landmarks.npy").unlink()
    pictures = Pictures(prepared, prepared.records())
    batch = collate([pictures[0, 0, n] for n in range(2)])
    assert batch.image.shape == (2, 1, SIZE, SIZE)
    assert batch.target.dtype == torch.int32
    assert batch.landmarks.isfinite().flatten(1).all(1).tolist() == [True, False]
    assert batch.outlines.isfinite().all()


def test_a_case_with_nothing_to_learn_from_is_named(prepared) -> None:
    record = prepared.records()[1]
    for name in ("landmarks", "label", "outlines"):
        (record.folder / f"{name}.npy").unlink()
    with pytest.raises(ValueError, match=f"{record.case} has neither landmarks nor a label"):
        Pictures(prepared, [record])[0, 0, 0]
