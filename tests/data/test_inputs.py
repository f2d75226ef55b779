"""A file stands for the channel that its name says; Dixon contrasts for those they follow from."""

import contextlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from medseg.data import dixon, inputs
from medseg.data.phantoms.spine import Spine
from medseg.data.sheet import Record
from medseg.geometry.grid import Grid
from medseg.sample import Sample

CHANNELS = ("fat", "inphase", "opposed", "water")


@pytest.mark.parametrize(
    ("paths", "fine"),
    [
        ({"fat": "a_fat.nii.gz", "water": "a_water.nii.gz"}, True),
        ({"fat": "a_water.nii.gz", "water": "a_fat.nii.gz"}, False),
        ({"fat": "a-WATER.nii", "water": "b.nii"}, False),
        ({"water": "fat.nii.gz"}, False),
        ({"fat": "waterfall.nii", "water": "b.nii"}, True),
        ({"fat": "fat_of_fat_water_scan.nii", "water": "w.nii"}, True),
        ({"fat": "water_study_1.nii", "water": "water_study_2.nii"}, True),
        ({"fat": "1.nii", "water": "2.nii"}, True),
    ],
)
def test_a_name_that_says_another_channel_is_refused(paths, fine):
    record = Record("a", "", "", {name: Path(path) for name, path in paths.items()})
    if fine:
        inputs._names(record, CHANNELS)
        return
    with pytest.raises(ValueError, match="--as-given"):
        inputs._names(record, CHANNELS)


@pytest.fixture(scope="module")
def spine():
    source = Spine(n_train=1, n_val=0, n_test=0)
    return source.load(source.records()[0])


def test_only_the_right_places_and_fat_for_water_fit_the_dixon_algebra(spine):
    fits = []
    for order in itertools.permutations(range(4)):
        with contextlib.suppress(ValueError):
            dixon.check(spine.with_(image=spine.image[list(order)]))
            fits.append(order)
    assert fits == [(0, 1, 2, 3), (3, 1, 2, 0)]


def test_the_error_names_the_swap(spine):
    with pytest.raises(ValueError, match="given as inphase looks like opposed"):
        inputs.inspect(spine.with_(image=spine.image[[0, 2, 1, 3]]))
    inputs.inspect(spine.with_(image=spine.image[[0, 2, 1, 3]]), as_given=True)


def test_contrasts_that_were_scaled_one_by_one_are_left_alone(spine):
    noise = np.random.default_rng(0).normal(0, 30, spine.image.shape)
    scale = np.array([1, 0.5, 2, 1.7]).reshape(4, 1, 1, 1)
    dixon.check(spine.with_(image=np.abs(spine.image + noise) * scale))


def test_another_set_of_channels_is_left_alone(spine):
    dixon.check(spine.with_(image=spine.image[[1, 0]], channels=("t1", "t2")))
    absent = {**spine.meta, "present": (True, True, False, True)}
    dixon.check(spine.with_(image=spine.image[[1, 0, 2, 3]], meta=absent))


@pytest.mark.parametrize(("value", "says"), [(0.0, r"constant \(0\)"), (1e20, r"1e\+20")])
def test_a_channel_without_contrast_or_beyond_all_scans_is_told(value, says):
    image = np.random.default_rng(0).normal(100, 20, (2, 4, 4, 4))
    image[0] = 0.0
    image[0, 0] = 0.0 if value == 0 else value
    sample = Sample(image=image, space=Grid((4, 4, 4), np.eye(4)), channels=("t1", "t2"), id="a")
    (note,) = inputs.inspect(sample)
    assert re.search(f"channel t1 .*{says}", note)


def test_one_file_for_two_channels_is_told_as_such(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    words = [f"{name}={tmp_path / 'a.nii'}" for name in CHANNELS]
    with pytest.raises(ValueError, match="fat and inphase hold the same image"):
        inputs.read(words, CHANNELS)
