"""What becomes of a case's files on the way to a network: real channels, or complex ones in parts.

Complex numbers are made by one of five definitions, chosen by the recipe and never guessed. They
are scaled by one real number a channel, so that phases stay, and travel as real numbers: all real
parts, then all imaginary ones.
"""

import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Num

from medseg.data import intensity, sky_input
from medseg.geometry.fourier import fft
from medseg.geometry.frame import Frame
from medseg.geometry.phase import radians
from medseg.geometry.resample import Passage
from medseg.geometry.sphere import Regrid
from medseg.sample import COMPLEX_INPUT, Sample

_FROM_REAL = ("zero_imag", "fft", "synthetic_phase")
_MANY_COILS = 32
_WAVES = 2  # of the made-up phase, across the image


def check(definition: str | None, *, channels: Sequence[str], method: str) -> None:
    """Refuse a definition that does not exist or does not fit the channels and their scaling."""
    if definition is None:
        return
    if definition not in COMPLEX_INPUT:
        raise ValueError(f"data.complex_input={definition}; it must be one of {offered()}")
    if method not in intensity.PHASE_KEEPING:
        raise ValueError(
            f"data.intensity={method} shifts values, which destroys the phase of complex input; "
            f"take one of {', '.join(intensity.PHASE_KEEPING)}"
        )
    if definition == "mag_phase" and len(channels) % 2:
        raise ValueError(
            f"data.complex_input=mag_phase pairs channels as magnitude, phase, and data.channels "
            f"are {', '.join(channels)}; give an even number of them"
        )


def offered() -> str:
    """The definitions in one line, for a user to choose from."""
    return ", ".join(f"{name} ({what})" for name, what in COMPLEX_INPUT.items())


def complex_channels(channels: Sequence[str], definition: str | None) -> tuple[str, ...]:
    """The names of what a network sees: pairs of magnitude and phase are one channel."""
    return tuple(channels[::2] if definition == "mag_phase" else channels)


def entering(channels: Sequence[str], definition: str | None) -> tuple[str, ...]:
    """The names of the real numbers of a voxel: a complex channel is two of them."""
    seen = complex_channels(channels, definition)
    if definition is None:
        return seen
    return tuple(f"{name}, {part} part" for part in ("real", "imaginary") for name in seen)


def stored(channels: Sequence[str], definition: str | None) -> int:
    """How many real channels a prepared case has."""
    return len(entering(channels, definition))


def working(
    image: Num[np.ndarray, " c *n"],
    passage: Passage | Frame | Regrid,
    *,
    method: str,
    definition: str | None = None,
    slice_axis: int | None = None,
) -> tuple[Float[np.ndarray, " d *m"], list[dict[str, float]]]:
    """A case on its working grid as a network sees it, and each channel's numbers before scaling.

    Args:
        image: the files' values on their own grid, or pixels of the sphere.
        passage: the way to the working grid.
        method: of `medseg.data.intensity`.
        definition: one of `sample.COMPLEX_INPUT`; none for real data.
        slice_axis: the canonical axis across slices, which `fft` leaves alone.
    """
    if isinstance(passage, Regrid):
        return sky_input.working(image, passage, method=method)
    if definition is None:
        if np.iscomplexobj(image):
            raise ValueError(
                "the values are complex, and real ones are wanted; give the magnitude, or take a "
                "recipe with data.complex_input=real_imag data.intensity=scale"
            )
        return intensity.normalise(passage.image(image), method)
    formed = _formed(image, definition)
    parts = [passage.image(np.ascontiguousarray(part)) for part in (formed.real, formed.imag)]
    there = (parts[0] + 1j * parts[1]).astype(np.complex64)
    if definition == "fft":
        axes = tuple(a + 1 for a in range(3) if a != slice_axis and there.shape[a + 1] > 1)
        there = fft(there, axes).astype(np.complex64)
    if definition == "synthetic_phase":
        there = there * np.stack([np.exp(1j * _smooth(abs(one))) for one in there])
    scaled, found = intensity.normalise(there, method)
    return np.concatenate([scaled.real, scaled.imag]).astype(np.float32), found


def origin(sample: Sample) -> dict[str, Any]:
    """What a prediction says of a k-space file: its way to an image, and if millimetres are known.

    Where they are not, a warning says so.
    """
    meta = sample.meta
    if meta.get("format") != "kspace":
        return {}
    if not meta["spacing_known"]:
        text = "the file says no spacing: a voxel counts as 1 mm; give it by --spacing-mm"
        warnings.warn(text, stacklevel=2)
    if meta.get("coils", 1) > _MANY_COILS:
        text = f"the first axis was read as {meta['coils']} coils; are these slices of one coil?"
        warnings.warn(f"{text} Then save the array as kspace[None]", stacklevel=2)
    names = ("spacing_known", "coils", "sampled", "reconstruction")
    return {name: meta[name] for name in names if name in meta}


def _formed(image: Num[np.ndarray, "c i j k"], definition: str) -> Complex[np.ndarray, "d i j k"]:
    """Complex channels on the files' own grid."""
    if definition not in COMPLEX_INPUT:
        raise ValueError(f"complex_input is {definition!r}; it must be one of {offered()}")
    real = not np.iscomplexobj(image)
    if definition == "real_imag" and real:
        choices = ", ".join((*_FROM_REAL, "mag_phase"))
        raise ValueError(
            "the values are real, and complex ones are wanted (k-space, complex NIfTI or .npy); "
            f"give these, or take a recipe whose data.complex_input is one of {choices}"
        )
    if definition != "real_imag" and not real:
        raise ValueError(
            f"the values are complex, and complex_input {definition} would drop their imaginary "
            "part; give real files, or take a recipe with data.complex_input=real_imag"
        )
    if definition != "mag_phase":
        return np.asarray(image, dtype=np.complex64)
    if float(image[::2].min()) < 0:
        raise ValueError(
            f"a magnitude goes down to {image[::2].min():.4g}, which no magnitude does; channels "
            "come in pairs of magnitude, phase: are the two swapped?"
        )
    pairs = zip(image[::2], image[1::2], strict=True)
    found: list[Any] = [m * np.exp(1j * radians(p, where="the phase")) for m, p in pairs]
    return np.stack(found).astype(np.complex64)


def _smooth(volume: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """A phase of a few waves across the image, in radians; the same for the same values."""
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(volume, np.float32).tobytes()))
    phase = np.full(volume.shape, rng.uniform(-np.pi, np.pi))
    for axis, count in enumerate(volume.shape):
        place = np.linspace(-1, 1, count).reshape([-1 if a == axis else 1 for a in range(3)])
        for wave in range(1, _WAVES + 1 if count > 1 else 1):
            angle = np.pi * wave / 2 * place + rng.uniform(-np.pi, np.pi)
            phase = phase + rng.normal(0, np.pi / 2 / wave) * np.cos(angle)
    return phase
