"""The network of the preset `hybridgnet_2022` with published weights, and what a file says of it.

Everything is told by tensors and their shapes: the organs by the graph's components, the image's
side by the first linear layer, the lookups' levels by channels and, where levels of equal width
look alike, by whose outputs agree best.
"""

import itertools
from functools import cache

import numpy as np
import torch
from row import largest

from medseg import config
from medseg.models.hybridgnet import from_published, published_arguments, published_key
from medseg.nn.published import ORGANS

WEIGHTS = "param/"


@cache
def preset():
    return config.plain(config.compose("train", ["model=hybridgnet_2022"]).model)


def is_upstream(name) -> bool:
    try:
        return bool(published_key(name))
    except ValueError:
        return False


def members(tensors, group):
    """What follows the group's name, and the tensors."""
    start = f"{group}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def organs_of(adjacency):
    """Contours by the components of a published graph; names where they are the published ones."""
    joined = np.asarray(adjacency) != 0
    sizes, start = [], 0
    for node in range(1, len(joined) + 1):
        if not joined[:node, node:].any():
            sizes.append(node - start)
            start = node
    names = list(ORGANS)
    known = sizes == [ORGANS[name] for name in names[: len(sizes)]]
    return {names[i] if known else f"organ_{i + 1}": size for i, size in enumerate(sizes)}


def arguments_of(tensors):
    """Arguments of the preset for a file's weights, with the lookups' levels that fit best."""
    state = members(tensors, "param")
    organs = organs_of(tensors["mat/A"]) if "mat/A" in tensors else None
    found = published_arguments(state, organs=organs)
    choices = list(same_widths(found["widths"], found["lookups"]))
    choices.sort(key=lambda levels: levels != tuple(found["lookups"]))
    if len(choices) > 1 and {"in/image", "out_sr3/0"} <= tensors.keys():
        wanted = tensors["out_sr3/0"]

        def cost(levels):
            network = build(state, found | {"lookups": levels}, sampling="fixed").eval()
            with torch.no_grad():
                return largest(network(tensors["in/image"]), wanted)

        choices = [min(choices, key=cost)]
    return found | {"lookups": choices[0]}


def same_widths(widths, levels):
    """All levels with the channels of these, coarser ones first."""
    alike = [[n + 1 for n, w in enumerate(widths) if w == widths[level - 1]] for level in levels]
    return itertools.product(*(reversed(choice) for choice in alike))


def build(state, arguments, *, load=True, **changes):
    """The preset with a file's sizes and weights."""
    sizes = {name: value for name, value in arguments.items() if name not in preset()}
    given = preset() | sizes | {"size": arguments["size"]} | changes
    organs = given.pop("organs")
    network = config.build(given, organs=organs)
    if load:
        network.load_state_dict(from_published(state))
    return network


def by_name(name, ours):
    """Our tensor of a published name: one term of a stacked weight where that is meant."""
    key, _, term = published_key(name).partition("/")
    found = ours[key]
    return found[int(term)] if term else found
