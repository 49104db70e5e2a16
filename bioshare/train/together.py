"""`fit_together`: several runs at once in one process, since one small network does not fill a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from bioshare.train.config import TrainConfig
from bioshare.train.data import Dataset, load
from bioshare.train.interrupt import Interrupted, TimeUpError, interruptible
from bioshare.train.loop import session
from bioshare.train.steps import Options, Session, Steps, finished, steps


def fit_together(runs: Sequence[tuple[TrainConfig, Path]], **options: Any) -> list[xr.Dataset | Exception]:
    """Train several networks at once: a step of each in turn, on a GPU each in a CUDA stream of its own.

    Every run has the files, and ends with the weights, that `fit` would give it: bit by bit on a CPU. Data sets are
    read once, and lie on the GPU once. The ``seconds`` of a run are those in which it was its turn, so that they add up
    to the time of all; its ``sleep_seconds`` on a GPU hold what the others did there meanwhile.

    Args:
        runs: what to train, and the folder of each.
        options: the keyword arguments of `bioshare.train.loop.fit`; ``seconds`` are those of all runs together.

    Returns:
        For every run its history, or the exception that ended it, which is no reason for the others to end.

    Raises:
        ValueError: an option makes no sense, two runs have the same folder, or torchrun started several processes.
        Interrupted: SIGTERM or Ctrl-C.
        TimeUpError: ``seconds`` are over. After both, every run that wasn't complete has a checkpoint with all until
            then, unless it has failed: the same call with ``resume`` goes on.
    """
    chosen = Options(**options)
    runs = [(config, Path(folder)) for config, folder in runs]
    _refuse_same([folder for _, folder in runs])
    results = [_result(config, folder, chosen.resume) for config, folder in runs]
    begun = [(index, *run) for index, run in enumerate(runs) if results[index] is None]
    if begun:
        with session(chosen) as shared:
            if shared.here.world > 1:
                raise ValueError(f"runs must be trained one by one in {shared.here.world} processes: use fit")
            for index, outcome in _train(begun, shared).items():
                results[index] = outcome
    return [result for result in results if result is not None]


@dataclass
class _Turn:
    """A run among others.

    Attributes:
        stream: the block that its work is done in.
        outcome: how it ended, None while it hasn't.
    """

    steps: Steps
    stream: AbstractContextManager
    outcome: xr.Dataset | BaseException | None = None

    def take(self) -> None:
        """Take the next step."""
        try:
            with self.stream:
                next(self.steps)
        except StopIteration as end:
            self.outcome = end.value
        except (Exception, Interrupted) as error:
            self.outcome = error


def _train(begun: Sequence[tuple[int, TrainConfig, Path]], shared: Session) -> dict[int, xr.Dataset | Exception]:
    """Take the steps of all runs in turn; their outcomes by their number."""
    with ExitStack() as stack:
        turns = dict(zip((index for index, *_ in begun), _turns(begun, shared), strict=True))
        for turn in turns.values():
            stack.enter_context(closing(turn.steps))
            turn.take()
        with interruptible(shared.caught):
            while waiting := [turn for turn in turns.values() if turn.outcome is None]:
                for turn in waiting:
                    turn.take()
    _raise_stop([turn.outcome for turn in turns.values()])
    return {index: turn.outcome for index, turn in turns.items()}  # pyright: ignore[reportReturnType]


def _turns(begun: Sequence[tuple[int, TrainConfig, Path]], shared: Session) -> list[_Turn]:
    """The runs, before their first step."""
    here, data = shared.here, shared.options.data
    names = {config.dataset for _, config, _ in begun}
    datasets = {name: _on(load(name, data), here.device) for name in names}
    here.finish()  # what other streams will read
    return [
        _Turn(steps(config, datasets[config.dataset], folder, shared, f"{folder.name}: ", line), here.stream())
        for line, (_, config, folder) in enumerate(begun)
    ]


def _on(dataset: Dataset, device: torch.device) -> Dataset:
    """A data set whose decoded images lie on a device."""
    parts = {name: getattr(dataset, name) for name in ("train_images", "train_labels", "test_images", "test_labels")}
    if not all(isinstance(part, Tensor) for part in parts.values()):
        return dataset
    return replace(dataset, **{name: part.to(device) for name, part in parts.items()})


def _result(config: TrainConfig, folder: Path, resume: bool) -> xr.Dataset | Exception | None:
    """What is known of a run before anything is trained."""
    try:
        return finished(config, folder, resume)
    except (ValueError, PermissionError) as error:
        return error


def _refuse_same(folders: Sequence[Path]) -> None:
    """Refuse two runs in one folder."""
    twice = [str(folder) for folder, count in Counter(map(Path.absolute, folders)).items() if count > 1]
    if twice:
        raise ValueError(f"runs must have folders of their own; got {twice[0]} more than once")


def _raise_stop(outcomes: Sequence[xr.Dataset | BaseException | None]) -> None:
    """Raise what has stopped all runs, if anything has; what had failed before is its cause."""
    stopped = [outcome for outcome in outcomes if isinstance(outcome, (Interrupted, TimeUpError))]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception) and outcome not in stopped]
    signals = [stop.signal for stop in stopped if isinstance(stop, Interrupted)]
    left = f"{len(stopped)} of {len(outcomes)} runs are not complete; their checkpoints have everything"
    if signals:
        raise Interrupted(f"stopped by signal {signals[0]}: {left}", signals[0]) from next(iter(failed), None)
    if stopped:
        raise TimeUpError(f"stopped when the time was up: {left}") from next(iter(failed), None)
