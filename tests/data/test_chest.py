"""Made-up radiographs: exact contours in the published order, seeds, splits, missing clavicles."""

import csv

import numpy as np
import pytest

from medseg.data.landmarks import read_points
from medseg.data.phantoms import thorax
from medseg.data.phantoms.chest import Chest
from medseg.data.phantoms.film import cover
from medseg.data.radiographs import NODES
from medseg.geometry import contour
from medseg.io import image

# Turning direction and places that anatomy names: the nodes drawn as important are among these.
DIRECTIONS = {
    "right_lung": -1,
    "left_lung": 1,
    "heart": 1,
    "right_clavicle": 1,
    "left_clavicle": -1,
}
PARTS = contour.slices(contour.contours(NODES))


@pytest.fixture(scope="module")
def cases():
    chest = Chest(n_train=16, n_val=0, n_test=4)
    return [chest.draw(record) for record in chest.records()]


@pytest.fixture(scope="module")
def people():
    return [thorax.draw(np.random.default_rng(seed)) for seed in range(150)]


def signed_area(points):
    x, y = points.T
    return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_every_organ_has_its_nodes_in_its_direction(people):
    for person in people:
        assert list(person.outlines) == list(NODES)
        for name, outline in person.outlines.items():
            assert outline.nodes.shape == (NODES[name], 2)
            assert np.sign(signed_area(outline.nodes)) == DIRECTIONS[name]


def test_nodes_lie_on_the_contour_and_keep_its_shape(people):
    for person in people[:10]:
        for outline in person.outlines.values():
            fine = contour.resample(outline.dense, 8000)
            gaps = np.linalg.norm(outline.nodes[:, None] - fine[None], axis=2).min(1)
            assert gaps.max() < 0.05
            area = signed_area(outline.nodes) / signed_area(outline.dense)
            assert area == pytest.approx(1, abs=0.02)


def test_important_nodes_are_where_anatomy_has_them(people):
    for person in people:
        right, left, heart = (person.outlines[n].nodes for n in list(NODES)[:3])
        for lung in (right, left):
            assert lung[0, 1] < lung[:, 1].min() + 3
            assert np.argmax(lung[:, 1]) == 21
        assert right[21, 0] < right[0, 0]
        assert left[21, 0] > left[0, 0]
        assert right[29] == pytest.approx(heart[0])
        assert left[27] == pytest.approx(heart[18])
        assert heart[6:13, 1].max() < heart[[0, 18], 1].min()
        assert heart[0, 0] < 0 < heart[18, 0]


def test_no_contour_crosses_itself(people):
    for person in people:
        for outline in person.outlines.values():
            assert contour.self_intersections(outline.nodes) == 0


def test_cardiothoracic_ratios_range_from_slim_to_enlarged(people):
    ratios = []
    for person in people:
        lungs = np.concatenate([person.outlines[n].nodes for n in ("right_lung", "left_lung")])
        heart = person.outlines["heart"].nodes
        ratios.append(float(np.ptp(heart[:, 0]) / np.ptp(lungs[:, 0])))
        assert ratios[-1] == pytest.approx(person.ctr, abs=0.01)
    assert 0.38 <= min(ratios) < 0.42
    assert 0.58 < max(ratios) <= 0.62


def test_flags_and_landmarks_say_the_same(cases):
    for picture, _ in cases:
        for bit, (name, part) in enumerate(PARTS.items()):
            points = picture.landmarks[part]
            drawn = (picture.flags >> bit & 1).astype(bool).T
            if np.isnan(points).all():
                assert not drawn.any()
                continue
            assert points.min() > 0
            assert points.max() < 256
            least = 0.98 if "clavicle" not in name else 0.9  # nine pixels high
            assert dice(cover(points, 256) >= 0.5, drawn) > least


def test_the_picture_shows_what_the_contours_say():
    chest = Chest(n_train=12, n_val=0, n_test=0, occluded=0, noise=0)
    for record in chest.records():
        picture, curves = chest.draw(record)
        grey = picture.pixels.T.astype(float)
        lungs = sum(cover(curves[n], 256) >= 0.99 for n in ("right_lung", "left_lung")) > 0
        heart = (cover(curves["heart"], 256) >= 0.99) & ~lungs
        assert grey[lungs].mean() + 25 < grey[heart].mean()


def test_polygons_are_covered_exactly():
    square = np.array([(2.25, 3), (6.5, 3), (6.5, 5), (2.25, 5)])
    share = cover(square, 8)
    assert share[3] == pytest.approx([0, 0, 0.75, 1, 1, 1, 0.5, 0])
    assert share.sum() == pytest.approx(4.25 * 2)
    assert cover(square[::-1], 8) == pytest.approx(share)
    assert cover(square - [4, 0], 8).sum() == pytest.approx(2.5 * 2)
    assert cover(square + 100, 8).sum() == 0


def test_some_cases_have_no_clavicles(cases):
    bare = [np.isnan(picture.landmarks[120:]).all() for picture, _ in cases]
    assert 0 < sum(bare) < len(bare) / 2
    assert not any(np.isnan(picture.landmarks[:120]).any() for picture, _ in cases)
    assert all(
        np.isnan(picture.landmarks[120:]).any() == without
        for (picture, _), without in zip(cases, bare, strict=True)
    )


def test_a_seed_gives_the_same_case_and_another_seed_another():
    def first(**arguments):
        chest = Chest(n_train=1, n_val=0, n_test=0, size=64, **arguments)
        return chest.load(chest.records()[0])

    one, again, other = first(seed=1), first(seed=1), first(seed=2)
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.landmarks, again.landmarks, equal_nan=True)
    assert not np.array_equal(one.image, other.image)
    assert not np.array_equal(one.landmarks[:94], other.landmarks[:94])


def test_splits_share_nobody_and_growing_one_changes_no_case():
    few, many = Chest(n_train=1, n_val=1, n_test=1, size=48), Chest(n_val=2, n_test=3, size=48)
    records = few.records()
    images = [few.load(record).image for record in records]
    assert len({image.tobytes() for image in images}) == 3
    assert all(
        np.array_equal(many.load(r).image, image) for r, image in zip(records, images, strict=True)
    )


def test_organs_are_chosen_and_ordered_by_the_recipe():
    organs = {"heart": 26, "left_lung": {"nodes": 50, "closed": True}}
    chest = Chest(n_train=1, n_val=0, n_test=0, organs=organs)
    every = Chest(n_train=1, n_val=0, n_test=0)
    record = chest.records()[0]
    some, full = chest.load(record), every.load(record)
    assert np.array_equal(some.landmarks[:26], full.landmarks[94:120])
    assert np.array_equal(some.landmarks[26:], full.landmarks[44:94])
    assert np.array_equal(some.target & 1, full.target >> 2 & 1)
    assert np.array_equal(some.target >> 1, full.target >> 1 & 1)


def test_written_files_hold_the_same_numbers(tmp_path):
    chest = Chest(n_train=3, n_val=1, n_test=1, size=64, unannotated=0.5)
    sheet = chest.write(tmp_path / "raw")
    with sheet.open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:6] == ["case", "subject", "image", "label", "split", "landmarks"]
    assert [row["split"] for row in rows] == ["train"] * 3 + ["val", "test"]
    for record, row in zip(chest.records(), rows, strict=True):
        sample = chest.load(record)
        read = image.read(sheet.parent / row["image"], spacing_mm=row["spacing_mm"])
        assert np.array_equal(read.image, sample.image)
        assert np.allclose(read.space.affine, sample.space.affine)
        labels, _, _ = image.read_labels(sheet.parent / row["label"])
        assert np.array_equal(labels, sample.target)
        points = read_points(sheet.parent / row["landmarks"], chest.contours)
        assert np.allclose(points, sample.landmarks, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_train": -1},
        {"size": 8},
        {"noise": -1},
        {"occluded": 2},
        {"unannotated": -0.5},
        {"organs": {"liver": 9}},
        {"organs": {"heart": 30}},
        {"organs": {"heart": {"nodes": 26, "closed": False}}},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        Chest(**wrong)
