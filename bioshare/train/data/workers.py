"""Calls in several processes, with the results in order.

A new process imports the module of the called function alone, never the script of the user, and ends when its pipe
closes: with this process, however that ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from subprocess import PIPE, Popen
from typing import Any, TypeVar

Work = TypeVar("Work")
Done = TypeVar("Done")


def in_parallel(work: Callable[[Work], Done], arguments: Iterable[Work], processes: int) -> Iterator[Done]:
    """The results of ``work`` for all arguments in order, with at most two waiting arguments per process.

    Raises:
        ChildProcessError: a process was killed.
        Exception: an error of ``work``.
    """
    idle: SimpleQueue[Worker] = SimpleQueue()
    pending = deque()

    def call(argument: Work) -> Done:
        worker = idle.get()
        try:
            return worker(argument)
        finally:
            idle.put(worker)

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        for _ in range(processes):
            idle.put(stack.enter_context(Worker(work)))  # killed before the threads are waited for
        for argument in arguments:
            pending.append(pool.submit(call, argument))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Worker:
    """A process that calls one function with many arguments; the end of a ``with`` block kills the process."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        code = f"import sys; sys.path = {sys.path!r}; from bioshare.train.data.workers import serve; serve()"
        self.process = Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE)
        self.work = work

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        with suppress(BrokenPipeError):  # a call that was not sent to its end
            self.process.__exit__(None, None, None)

    def __call__(self, argument: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        try:
            pickle.dump((self.work, argument), self.process.stdin)
            self.process.stdin.flush()
            value = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise ChildProcessError(
                "a process that decoded images was killed, perhaps for lack of memory. Free memory and give the same "
                "command again, on fewer cores if it happens again (Linux: taskset -c 0 ...)"
            ) from error
        if isinstance(value, Exception):
            raise value
        return value


def serve() -> None:
    """Make the calls of a `Worker`, in the new process, until the pipe closes: then end at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a print must not end up among the results
    calls: SimpleQueue[tuple[Callable[[Any], Any], Any]] = SimpleQueue()

    def work() -> None:
        with suppress(BrokenPipeError):
            while True:
                function, argument = calls.get()
                try:
                    value = function(argument)
                except Exception as error:
                    value = error
                pickle.dump(value, results)
                results.flush()

    threading.Thread(target=work, daemon=True).start()
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            calls.put(pickle.load(sys.stdin.buffer))
    os._exit(0)
