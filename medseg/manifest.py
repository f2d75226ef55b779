"""What `model.json` says of a trained network: what goes in and comes out, and whence it is."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from medseg.data.module import Whole
from medseg.data.prepared import Prepared, PreparedRecord
from medseg.nn.cost import dof, macs

_OF_DATA = ("size", "complex_input")  # stand there where the recipe gives them


def manifest(
    task: Any,  # noqa: ANN401 -- a trained task of medseg/tasks
    specs: Mapping[str, Mapping[str, Any]],
    *,
    prepared: Prepared,
    splits: Mapping[str, Sequence[PreparedRecord]],
    sees: Mapping[str, Any],
    training: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """The content of `model.json` but for what `package.save` adds.

    Args:
        task: with its trained network; what it learns beside the weights is learnt here.
        specs: task and network by name, class and arguments.
        prepared: the data.
        splits: the cases by train and val.
        sees: how the network sees a scan: `patch_size`, `precision`, `optional_channels`.
        training: the recipe's name, seed and fingerprint, and how it went.
        device: where to compute what is learnt beside the weights.
    """
    meta, network = prepared.meta, task.model
    arguments = dict(specs["network"]["arguments"])
    if hasattr(network, "arm"):
        arguments |= {"arm": network.arm, "widths": list(network.widths)}
    cases = {name: [r.case for r in splits[name]] for name in ("train", "val")}
    people = {name: sorted({r.subject for r in splits[name]} - {""}) for name in cases}
    whole = {name: Whole(prepared, splits[name]) for name in cases}
    channels = len(whole["train"][0].image[0]) - len(prepared.targets)
    return {
        "task": dict(specs["task"]),
        "network": {**specs["network"], "arguments": arguments},
        "channels": list(prepared.inputs),
        **{key: meta[key] for key in ("spacing_mm", "intensity", "slice_axis")},
        "ndim": network.ndim,
        **sees,
        **{name: meta[name] for name in _OF_DATA if meta.get(name)},
        **_reading(meta),
        **task.learnt(whole["train"], val=whole["val"], device=device),
        "cost": _cost(network, channels=channels, size=sees["patch_size"]),
        "training": {**training, "cases": cases, "subjects": people},
    }


def _reading(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The options that files were read by, which predict keeps to unless it is told otherwise."""
    found = dict(meta.get("reading") or {})
    if meta.get("volume") is not None:
        found["volume"] = meta["volume"]
    return {"reading": found} if found else {}


def _cost(network: Any, *, channels: int, size: Sequence[int]) -> dict[str, int]:  # noqa: ANN401
    """Degrees of freedom, and multiply-adds of one patch where the layers can be counted."""
    found = {"dof": dof(network)}
    with contextlib.suppress(NotImplementedError, RuntimeError, TypeError):
        found["macs"] = macs(network, (channels, *size))
    return found
