"""What the package imports is what it declares, and what it names exists."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "medseg").rglob("*.py"))
WORKFLOW = [ROOT / "Snakefile", *sorted((ROOT / "pipelines").rglob("*.smk"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {*sys.stdlib_module_names, "medseg"}


def distribution(requirement):
    """The name of a requirement as indexes spell it: `snakemake[reports]>=9` is snakemake."""
    name = re.match(r"[\w.-]+", requirement).group()
    return re.sub(r"[-_.]+", "-", name).lower()


NEEDED = {distribution(text) for text in PROJECT["dependencies"]}
EXTRAS = {
    distribution(text)
    for extra, texts in PROJECT["optional-dependencies"].items()
    for text in texts
    if extra != "dev"
}
PROVIDED = {
    name: {distribution(found) for found in founds}
    for name, founds in packages_distributions().items()
}


def names(node):
    """The top-level packages that one import statement or `import_module("x")` names."""
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        found = [node.module or "medseg"]
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
        first = node.args[0]
        found = [first.value] if isinstance(first, ast.Constant) else []
    else:
        found = []
    return {name.partition(".")[0] for name in found} - OWN


def at_start(node):
    """The nodes that run when a module is imported; what only type checkers read is left out."""
    yield node
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not inside and not for_types:
            yield from at_start(child)


def imported():
    """Each foreign package with the files that import it."""
    found = {}
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            for name in names(node):
                found.setdefault(name, set()).add(file.name)
    for file in WORKFLOW:
        for name in re.findall(r"(?m)^ *(?:from|import) +(\w+)", file.read_text()):
            if name not in OWN:
                found.setdefault(name, set()).add(file.name)
    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        for name in re.findall(r"(?m)^\s*_target_:\s*(\w+)", file.read_text()):
            if name not in OWN:
                found.setdefault(name, set()).add(file.name)
    return found


def test_every_import_is_declared():
    undeclared = {
        name: sorted(files)
        for name, files in imported().items()
        if not PROVIDED.get(name, {distribution(name)}) & (NEEDED | EXTRAS)
    }
    assert not undeclared, "add these to the dependencies or to an extra in pyproject.toml"


def test_an_extra_is_imported_where_it_is_used():
    early = {
        file.name: found
        for file in SOURCES
        if (found := {n for node in at_start(ast.parse(file.read_text())) for n in names(node)
                      if not PROVIDED.get(n, {distribution(n)}) & NEEDED})
    }  # fmt: skip
    assert not early, "import these inside the functions that need them"


def test_a_name_that_nothing_defines_is_found():
    code = b'"""A file."""\n\n\ndef answer() -> int:\n    """The answer."""\n    return nowhere\n'
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", "medseg/answer.py", "-"],
        cwd=ROOT, input=code, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"F821" in done.stdout
