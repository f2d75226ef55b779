"""Work on many cases at once, in processes that cannot die unheard."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def each(
    function: Callable[..., T],
    tasks: Sequence[tuple[str, tuple[object, ...]]],
    *,
    workers: int,
    what: str,
) -> list[T]:
    """The function's result for the arguments of every (case, arguments), in their order.

    Never more than `workers` cases are under way, so a worker that the system killed tells which
    cases it may have been. With one worker the work is done here, without a second process.

    Args:
        function: importable by name, as every worker imports it.
        tasks: a case's name, by which its error is known, and the arguments.
        workers: how many processes.
        what: the word beside the progress bar.
    """
    from tqdm import tqdm

    with tqdm(total=len(tasks), desc=what, unit="case", disable=None) as bar:
        if min(workers, len(tasks)) <= 1:
            alone: list[T] = []
            for name, arguments in tasks:
                try:
                    alone.append(function(*arguments))
                except Exception as error:
                    raise named(error, name) from error
                bar.update()
            return alone
        return _processes(function, tasks, min(workers, len(tasks)), bar.update)


def _processes(
    function: Callable[..., T],
    tasks: Sequence[tuple[str, tuple[object, ...]]],
    workers: int,
    progress: Callable[[], object],
) -> list[T]:
    results: dict[int, T] = {}
    under_way: dict[Future[T], int] = {}
    left = iter(range(len(tasks)))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin)
    try:
        while True:
            while len(under_way) < workers and (place := next(left, None)) is not None:
                with _calm():
                    future = pool.submit(_task, function, tasks[place][1])
                under_way[future] = place
            if not under_way:
                break
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                _keep(future, tasks, under_way, results)
                progress()
    except BaseException:
        _stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [results[place] for place in sorted(results)]


def _keep(
    future: Future[T],
    tasks: Sequence[tuple[str, tuple[object, ...]]],
    under_way: dict[Future[T], int],
    results: dict[int, T],
) -> None:
    place = under_way[future]
    try:
        results[place] = future.result()
    except BrokenProcessPool:
        running = ", ".join(tasks[other][0] for other in sorted(under_way.values()))
        raise RuntimeError(
            "a worker process was killed, most likely because memory ran out, while these cases "
            f"were under way: {running}. Cases done so far are kept; try again with --workers 1"
        ) from None
    except Exception as error:
        raise named(error, tasks[place][0]) from error
    del under_way[future]


def named(error: Exception, case: str) -> Exception:
    """The same error with the case's name in it."""
    if isinstance(error, ValueError | OSError) and f"case {case}" in str(error):
        return error
    if isinstance(error, MemoryError):
        text = f"case {case} needs more memory than there is ({error}); try --workers 1"
        return RuntimeError(text)
    if isinstance(error, ValueError | OSError):
        return ValueError(f"case {case}: {error}")
    return RuntimeError(f"case {case}: {type(error).__name__}: {error}")


def _task(function: Callable[..., T], arguments: tuple[object, ...]) -> T:
    """Run in a worker: the keyboard interrupts the case, which tidies up, and not the worker."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        return function(*arguments)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(*_: object) -> None:
    """Once only, so that a second signal cannot interrupt the tidying up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _again(dropped: Any) -> None:  # noqa: ANN401 -- what Python hands to its hook
    """An interrupt in a callback (an import's lock has one) is dropped: send another."""
    if dropped.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(dropped)
        return
    signal.signal(signal.SIGINT, _interrupt)
    threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()


def _begin() -> None:
    """Start of a worker: deaf to the keyboard between cases, and gone when its parent is gone."""
    sys.unraisablehook = _again
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Processes started inside inherit a blocked keyboard and one thread for linear algebra."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    can_block = hasattr(signal, "pthread_sigmask")
    if can_block:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        if can_block:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _stop() -> None:
    """Interrupt the cases under way; each removes what it had half written."""
    for process in multiprocessing.active_children():
        if process.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGINT)


def count_workers(bytes_a_case: int, cases: int) -> int:
    """Processes that the machine has room for: by its cores, its free memory and the work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    room = max(1, free_bytes() // max(1, bytes_a_case))
    return max(1, min(cores or 1, room, cases))


def free_bytes() -> int:
    """Memory that can be had without swapping; 4 GiB where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 4 << 30
