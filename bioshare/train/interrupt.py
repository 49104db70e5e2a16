"""Events that end a run before its time: signals, the clock, or numbers that are not finite.

SIGTERM, Ctrl-C and the clock wait for the end of a batch, so that a run can write a checkpoint.
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
    """A signal has stopped a run after its checkpoint was written.

    Attributes:
        signal: number of the signal; a shell expects the exit status 128 + signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.signal = signal

    def __str__(self) -> str:
        return self.args[0]


class TimeUpError(RuntimeError):
    """The `seconds` of a run are over, and its checkpoint was written: the same call with ``resume`` goes on."""


class TrainingDivergedError(FloatingPointError):
    """The loss or the weights of a run are not finite.

    Attributes:
        epoch, step: epoch, and batch of the whole run, both from 0 (from 1 in the message).
        learning_rate: learning rate of the step.
    """

    def __init__(self, message: str, epoch: int, step: int, learning_rate: float) -> None:
        super().__init__(message, epoch, step, learning_rate)
        self.epoch, self.step, self.learning_rate = epoch, step, learning_rate

    def __str__(self) -> str:
        return self.args[0]


@dataclass
class Caught:
    """Number of the first signal since the start, 0 for none."""

    signal: int = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; a second Ctrl-C no longer waits."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextmanager
def interruptible(caught: Caught | None = None) -> Iterator[Caught]:
    """Note SIGTERM and SIGINT in the block instead of stopping; the old handlers come back after the block.

    Only the main thread of a process can have handlers: in other threads signals keep their effect.

    Args:
        caught: record of the signal; None for a new record.
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
