"""Classification as a task: its loss and rates, its temperature, and what it refuses."""

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.metrics import classification
from medseg.sample import Batch
from medseg.tasks.classify import Classify, temperature

NAMES = ["glioma", "meningioma", "none"]


def network(classes=3, channels=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes))


def batch(target, size=(8, 8), seed=0):
    n, noise = len(target), torch.Generator().manual_seed(seed)
    image = torch.randn(n, 2, *size, generator=noise)
    present = torch.ones(n, 2, dtype=torch.bool)
    return Batch(image, torch.tensor(target), tuple(f"c{k}" for k in range(n)), present)


def whole(target, *, size=(8, 8), seed=0):
    """One whole case with its only slice, as validation gives it."""
    one = batch([target], size, seed)
    return Batch(one.image[..., None], one.target, one.ids, one.present)


def begun(task, train=(0, 1, 2), names=NAMES, size=(8, 8), channels=("a", "b")):
    about = SimpleNamespace(meta={"classes": names}, channels=channels)
    seen = functools.partial(torch.add, patch_size=size, ndim=2, slice_axis=2, outside=None)
    task.begin([SimpleNamespace(category=k) for k in train], prepared=about, whole=seen)
    return task


def joined(task, cases):
    """What the learner makes of whole cases: means of all numbers, and what they amount to."""
    sums = {}
    for case in cases:
        for name, value in task.score(case).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return task.joined({name: total / len(cases) for name, total in sums.items()})


@pytest.mark.parametrize("options", [{}, {"balanced": True}, {"label_smoothing": 0.1}])
def test_steps_make_the_loss_smaller(options):
    task = begun(Classify(network(), 3, **options))
    case = batch([0, 1, 2, 2])
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.5)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        value = task.loss(case)
        value.backward()
        optimizer.step()
        seen.append(float(value.detach()))
    assert seen[2] < seen[1] < seen[0]


def test_the_loss_is_the_mean_negative_log_probability():
    task = Classify(network(), 3)
    case = batch([0, 2, 1])
    own = task.predict(case).probabilities[torch.arange(3), case.target]
    assert_close(task.loss(case), -own.log().mean())


def test_balanced_classes_count_alike_however_few_their_cases():
    """With weights N / (K n_k) the mean loss is the mean over classes of their mean loss."""
    target = [0, 0, 0, 0, 1, 2]
    task = begun(Classify(network(), 3, balanced=True), train=target)
    case = batch(target)
    each = nn.functional.cross_entropy(task.model(case.image), case.target, reduction="none")
    by_class = torch.stack([each[case.target == k].mean() for k in range(3)])
    assert_close(task.loss(case), by_class.mean())


def test_a_loss_may_be_any_function_of_logits_and_target():
    task = Classify(
        network(), 3, loss=lambda logits, target: (logits.sum() + target.sum()).detach() * 0
    )
    assert float(task.loss(batch([1]))) == 0
    with pytest.raises(ValueError, match=r"belong to task.loss=ce"):
        Classify(network(), 3, loss=torch.nn.functional.cross_entropy, balanced=True)


def test_validated_numbers_are_the_rates_of_all_cases_together():
    task = begun(Classify(network(), 3))
    task.model.eval()
    target = [0, 0, 0, 1, 1, 2, 2, 2, 2]
    cases = [whole(k, seed=n) for n, k in enumerate(target)]
    shares = torch.cat([task.model(c.image[..., 0]).softmax(1) for c in cases]).detach().numpy()
    some = classification.Cases(np.array(target), shares.argmax(1), shares.astype(float))
    wanted = classification.measure(some, classification.once(some))
    found = joined(task, cases)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert found[name] == pytest.approx(wanted[name][0])
    assert found["loss"] == pytest.approx(wanted["nll"][0], rel=1e-5)
    assert set(found) == {"loss", "accuracy", "balanced_accuracy", "macro_f1"}
    assert task.monitor in found


def test_a_whole_case_is_seen_as_in_training():
    task = begun(Classify(network(), 3), size=(4, 6))
    case = whole(0, size=(8, 8))
    seen = task.model(case.image[:, :, 2:6, 1:7, 0])
    assert_close(task.score(case)["loss"], nn.functional.cross_entropy(seen, case.target))


def test_the_temperature_is_the_best_of_a_fine_grid():
    rng = np.random.default_rng(0)
    true = rng.integers(3, size=300)
    logits = 4 * (rng.normal(size=(300, 3)) + np.eye(3)[true])

    def nll(heat):
        z = logits / heat
        return float((np.log(np.exp(z).sum(1)) - z[np.arange(300), true]).mean())

    best = temperature(logits, true)
    assert nll(best) <= min(nll(heat) for heat in np.geomspace(0.05, 20, 4000)) + 1e-9
    assert nll(best) < nll(1.0)


def test_scaled_logits_have_a_scaled_temperature_and_the_same_classes():
    rng = np.random.default_rng(1)
    true = rng.integers(3, size=200)
    logits = rng.normal(size=(200, 3)) + np.eye(3)[true]
    assert temperature(3 * logits, true) == pytest.approx(3 * temperature(logits, true), rel=1e-6)


def test_where_every_case_is_right_the_temperature_stays_one():
    logits = np.eye(3) * 2
    assert temperature(logits, np.arange(3)) == 1
    assert temperature(np.zeros((0, 3)), np.zeros(0, dtype=int)) == 1


def test_the_model_learns_a_temperature_that_lowers_the_validated_likelihood():
    task = begun(Classify(network(), 3))
    with torch.no_grad():
        task.model[2].weight *= 30  # far too sure
    val = [whole(k % 3, seed=k) for k in range(24)]
    found = task.learnt([], val=val, device="cpu")
    assert found["classes"] == NAMES
    assert found["temperature"] > 1.5
    told = found["calibration"]
    assert told["cases"] == 24
    assert told["nll_calibrated"] < told["nll"]
    cases = torch.cat([task.model(c.image[..., 0]) for c in val]).detach().double()
    nll = nn.functional.cross_entropy(cases / found["temperature"], torch.arange(24) % 3)
    assert float(nll) == pytest.approx(told["nll_calibrated"], rel=1e-6)


def test_without_validation_cases_nothing_is_calibrated():
    task = begun(Classify(network(), 3))
    assert task.learnt([], val=[], device="cpu") == {"classes": NAMES, "temperature": 1.0}


def test_what_cannot_be_learnt_is_refused_before_training():
    with pytest.raises(ValueError, match="two classes or more"):
        Classify(network(), 1)
    with pytest.raises(ValueError, match="share below 1"):
        Classify(network(), 3, label_smoothing=1.5)
    with pytest.raises(ValueError, match="have 2 classes and task=classify wants 3"):
        begun(Classify(network(), 3), names=NAMES[:2])
    with pytest.raises(ValueError, match="no training case is of class none"):
        begun(Classify(network(), 3, balanced=True), train=(0, 1))
    with pytest.raises(ValueError, match=r"wants \(1, 3\) numbers .* makes \(1, 3, 8, 8\)"):
        begun(Classify(nn.Conv2d(2, 3, 1), 3))


def test_a_class_without_training_cases_is_warned_of(caplog):
    begun(Classify(network(), 3), train=(0, 0, 1))
    assert "no training case is of class none" in caplog.text


def test_a_case_without_a_class_is_named():
    bare = Batch(torch.zeros(1, 2, 8, 8), None, ("c7",), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="c7 has no class"):
        Classify(network(), 3).loss(bare)


def test_chance_is_worth_the_logarithm_of_the_classes():
    task = begun(Classify(network(), 3))
    nn.init.zeros_(task.model[2].weight)
    nn.init.zeros_(task.model[2].bias)
    assert float(task.loss(batch([0, 1, 2]))) == pytest.approx(math.log(3))
