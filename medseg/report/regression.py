"""What is said of predicted maps of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.metrics.regression import DEFINITIONS, METRICS


def facts(targets: Sequence[str]) -> dict[str, Any]:
    """What a summary says of predicted targets alone."""
    return {"task": "regress", "targets": list(targets), "definitions": DEFINITIONS}


def words(summary: Mapping[str, Any]) -> list[str]:
    """The main numbers, for a line."""
    bits = []
    for name in summary.get("targets") or ():
        told = summary["structures"].get(name, {}).get("metrics", {})
        if "nrmse" in told:
            bits.append(f"{name} NRMSE {told['nrmse']['mean']:.3f}")
        if "correlation" in told:
            bits.append(f"correlation {told['correlation']['mean']:.3f}")
        if "covered" in told and told["covered"]["mean"] < 1:
            bits.append(f"covered {told['covered']['mean']:.3f}")
    return bits


FINE = METRICS
"""Numbers around 1, which are told to three digits."""
