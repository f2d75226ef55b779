"""Windows cover a volume, and what comes back does not depend on how it was cut."""

import contextlib
import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg import inference, memory
from medseg.geometry.grid import Grid
from medseg.geometry.resample import Passage
from medseg.windows import Tiling


class Net(nn.Module):
    """A small network whose sizes must be even, as pooling and its inverse want it."""

    def __init__(self, ndim, n_channels=2, n_classes=3):
        super().__init__()
        convolution = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.enter = convolution(n_channels, 4, 3, padding=1)
        self.leave = convolution(4, n_classes, 1)
        self.pool = nn.AvgPool2d(2) if ndim == 2 else nn.AvgPool3d(2)
        self.stride = 2

    def forward(self, image):
        x = self.enter(image).relu()
        return self.leave(nn.functional.interpolate(self.pool(x), scale_factor=2) + x)


def network(ndim, seed=0):
    torch.manual_seed(seed)
    return Net(ndim).eval()


def volume(*shape, seed=0):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))


def window(forward, image, **changes):
    options = {"n_classes": 3, "ndim": 3, "slice_axis": 0, "patch_size": [8, 8, 8], "stride": 2}
    return inference.sliding_window(forward, image, **{**options, **changes})


def constant(windows):
    """The same three classes everywhere."""
    out = torch.zeros(len(windows), 3, *windows.shape[2:])
    out[:, 1], out[:, 2] = 1.0, -2.0
    return out


@pytest.mark.parametrize("shape", [(5, 8, 21), (3, 3, 3), (9, 17, 16), (1, 30, 2)])
@pytest.mark.parametrize(("ndim", "axis"), [(3, 0), (2, 0), (2, 1), (2, 2)])
def test_every_voxel_is_covered_and_weights_cancel(shape, ndim, axis):
    found = window(constant, volume(*shape), ndim=ndim, slice_axis=axis, patch_size=[8] * ndim)
    wanted = torch.tensor([0.0, 1.0, -2.0]).softmax(0)[:, None, None, None].expand(3, *shape)
    assert_close(found, wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flat_network_sees_the_slices_one_by_one(axis):
    image, net = volume(6, 8, 10), network(2)
    found = window(net, image, ndim=2, slice_axis=axis, patch_size=[4, 4])
    with torch.no_grad():
        wanted = torch.stack([net(s[None])[0].softmax(0) for s in image.unbind(axis + 1)], axis + 1)
    assert_close(found, wanted)


def test_a_window_as_large_as_the_volume_is_one_look():
    image, net = volume(8, 6, 10), network(3)
    with torch.no_grad():
        assert_close(window(net, image, patch_size=[64, 64, 64]), net(image[None])[0].softmax(0))


def test_sizes_are_padded_evenly_with_the_smallest_value():
    image = volume(5, 8, 8)
    seen = []

    def look(windows):
        seen.append(windows)
        return constant(windows)

    window(look, image, stride=4)
    (windows,) = seen
    assert windows.shape == (1, 2, 8, 8, 8)
    assert_close(windows[0, :, 1:6], image)
    for channel, values in zip(windows[0], image, strict=True):
        assert bool((channel[[0, 6, 7]] == values.min()).all())


@pytest.mark.parametrize("ndim", [2, 3])
def test_labels_do_not_depend_on_the_batch_size(ndim):
    image, net = volume(13, 18, 12), network(ndim)
    one, many = (window(net, image, ndim=ndim, patch_size=[8] * ndim, batch_size=n) for n in (1, 5))
    assert_close(one, many)
    assert bool((one.argmax(0) == many.argmax(0)).all())


@pytest.mark.parametrize(("ndim", "axis"), [(2, 1), (3, 0)])
def test_mirroring_makes_predictions_of_mirrored_images_mirrored(ndim, axis):
    image, net = volume(8, 8, 12), network(ndim)
    options = {"ndim": ndim, "slice_axis": axis, "patch_size": [8] * ndim, "mirror": True}
    made = window(net, image, **options)
    for flip in itertools.combinations([a + 1 for a in range(3) if ndim == 3 or a != axis], 2):
        assert_close(window(net, image.flip(flip), **options), made.flip(flip))
    assert not torch.allclose(made, window(net, image, **{**options, "mirror": False}))


def test_slabs_come_in_order_and_are_small():
    tiling = Tiling(3, 0, (8, 8, 8), (2, 2, 2))
    walk = inference.slabs(
        network(3), volume(40, 8, 8), tiling=tiling, n_classes=3, axis=0, batch_size=1
    )
    pieces = [(start, part.shape[1]) for start, part in walk]
    assert [start for start, _ in pieces] == [0, *itertools.accumulate(n for _, n in pieces[:-1])]
    assert max(n for _, n in pieces) <= 8


@pytest.mark.parametrize(
    "out", [lambda x: x[:, :1], lambda x: x[:, :, 1:], lambda x: x * torch.nan]
)
def test_a_network_that_does_not_fit_is_an_error(out):
    with pytest.raises(ValueError, match="the network"):
        window(lambda x: out(constant(x)), volume(8, 8, 8))


def test_a_card_that_is_too_small_gets_smaller_batches():
    sizes = []

    def small(windows):
        if len(windows) > 1:
            raise torch.OutOfMemoryError("too many")
        sizes.append(len(windows))
        return constant(windows)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        window(small, volume(16, 16, 8), batch_size=4)
    assert set(sizes) == {1}
    assert "1 windows at a time" in str(caught[-1].message)


def members(*tilings):
    nets = [network(t.ndim, seed=n) for n, t in enumerate(tilings)]
    return [inference.Member(n, t, n) for n, t in zip(nets, tilings, strict=True)]


def test_members_that_cut_differently_are_averaged():
    image = volume(14, 12, 10)
    flat = Tiling(2, 1, (4, 4), (2, 2))
    team = members(Tiling(3, 0, (8,) * 3, (2,) * 3), flat, Tiling(3, 0, (6, 4, 12), (2,) * 3))
    walks = [inference.slabs(m.forward, image, tiling=m.tiling, n_classes=3, axis=0) for m in team]
    both = torch.cat([part.clone() for _, part in inference.mean_of(walks, 0)], 1)
    alone = [
        window(m.forward, image, ndim=t.ndim, slice_axis=t.slice_axis, patch_size=t.patch_size)
        for m in team
        for t in [m.tiling]
    ]
    assert_close(both, torch.stack(alone).mean(0))


@pytest.mark.parametrize("spacing", [None, (1.0, 2.0, 1.5)])
def test_scores_in_a_file_give_the_same_labels(spacing, tmp_path):
    native = Grid((12, 9, 14), np.diag([1.2, -1.5, 2.0, 1.0])[[1, 0, 2, 3]])
    passage = Passage.to(native, spacing)
    image = volume(*passage.working.shape).numpy()
    team = members(Tiling(3, 0, (8, 8, 8), (2, 2, 2)))
    found = [
        inference.segment(
            team, image, passage=passage, n_classes=3, wish=inference.Wish(spill=folder)
        )
        for folder in (None, tmp_path)
    ]
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    assert found[0].labels.shape == native.shape
    assert found[0].labels.dtype == np.uint8
    assert len(np.unique(found[0].labels)) > 1
    assert not list(tmp_path.iterdir())


def test_entropy_is_zero_for_certainty_and_one_for_none():
    p = torch.tensor([[1.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.0]])
    assert_close(inference.entropy(p), torch.tensor([0.0, 1.0, np.log(2) / np.log(3)]).float())


def test_of_two_equal_pieces_the_same_stays_in_any_orientation():
    labels = np.zeros((7, 6, 5), np.uint8)
    labels[0:2, 1, 1] = labels[4:6, 3, 3] = 1
    labels[3, 5, 4] = 2
    labels[0, 0, 0] = 2
    base = Passage.to(Grid(labels.shape, np.eye(4)))
    kept = inference.keep_largest(labels, [1], passage=base)
    assert (kept == 1).sum() == 2
    assert (kept == 2).sum() == 2
    flipped = np.diag([-1.0, -1, 1, 1])
    flipped[:3, 3] = [6, 5, 0]
    turned = Passage.to(Grid(labels.shape, flipped))
    again = inference.keep_largest(labels[::-1, ::-1].copy(), [1], passage=turned)
    np.testing.assert_array_equal(again[::-1, ::-1], kept)


def test_sizes_of_memory_are_read_and_written():
    assert memory.parse_size("4G") == 4 << 30
    assert memory.parse_size("1.5 GiB") == 3 << 29
    assert memory.parse_size("700m") == 700 << 20
    assert memory.parse_size(memory.format_size(123456789)) >= 123456789
    for text in ("", "4X", "G", "-1G", "0"):
        with pytest.raises(ValueError, match="--max-memory"):
            memory.parse_size(text)


def test_live_features_are_counted():
    x = 4 * 100 * 100
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    assert memory.activation_bytes(net, (1, 1, 100, 100)) == 2 * (x + 8 * x + 8 * x)


def test_smaller_batches_come_first_then_the_file_then_the_error():
    load = memory.Load(
        held=100 << 20, n_classes=10, working=1 << 20, native=1 << 20, planes=1 << 10, members=1,
        spillable=True, stored=True, whole=False, activations=lambda n: n * (10 << 20),
    )  # fmt: skip
    needs = {(n, s): load.bytes(n, spill=s) for n in (4, 2, 1) for s in (False, True)}
    assert memory.choose(load, limit=None, batch_size=4) == (4, False)
    for (size, spill), need in needs.items():
        found = memory.choose(load, limit=need, batch_size=4)
        assert load.bytes(found[0], spill=found[1]) <= need
        assert found[1] <= spill
        assert found[0] >= size or found[1] < spill
    least = min(needs.values())
    with pytest.raises(ValueError, match="would do") as error:
        memory.choose(load, limit=least - 1, batch_size=4)
    enough = memory.parse_size(str(error.value).split("--max-memory ")[2].split()[0])
    assert memory.choose(load, limit=enough, batch_size=4)[1]


class Card(torch.Tensor):
    """A tensor of the processor that says it is on a card."""

    device = torch.device("cuda")


@pytest.mark.parametrize("supported", [True, False])
def test_a_card_computes_in_bfloat16_where_it_has_it(monkeypatch, supported):
    types = []

    def autocast(_, dtype):
        types.append(dtype)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: supported)
    monkeypatch.setattr(torch, "autocast", autocast)
    windows = torch.zeros(1).as_subclass(Card)
    exact = []
    for trained in (None, "bf16-mixed", "32-true"):

        def look(_):
            exact.append(not torch.backends.cudnn.allow_tf32)
            return torch.zeros(1)

        inference.half(look, trained)(windows)
    assert types == [torch.bfloat16 if supported else torch.float16] * 2
    assert exact == [False, False, True]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("trained", "atol", "share"), [(None, 5e-2, 0.98), ("32-true", 1e-4, 0.9999)]
)
def test_the_card_gives_the_labels_of_the_processor(trained, atol, share):
    """bfloat16 keeps 8 bits of each feature, float32 all but the order of sums."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    image, net = volume(24, 24, 24), network(3)
    passage = Passage.to(Grid((24, 24, 24), np.eye(4)))
    made = []
    for device in ("cpu", "cuda"):
        moved = net.to(device)
        forward = inference.half(moved, trained)
        team = [inference.Member(forward, Tiling(3, 0, (16,) * 3, (2,) * 3), moved)]
        wish = inference.Wish(device=device, probabilities=True)
        options = {"passage": passage, "n_classes": 3, "wish": wish}
        made.append(inference.segment(team, image.numpy(), **options))
    np.testing.assert_allclose(made[0].probabilities, made[1].probabilities, atol=atol)
    assert (made[0].labels == made[1].labels).mean() >= share
