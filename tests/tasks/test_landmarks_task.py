"""Contours as a task: what the loss counts, what is scored, and the road from training to files."""

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_prepared
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from medseg import config, losses
from medseg.data.framed import outlines
from medseg.data.landmarks import read_points
from medseg.data.pictures import numbered
from medseg.data.prepared import Prepared
from medseg.geometry import contour, graph
from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid
from medseg.models.hybridgnet import HybridGNet
from medseg.nn.shape import Encoding, Shape
from medseg.sample import Batch, Sample
from medseg.tasks.landmarks import Landmarks, rows_first

NODES = {"lung": 24, "heart": 13}
ORGANS = contour.contours(NODES)
PARTS = contour.slices(ORGANS)
N = 37
SIZE = 64
DOWN = torch.tensor(graph.down(ORGANS), dtype=torch.float32)


def rings(grow: float = 1.0, x: float = 0.0) -> torch.Tensor:
    """Two ellipses in units of the square, the second below the first."""
    found = []
    for organ, (cx, cy), (a, b) in zip(
        ORGANS, ((0.4, 0.35), (0.55, 0.7)), ((0.22, 0.15), (0.15, 0.12)), strict=True
    ):
        angle = torch.arange(organ.nodes) * (2 * math.pi / organ.nodes)
        nodes = torch.stack([a * angle.sin(), -b * angle.cos()], -1)
        found.append(torch.tensor([cx + x, cy]) + grow * nodes)
    return torch.cat(found)


class Stub(nn.Module):
    """A network that says the same whatever it is shown; all that it says can be learnt."""

    def __init__(self, landmarks, positions=(), covariance=None, pixels=None) -> None:
        super().__init__()
        self.landmarks = nn.Parameter(landmarks.clone()[None])
        self.positions = nn.ParameterList([nn.Parameter(p.clone()[None]) for p in positions])
        self.covariance = None if covariance is None else nn.Parameter(covariance.clone()[None])
        self.latent = nn.Parameter(torch.zeros(1, 4))
        self.pixels = pixels
        self.register_buffer("down", DOWN)

    def forward(self, image):
        return self.landmarks.expand(len(image), -1, -1)

    def encode(self, image):
        latent = self.latent.expand(len(image), -1)
        return Encoding(latent, torch.zeros_like(latent), ())

    def decode(self, latent, maps):
        del maps
        spread = [None if t is None else t.expand(len(latent), -1, -1)
                  for t in (self.landmarks, *self.positions, self.covariance)]  # fmt: skip
        return Shape(spread[0], tuple(spread[1:-1]), spread[-1])


def batch(landmarks: torch.Tensor, count: int = 1, *, masks: bool = True) -> Batch:
    """Cases of these landmarks, with the flags and outlines that they draw."""
    unit = torch.nan_to_num(landmarks).double().numpy()
    flags = contour.flags(unit * SIZE, ORGANS, shape=(SIZE, SIZE)).T.copy()
    space = Grid((SIZE, SIZE, 1), np.eye(4))
    drawn = Sample("a", np.zeros((1, SIZE, SIZE, 1)), space, ("image",), target=flags[..., None])
    lines = torch.from_numpy(outlines(drawn, ORGANS, frame=Frame.to(space, SIZE))).float()
    image = torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return Batch(
        image,
        torch.from_numpy(flags.astype(np.int32))[None].repeat(count, 1, 1) if masks else None,
        ("a",) * count,
        torch.ones(count, 1, dtype=torch.bool),
        landmarks[None].repeat(count, 1, 1),
        lines[None].repeat(count, 1, 1, 1) if masks else None,
    )


def whole(case: Batch) -> Batch:
    """The same as validation has it: with the third axis of one plane."""
    return replace(case, image=case.image[..., None], target=case.target[..., None].long())


def value(task: Landmarks, case: Batch) -> float:
    with torch.no_grad():
        return float(task.loss(case))


def test_a_perfect_network_has_no_loss() -> None:
    target = rings()
    task = Landmarks(Stub(target, [DOWN @ target, target]), NODES)
    assert value(task, batch(target, 2)) == pytest.approx(0, abs=1e-9)
    task.progress = 1.0
    assert value(task, batch(target, 2)) == pytest.approx(0, abs=1e-9)


def test_the_loss_is_a_hundred_times_the_mean_square_of_every_position() -> None:
    """Landmarks, coarse and fine positions each count; coarse ones by pairs of nodes."""
    target, off = rings(), torch.tensor([0.03, -0.04])
    square = 100 * (0.03**2 + 0.04**2) / 2
    for shifts in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
        found, coarse, fine = (
            t + s * off for t, s in zip((target, DOWN @ target, target), shifts, strict=True)
        )
        task = Landmarks(Stub(found, [coarse, fine]), NODES)
        assert value(task, batch(target, 2)) == pytest.approx(sum(shifts) * square, rel=1e-4)


def test_organs_that_nobody_annotated_get_no_gradient_at_all() -> None:
    target = rings()
    hidden = target.clone()
    hidden[PARTS["heart"]] = math.nan
    covariance = torch.full((N, 3), -2.0)
    stub = Stub(target + 0.05, [DOWN @ target + 0.05, target + 0.05], covariance)
    loss = Landmarks(stub, NODES).loss(batch(hidden))
    loss.backward()
    coarse = torch.cat([torch.zeros(12), torch.ones(7)]).bool()
    fine = torch.zeros(N, dtype=torch.bool)
    fine[PARTS["heart"]] = True
    for given, unknown in (
        (stub.landmarks, fine),
        (stub.positions[0], coarse),
        (stub.positions[1], fine),
        (stub.covariance, fine),
    ):
        assert not given.grad[0, unknown].any()
        assert given.grad[0, ~unknown].abs().sum() > 0
        assert given.grad.isfinite().all()


def test_a_real_network_learns_nothing_from_a_case_without_any_node() -> None:
    torch.manual_seed(0)
    net = HybridGNet(NODES, widths=(4, 6, 8), latent=6, width=8, lookups=(3, 2), bottleneck=2)
    case = batch(torch.full((N, 2), math.nan), masks=False)
    loss = Landmarks(net, NODES, kl=0.0).loss(case)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


def test_one_batch_holds_cases_of_other_organs() -> None:
    """The mean is over the nodes that are known, whichever case they are of."""
    target = rings()
    mixed = batch(target, 2)
    mixed.landmarks[1, PARTS["lung"]] = math.nan
    off = torch.zeros(N, 2)
    off[PARTS["heart"]] = 0.02
    task = Landmarks(Stub(target + off), NODES)
    assert value(task, mixed) == pytest.approx(100 * 0.02**2 * 26 / (37 + 13), rel=1e-4)


def test_the_divergence_grows_to_its_weight_in_the_first_half() -> None:
    stub = Stub(rings())
    with torch.no_grad():
        stub.latent.fill_(2.0)
    task = Landmarks(stub, NODES, kl=1e-3, kl_start=1e-5)
    found = []
    for task.progress in (0.0, 0.25, 0.5, 1.0):
        found.append(value(task, batch(rings())))
    assert found == pytest.approx([100 * w * 2.0 for w in (1e-5, 1e-4, 1e-3, 1e-3)], rel=1e-4)


def test_the_covariance_head_is_taught_by_the_residual_and_moves_no_landmark() -> None:
    target = rings()
    sure, unsure = (torch.tensor([s, s, 0.0]).repeat(N, 1) for s in (-5.0, -3.0))
    values = []
    for covariance in (sure, unsure):
        stub = Stub(target + 0.05, covariance=covariance)
        alone = Landmarks(stub, NODES, covariance=0.0).loss(batch(target))
        both = Landmarks(stub, NODES, covariance=1.0).loss(batch(target))
        values.append(float((both - alone).detach()))
        (gradient,) = torch.autograd.grad(both - alone, stub.landmarks)
        assert not gradient.any()
    assert values[1] < values[0], "an error of 0.05 is likelier with a deviation of 0.05"


@pytest.mark.parametrize("number", [0, 1])
def test_masks_alone_call_contours_onto_the_outlines(number: int) -> None:
    """Landmarks (0) and coarse positions (1): the nearer, the smaller; and descent goes there."""
    case = replace(batch(rings()), landmarks=None)
    values = []
    for grow in (1.5, 1.25, 1.0):
        places = [rings(), DOWN @ rings()]
        places[number] = rings(grow) if number == 0 else DOWN @ rings(grow)
        task = Landmarks(Stub(places[0], places[1:]), NODES, learn="masks")
        task.progress = 1.0
        values.append(value(task, case))
    assert values[2] < values[1] < values[0]


def test_descent_on_masks_ends_on_the_outlines() -> None:
    case = replace(batch(rings()), landmarks=None)
    stub = Stub(rings(1.4, x=0.06))
    task = Landmarks(stub, NODES, learn="masks")
    task.progress = 1.0
    optimizer = torch.optim.Adam([stub.landmarks], lr=4e-3)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(case).backward()
        optimizer.step()
    assert float(task.score(whole(case))["dice"]) > 0.93


def test_an_organ_without_an_outline_gets_no_gradient() -> None:
    case = replace(batch(rings()), landmarks=None)
    case.outlines[0, 1] = math.nan
    stub = Stub(rings(1.3), [DOWN @ rings(1.3)])
    Landmarks(stub, NODES, learn="masks", raster=1.0).loss(case).backward()
    assert not stub.landmarks.grad[0, PARTS["heart"]].any()
    assert not stub.positions[0].grad[0, 12:].any()
    assert stub.landmarks.grad[0, PARTS["lung"]].abs().sum() > 0


def test_the_drawn_overlap_joins_in_the_second_half() -> None:
    target = rings()
    tasks = [Landmarks(Stub(target + 0.04), NODES, raster=weight) for weight in (0.0, 1.0)]
    for progress, more in ((0.25, False), (0.75, True)):
        for task in tasks:
            task.progress = progress
        without, with_ = (value(task, batch(target)) for task in tasks)
        assert (with_ > without + 0.05) == more
    near, far = (Landmarks(Stub(rings(x=x)), NODES, raster=1.0) for x in (0.0, 0.1))
    near.progress = far.progress = 0.75
    assert float(near._overlap(rings()[None], batch(target))) < 0.1, "half a pixel of 64"
    assert float(far._overlap(rings(x=0.1)[None], batch(target))) > 0.3


def test_the_pixel_head_is_taught_by_rows_of_the_flags() -> None:
    """Logits lie rows first, flags columns first: a transposed head would score badly."""
    case = batch(rings())
    task = Landmarks(Stub(rings(), pixels=nn.Identity()), NODES)
    flags = case.target[0].T
    right = torch.stack([20.0 * (flags >> k & 1) - 10.0 for k in range(2)])[None]
    assert float(task._pixels(right, case)) < 1e-3
    assert float(task._pixels(right.transpose(2, 3), case)) > 1
    case.outlines[0, 1] = math.nan
    right[0, 1] = -right[0, 1]
    assert float(task._pixels(right, case)) < 1e-3, "an organ that nobody outlined counts not"


def test_perfect_contours_score_one() -> None:
    target = rings()
    found = Landmarks(Stub(target), NODES).score(whole(batch(target)))
    assert {name: float(value) for name, value in found.items()} == {
        "mse_px2": 0.0,
        "dice": 1.0,
        "loss": 0.0,
    }


def test_masks_score_contours_where_there_are_no_landmarks() -> None:
    target = rings()
    case = replace(whole(batch(target)), landmarks=None)
    found = Landmarks(Stub(target), NODES).score(case)
    assert set(found) == {"dice", "loss"}
    assert float(found["dice"]) == 1.0
    assert float(Landmarks(Stub(target.flip(-1)), NODES).score(case)["dice"]) < 0.7
    hidden = target.clone()
    hidden[PARTS["heart"]] = math.nan
    mixed = replace(whole(batch(target)), landmarks=hidden[None])
    both = Landmarks(Stub(target), NODES).score(mixed)
    assert (float(both["dice"]), float(both["mse_px2"])) == (1.0, 0.0)


def test_the_squared_error_is_in_pixels_at_1024() -> None:
    target = rings()
    shifted = target + torch.tensor([3.0, 5.0]) / 1024
    found = Landmarks(Stub(shifted), NODES).score(whole(batch(target)))
    assert float(found["mse_px2"]) == pytest.approx((9 + 25) / 2, rel=1e-4)


def test_numbering_forgets_where_an_outline_begins_and_which_way_it_turns() -> None:
    lines = torch.from_numpy(
        np.stack([contour.resample(rings()[p].double().numpy(), 128) for p in PARTS.values()])
    ).float()
    first = numbered(lines, ORGANS)
    for changed in (lines.roll(31, 1), lines.flip(1), lines.flip(1).roll(77, 1)):
        assert_close(numbered(changed, ORGANS), first, atol=1e-6, rtol=0)
    for organ, part in PARTS.items():
        nodes, centre = first[part], first[part].mean(0)
        assert nodes[:, 1].argmin() == 0, f"{organ} begins above its centre"
        assert abs(float(nodes[0, 0] - centre[0])) < 0.01
        x, y = (nodes - centre).T
        assert float((x * y.roll(-1) - x.roll(-1) * y).sum()) > 0, "clockwise on the image"
    lines[1] = math.nan
    assert numbered(lines, ORGANS)[PARTS["heart"]].isnan().all()


def test_rows_come_first_in_the_network() -> None:
    image = torch.arange(12.0).reshape(1, 1, 4, 3)
    assert torch.equal(rows_first(image), image.transpose(2, 3))
    assert torch.equal(rows_first(image[..., None]), image.transpose(2, 3))


@pytest.fixture
def prepared(tmp_path) -> Prepared:
    recipe = config.compose("train", ["experiment=hybridgnet_chest", "data.size=64"])
    return Prepared(tiny_prepared.prepared(tmp_path / "prepared", recipe))


class Mean(nn.Module):
    """What a task tells the network before training."""

    def set_mean(self, landmarks):
        self.mean = landmarks


def test_contours_start_from_the_mean_shape_of_training(prepared) -> None:
    records = prepared.records()[:2]
    net = Mean()
    Landmarks(net, prepared.meta["organs"]).begin(records, prepared=prepared, whole=None)
    both = [np.load(record.folder / "landmarks.npy") / 64 for record in records]
    assert_close(net.mean, torch.from_numpy(np.mean(both, axis=0)).float())
    (records[0].folder / "landmarks.npy").unlink()
    Landmarks(net, prepared.meta["organs"]).begin(records, prepared=prepared, whole=None)
    assert_close(net.mean, torch.from_numpy(both[1]).float())
    Landmarks(net, prepared.meta["organs"], learn="masks").begin(
        records, prepared=prepared, whole=None
    )
    assert net.mean.isfinite().all()


def test_learning_from_landmarks_without_any_is_refused(prepared) -> None:
    records = prepared.records()[:2]
    for record in records:
        (record.folder / "landmarks.npy").unlink()
    task = Landmarks(Mean(), prepared.meta["organs"])
    with pytest.raises(ValueError, match="no training case has landmarks"):
        task.begin(records, prepared=prepared, whole=None)
    bare = replace(batch(rings()), landmarks=None)
    with pytest.raises(ValueError, match="case a has no landmarks"):
        Landmarks(Stub(rings()), NODES).loss(bare)
    with pytest.raises(ValueError, match="case a has no outlines"):
        Landmarks(Stub(rings()), NODES, learn="masks").loss(replace(bare, outlines=None))


def test_two_steps_make_the_loss_of_a_real_network_smaller() -> None:
    torch.manual_seed(0)
    net = HybridGNet(NODES, widths=(4, 6, 8), latent=6, width=8, lookups=(3, 2), bottleneck=2,
                     pixels=True, covariance=True)  # fmt: skip
    task = Landmarks(net, NODES)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    values = []
    for _ in range(6):
        torch.manual_seed(1)
        optimizer.zero_grad()
        loss = task.loss(batch(rings(), 2))
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[2] < values[0]
    assert losses.kl(torch.zeros(1, 6), torch.zeros(1, 6)) == 0


def medseg(*words: object, cwd) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medseg.cli", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_phantom_is_learnt_and_a_png_predicted(tmp_path) -> None:
    """One step of training, then every file of a radiograph that is not square."""
    sizes = ["data.size=64", "data.source.size=64", "model.widths=[4,8,8,8,8]"]
    counts = [f"data.source.{name}" for name in ("n_train=8", "n_val=2", "n_test=2")]
    few = ["trainer.max_epochs=1", "trainer.steps_per_epoch=1", "trainer.batch_size=2"]
    medseg("train", "experiment=hybridgnet_chest", *sizes, *counts, *few, "--out", "run",
           cwd=tmp_path)  # fmt: skip
    spec = json.loads((tmp_path / "run/model/model.json").read_text())
    organs = spec["network"]["arguments"]["organs"]
    assert list(organs)[:3] == ["right_lung", "left_lung", "heart"]
    assert set(spec["gate"]["scales"]) >= {"image", "latent", "shape", "disagreement"}

    source = next((tmp_path / "data/prepared").rglob("raw/test-000.png"))
    film = np.asarray(Image.open(source))
    Image.fromarray(np.pad(film, ((10, 4), (60, 20)))).save(tmp_path / "film.png")
    medseg("predict", "run/model", "film.png", "--out", "out", "--samples", 3, cwd=tmp_path)
    names = {path.name for path in (tmp_path / "out").glob("film*")}
    endings = (".png", ".json", "_landmarks.csv", "_landmarks.json", "_overlay.png")
    assert names == {f"film{ending}" for ending in endings}
    known = contour.contours(organs)
    points = read_points(tmp_path / "out/film_landmarks.csv", known)
    label = np.asarray(Image.open(tmp_path / "out/film.png"))
    assert label.shape == (78, 144)
    np.testing.assert_array_equal(label, contour.flags(points, known, shape=label.shape))
    sidecar = json.loads((tmp_path / "out/film.json").read_text())
    assert sidecar["labels"]["heart"] == 4
    accepted, ratio = sidecar["quality"]["accepted"], sidecar["ctr"]
    assert isinstance(accepted, bool)
    assert (ratio is not None) == accepted, "no ratio is answered for an image that is refused"
    assert ratio is None or ratio["low"] <= ratio["value"] <= ratio["high"]
    rows = list(csv.DictReader((tmp_path / "out/film_landmarks.csv").open()))
    assert all(float(row["sd_x"]) > 0 and float(row["sd_y"]) > 0 for row in rows)
