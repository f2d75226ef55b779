"""Resampling and arg-max export against what is usual, side by side, values checked equal."""

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from medseg.geometry.resample import resample_image, resample_scores_argmax

RUNS = 5


def bench() -> list[dict[str, Any]]:
    """One row for cubic resampling, two for the arg-max over 25 classes (memory, time)."""
    return [_cubic(), *_export()]


def _cubic() -> dict[str, Any]:
    noise = np.random.default_rng(0).random((96, 160, 160)).astype(np.float32)
    image, shape = gaussian_filter(noise, 1), (128, 208, 208)

    def peer() -> np.ndarray:
        return resize(image, shape, order=3, mode="edge", anti_aliasing=False, clip=False)

    (ours_s, ours), (peer_s, theirs) = _alternate(lambda: resample_image(image, shape), peer)
    worst = float(np.abs(ours - theirs).max() / np.ptp(image))
    return {
        "subject": "cubic resampling 96x160x160 to 128x208x208",
        "ours_s": ours_s,
        "peer_s": peer_s,
        "peer": "skimage.transform.resize(order=3)",
        "ratio": peer_s / ours_s,
        "bound": 6.0,
        "equal": worst < 1e-4,
        "note": f"largest difference {worst:.1e} of the range",
    }


def _export() -> list[dict[str, Any]]:
    scores = np.random.default_rng(1).random((25, 56, 96, 96)).astype(np.float32)
    shape = (80, 144, 144)

    def whole() -> np.ndarray:
        return resample_image(scores, shape, order=1).argmax(0)

    def running() -> np.ndarray:
        return resample_scores_argmax(scores, shape)

    (ours_s, ours), (peer_s, theirs) = _alternate(running, whole)
    ours_peak, peer_peak = _peak(running), _peak(whole)
    row = {
        "ours_s": ours_s,
        "peer_s": peer_s,
        "peer": "all classes resampled, then numpy.argmax",
        "equal": bool((ours == theirs).all()),
    }
    return [
        {
            **row,
            "subject": "peak memory of arg-max export, 25 classes to 80x144x144",
            "ratio": peer_peak / ours_peak,
            "bound": 5.0,
            "note": f"{ours_peak / 2**20:.0f} MiB against {peer_peak / 2**20:.0f} MiB",
        },
        {
            **row,
            "subject": "time of arg-max export, 25 classes to 80x144x144",
            "ratio": peer_s / ours_s,
            "bound": 1.0,
            "note": "labels identical",
        },
    ]


def _alternate(
    ours: Callable[[], np.ndarray], peer: Callable[[], np.ndarray]
) -> tuple[tuple[float, np.ndarray], tuple[float, np.ndarray]]:
    """Median seconds and last result of both, run in turns after one warm-up each."""
    results = [ours(), peer()]
    seconds: list[list[float]] = [[], []]
    for _ in range(RUNS):
        for index, run in enumerate((ours, peer)):
            begin = time.perf_counter()
            results[index] = run()
            seconds[index].append(time.perf_counter() - begin)
    first, second = (statistics.median(times) for times in seconds)
    return (first, results[0]), (second, results[1])


def _peak(run: Callable[[], np.ndarray]) -> int:
    """Largest number of bytes held at once while it runs."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
