"""Names of folders from what was asked: runs and prepared data are called by their overrides.

Pure text, no Hydra: the overrides are what a user types, `model.width=8`.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.provenance import hash_value

NAME_LENGTH = 60
_VALUED = (
    *("--cfg", "-c", "--package", "-p", "--experimental-rerun"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
)


def variant(overrides: Iterable[str]) -> str:
    """The name of a run among those of one experiment: `base` or its sorted overrides."""
    last = {str(text).lstrip("+").partition("=")[0]: str(text).lstrip("+") for text in overrides}
    hidden = ("experiment", "seed", "trainer.restart")
    kept = (t for k, t in last.items() if k not in hidden and not k.startswith("hydra"))
    return join(kept)


def prepared(overrides: Iterable[str]) -> str:
    """The name of a prepared folder among those of one dataset, from its data overrides."""
    return join(text.removeprefix("data.") for text in overrides)


def join(parts: Iterable[str]) -> str:
    """Overrides as one file-name-safe word, `base` for none, cut and hashed past 60 characters."""
    text = ",".join(sorted(parts))
    safe = re.sub(r"[^\w.=,+-]+", "_", text, flags=re.ASCII)
    if safe == text and len(text) <= NAME_LENGTH:
        return text or "base"
    return f"{safe[: NAME_LENGTH - 13].strip('_.,')}-{hash_value(text)[:12]}"


def default_run(overrides: Sequence[str], seed: int | None = None) -> Path:
    """Where a run lies unless told otherwise: `data/runs/<experiment>/<variant>/<seed>`."""
    number = chosen(overrides, "seed", default="0") if seed is None else str(seed)
    return Path(run_folder(overrides)) / number


def run_folder(overrides: Sequence[str]) -> str:
    """The folder of an experiment's variant; its sub-folders are the seeds."""
    return f"data/runs/{chosen(overrides, 'experiment', default='custom')}/{variant(overrides)}"


def sweep_folder(overrides: Sequence[str]) -> str:
    """The folder that a sweep writes below; above the experiments where these are swept."""
    experiment = chosen(overrides, "experiment", default="custom")
    return "data/runs" if swept(experiment) else f"data/runs/{experiment}"


def output(out: Path | None, overrides: Sequence[str]) -> list[str]:
    """Hydra's output folder where `--out` is given: the run's own, under `-m` the sweep's."""
    if out is None:
        return []
    above = "${hydra:runtime.choices.experiment}/"
    subdir = above if swept(chosen(overrides, "experiment", default="")) else ""
    subdir += "${medseg.variant:${hydra.overrides.task}}/${seed}"
    folder = quote(str(out.absolute()))
    return [
        f"hydra.run.dir={folder}",
        f"hydra.sweep.dir={folder}",
        f"hydra.sweep.subdir={quote(subdir)}",
    ]


def swept(value: str) -> bool:
    """Whether an override's value stands for several, as `a,b` or `glob(*)` do."""
    return re.search(r"[,(*]", value) is not None


def chosen(overrides: Iterable[str], key: str, *, default: str) -> str:
    """The last value that the overrides give a key."""
    found = [str(o).partition("=")[2] for o in overrides if str(o).partition("=")[0] == key]
    return found[-1] if found and found[-1] not in ("", "null") else default


def parted(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Hydra's options and the overrides of a command line, which may stand in any order.

    Hydra itself takes no override after an option that follows another override.
    """
    flags: list[str] = []
    overrides: list[str] = []
    before = ""
    for text in arguments:
        valued = before in _VALUED or (before in ("--info", "-i") and "=" not in text)
        (flags if text.startswith("-") or valued else overrides).append(text)
        before = text
    return flags, overrides


def differences(base: Mapping[str, Any], other: Mapping[str, Any], *, where: str) -> Iterable[str]:
    """The overrides that take one data section to another."""
    for key in other:
        old, new = base.get(key), other[key]
        if isinstance(old, dict) and isinstance(new, dict) and key == "source":
            yield from differences(old, new, where=f"{where}.{key}")
        elif old != new or key not in base:
            yield f"{where}.{key}={grammar(new)}"


def prepare_command(
    overrides: Iterable[str], out: Path, *, reads: bool, config_dirs: Sequence[str | Path] = ()
) -> str:
    """The line that prepares data, quoted for a shell."""
    words = ["medseg", "prepare", *overrides, *(["--in", "SHEET_OR_FOLDER"] if reads else [])]
    if len(config_dirs) == 1:
        words += ["--config-dir", str(config_dirs[0])]
    elif config_dirs:
        words += [f"hydra.searchpath=[{','.join(quote(f'file://{d}') for d in config_dirs)}]"]
    return shlex.join([*words, "--out", str(out)])


def grammar(value: Any) -> str:  # noqa: ANN401 -- any YAML value
    """A value as Hydra's override grammar writes it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{grammar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(grammar(v) for v in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if re.fullmatch(r"[\w.+-]+", text) else quote(text)


def quote(text: str) -> str:
    """A string in the quotes of Hydra's override grammar."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"
