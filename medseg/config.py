"""The recipe: composes Hydra's `conf/`, holds the typed schemas, names runs and fingerprints them.

Hydra and OmegaConf are imported inside the functions, so that importing this file costs nothing.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import defaults, naming, schema, signature
from medseg.naming import variant
from medseg.provenance import existing, hash_value, sole, tidy, unwritable
from medseg.schema import MACHINE, OPEN_GROUPS, DataConfig, TrainerConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig


def workflow_dir() -> Path:
    """The folder that holds Snakefile, pipelines, profiles and conf: in the wheel or a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_workflow", here.parent):
        if (folder / "conf" / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/train.yaml beside {here}; reinstall medseg")


def conf_dir() -> Path:
    """The shipped Hydra configuration folder."""
    return workflow_dir() / "conf"


def register() -> None:
    """Give Hydra the schemas and the resolvers that name run folders; may be called repeatedly."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    if OmegaConf.has_resolver("medseg.run"):
        return
    data = OmegaConf.structured(DataConfig)
    for section in (data.source, data.labels, data.organs, data.reading):
        OmegaConf.set_struct(section, False)
    groups: dict[Any, Any] = {n: DictConfig({}, flags={"struct": False}) for n in OPEN_GROUPS}
    groups["block"] = DictConfig(None, flags={"struct": False})
    trainer = OmegaConf.structured(TrainerConfig)
    store = ConfigStore.instance()
    store.store(name="prepare_schema", node=DictConfig({"data": data}))
    store.store(name="train_schema", node=DictConfig({**groups, "data": data, "trainer": trainer}))
    named = (("run", naming.run_folder), ("sweep", naming.sweep_folder), ("variant", variant))
    for name, function in named:
        OmegaConf.register_new_resolver(f"medseg.{name}", function, replace=True)


def compose(
    name: str, overrides: Sequence[str] = (), *, config_dirs: Sequence[str | Path] = ()
) -> "DictConfig":
    """The recipe `conf/<name>.yaml` with overrides, and the groups' choices under `choices`.

    Args:
        name: `train` or `prepare`.
        overrides: as on the command line, `model.width=8`.
        config_dirs: further folders of YAML files, as `--config-dir` names one.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    register()
    search = ",".join(naming.quote(f"file://{Path(folder).resolve()}") for folder in config_dirs)
    extra = [f"hydra.searchpath=[{search}]"] if search else []
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            whole = hydra.compose(name, [*overrides, *extra], return_hydra_config=True)
    except HydraException as error:
        raise ValueError(hydra_message(error, name)) from None
    finally:
        GlobalHydra.instance().hydra = before
    return settled(whole, name)


def settled(
    whole: "DictConfig", name: str, *, choices: Mapping[str, Any] | None = None
) -> "DictConfig":
    """A composed configuration without Hydra's own part, what was chosen kept under `choices`."""
    from omegaconf import DictConfig, OmegaConf, open_dict, read_write

    found: Any = OmegaConf.to_container(whole.hydra.runtime.choices) if choices is None else choices
    kept = {k: v for k, v in found.items() if not str(k).startswith("hydra/")}
    with read_write(whole), open_dict(whole):
        whole.pop("hydra", None)
        whole.choices = DictConfig(kept)
    content: Any = OmegaConf.to_container(whole, resolve=False)
    schema.refuse_undeclared(content, name)
    return whole


def hydra_message(error: BaseException, name: str) -> str:
    """What Hydra says about a stage's recipe that does not compose, with the cause it found."""
    cause = error.__cause__
    text = str(error).strip()
    if cause is not None and type(cause).__module__.startswith("omegaconf"):
        text += "\n" + str(cause).strip()
    return schema.explained(text, name)


def plain(node: Any) -> Any:  # noqa: ANN401 -- any recipe node
    """A recipe's node resolved into dicts, lists and scalars."""
    if type(node).__module__.startswith("omegaconf"):
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise ValueError(f"the recipe does not resolve: {error}") from None
    return node


def build(node: Any, /, **extra: Any) -> Any:  # noqa: ANN401 -- whatever the node names
    """The object that a recipe's node names, through the allow-list; `extra` are more arguments."""
    return signature.build(plain(node), **extra)


def check_signature(node: Any, where: str = "model", *, given: Collection[str] = ()) -> None:  # noqa: ANN401
    """Refuse arguments that the constructor does not have or whose type does not fit."""
    content = plain(node)
    if not isinstance(content, Mapping) or "_target_" not in content:
        raise ValueError(f"{where} names no class; choose one, e.g. {where}=<a file of conf/>")
    signature.check(content, where, given=given)


def accepts(node: Any, argument: str) -> bool:  # noqa: ANN401 -- any recipe node
    """Whether the constructor that a node names has this argument."""
    return argument in signature.arguments(signature.locate(plain(node)["_target_"]))


def check_cases(cfg: "DictConfig") -> None:
    """Refuse a task, a network and data that do not learn the same kind of thing."""
    kinds = (signature.locate(plain(cfg[group])["_target_"]) for group in ("task", "model"))
    schema.check_cases(cfg.choices, data=cfg.data, kinds=list(kinds))


def refers(node: "DictConfig", group: str) -> bool:
    """Whether a node takes in another group by interpolation."""
    from omegaconf import OmegaConf

    return f"${{{group}}}" in str(OmegaConf.to_container(node, resolve=False))


def network_spec(node: Any) -> dict[str, Any]:  # noqa: ANN401 -- any recipe node
    """A network as a model file names it: plain stems and class names, never a dotted path."""
    return signature.spec(plain(node))


def task_spec(node: Any) -> dict[str, Any]:  # noqa: ANN401 -- any recipe node
    """A task as a model file names it, with all that was chosen for it."""
    return signature.task_spec(plain(node))


def text(cfg: "DictConfig") -> str:
    """A recipe as YAML, with nothing left to resolve."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(cfg, resolve=True)


def facts(cfg: "DictConfig") -> dict[str, Any]:
    """What the data say about any network or task: counts, and organs or complex input if any."""
    return schema.facts(plain(cfg.data))


def given(cfg: "DictConfig", group: str = "model") -> dict[str, Any]:
    """What the data say that a group's constructor asks for; the recipe must not say otherwise."""
    node, found = cfg[group], {}
    for name, value in facts(cfg).items():
        if accepts(node, name):
            found[name] = value
            if plain(node.get(name, value)) != value:
                raise ValueError(f"{group}.{name}={node[name]}, but the data have {value}")
    return found


def network(cfg: "DictConfig") -> Any:  # noqa: ANN401 -- what the recipe names
    """The network of a recipe, or an error that says which values it cannot be built from."""
    content = plain(cfg.model) | given(cfg)
    size = content.get("size")
    if size is not None and cfg.data.size is not None and size != cfg.data.size:
        raise ValueError(
            f"model.size={size} and data.size={cfg.data.size}: this network takes images of one "
            "size; set both alike"
        )
    if "organs" not in content and accepts(cfg.model, "organs"):
        raise ValueError(
            f"model={cfg.choices.get('model')} finds contours, and data={cfg.choices.get('data')} "
            "names none; set data.organs, e.g. data.organs={heart:26}"
        )
    try:
        return signature.build(content)
    except (RuntimeError, TypeError, ArithmeticError) as error:
        asked = ", ".join(
            f"{k}={v}" for k, v in content.items() if not isinstance(v, Mapping | str)
        )
        text = f"model={cfg.choices.get('model')} cannot be built from {asked}: {error}"
        raise ValueError(text) from error


def recipe_fingerprint(cfg: "DictConfig", groups: Iterable[str] = ()) -> str:
    """The hash of a recipe, or of some of its groups: what is computed, not where or by how many.

    Constructors' defaults are part of it, whether the recipe writes them out or not.
    """
    content = {k: v for k, v in plain(cfg).items() if k not in ("choices", "block")}
    if "model" in content:
        content["model"] |= given(cfg)
    content = defaults.filled(content)
    trainer = content.get("trainer", {})
    content["trainer"] = {k: v for k, v in trainer.items() if k not in MACHINE}
    return hash_value({key: content.get(key) for key in tuple(groups) or content})[:16]


def data_fingerprint(cfg: "DictConfig") -> str:
    """The hash of what `prepare` does: the data section without the folds, which cut later."""
    return hash_value(defaults.filled(_data(cfg)))[:16]


def _data(cfg: "DictConfig") -> dict[str, Any]:
    return {k: v for k, v in plain(cfg.data).items() if k not in ("folds", "fold")}


def data_section(data: str, config_dirs: Sequence[str | Path] = ()) -> dict[str, Any]:
    """What `conf/data/<data>.yaml` itself says."""
    return _data(compose("prepare", [f"data={data}"], config_dirs=config_dirs))


def prepare_overrides(
    cfg: "DictConfig",
    config_dirs: Sequence[str | Path] = (),
    *,
    base: Mapping[str, Any] | None = None,
) -> list[str]:
    """How the data section differs from its own YAML, as overrides that `medseg prepare` takes.

    `base` is that YAML's `data_section`, for a caller who asks often.
    """
    if base is None:
        base = data_section(str(cfg.choices.data), config_dirs)
    return sorted(naming.differences(base, _data(cfg), where="data"))


def prepared_variant(cfg: "DictConfig", config_dirs: Sequence[str | Path] = ()) -> str:
    """The name of a prepared folder: `base`, or how its data section differs from the YAML."""
    return naming.prepared(prepare_overrides(cfg, config_dirs))


def default_prepared(cfg: "DictConfig", config_dirs: Sequence[str | Path] = ()) -> Path:
    """Where prepared data lie unless told otherwise, relative to the working folder."""
    return Path("data/prepared") / str(cfg.choices.data) / prepared_variant(cfg, config_dirs)


def prepare_command(cfg: "DictConfig", out: Path, *, config_dirs: Sequence[str | Path]) -> str:
    """The line for a shell that prepares what a recipe reads, into a folder if that may be."""
    overrides = [f"data={cfg.choices.data}", *prepare_overrides(cfg, config_dirs)]
    free = default_prepared(cfg, config_dirs) if out.is_file() else out
    reads = accepts(cfg.data.source, "path")
    return naming.prepare_command(overrides, free, reads=reads, config_dirs=config_dirs)


def hydra_stage(
    name: str,
    function: Callable[["DictConfig", argparse.Namespace], Any],
    *,
    arguments: Sequence[str],
    paths: argparse.ArgumentParser | None = None,
) -> int:
    """Run `function(recipe, paths)` as a full Hydra application; returns the exit code.

    Overrides, `-m`, `--cfg`, `--help`, `--config-dir`, sweepers and launchers work as Hydra's own.

    Args:
        name: the stage and its primary YAML.
        function: defined at a module's top, so that launchers can send it; what it returns is
            the value that a sweeper sees.
        arguments: the command line after the stage's name.
        paths: a parser of the stage's own options (`path_options` by default). The function gets
            its result with `folder` (the job's output folder), `sweep` (whether this is one job of
            several) and `config_dirs` (the user's further configuration folders) added.
    """
    import hydra
    from hydra.errors import HydraException

    own, rest = (paths or path_options(name)).parse_known_args(list(arguments))
    register()
    job = Job(name, function, paths=own)
    flags, overrides = naming.parted(rest)
    out = getattr(own, "out", None)
    if name == "train" and not {"-m", "--multirun"} & set(flags):
        with sole(out or naming.default_run(overrides)):  # Hydra writes there before the job does
            pass
    rest = [*flags, *naming.output(out, overrides), *overrides]
    try:
        with _as_program(f"medseg {name}", rest):
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()
    except HydraException as error:
        raise ValueError(hydra_message(error, name)) from None
    except Stopped as stopped:
        raise stopped.error from None
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(reason, OSError) or not unwritable(reason, job.out):
            raise
        text = f"the output folder cannot be written ({reason}); choose another --out"
        raise OSError(text) from None
    return 1 if job.failures else 0


def path_options(name: str) -> argparse.ArgumentParser:
    """The options of every stage with a recipe: `--in` (as `source`) and `--out`, both optional."""
    parser = argparse.ArgumentParser(prog=f"medseg {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--in", dest="source", type=Path)
    parser.add_argument("--out", dest="out", type=Path)
    return parser


@contextlib.contextmanager
def _as_program(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads the command line and prints tracebacks of its own; both are ours here."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [program, *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


class Stopped(BaseException):
    """Carries a user's error past Hydra, which would wrap any `Exception` in noise."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Job:
    """One job of a Hydra application; picklable, so launchers can run it in another process."""

    def __init__(
        self, name: str, function: Callable[..., Any], *, paths: argparse.Namespace
    ) -> None:
        self.name, self.function, self.paths = name, function, paths
        self.process = os.getpid()
        self.out = (getattr(paths, "out", None) or Path("data/runs")).absolute()
        self.kept = existing(self.out)
        self.failures: list[str] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        register()
        self.__dict__.update(state)

    def __call__(self, cfg: "DictConfig") -> Any:  # noqa: ANN401 -- a sweeper's objective
        """Run the stage on one composed recipe."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        state = HydraConfig.get()
        sweep = state.mode == RunMode.MULTIRUN
        sources = [s for s in state.runtime.config_sources if s.schema == "file"]
        extra = [s.path for s in sources if s.provider not in ("main", "hydra", "schema")]
        paths = argparse.Namespace(**vars(self.paths))
        paths.folder, paths.sweep, paths.config_dirs = Path(state.runtime.output_dir), sweep, extra
        try:
            return self.function(settled(cfg, self.name, choices=state.runtime.choices), paths)
        except KeyboardInterrupt:
            self.tidy(paths.folder, state.output_subdir)
            raise
        except (ValueError, OSError, ImportError, RuntimeError, KeyError, MemoryError) as error:
            if not isinstance(error, BlockingIOError):
                self.tidy(paths.folder, state.output_subdir)
            if not sweep or isinstance(error, BrokenPipeError):
                raise Stopped(error) from error
            text = f"{' '.join(state.overrides.task)}: {error}"
            sys.stderr.write(f"medseg {self.name}: {text}\n")
            self.failures.append(text)
            if os.getpid() != self.process:
                raise SystemExit(1) from error
            return None

    def tidy(self, folder: Path, subdir: str | None) -> None:
        """Leave no folder behind in which nothing but Hydra has written."""
        if subdir is not None:
            tidy(folder, {subdir, f"{self.name}.log"}, kept=self.kept)
