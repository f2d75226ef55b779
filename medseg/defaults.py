"""What a constructor fills in where a recipe is silent, read from its source without running it.

Importing a network takes torch, which takes seconds; a recipe's fingerprint may take milliseconds.
Only this package's source is read: for a library's classes the recipe stands as it is.
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Found = tuple[str, ast.AST]


class Expression(str):
    """A default that is no literal: its source text, which changes when the default does."""

    __slots__ = ()


def filled(value: Any) -> Any:  # noqa: ANN401 -- any plain recipe value
    """A plain recipe with the defaults of all constructors that its nodes name.

    A default that is written out and one that is left out come to the same.
    """
    if isinstance(value, list | tuple):
        return [filled(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    node = {key: filled(item) for key, item in value.items()}
    if "_target_" not in node:
        return node
    silent = of(str(node["_target_"]), len(node.get("_args_", ())))
    spoken = {k: silent[k] if k in silent and v == silent[k] else v for k, v in node.items()}
    return silent | spoken


def of(target: str, positional: int = 0) -> dict[str, Any]:
    """The defaults of `medseg.….Name` by argument, past the first `positional` ones."""
    found = _find(target)
    if found is None:
        return {}
    every = list(_arguments(*found))
    return {name: value for name, value in every[positional:] if value is not ...}


def _find(target: str) -> _Found | None:
    """The definition that a dotted path means, and the module that it stands in."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        if _tree(module) is None:
            continue
        found = _lookup(module, parts[cut])
        for part in parts[cut + 1 :]:
            inner = _defined(found[1], part) if found is not None else None
            found = None if found is None or inner is None else (found[0], inner)
        return found
    return None


def _tree(module: str) -> ast.Module | None:
    first, *rest = module.split(".")
    path = PACKAGE.joinpath(*rest)
    for file in (path.with_name(path.name + ".py"), path / "__init__.py"):
        if first == "medseg" and file.is_file():
            return _parsed(file, file.stat().st_mtime_ns)
    return None


@functools.lru_cache(maxsize=128)
def _parsed(file: Path, changed: int) -> ast.Module:
    del changed
    return ast.parse(file.read_text(encoding="utf-8"))


def _lookup(module: str, name: str) -> _Found | None:
    """What a name means at the top of a module, through the package's own imports."""
    tree = _tree(module)
    for statement in tree.body if tree is not None else ():
        if isinstance(statement, ast.ImportFrom) and statement.module is not None:
            for alias in statement.names:
                if name == (alias.asname or alias.name):
                    return _lookup(statement.module, alias.name)
    inner = None if tree is None else _defined(tree, name)
    return None if inner is None else (module, inner)


def _defined(scope: ast.AST, name: str) -> ast.AST | None:
    """The class, the function or the value that a body gives a name."""
    for statement in getattr(scope, "body", ()):
        if isinstance(statement, _Function | ast.ClassDef) and statement.name == name:
            return statement
        targets: list[ast.expr] = []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        elif isinstance(statement, ast.Assign):
            targets = statement.targets
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return getattr(statement, "value", None)
    return None


def _arguments(module: str, node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Argument and default (`...` for none), in order; a class's are those of its constructor."""
    if isinstance(node, _Function):
        yield from _signature(module, node, 0)
    elif isinstance(node, ast.ClassDef):
        constructor = _defined(node, "__init__")
        if isinstance(constructor, _Function):
            yield from _signature(module, constructor, 1)
            return
        for base in node.bases:
            found = _lookup(module, base.id) if isinstance(base, ast.Name) else None
            if found is not None:
                yield from _arguments(*found)
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id, _value(module, field.value)


def _signature(module: str, node: _Function, bound: int) -> Iterator[tuple[str, Any]]:
    names = [*node.args.posonlyargs, *node.args.args]
    values = [None] * (len(names) - len(node.args.defaults)) + node.args.defaults
    pairs = [*list(zip(names, values, strict=True))[bound:]]
    pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    for argument, value in pairs:
        yield argument.arg, _value(module, value)


def _value(module: str, node: ast.expr | None) -> Any:  # noqa: ANN401 -- any literal
    """A default as JSON would hold it; a constant's name stands for the constant."""
    if node is None:
        return ...
    if isinstance(node, ast.Name):
        found = _lookup(module, node.id)
        if found is not None and isinstance(found[1], ast.expr):
            return _value(found[0], found[1])
    try:
        return _plain(ast.literal_eval(node))
    except (ValueError, TypeError):
        return Expression(ast.unparse(node))


def _plain(value: Any) -> Any:  # noqa: ANN401 -- any literal
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
