import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from medseg.geometry.contour import contours
from medseg.metrics.familiarity import Familiarity, fit, held_out, image_features
from medseg.metrics.quality import (
    Gate,
    calibrate,
    disagreement,
    fault,
    orientation,
    quality,
    refused,
    shape_features,
    uncertainty,
)

SIDE = 64


def chest(seed):
    """A lopsided stand-in: two dark lungs of unequal length and a bright heart between them."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    image = np.full((SIDE, SIDE), 0.7)
    for x, y, tall, wide, depth in ((0.3, 0.45, 0.3, 0.13, -0.5), (0.7, 0.4, 0.24, 0.13, -0.5),
                                    (0.58, 0.66, 0.14, 0.2, 0.3)):  # fmt: skip
        dx, dy, size = generator.uniform([-0.02, -0.02, 0.9], [0.02, 0.02, 1.1])
        inside = ((columns - x - dx) / wide / size) ** 2 + ((rows - y - dy) / tall / size) ** 2
        image += depth / (1 + np.exp(8 * (inside - 1)))
    rough = gaussian_filter(generator.normal(size=image.shape), 1.5)
    return (image + 0.08 * rough) * generator.uniform(80, 150) + generator.uniform(-10, 30)


CHESTS = [chest(seed) for seed in range(60)]
COPIES = [shift(image, (1.5, -1.0), order=1, mode="nearest") for image in CHESTS]
IMAGES, GROUPS = [*CHESTS, *COPIES], np.tile(np.arange(60), 2)
UNSEEN = [chest(seed) for seed in range(100, 140)]


@pytest.fixture(scope="module")
def gate():
    generator = np.random.default_rng(1)
    return calibrate(
        IMAGES,
        groups=GROUPS,
        features={"latent": generator.normal(size=(120, 8))},
        signals={"disagreement": generator.uniform(0.01, 0.05, 120)},
    )


def judge(gate, image, *, latent=0.0, disagreement=0.03):
    return gate.judge(
        image, features={"latent": np.full(8, latent)}, signals={"disagreement": disagreement}
    )


def test_unseen_images_of_the_kind_are_kept(gate):
    found = [judge(gate, image) for image in UNSEEN]
    assert np.mean([verdict.accepted for verdict in found]) >= 0.95
    kept = [verdict for verdict in found if verdict.accepted]
    assert all(verdict.quality >= 0.5 and not verdict.reasons for verdict in kept)


def test_black_noise_other_views_and_turned_images_are_rejected(gate):
    generator = np.random.default_rng(2)
    others = [
        generator.integers(-1, 2, (SIDE, SIDE)).clip(0).astype(float),
        generator.uniform(0, 255, (SIDE, SIDE)),
        *(np.rot90(UNSEEN[0], k) for k in (1, 2, 3)),
        UNSEEN[0][20:44, 10:34],
        -UNSEEN[0],
    ]
    for image in others:
        verdict = judge(gate, image)
        assert not verdict.accepted
        assert verdict.quality < 0.5
        assert verdict.reasons
    mirrored = judge(gate, UNSEEN[0][:, ::-1])
    assert "mirrored left to right" in mirrored.reasons[0]


def test_one_loud_signal_is_enough_and_is_named(gate):
    wrong = judge(gate, UNSEEN[0], disagreement=0.6)
    assert not wrong.accepted
    assert "contours and pixel map do not agree (value 0.6, limit" in wrong.reasons[0]
    strange = judge(gate, UNSEEN[0], latent=9.0)
    assert "the network's latent features look unlike" in strange.reasons[0]
    for broken in (np.nan, np.inf):
        assert judge(gate, UNSEEN[0], disagreement=broken).quality < 1e-9
        assert judge(gate, UNSEEN[0], latent=broken).quality < 1e-9


def test_brightness_contrast_and_size_of_the_image_do_not_matter(gate):
    own = judge(gate, UNSEEN[1]).quality
    assert judge(gate, UNSEEN[1] * 16 + 500).quality == pytest.approx(own, abs=1e-6)
    large = UNSEEN[1].repeat(4, 0).repeat(4, 1)
    assert judge(gate, large).quality == pytest.approx(own, abs=0.1)


def test_the_gate_survives_json(gate):
    text = json.dumps(gate.to_json())
    assert len(text) < 120_000
    again = Gate.from_json(json.loads(text))
    for image in UNSEEN[:3]:
        assert judge(again, image).quality == pytest.approx(judge(gate, image).quality, abs=5e-3)
    with pytest.raises(ValueError, match="quality gate cannot be read"):
        Gate.from_json({"families": {}})


def test_a_gate_asks_for_what_it_knows(gate):
    with pytest.raises(ValueError, match="are known"):
        gate.judge(UNSEEN[0], features={}, signals={"disagreement": 0.0})
    with pytest.raises(ValueError, match="8 are known"):
        gate.judge(UNSEEN[0], features={"latent": np.ones(3)}, signals={"disagreement": 0.0})


def test_too_few_images_set_no_limit():
    with pytest.raises(ValueError, match="3 training images came"):
        calibrate(IMAGES[:3], groups=np.arange(3), features={}, signals={})


def test_the_score_is_one_half_at_the_threshold_and_falls():
    scores = [quality(d, threshold=3.0) for d in (0.0, 1.0, 3.0, 6.0, np.inf)]
    assert scores[0] == 1
    assert scores[2] == 0.5
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == pytest.approx(0, abs=1e-9)
    assert quality(np.nan, threshold=3.0) == 0


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8)), "one value everywhere"),
        (np.eye(64), "only 2 grey values"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.zeros((0, 4)), "empty"),
        (np.pad(np.arange(40.0).reshape(5, 8), 200), "nearly the whole image"),
    ],
)
def test_what_cannot_be_a_radiograph_is_said_before_the_network(image, said):
    reason = fault(image)
    assert said in reason
    assert refused(reason).quality == 0
    assert not refused(reason).accepted
    assert fault(CHESTS[0]) is None


def test_more_features_than_images_are_familiar_all_the_same():
    generator = np.random.default_rng(3)
    mixing = generator.normal(size=(10, 400))
    rows = generator.normal(size=(60, 10)) @ mixing + 0.1 * generator.normal(size=(60, 400))
    unseen = held_out(rows, np.arange(60))
    assert np.median(unseen) < 3
    family = fit(rows)
    assert family.distance(generator.normal(size=(5, 400)) * rows.std()).min() > unseen.max()
    back = Familiarity.from_json(json.loads(json.dumps(family.to_json())))
    np.testing.assert_allclose(back.distance(rows), family.distance(rows), rtol=0.02, atol=0.01)
    assert np.isinf(family.distance(np.full((1, 400), np.nan))).all()


def test_a_channel_that_never_moved_does_not_decide_alone():
    generator = np.random.default_rng(4)
    rows = np.concatenate([generator.normal(size=(80, 20)), np.zeros((80, 1))], axis=1)
    moved = rows[:1].copy()
    moved[0, -1] = 1e-3
    family = fit(rows)
    assert family.distance(moved)[0] == pytest.approx(family.distance(rows[:1])[0], abs=0.05)


def test_features_cannot_be_learned_from_nothing():
    with pytest.raises(ValueError, match="1 rows of features came"):
        fit(np.ones((1, 4)))
    with pytest.raises(ValueError, match="finite ones"):
        fit(np.full((5, 4), np.nan))


def test_orientation_names_the_turn_that_looks_most_familiar():
    family = fit(np.stack([image_features(image) for image in IMAGES]))
    gain, name = orientation(family, np.rot90(UNSEEN[0], 2))
    assert gain > 0.5
    assert name == "turned by 180 degrees"
    assert orientation(family, UNSEEN[0])[0] == 0


def test_signals_measure_what_they_say():
    masks = np.zeros((2, 10, 10), dtype=bool)
    masks[0, :5] = True
    assert disagreement(masks, masks) == 0
    assert disagreement(masks, ~masks) == 1
    half = masks.copy()
    half[0, 5:] = True
    assert disagreement(half, masks) == pytest.approx((1 - 2 * 50 / 150) / 2)
    points = np.random.default_rng(5).random((7, 2))
    assert uncertainty(np.tile([0.1, 0.3], (7, 1))) == pytest.approx(0.2)
    organs = contours({"heart": 4, "diaphragm": {"nodes": 3, "closed": False}})
    features = shape_features(points, organs)
    assert len(features) == 5 + 4
    assert np.isfinite(features).all()
