"""Work in the background, where a new job replaces an old job."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Job = Callable[[Callable[[int], None]], Any]
"""A function of a progress function; the progress function raises `Cancelled` when the job is out of date."""


class Cancelled(Exception):  # noqa: N818
    """The result of the running job is not needed."""


@dataclass
class Worker:
    """A thread for one job at a time: a new job replaces a waiting job, and cancels a running job.

    Results, errors and progress come back on the running asyncio loop of the thread that called `submit`, or in `wait`.
    Without such a loop (plain Python) `submit` returns when the job is finished.

    Attributes:
        show_result: called with the result of a job.
        show_error: called with the exception of a job.
        show_progress: called with the progress of a job.
        patience: seconds until a new job cancels a running job, so that the panels follow a slider in motion.
    """

    show_result: Callable[[Any], object]
    show_error: Callable[[Exception], object]
    show_progress: Callable[[int], object] = lambda done: None
    patience: float = 0.0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = self._cancelled = 0
        self._waiting: tuple[int, Job, asyncio.AbstractEventLoop] | None = None
        self._results: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.busy = False

    def submit(self, job: Job) -> None:
        """Run a job, and show the result unless a new job comes first."""
        loop = running_loop()
        if loop is None:
            self._run(0, job, None)
            return
        with self._lock:
            self._newest += 1
            self._waiting = self._newest, job, loop
            if not self.busy:
                self.busy = True
                threading.Thread(target=self._run_waiting, daemon=True, name="bioshare explorer").start()

    def cancel(self) -> None:
        """Show no result of the jobs submitted so far."""
        with self._lock:
            self._cancelled, self._waiting = self._newest, None

    def wait(self) -> None:
        """Return when all jobs are finished and all results are shown, although the caller blocks the asyncio loop."""
        while self.busy or not self._results.empty():
            self._show_next(timeout=0.02)

    def before(self, progress: Callable[[int], None]) -> Callable[[int], None]:
        """Wrap the progress function of a job of another worker, so that the job waits while this worker is busy."""

        def wait(done: int) -> None:
            progress(done)
            while self.busy:
                time.sleep(0.02)
                progress(done)  # raises Cancelled while waiting, too

        return wait

    def _show_next(self, timeout: float | None = None) -> None:
        with contextlib.suppress(queue.Empty):  # `wait` may come before the loop's turn
            self._results.get(block=timeout is not None, timeout=timeout)()

    def _run_waiting(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self.busy = False
                    return
                waiting, self._waiting = self._waiting, None
            self._run(*waiting)

    def _run(self, number: int, job: Job, loop: asyncio.AbstractEventLoop | None) -> None:
        start = time.monotonic()

        def outdated() -> bool:
            replaced = self._newest > number and time.monotonic() - start >= self.patience
            return loop is not None and (replaced or self._cancelled >= number)

        def deliver(function: Callable[[Any], object], value: object) -> None:
            if loop is None:
                function(value)
            elif not loop.is_closed():  # `cancel` may come before the loop's turn
                self._results.put(lambda: self._cancelled < number and function(value))
                loop.call_soon_threadsafe(self._show_next)

        def progress(done: int) -> None:
            if outdated():
                raise Cancelled
            deliver(self.show_progress, done)

        try:
            function, value = self.show_result, job(progress)
        except Cancelled:
            return
        except Exception as error:  # the user of the slider should read any error
            function, value = self.show_error, error
        if not outdated():
            deliver(function, value)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the asyncio loop of this thread, as in a notebook; None in plain Python."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
