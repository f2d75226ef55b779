"""The door: names the stages and opens one only when it is asked for."""

import contextlib
import sys
from importlib import import_module
from typing import Any

STAGES = {
    "check": "find every problem of every case before anything is computed",
    "prepare": "bring raw data into the canonical, memory-mapped form that training reads",
    "train": "train an experiment (a Hydra application)",
    "predict": "apply a model to scans, in the scans' own space",
    "evaluate": "score predictions against references",
    "report": "bring scores, curves and pictures together on one HTML page",
    "export": "turn a model into ONNX, an exported program or a MONAI bundle",
    "convert": "make a model folder of the weights that a network's authors published",
    "info": "say what is installed, which devices there are and what is missing",
}


def usage() -> str:
    """The text of `medseg --help`."""
    rows = "\n".join(f"  {name:<10}{text}" for name, text in STAGES.items())
    return (
        "usage: medseg STAGE [arguments]\n\n"
        "From raw scans to trusted segmentations.\n\n"
        f"stages:\n{rows}\n\n"
        "`medseg STAGE --help` tells a stage's arguments; add --debug to see a traceback.\n"
    )


def main(arguments: list[str]) -> int:
    """Run one stage; errors a user can cause become one clear message and exit code 1 or 2."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"medseg {version('medseg')}\n")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in STAGES:
        import difflib

        near = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        sys.stderr.write(
            f"medseg: '{name}' is not a stage; {hint}the stages are: {', '.join(STAGES)}\n"
        )
        return 2
    debug = "--debug" in rest
    try:
        return int(import_module(f"medseg.stages.{name}").main([a for a in rest if a != "--debug"]))
    except KeyboardInterrupt:
        text = "stopped by the keyboard; finished results are intact, the same command goes on"
        sys.stderr.write(f"medseg {name}: {text}\n")
        return 130
    except BrokenPipeError:  # who read our lines has gone, as `| head` does
        return _muted()
    except MemoryError as error:
        sys.stderr.write(f"medseg {name}: out of memory: {error}\n")
        return 1
    except (ValueError, OSError, ImportError, RuntimeError, KeyError) as error:
        if debug:
            raise
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        sys.stderr.write(f"medseg {name}: {text or type(error).__name__}\n")
        return 1


def _muted() -> int:
    """Let nothing more be written to a pipe that nobody reads; the code a shell gives for that."""
    import os

    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def entry() -> None:
    """The console script, which also ends cleanly where a workflow stops a job by SIGTERM.

    Training is left to Lightning's own handling of the signal. A log line that cannot be written,
    because its reader has gone, is no reason for a traceback in the middle of a training.
    """
    import logging
    import signal

    logging.raiseExceptions = False

    if sys.argv[1:2] != ["train"]:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        code: Any = main(sys.argv[1:])
    except SystemExit as stop:
        code = stop.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _muted()
    sys.exit(code)


if __name__ == "__main__":
    entry()
