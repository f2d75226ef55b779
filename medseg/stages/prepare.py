"""`medseg prepare`: from raw data, as a recipe describes it, to the folder that training reads."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import config
from medseg.naming import quote

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: list[str]) -> int:
    """Compose the recipe (or several, under -m) and prepare its cases."""
    parser = argparse.ArgumentParser(prog="medseg prepare", add_help=False, allow_abbrev=False)
    parser.add_argument("--in", dest="source", type=Path, metavar="RAW")
    parser.add_argument("--out", dest="prepared", type=Path, metavar="PREPARED")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="i/n")
    parser.add_argument("--workers", type=_workers, default=None, metavar="N")
    out = parser.parse_known_args(arguments)[0].prepared
    if out is not None:
        arguments = [*arguments, f"hydra.sweep.dir={quote(str(out.absolute()))}"]
    return config.hydra_stage("prepare", prepare, arguments=arguments, paths=parser)


def _shard(text: str) -> tuple[int, int]:
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard; write i/n with i from 1 to n")
    return int(first), int(last)


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count of processes; write 1 or more")
    return int(text)


def prepare(cfg: "DictConfig", paths: argparse.Namespace) -> None:
    """Prepare one recipe; the last line on stdout says what was done and where it lies."""
    out = config.default_prepared(cfg, paths.config_dirs)
    if paths.prepared is not None:
        out = paths.prepared / out.name if paths.sweep else paths.prepared
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _warn
        done = prepare_recipe(
            cfg, paths.source, out=Path(out), shard=paths.shard, workers=paths.workers
        )
    count = done["prepared"]
    cases = "1 case" if count == 1 else f"{count} cases"
    sys.stdout.write(f"{cases} prepared, {done['kept']} kept: {done['out']}\n")


def prepare_recipe(
    cfg: "DictConfig",
    source: Path | None,
    *,
    out: Path,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
) -> dict[str, Any]:
    """Build the recipe's dataset and prepare it; `train` does so for phantoms that are absent.

    Args:
        cfg: the composed recipe.
        source: the raw data, for datasets that read some.
        out: the prepared folder.
        shard: this shard's number, from 1, and the count of shards.
        workers: processes; none chooses by cores and memory.
    """
    from medseg.data.preparation import prepare_dataset

    section = config.plain(cfg.data)
    name = str(cfg.choices.data)
    node = section["source"]
    given = {}
    if config.accepts(node, "path"):
        if source is None:
            raise ValueError(
                f"data={name} reads files; say where they are: --in <a sample sheet or a folder>"
            )
        given["path"] = source
    elif source is not None:
        raise ValueError(f"data={name} makes its own cases and reads no files; leave --in out")
    shared = ("channels", "labels", "slice_axis", "organs", "size")
    given |= {key: section[key] for key in shared if config.accepts(node, key) and key not in node}
    recipe = {**section, "data": name, "volume": node.get("volume")}
    config.check_signature(cfg.data.source, "data.source", given=list(given))
    dataset = config.build(cfg.data.source, **given)
    return prepare_dataset(dataset, recipe, out=out, shard=shard, workers=workers)


def _warn(message: Any, *_: Any, **__: Any) -> None:  # noqa: ANN401 -- warnings.showwarning's own
    sys.stderr.write(f"medseg prepare: warning: {message}\n")
