"""What ends a run before its time: signals, the clock, or numbers that are no longer finite.

SIGTERM, Ctrl-C and the clock wait for the end of a batch, so that a run can save what it has.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A run that a signal has stopped, after its checkpoint was written.

    Attributes:
        signal: its number; a shell expects the exit status 128 + signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.signal = signal

    def __str__(self) -> str:
        return self.args[0]


class TimeUpError(RuntimeError):
    """A run whose `seconds` are over, after its checkpoint was written: the same call with ``resume`` goes on."""


class TrainingDivergedError(FloatingPointError):
    """A run whose loss or weights are no longer finite.

    Attributes:
        epoch, step: where, both from 0 (from 1 in the message); the step counts the batches of the whole run.
        learning_rate: at that step.
    """

    def __init__(self, message: str, epoch: int, step: int, learning_rate: float) -> None:
        super().__init__(message, epoch, step, learning_rate)
        self.epoch, self.step, self.learning_rate = epoch, step, learning_rate

    def __str__(self) -> str:
        return self.args[0]


@dataclass
class Caught:
    """The first signal that came, 0 for none."""

    signal: int = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; a second Ctrl-C no longer waits."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextmanager
def interruptible(caught: Caught | None = None) -> Iterator[Caught]:
    """Note SIGTERM and SIGINT in the block and go on; the handlers come back after it.

    Only a process's main thread can have handlers: elsewhere signals do what they did.

    Args:
        caught: where they are noted; None for a new one.
    """
    caught = caught or Caught()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, caught.note) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
