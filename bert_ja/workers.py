"""An ordered map over worker processes: bounded memory, the same results for any number of workers.

A worker that dies is an error and never a hang, and workers die with the stage that started them (kill -9 included).
`cpu_limit` bounds what one item may cost.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from bert_ja.cli import StageError

PR_SET_PDEATHSIG = 1  # prctl(2)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in a body that takes more CPU time of this process; in a main thread only.

    Python's regular expressions look for signals while they match, so a slow one is ended too.
    """

    def stop(signal_number: int, frame: object) -> None:
        raise TimeoutError(f"over {seconds:g} CPU seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _start_worker(parent: int, initializer: Callable | None, initargs: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before prctl
        os._exit(1)
    if initializer is not None:
        initializer(*initargs)


def ordered_map(
    function: Callable, items: Iterable, num_workers: int, initializer: Callable | None = None, initargs: tuple = ()
) -> Iterator:
    """Yield function(item) for each item, in order, with at most 2 x num_workers items in flight.

    One worker means this process. Raises StageError when a worker dies; an exception of `function` is raised as it is.
    """
    if num_workers <= 1:
        if initializer is not None:
            initializer(*initargs)
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start_worker,
        initargs=(os.getpid(), initializer, initargs),
    )
    pending: deque = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise StageError(
            "a worker process died (out of memory?): run the command again with fewer --num_workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
