"""What a recipe may say beside its constructors' arguments: the data and trainer sections.

Pure Python, no Hydra: `config` hands these schemas to it and puts its refusals into words.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

OPEN_GROUPS = ("model", "block", "task", "optimizer", "schedule", "augment")
PRECISIONS = (
    *("auto", "32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true"),
    *("32", "16", "bf16", "64"),
)
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
MACHINE = ("accelerator", "devices", "precision", "restart", "strategy", "threads", "workers")


@dataclass
class DataConfig:
    """A dataset and how it is brought to working form; the source gets its path from `--in`.

    Attributes:
        organs: contour to its number of nodes (or {nodes, closed}); the labels of such data are
            bit flags, bit k for the k-th organ.
        size: side in pixels of the square that a radiograph is brought to; null is by spacing_mm.
        complex_input: how complex numbers are made of the files (medseg/data/complex_input.py);
            null for real data.
        reading: options of the files' format, as `medseg predict` has them, such as
            {reconstruction: sense}; models read their inputs by the same ones.
        classes: what whole cases are told apart as, by the sheet's column `class`.
        nside: what maps of the sphere are brought to; null leaves the first map's own.
        footprint: the part of the sky to work on, [coarse nside, [pixels]]; null is all of it.
        targets: the last of the channels, which are predicted from those before (task=regress).
    """

    source: dict[str, Any] = field(default_factory=dict)
    channels: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    labels: dict[str, list[int]] = field(default_factory=dict)
    instances: list[str] = field(default_factory=list)
    organs: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    complex_input: str | None = None
    classes: list[str] = field(default_factory=list)
    reading: dict[str, Any] = field(default_factory=dict)
    nside: int | None = None
    footprint: list[Any] | None = None
    spacing_mm: list[float | None] | None = None
    intensity: str = "zscore"
    slice_axis: int | None = None
    folds: int = 0
    fold: int = 0


@dataclass
class TrainerConfig:
    """How long, on what and how carefully a network is trained.

    Attributes:
        steps_per_epoch: batches an epoch; null is one pass over all training slices (2-D) or cases.
        patch_size: size of a training patch, two numbers for 2-D networks; null is the whole slice.
        foreground: share of the patches that are centred on a labelled voxel.
        val_every: epochs between validations on whole cases; the last epoch is always validated.
        overlap: of neighbouring windows in validation and prediction; null is `windows.OVERLAP`.
        patience: validations without a better Dice before training stops; null never stops early.
        precision: auto is bf16 where the device has it, else fp16 on a GPU, else float32.
        threads: CPU threads; null leaves PyTorch's choice.
        average: decay of a moving average of the weights, e.g. 0.998; 0 keeps them as they are.
        restart: begin anew where a run of the same recipe is finished or can be resumed.
    """

    max_epochs: int = 100
    steps_per_epoch: int | None = None
    batch_size: int = 4
    patch_size: list[int] | None = None
    foreground: float = 0.33
    val_every: int = 1
    val_batch_size: int = 8
    overlap: float | None = None
    patience: int | None = None
    gradient_clip: float | None = None
    deterministic: bool = False
    precision: str = "auto"
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    workers: int = 0
    threads: int | None = None
    average: float = 0.0
    restart: bool = False


_SECTIONS = {"data": DataConfig, "trainer": TrainerConfig}


def declared(stage: str) -> dict[str, tuple[str, ...]]:
    """The keys that a stage's recipe may have: at the top (under "") and in its sections."""
    top = ("data",) if stage == "prepare" else (*OPEN_GROUPS, "data", "trainer", "seed")
    sections = {n: tuple(f.name for f in fields(_SECTIONS[n])) for n in top if n in _SECTIONS}
    return {"": top, **sections}


def refuse_undeclared(recipe: Mapping[str, Any], stage: str) -> None:
    """Refuse keys that nothing reads, as `+trainer.max_epoch=4` brings them in.

    At the top a key of the user's own may stand if another value refers to it (`${key}`).
    """
    for section in declared(stage):
        content: Any = recipe.get(section) if section else recipe
        for key in content if isinstance(content, Mapping) else ():
            own = not section and (key == "choices" or f"${{{key}" in str(recipe))
            told = None if own else unknown(f"{section}.{key}".lstrip("."), stage)
            if told:
                raise ValueError(told)


def unknown(path: str, stage: str) -> str | None:
    """That a recipe has no such key, with the nearest one and all there are; None if it has."""
    known = declared(stage)
    head, _, rest = path.partition(".")
    section, key = (head, rest.partition(".")[0]) if head in known else ("", head)
    if not key or key in known[section]:
        return None
    # an experiment is chosen like a group, though the recipe keeps no key of that name
    choices = known[section] + (("experiment",) if not section and stage == "train" else ())
    near = difflib.get_close_matches(key, choices, n=1)
    prefix = f"{section}." if section else ""
    hint = f"; did you mean '{prefix}{near[0]}'?" if near else ""
    place = section or "a recipe"
    return f"'{prefix}{key}' is no key of the recipe{hint} ({place} has: {', '.join(choices)})"


def explained(text: str, stage: str) -> str:
    """A refusal of Hydra's in a recipe's own words; what it says of other things stays."""
    absent = re.search(r"Could not find '([\w./-]+)/([^'/]+)'\s+Available options in", text)
    if absent:
        return _absent(*absent.groups(), text=text)
    kept: list[str] = []
    for line in text.splitlines():
        if re.match(r"To append to your config|\s+(full_key|object_type|reference_type)[:=]", line):
            continue
        found = re.match(r"Could not override '([\w.]+)'", line)
        if found and (told := unknown(found[1], stage)):
            return told
        kept.append(line)
        found = re.match(r"Error merging override \+*(data|trainer)\.(\w+)=", line)
        kinds = {f.name: f.type for f in fields(_SECTIONS[found[1]])} if found else {}
        if found and found[2] in kinds:
            kept.append(f"{found[1]}.{found[2]} wants {_spell(kinds[found[2]])}")
    return "\n".join(kept)


def _absent(group: str, name: str, *, text: str) -> str:
    """A group has no file of this name: which ones it has, and the nearest."""
    listed = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)*)", text)
    choices = listed[1].split() if listed else []
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return (
        f"Could not find '{group}/{name}'{hint} ({group} has: {', '.join(choices) or 'none'}; "
        "a folder with recipes of your own is named by --config-dir)"
    )


def check_numbers(trainer: Mapping[str, Any], seed: Any) -> None:  # noqa: ANN401 -- any YAML value
    """Refuse values of the trainer, and a seed, that no training can begin with."""
    positive = ("max_epochs", "batch_size", "val_every", "val_batch_size", "devices", "threads")
    for name in (*positive, "steps_per_epoch", "patience"):
        if trainer[name] is not None and trainer[name] < 1:
            raise ValueError(f"trainer.{name}={trainer[name]} must be at least 1")
    if not 0 <= trainer["foreground"] <= 1 or not 0 <= (trainer["overlap"] or 0) < 1:
        raise ValueError("trainer.foreground lies in 0..1, trainer.overlap in 0..1 (1 excluded)")
    if not 0 <= trainer["average"] < 1:
        raise ValueError(f"trainer.average={trainer['average']} lies in 0..1 (1 excluded)")
    for name, known in (("precision", PRECISIONS), ("accelerator", ACCELERATORS)):
        if trainer[name] not in known:
            near = difflib.get_close_matches(trainer[name], known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            text = f"trainer.{name}={trainer[name]} is not one of {', '.join(known)}{hint}"
            raise ValueError(text)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed={seed} must be a whole number, 0 or more")


def check_pair(choices: Mapping[str, Any], *, draws: bool, wants: bool, organs: bool) -> None:
    """Refuse a network that draws contours for a task that labels pixels, and the reverse."""
    network, task = choices.get("model"), choices.get("task")
    if wants and not draws:
        raise ValueError(
            f"task={task} needs a network that draws contours, and model={network} labels pixels; "
            "choose model=hybridgnet, pca_shape or fc_shape"
        )
    if draws and not wants:
        raise ValueError(f"model={network} draws contours; add task=landmarks")
    if organs and not draws:
        raise ValueError(
            f"data.organs names contours, and model={network} labels pixels; name classes in "
            "data.labels in their place, or choose model=hybridgnet task=landmarks"
        )


def facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a data section says about any network or task that asks for it by name.

    Channels are counted as they are stored: a complex one is two, its real and imaginary part.
    Targets are no inputs, and a network has an output for each as it has for classes.
    """
    from medseg.data.complex_input import stored

    inputs = [name for name in data["channels"] if name not in data["targets"]]
    counts = {
        "in_channels": stored(inputs, data["complex_input"]),
        "n_classes": len(data["targets"]) or len(data["classes"]) or len(data["labels"]) + 1,
    }
    others = {name: data[name] for name in ("organs", "complex_input", "footprint")}
    return counts | {name: value for name, value in others.items() if value}


def check_cases(
    choices: Mapping[str, Any], *, data: Mapping[str, Any], kinds: Sequence[Any]
) -> None:
    """Refuse classes of whole cases without a task and a network for them, and the reverse.

    `kinds` are the classes of task and network: those that sort cases say so by `of_cases`, and
    those that learn the maps themselves, without labels, by `of_maps`; a task that predicts
    channels from others by `of_targets`, with any network of maps.
    """
    _check_targets(choices, data, task=kinds[0])
    _check_maps(choices, data, kinds=kinds)
    task, network = (bool(getattr(kind, "of_cases", False)) for kind in kinds)
    sorted_by = bool(data["classes"])
    if sorted_by == task == network:
        return
    wanted = "model=complexresnet task=classify"
    if sorted_by:
        other = f"task={choices.get('task')}" if not task else f"model={choices.get('model')}"
        raise ValueError(
            f"data.classes tells whole cases apart, and {other} does not; add {wanted}"
        )
    names = [f"task={choices.get('task')}"] * task + [f"model={choices.get('model')}"] * network
    raise ValueError(
        f"{' and '.join(names)} tells whole cases apart; name what as in data.classes=[a,b] (a "
        f"sheet's column `class` says it of each case), with {wanted}"
    )


def _check_targets(choices: Mapping[str, Any], data: Mapping[str, Any], *, task: Any) -> None:  # noqa: ANN401
    if bool(data["targets"]) == bool(getattr(task, "of_targets", False)):
        return
    if data["targets"]:
        raise ValueError(
            f"data.targets names {', '.join(data['targets'])}, and task={choices.get('task')} "
            "predicts no channels; add task=regress, e.g. with model=spherenet"
        )
    raise ValueError(
        f"task={choices.get('task')} predicts channels from others, and data.targets is empty; "
        "name them, e.g. data.channels=[x,y] data.targets=[y]"
    )


def _check_maps(
    choices: Mapping[str, Any], data: Mapping[str, Any], *, kinds: Sequence[Any]
) -> None:
    task, network = (bool(getattr(kind, "of_maps", False)) for kind in kinds)
    named = bool(data["labels"] or data["organs"] or data["classes"])
    if task != network:
        text = f"task={choices.get('task')} and model={choices.get('model')} do not fit"
        raise ValueError(f"{text}; maps are filled by task=inpaint with e.g. model=skyreconnet")
    if not (named or task or data["targets"]):
        raise ValueError("data.labels is empty; name what to find, e.g. data.labels={disc:[1]}")
    if named and task:
        raise ValueError(
            f"task={choices.get('task')} learns the maps themselves, and data={choices.get('data')}"
            " names labels or classes; leave these out, e.g. data=cmb"
        )


def _spell(kind: Any) -> str:  # noqa: ANN401 -- any annotation
    text = kind.__name__ if type(kind) is type else str(kind)
    return text.replace("None", "null")
