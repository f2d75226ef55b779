"""`medseg predict`: a model's labels for scans, in the scans' own space."""

import argparse
import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.data.table import Record, Table
    from medseg.geometry.resample import Passage
    from medseg.inference import Found, Member, Wish
    from medseg.package import Package
    from medseg.sample import Sample

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_AGREE = ("channels", "labels", "instances", "spacing_mm", "intensity")


def main(arguments: list[str]) -> int:
    """Predict every case; those that fail are listed at the end and make the exit code 1."""
    from medseg import devices
    from medseg.provenance import writable

    readers = _readers()
    options = _parser(readers).parse_args(arguments)
    options.reading = {name: getattr(options, name) for name in vars(readers.parse_args([]))}
    if options.threads is not None:
        _limit_threads(options.threads)
    out = Path(options.out)
    writable(out)
    with devices.claim() if options.device == "auto" else contextlib.nullcontext():
        return _cases(_run(options, out))


def _cases(run: "_Run") -> int:
    """Predict one case after the other, whatever becomes of each."""
    counts = {"predicted": 0, "kept": 0}
    failed: list[str] = []
    began = time.monotonic()
    with _bar(len(run.records)) as bar:
        for record in run.records:
            done = _Share(bar.update)
            try:
                counts[run.case(record, done)] += 1
            except (ValueError, OSError, RuntimeError, EOFError, MemoryError) as error:
                text = str(error) or type(error).__name__
                failed.append(text if record.case in text else f"case {record.case}: {text}")
            done.rest()
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{counts['predicted']} predicted, {counts['kept']} kept, {len(failed)} failed "
        f"in {seconds:.1f} s: {run.options.out}\n"
    )
    for text in failed:
        sys.stderr.write(f"medseg predict: {text}\n")
    return 1 if failed else 0


def _readers() -> argparse.ArgumentParser:
    """Options that belong to one file format each."""
    from medseg.io import formats

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    formats.add_options(parser)
    return parser


def _parser(readers: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medseg predict",
        parents=[readers],
        allow_abbrev=False,
        description="Apply a model to scans. A case is DIR/CASE.nii.gz and its sidecar CASE.json.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder, folder of these (an ensemble), method:NAME")
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a sample sheet (.csv); or channel=PATH for each channel of one case; or files and "
        "folders, if the model has one channel (a DICOM folder is one file)",
    )
    add("--out", required=True, metavar="DIR", help="folder of the predictions")
    add("--case", metavar="NAME", help="name of the case (default: the first file's stem)")
    add("--split", choices=("train", "val", "test"), help="only these rows of the sheet")
    add("--splits", metavar="FILE", help="a run's splits.json in place of the sheet's split")
    add("--shard", metavar="I/N", help="part I of N of the cases, from 1/N to N/N")
    add("--mirror", action="store_true", help="average over mirrored views (slower)")
    add("--uncertainty", action="store_true", help="also CASE_entropy: 0 certain, 1 undecided")
    add(
        "--probabilities", action="store_true", help="also CASE_probabilities, 4-D, a class a frame"
    )
    add("--max-memory", metavar="SIZE", help="stay below this, e.g. 4G")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--threads", type=_positive, metavar="N", help="processor threads")
    add("--batch-size", type=_positive, default=4, metavar="N", help="windows at a time")
    add("--overwrite", action="store_true", help="predict again, and replace other files as well")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def _limit_threads(count: int) -> None:
    """Libraries that are not loaded yet read their number of threads from the environment."""
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_THREADS, str(count)))
    import torch

    torch.set_num_threads(count)


def _bar(total: int) -> Any:  # noqa: ANN401 -- tqdm has no types
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"
    return tqdm(total=total, disable=None, desc=f"predict, {total} cases", bar_format=form)


class _Share:
    """Tells a bar how much of one case is done; together always one."""

    def __init__(self, update: Callable[[float], object]) -> None:
        self.update, self.told = update, 0.0

    def __call__(self, share: float) -> None:
        step = min(share, 1.0 - self.told)
        self.told += step
        self.update(step)

    def rest(self) -> None:
        self(1.0)


def _run(options: argparse.Namespace, out: Path) -> "_Run":
    """Models, cases and devices of a call, checked against each other before any work."""
    from medseg.data import inputs
    from medseg.data.predictions import distinct
    from medseg.memory import parse_size

    limit = None if options.max_memory is None else parse_size(options.max_memory)
    splits = None if options.splits is None else inputs.read_splits(Path(options.splits))
    folders = _folders(options.model)
    device = _device(options.device)
    packages = _packages(folders, device)
    spec = packages[0].spec
    table = inputs.read(
        options.inputs,
        packages[0].channels,
        case=options.case,
        slice_axis=spec["slice_axis"],
        optional=all(bool(p.spec.get("optional_channels")) for p in packages),
        **options.reading,
    )
    records = inputs.select(table.records(), split=options.split, splits=splits)
    if options.shard is not None:
        records = inputs.shard(records, options.shard)
    distinct([record.case for record in records])
    return _Run(options, out, packages, table, records, device, limit)


def _folders(model: str) -> list[Path]:
    """Model folders that MODEL names."""
    from medseg import models, package

    kind, colon, stem = model.partition(":")
    if kind != "method" or not colon:
        return package.find(Path(model))
    known = sorted(p.stem for p in Path(models.__path__[0]).glob("[a-z]*.py"))
    if stem not in known:
        import difflib

        near = difflib.get_close_matches(stem, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(
            f"'{stem}' is no file of medseg.models; {hint}there are {', '.join(known)}"
        )
    raise ValueError(
        f"'{stem}' has to be trained before it can predict; give the model folder that "
        "`medseg train` wrote"
    )


def _device(name: str) -> str:
    """A device that is there; `auto` takes the first CUDA card or else the processor."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"--device {name} is unknown; take auto, cpu, cuda, cuda:1 or mps"
        ) from None
    there = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise ValueError(f"--device {name} is not there; `medseg info` lists devices (or take cpu)")
    return name


def _packages(folders: Sequence[Path], device: str) -> list["Package"]:
    """Loaded models that agree on what goes in and what comes out."""
    from medseg import package

    packages = [package.load(folder, device) for folder in folders]
    first = packages[0]
    for other in packages:
        if other.spec["task"]["name"] != "segment":
            raise ValueError(
                f"{other.folder} is a model for the task '{other.spec['task']['name']}'; "
                "this version predicts 'segment'"
            )
        for key in _AGREE:
            one, two = first.spec.get(key), other.spec.get(key)
            if json.dumps(one) != json.dumps(two):
                raise ValueError(
                    f"the models of an ensemble must agree on {key}: {first.folder} has {one}, "
                    f"{other.folder} has {two}; give models of one recipe"
                )
    return packages


@dataclass
class _Run:
    """Everything that the cases of one call share."""

    options: argparse.Namespace
    out: Path
    packages: "list[Package]"
    table: "Table"
    records: "list[Record]"
    device: str
    limit: int | None

    def case(self, record: "Record", progress: Callable[[float], object]) -> str:
        """Predict one case, or keep what is there: `predicted` or `kept`."""
        from medseg.data.inputs import inspect
        from medseg.data.predictions import Place

        began = time.monotonic()
        place = Place(self.out, record, self.key(record))
        if place.is_current() and not self.options.overwrite:
            return "kept"
        place.guard(overwrite=self.options.overwrite)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sample = self.table.load(record, with_target=False)
            notes = inspect(sample)
            found = self.predict(sample, progress)
        kinds = (UserWarning, RuntimeWarning)
        notes += dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, kinds))
        for note in notes:
            sys.stderr.write(f"medseg predict: warning: case {record.case}: {note}\n")
        frames = found.probabilities
        arrays = {
            "labels": found.labels,
            "entropy": found.entropy,
            "probabilities": None if frames is None else frames.transpose(1, 2, 3, 0),
        }
        place.write(arrays, sample, self.facts(began, notes))
        return "predicted"

    def key(self, record: "Record") -> dict[str, Any]:
        """What a prediction is made of: where this is equal, it need not be made again."""
        from medseg.provenance import hash_file

        inputs = {}
        for channel, path in record.paths.items():
            if not path.exists():
                raise FileNotFoundError(f"case {record.case}: {channel} is not there: {path}")
            inputs[channel] = {"path": str(path), "sha256": hash_file(path)}
        names = ("mirror", "uncertainty", "probabilities")
        return {
            "inputs": inputs,
            "model": {"path": self.options.model, "sha256": [p.sha256 for p in self.packages]},
            "options": {n: getattr(self.options, n) for n in names} | self.options.reading,
            "slices": record.slices,
        }

    def facts(self, began: float, notes: list[str]) -> dict[str, Any]:
        """What the sidecar says of the labels, the machine and the run."""
        import torch

        from medseg.memory import peak_mb
        from medseg.provenance import versions

        spec = self.packages[0].spec
        facts = {
            "labels": {name: n for n, name in enumerate(spec["labels"], start=1)},
            "sources": spec["labels"],
            "instances": spec.get("instances", []),
            "versions": versions(),
            "device": self.device,
            "seconds": round(time.monotonic() - began, 3),
            "peak_memory_mb": round(peak_mb(), 1),
            "warnings": notes,
        }
        if self.device.startswith("cuda"):
            facts["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / (1 << 20)
        return facts

    def predict(self, sample: "Sample", progress: Callable[[float], object]) -> "Found":
        """Labels and maps of one scan; where a card's memory is too small, on the processor."""
        import torch

        from medseg.data.intensity import normalise
        from medseg.geometry.resample import Passage
        from medseg.inference import keep_largest, segment

        spec = self.packages[0].spec
        passage = Passage.to(sample.space, spec["spacing_mm"] and tuple(spec["spacing_mm"]))
        image, _ = normalise(passage.image(sample.image), spec["intensity"])
        n_classes = len(spec["labels"]) + 1
        members = self.members(sample)
        wish = self.wish(members, image.shape[0], passage, progress)
        try:
            found = segment(members, image, passage, n_classes=n_classes, wish=wish)
        except torch.OutOfMemoryError:
            if self.device == "cpu":
                raise
            warnings.warn(f"{self.device} is too small; going on with the cpu", stacklevel=1)
            for one in self.packages:
                one.network.to("cpu")
            self.device = "cpu"
            torch.cuda.empty_cache()
            wish = replace(wish, device="cpu", batch_size=1)
            found = segment(members, image, passage, n_classes=n_classes, wish=wish)
        rules = spec.get("postprocess") or {}
        single = [
            index
            for index, name in enumerate(spec["labels"], start=1)
            if (rules.get(name) or {}).get("largest_component")
        ]
        return replace(found, labels=keep_largest(found.labels, single, passage))

    def members(self, sample: "Sample") -> "list[Member]":
        """The networks and how each sees this scan."""
        from medseg.data.table import coarsest_axis
        from medseg.inference import Member, half
        from medseg.windows import Tiling

        made = []
        for one in self.packages:
            axis = one.spec["slice_axis"]
            axis = coarsest_axis(sample.space) if axis is None else axis
            tiling = Tiling(one.spec["ndim"], axis, tuple(one.spec["patch_size"]), one.stride)
            made.append(Member(half(one.network), tiling, one.network))
        return made

    def wish(
        self,
        members: "list[Member]",
        n_channels: int,
        passage: "Passage",
        progress: Callable[[float], object],
    ) -> "Wish":
        """How to predict, within --max-memory where that is given."""
        from medseg.inference import Wish, fit

        wish = Wish(
            device=self.device,
            batch_size=self.options.batch_size,
            mirror=self.options.mirror,
            uncertainty=self.options.uncertainty,
            probabilities=self.options.probabilities,
            progress=progress,
        )
        if self.limit is None:
            return wish
        shape = (n_channels, len(self.packages[0].labels) + 1)
        return fit(members, passage, shape, wish=wish, limit=self.limit, folder=self.out)
