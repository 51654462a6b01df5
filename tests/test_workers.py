"""The ordered map: order, bounded memory, and processes that die."""

import collections
import errno
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from properties import SHARE

from bert_ja import workers
from bert_ja.cli import StageError
from bert_ja.workers import ordered_map


def square(number: int) -> int:
    return number * number


def late_when_even(number: int) -> int:
    time.sleep(0.02 * (number % 2 == 0))
    return number


def fail_at_five(number: int) -> int:
    if number == 5:
        raise StageError("line 5 is not UTF-8")
    return number


def die_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def a_lot(number: int) -> tuple[int, bytes]:
    """More than a pipe holds, so that a worker stays in the middle of handing it over until we read."""
    return os.getpid(), bytes([number % 256]) * 3_000_000


class Told(Exception):
    """Written by pickle, but not read: its class takes two arguments."""

    def __init__(self, number: int, said: str):
        super().__init__(f"{said} {number}")


def fail_untold(number: int) -> None:
    raise Told(number, "item")


def fail_locked(number: int) -> None:
    raise ValueError(number, threading.Lock())


def answer_a_lock(number: int):
    return threading.Lock()


def own_process(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3, 7])
def test_results_come_in_the_order_of_the_items(num_workers):
    assert list(ordered_map(square, range(40), num_workers)) == [n * n for n in range(40)]
    assert list(ordered_map(late_when_even, range(12), num_workers)) == list(range(12))
    assert list(ordered_map(square, [], num_workers)) == []


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_function_may_hold_what_cannot_be_pickled(num_workers):
    lock = threading.Lock()
    assert list(ordered_map(lambda number: (number, lock.locked()), range(4), num_workers)) == [
        (number, False) for number in range(4)
    ]


def test_no_more_processes_are_started_than_there_is_work_for():
    results = ordered_map(own_process, range(1), 50)
    process = next(results)
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    assert children.count(str(process)) == 1
    assert len(children) < 50
    assert list(results) == []


def test_the_work_is_done_by_other_processes():
    processes = set(ordered_map(own_process, range(12), 3))
    assert os.getpid() not in processes
    assert 1 < len(processes) <= 3
    assert set(ordered_map(own_process, range(2), 1)) == {os.getpid()}


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_no_more_than_two_items_a_worker_are_taken_ahead(num_workers):
    taken, most_ahead = [], 0

    def items():
        for number in range(60):
            taken.append(number)
            yield number

    for done, _ in enumerate(ordered_map(square, items(), num_workers)):
        most_ahead = max(most_ahead, len(taken) - done)
    assert most_ahead <= 2 * num_workers
    assert len(taken) == 60


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_exception_comes_as_it_is_after_the_results_before_it(num_workers):
    results = ordered_map(fail_at_five, range(40), num_workers)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(StageError, match="^line 5 is not UTF-8$"):
        next(results)


def test_an_exception_of_a_worker_says_where_it_was_raised():
    with pytest.raises(StageError) as error:
        list(ordered_map(fail_at_five, range(6), 2))
    assert "in fail_at_five" in str(error.value.__cause__)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "function, said",
    [
        (fail_untold, "Told: item 0"),
        (fail_locked, "ValueError: .0, <"),
        (answer_a_lock, "cannot pickle '_thread.lock'"),
    ],
)
def test_what_cannot_be_handed_over_is_an_error_and_not_a_hang(function, said):
    with pytest.raises((RuntimeError, TypeError), match=said):
        list(ordered_map(function, range(9), 2))


def stop_at_three(number: int) -> int:
    return number if number != 3 else next(iter([]))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_no_exception_of_a_function_passes_for_the_end(num_workers):
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(ordered_map(stop_at_three, range(8), num_workers))


def test_a_process_that_cannot_be_started_is_told(monkeypatch):
    def no_more() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_more)
    with pytest.raises(StageError) as error:
        list(ordered_map(square, range(8), 2))
    assert str(error.value) == (
        "worker process 1 cannot be started (Resource temporarily unavailable): run the command again with fewer "
        "--num_workers"
    )


def test_more_workers_than_a_usual_limit_of_open_files_allows():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, limits[1]))
        assert list(ordered_map(square, range(60), 30)) == [n * n for n in range(60)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_exception_of_the_items_comes_through(num_workers):
    def items():
        yield 1
        raise KeyError("items")

    with pytest.raises(KeyError, match="items"):
        list(ordered_map(square, items(), num_workers))


@pytest.mark.timeout(30)
def test_a_worker_that_dies_is_an_error_and_not_a_hang():
    with pytest.raises(StageError) as error:
        list(ordered_map(die_at_five, range(100), 3))
    assert str(error.value) == (
        "a worker process died (out of memory?): run the command again with fewer --num_workers"
    )


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():  # pytest's own limit ends it
        time.sleep(0.005)


def is_writing(process: int) -> bool:
    where = Path(f"/proc/{process}/wchan").read_text()
    if where in ("", "0"):  # a kernel that does not tell
        time.sleep(0.5)
        return True
    return "pipe_write" in where


@pytest.mark.timeout(60)
def test_a_worker_killed_in_the_middle_of_handing_over_its_result_is_an_error_and_not_a_hang():
    results = ordered_map(a_lot, range(40), 2)
    process, _ = next(results)
    wait_until(lambda: is_writing(process))
    os.kill(process, signal.SIGKILL)
    with pytest.raises(StageError, match="^a worker process died"):
        list(results)


@pytest.mark.timeout(60)
def test_a_worker_killed_while_it_takes_an_item_is_an_error_and_not_a_hang():
    def items():
        yield from [b""] * 4
        process = next(iter(processes))
        os.kill(process, signal.SIGSTOP)  # it takes nothing more, so that we stay in the middle of sending
        threading.Timer(0.2, os.kill, (process, signal.SIGKILL)).start()
        while True:
            yield bytes(3_000_000)

    processes: set[int] = set()
    with pytest.raises(StageError, match="^a worker process died"):
        for process in ordered_map(own_process, items(), 2):
            processes.add(process)


@pytest.mark.timeout(120)
def test_a_worker_killed_at_any_moment_is_an_error_and_not_a_hang():
    for moment in range(0, 20, SHARE):
        results = ordered_map(a_lot, itertools.count(), 3)
        process, _ = next(results)
        threading.Timer(moment * 0.0017, os.kill, (process, signal.SIGKILL)).start()
        with pytest.raises(StageError, match="^a worker process died"):
            collections.deque(results, maxlen=0)


@pytest.mark.timeout(30)
def test_a_reader_that_stops_early_leaves_no_process():
    results = ordered_map(own_process, range(1000), 2)
    processes = {next(results), next(results), next(results)}
    results.close()
    assert not any(map(is_alive, processes))


def is_alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


PARENT = """
import os, time
from bert_ja.workers import ordered_map

def work(number):
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(60)

list(ordered_map(work, range(9), 3))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_die_with_their_parent(end):
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    workers = [int(process.stdout.readline()) for _ in range(3)]
    assert all(map(is_alive, workers))
    process.send_signal(end)
    process.wait()
    wait_until(lambda: not any(map(is_alive, workers)))


def test_ctrl_c_reaches_the_parent_alone_and_ends_all():
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(process.stdout.readline()) for _ in range(3)]
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    talk = process.communicate(timeout=30)[1]  # and not after the items under way
    assert talk.count("Traceback") == talk.count("KeyboardInterrupt") == 1
    assert not any(map(is_alive, workers))


STARTING = """
import os, signal, sys
from bert_ja.workers import ordered_map

fork = os.fork

def interrupted_fork():
    os.kill(os.getpid(), signal.SIGINT)
    return fork()

os.fork = interrupted_fork
os.write(1, bytes(list(ordered_map(len, ["a", "b"], 2))))
"""


def test_ctrl_c_while_a_process_is_started_ends_the_stage():
    ended = subprocess.run(
        [sys.executable, "-c", STARTING],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.stderr.endswith("KeyboardInterrupt\n")
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, "")


def test_what_costs_too_much_processor_time_is_ended_within_a_regular_expression_too():
    def busy() -> None:
        while True:
            pass

    for body in (busy, lambda: re.match("(a+)+b", "a" * 40)):
        started = time.process_time()
        with pytest.raises(TimeoutError, match="^over 0.1 CPU seconds$"), workers.cpu_limit(0.1):
            body()
        assert time.process_time() - started < 60  # a hang


def test_waiting_costs_nothing_and_the_limit_ends_with_its_body():
    with workers.cpu_limit(0.05):
        time.sleep(0.2)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass


# Arrays, which go through shared memory


def arrays_of(sizes: list[int]) -> list[np.ndarray]:
    return [np.arange(size) % 251 for size in sizes]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_arrays_of_any_size_come_through_whole_and_can_be_written_to(num_workers, monkeypatch):
    """Small ones, one that fills a slot, one that no slot holds, many that fill it together, none at all."""
    monkeypatch.setattr(workers, "SLOT", 1 << 16)
    many = [[], [3], [0, 600], [1 << 13], [1 << 14], [5000, 3000, 1000, 2], [600] * 13, [1]] * 5
    expected = [arrays_of(sizes) for sizes in many]
    found = list(workers.ordered_map(arrays_of, many, num_workers))
    for ours, theirs in zip(expected, found, strict=True):
        assert [array.tolist() for array in theirs] == [array.tolist() for array in ours]
        for array in theirs:
            array += 1  # which no other answer sees
    assert [[array.tolist() for array in one] for one in found] == [
        [(array + 1).tolist() for array in one] for one in expected
    ]


def test_an_error_after_arrays_is_the_error(monkeypatch):
    def odd(number: int) -> np.ndarray:
        if number == 5:
            raise ValueError("five")
        return np.full(10_000, number)

    found = workers.ordered_map(odd, range(9), 2)
    assert [next(found)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(found)
