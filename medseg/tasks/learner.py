"""The one LightningModule, which learns any task's network; the schedules and the keeper.

Nothing here builds or reads: task, optimiser, schedule and scoring are arguments.
"""

import csv
import io
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from medseg.data.patches import generator
from medseg.nn.average import Average
from medseg.provenance import atomic, write_text
from medseg.sample import Batch

log = logging.getLogger(__name__)

COLUMNS = ("epoch", "train_loss", "val_loss", "val_dice", "lr", "seconds")


@runtime_checkable
class Task(Protocol):
    """What the learner asks of a task."""

    model: nn.Module
    monitor: str

    def loss(self, batch: Batch) -> Tensor:
        """What training makes small."""

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Numbers of one whole case; larger is better for `monitor`."""


Score = Callable[[Batch], dict[str, Tensor]]
Schedule = Callable[..., LRScheduler]


def constant(optimizer: Optimizer, total_steps: int) -> LRScheduler:  # noqa: ARG001
    """The same rate throughout."""
    return LambdaLR(optimizer, _one)


def cosine(
    optimizer: Optimizer, total_steps: int, *, warmup: float = 0.05, floor: float = 0.01
) -> LRScheduler:
    """Half a cosine from the rate to `floor` of it, after a linear rise over a share of the steps.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """
    return LambdaLR(optimizer, _Cosine(total_steps, warmup, floor))


def poly(optimizer: Optimizer, total_steps: int, *, power: float = 0.9) -> LRScheduler:
    """The rate times (1 - share done) to a power, as nnU-Net's (arXiv:1904.08128)."""
    return LambdaLR(optimizer, _Poly(total_steps, power))


def steps(
    optimizer: Optimizer,
    total_steps: int,  # noqa: ARG001
    *,
    every: int = 1000,
    factor: float = 0.9,
) -> LRScheduler:
    """The rate times a factor after every so many steps."""
    return StepLR(optimizer, every, factor)


def _one(step: int) -> float:
    del step
    return 1.0


class _Cosine:
    def __init__(self, total: int, warmup: float, floor: float) -> None:
        self.total, self.rise, self.floor = total, max(1, round(total * warmup)), floor

    def __call__(self, step: int) -> float:
        if step < self.rise:
            return (step + 1) / self.rise
        share = min(1.0, (step - self.rise) / max(1, self.total - self.rise))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * share)) / 2


class _Poly:
    def __init__(self, total: int, power: float) -> None:
        self.total, self.power = total, power

    def __call__(self, step: int) -> float:
        return max(0.0, 1 - step / max(1, self.total)) ** self.power


class Learner(LightningModule):
    """Learns a task's network.

    Args:
        task: loss and metrics; its `model` is what is trained.
        optimizer: makes the optimiser from the parameters.
        schedule: makes the scheduler from the optimiser; asked for `total_steps`, unless it is a
            plateau, which steps on the validated metric.
        score: the task's numbers of one whole case.
        total_steps: optimiser steps of the whole training.
        seed: random layers draw from (seed, step), so a resumed training goes on as if never cut.
        average: decay of the weights' moving average, which is validated and kept; 0 is none.
    """

    def __init__(
        self,
        task: Task,
        *,
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        score: Score,
        total_steps: int,
        seed: int = 0,
        average: float = 0.0,
    ) -> None:
        super().__init__()
        self.model, self.task = task.model, task
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.score, self.total_steps, self.seed = score, total_steps, seed
        self.plateau: ReduceLROnPlateau | None = None
        self.kept_plateau: dict[str, Any] | None = None
        self.average = Average(self.model, average) if average else None
        self.sums: dict[str, Tensor] = {}

    def configure_optimizers(self) -> Any:  # noqa: ANN401 -- Lightning's own union
        """The injected optimiser, with its schedule stepped by batches."""
        optimizer = self.make_optimizer(self.model.parameters())
        made = getattr(self.make_schedule, "func", self.make_schedule)
        if made is ReduceLROnPlateau:
            self.plateau = self.make_schedule(optimizer)  # type: ignore[assignment]
            if self.plateau is not None and self.kept_plateau is not None:
                self.plateau.load_state_dict(self.kept_plateau)
            return optimizer
        schedule = self.make_schedule(optimizer, total_steps=max(1, self.total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the plateau and of the average, which Lightning does not see."""
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()
        if self.average is not None:
            checkpoint["average"] = self.average.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again."""
        self.kept_plateau = checkpoint.get("plateau")
        if self.average is not None and "average" in checkpoint:
            self.average.state = checkpoint["average"]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The task's loss."""
        del batch_idx
        source = generator(self.seed, self.global_step, self.global_rank, -3)
        torch.manual_seed(source.initial_seed())
        if hasattr(self.task, "progress"):
            self.task.progress = self.global_step / max(1, self.total_steps)
        loss = self.task.loss(batch)
        self.log(
            "train_loss",
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            sync_dist=self.trainer.world_size > 1,
            batch_size=len(batch.image),
        )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """The average follows the weights."""
        del outputs, batch, batch_idx
        if self.average is not None:
            self.average.follow(self.model, self.global_step)

    def on_validation_epoch_start(self) -> None:
        """Begin the sums over cases, with the averaged weights if there are some."""
        self.sums = {}
        if self.average is not None:
            self.average.swap(self.model)

    def kept_weights(self) -> dict[str, Tensor]:
        """The weights that a model folder would hold now."""
        own: dict[str, Tensor] = self.model.state_dict()
        return own if self.average is None else own | self.average.state

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one whole case."""
        del batch_idx
        if not batch.ids:
            return
        found = self.score(batch)
        for key, value in {**found, "cases": torch.ones(())}.items():
            number = value.detach().to("cpu", torch.float64)
            self.sums[key] = self.sums.get(key, torch.zeros((), dtype=torch.float64)) + number

    def on_validation_epoch_end(self) -> None:
        """Mean over all cases of all processes."""
        if self.average is not None:
            self.average.swap(self.model)
        sums = self._gathered()
        cases = sums.pop("cases", 0.0)
        if not cases:
            return
        means = {key: total / cases for key, total in sums.items()}
        if hasattr(self.task, "joined"):
            means = self.task.joined(means)
        for key, mean in means.items():
            self.log(
                f"val_{key}",
                mean,
                prog_bar=key == self.task.monitor,
                sync_dist=self.trainer.world_size > 1,
            )
        if self.plateau is not None and not self.trainer.sanity_checking:
            self.plateau.step(means[self.task.monitor])

    def _gathered(self) -> dict[str, float]:
        own = {key: float(value) for key, value in self.sums.items()}
        if self.trainer.world_size == 1:
            return own
        parts: list[dict[str, float]] = [{}] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, own)
        return {key: sum(p.get(key, 0.0) for p in parts) for part in parts for key in part}


class Keeper(Callback):
    """Keeps a training: best weights, last state, a row an epoch, and the end when it stalls.

    Files in `folder`: `best.ckpt` (weights), `last.ckpt` (everything, to resume), `metrics.csv`.

    Args:
        folder: the run's folder.
        fingerprint: of the recipe and the data; a checkpoint of another one is never resumed.
        monitor: the validated number that should grow.
        validates: whether there are cases to validate on.
        val_every: epochs between validations; the last epoch has one in any case.
        patience: validations without growth until training stops; None goes on to the end.
        metrics: the name of the rows' file, another one where an earlier model's must stay.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        monitor: str = "dice",
        validates: bool = True,
        val_every: int = 1,
        patience: int | None = None,
        metrics: str = "metrics.csv",
    ) -> None:
        self.metrics = metrics
        self.folder, self.fingerprint, self.validates = folder, fingerprint, validates
        self.monitor, self.val_every, self.patience = f"val_{monitor}", val_every, patience
        self.rows: list[dict[str, Any]] = []
        self.best: float | None = None
        self.best_loss = math.inf
        self.best_epoch = -1
        self.waited = 0
        self.stopped = False
        self.began = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, in plain types."""
        names = ("fingerprint", "rows", "best", "best_loss", "best_epoch", "waited", "stopped")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A process of its own, as several devices have them, writes its log lines by itself."""
        del pl_module
        if trainer.is_global_zero and not logging.getLogger().handlers:
            kept = logging.FileHandler(self.folder / "train.log")
            logging.basicConfig(level=logging.INFO, handlers=[logging.StreamHandler(), kept])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start the clock, and see to it that the last epoch is validated."""
        del pl_module, batch
        if batch_idx == 0:
            self.began = time.perf_counter()
            last = trainer.current_epoch + 1 == trainer.max_epochs
            trainer.check_val_every_n_epoch = 1 if last else self.val_every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row, the best weights if these are, and the state to resume from."""
        seen = {key: float(value) for key, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch
        validated = (epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        row = dict.fromkeys(COLUMNS, "") | {"epoch": epoch, "train_loss": seen["train_loss"]}
        if validated:
            row |= {key: value for key, value in seen.items() if key.startswith("val_")}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = round(time.perf_counter() - self.began, 3)
        self.rows.append(row)
        if not math.isfinite(seen["train_loss"]):
            raise ValueError(
                f"the training loss is {seen['train_loss']} in epoch {epoch}; "
                "lower optimizer.lr or set trainer.gradient_clip=1.0"
            )
        score = seen.get(self.monitor) if validated else None
        if score is not None or not self.validates or self.best_epoch < 0:
            self._compare(score, epoch, trainer, pl_module)
        self.stopped = self.patience is not None and self.waited >= self.patience
        if self.stopped:
            trainer.should_stop = True
        if trainer.is_global_zero:
            write_text(self.folder / self.metrics, table(self.rows))
        _save(trainer, self.folder / "last.ckpt")
        log.info("epoch %d: %s", epoch, _sentence(row))

    def _compare(
        self, score: float | None, epoch: int, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """The first weights stay until a score is known; of equal scores the loss decides."""
        loss = float(trainer.callback_metrics.get("val_loss", math.inf))
        if score is not None and self.best is not None and score <= self.best:
            self.waited += 1
            if score < self.best or loss >= self.best_loss:
                return
        else:
            self.waited = 0
        self.best, self.best_loss, self.best_epoch = score, loss, epoch
        if trainer.is_global_zero:
            weights = cast(Learner, pl_module).kept_weights()
            with atomic(self.folder / "best.ckpt") as part:
                content = {"fingerprint": self.fingerprint, "epoch": epoch, "model": weights}
                torch.save(content, part)


def resumable(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The keeper's state in a folder's last checkpoint, if it is of this very training."""
    last = folder / "last.ckpt"
    try:
        whole, best = (
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            for path in (last, folder / "best.ckpt")
        )
        state: dict[str, Any] = whole["callbacks"]["Keeper"]
        return state if state["fingerprint"] == fingerprint == best["fingerprint"] else None
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged file brings about
        log.warning("%s cannot be resumed (%s); training starts anew", last, error)
        return None


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows of `metrics.csv`, a row an epoch; a number that was not taken is left empty."""
    rows, text = list(rows), io.StringIO()
    taken = dict.fromkeys(key for row in rows for key, value in row.items() if value != "")
    own = [key for key in taken if key.startswith("val_")]
    usual = COLUMNS if "val_dice" in own or not own else [c for c in COLUMNS if c != "val_dice"]
    names = [*usual[:-2], *(key for key in own if key not in COLUMNS), *usual[-2:]]
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
    return text.getvalue()


def score_cases(task: Task, *, cases: Iterable[Batch]) -> dict[str, float]:
    """Mean of a task's metrics over whole cases, as `val_<metric>`; nothing for no cases."""
    found = [task.score(case) for case in cases]
    means = {n: sum(float(f[n]) for f in found) / len(found) for n in (found[0] if found else ())}
    means = task.joined(means) if means and hasattr(task, "joined") else means
    return {f"val_{name}": mean for name, mean in means.items()}


def _cell(value: Any) -> Any:  # noqa: ANN401
    return f"{value:.6g}" if isinstance(value, float) else value


def _sentence(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {_cell(v)}" for k, v in row.items() if k != "epoch" and v != "")


def _save(trainer: Trainer, path: Path) -> None:
    """All processes take part in gathering a checkpoint; the first one writes it, whole."""
    part = path.with_name(f".part-{path.name}")
    trainer.save_checkpoint(part, weights_only=False)
    if trainer.is_global_zero:
        part.replace(path)
