"""Events that end a run before its time: signals, the clock, or numbers that are not finite.

Signals and the clock wait for the end of a batch, so that a run can write a checkpoint. SIGTERM and SIGUSR1 come from
the scheduler of a cluster before a job is killed, SIGHUP from a terminal that is closed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Signals that stop a run; Windows has the first two."""


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


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect the numbers of `SIGNALS` in the block instead of stopping; a second Ctrl-C no longer waits.

    The old handlers come back after the block. An ignored SIGHUP, as after ``nohup``, stays ignored. Only the main
    thread of a process can have handlers: in other threads signals keep their effect.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def note(number: int, frame: FrameType | None) -> None:
        if signals and number == signal.SIGINT:
            raise KeyboardInterrupt
        signals.append(number)

    survives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN if hasattr(signal, "SIGHUP") else False
    numbers = [number for number in SIGNALS if not (survives and number == signal.SIGHUP)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
