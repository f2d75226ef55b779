"""Workers that fail, die or are interrupted."""

import os
import signal
import subprocess
import sys
import time

import pytest

from medseg.data.pool import count_workers, each, named


def double(value: int) -> int:
    return 2 * value


def fail(value: int) -> int:
    if value == 1:
        raise ValueError("the label is upside down")
    return value


def crash(value: int) -> int:
    if value == 1:
        raise IndexError(value)
    return value


def die(value: int) -> int:
    if value == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return value


def tasks(count: int) -> list[tuple[str, tuple[int]]]:
    return [(f"case-{i}", (i,)) for i in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_tasks_order(workers: int) -> None:
    assert each(double, tasks(5), workers=workers, what="test") == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_carries_the_cases_name(workers: int) -> None:
    with pytest.raises(ValueError, match="case case-1: the label is upside down"):
        each(fail, tasks(4), workers=workers, what="test")
    with pytest.raises(RuntimeError, match="case case-1: IndexError: 1"):
        each(crash, tasks(4), workers=workers, what="test")


def test_a_killed_worker_tells_what_was_under_way_and_what_to_try() -> None:
    with pytest.raises(RuntimeError, match=r"memory ran out.*case-2.*--workers 1"):
        each(die, tasks(4), workers=2, what="test")


def test_a_name_is_not_said_twice() -> None:
    told = ValueError("case a: too small")
    assert named(told, "a") is told
    assert "--workers 1" in str(named(MemoryError("8 GiB"), "a"))


def test_workers_fit_cores_memory_and_cases() -> None:
    assert count_workers(1 << 60, 100) == 1
    assert count_workers(1, 1) == 1
    assert 1 <= count_workers(1, 10_000) <= (os.cpu_count() or 1)


FALLEN = """
import signal, sys, time, weakref
from medseg.data import pool

class Thing: pass

def case():
    thing = Thing()
    mark = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    time.sleep(20)
    return "finished"

sys.unraisablehook = pool._again
try:
    print(pool._task(case, ()))
except KeyboardInterrupt:
    print("stopped")
"""


def test_an_interrupt_that_a_callback_swallows_comes_again():
    """As where the keyboard hits while a module is imported, whose lock has such a callback."""
    done = subprocess.run([sys.executable, "-c", FALLEN], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
