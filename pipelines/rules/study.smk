# The study as a list of runs: members x experiments x variants x folds x seeds. No rule is here.

import json
import os
import shlex
import sys
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

PREPARED = "data/prepared/{data}/{prepared}"
CHECKED = "data/reports/check/{data}/{prepared}"
RUN = "data/runs/{experiment}/{variant}/{seed}"
SHARED = ".{shard}-of-{shards}" if config["evaluate_shards"] > 1 else ""

SHIPPED = Path(workflow.basedir) / "conf"
OWN = Path(config["conf"]) if config["conf"] else None
CONF = ["--config-dir", str(OWN)] if OWN else []

# `medseg` is found beside the python that runs Snakemake, whether its environment is active or not.
# Bash's strict mode is Snakemake's own prefix, which this one replaces.
shell.prefix(
    f'set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; '
)


@dataclass(frozen=True)
class Prepared:
    """One form of a dataset, shared by all runs that read it."""

    data: str
    variant: str
    overrides: tuple[str, ...]
    fingerprint: str
    expected: tuple[str, ...]
    table: str | None

    @property
    def folder(self):
        return PREPARED.format(data=self.data, prepared=self.variant)

    @property
    def index(self):
        return [f"{self.folder}/index/{part}.json" for part in shards("prepare")]

    @property
    def inputs(self):
        """The table, after it was looked through; a folder in a form of its own is only read."""
        if self.table is None:
            return []
        checked = f"{CHECKED.format(data=self.data, prepared=self.variant)}/check.json"
        return [self.table, checked] if Path(self.table).is_file() else [self.table]


@dataclass(frozen=True)
class Run:
    """One training and what follows from it."""

    experiment: str
    variant: str
    seed: int
    overrides: tuple[str, ...]
    fingerprint: str
    split: str
    also: str | None
    asked: tuple[str, ...]
    prepared: Prepared

    @property
    def folder(self):
        return RUN.format(
            experiment=self.experiment, variant=self.variant, seed=self.seed
        )

    @property
    def predictions(self):
        return [f"{self.folder}/predictions/{part}.done" for part in shards("predict")]

    @property
    def scores(self):
        parts = [f".{part}" for part in shards("evaluate")] if SHARED else [""]
        return [f"{self.folder}/scores{part}.csv" for part in parts]


def shards(stage):
    """The names of a stage's shards, `1-of-4` and so on."""
    count = config[f"{stage}_shards"]
    return [f"{part}-of-{count}" for part in range(1, count + 1)]


def members(study):
    """The YAML files of a study by name; a user's own file stands before a shipped one."""
    confs = [conf for conf in (SHIPPED, OWN) if conf]
    found = {
        file.stem: file
        for conf in confs
        for file in (conf / "study" / study).glob("*.yaml")
    }
    if not found:
        known = {
            file.parent.name for conf in confs for file in conf.glob("study/*/*.yaml")
        }
        raise WorkflowError(
            f"there is no study '{study}' in {' or '.join(str(conf / 'study') for conf in confs)}; "
            f"there is: {', '.join(sorted(known)) or 'none'}. Choose by --config study=NAME; "
            "your own conf folder is named by --config conf=FOLDER"
        )
    return [found[name] for name in sorted(found)]


def member(file):
    """A member's settings, with every value that it leaves out filled in."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise WorkflowError(f"{file} is not valid YAML: {error}") from None
    content = content if isinstance(content, dict) else {}
    try:
        validate(content, f"{workflow.basedir}/pipelines/schemas/study.schema.yaml")
    except WorkflowError as error:
        raise WorkflowError(f"{file} is no member of a study: {error}") from None
    return content


def table(file, given):
    """Where a member's table lies: seen from here, else from beside the conf folder it is in."""
    if given is None:
        return None
    for path in (Path(given), file.parents[3] / given):
        if path.exists():
            return str(path)
    raise WorkflowError(
        f"{file}: there is no '{given}' here; write it relative to {Path.cwd()}"
    )


def runs():
    """Every run of the study by its wildcards; what recipes say is remembered between calls."""
    recipes = Recipes()
    found = {}
    for file in members(config["study"]):
        given = member(file)
        source, also = (table(file, given[key]) for key in ("in", "also"))
        folds = given["folds"]
        cuts = [[f"data.folds={folds}", f"data.fold={k}"] for k in range(folds)] or [[]]
        for experiment, changes, cut in product(
            given["experiments"], given["variants"], cuts
        ):
            fact = recipes.fact(file, experiment, (*changes, *cut))
            data = Prepared(table=source, **fact["prepared"])
            for seed in given["seeds"]:
                run = Run(
                    experiment,
                    seed=seed,
                    split=given["split"],
                    also=also,
                    asked=tuple(given["predict"]),
                    prepared=data,
                    **fact["run"],
                )
                add(found, file, run)
    recipes.keep()
    return found


def add(found, file, run):
    """One folder, one meaning: two members may share a run or its data, but not disagree."""
    key = (run.experiment, run.variant, str(run.seed))
    same = [
        other.prepared
        for other in found.values()
        if other.prepared.folder == run.prepared.folder
    ]
    if found.get(key, run) != run or any(other != run.prepared for other in same):
        raise WorkflowError(
            f"{file}: {run.folder} or {run.prepared.folder} is in this study already, from another "
            "table or split; tell the two apart by an override in `variants` or by a data recipe of its own"
        )
    found[key] = run


def expected(data):
    """What a table must hold for a recipe's data section, as `medseg check` is told it."""
    channels = ["--channels", ",".join(data["channels"])]
    values = [
        f"{name}={','.join(map(str, found))}" for name, found in data["labels"].items()
    ]
    labels = ["--labels", *values] if values else []
    axis = (
        [] if data["slice_axis"] is None else ["--slice-axis", str(data["slice_axis"])]
    )
    organs = [
        spelled(name, found) for name, found in (data.get("organs") or {}).items()
    ]
    volume = data["source"].get("volume")
    return [
        *channels,
        *labels,
        *(["--organs", *organs] if organs else []),
        *axis,
        *([] if volume is None else ["--volume", str(volume)]),
    ]


def spelled(name, organ):
    """An organ of a recipe, a number of nodes or a mapping, as one word."""
    if not isinstance(organ, dict):
        return f"{name}={organ}"
    return f"{name}={organ['nodes']}" + ("" if organ.get("closed", True) else ":open")


class Recipes:
    """What the workflow has to know of a recipe; composing one takes longer than all the rest."""

    def __init__(self):
        self.file = Path(".snakemake/medseg-recipes.json")
        self.state = self.fingerprint()
        self.facts = {}
        self.sections = {}
        self.fresh = False
        try:
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            self.facts = kept["facts"] if kept["state"] == self.state else {}
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def fingerprint(self):
        """One hash of all that facts depend on: YAML files, and code with the defaults it fills in."""
        from importlib.util import find_spec

        package = find_spec("medseg")
        if package is None:
            raise WorkflowError(
                f"medseg is not installed for {sys.executable}; run `make setup`"
            )
        code = Path(package.origin).parent
        files = sorted(code.rglob("*.py"))
        for conf in (SHIPPED, OWN):
            files += sorted(conf.rglob("*.yaml")) if conf else []
        digest = sha256(str(OWN).encode())
        for file in files:
            digest.update(str(file).encode() + file.read_bytes())
        return digest.hexdigest()

    def fact(self, file, experiment, overrides):
        """Names and fingerprints of one experiment with these overrides."""
        key = json.dumps([experiment, *overrides])
        if key not in self.facts:
            try:
                self.facts[key] = self.compose(experiment, overrides)
            except (ValueError, OSError) as error:
                raise WorkflowError(f"{file}: {error}") from None
            self.fresh = True
        return {part: self.frozen(values) for part, values in self.facts[key].items()}

    @staticmethod
    def frozen(values):
        return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

    def compose(self, experiment, overrides):
        from medseg import config as recipes

        own = [OWN] if OWN else []
        recipe = recipes.compose(
            "train", [f"experiment={experiment}", *overrides], config_dirs=own
        )
        data = str(recipe.choices.data)
        if data not in self.sections:
            self.sections[data] = recipes.data_section(data, own)
        changes = recipes.prepare_overrides(recipe, own, base=self.sections[data])
        return {
            "run": {
                "variant": recipes.variant(overrides),
                "overrides": list(overrides),
                "fingerprint": recipes.recipe_fingerprint(recipe),
            },
            "prepared": {
                "data": data,
                "variant": recipes.naming.prepared(changes),
                "overrides": changes,
                "fingerprint": recipes.data_fingerprint(recipe),
                "expected": expected(recipes.plain(recipe.data)),
            },
        }

    def keep(self):
        if not self.fresh:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(f".{os.getpid()}")
        part.write_text(
            json.dumps({"state": self.state, "facts": self.facts}), encoding="utf-8"
        )
        part.replace(self.file)


def run_of(job):
    """The run that a job's wildcards name."""
    key = (job.experiment, job.variant, job.seed)
    if key not in RUNS:
        raise WorkflowError(f"study '{config['study']}' has no run {'/'.join(key)}")
    return RUNS[key]


def prepared_of(job):
    """The prepared data that a job's wildcards name."""
    folder = PREPARED.format(data=job.data, prepared=job.prepared)
    for run in RUNS.values():
        if run.prepared.folder == folder:
            return run.prepared
    raise WorkflowError(f"study '{config['study']}' has no data {folder}")


RUNS = runs()
