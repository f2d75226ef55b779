"""Made-up brain scans: exact labels, what the cue hides, coils, masks, seeds, and thresholds."""

import filecmp

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from medseg.data.phantoms import head, lesions, receive
from medseg.data.phantoms.brain import HEALTHY, Brain
from medseg.geometry import coils, fourier
from medseg.io import kspace, nifti


def scans(n=3, **arguments):
    """Cases with tumours, half the usual size."""
    usual = {"n_val": 0, "n_test": 0, "healthy": 0.0, "shape": (64, 64), "n_coils": 4}
    brain = Brain(**{"n_train": n, **usual, **arguments})
    return [brain.draw(record) for record in brain.records()]


@pytest.fixture(scope="module", params=lesions.CUES)
def ten(request):
    """Ten cases of one cue, as a network gets them."""
    brain = Brain(n_train=10, n_val=0, n_test=0, cue=request.param)
    return [brain.load(record) for record in brain.records()]


def lattice(shape=(64, 60, 40), step=1.0):
    axes = [((np.arange(n) + 0.5 - n / 2) * step).astype(np.float32) for n in shape]
    x, y, z = np.ix_(*axes)
    return head.Lattice(x, y, z, (step, step, step), 1.0)


def test_cue_phase_leaves_the_magnitude_of_the_healthy_twin():
    for seen, twin in zip(scans(cue="phase"), scans(cue="phase", healthy=1.0), strict=True):
        inside = seen.labels > 0
        assert inside.sum() > 20
        assert not twin.labels.any()
        peak = np.abs(twin.image).max()
        assert np.abs(np.abs(seen.image) - np.abs(twin.image)).max() < 1e-6 * peak  # rounding
        turned = np.angle(seen.image * twin.image.conj())[inside]
        assert np.abs(turned).mean() > 0.5


def test_cue_magnitude_leaves_the_phase_of_the_healthy_twin():
    arguments = {"cue": "magnitude"}
    for seen, twin in zip(scans(**arguments), scans(**arguments, healthy=1.0), strict=True):
        inside = seen.labels > 0
        strong = np.minimum(np.abs(seen.image), np.abs(twin.image)) > 0.05
        turned = np.angle(seen.image * twin.image.conj())[strong]
        assert np.abs(turned).max() < 1e-5  # float32 rounding of the phase
        assert np.abs(np.abs(seen.image) - np.abs(twin.image))[inside].mean() > 0.03


def test_cues_share_heads_and_labels():
    both, phase, magnitude = (scans(cue=cue) for cue in ("both", "phase", "magnitude"))
    for one, other, third in zip(both, phase, magnitude, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.labels, third.labels)
        outside = lesions_far(one.labels)
        assert np.array_equal(other.image.shape, third.image.shape)
        assert np.abs(np.abs(one.image) - np.abs(other.image))[outside].max() < 0.25


def lesions_far(labels):
    """Voxels away from the label's box by 12 voxels, where wet tissue has faded."""
    far = np.ones(labels.shape, bool)
    places = np.argwhere(labels)
    low, high = np.maximum(places.min(0) - 12, 0), places.max(0) + 13
    far[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = False
    return far


@pytest.mark.parametrize("radius", [6.0, 11.5])
def test_labels_of_a_ball_have_its_volume(radius):
    at = lattice(step=0.5)
    away = np.sqrt((at.x - 1) ** 2 + (at.y + 0.7) ** 2 + (at.z - 0.3) ** 2) - np.float32(radius / 2)
    flat = np.ones(at.shape, np.float32)
    ball = lesions.Tumour(away, flat, flat, (1.0, -0.7, 0.3), radius / 2, 0.0)

    def block(fine):
        a, b, c = (n // 2 for n in fine.shape)
        return fine.reshape(a, 2, b, 2, c, 2).mean((1, 3, 5))

    labels = lesions.labelled([ball], 3, block=block)
    assert set(np.unique(labels)) == {0, 3}
    truth = 4 / 3 * np.pi * (radius / 2) ** 3
    # voxels of 1 mm: the error of counting falls with the surface, not the volume
    assert (labels > 0).sum() == pytest.approx(truth, rel=0.06)


def test_a_tumour_lies_inside_the_skull_and_a_meningioma_at_it():
    brain = Brain(n_train=9, n_val=0, n_test=0, healthy=0.0)
    for record in brain.records():
        person, growth, _, _, _ = brain.cases.stream(record).spawn(5)
        fine, _ = brain._lattices(person)
        anatomy = head.paint(person, fine)
        category, tumours = brain._tumours(record, growth, fine, anatomy)
        inside = np.any([tumour.distance_mm < 0 for tumour in tumours], axis=0)
        depth = anatomy.depth_mm[inside]
        assert depth.min() > 0
        assert (depth.min() < 2.5) == (category == "meningioma")


def test_classes_take_turns_and_labels_say_which():
    found = scans(6)
    names = ("glioma", "meningioma", "metastasis")
    assert [scan.category for scan in found] == [*names, *names]
    for scan in found:
        assert set(np.unique(scan.labels)) == {0, names.index(scan.category) + 1}
    (only,) = scans(1, classes=["metastasis"])
    assert set(np.unique(only.labels)) == {0, 1}


def test_healthy_heads_come_in_turns_and_do_not_starve_a_class():
    found = scans(9, healthy=1 / 3, shape=(32, 32), n_coils=1)
    healthy = [scan.category == HEALTHY for scan in found]
    assert healthy == [False, False, True] * 3
    assert healthy == [not scan.labels.any() for scan in found]
    assert len({scan.category for scan in found}) == 4


def test_kspace_without_noise_goes_back_to_the_image():
    for ndim, shape in ((2, (48, 50)), (3, (32, 36, 9))):
        (scan,) = scans(1, noise=0.0, ndim=ndim, shape=shape, n_coils=3)
        images = fourier.ifft(scan.kspace, (1, 2, 3)).transpose(0, 3, 2, 1)
        combined = coils.combine(images, scan.sensitivities)
        error = np.abs(combined - scan.image).max() / np.abs(scan.image).max()
        assert error < 1e-4  # float32, and profiles that are small deep in the head


def test_reconstruction_with_estimated_maps_keeps_the_tumours_phase():
    for scan in scans(3, cue="phase", noise=0.0):
        inside = scan.labels[..., 0] > 0
        ring = binary_dilation(inside, iterations=3) & ~inside & (np.abs(scan.image[..., 0]) > 0.2)
        turned = (scan.reconstruction * scan.image.conj())[..., 0]
        lost = np.angle(turned[inside].sum() * turned[ring].sum().conj())
        assert np.abs(lost) < 0.2  # the profiles' own slope; the tumour's step is 1 and more


def test_noise_in_kspace_has_the_strength_asked_for():
    (clean,), (noisy,) = scans(1, noise=0.0), scans(1, noise=0.05)
    added = (noisy.kspace - clean.kspace).ravel()  # times the case's gain, 0.7 to 1.4
    assert added.real.std() == pytest.approx(added.imag.std(), rel=0.02)  # 55 000 samples
    assert 0.05 * 0.7 * 0.98 < added.real.std() < 0.05 * 1.4 * 1.02


@pytest.mark.parametrize("kind", receive.SAMPLINGS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_masks_measure_what_the_acceleration_says(kind, ndim):
    shape = (48, 64) if ndim == 2 else (32, 48, 16)
    one, two = scans(
        2, ndim=ndim, shape=shape, n_coils=2, acceleration=4, sampling=kind, noise=0.01
    )
    assert one.sampled.mean() == pytest.approx(1 / 4, rel=0.02)  # whole lines
    assert np.array_equal((one.kspace != 0).any(0), one.sampled)
    assert not np.array_equal(one.sampled, two.sampled)
    middle = tuple(n // 2 for n in one.sampled.shape)
    assert one.sampled[middle]
    assert min(b for b in fourier.centre(one.sampled) if b > 1) >= 4


def test_receive_profiles_are_smooth_and_bounded_in_the_head():
    for scan in scans(2):
        total = coils.rss(scan.sensitivities)
        seen = np.abs(scan.image) > 0.3
        assert total[seen].max() <= 1 + 1e-6
        assert total[seen].min() > 0.1
        steps = np.abs(np.diff(scan.sensitivities, axis=1))[:, seen[1:]]
        assert steps.max() < 0.15


def test_absolute_phase_means_nothing():
    middles = [np.angle(scan.image[20, 20, 0]) for scan in scans(12, shape=(40, 40), n_coils=1)]
    assert np.abs(np.exp(1j * np.array(middles)).mean()) < 0.6  # uniform: 0.29 on average


def test_no_single_threshold_finds_the_tumours(ten):
    truth = np.concatenate([sample.target.ravel() > 0 for sample in ten])
    rasters = {"magnitude": [], "phase": [], "phase from the middle one": []}
    for sample in ten:
        z = sample.image[0]
        size = np.abs(z) / np.quantile(np.abs(z), 0.99)
        middle = np.angle((z * (size > 0.2)).sum())
        rasters["magnitude"].append(size)
        rasters["phase"].append(np.angle(z))
        inside = np.where(size > 0.2, np.angle(z * np.exp(-1j * middle)), 0)
        rasters["phase from the middle one"].append(inside)
    for values in rasters.values():
        assert best_dice(np.concatenate([v.ravel() for v in values]), truth) < 0.6


def best_dice(values, truth):
    """Of all thresholds, above or below."""
    hits = np.cumsum(truth[np.argsort(values)])
    taken, total = np.arange(1, len(hits) + 1), hits[-1]
    below = 2 * hits / (taken + total)
    above = 2 * (total - hits) / (len(hits) - taken + total)
    return max(below.max(), above.max())


def test_a_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    def write(name, seed):
        brain = Brain(n_train=1, n_val=1, n_test=0, shape=(40, 40), n_coils=2, seed=seed)
        return brain.write(tmp_path / name).parent

    one, again, other = write("one", 3), write("again", 3), write("other", 4)
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 5
    assert filecmp.cmpfiles(one, again, names, shallow=False) == (names, [], [])
    assert len(filecmp.cmpfiles(one, other, names, shallow=False)[1]) >= 4


def test_a_case_does_not_depend_on_how_many_there_are_and_splits_share_none():
    small = {"shape": (32, 32), "n_coils": 1}
    few = Brain(n_train=1, n_val=1, n_test=1, **small)
    many = Brain(n_train=3, n_val=2, n_test=2, **small)
    for record in few.records():
        assert np.array_equal(few.draw(record).kspace, many.draw(record).kspace)
    images = [many.draw(record).image for record in many.records()]
    assert len({record.subject for record in many.records()}) == len(images)
    for i, one in enumerate(images):
        assert not any(np.allclose(np.abs(one), np.abs(other)) for other in images[i + 1 :])


@pytest.mark.parametrize(("ndim", "shape"), [(2, (48, 40)), (3, (32, 40, 8))])
def test_written_kspace_reads_as_the_loaded_case(tmp_path, ndim, shape):
    brain = Brain(n_train=1, n_val=0, n_test=1, ndim=ndim, shape=shape, n_coils=4)
    sheet = brain.write(tmp_path / "raw")
    header, *rows = [line.split(",", 6) for line in sheet.read_text().splitlines()]
    assert header == ["case", "subject", "kspace", "label", "split", "class", "spacing_mm"]
    assert [row[4] for row in rows] == ["train", "test"]
    sample = brain.load(brain.records()[0])
    stored = np.load(sheet.parent / rows[0][2])
    assert stored.dtype == np.complex64
    assert stored.shape == (4, *reversed(shape))
    read = kspace.read(sheet.parent / rows[0][2], spacing_mm=rows[0][6].strip('"'))
    labels, grid, _ = nifti.read_labels(sheet.parent / rows[0][3])
    assert np.array_equal(read.image, sample.image)
    assert read.space.misalignment_mm(grid) < 1e-3
    assert np.array_equal(labels, sample.target)
    assert rows[0][5] == brain.draw(brain.records()[0]).category


def test_images_and_magnitudes_are_written_as_nifti(tmp_path):
    small = {"n_train": 1, "n_val": 0, "n_test": 0, "shape": (32, 32), "n_coils": 2}
    for form, kind in (("image", "c"), ("magnitude", "f")):
        brain = Brain(form=form, **small)
        sheet = brain.write(tmp_path / form)
        assert form in sheet.read_text().splitlines()[0]
        (path,) = sheet.parent.glob(f"*_{form}.nii.gz")
        read = nifti.read(path)
        assert read.image.dtype.kind == kind
        assert np.allclose(read.image, brain.load(brain.records()[0]).image)


def test_volumes_have_tumours_on_many_slices():
    for scan in scans(2, ndim=3, shape=(48, 48, 24), n_coils=2):
        assert scan.labels.shape == (48, 48, 24)
        assert ((scan.labels > 0).sum((0, 1)) > 0).sum() >= 3
        assert scan.grid.spacing_mm == (4.5, 4.5, 5.3333)


def test_one_slice_fits_into_half_a_megabyte():
    (scan,) = scans(1, shape=None, n_coils=6)
    assert scan.measured.shape == (6, 96, 96)
    assert scan.measured.nbytes < 500_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_train": -1},
        {"ndim": 4},
        {"shape": (96, 96, 8)},
        {"shape": (96, 16)},
        {"n_coils": 0},
        {"cue": "colour"},
        {"sampling": "spiral"},
        {"form": "dicom"},
        {"classes": ["glioblastoma"]},
        {"classes": []},
        {"healthy": 1.5},
        {"noise": -1},
        {"acceleration": 0.5},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        Brain(**wrong)
