"""Made-up skies: exact labels, one scene at every nside, and that no threshold finds them."""

import healpy
import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medseg.data.phantoms.sky import LABELS, Sky
from medseg.geometry.sphere import centres


def case(nside=16, number=0, **options):
    sky = Sky(n_train=number + 1, n_val=0, n_test=0, nside=nside, **options)
    return sky.draw(sky.records()[number])


def siblings(values):
    """Values of the four children of each parent, last axis."""
    return values.reshape(*values.shape[:-1], -1, 4)


def test_every_class_is_there_and_most_is_background():
    shares = [np.bincount(case(number=n)[1], minlength=4) / 3072 for n in range(8)]
    assert np.min(shares) > 0.005
    assert 0.6 < np.mean(shares, 0)[0] < 0.8


@pytest.mark.parametrize("number", range(3))
def test_labels_are_where_the_light_jumps(number):
    maps, labels = case(64, number, noise_uk=0.0)
    steps = np.ptp(siblings(maps.sum(0)), axis=-1)
    kinds = siblings(labels)
    mixed = (kinds.min(-1) == 0) & (kinds.max(-1) > 0)
    alone = kinds.min(-1) == kinds.max(-1)
    # the faintest object adds 162 µK to the sum of both maps, and smooth ones change by less
    assert mixed.sum() > 50
    assert steps[alone].max() < 80 < steps[mixed].min()


def test_one_seed_is_one_sky_at_every_nside():
    (coarse, few), (fine, many) = (case(nside, noise_uk=0.0) for nside in (16, 32))
    alike = (siblings(many) == few[:, None]).mean()
    assert alike > 0.95
    inner = (siblings(many) == few[:, None]).all(-1)
    # a parent's centre is where its children meet; the field bends little between them
    off = siblings(fine).mean(-1) - coarse
    assert np.abs(off[:, inner]).max() < 10


def pieces(there):
    """The pixels of each connected piece of a NESTED map."""
    number = np.flatnonzero(there)
    around = healpy.get_all_neighbours(healpy.npix2nside(len(there)), number, nest=True)
    start, end = np.repeat(number, 8), around.T.ravel()
    both = (end >= 0) & there[end]
    shape = (len(there), len(there))
    links = coo_array((np.ones(both.sum()), (start[both], end[both])), shape)
    kinds = connected_components(links, directed=False)[1][number]
    return [number[kinds == kind] for kind in np.unique(kinds)]


@pytest.mark.parametrize("number", range(2))
def test_sources_are_whole_discs_of_their_sizes(number):
    labels = case(64, number)[1]
    vectors = centres(64)
    found = pieces(labels == LABELS["source"])
    assert 4 <= len(found) <= 9
    for disc in found:
        middle = vectors[disc].mean(0)
        apart = np.degrees(np.arccos(np.clip(vectors @ middle / np.linalg.norm(middle), -1, 1)))
        radius = apart[disc].max()
        assert 4.5 < radius < 14.5  # 5 to 14 degrees, and pixels are 0.9 wide
        assert (labels[apart < radius - 0.9] == LABELS["source"]).all()


def best_interval(values, there, levels=100):
    """The best overlap that an interval of values has with a class, chosen by the truth."""
    bounds = np.quantile(values, np.linspace(0, 1, levels))
    place = np.searchsorted(bounds, values, side="right").clip(1, levels) - 1
    hits, all_ = (
        np.concatenate([[0], np.cumsum(np.bincount(place, weights, minlength=levels))])
        for weights in (there.astype(float), None)
    )
    inner, count = hits[None] - hits[:, None], all_[None] - all_[:, None]
    overlap = inner / np.maximum(count + there.sum() - inner, 1)
    return overlap[np.triu_indices(levels + 1)].max()


def test_no_threshold_or_interval_finds_the_classes():
    drawn = [case(number=n) for n in range(12)]
    maps, labels = (np.stack(part) for part in zip(*drawn, strict=True))
    low, high = maps[:, 0], maps[:, 1]
    for values in (low, high):
        found = [best_interval(values.ravel(), (labels == k).ravel()) for k in range(4)]
        assert np.mean(found) < 0.55
        assert np.mean(found[1:]) < 0.45
    # the difference shows two colours, no hot spot, and is too noisy for a pixel on its own
    found = [best_interval((high - low).ravel(), (labels == k).ravel()) for k in (1, 2, 3)]
    assert np.mean(found) < 0.6


def test_cases_differ_and_stay_when_a_split_grows():
    few, many = (Sky(n_train=n, n_val=1, n_test=1) for n in (2, 5))
    same = [r for r in many.records() if r in few.records()]
    assert len(same) == 4
    maps = [few.draw(record)[0] for record in same]
    assert all(np.array_equal(a, many.draw(r)[0]) for a, r in zip(maps, same, strict=True))
    assert len({m.tobytes() for m in maps}) == 4


def test_equal_seeds_write_equal_files_that_read_as_they_were_drawn(tmp_path):
    sky = Sky(n_train=1, n_val=0, n_test=1, nside=8)
    sheets = [sky.write(tmp_path / name) for name in ("one", "two")]
    assert sheets[0].read_text() == sheets[1].read_text()
    rows = [line.split(",") for line in sheets[0].read_text().splitlines()]
    assert rows[0] == ["case", "subject", "low", "high", "label", "split"]
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    for record, row in zip(sky.records(), rows[1:], strict=True):
        maps, labels = sky.draw(record)
        for values, name in zip([*maps, labels], row[2:5], strict=True):
            found = healpy.read_map(tmp_path / "one" / name, nest=True, dtype=None)
            assert np.array_equal(found, values)
            assert found.dtype.kind == values.dtype.kind or values.dtype.kind == "u"


@pytest.mark.parametrize(
    ("options", "cure"),
    [({"nside": 4}, "nside 8"), ({"nside": 12}, "power of two"), ({"noise_uk": -1.0}, "0 or more")],
)
def test_what_makes_no_sky_is_refused(options, cure):
    with pytest.raises(ValueError, match=cure):
        Sky(**options)
