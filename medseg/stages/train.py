"""`medseg train`: a recipe and prepared data into a run folder with a trained model."""

import argparse
import contextlib
import functools
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medseg import config, devices, schema
from medseg.provenance import hash_value, read_json, sole, versions, write_json, write_text

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from omegaconf import DictConfig

    from medseg.data.module import DataModule
    from medseg.data.prepared import Prepared, PreparedRecord
    from medseg.tasks.learner import Keeper, Learner

log = logging.getLogger(__name__)

STATE = "train.json"
LAST, BEST = "last.ckpt", "best.ckpt"
METRICS, PART = "metrics.csv", "metrics.part.csv"


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything a training is: the recipe, the cases, the objects built, and where it goes.

    `mark` is the fingerprint of recipe and data together: equal marks lead to equal weights.
    """

    cfg: "DictConfig"
    folder: Path
    prepared: "Prepared"
    splits: Mapping[str, Sequence["PreparedRecord"]]
    mark: str
    task: Any
    module: "DataModule"
    patch_size: Sequence[int]
    precision: str


def main(arguments: list[str]) -> int:
    """Compose the recipe (or several, under -m) and train it."""
    return config.hydra_stage("train", train, arguments=arguments)


def train(cfg: "DictConfig", paths: argparse.Namespace) -> float | None:
    """Train one recipe into its run folder; the best validated score is what a sweeper sees."""
    with sole(paths.folder):
        return _train(cfg, paths)


def _train(cfg: "DictConfig", paths: argparse.Namespace) -> float | None:
    from medseg.data.splits import shared, split

    began = time.perf_counter()
    folder = paths.folder
    check_recipe(cfg)
    prepared = find_prepared(cfg, paths)
    splits = split(prepared, cfg.data.folds, fold=cfg.data.fold)
    mark = hash_value([config.recipe_fingerprint(cfg), prepared.fingerprint, cfg.seed])[:16]
    done = _finished(folder, mark)
    if done is not None and not cfg.trainer.restart:
        _say(f"{folder / 'model'} is trained by this recipe already (trainer.restart=true repeats)")
        return next(value for key, value in done.items() if key.startswith("val_"))
    doubts = shared(splits)
    for text in doubts:
        sys.stderr.write(f"medseg train: warning: {text}\n")
    if done is None and (folder / STATE).is_file():
        _say("the recipe changed: training anew; model/ stays the earlier one until this is done")
    alone = cfg.trainer.devices == 1 and cfg.trainer.accelerator != "cpu"
    with devices.claim() if alone else contextlib.nullcontext():
        plan = _build(cfg, folder, prepared, splits, mark)
        facts = _fit_at_once(plan) if hasattr(plan.task.model, "fit") else _learn(plan)
        facts["warnings"] = doubts
        facts["seconds"] = round(time.perf_counter() - began, 1)
        _finish(plan, facts, str(cfg.choices.get("experiment") or "custom"))
    score = facts[f"val_{plan.task.monitor}"]
    name = plan.task.monitor.replace("_", " ").replace("dice", "Dice")
    reached = "not validated" if score is None else f"validation {name} {score:.3f}"
    _say(f"{reached}, {facts['epochs']} epochs, {facts['seconds']:.0f} s: {folder / 'model'}")
    return score


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def check_recipe(cfg: "DictConfig") -> None:
    """Refuse a recipe whose values do not fit the constructors, before anything is computed."""
    from medseg.precision import require_card

    facts = list(config.facts(cfg))
    given = {
        "model": [name for name in facts if name not in cfg.model],
        "task": ["model", *facts],
        "optimizer": [],
        "schedule": [],
    }
    for name, arguments in {**given, "augment": []}.items():
        config.check_signature(cfg[name], name, given=arguments)
    draws, wants = (config.accepts(node, "organs") for node in (cfg.model, cfg.task))
    schema.check_pair(cfg.choices, draws=draws, wants=wants, organs=bool(cfg.data.organs))
    config.check_cases(cfg)
    if cfg.block is not None and not config.refers(cfg.model, "block"):
        raise ValueError(
            f"block={cfg.choices.get('block')} has no effect: model={cfg.choices.get('model')} "
            "takes no block; choose model=unet or leave the block out"
        )
    schema.check_numbers(cfg.trainer, cfg.seed)
    require_card(cfg.trainer.accelerator)


def find_prepared(cfg: "DictConfig", paths: argparse.Namespace) -> "Prepared":
    """The prepared data of a recipe; phantoms are made where they are expected and absent."""
    from medseg.data.prepared import Prepared
    from medseg.data.recipe import Recipe
    from medseg.data.splits import mismatches
    from medseg.stages.prepare import prepare_recipe

    Recipe.of(config.plain(cfg.data))  # a word that nothing knows is said before data are compared
    folder = paths.source or config.default_prepared(cfg, paths.config_dirs)
    reads = config.accepts(cfg.data.source, "path")
    cure = config.prepare_command(cfg, folder, config_dirs=paths.config_dirs)
    if not (folder / "prepared.json").is_file():
        if paths.source is not None or reads:
            raise FileNotFoundError(
                f"there are no prepared data in {folder}; make them with `{cure}`"
                + ("" if paths.source else ", or name another folder with --in")
            )
        _task(cfg)  # what cannot be built is said before the work begins
        done = prepare_recipe(cfg, None, out=folder)
        log.info("prepared %d cases: %s", done["prepared"], folder)
    prepared = Prepared(folder)
    wrong = mismatches(prepared.meta, config.plain(cfg.data))
    if wrong:
        raise ValueError(
            f"{folder} was prepared by another recipe ({'; '.join(wrong)}); "
            f"name the right folder with --in, or prepare it anew: `{cure}`"
        )
    return prepared


def _finished(folder: Path, mark: str) -> dict[str, Any] | None:
    """What a finished training of the same mark says of itself, if its files are all there."""
    files = (STATE, "model/model.json", "model/model.safetensors", "splits.json")
    if not all((folder / name).is_file() for name in files):
        return None
    facts = read_json(folder / STATE)
    return facts if facts.get("fingerprint") == mark else None


def _task(cfg: "DictConfig") -> Any:  # noqa: ANN401 -- the task that the recipe names
    """The task and its network; chance is seeded first, so weights depend on the seed alone."""
    import torch

    if cfg.trainer.threads is not None:
        torch.set_num_threads(cfg.trainer.threads)
    torch.manual_seed(cfg.seed)
    network = config.network(cfg)
    return config.build(cfg.task, model=network, **config.given(cfg, "task"))


def _build(
    cfg: "DictConfig",
    folder: Path,
    prepared: "Prepared",
    splits: Mapping[str, Sequence["PreparedRecord"]],
    mark: str,
) -> Plan:
    """Build what a training needs: task, data, and the way whole cases are predicted."""
    from medseg import inference, windows
    from medseg.data.module import DataModule, Sampling, outside, patch_size, slice_axis
    from medseg.data.whole_skies import check_space
    from medseg.nn.cost import dof
    from medseg.precision import FULL, chosen

    task, axis, wanted = _task(cfg), slice_axis(prepared), cfg.trainer
    network: Any = task.model
    across = axis if network.ndim == 2 else None
    size = patch_size(wanted.patch_size, splits["train"], stride=network.stride, axis=across)
    sampling = Sampling(
        wanted.batch_size, wanted.steps_per_epoch, wanted.foreground, wanted.workers, cfg.seed
    )
    module = DataModule(
        prepared,
        splits["train"],
        val=splits["val"],
        ndim=network.ndim,
        patch_size=size,
        augment=config.build(cfg.augment),
        sampling=sampling,
    )
    check_space(prepared.meta, network.ndim, name=str(cfg.choices.model))
    whole = functools.partial(
        inference.whole_sky if network.ndim == 1 else inference.sliding_window,
        n_classes=config.facts(cfg)["n_classes"],
        ndim=network.ndim,
        slice_axis=axis,
        patch_size=size,
        stride=network.stride,
        overlap=windows.OVERLAP if wanted.overlap is None else wanted.overlap,
        batch_size=wanted.val_batch_size,
        outside=outside(prepared.meta),
    )
    task.begin(splits["train"], prepared=prepared, whole=whole)
    log.info("the network has %s degrees of freedom", f"{dof(network):,}")
    numbers = FULL if hasattr(network, "fit") else chosen(wanted.precision, wanted.accelerator)
    return Plan(cfg, folder, prepared, splits, mark, task, module, size, numbers)


def _fit_at_once(plan: Plan) -> dict[str, Any]:
    """Methods without gradients see all training cases at once."""
    from medseg.data.module import Whole
    from medseg.tasks.learner import score_cases, table

    began = time.perf_counter()
    cases = list(Whole(plan.prepared, plan.splits["train"]))
    method: Any = plan.task.model
    method.fit([c.image[0] for c in cases], [c.target[0] for c in cases if c.target is not None])
    scores = score_cases(plan.task, cases=Whole(plan.prepared, plan.splits["val"]))
    row = {"epoch": 0, **scores, "seconds": round(time.perf_counter() - began, 3)}
    write_text(plan.folder / METRICS, table([row]))
    name = f"val_{plan.task.monitor}"
    return {name: scores.get(name), "best_epoch": 0, "epochs": 1, "device": "cpu"}


def _learn(plan: Plan) -> dict[str, Any]:
    """Train by gradients, from the last state if there is one of the same mark."""
    import shutil

    import torch

    from medseg.tasks.learner import Keeper, Learner, resumable

    wanted = plan.cfg.trainer
    state = None if wanted.restart else resumable(plan.folder, plan.mark)
    if state is None:
        shutil.rmtree(plan.folder / "tensorboard", ignore_errors=True)
    if state is None or not (state["stopped"] or len(state["rows"]) >= wanted.max_epochs):
        if state is not None:
            log.info("resuming after epoch %d", len(state["rows"]) - 1)
        learner = Learner(
            plan.task,
            optimizer=config.build(plan.cfg.optimizer),
            schedule=config.build(plan.cfg.schedule),
            score=plan.task.score,
            total_steps=wanted.max_epochs * plan.module.steps_per_epoch(wanted.devices),
            seed=plan.cfg.seed,
            average=wanted.average,
        )
        keeper = Keeper(
            plan.folder,
            plan.mark,
            monitor=plan.task.monitor,
            validates=bool(plan.splits["val"]),
            val_every=wanted.val_every,
            patience=wanted.patience,
            metrics=PART if (plan.folder / STATE).is_file() else METRICS,
        )
        with _forgotten(plan.folder):
            _fit(plan, learner, keeper, resume=state is not None)
        state = resumable(plan.folder, plan.mark)
    if state is None:
        raise RuntimeError(f"{plan.folder / LAST} is not what was written there; is the disk full?")
    best = torch.load(plan.folder / BEST, map_location="cpu", weights_only=True)
    plan.task.model.load_state_dict(best["model"])
    told = {"best_epoch": state["best_epoch"], "epochs": len(state["rows"])}
    return {f"val_{plan.task.monitor}": state["best"], **told}


@contextlib.contextmanager
def _forgotten(folder: Path) -> Iterator[None]:
    """A training that ends before its first state was saved leaves nothing of its own."""
    import shutil

    try:
        yield
    except BaseException:
        (folder / f".part-{LAST}").unlink(missing_ok=True)
        if not any((folder / name).exists() for name in (LAST, STATE)):
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            for name in (BEST, METRICS):
                (folder / name).unlink(missing_ok=True)
        raise


def _fit(plan: Plan, learner: "Learner", keeper: "Keeper", *, resume: bool) -> None:
    """Lightning's loop, quiet, with errors and the keyboard's stop handed on."""
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from torch.multiprocessing.spawn import ProcessRaisedException

    from medseg import precision

    last = plan.folder / LAST if resume else None
    try:
        trainer = _trainer(plan, keeper)
        with precision.exact(plan.precision == precision.FULL):
            trainer.fit(learner, plan.module, ckpt_path=last, weights_only=True)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except MisconfigurationException as error:
        raise ValueError(f"the trainer section does not fit this machine: {error}") from error
    except ProcessRaisedException as error:
        raise RuntimeError(str(error).strip().splitlines()[-1]) from error
    finally:
        torch.use_deterministic_algorithms(False)


def _trainer(plan: Plan, keeper: "Keeper") -> "Trainer":
    import lightning.pytorch as lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    wanted = plan.cfg.trainer
    strategy = wanted.strategy
    if wanted.devices > 1 and strategy in ("auto", "ddp"):
        strategy = "ddp_spawn"  # a copy of the command line would start Hydra, and a folder, twice
    return lightning.Trainer(
        accelerator=wanted.accelerator,
        devices=wanted.devices,
        strategy=strategy,
        precision=cast(Any, plan.precision),
        max_epochs=wanted.max_epochs,
        gradient_clip_val=wanted.gradient_clip,
        deterministic=wanted.deterministic,
        callbacks=[keeper],
        logger=TensorBoardLogger(plan.folder, name="", version="tensorboard"),
        default_root_dir=plan.folder,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )


def _content(plan: Plan, facts: Mapping[str, Any], experiment: str) -> dict[str, Any]:
    """What `model.json` says of a trained network."""
    from medseg.manifest import manifest
    from medseg.precision import has_card

    network = config.network_spec(plan.cfg.model)
    network["arguments"] |= config.given(plan.cfg)
    return manifest(
        plan.task,
        {"task": config.task_spec(plan.cfg.task), "network": network},
        prepared=plan.prepared,
        splits=plan.splits,
        sees={
            "patch_size": list(plan.patch_size),
            "precision": plan.precision,
            "optional_channels": plan.module.augment.drops_channels,
        },
        training={
            "experiment": experiment,
            "seed": plan.cfg.seed,
            "fingerprint": plan.mark,
            "data": plan.cfg.choices.data,
            **facts,
        },
        device="cuda" if has_card(plan.cfg.trainer.accelerator) else "cpu",
    )


def _finish(plan: Plan, facts: Mapping[str, Any], experiment: str) -> None:
    """Package the best weights; what says that a run is finished is written last."""
    from medseg import package

    content = _content(plan, facts, experiment)
    splits = {r.case: name for name, records in plan.splits.items() for r in records}
    write_json(plan.folder / "splits.json", splits)
    write_text(plan.folder / "recipe.yaml", config.text(plan.cfg))
    package.save(plan.folder / "model", plan.task.model.cpu().eval(), spec=content)
    if (plan.folder / PART).is_file():
        (plan.folder / PART).replace(plan.folder / METRICS)
    about = {"prepared": plan.prepared.fingerprint, "versions": versions(), **facts}
    write_json(plan.folder / STATE, {"fingerprint": plan.mark, "status": "finished", **about})
