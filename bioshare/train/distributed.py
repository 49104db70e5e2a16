"""The device of a run, and its processes where torchrun has started several.

Several processes train one network as a single process with the whole batch would.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bioshare.checks import shown

if TYPE_CHECKING:
    from bioshare.train.graph import CudaRecording

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of the environment in which torchrun names a process, the number of processes and their meeting point."""
DEVICES = 'device must be "auto", "cpu", "cuda" or a GPU such as "cuda:0"'


@dataclass(frozen=True)
class Processes:
    """This process among the processes of one run.

    Attributes:
        device: device of this process.
        rank: number of this process; 0 writes files and shows the bar.
        world: number of processes.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    def total(self, values: Tensor, reduction: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """The sum over all processes, the same in each process."""
        values = values.clone()
        if self.world > 1:
            dist.all_reduce(values, reduction)
        return values

    def largest(self, values: Tensor) -> Tensor:
        """The maximum over all processes, the same in each process."""
        return self.total(values, dist.ReduceOp.MAX)

    def finish(self) -> None:
        """Wait for the work of the current CUDA stream, so that the clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def stream(self) -> AbstractContextManager[Any]:
        """A block whose work goes to a new CUDA stream, since graphs can't be recorded in the default stream.

        The block does nothing on a CPU, nor with several processes: NCCL reads gradients in the default stream.
        """
        if self.device.type != "cuda" or self.world > 1:
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self.device))

    def recorder(self, graphs: bool | None) -> Callable[[], CudaRecording] | None:
        """A maker of the CUDA graphs of one run, in shared memory; None for a run without CUDA graphs.

        Args:
            graphs: True to demand graphs, False to do without, None for wherever graphs are possible.

        Raises:
            ValueError: graphs are demanded but not possible.
        """
        possible = self.device.type == "cuda" and self.world == 1
        if graphs and not possible:
            place = f"{self.world} processes" if self.world > 1 else f"the device {str(self.device)!r}"
            raise ValueError(f"graphs must be None or False for {place}: CUDA graphs need a GPU and a single process")
        if not possible or graphs is False:
            return None
        from bioshare.train.graph import CudaRecording  # not for a CPU

        return partial(CudaRecording, torch.cuda.graph_pool_handle())

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()

    def parallel(self, model: nn.Module) -> nn.Module:
        """A module with the outputs of ``model`` and gradients averaged over several processes; `synchronise` first.

        The gradient of a batch is exact if every process sums the losses of its images and scales the sum by `world`
        over the number of images in the whole batch.
        """
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, devices, forward_sync_buffers=False)  # buffers are equal anyway

    def synchronise(self, model: nn.Module) -> None:
        """Let every `torch.nn.BatchNorm2d` of a model see the batches of several processes, in place.

        Parameters, buffers and names stay. Layers become torch's `torch.nn.SyncBatchNorm` on a GPU, the only device
        of that class, and `SynchronousBatchNorm2d` elsewhere.
        """
        # not for a single process
        from bioshare.nn.past_norms import PassedNorm, join
        from bioshare.train.batch_norm import PASSED, SynchronousBatchNorm2d

        convert = SynchronousBatchNorm2d.of
        if self.device.type == "cuda":
            convert = nn.SyncBatchNorm.convert_sync_batchnorm
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                norm = convert(module)
                if isinstance(module, PassedNorm):
                    join(module.below[0], norm, PASSED[type(norm)])
                model.set_submodule(name, norm)


@contextmanager
def joined_processes(device: str | torch.device = "auto") -> Iterator[Processes]:
    """Join the processes of torchrun until the end of the block; without torchrun there is a single process.

    Args:
        device: "auto" is the GPU of this process if there is one, and the CPU otherwise.

    Raises:
        ValueError: there is no such device, or torchrun's variables in the environment are incomplete or no numbers.
    """
    rank, local_rank, world = _torchrun()
    chosen = _device(device, local_rank)
    if world == 1:
        yield Processes(chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Processes(chosen, rank, world)
    finally:
        time.sleep(0.2)  # gloo's threads need the interpreter to drop their last tensors, and its destructor holds it
        dist.destroy_process_group()


def _torchrun() -> tuple[int, int, int]:
    """Rank and local rank of this process, and the number of processes; (0, 0, 1) without torchrun.

    Raises:
        ValueError: some of the variables are missing, or no numbers.
    """
    given = {name: os.environ[name] for name in TORCHRUN if name in os.environ}
    if "RANK" not in given and "WORLD_SIZE" not in given:
        return 0, 0, 1
    remedy = f"Start the processes with torchrun, or unset {', '.join(given)} in the environment"
    missing = [name for name in TORCHRUN if name not in given]
    if missing:
        raise ValueError(f"the environment has {', '.join(given)} but not {', '.join(missing)}. {remedy}")
    try:
        rank, local_rank, world = (int(given[name]) for name in TORCHRUN[:3])
    except ValueError:
        rank, local_rank, world = -1, -1, 0
    if not (0 <= local_rank <= rank < world):
        numbers = ", ".join(f"{name}={given[name]}" for name in TORCHRUN[:3])
        raise ValueError(
            f"the environment must have numbers 0 <= LOCAL_RANK <= RANK < WORLD_SIZE; got {numbers}. {remedy}"
        )
    return rank, local_rank, world


def _device(device: str | torch.device, local_rank: int) -> torch.device:
    """The device of a process; a GPU without a number has the number of the local rank."""
    wanted = device_named(device)
    if wanted.type == "cpu":
        return wanted
    index = local_rank if wanted.index is None else wanted.index
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(
            f"{DEVICES}; got {str(device)!r}. PyTorch sees {count} GPUs here, and process {local_rank} wants one"
        )
    return torch.device("cuda", index)


def device_named(device: str | torch.device) -> torch.device:
    """The device of a name, which may be missing here; "auto" is a GPU if there is one, and the CPU otherwise.

    Raises:
        TypeError, ValueError: no CPU and no GPU has this name.
    """
    if not isinstance(device, str | torch.device):
        raise TypeError(f"{DEVICES}; got {shown(device)}")
    try:
        named = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError:
        named = None
    if named is None or named.type not in ("cpu", "cuda"):
        raise ValueError(f"{DEVICES}; got {str(device)!r}")
    return named


class Stopwatch:
    """Adds up the time that blocks of work take on a device.

    The host does not wait for a GPU: two events lie around each block in the current stream.
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
        """Seconds since the last reading; the device must have finished."""
        seconds = self.seconds + sum(begin.elapsed_time(end) for begin, end in self.events) / 1000
        self.seconds = 0.0
        self.events.clear()
        return seconds
