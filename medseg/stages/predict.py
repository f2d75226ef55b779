"""`medseg predict`: what a model makes of scans, in the scans' own space.

What belongs to one task lies in its own file `medseg/tasks/<stem>.py`, so that a task is added by
adding files. Predict asks it for
  `predict(sample, networks, *, options)`: outputs by name (arrays, or text for a name with a
      suffix) and facts for the sidecar; `networks` is a `medseg.ensemble.Ensemble`,
  `OUTPUTS`: names of all outputs there can be; the first one's file is the case's name alone,
and, where it has them, for `add_options(parser)`, `FIELDS` of model.json that it needs, `AGREE`
(in which an ensemble's models must agree), `load(table, record)`, if a case is more than channels
on one grid, `EXTRAS`, files beside the channels, `NOTES`, columns of the sheet that count, and
`gather(folder)`, a table of all cases. Files of `medseg/models` may have `add_options(parser)` too.
"""

import argparse
import contextlib
import importlib
import os
import pkgutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.data.sheet import Record
    from medseg.data.table import Table
    from medseg.ensemble import Ensemble
    from medseg.sample import Sample

_PAUSE = 30.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Adder = Callable[[argparse.ArgumentParser], object]


def main(arguments: list[str]) -> int:
    """Predict every case; those that fail are listed at the end and make the exit code 1."""
    if {"-h", "--help"} & set(arguments):
        _parser(_every(), add_help=True).parse_args(arguments)
    options, _ = _parser([]).parse_known_intermixed_args(arguments)
    if options.threads is not None:
        _limit_threads(options.threads)
    from medseg import devices
    from medseg.data.predictions import opened

    card = devices.claim() if options.device == "auto" else contextlib.nullcontext()
    with opened(Path(options.out)), card:
        sources = _models([options.model, *options.inputs])
        failed = _cases(_run(arguments, sources))
        if options.also and (options.shard or "1/").startswith("1/"):
            failed |= _cases(_run(arguments, sources, beside=True))
    return failed


def _beside(options: argparse.Namespace) -> argparse.Namespace:
    """The same call for the input beside the cases: all of it, in a folder of its own."""
    nothing = dict.fromkeys(("split", "splits", "shard", "case"))
    out = str(Path(options.out) / "also")
    return argparse.Namespace(**{**vars(options), **nothing, "inputs": [options.also], "out": out})


def _cases(run: "_Run") -> int:
    """Predict one case after the other, whatever becomes of each."""
    counts = {"predicted": 0, "kept": 0}
    failed: list[str] = []
    began = time.monotonic()
    told = began
    with _bar(len(run.records)) as bar:
        for number, record in enumerate(run.records):
            done = _Share(bar.update)
            try:
                counts[run.case(record, done)] += 1
            except (ValueError, OSError, RuntimeError, EOFError, MemoryError) as error:
                text = str(error) or type(error).__name__
                text = text if record.case in text else f"case {record.case}: {text}"
                failed.append(run.failed(record, text))
            done.rest()
            told = _tell(number + 1, len(run.records), began=began, told=told)
    if hasattr(run.task, "gather"):
        run.task.gather(Path(run.options.out))
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{counts['predicted']} predicted, {counts['kept']} kept, {len(failed)} failed "
        f"in {seconds:.1f} s: {run.options.out}\n"
    )
    for text in failed:
        sys.stderr.write(f"medseg predict: {text}\n")
    return 1 if failed else 0


def _parser(adders: Iterable[Adder], *, add_help: bool = False) -> argparse.ArgumentParser:
    """The options of every prediction, and those that formats, a task and a model declare."""
    parser = argparse.ArgumentParser(
        prog="medseg predict",
        add_help=add_help,
        allow_abbrev=False,
        conflict_handler="resolve",
        description="Apply a model to scans. A case is DIR/CASE.nii.gz and its sidecar CASE.json.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=_model_help() if add_help else None)
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a sample sheet (.csv); or channel=PATH for each channel of one case; or files and "
        "folders, if the model has one channel (a DICOM folder is one file)",
    )
    add("--out", required=True, metavar="DIR", help="folder of the predictions")
    add("--also", metavar="INPUT", help="predict this as well, into OUT/also (a sheet or a file)")
    add("--case", metavar="NAME", help="name of the case (default: the first file's stem)")
    add("--split", choices=("train", "val", "test"), help="only these rows of the sheet")
    add("--splits", metavar="FILE", help="a run's splits.json in place of the sheet's split")
    add("--shard", metavar="I/N", help="part I of N of the cases, from 1/N to N/N")
    add("--as-given", action="store_true", help="trust the channels against names and contrasts")
    add("--max-memory", metavar="SIZE", help="stay below this, e.g. 4G")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--threads", type=_positive, metavar="N", help="processor threads")
    add("--batch-size", type=_positive, metavar="N", help="windows at a time")
    add("--overwrite", action="store_true", help="predict again, and replace other files as well")
    for adder in adders:
        adder(parser)
    return parser


def _model_help() -> str:
    from medseg import package

    free = ", ".join(f"method:{name}" for name in package.methods())
    return "model folder, or folder of these (an ensemble)" + (f", or {free}" if free else "")


def _every() -> Iterator[Adder]:
    """Options of all formats, tasks and models, but for files that lack a package."""
    from medseg import models, tasks
    from medseg.io import formats

    yield formats.add_options
    for room in (tasks, models):
        for found in pkgutil.iter_modules(room.__path__):
            if found.name != "learner":
                with contextlib.suppress(ImportError):
                    yield from _adders([importlib.import_module(f"{room.__name__}.{found.name}")])


def _adders(modules: Iterable[ModuleType]) -> list[Adder]:
    """The `add_options` of those modules that have one."""
    return [module.add_options for module in modules if hasattr(module, "add_options")]


def _models(words: Sequence[str]) -> list[ModuleType]:
    """Task and network files of the first word that names a model, for their options.

    Before these are known, the value of one of them may stand where MODEL is looked for.
    """
    from medseg import package

    for word in words:
        with contextlib.suppress(OSError, ValueError):
            if word.startswith("method:"):
                return package.sources(package.method_spec(word.partition(":")[2]))
            return package.sources(package.read_spec(package.find(Path(word))[0]))
    return []


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


def _tell(number: int, total: int, *, began: float, told: float) -> float:
    """Into a log, which has no bar, a line now and then; when the last one was written."""
    now = time.monotonic()
    if sys.stderr.isatty() or number == total or now - told < _PAUSE:
        return told
    rest = (now - began) / number * (total - number)
    sys.stderr.write(f"medseg predict: case {number} of {total}, about {rest:.0f} s remain\n")
    return now


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


def _run(
    arguments: Sequence[str], sources: Sequence[ModuleType], *, beside: bool = False
) -> "_Run":
    """Models, cases and devices of a call, checked against each other before any work."""
    from medseg import ensemble, package
    from medseg.data import inputs
    from medseg.data.predictions import distinct
    from medseg.io import formats
    from medseg.memory import parse_size

    mine = _adders(sources)
    options, _ = _parser([formats.add_options, *mine]).parse_known_intermixed_args(arguments)
    options = _beside(options) if beside else options
    limit = None if options.max_memory is None else parse_size(options.max_memory)
    splits = None if options.splits is None else inputs.read_splits(Path(options.splits))
    device = _device(options.device)
    packages = ensemble.load(options.model, device, options=vars(options))
    spec = packages[0].spec
    table = inputs.read(
        options.inputs,
        ensemble.wanted(packages[0]),
        case=options.case,
        slice_axis=spec.get("slice_axis"),
        optional=all(bool(p.spec.get("optional_channels")) for p in packages),
        as_given=options.as_given,
    )
    records = inputs.select(table.records(), split=options.split, splits=splits)
    if options.shard is not None:
        records = inputs.shard(records, options.shard)
    options, reading, own = _strict(arguments, inputs.examples(records), mine=mine)
    options = _beside(options) if beside else options
    reading = inputs.reading(reading, spec.get("reading", {}), records=records)
    inputs.set_reading(table, reading)
    task = package.task(spec)
    distinct([record.case for record in records], task.OUTPUTS)
    networks = ensemble.Ensemble(packages, device, options.batch_size, limit, Path(options.out))
    return _Run(options, networks, task, table, records, {**own, **reading})


def _strict(
    arguments: Sequence[str], paths: Sequence[Path], *, mine: Sequence[Adder]
) -> tuple[argparse.Namespace, dict[str, Any], dict[str, Any]]:
    """All options, those of the formats at hand, and those of the task and the model."""
    from medseg.io import formats

    def at_hand(parser: argparse.ArgumentParser) -> None:
        formats.add_options(parser, *paths)

    parser = _parser([at_hand, *mine])
    options, rest = parser.parse_known_intermixed_args(arguments)
    for word in rest:
        flag = word.partition("=")[0]
        owners = [
            module.__name__.rpartition(".")[2]
            for module in formats.modules()
            if flag.startswith("--") and flag in _flags(_adders([module]))
        ]
        if owners:
            raise ValueError(
                f"{flag} is an option of {' and '.join(owners)} files, and the inputs are others; "
                "leave it out"
            )
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}; `medseg predict --help` lists all")
    known = vars(options)
    reading = {name: known[name] for name in _flags([at_hand]).values()}
    return options, reading, {name: known[name] for name in _flags(mine).values()}


def _flags(adders: Iterable[Adder]) -> dict[str, str]:
    """Options that these declare: flag to the attribute that holds its value."""
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for adder in adders:
        adder(parser)
    return {flag: action.dest for action in parser._actions for flag in action.option_strings}


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


@dataclass
class _Run:
    """Everything that the cases of one call share; `asked` are options that change a result."""

    options: argparse.Namespace
    networks: "Ensemble"
    task: ModuleType
    table: "Table"
    records: "list[Record]"
    asked: Mapping[str, Any]

    def case(self, record: "Record", progress: Callable[[float], object]) -> str:
        """Predict one case, or keep what is there: `predicted` or `kept`."""
        from medseg.data.inputs import inspect
        from medseg.data.predictions import Place

        began = time.monotonic()
        place = Place(Path(self.options.out), record, self.key(record), self.task.OUTPUTS)
        if not self.options.overwrite and place.is_current():
            place.renew()
            return "kept"
        place.guard(overwrite=self.options.overwrite)
        self.networks.progress = progress
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sample = self.load(record)
            notes = inspect(sample, as_given=self.options.as_given)
            made, facts = self.task.predict(sample, self.networks, options=self.options)
        kinds = (UserWarning, RuntimeWarning)
        notes += dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, kinds))
        for note in notes:
            sys.stderr.write(f"medseg predict: warning: case {record.case}: {note}\n")
        place.write(made, sample, facts={**facts, **self.facts(began, notes)})
        return "predicted"

    def load(self, record: "Record") -> "Sample":
        """The case as its task reads it: as a rule, channels on one grid."""
        if hasattr(self.task, "load"):
            return self.task.load(self.table, record)
        return self.table.load(record, with_target=False)

    def failed(self, record: "Record", text: str) -> str:
        """What is said of a case that failed; an earlier prediction of it is marked as stale."""
        from medseg.data.predictions import outdate

        with contextlib.suppress(OSError):
            if outdate(Path(self.options.out), record.case, error=text):
                return f"{text} (its earlier prediction stays and is marked as stale)"
        return text

    def key(self, record: "Record") -> dict[str, Any]:
        """What a prediction is made of: where this is equal, it need not be made again."""
        from medseg.provenance import hash_file

        inputs = {}
        for channel, path in record.paths.items():
            if not path.exists():
                raise FileNotFoundError(f"case {record.case}: {channel} is not there: {path}")
            inputs[channel] = {"path": str(path), "sha256": hash_file(path)}
        model = {"path": self.options.model, "sha256": [p.sha256 for p in self.networks.packages]}
        notes = {f"sheet_{n}": record.notes.get(n) for n in getattr(self.task, "NOTES", ())}
        options = {**self.asked, **notes}
        return {"inputs": inputs, "model": model, "options": options, "slices": record.slices}

    def facts(self, began: float, notes: list[str]) -> dict[str, Any]:
        """What the sidecar says of the machine and the run."""
        import torch

        from medseg.memory import peak_mb
        from medseg.provenance import versions

        device = self.networks.device
        facts = {
            "versions": versions(),
            "device": device,
            "seconds": round(time.monotonic() - began, 3),
            "peak_memory_mb": round(peak_mb(), 1),
            "warnings": notes,
        }
        if device.startswith("cuda"):
            facts["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / (1 << 20)
        return facts
