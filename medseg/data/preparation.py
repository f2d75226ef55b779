"""From raw cases to the canonical, memory-mapped folder that training reads (`prepared`)."""

import contextlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.data import complex_input, framed, pool, room, sheet, spaces
from medseg.data.prepared import FORMAT, index_parts
from medseg.data.recipe import Recipe
from medseg.data.table import SHEET, Record, Table, spaced, volumes
from medseg.geometry.frame import Frame
from medseg.geometry.resample import Passage
from medseg.geometry.sphere import Regrid
from medseg.provenance import (
    atomic_folder,
    hash_file,
    hash_value,
    read_json,
    versions,
    writable,
    write_json,
    write_text,
)
from medseg.sample import Sample

BYTES_A_VOXEL = 24
LOCK = ".lock"
VOXELS_WORTH_A_PROCESS = 20_000_000


def prepare_dataset(
    source: Any,  # noqa: ANN401 -- a Table, or a dataset that can write itself as one
    recipe: Mapping[str, Any],
    *,
    out: Path,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
) -> dict[str, Any]:
    """Prepare the cases of a shard; those whose content and recipe are known are kept.

    Args:
        source: a `Table`, or a dataset with `write(folder) -> sheet` (a generator, an adapter),
            whose files are made once under `out/raw`.
        recipe: the data section (`data`, `channels`, `labels`, `instances`, `spacing_mm`,
            `intensity`, `slice_axis`, `volume`, `source`), all plain values.
        out: the prepared folder.
        shard: this shard's number, from 1, and the count of shards.
        workers: processes; none lets cores, memory and the number of cases decide.

    Returns:
        Counts `prepared` and `kept`, and the folder as `out`.
    """
    wanted = Recipe.of(recipe)
    room.spare(out, source)
    with _tidied(out):
        writable(out)
        table = _table(source, wanted, recipe.get("source"), out)
        wanted = wanted.settled(table)
        table.slice_axis, table.organs = wanted.slice_axis, wanted.organs
        table.options = wanted.reading
        bare = not (wanted.organs or wanted.labels)
        if bare and any(record.landmarks for record in table.records()):
            text = "the sheet names landmarks, and data.organs is empty: they are not read"
            warnings.warn(text, stacklevel=2)
        told = room.astride(table.records(), folded=bool(recipe.get("folds")))
        picked = _picked(table, shard)
        _all_there([record for _, record in picked])
        workers = workers or _workers([record for _, record in picked], wanted)
        one = partial(prepare_case, recipe=wanted, out=out)
        tasks = [(record.case, (table.alone(), record)) for _, record in picked]
        done = pool.each(one, tasks, workers=workers, what="prepare")
        rows = [{"place": n, **row} for (n, _), (row, _) in zip(picked, done, strict=True)]
        _write_index(out, table, wanted, recipe.get("source"), rows, shard, told=told)
        kept = sum(was_there for _, was_there in done)
        return {"prepared": len(rows) - kept, "kept": kept, "out": str(out)}


def _picked(table: Table, shard: tuple[int, int]) -> list[tuple[int, Record]]:
    """The shard's cases and their places in the sheet."""
    index, count = shard
    if not 1 <= index <= count:
        raise ValueError(f"shard {index}/{count}: wanted i/n with i from 1 to n")
    return list(enumerate(table.records()))[index - 1 :: count]


@contextlib.contextmanager
def _tidied(out: Path) -> Iterator[None]:
    """Work that fails leaves none of the folders that it made empty; finished cases stay."""
    lock = out / LOCK
    mine = [path for path in (out / "index", out / "cases", lock) if not path.exists()]
    above = [path for path in (out, *out.absolute().parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in [*mine, *above]:
            with contextlib.suppress(OSError):
                if path != lock:
                    path.rmdir()
                elif list(out.iterdir()) == [lock]:
                    lock.unlink()
        raise


def _table(source: Any, recipe: Recipe, given: Any, out: Path) -> Table:  # noqa: ANN401
    if isinstance(source, Table):
        return source

    def read(path: Path) -> Table:
        return Table(
            path,
            recipe.channels,
            labels=recipe.labels,
            slice_axis=recipe.slice_axis,
            volume=recipe.volume,
        )

    def fits(path: Path) -> None:
        table = read(path)
        table.options = recipe.reading
        for record in table.records()[:1]:
            if all(file.exists() for file in _paths(record)):  # what is missing is listed later
                table.load(record, with_target=False)

    with _lock(out):
        return read(_raw(source, given, out / "raw", fits))


def _raw(source: Any, given: Any, folder: Path, fits: Callable[[Path], None]) -> Path:  # noqa: ANN401
    """The sheet of what a dataset writes; written anew when its arguments, code or files change.

    What `fits` refuses does not take the place of what was there.
    """
    code = sorted(Path(inspect.getfile(type(source))).parent.glob("*.py"))
    paths = [path for record in source.records() for path in _paths(record)]
    facts = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths if p.exists()]
    key = hash_value([given, [hash_file(path) for path in code], facts])
    marker = folder / "source.json"
    if not (marker.is_file() and read_json(marker).get("key") == key):
        with atomic_folder(folder) as part:
            source.write(part)
            fits(part / SHEET)
            write_json(part / marker.name, {"key": key, "source": given})
    return folder / SHEET


def _paths(record: Any) -> Iterable[Path]:  # noqa: ANN401 -- a generator's record has no paths
    others = (getattr(record, name, None) for name in ("label", "landmarks"))
    paths = [*getattr(record, "paths", {}).values(), *others]
    return [path for path in paths if isinstance(path, Path)]


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time writes the raw files; the lock falls with its process."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / LOCK).open("w") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _all_there(records: Sequence[Record]) -> None:
    lost = [
        f"case {record.case}: {path}"
        for record in records
        for path in _paths(record)
        if not path.exists()
    ]
    if lost:
        shown = "\n  ".join(lost[:10]) + (f"\n  ... and {len(lost) - 10} more" if lost[10:] else "")
        raise FileNotFoundError(
            f"{len(lost)} files are missing; mend their paths in the sheet (they are relative to "
            f"it):\n  {shown}"
        )


def _workers(records: Sequence[Record], recipe: Recipe) -> int:
    """As many processes as the first case's size leaves memory for, and as are worth starting."""
    from medseg.io import formats

    if not records:
        return 1
    channel, path = next(iter(records[0].paths.items()))
    try:
        volume = volumes(records[0], recipe.volume)[channel]
        options = spaced(records[0], path, options=recipe.reading)
        passage = recipe.passage(formats.read_header(path, volume=volume, **options))
    except (ValueError, OSError, EOFError):
        return 1
    voxels = max(math.prod(passage.native.shape), math.prod(passage.working.shape))
    size = voxels * len(records[0].paths)
    worth = math.ceil(size * len(records) / VOXELS_WORTH_A_PROCESS)
    return min(worth, pool.count_workers(size * BYTES_A_VOXEL, len(records)))


def prepare_case(
    table: Table, record: Record, *, recipe: Recipe, out: Path
) -> tuple[dict[str, Any], bool]:
    """One case's row of the index but for its place, and whether its arrays were there already."""
    files = {name: _file(path, out) for name, path in record.paths.items()}
    label, points = (
        None if path is None else _file(path, out) for path in (record.label, record.landmarks)
    )
    contents = [{k: f["sha256"] for k, f in files.items()}, label and label["sha256"]]
    if recipe.organs:
        contents += [points and points["sha256"], record.spacing_mm]
    if recipe.complex_input:
        contents += [record.spacing_mm]
    key = hash_value([recipe.content(), contents, record.slices])[:12]
    folder = out / "cases" / f"{record.case}-{key}"
    was_there = (folder / "case.json").is_file()
    if not was_there:
        with room.full_disk_told(record.case, out), atomic_folder(folder) as part:
            _write_case(table, record, recipe, part)
    about = read_json(folder / "case.json")
    row = {
        "case": record.case,
        "subject": record.subject,
        "split": record.split,
        "folder": folder.relative_to(out).as_posix(),
        "key": key,
        "slices": record.slices,
        "sources": files,
        "label": label,
        "landmarks": points,
        "category": _category(record, recipe.classes),
        "notes": _notes(table, record, out),
    }
    return {**row, **{name: about[name] for name in _FACTS}}, was_there


def _notes(table: Table, record: Record, out: Path) -> dict[str, str]:
    """The sheet's other columns; files that they name are named as seen from `out`."""
    found = {}
    for name, text in record.notes.items():
        path = table.path.parent / text
        found[name] = sheet.relative(path, out) if text and path.is_file() else text
    return found


_FACTS = ("shape", "spacing_mm", "native", "statistics", "present", "foreground")


def _category(record: Record, classes: Sequence[str]) -> int | None:
    """The case's class as an index, if the recipe tells cases apart and the sheet names one."""
    if not classes or not record.category:
        return None
    if record.category not in classes:
        raise ValueError(
            f"case {record.case}: the column `class` says '{record.category}', and data.classes "
            f"are {', '.join(classes)}; name it there or mend the sheet"
        )
    return classes.index(record.category)


def _file(path: Path, out: Path) -> dict[str, str]:
    return {"path": sheet.relative(path, out), "sha256": hash_file(path)}


def _write_case(table: Table, record: Record, recipe: Recipe, folder: Path) -> None:
    sample = table.load(record)
    passage = recipe.passage(sample.space)
    count = complex_input.stored(recipe.channels, recipe.complex_input)
    room.check_room(passage, count, folder=folder)
    present = sample.meta["present"]
    found: dict[str, Any] = {}
    shape = (count, *passage.working.shape)
    scaled = _scaled(sample, passage, recipe, found)
    room.save(folder / "image.npy", scaled, shape=shape, dtype=np.float32)
    foreground = {}
    if isinstance(passage, Frame) and recipe.organs:
        foreground = framed.write(sample, passage, organs=recipe.organs, folder=folder)
    elif sample.target is not None:
        target = np.ascontiguousarray(passage.labels(sample.target))
        room.save(folder / "label.npy", [target], shape=target.shape, dtype=target.dtype.type)
        foreground = {n: int((target == k).sum()) for k, n in enumerate(recipe.labels, 1)}
    about = {
        "case": record.case,
        "shape": passage.working.shape,
        **spaces.spaced(passage.working),
        "native": spaces.native(sample.space),
        "slices": record.slices,
        "statistics": found,
        "present": present,
        "units": sample.meta.get("units", {}),
        "foreground": foreground,
        "notes": dict(record.notes),
        "recipe": recipe.content(),
    }
    write_json(folder / "case.json", about)


def _scaled(
    sample: Sample, passage: Passage | Frame | Regrid, recipe: Recipe, found: dict[str, Any]
) -> Iterator[Float[np.ndarray, " 1 *n"]]:
    """Channel by channel the normalised values; `found` gets the statistics of those there.

    Complex channels come all at once, in parts.
    """
    every = recipe.complex_input is not None
    pieces = [slice(0, None)] if every else [slice(n, n + 1) for n in range(len(recipe.channels))]
    for piece in pieces:
        names = recipe.channels[piece]
        with _named(f"case {sample.id}, {', '.join(names)}"):
            values, numbers = complex_input.working(
                sample.image[piece],
                passage,
                method=recipe.scaling(names[0]),
                definition=recipe.complex_input,
                slice_axis=recipe.slice_axis,
            )
        seen = complex_input.complex_channels(names, recipe.complex_input)
        there = dict(zip(recipe.channels, sample.meta["present"], strict=True))
        found |= {n: about for n, about in zip(seen, numbers, strict=True) if there[n]}
        yield values


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors and warnings of values say which ones they are about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    for one in caught:
        warnings.warn(f"{what}: {one.message}", one.category, stacklevel=3)


def _write_index(
    out: Path,
    table: Table,
    recipe: Recipe,
    source: Any,  # noqa: ANN401 -- the recipe's node as plain values
    rows: Sequence[Mapping[str, Any]],
    shard: tuple[int, int],
    *,
    told: Sequence[str],
) -> None:
    mark = hash_value([recipe.content(), recipe.data, recipe.instances, source])[:16]
    meta = {
        "format": FORMAT,
        "data": recipe.data,
        "channels": recipe.channels,
        "labels": recipe.labels,
        "instances": recipe.instances,
        "spacing_mm": recipe.spacing_mm,
        "intensity": recipe.intensity,
        "organs": recipe.organs,
        "size": recipe.size,
        "complex_input": recipe.complex_input,
        "classes": recipe.classes,
        "nside": recipe.nside,
        "footprint": recipe.footprint,
        "targets": recipe.targets,
        "regrids": recipe.regrids,
        "reading": recipe.reading,
        "slice_axis": recipe.slice_axis,
        "volume": recipe.volume,
        "source": source,
        "fingerprint": mark,
        "warnings": told,
        "versions": versions(("medseg", "numpy", "scipy", "nibabel")),
    }
    mine = out / "index" / f"{shard[0]}-of-{shard[1]}.json"
    before = read_json(mine)["cases"] if mine.is_file() else []
    write_json(mine, {"fingerprint": mark, "cases": rows})
    records = [replace(r, notes=_notes(table, r, out)) for r in table.records()]
    write_text(out / SHEET, sheet.text(records, recipe.channels, folder=out))
    write_json(out / "prepared.json", meta)
    for path in index_parts(out):
        if not path.stem.endswith(f"-of-{shard[1]}"):
            path.unlink(missing_ok=True)
    _tidy(out, {row["folder"] for row in before}, alone=shard[1] == 1)


def _tidy(out: Path, before: set[str], *, alone: bool) -> None:
    """Remove the case folders that no part names; among shards only those this one had named."""
    import shutil

    used = {row["folder"] for path in index_parts(out) for row in read_json(path)["cases"]}
    there = {path.relative_to(out).as_posix() for path in (out / "cases").glob("*")}
    for name in (there if alone else before) - used:
        shutil.rmtree(out / name, ignore_errors=True)
