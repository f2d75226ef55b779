"""What a user names on the command line, as cases: a sheet, files, folders, or `channel=path`."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data import dixon
from medseg.data.sheet import Record
from medseg.data.table import SHEET, Table, gather
from medseg.geometry.sphere import Sphere
from medseg.provenance import read_json
from medseg.sample import Sample

SPLITS = ("train", "val", "test")
_HUGE = 1e15


def read(
    arguments: Sequence[str],
    channels: Sequence[str],
    *,
    case: str | None = None,
    slice_axis: int | None = None,
    optional: bool = False,
    as_given: bool = False,
) -> Table:
    """The cases that INPUT arguments name, for a model of these channels.

    Args:
        arguments: a sheet, or files and folders of a one-channel model, or `channel=path` pairs.
        channels: the model's own, in its order.
        case: the name of the case that the pairs (or the one file) make.
        slice_axis: the axis along which a sheet's `slices` count.
        optional: channels may be missing.
        as_given: a file may bear the name of another channel.
    """
    if len(arguments) == 1 and _is_sheet(Path(arguments[0])):
        if case is not None:
            raise ValueError("--case names a case given by files; a sheet names its own cases")
        table = Table(arguments[0], channels, slice_axis=slice_axis, optional=optional)
    else:
        records = _records(arguments, channels, case, optional=optional)
        first = next(iter(records[0].paths.values()))
        table = Table.of(records, first.parent, channels=channels)
    if not as_given:
        for record in table.records():
            _names(record, channels)
    return table


def set_reading(table: Table, options: Mapping[str, Any]) -> None:
    """Have a table read its files with the options that their formats declare."""
    rest = dict(options)
    table.volume, table.series = rest.pop("volume", None), rest.pop("series", None)
    table.options = rest


def reading(
    asked: Mapping[str, Any], usual: Mapping[str, Any], *, records: Sequence[Record]
) -> dict[str, Any]:
    """The options to read files by: as asked, else as the model's own data were read.

    Of the latter those stay away that a format at hand does not know.
    """
    from medseg.io import formats

    paths = examples(records)
    known = {k: v for k, v in usual.items() if all(formats.accepts(path, k) for path in paths)}
    return known | {name: value for name, value in asked.items() if value is not None}


def examples(records: Sequence[Record]) -> list[Path]:
    """One readable path of each suffix: enough to know the formats at hand."""
    from medseg.io import formats

    kinds: dict[tuple[str, bool], Path] = {}
    for path in (path for record in records for path in record.paths.values()):
        kind = (path.suffix.lower(), path.is_dir())
        if kind not in kinds and formats.is_image(path):
            kinds[kind] = path
    return list(kinds.values())


def _names(record: Record, channels: Sequence[str]) -> None:
    """Refuse a file that bears another channel's name and not its own (`…_water` given as fat).

    A word that all files of the case bear says nothing of any of them.
    """
    from medseg.io import formats

    words = {name: _words(formats.stem(path)) for name, path in record.paths.items()}
    shared = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    for name, found in words.items():
        told = [c for c in channels if _spells(found, _words(c), shared)]
        if told and name not in told:
            raise ValueError(
                f"case {record.case}: {name} is {record.paths[name]}, whose name says "
                f"{' and '.join(told)}; give each channel its own file, or --as-given if the "
                "names mislead"
            )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _spells(words: Sequence[str], name: Sequence[str], shared: set[str]) -> bool:
    """Whether the words hold a channel's name, one after the other."""
    if not name or set(name) <= shared:
        return False
    return any(list(words[n : n + len(name)]) == list(name) for n in range(len(words)))


def _records(
    arguments: Sequence[str], channels: Sequence[str], case: str | None, *, optional: bool
) -> list[Record]:
    """Cases that are given by their files, without a sheet."""
    pairs = [_pair(argument) for argument in arguments]
    if all(pairs):
        paths = _channels([p for p in pairs if p], channels, optional=optional)
        name = _checked(case or _first_stem(list(paths.values())))
        return [Record(name, "", "", {c: paths[c] for c in channels if c in paths})]
    if any(pairs):
        plain = next(a for a, p in zip(arguments, pairs, strict=True) if not p)
        raise ValueError(
            f"'{plain}' stands among channel=path pairs; name its channel "
            f"({', '.join(channels)}) or give files alone"
        )
    for argument in arguments:
        if not Path(argument).exists():
            raise FileNotFoundError(f"{argument} does not exist; give the path of an input")
        if _is_sheet(Path(argument)):
            raise ValueError(
                f"the sample sheet {argument} stands among other inputs; give it alone"
            )
    return _single(arguments, channels, case)


def inspect(sample: Sample, *, as_given: bool = False) -> list[str]:
    """Refuse values that are not finite and one image under two names; say what looks wrong.

    Contrasts that are clearly in each other's places are refused too, unless wanted `as_given`.
    A channel that is missing, that is the same everywhere, or beyond all intensities is told.
    """
    notes: list[str] = []
    present = sample.meta.get("present", (True,) * len(sample.channels))
    seen: dict[str, np.ndarray] = {}
    for name, values, there in zip(sample.channels, sample.image, present, strict=True):
        if not there:
            continue
        bad = values.size - int(np.isfinite(values).sum())
        if isinstance(sample.space, Sphere) and 0 < bad < values.size:
            notes.append(f"{name}: {bad} pixels are UNSEEN or NaN; they count as not known")
            values = values[np.isfinite(values)]
        elif bad:
            raise ValueError(
                f"case {sample.id}: {name} ({sample.sources.get(name)}) has {bad} voxels that are "
                "NaN or infinite; wanted finite values: mend the file (`medseg check` finds these)"
            )
        for other, earlier in seen.items():
            if np.array_equal(values, earlier):
                raise ValueError(
                    f"case {sample.id}: {other} and {name} hold the same image "
                    f"({sample.sources.get(other)}, {sample.sources.get(name)}); give each its own"
                )
        seen[name] = values
        notes += _odd(name, values)
    if not as_given:
        dixon.check(sample)
    missing = [n for n, there in zip(sample.channels, present, strict=True) if not there]
    if missing:
        text = f"without {', '.join(missing)}: the model was trained to do without, less surely"
        notes.insert(0, text)
    return notes


def _odd(name: str, values: np.ndarray) -> list[str]:
    """What a channel's range says against it."""
    if not values.size:
        return []
    values = np.abs(values) if np.iscomplexobj(values) else values
    low, high = float(np.min(values)), float(np.max(values))
    if low == high:
        return [
            f"channel {name} is constant ({low:g}): it tells the model nothing, and labels are "
            "less sure; give the right file"
        ]
    if max(-low, high) > _HUGE:
        return [
            f"channel {name} has values up to {max(-low, high):.3g}, which no scan has; labels "
            "may be wrong: look at the file's values and scaling"
        ]
    return []


def select(
    records: Sequence[Record], *, split: str | None, splits: Mapping[str, str] | None
) -> list[Record]:
    """The records of one split; `splits` (case to split) takes the place of the sheet's own."""
    chosen = list(records)
    if splits is not None:
        chosen = [replace(r, split=splits.get(r.case, "")) for r in chosen]
    if split is None:
        return chosen
    kept = [r for r in chosen if r.split == split]
    if not kept:
        there = sorted({r.split or "(none)" for r in chosen})
        raise ValueError(f"no case is of the split '{split}'; there are: {', '.join(there)}")
    return kept


def read_splits(path: Path) -> dict[str, str]:
    """A run's `splits.json`: case to split."""
    content = read_json(path)
    if not isinstance(content, dict) or not set(content.values()) <= {*SPLITS, ""}:
        raise ValueError(f"{path} must map cases to {', '.join(SPLITS)} (a run's splits.json)")
    return content


def shard(records: Sequence[Record], text: str) -> list[Record]:
    """Part i of n (`1/4` … `4/4`) of the records, every n-th, so that parts are alike in size."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise ValueError(f"--shard is '{text}'; wanted i/n with i from 1 to n, as in 1/4")
    return list(records[int(first) - 1 :: int(second)])


def _pair(argument: str) -> tuple[str, str] | None:
    name, equals, path = argument.partition("=")
    if not equals or not name or Path(argument).exists() or "/" in name:
        return None
    return name, path


def _is_sheet(path: Path) -> bool:
    """A file with a sheet's suffix, or a folder that holds a sample sheet."""
    return path.suffix.lower() in {".csv", ".tsv"} or (path / SHEET).is_file()


def _channels(
    pairs: Iterable[tuple[str, str]], channels: Sequence[str], *, optional: bool
) -> dict[str, Path]:
    """Channel to path as given; names are compared with the model's, never guessed."""
    given: dict[str, Path] = {}
    wants = f"the model wants {', '.join(channels)}"
    for name, path in pairs:
        if name not in channels:
            lower = {c.lower(): c for c in channels}
            near = difflib.get_close_matches(name.lower(), lower, n=1)
            hint = f"; did you mean '{lower[near[0]]}'?" if near else ""
            raise ValueError(f"'{name}' is not a channel of the model: {wants}{hint}")
        if name in given:
            raise ValueError(f"the channel '{name}' is given twice ({given[name]}, {path})")
        if not path or not Path(path).exists():
            raise FileNotFoundError(f"{name}={path}: the file does not exist")
        for other, earlier in given.items():
            if earlier.samefile(path) and not _of_fields(Path(path)):
                raise ValueError(
                    f"{other} and {name} hold the same image ({path}); give each channel its own"
                )
        given[name] = Path(path)
    missing = [c for c in channels if c not in given]
    if missing and not optional:
        raise ValueError(
            f"channel {', '.join(missing)} is missing: {wants}; give {missing[0]}=PATH as well "
            "(only a model trained with modality dropout can do without)"
        )
    return given


def _of_fields(path: Path) -> bool:
    """Whether a file holds several channels by name, as maps of T, Q and U."""
    from medseg.io import formats

    return formats.is_image(path) and formats.accepts(path, "channel")


def _first_stem(paths: Sequence[Path]) -> str:
    from medseg.io import formats

    stems = [formats.stem(path) for path in dict.fromkeys(paths)]
    if len(set(stems)) < len(stems):
        twice = next(s for s in stems if stems.count(s) > 1)
        raise ValueError(f"two inputs have the stem '{twice}'; name the case with --case NAME")
    return stems[0]


def _single(arguments: Sequence[str], channels: Sequence[str], case: str | None) -> list[Record]:
    """Cases of a one-channel model: each image of each file and folder."""
    from medseg.io import formats

    if len(channels) != 1:
        raise ValueError(
            f"the model wants {len(channels)} channels ({', '.join(channels)}) and '{arguments[0]}'"
            f" names none; give {' '.join(f'{c}=PATH' for c in channels)}, or a sample sheet"
        )
    found: dict[str, Path] = {}
    for argument in arguments:
        path = Path(argument)
        several = path.is_dir() and not formats.is_image(path)
        for name, file in (gather(path) if several else {formats.stem(path): path}).items():
            if name in found:
                raise ValueError(
                    f"{found[name]} and {file} would both be the case '{name}'; rename one, or "
                    "predict them into different folders"
                )
            found[name] = file
    if case is not None:
        if len(found) > 1:
            raise ValueError(f"--case names one case, and the inputs are {len(found)}")
        found = {case: next(iter(found.values()))}
    return [Record(_checked(n), "", "", {channels[0]: p}) for n, p in found.items()]


def _checked(name: str) -> str:
    """A case's name can be a file's name."""
    if not name or "/" in name or "\\" in name or name.startswith(".") or not name.isprintable():
        raise ValueError(f"the case name {name!r} cannot name a file; choose one with --case NAME")
    return name
