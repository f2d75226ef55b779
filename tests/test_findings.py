"""What is written about a radiograph: numbers that agree with each other and with the image."""

import argparse
import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from medseg import findings
from medseg.data.landmarks import read_points, write_points_csv
from medseg.delineation import Delineation
from medseg.geometry import contour
from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid
from medseg.models.hybridgnet import HybridGNet
from medseg.sample import Sample
from medseg.tasks import landmarks as task

NODES = {"right_lung": 12, "left_lung": 12, "heart": 12, "rim": {"nodes": 5, "closed": False}}
ORGANS = contour.contours(NODES)
PARTS = contour.slices(ORGANS)
N = 41
SIZE = 64
COLUMNS, ROWS = 120, 90


def ring(x: float, y: float, *, wide: float, high: float) -> np.ndarray:
    """Twelve nodes; four of them on the axes of the ellipse."""
    angle = np.arange(12) * np.pi / 6
    return np.array([x, y]) + np.stack([wide / 2 * np.cos(angle), high / 2 * np.sin(angle)], 1)


def chest() -> np.ndarray:
    """Unit coordinates: a chest 0.8 wide, a heart 0.36 wide."""
    lungs = ring(0.25, 0.5, wide=0.3, high=0.5), ring(0.75, 0.5, wide=0.3, high=0.5)
    rim = np.stack([np.linspace(0.2, 0.8, 5), np.full(5, 0.7)], 1)
    return np.concatenate([*lungs, ring(0.52, 0.6, wide=0.36, high=0.2), rim])


def delineation(unit: np.ndarray, *, samples: np.ndarray | None = None, sd: float = 0.0):
    samples = unit[None] if samples is None else samples
    away = samples - unit
    covariance = np.einsum("kni,knj->nij", away, away) / max(1, len(samples) - 1)
    return Delineation(
        landmarks=unit,
        samples=samples,
        covariance=covariance + sd**2 * np.eye(2),
        latent=np.zeros(3),
        displacement=None,
        organs=None,
        features={},
    )


def radiograph(columns: int = COLUMNS, rows: int = ROWS, **fields: object) -> Sample:
    values = np.random.default_rng(0).uniform(0, 255, (1, columns, rows, 1)).astype(np.float32)
    given = {"id": "wide", "image": values, "space": Grid((columns, rows, 1), np.eye(4))}
    return Sample(**{**given, "channels": ("image",), **fields})


FRAME = Frame.to(radiograph().space, SIZE)


def as_csv(text: str, path) -> np.ndarray:
    path.write_text(text)
    return read_points(path, ORGANS)


def test_the_table_lies_in_pixels_of_an_oblong_image(tmp_path) -> None:
    """The square's side is the image's width, and the image is centred in it."""
    found = as_csv(findings.table(FRAME, delineation(chest()), organs=ORGANS), tmp_path / "a.csv")
    expected = chest() * COLUMNS - np.array([0, (COLUMNS - ROWS) / 2])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found >= 0).all()
    assert (found <= [COLUMNS, ROWS]).all()


def test_csv_and_json_agree() -> None:
    found = delineation(chest(), sd=0.01)
    rows = list(csv.DictReader(io.StringIO(findings.table(FRAME, found, organs=ORGANS))))
    content = json.loads(findings.points(FRAME, found, organs=ORGANS))["organs"]
    assert list(content) == list(NODES)
    assert len(rows) == N
    assert not content["rim"]["closed"]
    for row in rows:
        own = content[row["organ"]]
        index = int(row["index"])
        xy = [float(row["x"]), float(row["y"])]
        np.testing.assert_allclose(own["points"][index], xy, atol=6e-4)
        np.testing.assert_allclose(own["sd"][index], [0.01 * COLUMNS] * 2, atol=6e-4)
        np.testing.assert_allclose([float(row["sd_x"]), float(row["sd_y"])], 0.01 * COLUMNS)


def test_pixels_that_are_not_square_scale_each_axis() -> None:
    """Half as high as wide: the same shape takes twice the rows."""
    space = Grid((100, 200, 1), np.diag([1.0, 0.5, 1.0, 1.0]))
    frame = Frame.to(space, SIZE)
    rows = list(
        csv.DictReader(
            io.StringIO(findings.table(frame, delineation(chest(), sd=0.01), organs=ORGANS))
        )
    )
    heart = np.array([[float(r["x"]), float(r["y"])] for r in rows if r["organ"] == "heart"])
    np.testing.assert_allclose(np.ptp(heart, axis=0), [36, 40], atol=1e-3)
    assert (rows[0]["sd_x"], rows[0]["sd_y"]) == ("1.0000", "2.0000")


def test_the_ratio_of_a_made_shape_is_exact() -> None:
    told = findings.facts(radiograph(), FRAME, found=delineation(chest()), organs=ORGANS)
    assert told["ctr"] == {"value": 0.45, "sd": 0.0, "low": 0.45, "high": 0.45, "enlarged": 0.0}
    assert told["labels"] == {"right_lung": 1, "left_lung": 2, "heart": 4, "rim": 8}
    assert told["spacing_mm"] == [1.0, 1.0]
    some = [organ for organ in ORGANS if organ.name != "heart"]
    bare = delineation(np.delete(chest(), np.r_[PARTS["heart"]], axis=0))
    assert findings.facts(radiograph(), FRAME, found=bare, organs=some)["ctr"] is None


def test_the_ratios_spread_is_that_of_its_ends() -> None:
    """Hearts of three widths; then nodes that are uncertain by themselves."""
    widths = (0.28, 0.36, 0.44)
    samples = np.stack([chest()] * 3)
    for draw, width in zip(samples, widths, strict=True):
        draw[PARTS["heart"]] = ring(0.52, 0.6, wide=width, high=0.2)
    drawn = findings.facts(
        radiograph(), FRAME, found=delineation(chest(), samples=samples), organs=ORGANS
    )["ctr"]
    assert drawn["value"] == 0.45
    assert drawn["enlarged"] == pytest.approx(1 / 3, abs=1e-4)
    assert drawn["sd"] >= round(float(np.std([w / 0.8 for w in widths], ddof=1)), 4)
    assert drawn["low"] < 0.45 < drawn["high"]
    own = findings.facts(radiograph(), FRAME, found=delineation(chest(), sd=0.01), organs=ORGANS)
    # Two ends of the heart, two of the chest, each by 0.01: sqrt(2 + 2 * 0.45 ** 2) * 0.01 / 0.8
    assert own["ctr"]["sd"] == pytest.approx(np.sqrt(2 + 2 * 0.45**2) * 0.01 / 0.8, abs=1e-4)
    assert own["uncertainty_px"] == pytest.approx(0.01 * COLUMNS)


def network(seed: int = 0) -> HybridGNet:
    torch.manual_seed(seed)
    return HybridGNet(
        NODES, widths=(4, 6, 8), latent=6, width=8, order=2, lookups=(3, 2), bottleneck=2
    ).eval()


class Nets:
    """What a task asks of the networks of a call."""

    device = "cpu"

    def __init__(self, *networks: HybridGNet, **spec: object) -> None:
        self.packages = [type("Package", (), {"network": net})() for net in networks]
        data = {"size": SIZE, "intensity": "percentile", "channels": ["image"]}
        self.spec = {"task": {"name": "landmarks"}, **data, **spec}


def options(samples: int = 3) -> argparse.Namespace:
    return argparse.Namespace(samples=samples, robustness=False, reference=None, no_overlay=False)


def test_flags_are_the_contours_of_the_table(tmp_path) -> None:
    """The label of an image that is not square is what its own CSV file draws."""
    sample = radiograph()
    made, told = task.predict(sample, Nets(network()), options=options())
    points = as_csv(made["landmarks.csv"], tmp_path / "wide.csv")
    expected = contour.flags(points, ORGANS, shape=(ROWS, COLUMNS))
    np.testing.assert_array_equal(made["labels"][..., 0].T, expected)
    assert made["labels"].shape == (COLUMNS, ROWS, 1)
    assert expected.any()
    content = json.loads(made["landmarks.json"])["organs"]
    listed = np.concatenate([content[name]["points"] for name in NODES])
    np.testing.assert_allclose(listed, points, atol=6e-4)
    assert told["quality"]["accepted"] is None, "no gate, no verdict"


def test_a_constant_image_is_refused() -> None:
    black = radiograph(image=np.zeros((1, COLUMNS, ROWS, 1), np.float32))
    _, told = task.predict(black, Nets(network()), options=options())
    assert told["quality"]["accepted"] is False
    assert told["quality"]["score"] == 0
    assert "one value everywhere" in told["quality"]["reasons"][0]


def test_fewer_than_two_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 draws"):
        task.predict(radiograph(), Nets(network()), options=options(1))


def test_robustness_lists_every_node_of_every_perturbation() -> None:
    net = network()
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    text = findings.robustness(image, [net], frame=FRAME, organs=ORGANS)
    rows = list(csv.DictReader(io.StringIO(text)))
    kinds = {(row["kind"], row["level"], row["repeat"]) for row in rows}
    assert len(rows) == N * len(kinds)
    with torch.no_grad():
        whole = FRAME.to_pixels(net(image)[0].double().numpy())
    same = [row for row in rows if (row["kind"], row["level"]) == ("occlusion", "0")]
    listed = np.array([[float(row["x"]), float(row["y"])] for row in same])
    np.testing.assert_allclose(listed, whole, atol=1e-3)


def test_a_picture_is_drawn_for_images_of_any_range() -> None:
    told = findings.facts(radiograph(), FRAME, found=delineation(chest()), organs=ORGANS)
    told["quality"] = {"score": 0.2, "accepted": False, "reasons": ["<odd> & $strange$"]}
    for scale in (1.0, 1e-6, 0.0):
        sample = radiograph(image=radiograph().image * scale)
        png = findings.picture(
            sample, FRAME, found=delineation(chest(), sd=0.01), organs=ORGANS, facts=told
        )
        assert Image.open(io.BytesIO(png)).size[0] > 100


@pytest.fixture
def known(tmp_path):
    """Three radiographs with points, labels, or nothing; the sheet's names are not the files'."""
    rng = np.random.default_rng(0)
    rows = ["case,image,label,landmarks"]
    x = np.arange(COLUMNS)
    points = FRAME.to_pixels(chest()).round(4)
    flags = contour.flags(points, ORGANS, shape=(ROWS, COLUMNS))
    for number, kind in enumerate(("points", "label", "bare")):
        image = 60 * (flags & 1) + 40 * (flags & 2) + 20 * (flags & 4) + 30 * np.sin(x / 9 + number)
        grey = np.clip(image + 40 + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{kind}.png")
        label = points_file = ""
        if kind == "points":
            points_file = "points.csv"
            write_points_csv(tmp_path / points_file, points, contours=ORGANS)
        if kind == "label":
            label = "label_flags.png"
            Image.fromarray(flags).save(tmp_path / label)
        rows.append(f"case-{kind},{kind}.png,{label},{points_file}")
    (tmp_path / "samples.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def reverse(known) -> findings.Reverse:
    nets = Nets(network())
    return findings.Reverse(
        known / "samples.csv", [p.network for p in nets.packages], spec=nets.spec, device="cpu"
    )


def ids(found) -> list[str]:
    return [row["id"] for row in found["per_reference"]]


def test_references_are_the_cases_with_points_or_a_label(known) -> None:
    judge = reverse(known)
    assert [reference.id for reference in judge.references] == ["case-points", "case-label"]
    first, second = (reference.load() for reference in judge.references)
    np.testing.assert_array_equal(first.flags, second.flags)
    assert first.image.shape == first.flags.shape == (ROWS, COLUMNS)
    (known / "samples.csv").write_text("case,image\nbare,bare.png\n")
    with pytest.raises(ValueError, match="no radiograph with a label or landmarks"):
        reverse(known)


def test_a_case_is_never_compared_with_itself(known) -> None:
    """Neither by its name in the sheet, nor as a file of another name with the same pixels."""
    judge = reverse(known)
    flags = judge.references[0].load().flags
    samples = {r.case: judge.table.load(r, with_target=False) for r in judge.table.records()}
    latent = judge.references[0].latent
    assert ids(judge(samples["case-points"], flags, latent=latent)) == ["case-label"]
    assert sorted(ids(judge(samples["case-bare"], flags, latent=latent))) == [
        "case-label",
        "case-points",
    ]
    renamed = samples["case-points"].with_(id="points")
    assert ids(judge(renamed, flags, latent=latent)) == ["case-label"]
