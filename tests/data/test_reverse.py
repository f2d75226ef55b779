import numpy as np
import pytest

from medseg.data.reverse import Known, Reference, nearest, reverse_accuracy
from medseg.geometry.contour import contours, flags

ORGANS = contours({"right_lung": 44, "left_lung": 50, "heart": 26})


def case(seed, shift=(0.0, 0.0)):
    """A soft ellipse in a soft box; flag 1 is the ellipse."""
    rows, columns = np.mgrid[:96, :96] - 47.5
    generator = np.random.default_rng(seed)
    grow, y, x = generator.uniform(0.9, 1.1), *generator.uniform(-4, 4, 2)
    inside = ((rows - y) / 30 / grow) ** 2 + ((columns - x) / 18 / grow) ** 2
    image = 1 / (1 + np.exp((inside - 1) * 6)) + 0.3 * (np.abs(columns - x) < 36)
    moved = ((rows - y - shift[0]) / 30 / grow) ** 2 + ((columns - x - shift[1]) / 18 / grow) ** 2
    return Known(image + generator.normal(0, 0.02, image.shape), (moved < 1).astype(np.uint8))


def references(count, latents=None):
    latents = np.eye(count) if latents is None else latents
    return [Reference(f"r{k}", latents[k], lambda k=k: case(k + 10)) for k in range(count)]


def test_the_nearest_by_cosine_are_compared_and_only_those_are_read():
    read = []
    latents = np.array([[1.0, 0.0], [0.0, 9.0], [0.5, 0.5], [-1.0, 0.0]])
    known = [
        Reference(f"r{k}", latents[k], lambda k=k: read.append(k) or case(k)) for k in range(4)
    ]
    found = reverse_accuracy(
        case(0).image, case(0).flags, latent=np.array([2.0, 0.1]), references=known, n=2
    )
    assert read == [0, 2]
    assert [row["id"] for row in found["per_reference"]] == ["r0", "r2"]
    assert found["max"] == max(row["dice"] for row in found["per_reference"])
    assert found["mean"] == pytest.approx(np.mean([row["dice"] for row in found["per_reference"]]))
    assert nearest(np.array([0.0, 1.0]), known, n=1)[0][0].id == "r1"


def test_a_right_mask_scores_high_and_a_shifted_one_low():
    latent, known = np.ones(2), references(2)
    right = reverse_accuracy(case(0).image, case(0).flags, latent=latent, references=known)
    wrong = case(0, shift=(14, 14))
    low = reverse_accuracy(wrong.image, wrong.flags, latent=latent, references=known)
    assert right["mean"] > 0.88
    assert low["mean"] < 0.7


def test_an_organ_that_is_not_predicted_counts_as_nothing():
    blank = np.zeros_like(case(0).flags)
    found = reverse_accuracy(case(0).image, blank, latent=np.ones(2), references=references(2))
    assert found["mean"] == 0


def test_an_image_that_cannot_be_registered_has_no_score_but_a_reason():
    found = reverse_accuracy(
        np.zeros((64, 48)), np.ones((64, 48), dtype=np.uint8), latent=np.ones(2),
        references=references(1, np.ones((1, 2))),
    )  # fmt: skip
    assert found["mean"] is found["max"] is None
    assert "one value everywhere" in found["per_reference"][0]["error"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"references": []}, "no reference cases came"),
        ({"n": 0}, "n=0"),
        ({"latent": np.ones(7)}, "both must come from one model"),
    ],
)
def test_what_does_not_fit_is_said(change, said):
    given = {"flags": case(0).flags, "latent": np.ones(2), "references": references(2), "n": 5}
    given |= change
    with pytest.raises(ValueError, match=said):
        reverse_accuracy(case(0).image, given.pop("flags"), **given)


def radiograph(folder, name):
    from PIL import Image

    with Image.open(folder / f"images/{name}.jpg") as file:
        image = np.asarray(file.convert("L"), dtype=np.float32)
    points = np.load(folder / f"landmarks/{name}.npy")[:120] / 2
    return image, points


def test_on_radiographs_right_masks_score_higher_than_wrong_ones(reference):
    folder = reference / "data/jsrt"
    names = [line.split(".")[0] for line in (folder / "val.txt").read_text().split()]
    shape = (512, 512)

    def load(name):
        image, points = radiograph(folder, name)
        return Known(image, flags(points, ORGANS, shape=shape))

    def thumb(name):
        image, _ = radiograph(folder, name)
        small = image.reshape(32, 16, 32, 16).mean((1, 3)).ravel()
        return small - small.mean()

    known = [Reference(n, thumb(n), lambda n=n: load(n)) for n in names[2:]]
    for name in names[:2]:
        image, points = radiograph(folder, name)
        scores = []
        for drawn in (points, points + np.array([60, 40])):
            predicted = flags(np.clip(drawn, 0, 511), ORGANS, shape=shape)
            found = reverse_accuracy(image, predicted, latent=thumb(name), references=known, n=3)
            scores.append(found["mean"])
        assert scores[0] > 0.75
        assert scores[0] > scores[1] + 0.1
