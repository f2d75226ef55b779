"""`medseg info`: what is installed, which devices there are, and what is missing or broken."""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

# The first two numbers of torch and of the torchvision that was built for it.
_TORCHVISION_OFFSET = (2, 15)


def main(arguments: list[str]) -> int:
    """Print the facts; the exit code is 1 where something known is broken."""
    options = _parser().parse_args(arguments)
    if options.workflow:
        sys.stdout.write(f"{snakefile()}\n")
        return 0
    if options.gpus:
        from medseg import devices

        sys.stdout.write(f"{devices.count()}\n")
        return 0
    facts = gather()
    sys.stdout.write(json.dumps(facts, indent=2) + "\n" if options.json else _text(facts))
    return 1 if facts["broken"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medseg info",
        allow_abbrev=False,
        description="Versions, devices, missing extras and known breakages; exit code 1 if broken.",
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument(
        "--workflow", action="store_true", help="only the Snakefile's path, for `snakemake -s`"
    )
    parser.add_argument("--gpus", action="store_true", help="only the number of CUDA cards")
    return parser


def gather() -> dict[str, Any]:
    """All facts, as JSON values."""
    from medseg.provenance import versions

    required, extras = _requirements()
    found = versions(["medseg", *required, *(name for names in extras.values() for name in names)])
    missing = {extra: [n for n in names if n not in found] for extra, names in extras.items()}
    workflow: str | None = None
    with contextlib.suppress(OSError):
        workflow = str(snakefile())
    return {
        "versions": found,
        "missing": [name for name in required if name not in found],
        "missing_extras": {extra: names for extra, names in missing.items() if names},
        "devices": {"cpu_threads": _threads(), "cuda": _cards(), "mps": _mps()},
        "broken": breakages(),
        "workflow": workflow,
    }


def snakefile() -> Path:
    """The Snakefile: in the wheel, or at the top of the checkout."""
    package = Path(__file__).resolve().parent.parent
    for path in (package / "_workflow" / "Snakefile", package.parent / "Snakefile"):
        if path.is_file():
            return path
    raise FileNotFoundError("the Snakefile is not there; install medseg again")


def breakages() -> list[str]:
    """Known combinations of packages that do not work, each with its cure."""
    found = []
    torch, vision = _version("torch"), _version("torchvision")
    if torch and vision:
        wanted = f"0.{_numbers(torch)[1] + _TORCHVISION_OFFSET[1]}"
        cpu = ("+cpu" in torch) != ("+cpu" in vision) and "+" in torch
        if _numbers(vision)[:2] != _numbers(wanted) or cpu:
            found.append(
                f"torchvision {vision} does not fit torch {torch} (wanted {wanted}, of the same "
                "build): `import lightning` may fail with 'operator torchvision::nms does not "
                "exist'; `pip uninstall torchvision` (medseg does not need it)"
            )
    if vision and not _imports("torchvision"):
        found.append("torchvision cannot be imported; `pip uninstall torchvision`")
    if _version("timm") and not vision:
        found.append("timm is there without torchvision; `pip uninstall timm`")
    if torch and not _imports("torch"):
        found.append("torch cannot be imported; install it again (pytorch.org says how)")
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def _imports(name: str) -> bool:
    """Whether a package can be imported, tried in a process of its own."""
    tried = subprocess.run(  # noqa: S603 -- our own interpreter, a fixed name
        [sys.executable, "-c", f"import {name}"], capture_output=True, check=False
    )
    return tried.returncode == 0


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Names of the declared dependencies: the required ones, and each extra's."""
    required: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in metadata.requires("medseg") or []:
        name = re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if name == "medseg":
            continue
        (extras.setdefault(extra[1], []) if extra else required).append(name)
    return required, extras


def _threads() -> int:
    """Processors that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _cards() -> list[dict[str, Any]]:
    """CUDA cards that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    cards = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        memory = round(facts.total_memory / (1 << 30), 1)
        cards.append({"device": f"cuda:{index}", "name": facts.name, "memory_gib": memory})
    return cards


def _mps() -> bool:
    import torch

    return bool(torch.backends.mps.is_available())


def _text(facts: dict[str, Any]) -> str:
    """The facts for people."""
    lines = ["versions"]
    lines += [f"  {name:<20}{version}" for name, version in facts["versions"].items()]
    devices = facts["devices"]
    lines += ["devices", f"  cpu                 {devices['cpu_threads']} threads"]
    for card in devices["cuda"]:
        lines.append(f"  {card['device']:<20}{card['name']}, {card['memory_gib']} GiB")
    if devices["mps"]:
        lines.append("  mps                 Apple GPU")
    lines += ["workflow", f"  {facts['workflow'] or 'not found'}"]
    for name in facts["missing"]:
        lines.append(f"missing: {name}; `pip install {name}`")
    for extra, names in facts["missing_extras"].items():
        cure = f"pip install 'medseg[{extra}]'"
        lines.append(f"missing extra {extra}: {', '.join(names)}; `{cure}`")
    lines += [f"broken: {text}" for text in facts["broken"]]
    if not facts["broken"] and not facts["missing"]:
        lines.append("nothing known is broken")
    return "\n".join(lines) + "\n"
