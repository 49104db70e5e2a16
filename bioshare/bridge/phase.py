"""`Phase`: the protocol of everything that happens to a model's weights between steps of learning."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bioshare.checks import flag, shown, whole
from bioshare.circuit.prepare import check_progress
from bioshare.circuit.problem import Progress

_unseeded: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Number of phases without a seed of every model so far."""


def seed_for(model: nn.Module, seed: int | None) -> int:
    """Return the seed, or without one the number of earlier phases of the model without a seed.

    Raises:
        TypeError, ValueError: the seed is no non-negative integer.
    """
    if seed is not None:
        return whole("seed", seed, "a non-negative integer, or None", at_least=0)
    number = _unseeded.get(model, 0)
    _unseeded[model] = number + 1
    return number


def check_call(progress: Progress, measure: bool, optimizer: object, keep: object = None) -> None:
    """Raise TypeError or ValueError if options of a call are of the wrong kind."""
    check_progress(progress)
    flag("measure", measure)
    if not isinstance(optimizer, torch.optim.Optimizer | None):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer or None; got {shown(optimizer)}")
    if keep is not None:
        expected = "a layer's name and the number of an output channel, such as ('stages.0.0.conv1', 0)"
        if not isinstance(keep, tuple) or len(keep) != 2 or not isinstance(keep[0], str):
            raise TypeError(f"keep must be {expected}; got {shown(keep)}")
        whole("keep", keep[1], expected, at_least=0)


@dataclass(frozen=True)
class PhaseReport:
    """Report of a phase without measurements of single layers.

    Attributes:
        phase: the phase as text.
        seconds: wall-clock time of the change.
        layers: no rows.
    """

    phase: str
    seconds: float
    layers: tuple[()] = ()


class Phase(ABC):
    """A change of a model's weights in place while learning pauses; subclasses are frozen dataclasses.

    A new phase needs only `change`:

        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Halving(Phase):
        ...     def change(self, model, seed=0, *, optimizer=None):
        ...         with torch.no_grad():
        ...             for weight in model.parameters():
        ...                 weight.mul_(0.5)
        >>> report = Halving()(nn.Linear(2, 1))
        >>> report.phase
        'Halving()'

    A phase that is `capturable` splits `change` in two parts for CUDA graphs: `tensors` computes everything that
    depends on the seed, and `apply` changes the weights.
    """

    def __call__(
        self,
        model: nn.Module,
        seed: int | None = None,
        progress: bool = True,
        measure: bool = True,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        keep: tuple[str, int] | None = None,
    ) -> Any:
        """Check the model, change the weights in place and return a report.

        Args:
            model: the model to change.
            seed: any non-negative integer. Without a seed a model's calls have the seeds 0, 1, 2, ... in turn, so that
                no call repeats the one before. No checkpoint has this count: a run that may be resumed needs
                ``seed=step``.
            progress: show a bar for work that takes longer than two seconds.
            measure: measure the effect on every layer, if the phase can.
            optimizer: optimiser of the model's parameters.
            keep: name of a layer and number of an output channel, stored in the report, if the phase can.
        """
        check_call(progress, measure, optimizer, keep)
        self.check(model)
        seed = seed_for(model, seed)
        start = time.perf_counter()
        self.change(model, seed, optimizer=optimizer)
        return PhaseReport(repr(self), time.perf_counter() - start)

    @abstractmethod
    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Change the weights with the same bits as a call, without checks and report: for training loops."""

    def prepare(self, model: nn.Module) -> None:  # noqa: B027 (most phases need no state)
        """Give a model the buffers with the state of the phase, once, before the first step and any checkpoint."""

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most phases accept any model)
        """Raise TypeError or ValueError if the phase cannot change a model, before any work starts."""

    @property
    def capturable(self) -> bool:
        """True if a CUDA graph can replay `apply`."""
        return False

    def tensors(self, model: nn.Module, seed: int = 0) -> tuple[Tensor, ...]:
        """Compute all tensors that depend on the seed, on the device of the weights."""
        return ()

    def apply(
        self, model: nn.Module, tensors: tuple[Tensor, ...], *, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Change the weights by `tensors`, which a graph may overwrite between replays; never waits for a GPU."""
        self.change(model, optimizer=optimizer)
