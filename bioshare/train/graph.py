"""CUDA graphs: all the kernels of a step, recorded once and launched as one.

A step of a small network has hundreds of kernels, each of which takes the host longer to launch than the GPU to
compute. A graph replays the kernels, not the Python: numbers of the host, such as the index of the batch, are frozen
in a recording, so all changing numbers must lie in tensors with a fixed place.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bioshare.bridge import Phase

WARM_UP = 3
"""Ordinary calls before a recording, in which PyTorch's libraries choose their kernels and get their memory."""


class CudaRecording:
    """Work on a device, recorded as a CUDA graph to be done again.

    The current stream must not be the default stream (`bioshare.train.distributed.Processes.stream`).

    Args:
        pool: memory of the graph. Graphs can share a pool if at most one runs at a time, and none reads memory of
            another.
    """

    def __init__(self, pool: Any) -> None:
        self.graph, self.pool = torch.cuda.CUDAGraph(), pool

    def capture(self, work: Callable[[], Any]) -> Any:
        """Record the operations of ``work`` without doing them; every replay fills the returned tensors."""
        # no garbage collection meanwhile: the end of an old graph would spoil the capture of a new
        enabled, stream = gc.isenabled(), torch.cuda.current_stream()
        gc.collect()
        gc.disable()
        try:
            # thread_local: the thread that pins a DataLoader's memory may go on meanwhile
            with torch.cuda.graph(self.graph, self.pool, stream, capture_error_mode="thread_local"):
                return work()
        finally:
            if enabled:
                gc.enable()

    def replay(self) -> None:
        """Do the recorded operations, on the current stream."""
        self.graph.replay()


class Replayed:
    """A function of tensors, recorded once for every shape of the arguments, and then replayed.

    The first `WARM_UP` calls of a shape are ordinary calls, and count. The next call is recorded, which does not
    execute the function, and replayed at once: no call is lost, and none happens twice.

    Args:
        work: a function of tensors. All further tensors in ``work`` must stay in place, the arguments must not outlive
            the call, and ``work`` must never wait for the device.
        record: makes an empty recording.
    """

    def __init__(self, work: Callable[..., Any], record: Callable[[], CudaRecording]) -> None:
        self.work, self.record = work, record
        self.calls: Counter[tuple[torch.Size, ...]] = Counter()
        self.recorded: dict[tuple[torch.Size, ...], tuple[CudaRecording, list[Tensor], Any]] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """The result of ``work``; a tensor is valid until the next call of any function in the same memory."""
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


def changing(
    phase: Phase,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    record: Callable[[], CudaRecording] | None = None,
) -> Callable[[int], None]:
    """A function of the seed that applies a phase to a model, without checks or a report.

    Args:
        phase, model, optimizer: as for ``phase.change``.
        record: makes CUDA graphs, from which ``capturable`` phases are replayed with the tensors of each seed.
    """
    if record is None or not phase.capturable:
        return lambda seed: phase.change(model, seed, optimizer=optimizer)
    replayed = Replayed(lambda *tensors: phase.apply(model, tensors, optimizer=optimizer), record)
    return lambda seed: replayed(*phase.tensors(model, seed))
