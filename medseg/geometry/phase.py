"""Phase images in radians: what scanners and converters store instead, and wrapping.

A full turn is stored as 0 to 4095, -4096 to 4094, degrees, thousandths of a radian, or radians
times whatever slope a header happened to carry.
"""

import warnings

import numpy as np
from jaxtyping import Float, Num

_FULL = 0.9  # of a turn: what noise alone fills of a phase image
_TINY = 0.1  # rad: no image's phase spans so little, unless it was scaled by mistake
_TURN = 2 * np.pi


def wrap(phase: Float[np.ndarray, "*space"]) -> Float[np.ndarray, "*space"]:
    """The same angle in (-pi, pi]; float32 stays float32, with its own pi as the upper end.

    What lies within is kept bit for bit.
    """
    top = np.asarray(np.pi, phase.dtype)
    turned = (np.pi - np.mod(np.pi - phase.astype(np.float64), _TURN)).astype(phase.dtype)
    turned = np.where(np.abs(phase) <= top, phase, turned)
    return np.where(turned <= -top, top, turned)


def radians(
    values: Num[np.ndarray, "*space"], *, where: str = "the phase image"
) -> Float[np.ndarray, "*space"]:
    """Phase in [-pi, pi], float32, from a phase image in any of the usual units.

    Radians that fill a turn are kept as they are (from 0 to 2 pi: wrapped), those that fill less of
    it too, with a warning. Whole numbers over 2^n levels, degrees, thousandths of a radian and
    0 to 1 become radians, with a warning that says so: 2^n levels are one turn, so 0 to 4095 starts
    at -pi, and 0 of -4096 to 4094 stays 0. Values around zero that span less than 0.1 are taken for
    radians that a header's slope shrank: zero stays and the full range becomes 2 pi. All else is
    refused: more than a turn, a constant, a mask.

    Args:
        values: as the file holds them.
        where: the file, for what is said.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{where} holds NaN or infinite values; mask them with 0 first")
    low, high = float(values.min()), float(values.max())
    span, text = high - low, f"{where} runs from {low:g} to {high:g}"
    if span == 0:
        raise ValueError(f"{text}: a constant is no phase image; is it the right file?")
    wide = values.astype(np.float64)
    whole = bool((np.abs(wide - np.round(wide)) < 1e-6).all())
    few = (whole and span < 127) or span < _TINY
    if span < _TINY and abs(low + high) <= 0.05 * span:
        _say(f"{text}: radians shrunk by a header's slope; rescaled so that this is one turn")
        return (wide * (_TURN / span)).astype(np.float32)
    if not few and _within(low, high, np.pi) and not _is_unit(low, high):
        if span < _FULL * _TURN:
            _say(f"{text}, which fills no turn; taken as radians")
        return wide.astype(np.float32)
    if not few and low >= -1e-3 and high <= _TURN + 1e-3 and span >= _FULL * _TURN:
        return wrap(wide).astype(np.float32)
    unit, zero, name = (0.0, 0.0, "") if few else _unit(low, high, whole=whole)
    if not unit:
        raise ValueError(
            f"{text}: neither radians within one turn nor 2^n levels, degrees or thousandths of a "
            "radian that fill one. Wrap an unwrapped phase first (medseg.geometry.phase.wrap); "
            "else give the scanner's own phase image, or bring it to radians"
        )
    _say(f"{text}: taken as {name}, rescaled to radians")
    turned = (wide - zero) * unit
    return (wrap(turned) if np.abs(turned).max() > np.pi + 1e-3 else turned).astype(np.float32)


def _within(low: float, high: float, limit: float) -> bool:
    return -limit - 1e-3 <= low and high <= limit + 1e-3


def _is_unit(low: float, high: float) -> bool:
    """Whether a turn was brought to 0 to 1 or to -1 to 1."""
    return abs(high - 1) < 1e-3 and min(abs(low), abs(low + 1)) < 1e-3


def _unit(low: float, high: float, *, whole: bool) -> tuple[float, float, str]:
    """Radians a step, the number that stands for angle zero, and the unit's name; 0 if none."""
    span = high - low
    centred = abs(low + high) <= 0.1 * span
    if _is_unit(low, high):
        return _TURN / round(span), 0.0 if centred else 0.5, "a turn brought to this range"
    for turn, name in ((360.0, "degrees"), (1000 * _TURN, "thousandths of a radian")):
        if 0.98 * turn <= span <= turn + 1 and (centred or low >= 0):
            return _TURN / turn, 0.0, name
    levels = 2.0 ** np.ceil(np.log2(span + 1))
    fits = centred or (low >= 0 and high < levels)
    if whole and fits and span + 1 >= _FULL * levels:
        return float(_TURN / levels), 0.0 if centred else float(levels) / 2, f"{levels:.0f} levels"
    return 0.0, 0.0, ""


def _say(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)
