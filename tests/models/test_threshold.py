"""The best single threshold is the best: compared with trying all of them."""

import torch

from medseg.models.threshold import Threshold


def dice(found, wanted):
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))


def test_fit_equals_an_exhaustive_search():
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 20, (3, 6, 7), generator=generator).float() for _ in range(3)]
    targets = [(image[1] + image[0] * 0.3 < 8).long() for image in images]
    network = Threshold(3, 2)
    found = network.fit(images, targets)
    best = 0.0
    for channel in range(3):
        for level in range(20):
            for sign in (1, -1):
                cases = zip(images, targets, strict=True)
                scores = [dice(sign * (i[channel] - level - 0.5) > 0, t == 1) for i, t in cases]
                best = max(best, sum(scores) / 3)
    assert abs(found - best) < 1e-6
    labels = [network(image[None]).argmax(1)[0] for image in images]
    scores = [dice(label == 1, target == 1) for label, target in zip(labels, targets, strict=True)]
    assert abs(sum(scores) / 3 - best) < 1e-6


def test_dark_structures_are_found_too():
    image = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    network = Threshold(2, 2, ndim=3)
    assert network.fit([image], [(image[1] < 0.25).long()]) > 0.99
    assert (int(network.channel), float(network.direction)) == (1, -1.0)
    assert abs(float(network.level) - 0.25) < 0.02


def test_state_survives_saving():
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(2))
    one, other = Threshold(1, 3), Threshold(1, 3)
    one.fit([image], [(image[0] > 0.6).long() * 2])
    other.load_state_dict(one.state_dict())
    assert int(other.label) == 2
    assert torch.equal(one(image[None]), other(image[None]))
    assert set(one(image[None]).argmax(1).unique().tolist()) == {0, 2}


def test_cases_of_different_sizes_and_without_foreground():
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(1, n, 8, generator=generator) for n in (4, 6, 9)]
    targets = [(image[0] > 0.5).long() for image in images[:2]] + [torch.zeros(9, 8).long()]
    assert Threshold(1, 2).fit(images, targets) > 0.95
