"""An ordered map over worker processes: bounded memory, the same results for any number of workers.

A worker that dies is an error and never a hang, at whatever moment it dies, and workers die with the stage that started
them (kill -9 included). `cpu_limit` bounds what one item may cost.
"""

import contextlib
import fcntl
import gc
import itertools
import mmap
import multiprocessing
import os
import pickle
import queue
import resource
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait

from bert_ja.cli import StageError, end_with_parent, no_interrupt

FILES_PER_WORKER = 4  # open ones
OTHER_FILES = 256  # those of a stage itself
AHEAD = 2  # items that a worker has at most: one under way, and the next, lest it wait for us
SLOT = 1 << 23  # bytes of memory that an answer's arrays may take of what a worker shares with us, AHEAD times
PIPE = 1 << 20  # bytes of items under way to a worker, so that they are sent and received at once
SMALL = 1 << 12  # bytes of an array that goes through the pipe


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


# In a worker


class _Slot:
    """Shared memory in which a worker puts the arrays of one answer: a copy on each side, instead of a pipe's many."""

    def __init__(self, memory: mmap.mmap, number: int):
        self._memory = memoryview(memory)[number * SLOT : (number + 1) * SLOT]
        self.sizes: list[int] = []

    def put(self, buffer: pickle.PickleBuffer) -> bool:
        """Take an array, unless it is small or there is no room: True leaves it to the pickle."""
        data, begin = buffer.raw(), sum(self.sizes)
        if data.nbytes < SMALL or begin + data.nbytes > SLOT:
            return True
        self._memory[begin : begin + data.nbytes] = data
        self.sizes.append(data.nbytes)
        return False

    def take(self, sizes: list[int]) -> list[bytearray]:
        """Copies of the arrays of these sizes: the slot is free for the next answer."""
        ends = list(itertools.accumulate(sizes, initial=0))
        return [bytearray(self._memory[begin:end]) for begin, end in itertools.pairwise(ends)]


def _answer(function: Callable, item: bytes, slot: _Slot) -> bytes:
    """(the result, None) or (an exception, where it was raised), pickled but for the arrays that `slot` takes."""
    try:
        return pickle.dumps((function(pickle.loads(item)), None), pickle.HIGHEST_PROTOCOL, buffer_callback=slot.put)
    except Exception as error:
        where = "".join(traceback.format_exception(error))
        slot.sizes.clear()
        try:
            data = pickle.dumps((error, where), pickle.HIGHEST_PROTOCOL)
            pickle.loads(data)  # some exceptions can be written and not be read
        except Exception:
            data = pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), where), pickle.HIGHEST_PROTOCOL)
        return data


def _receive(items: Connection, received: queue.SimpleQueue) -> None:
    try:
        while True:
            received.put(items.recv_bytes())
    finally:
        os._exit(1)  # whatever ended this, the parent hears of it, and does not wait for answers


def _serve(parent: int, function: Callable, memory: mmap.mmap, items: Connection, answers: Connection) -> None:
    """Answer what comes, in order, until killed; a thread of its own receives while an item is under way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent(parent, signal.SIGKILL)
    gc.freeze()  # what we share with the parent is not looked through, and so not copied
    received: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(items, received), daemon=True).start()
    for number in itertools.count():
        slot = _Slot(memory, number % AHEAD)
        data = _answer(function, received.get(), slot)
        answers.send((slot.sizes, data))


# In the parent


def _allow_open_files(number: int) -> None:
    """Raise our limit of open files, 1,024 on many machines, as far as the system lets us."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit not in (resource.RLIM_INFINITY, most):
        wanted = number if most == resource.RLIM_INFINITY else min(number, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, wanted), most))


class _Worker:
    """A process that answers items in their order.

    It alone holds the writing end of its answers and the reading end of its items, so that its death, in the middle of
    an answer too, ends our reading and writing.
    """

    def __init__(self, function: Callable):
        fork = multiprocessing.get_context("fork")  # which takes the function along, whatever it is
        items, self._items = fork.Pipe(duplex=False)
        with contextlib.suppress(OSError):  # more than the system allows
            fcntl.fcntl(self._items.fileno(), fcntl.F_SETPIPE_SZ, PIPE)
        self.answers, answers = fork.Pipe(duplex=False)
        self.waiting: deque[int] = deque()  # numbers of its items, in order, AHEAD at most
        self._memory, self._received = mmap.mmap(-1, AHEAD * SLOT), 0
        arguments = (os.getpid(), function, self._memory, items, answers)
        self._process = fork.Process(target=_serve, args=arguments, daemon=True)
        with no_interrupt():  # Python drops what is raised while it forks
            self._process.start()
        items.close()
        answers.close()

    def send(self, number: int, item: object) -> None:
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        try:
            self._items.send_bytes(data)
        except BrokenPipeError:
            raise self._died() from None
        self.waiting.append(number)

    def receive(self) -> tuple[int, tuple[object, str | None]]:
        """(number of an item, its answer)."""
        try:
            sizes, data = self.answers.recv()
        except (EOFError, OSError):
            raise self._died() from None
        # A worker answers in order, and gets no item before there is a slot for its answer.
        arrays = _Slot(self._memory, self._received % AHEAD).take(sizes)
        self._received += 1
        return self.waiting.popleft(), pickle.loads(data, buffers=arrays)

    def _died(self) -> StageError:
        return StageError("a worker process died (out of memory?): run the command again with fewer --num_workers")

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.join()
        self._items.close()
        self.answers.close()


class _Crew:
    """The workers of one map, each started when there is work for it."""

    def __init__(self, function: Callable, num_workers: int):
        self._function, self._num_workers = function, num_workers
        _allow_open_files(FILES_PER_WORKER * num_workers + OTHER_FILES)
        self._workers: list[_Worker] = []
        self._answers: dict[int, tuple[object, str | None]] = {}  # that nobody took yet

    def send(self, number: int, item: object) -> None:
        """Give an item to the worker that has the fewest."""
        worker = min(self._workers, key=lambda worker: len(worker.waiting), default=None)
        if worker is None or (worker.waiting and len(self._workers) < self._num_workers):
            worker = self._start()
        worker.send(number, item)

    def _start(self) -> _Worker:
        try:
            worker = _Worker(self._function)
        except OSError as error:  # no more processes or open files
            number = len(self._workers) + 1
            raise StageError(
                f"worker process {number} cannot be started ({error.strerror}): run the command again with fewer "
                "--num_workers"
            ) from None
        self._workers.append(worker)
        return worker

    def take(self, number: int) -> object:
        """The result of an item, waited for; other answers are put aside as they come."""
        workers = {worker.answers: worker for worker in self._workers}
        while True:
            for answers in wait(workers, timeout=0 if number in self._answers else None):
                came, answer = workers[answers].receive()
                self._answers[came] = answer
            if number in self._answers:
                break
        result, raised = self._answers.pop(number)
        if raised is not None:
            raise result from RuntimeError(f"in a worker process:\n{raised}")
        return result

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.close()


def ordered_map(function: Callable, items: Iterable, num_workers: int) -> Iterator:
    """Yield function(item) for each item, in order, with at most 2 x num_workers items in flight.

    One worker means this process. Others are forked from it, so that `function` may hold anything; items and results
    are pickled. Raises StageError when a worker dies; an exception of `function` is raised as it is.
    """
    if num_workers <= 1:
        for item in items:  # and not map(), which takes a StopIteration of the function for the end
            yield function(item)
        return
    crew = _Crew(function, num_workers)
    sent = taken = 0
    try:
        for item in items:
            crew.send(sent, item)
            sent += 1
            if sent - taken >= AHEAD * num_workers:
                yield crew.take(taken)
                taken += 1
        while taken < sent:
            yield crew.take(taken)
            taken += 1
    finally:
        crew.close()
