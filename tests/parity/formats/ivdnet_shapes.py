"""Names and shapes of all tensors of a 2018 IVD-Net, as JSON (`state_dict_shapes_*.json`)."""

import torch
from companions import mostly_upstream
from row import Row, json_object

from medseg.models.ivdnet import IVDNet, upstream_arguments, upstream_key


def recognise(path):
    shapes = json_object(path)
    return mostly_upstream(shapes) and any(isinstance(shape, list) for shape in shapes.values())


def compare(path):
    shapes = json_object(path)
    with torch.device("meta"):
        ours = IVDNet(**upstream_arguments(shapes)).state_dict()
    named = {upstream_key(key): tuple(shape) for key, shape in shapes.items()}
    differ = [
        key for key, shape in named.items() if key in ours and tuple(ours[key].shape) != shape
    ]
    missing, extra = sorted(named.keys() - ours.keys()), sorted(ours.keys() - named.keys())
    return [
        Row("shapes", len(differ), 0, ", ".join(differ[:3])),
        Row("tensors that we lack", len(missing), 0, ", ".join(missing[:3])),
        Row("tensors of ours without a name there", len(extra), 0, ", ".join(extra[:3])),
    ]
