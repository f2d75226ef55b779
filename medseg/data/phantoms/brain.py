"""Complex brain scans of made-up people, in k-space of several coils, with tumours known exactly.

The phase of a voxel is 2 pi gamma TE times its shift of the field, plus the coil's own phase and
one of the transmitter that is drawn anew for each case, so that no absolute phase means anything.
Shifts and signals of voxels are means over finer points, each on its own: a border of a tumour
that is seen by its phase alone leaves no trace in the magnitude of the fully sampled, noiseless
image.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Complex, Float, Integer

from medseg.data.phantoms import head, lesions, receive
from medseg.data.phantoms.cases import Cases, write_cases
from medseg.data.phantoms.head import FIELD_MM, Lattice, Map
from medseg.data.sheet import Record
from medseg.geometry import coils, fourier
from medseg.geometry.grid import Grid
from medseg.io import nifti
from medseg.sample import Sample

FORMS = ("kspace", "image", "magnitude")
HEALTHY = "healthy"
_FINER = 2
_SLAB_MM = 128.0
_ECHO_MS = (18.0, 25.0)


@dataclass(frozen=True, eq=False)
class Scan:
    """One case: what the coils measured, and the truth behind it.

    Attributes:
        kspace: complex64 (coil, z, y, x), one slice in 2-D, with noise, 0 where not sampled.
        sampled: where it was, (z, y, x).
        image: the signal without noise, coils or undersampling, complex64.
        sensitivities: the coils' profiles.
        labels: 0 and the tumour classes from 1 on.
        category: the class of the case's tumour, or "healthy".
        grid: where the voxels lie; the first voxel's centre is the origin.
    """

    kspace: Complex[np.ndarray, "coil z y x"]
    sampled: Bool[np.ndarray, "z y x"]
    image: Complex[np.ndarray, "x y z"]
    sensitivities: Complex[np.ndarray, "coil x y z"]
    labels: Integer[np.ndarray, "x y z"]
    category: str
    grid: Grid

    @property
    def measured(self) -> Complex[np.ndarray, " coil *space"]:
        """The k-space as a file holds it: (coil, y, x) of one slice, else (coil, z, y, x)."""
        return self.kspace[:, 0] if self.kspace.shape[1] == 1 else self.kspace

    @property
    def reconstruction(self) -> Complex[np.ndarray, "x y z"]:
        """The zero-filled image of all coils, as reading the file makes it."""
        found = coils.reconstruct(self.measured, "zero_filled")
        return np.ascontiguousarray(found.reshape(self.kspace.shape[1:]).T)


class Brain:
    """Made-up people, each scanned once; case i of a split never changes when a split grows.

    The field of view is 216 mm wide (and 128 mm high in 3-D); a 2-D case is one axial slice
    somewhere through the ventricles. The classes take turns, so that all occur. Cases of the same
    seed and place with another cue, noise, form or sampling show the same head and labels.

    Args:
        n_train: training cases.
        n_val: validation cases.
        n_test: test cases.
        seed: another seed makes other people.
        ndim: 2 for slices, 3 for volumes.
        shape: voxels along R, A (and S); by default 96 x 96, or 64 x 64 x 32.
        n_coils: rings around the head.
        cue: what shows a tumour: its "phase" alone (the magnitude is exactly that of the tissue it
            lies in), its "magnitude" alone, or "both", the magnitude no more than some healthy
            spots.
        classes: which tumours occur; their label values are 1, 2, … in this order.
        healthy: the share of cases without a tumour; with 0.1, every tenth of a split.
        noise: standard deviation of each part of a coil's noise, as a share of the signal of fluid
            where the coils receive most.
        acceleration: all samples of k-space for each one measured.
        sampling: "lines" of random, centre-weighted phase encodings, "regular" lines, or "points"
            (of both axes in 2-D, of the two phase encodings in 3-D); the centre is always full.
        form: what is written: "kspace" (.npy), the "image" of the coils together as complex NIfTI,
            or its "magnitude" as a real one.
    """

    def __init__(
        self,
        *,
        n_train: int = 96,
        n_val: int = 12,
        n_test: int = 24,
        seed: int = 0,
        ndim: int = 2,
        shape: Sequence[int] | None = None,
        n_coils: int = 6,
        cue: str = "both",
        classes: Sequence[str] = ("glioma", "meningioma", "metastasis"),
        healthy: float = 0.1,
        noise: float = 0.02,
        acceleration: float = 1.0,
        sampling: str = "lines",
        form: str = "kspace",
    ) -> None:
        self.cases = Cases(n_train, n_val, n_test, seed)
        if n_coils < 1:
            raise ValueError(f"n_coils is {n_coils}; at least one coil must receive")
        _one_of("cue", cue, lesions.CUES)
        _one_of("sampling", sampling, receive.SAMPLINGS)
        _one_of("form", form, FORMS)
        for name in classes:
            _one_of("classes", name, tuple(lesions.GROWTHS))
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes is {list(classes)}; name one or more, each once")
        if not 0 <= healthy <= 1:
            raise ValueError(f"healthy is {healthy}; give a share from 0 to 1")
        if noise < 0 or acceleration < 1:
            raise ValueError(
                f"noise is {noise}, acceleration {acceleration}; from 0 and from 1 upwards"
            )
        self.shape = _shape(ndim, shape)
        side = round(FIELD_MM / min(self.shape[:2]), 4)
        self.spacing_mm = (side, side, round(_SLAB_MM / self.shape[2], 4) if ndim == 3 else 1.0)
        self._finer = (_FINER, _FINER, _FINER if ndim == 3 else 1)
        self.ndim, self.n_coils, self.cue, self.classes = ndim, n_coils, cue, tuple(classes)
        self.healthy, self.noise, self.form = healthy, noise, form
        self.acceleration, self.sampling = acceleration, sampling

    def records(self) -> list[Record]:
        """One record a case; nothing has been drawn yet."""
        return self.cases.records()

    def draw(self, record: Record) -> Scan:
        """One case, and the truth behind it."""
        person, growth, around, received, chance = self.cases.stream(record).spawn(5)
        fine, coarse = self._lattices(person)
        anatomy = head.paint(person, fine)
        lesions.mimic(around, fine, head=anatomy)
        category, tumours = self._tumours(record, growth, fine, anatomy)
        lesions.grow(anatomy, fine, tumours=tumours, cue=self.cue)
        labels = np.zeros(self.shape, np.uint8)
        if tumours:
            value = self.classes.index(category) + 1
            labels = lesions.labelled(tumours, value, block=self._block)
        image = self._image(received, coarse, anatomy)
        profiles = receive.sensitivities(received, coarse, n_coils=self.n_coils)
        profiles = receive.scaled(profiles, self._block(anatomy.tissue.signal))
        gain = np.float32(received.uniform(0.7, 1.4))
        kspace = np.transpose(fourier.fft(gain * image * profiles, (1, 2, 3)), (0, 3, 2, 1))
        kspace = kspace + receive.noise(chance, kspace.shape, sigma=self.noise * float(gain))
        sampled = receive.sampling(
            chance, kspace.shape[1:], acceleration=self.acceleration, kind=self.sampling
        )
        return Scan(
            kspace=np.ascontiguousarray(np.where(sampled, kspace, 0).astype(np.complex64)),
            sampled=sampled,
            image=gain * image,
            sensitivities=profiles,
            labels=labels,
            category=category,
            grid=Grid(self.shape, np.diag([*self.spacing_mm, 1.0])),
        )

    def load(self, record: Record, *, with_target: bool = True) -> Sample:
        """Draw one case and put its coils together, as reading the written file does."""
        scan = self.draw(record)
        image = scan.reconstruction
        image = np.abs(image) if self.form == "magnitude" else image
        return Sample(
            id=record.case,
            image=image[None],
            space=scan.grid,
            channels=(self.form,),
            target=scan.labels if with_target else None,
            subject=record.subject,
            split=record.split,
        )

    def write(self, folder: Path) -> Path:
        """Write every case as an image or k-space, a label NIfTI and a sheet; returns the sheet.

        The folder takes its place when all is written; one that was there is replaced.
        """
        columns = ["case", "subject", self.form, "label", "split", "class", "spacing_mm"]
        return write_cases(folder, columns, rows=self._write_cases)

    def _write_cases(self, folder: Path) -> Iterator[list[str]]:
        """Write the files of each case and yield its row."""
        spacing = ",".join(f"{mm:g}" for mm in self.spacing_mm[: self.ndim])
        for record in self.records():
            scan = self.draw(record)
            suffix = ".npy" if self.form == "kspace" else ".nii.gz"
            names = [f"{record.case}_{self.form}{suffix}", f"{record.case}_label.nii.gz"]
            if self.form == "kspace":
                np.save(folder / names[0], scan.measured)
            else:
                image = self.load(record).image[0]
                nifti.write(folder / names[0], image, grid=scan.grid, meta={}, dtype=image.dtype)
            nifti.write(folder / names[1], scan.labels, grid=scan.grid, meta={}, dtype=np.uint8)
            yield [record.case, record.subject, *names, record.split, scan.category, spacing]

    def _lattices(self, rng: np.random.Generator) -> tuple[Lattice, Lattice]:
        """The fine points that tissue is drawn on and the voxels, in the person's own axes."""
        unit = rng.uniform(0.9, 1.0)
        angle, shift = np.deg2rad(rng.normal(0, 4)), rng.normal(0, 2, 2)
        height = rng.uniform(-2, 24) * unit if self.ndim == 2 else rng.normal(0, 4)

        def lattice(finer: tuple[int, int, int]) -> Lattice:
            steps = [mm / f for mm, f in zip(self.spacing_mm, finer, strict=True)]
            x, y, z = (
                (np.arange(n * f) + 0.5) * step - n * f * step / 2
                for n, f, step in zip(self.shape, finer, steps, strict=True)
            )
            x, y = x[:, None, None] - shift[0], y[None, :, None] - shift[1]
            turned = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
            right, ahead, above = (
                axis.astype(np.float32) for axis in (*turned, z[None, None, :] + height)
            )
            return Lattice(right, ahead, above, (steps[0], steps[1], steps[2]), unit)

        return lattice(self._finer), lattice((1, 1, 1))

    def _block(self, fine: Map) -> Float[np.ndarray, "i j k"]:
        """Means over the fine points of each voxel."""
        (x, y, z), (a, b, c) = self.shape, self._finer
        return fine.reshape(x, a, y, b, z, c).mean((1, 3, 5))

    def _tumours(
        self, record: Record, rng: np.random.Generator, at: Lattice, anatomy: head.Head
    ) -> tuple[str, list[lesions.Tumour]]:
        """The case's class and tumours; none if it is healthy."""
        place = int(record.case.partition("-")[2])
        before = math.floor(place * self.healthy)
        if math.floor((place + 1) * self.healthy) > before:
            return HEALTHY, []
        category = self.classes[(place - before + self.cases.seed) % len(self.classes)]
        return category, lesions.GROWTHS[category](rng, at, head=anatomy)

    def _image(
        self, rng: np.random.Generator, at: Lattice, anatomy: head.Head
    ) -> Complex[np.ndarray, "x y z"]:
        """Signal and phase of the voxels at a random echo time and transmitter phase."""
        shift = self._block(anatomy.tissue.shift_ppm) + receive.static_field(rng, at)
        echo_ms = rng.uniform(*_ECHO_MS)
        phase = receive.RADIANS_PER_PPM_MS * echo_ms * shift + rng.uniform(-np.pi, np.pi)
        return (self._block(anatomy.tissue.signal) * np.exp(1j * phase)).astype(np.complex64)


def _one_of(name: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ValueError(f"{name} is {given!r}; it must be one of {', '.join(known)}")


def _shape(ndim: int, shape: Sequence[int] | None) -> tuple[int, int, int]:
    """Voxels along three axes, one of them single in 2-D."""
    if ndim not in (2, 3):
        raise ValueError(f"ndim is {ndim}; give 2 for slices or 3 for volumes")
    given = ((96, 96), (64, 64, 32))[ndim - 2] if shape is None else tuple(shape)
    if len(given) != ndim or min(given[:2]) < 32 or min(given) < 8:
        raise ValueError(
            f"shape is {list(given)}; give {ndim} axes, the first two of at least 32 voxels and a "
            "third of at least 8"
        )
    return int(given[0]), int(given[1]), int(given[2]) if ndim == 3 else 1
