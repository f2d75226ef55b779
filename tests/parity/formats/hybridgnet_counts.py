"""Parameter counts, and names and shapes of all tensors, of 2022 HybridGNets as JSON.

Entries are `variant/organs/side`; the network follows from the listed shapes and, where levels of
equal width look alike, from the variant's name. All rows are exact.
"""

import re

import torch
from hybridgnet_preset import build, by_name, is_upstream
from row import Row, json_object

from medseg.models.hybridgnet import published_arguments, published_key

GROUPS = {
    "encoder.conv": r"encoder\..*",
    "encoder.fc": r"(mu|logvar)\..*",
    "dec_lin": r"start\..*",
    "graph": r"(layers|heads|out)\..*",
}


def recognise(path):
    entries = json_object(path)
    return bool(entries) and all(is_entry(entry) for entry in entries.values())


def is_entry(entry):
    names = entry.get("state_dict") if isinstance(entry, dict) else None
    return isinstance(names, dict) and any(is_upstream(name) for name in names)


def compare(path):
    return [row for name, entry in json_object(path).items() for row in rows(name, entry)]


def rows(name, entry):
    """Rows of one network: its shapes, its number of parameters, and those of its parts."""
    listed = entry["state_dict"]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in listed.items() if is_upstream(key)}
        network = build(state, arguments(name, state), load=False)
    ours = dict(network.named_parameters())
    differ = [key for key, shape in listed.items() if shape_of(key, ours) != list(shape)]
    named = {published_key(key).partition("/")[0] for key in state}
    lacking = sorted(ours.keys() - named)
    found = [
        Row(f"{name} shapes", len(differ), 0, ", ".join(differ[:3])),
        Row(f"{name} tensors of ours without a name there", len(lacking), 0, str(lacking[:3])),
    ]
    if "n_params" in entry:
        count = sum(parameter.numel() for parameter in ours.values())
        found.append(counted(f"{name} n_params", count, entry["n_params"]))
    for group, published in entry.get("groups", {}).items():
        pattern = GROUPS.get(group, "$")
        count = sum(p.numel() for key, p in ours.items() if re.fullmatch(pattern, key))
        found.append(counted(f"{name} {group}", count, published))
    return found


def arguments(name, state):
    """The network's arguments; the levels of the name where the shapes allow them."""
    found = published_arguments(state)
    match = re.search(r"igsc\d_l(\d+)", name)
    levels = [int(digit) for digit in match[1]] if match else found["lookups"]
    return found | {"lookups": levels}


def shape_of(key, ours):
    """The shape that we give a tensor of theirs, nothing if we have none."""
    if not is_upstream(key):
        return None
    name, _, term = published_key(key).partition("/")
    if name not in ours or (term and int(term) >= len(ours[name])):
        return None
    return list(by_name(key, ours).shape)


def counted(name, ours, published):
    note = "" if ours == published else f"{ours}, published {published}"
    return Row(name, abs(ours - published), 0, note)
