"""The house rules that a tool can see: rooms, names, sizes, and one rule and one file a stage."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from medseg.cli import STAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "medseg"
SOURCES = sorted(PACKAGE.rglob("*.py"))
RULES = {file.stem: file.read_text() for file in sorted((ROOT / "pipelines/rules").glob("*.smk"))}
WITHOUT_RULE = {"info", "verify", "export", "convert"}
WITHOUT_STAGE = {"study"}
TOP = {
    "pyproject.toml", "constraints.txt", "Makefile", "Snakefile", "README.md", "LICENSE",
    "CITATION.cff", "conf", "pipelines", "profiles", "docs", "data", "medseg", "tests",
}  # fmt: skip
BANNED = {"utils", "util", "common", "helpers", "helper", "misc", "core"}
DIRECTIVES = ("input", "output", "log", "benchmark", "threads", "resources", "shell")


def name(path):
    return path.relative_to(ROOT).as_posix()


def directives(text):
    """The body of each directive of a rule file, by the directive's name."""
    parts = re.split(r"(?m)^    ([a-z_]+):", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_rule_is_a_stage_and_every_stage_has_its_rule():
    assert set(RULES) - WITHOUT_STAGE == set(STAGES) - WITHOUT_RULE
    included = re.findall(
        r'include: "pipelines/rules/(\w+)\.smk"', (ROOT / "Snakefile").read_text()
    )
    assert sorted(included) == sorted(RULES)


def test_a_file_without_a_stage_holds_no_rule():
    for file in WITHOUT_STAGE:
        assert not re.search(r"(?m)^(rule|checkpoint)\b", RULES[file])


@pytest.mark.parametrize("rule", sorted(set(RULES) - WITHOUT_STAGE))
def test_a_rules_body_is_the_one_command_of_its_own_name(rule):
    text = RULES[rule]
    assert re.findall(r"(?m)^(?:rule|checkpoint) (\w+):", text) == [rule]
    body = directives(text)
    assert not {"run", "script", "notebook", "wrapper"} & set(body)
    assert not [wanted for wanted in DIRECTIVES if not body.get(wanted, "").strip()]
    command = "".join(ast.literal_eval(f"({body['shell'].strip()},)"))
    assert command.startswith(f"medseg {rule} ")
    assert command.count("medseg ") == 1
    assert not re.search(r"[;&]{2}|;", command.replace("2>&1", ""))


def test_every_stage_has_a_file_and_every_file_a_stage():
    files = {file.stem for file in (PACKAGE / "stages").glob("*.py")} - {"__init__"}
    assert files == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_main_that_takes_arguments(stage):
    tree = ast.parse((PACKAGE / "stages" / f"{stage}.py").read_text())
    mains = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main"]
    assert len(mains) == 1
    assert [a.arg for a in mains[0].args.args] == ["arguments"]


def test_no_room_is_called_after_nothing():
    places = [p for p in PACKAGE.rglob("*") if p.suffix == ".py" or p.is_dir()]
    assert not [name(p) for p in places if p.stem in BANNED]


def test_an_init_is_a_docstring_and_nothing_else():
    for file in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(file.read_text())
        assert len(tree.body) == 1, name(file)
        assert ast.get_docstring(tree), name(file)


def test_files_stay_readable():
    long = {name(f): n for f in SOURCES if (n := len(f.read_text().splitlines())) > 400}
    assert not long, "split these where their first sentence needs an 'and'"


def test_functions_stay_readable():
    long = {}
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and body_lines(node) > 40:
                long[f"{name(file)}:{node.name}"] = body_lines(node)
    assert not long


def body_lines(node):
    """Lines of a function below its signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return node.end_lineno - body[0].lineno + 1 if body else 0


# Signatures that Lightning calls by position.
HOOKS = {"transfer_batch_to_device", "on_train_batch_start", "on_train_batch_end"}


def public(body):
    """Functions and methods that others call; a constructor is one."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node.body)
        if isinstance(node, ast.FunctionDef) and not re.match(r"_(?!_init__)", node.name):
            yield node


def test_arguments_after_the_second_are_given_by_keyword():
    many = {}
    for file in SOURCES:
        for node in public(ast.parse(file.read_text()).body):
            found = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            found = [a for a in found if a not in {"self", "cls"}]
            if len(found) > 2 and node.name not in HOOKS:
                many[f"{name(file)}:{node.name}"] = found
    assert not many, "put a `*` behind the second argument of these"


def test_what_comes_from_a_paper_says_so():
    rooms = ("metrics", "models", "nn/blocks")
    files = [f for room in rooms for f in (PACKAGE / room).glob("*.py") if f.stem != "__init__"]
    heads = {f: ast.get_docstring(ast.parse(f.read_text())) for f in files}
    assert not [name(f) for f, head in heads.items() if "\nSource: " not in head]


def test_every_file_opens_with_a_sentence():
    assert not [name(f) for f in SOURCES if not ast.get_docstring(ast.parse(f.read_text()))]


def test_annotations_are_evaluated():
    """Shapes in annotations are checked when they are objects, not postponed strings."""
    assert not [name(f) for f in SOURCES if "from __future__ import annotations" in f.read_text()]


def test_the_top_folder_holds_what_it_should():
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - ignored
    found -= {p for p in found if p.endswith(".egg-info")}
    assert found <= TOP


TARGET = re.compile(r"^\s*_target_:\s*([\w.]+)", re.MULTILINE)
ROOMS = {"model": "medseg.models", "block": "medseg.nn.blocks", "task": "medseg.tasks"}


@pytest.mark.parametrize("group", ROOMS)
def test_a_recipe_has_the_stem_of_its_python_file(group):
    """`conf/model/unet.yaml` is about `medseg/models/unet.py`; a preset adds `_<what>`."""
    for file in sorted((ROOT / "conf" / group).glob("*.yaml")):
        targets = TARGET.findall(file.read_text())
        if not targets and file.stem in {"plain", "none"}:
            continue
        module = targets[0].rpartition(".")[0]
        room, _, stem = module.rpartition(".")
        assert room == ROOMS[group], name(file)
        assert file.stem == stem or file.stem.startswith(f"{stem}_"), name(file)
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), name(file)


@pytest.mark.parametrize("group", ROOMS)
def test_a_python_file_has_a_recipe_of_its_stem(group):
    folder = ROOT / ROOMS[group].replace(".", "/")
    stems = {file.stem for file in folder.glob("*.py")} - {"__init__", "learner"}
    recipes = {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
    assert stems <= recipes


def test_a_data_recipes_source_is_a_file_of_the_data_room():
    for file in sorted((ROOT / "conf/data").glob("*.yaml")):
        for target in TARGET.findall(file.read_text()):
            module = target.rpartition(".")[0]
            assert module.startswith("medseg.data."), name(file)
            assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), name(file)


def test_a_study_names_experiments_that_exist():
    known = {file.stem for file in (ROOT / "conf/experiment").glob("*.yaml")}
    for file in sorted((ROOT / "conf/study").glob("*/*.yaml")):
        assert set(yaml.safe_load(file.read_text())["experiments"]) <= known, name(file)


def test_nothing_names_a_place_on_somebodys_machine():
    places = re.compile(r"(?<![\w.}])/(?:home|root|Users|work|mnt|scratch)/\w")
    suffixes = {".py", ".smk", ".yaml", ".md", ".toml", ".cff", ""}
    files = [
        f
        for d in ("medseg", "conf", "pipelines", "profiles", "docs", "tests")
        for f in (ROOT / d).rglob("*")
    ]
    files += [f for f in ROOT.iterdir() if f.name in TOP]
    texts = [f for f in files if f.is_file() and f.suffix in suffixes and f != Path(__file__)]
    assert not [
        name(f) for f in texts if places.search(f.read_text(encoding="utf-8", errors="ignore"))
    ]


def test_the_readme_names_every_room_of_the_floors():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    layers = tool["importlinter"]["contracts"][0]["layers"]
    rooms = {room for layer in layers for room in layer.split(" | ")}
    table = (ROOT / "README.md").read_text().partition("| floor | rooms |")[2].partition("\n\n")[0]
    named = {
        room
        for row in table.splitlines()[2:]
        for room in re.findall(r"`(\w+)/?`", row.split("|")[2])
    }
    assert rooms <= named


@pytest.mark.parametrize("page", ["README.md", "docs/*.md"])
def test_a_link_leads_somewhere(page):
    broken = []
    for file in sorted(ROOT.glob(page)):
        for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
            path = link.partition("#")[0]
            if path and "://" not in link and not (file.parent / path).exists():
                broken.append(f"{file.name}: {link}")
    assert not broken
