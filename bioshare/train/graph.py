"""CUDA graphs: all the kernels of a step, recorded once and launched as one.

A step of a small network has hundreds of kernels, each of which takes the host longer to launch than the GPU to
compute. A graph replays the kernels, not the Python: what it held in variables, such as the number of the batch, must
not matter in what is recorded, and everything that does must lie in tensors that stay where they are.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from bioshare.train.distributed import Processes

WARM_UP = 3
"""Ordinary calls before a recording, in which PyTorch's libraries choose their kernels and get their memory."""


class Recording(Protocol):
    """Work on a device, recorded to be done again."""

    def capture(self, work: Callable[[], Any]) -> Any:
        """Record what ``work`` would do, without doing it; what it returns is filled by every replay."""
        ...

    def replay(self) -> None:
        """Do it, on the current stream."""
        ...


class CudaRecording:
    """A CUDA graph; the current stream must not be the default one (`Processes.stream`).

    Args:
        pool: where the graph's memory lies; graphs can share one if they never run at the same time, and none of them
            needs what another has left in it.
    """

    def __init__(self, pool: Any) -> None:
        self.graph, self.pool = torch.cuda.CUDAGraph(), pool

    def capture(self, work: Callable[[], Any]) -> Any:
        # thread_local: the thread that pins a DataLoader's memory may go on meanwhile
        stream = torch.cuda.current_stream()
        with _collected(), torch.cuda.graph(self.graph, self.pool, stream, capture_error_mode="thread_local"):
            return work()

    def replay(self) -> None:
        self.graph.replay()


@contextmanager
def _collected() -> Iterator[None]:
    """A block before which Python's garbage is collected, and in which none is.

    An old graph may be in it, and its end would be an error in the capture of a new one.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Replayed:
    """A function of tensors that is recorded once for every shape of its arguments, and then replayed.

    The first `WARM_UP` calls of a shape are ordinary ones, and count. The next is recorded, which does not execute it,
    and replayed at once: no call is lost, and none happens twice.

    Args:
        work: a function of tensors. It must read no others but those that stay where they are, give its arguments to
            nothing that outlives the call, and never wait for the device.
        record: makes an empty `Recording`.
    """

    def __init__(self, work: Callable[..., Any], record: Callable[[], Recording]) -> None:
        self.work, self.record = work, record
        self.calls: Counter[tuple[torch.Size, ...]] = Counter()
        self.recorded: dict[tuple[torch.Size, ...], tuple[Recording, list[Tensor], Any]] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """What ``work`` returns; if that is a tensor, only until the next call of any function in the same memory."""
        shapes = tuple(tensor.shape for tensor in inputs)
        self.calls[shapes] += 1
        if self.calls[shapes] <= WARM_UP:
            return self.work(*inputs)
        if shapes not in self.recorded:
            recording, places = self.record(), [tensor.clone() for tensor in inputs]
            self.recorded[shapes] = recording, places, recording.capture(lambda: self.work(*places))
        recording, places, output = self.recorded[shapes]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        recording.replay()
        return output


def recorder(graphs: bool | None, here: Processes) -> Callable[[], Recording] | None:
    """What makes the recordings of one run, in memory that they share; None for a run without CUDA graphs.

    Args:
        graphs: whether they are wanted; None for wherever they are possible.
        here: this process.

    Raises:
        ValueError: they are wanted where they are not possible.
    """
    possible = here.device.type == "cuda" and here.world == 1
    if graphs and not possible:
        what = f"{here.world} processes" if here.world > 1 else f"the device {str(here.device)!r}"
        raise ValueError(f"graphs must be None or False for {what}: CUDA graphs need a GPU and a single process")
    if not possible or graphs is False:
        return None
    pool = torch.cuda.graph_pool_handle()
    return lambda: CudaRecording(pool)
