"""`Stopwatch`: how long work takes on a device that the host does not wait for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the time that blocks of work take on a device.

    On a GPU the host does not wait for them: two events lie around each in the current stream, and what other streams
    do between the two counts, too.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu, self.seconds = device.type == "cuda", 0.0
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the block."""
        if self.on_gpu:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self.events.append((begin, end))
        else:
            start = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - start

    def read(self) -> float:
        """Seconds since this was last asked; the device must have finished."""
        seconds = self.seconds + sum(begin.elapsed_time(end) for begin, end in self.events) / 1000
        self.seconds = 0.0
        self.events.clear()
        return seconds
