"""Pooling and upsampling of complex images by other libraries: `x` and `LIBRARY_WHAT`.

`own_` is the plain gather by magnitude, the reference. An entry that is wrong by itself, and those
of no layer of ours, are listed with that as their note. Tolerance: 1e-5 of the largest value.
"""

import re

import torch
from formats.complex_activations import arrays, row
from row import Row

from medseg.nn.complex.pool import AdaptiveAvgPool, AvgPool, MaxPool
from medseg.nn.complex.upsample import Upsample

ENTRY = re.compile(r"(ct|tc|sc|own)_\w+$")
OURS = {
    "own_MagMaxPool2d_2": lambda: MaxPool(2),
    "ct_MagMaxPool2d_2": lambda: MaxPool(2),
    "ct_AvgPool2d_2": lambda: AvgPool(2),
    "tc_AvgPool2d_2_2": lambda: AvgPool(2),
    "sc_AvgPool2d_2": lambda: AvgPool(2),
    "tc_AdaptiveAvgPool2d_1": lambda: AdaptiveAvgPool(1),
    "tc_Upsample_bilinear2": lambda: Upsample(mode="linear"),
    "ct_Upsample_bilinear2": lambda: Upsample(mode="linear"),
    "sc_Upsample_bilinear2": lambda: Upsample(mode="linear"),
    "sc_Upsample_sinc2": lambda: Upsample(mode="fourier"),
}
NOTES = {
    "tc_MaxPool2d_2": "wrong by itself: every plane is gathered from the first",
    "sc_MaxPool2d_2": "no layer of ours: joins parts of two voxels",
    "ct_PolarUpsample": "no layer of ours: interpolates the wrapped phase",
}


def recognise(path):
    names = arrays(path).keys()
    others = names - {"x"}
    return "x" in names and bool(others) and all(map(ENTRY.match, others))


def compare(path):
    found = {name: torch.from_numpy(array) for name, array in arrays(path).items()}
    x = found.pop("x")
    rows = []
    for name, theirs in found.items():
        if name in OURS:
            rows.append(row(name, OURS[name]()(x), theirs))
        else:
            rows.append(Row(name, 0.0, 0.0, NOTES.get(name, "no layer of ours")))
    return rows
