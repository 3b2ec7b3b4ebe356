"""Calls in a process of their own, with bounds on time and memory, that may crash."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import struct
import time
import warnings
from collections.abc import Callable, Iterator

SECONDS = 20  # of one call; the cores may be busy
BYTES = 2 * 2**30  # of address space beyond what the process has already


def guarded(call: Callable[[int], str], count: int) -> Iterator[tuple[int, str, float]]:
    """What `call(0)`, `call(1)`, … return, in forked processes.

    Yields:
        The number, the answer, and seconds. Where a process crashed, hung or ran out of its memory
        the answer says so, and the next one goes on behind.
    """
    first = 0
    while first < count:
        for number, answer, seconds in _in_one_process(call, first, count):
            first = number + 1
            yield number, answer, seconds


def _in_one_process(call, first, count):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _work(call, first, count, writing)
    os.close(writing)
    number = first
    try:
        while number < count:
            began = time.monotonic()
            answer = _receive(reading)
            yield number, answer or _end_of(child), time.monotonic() - began
            if answer is None:
                child = None
                return
            number += 1
    finally:
        os.close(reading)
        if child is not None:
            _end_of(child)


def _work(call, first, count, writing):
    """The life of the child."""
    status = 1
    try:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.simplefilter("ignore")
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        for number in range(first, count):
            try:
                answer = call(number)
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"[:300]
            data = pickle.dumps(answer)
            os.write(writing, struct.pack("<I", len(data)) + data)
        status = 0
    finally:
        os._exit(status)


def _receive(reading):
    """The next answer; None where there is none in time."""
    if not select.select([reading], [], [], SECONDS)[0]:
        return None
    head = os.read(reading, 4)
    if len(head) < 4:
        return None
    size, data = struct.unpack("<I", head)[0], b""
    while len(data) < size:
        data += os.read(reading, size - len(data))
    return pickle.loads(data)


def _end_of(child):
    """Waits for a process that has ended, or ends it; says which."""
    for _ in range(20):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            number = os.waitstatus_to_exitcode(status)
            return f"crashed ({signal.Signals(-number).name if number < 0 else number})"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"hung for {SECONDS} s"
