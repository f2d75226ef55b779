"""Where an output comes from: hashes, versions, and files that are whole or not there at all."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import medseg

PACKAGES = (
    *("medseg", "torch", "numpy", "scipy", "nibabel", "SimpleITK", "healpy", "lightning"),
    "hydra-core",
)


def writable(folder: Path) -> None:
    """Make a folder and refuse one that cannot be written into, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"the output folder {folder} cannot be written ({error.strerror or error}); "
            "choose another"
        ) from None


def shipped(name: str) -> Path:
    """A file that comes along, such as data/samples/…, in a checkout or an installed package.

    Raises:
        FileNotFoundError: the package lacks it.
    """
    package = Path(medseg.__file__).resolve().parent
    for home in (package / "_workflow", package.parent):
        if (home / name).is_file():
            return home / name
    raise FileNotFoundError(f"no {name} beside {package}; reinstall medseg")


def existing(path: Path) -> Path:
    """The innermost folder of a path that is there already, perhaps the path itself."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def unwritable(error: OSError, folder: Path) -> bool:
    """Whether an error says that a folder cannot be written, and not that something else fails."""
    if error.errno in (errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENOTDIR):
        return True
    return isinstance(error.filename, str) and Path(error.filename).is_relative_to(folder)


@contextlib.contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Be the only one at work in a folder; the system ends the claim with the process.

    The folder itself is locked, so nothing is left in it. Where it is absent or the system has no
    such locks, nothing is claimed.

    Raises:
        BlockingIOError: another process is at work there.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, OSError):
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        text = f"another training is writing into {folder}; wait for its end or name another --out"
        raise BlockingIOError(text) from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)


def tidy(folder: Path, own: Collection[str], *, kept: Path) -> None:
    """Remove a folder that holds nothing but `own` names and `logs`, which stays if it is there.

    Parents left empty go as well, up to `kept`, a folder that was there before.
    """
    import shutil

    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names or not names <= {*own, "logs"}:
        return
    for name in names & set(own):
        path = folder / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):
        while folder != kept and not any(folder.iterdir()):
            folder.rmdir()
            if kept not in folder.parents:
                return
            folder = folder.parent


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed onto it when the block ends well, else removed.

    The temporary name keeps the suffixes, because writers choose a format by them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well.

    A folder that was there before is kept until the new one is complete.
    """
    import shutil

    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", suffix="-" + path.name, dir=path.parent))
    old = part.with_name(part.name + ".old")
    try:
        yield part
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o777 & ~mask)
        if path.exists():
            path.rename(old)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of bytes atomically."""
    with atomic(path) as part:
        part.write_bytes(content)


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 -- any JSON value
    """Write JSON atomically; numpy scalars and arrays, paths and tuples become plain values."""
    write_text(path, json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 -- any JSON value
    """Read JSON; a file that is not JSON is named in the error."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); make it again") from None


def plain(content: Any) -> Any:  # noqa: ANN401 -- any value to a JSON value
    """A value in JSON's own types; a number that is not finite becomes null."""
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        return plain(content.tolist())
    if isinstance(content, np.generic):
        return plain(content.item())
    if isinstance(content, float) and not np.isfinite(content):
        return None
    if isinstance(content, str | int | float | bool) or content is None:
        return content
    if isinstance(content, Iterable):
        return [plain(value) for value in content]
    return str(content)


def hash_file(path: Path) -> str:
    """The sha256 of a file, or of a folder's files (names and contents, sorted)."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(file.relative_to(path).as_posix().encode())
            digest.update(hash_file(file).encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def hash_value(content: Any) -> str:  # noqa: ANN401 -- any JSON value
    """The sha256 of a JSON value, independent of key order."""
    text = json.dumps(plain(content), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_array(array: np.ndarray) -> str:
    """The sha256 of an array's dtype, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions of the packages that a result depends on; absent ones are left out."""
    import platform

    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
