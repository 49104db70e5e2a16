"""Work in the background, of which only the newest counts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

POLL = 0.02
"""Seconds between two looks whether a worker is done."""

Job = Callable[[Callable[[int], None]], Any]
"""What is to be done. It is given a function to be told, now and then, how far it is; that raises `Cancelled`."""


class Cancelled(Exception):  # noqa: N818
    """A newer job is waiting: what ran need not go on."""


@dataclass
class Latest:
    """Runs jobs in a thread, one at a time: a newer one takes the place of one that waits, and cancels one that runs.

    Results, errors and progress come back on the asyncio loop that was running when a job was submitted. Without such
    a loop (plain Python) a job is done at once, before `submit` returns.

    Attributes:
        show: given the result of a job.
        fail: given what a job raised.
        tell: given the progress of a job.
        patience: seconds that a job may go on when a newer one waits: its result is shown if it is done by then, so
            that a slider in motion is followed.
    """

    show: Callable[[Any], object]
    fail: Callable[[Exception], object]
    tell: Callable[[int], object] = lambda done: None
    patience: float = 0.0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = self._cancelled = 0
        self._waiting: tuple[int, Job, asyncio.AbstractEventLoop] | None = None
        self._running = False

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._running

    def submit(self, job: Job) -> None:
        """Do a job, and show its result unless a newer one is submitted before it is done."""
        loop = running_loop()
        if loop is None:
            self._do(0, job, None)
            return
        with self._lock:
            self._newest += 1
            self._waiting = self._newest, job, loop
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, daemon=True, name="bioshare explorer").start()

    def cancel(self) -> None:
        """Show nothing of what was submitted so far."""
        with self._lock:
            self._cancelled, self._waiting = self._newest, None

    def first(self, progress: Callable[[int], None]) -> Callable[[int], None]:
        """The progress of another worker's job, which holds that job up while a job of this one runs or waits."""

        def tell(done: int) -> None:
            progress(done)
            while self.busy:
                time.sleep(POLL)
                progress(done)  # it may have been cancelled

        return tell

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._running = False
                    return
                work, self._waiting = self._waiting, None
            self._do(*work)

    def _do(self, ticket: int, job: Job, loop: asyncio.AbstractEventLoop | None) -> None:
        start = time.monotonic()

        def outdated() -> bool:
            newer = self._newest > ticket and time.monotonic() - start >= self.patience
            return loop is not None and (newer or self._cancelled >= ticket)

        def show(function: Callable[[Any], object], value: object) -> None:
            if loop is None or self._cancelled < ticket:  # it may have been cancelled while it waited for the loop
                function(value)

        def progress(done: int) -> None:
            if outdated():
                raise Cancelled
            _deliver(loop, show, self.tell, done)

        try:
            function, value = self.show, job(progress)
        except Cancelled:
            return
        except Exception as error:  # whatever it is, who moved the slider should read it
            function, value = self.fail, error
        if not outdated():
            _deliver(loop, show, function, value)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The asyncio loop that runs in this thread, as in a notebook; None in plain Python."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _deliver(loop: asyncio.AbstractEventLoop | None, function: Callable[..., object], *values: object) -> None:
    if loop is None:
        function(*values)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(function, *values)
