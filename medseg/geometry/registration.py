"""Registration of two plane grey images: affine first, then a B-spline, and labels carried along.

Both are found by SimpleITK on one thread over all pixels, so that a run repeats to the last digit.
Meant for images brought to about 128 x 128 pixels; a length below is in pixels.

Source: Mattes et al. 2003, doi:10.1109/TMI.2003.809072 (mutual information, B-splines), as
SimpleITK (Apache-2.0) implements it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float, Num, Shaped

BINS = 24
LEAST = 16
AFFINE_STEPS = 60
SPLINE_STEPS = 20
SPLINE_CELLS = 4
SPLINE_ORDER = 3


@dataclass(frozen=True, eq=False)
class Warp:
    """Where each pixel of the fixed image lies in the moving one.

    Attributes:
        transform: SimpleITK's transform from fixed to moving points.
        moving: rows and columns of the moving image.
        fixed: rows and columns of the fixed image.
    """

    transform: Any
    moving: tuple[int, int]
    fixed: tuple[int, int]

    def image(self, image: Num[np.ndarray, "h w"]) -> Float[np.ndarray, "y x"]:
        """The moving image on the fixed one's pixels, linear between its own; 0 beyond them."""
        return self._sample(np.asarray(image, dtype=np.float32), "sitkLinear")

    def labels(self, labels: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "y x"]:
        """Labels or bit flags of the moving image on the fixed one's pixels, unmixed."""
        kept = labels.dtype
        stored = labels.astype(np.uint8) if kept.kind == "b" else labels
        return self._sample(stored, "sitkNearestNeighbor").astype(kept)

    def _sample(self, values: np.ndarray, interpolator: str) -> np.ndarray:
        if values.shape != self.moving:
            message = f"an image of shape {values.shape} came, the warp is for {self.moving}"
            raise ValueError(f"{message}: resample it to what was registered")
        sitk: Any = import_module("SimpleITK")
        resampler = sitk.ResampleImageFilter()
        resampler.SetNumberOfThreads(1)
        resampler.SetSize(self.fixed[::-1])
        resampler.SetTransform(self.transform)
        resampler.SetInterpolator(getattr(sitk, interpolator))
        return sitk.GetArrayFromImage(resampler.Execute(sitk.GetImageFromArray(values)))


def affine(moving: Num[np.ndarray, "h w"], fixed: Num[np.ndarray, "y x"]) -> Warp:
    """The turn, shift, scale and shear that make the images share most information."""
    sitk, still, target = _images(moving, fixed)
    method = _method(sitk, shrink=(4, 2), smooth=(2.0, 1.0))
    centred = sitk.CenteredTransformInitializerFilter.GEOMETRY
    start = sitk.CenteredTransformInitializer(target, still, sitk.AffineTransform(2), centred)
    method.SetInitialTransform(start, inPlace=False)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, AFFINE_STEPS, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    return _found(method, (target, still), start=None)


def deformable(
    moving: Num[np.ndarray, "h w"],
    fixed: Num[np.ndarray, "y x"],
    *,
    start: Warp | None = None,
    cells: int = SPLINE_CELLS,
) -> Warp:
    """A smooth local deformation after `start` (found by `affine` where none is given).

    `cells` is how many cells of the spline's lattice lie along each side of the fixed image.
    """
    if cells < 1:
        raise ValueError(f"cells={cells}; a B-spline needs at least one along each side")
    first = affine(moving, fixed) if start is None else start
    sitk, still, target = _images(moving, fixed)
    method = _method(sitk, shrink=(2,), smooth=(1.0,))
    spline = sitk.BSplineTransformInitializer(target, [cells, cells], SPLINE_ORDER)
    method.SetMovingInitialTransform(first.transform)
    method.SetInitialTransform(spline, inPlace=False)
    method.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-5, numberOfIterations=SPLINE_STEPS,
        maximumNumberOfCorrections=5, maximumNumberOfFunctionEvaluations=500,
        costFunctionConvergenceFactor=1e7,
    )  # fmt: skip
    return _found(method, (target, still), start=first)


def _images(moving: np.ndarray, fixed: np.ndarray) -> tuple[Any, Any, Any]:
    for name, image in (("moving", moving), ("fixed", fixed)):
        if min(image.shape) < LEAST:
            message = f"the {name} image has {image.shape} pixels, {LEAST} a side are wanted"
            raise ValueError(f"{message} to register it")
        if not np.isfinite(image).all():
            raise ValueError(f"the {name} image holds values that are not finite; repair it first")
        if image.min() == image.max():
            message = f"the {name} image has one value everywhere ({image.flat[0]:g})"
            raise ValueError(f"{message}; there is nothing to register")
    sitk: Any = import_module("SimpleITK")
    scaled = (_unit(image) for image in (moving, fixed))
    return (sitk, *(sitk.GetImageFromArray(image) for image in scaled))


def _unit(image: np.ndarray) -> Float[np.ndarray, "h w"]:
    low, high = float(image.min()), float(image.max())
    return ((image.astype(np.float64) - low) / (high - low)).astype(np.float32)


def _method(sitk: Any, *, shrink: tuple[int, ...], smooth: tuple[float, ...]) -> Any:  # noqa: ANN401
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetShrinkFactorsPerLevel(list(shrink))
    method.SetSmoothingSigmasPerLevel(list(smooth))
    return method


@contextlib.contextmanager
def _one_thread(sitk: Any) -> Iterator[None]:  # noqa: ANN401 -- the module
    """A method's own number of threads does not reach the filters in it, whose sums then differ."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _found(method: Any, images: tuple[Any, Any], *, start: Warp | None) -> Warp:  # noqa: ANN401
    sitk: Any = import_module("SimpleITK")
    fixed, moving = images
    shapes = {"moving": moving.GetSize()[::-1], "fixed": fixed.GetSize()[::-1]}
    try:
        with _one_thread(sitk):
            transform = method.Execute(fixed, moving)
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1]
        message = "the images could not be registered"
        raise ValueError(f"{message} ({cause}); are both of the same body part?") from error
    if start is not None:
        transform = sitk.CompositeTransform([start.transform, transform])
    return Warp(transform, **shapes)
