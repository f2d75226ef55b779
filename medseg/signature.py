"""A recipe's node against the constructor it names: which objects may be built, from which values.

The constructor's signature is the schema, so there is no second list of arguments to keep in step.
"""

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

from medseg import defaults

ALLOWED = (
    "medseg.",
    "torch.nn.",
    "torch.optim.",
    "torch_geometric.nn.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "monai.losses.",
    "monai.networks.",
)
RESERVED = ("_target_", "_args_", "_partial_")
_MAPPINGS = (dict, Mapping, typing.get_origin(typing.MutableMapping[str, int]))


def build(node: Mapping[str, Any], /, **extra: Any) -> Any:  # noqa: ANN401 -- what the node names
    """The object a plain node describes, its inner nodes first; `extra` are further arguments."""
    target = locate(str(node["_target_"]))
    positional = [_build_value(value) for value in node.get("_args_", ())]
    named = {key: _build_value(node[key]) for key in node if key not in RESERVED}
    if node.get("_partial_", False):
        return functools.partial(target, *positional, **named, **extra)
    return target(*positional, **named, **extra)


def _build_value(value: Any) -> Any:  # noqa: ANN401 -- any YAML value
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value)
        return {key: _build_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_build_value(inner) for inner in value]
    return value


def locate(target: str) -> Callable[..., Any]:
    """The class or function called `target`, if both its name and its true home are admitted.

    The home (module and qualified name of the object found) is what counts: an alias such as an
    imported module's function does not become admissible by the module it is reached through.
    """
    if not target.startswith(ALLOWED):
        raise ValueError(f"_target_ {target} is not admitted; a recipe may name {_allowed()}")
    found = _import(target)
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    home = f"{module}.{name}"
    if not callable(found) or not isinstance(name, str) or not home.startswith(ALLOWED):
        raise ValueError(f"_target_ {target} is {home}, not admitted; a recipe names {_allowed()}")
    return typing.cast(Callable[..., Any], found)


def _allowed() -> str:
    return ", ".join(prefix + "*" for prefix in ALLOWED)


def _import(target: str) -> object:
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        try:
            found: Any = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                near = difflib.get_close_matches(part, vars(found), n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"_target_ {target}: {name} has no '{part}'{hint}")
            found = getattr(found, part)
        return found
    raise ValueError(f"_target_ {target} names no module that is installed")


def spec(node: Mapping[str, Any]) -> dict[str, Any]:
    """A network's node by plain stem, class and arguments, as a model file names it."""
    found = locate(str(node["_target_"]))
    given = {k: _spec_value(v) for k, v in node.items() if k not in RESERVED}
    return {**_stem(found, "medseg.models.", "name"), "arguments": given}


def task_spec(node: Mapping[str, Any]) -> dict[str, Any]:
    """A task's node in the same way, with its constructor's own choices where the recipe is silent.

    What it is given, a loss perhaps, stands there by class and values.
    """
    target = str(node["_target_"])
    found, silent = locate(target), defaults.of(target)
    literal = {k: v for k, v in silent.items() if not isinstance(v, defaults.Expression)}
    arguments = {k: _named(v) for k, v in {**literal, **node}.items() if k not in RESERVED}
    return {**_stem(found, "medseg.tasks.", "name"), "arguments": arguments}


def _named(value: Any) -> Any:  # noqa: ANN401 -- any YAML value
    if isinstance(value, Mapping) and "_target_" in value:
        inner = {k: _named(v) for k, v in value.items() if k not in RESERVED}
        return {"class": locate(str(value["_target_"])).__name__, "arguments": inner}
    return value


def _spec_value(value: Any) -> Any:  # noqa: ANN401 -- any YAML value
    if isinstance(value, Mapping) and "_target_" in value:
        found = locate(str(value["_target_"]))
        given = {k: _spec_value(v) for k, v in value.items() if k not in RESERVED}
        if found.__module__.startswith("torch_geometric.nn."):
            return {"graph": found.__name__, "arguments": given}
        return {**_stem(found, "medseg.nn.blocks.", "block"), "arguments": given}
    if isinstance(value, Mapping):
        return {key: _spec_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_spec_value(inner) for inner in value]
    return value


def _stem(found: Callable[..., Any], room: str, key: str) -> dict[str, str]:
    stem = found.__module__.removeprefix(room)
    if not found.__module__.startswith(room) or "." in stem:
        raise ValueError(
            f"{found.__module__}.{found.__name__} cannot stand in a model file: "
            f"only classes of {room[:-1]} can be found again by name"
        )
    return {key: stem, "class": found.__name__}


def arguments(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """A constructor's parameters by name, their annotations resolved where that is possible."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return {}
    holder = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(holder)
    except Exception:  # an annotation may name what is only imported for type checkers
        hints = {}
    return {
        name: parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
    }


def check(node: Mapping[str, Any], where: str, *, given: Collection[str] = ()) -> None:
    """Refuse unknown, missing and ill-typed arguments of a plain node and of its inner nodes.

    Args:
        node: a mapping with `_target_`, as the recipe resolves it.
        where: the node's place in the recipe, which an error names (`model`, `model.block`).
        given: arguments that the program adds by itself.
    """
    target = locate(str(node["_target_"]))
    known = arguments(target)
    label = getattr(target, "__name__", str(node["_target_"]))
    kinds = {p.kind for p in known.values()}
    named = [n for n, p in known.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key, value in node.items():
        if key in RESERVED:
            continue
        if key in named:
            _check_value(value, known[key].annotation, f"{where}.{key}", label)
        elif inspect.Parameter.VAR_KEYWORD in kinds:
            _check_inner(value, f"{where}.{key}")
        else:
            _refuse(key, value, named, where, label)
    order = [p for p in known.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    positional = list(node.get("_args_", ()))
    for number, value in enumerate(positional):
        annotation = order[number].annotation if number < len(order) else inspect.Parameter.empty
        _check_value(value, annotation, f"{where}._args_[{number}]", label)
    if known and not node.get("_partial_", False):
        filled = {*node, *given, *(p.name for p in order[: len(positional)])}
        missing = [n for n in named if known[n].default is known[n].empty and n not in filled]
        if missing:
            raise ValueError(
                f"{label} needs {', '.join(f'{where}.{n}' for n in missing)}; set it in the recipe"
            )


def _refuse(key: str, value: Any, named: Sequence[str], where: str, label: str) -> None:  # noqa: ANN401
    near = difflib.get_close_matches(key, named, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ValueError(
        f"{where}.{key}={value}: '{key}' is no argument of {label}{hint} "
        f"({label} has: {', '.join(named) or 'none'})"
    )


def _check_value(value: Any, annotation: Any, where: str, label: str) -> None:  # noqa: ANN401
    if not matches(value, annotation):
        wanted = _spell(annotation)
        raise ValueError(f"{where}={_show(value)} does not fit {label}, which wants {wanted}")
    inner = typing.get_args(annotation)
    if isinstance(value, Mapping) and len(inner) == 2 and _is_object(inner[1]):
        _check_objects(value, where)
    _check_inner(value, where)


def _is_object(annotation: Any) -> bool:  # noqa: ANN401 -- any annotation
    """Whether only an object can stand there, which YAML names by its class."""
    return isinstance(annotation, type) and annotation.__module__.startswith("medseg.")


def _check_objects(value: Mapping[str, Any], where: str) -> None:
    """Refuse members without a class, as an override of a misspelt name makes them."""
    named = [k for k, v in value.items() if isinstance(v, Mapping) and "_target_" in v]
    for key in value:
        if key not in named:
            near = difflib.get_close_matches(key, named, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"{where}.{key}={_show(value[key])} names no class by _target_{hint} "
                f"({where} has: {', '.join(named) or 'none'}; ~{where}.<name> takes one away)"
            )


def _check_inner(value: Any, where: str) -> None:  # noqa: ANN401 -- any YAML value
    if isinstance(value, Mapping):
        if "_target_" in value:
            check(value, where)
            return
        for key, inner in value.items():
            _check_inner(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_inner(inner, f"{where}[{number}]")


def _show(value: Any) -> str:  # noqa: ANN401 -- any YAML value
    return "null" if value is None else str(value)


def _spell(annotation: Any) -> str:  # noqa: ANN401 -- any annotation
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.", "").replace("NoneType", "None").replace("collections.abc.", "")


def matches(value: Any, annotation: Any, *, strict: bool = False) -> bool:  # noqa: ANN401
    """Whether a YAML value can stand where `annotation` is wanted.

    What cannot be judged passes; with `strict` (a member of a union) a plain value must fit
    a type that YAML can write, so that a word does not pass for a tensor.
    """
    plain = value is None or isinstance(value, bool | int | float | str)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(value, Mapping) and "_target_" in value:
        return annotation not in (bool, int, float, str, None, type(None))
    if annotation in (None, type(None)):
        return value is None
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation in (int, float):
        numbers = (int, float) if annotation is float else (int,)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, member, strict=True) for member in inner)
    if origin is typing.Annotated:
        return matches(value, inner[0], strict=strict)
    base = origin or annotation
    if base in _MAPPINGS:
        return _matches_mapping(value, inner)
    if isinstance(base, type) and base is not str and issubclass(base, Collection):
        return _matches_sequence(value, base, inner)
    if base is Callable or base is typing.get_origin(Callable[[], None]):
        return not plain
    known = isinstance(annotation, type) and annotation is not object
    return not (strict and plain and known)


def _matches_mapping(value: Any, inner: tuple[Any, ...]) -> bool:  # noqa: ANN401
    if not isinstance(value, Mapping):
        return False
    return len(inner) != 2 or all(matches(item, inner[1]) for item in value.values())


def _matches_sequence(value: Any, base: type, inner: tuple[Any, ...]) -> bool:  # noqa: ANN401
    if not isinstance(value, list | tuple):
        return False
    if base is tuple and inner and Ellipsis not in inner:
        pairs = zip(value, inner, strict=False)
        return len(value) == len(inner) and all(matches(item, kind) for item, kind in pairs)
    return not inner or all(matches(item, inner[0]) for item in value)
