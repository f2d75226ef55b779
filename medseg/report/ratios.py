"""Predicted cardiothoracic ratios against those of the reference, and whether intervals hold."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any


def ratios(pairs: Iterable[tuple[Mapping[str, Any], float | None]]) -> dict[str, Any] | None:
    """Mean error and its size, and the share of the 90 % intervals that hold the reference.

    `pairs` are what predict said of a case (value, low, high) and the reference's ratio.
    """
    both = [
        (said, truth)
        for said, truth in pairs
        if truth is not None and isinstance(said.get("value"), int | float)
    ]
    if not both:
        return None
    errors = [said["value"] - truth for said, truth in both]
    spans = [
        said["low"] <= truth <= said["high"]
        for said, truth in both
        if isinstance(said.get("low"), int | float) and isinstance(said.get("high"), int | float)
    ]
    return {
        "n": len(both),
        "mean_error": fmean(errors),
        "mean_size_of_error": fmean(abs(error) for error in errors),
        "inside_interval": fmean(spans) if spans else None,
        "n_intervals": len(spans),
    }
