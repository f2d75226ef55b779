"""The graphics cards of this machine, counted and shared out without asking torch.

Snakemake counts cards but does not say which card a job gets, so a job claims one itself: an
advisory lock on a small file per card and seat, held while the job runs and freed by the system
when it ends, however it ends.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SEATS = 16
VISIBLE = "CUDA_VISIBLE_DEVICES"


def count() -> int:
    """How many CUDA cards a new process here would see; costs no more than listing a folder.

    `CUDA_VISIBLE_DEVICES` speaks first, then the device files of the driver; where Windows lends
    its cards to Linux there are no such files, and `nvidia-smi` is asked.
    """
    if VISIBLE in os.environ:
        named = [part.strip() for part in os.environ[VISIBLE].split(",") if part.strip()]
        return named.index("-1") if "-1" in named else len(named)
    cards = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if cards or not Path("/dev/dxg").exists() or shutil.which("nvidia-smi") is None:
        return cards
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)  # noqa: S607 -- found on PATH
    return listing.stdout.count("GPU ")


@contextlib.contextmanager
def claim(folder: Path | None = None) -> Iterator[int | None]:
    """Hold the card with the fewest holders, as the only one that CUDA shows to this process.

    Enter it before the first use of CUDA. Nothing happens (None) when there is no card, when
    somebody has chosen already (`CUDA_VISIBLE_DEVICES` is set: a scheduler or the user), or when
    this system has no file locks. Locks lie in `folder`, the system's temporary folder by default,
    so that all users of a machine see each other's.
    """
    cards = 0 if VISIBLE in os.environ else count()
    held = _take(cards, folder or Path(tempfile.gettempdir())) if cards else None
    if held is None:
        yield None
        return
    card, handle = held
    os.environ[VISIBLE] = str(card)
    try:
        yield card
    finally:
        os.environ.pop(VISIBLE, None)
        os.close(handle)


def _take(cards: int, folder: Path) -> tuple[int, int] | None:
    """The first free seat, all first seats before any second one."""
    for seat in range(SEATS):
        for card in range(cards):
            handle = _lock(folder / f"medseg-card-{card}-seat-{seat}.lock")
            if handle is not None:
                return card, handle
    return None


def _lock(path: Path) -> int | None:
    """An open handle that holds the file's lock, or None if another process has it.

    The file is opened for reading first: in a shared sticky folder a file that another user made
    may be read and locked, but neither written nor opened for making.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError:
            return None
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
