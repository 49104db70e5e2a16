"""`fit_together`: several runs at once in one process, since one small network does not fill a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from bioshare.train.config import TrainConfig
from bioshare.train.data import Dataset, load
from bioshare.train.interrupt import Interrupted, TimeUpError, interruptible
from bioshare.train.loop import session
from bioshare.train.steps import Options, Session, Steps, complete_or_trainable, steps

Outcome = xr.Dataset | Exception | Interrupted | None
"""How a run ended; None while it hasn't."""


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
            then, unless it has failed: the same call with ``resume`` goes on, and tries again what failed. Both have
            what is known by then as their ``outcomes``.
    """
    chosen = Options(**options)
    runs = [(config, Path(folder)) for config, folder in runs]
    _refuse_same([folder for _, folder in runs])
    outcomes: list[Outcome] = [_result(config, folder, chosen.resume) for config, folder in runs]
    labels = _labels([folder for _, folder in runs])
    begun = {index: (*runs[index], labels[index]) for index, outcome in enumerate(outcomes) if outcome is None}
    if begun:
        with session(chosen) as shared:
            if shared.here.world > 1:
                raise ValueError(f"runs must be trained one by one in {shared.here.world} processes: use fit")
            for index, outcome in zip(begun, _train([*begun.values()], shared), strict=True):
                outcomes[index] = outcome
    return _ended(outcomes)


@dataclass
class _Turn:
    """A run among others.

    Attributes:
        stream: the block that its work is done in.
        outcome: how it ended.
    """

    steps: Steps
    stream: AbstractContextManager
    outcome: Outcome = None

    def take(self) -> None:
        """Take the next step."""
        try:
            with self.stream:
                next(self.steps)
        except StopIteration as end:
            self.outcome = end.value
        except (Exception, Interrupted) as error:
            self.outcome = error


def _train(begun: Sequence[tuple[TrainConfig, Path, str]], shared: Session) -> list[Outcome]:
    """Take the steps of all runs in turn, until all have ended."""
    with ExitStack() as stack:
        turns = _turns(begun, shared)
        for turn in turns:
            stack.enter_context(closing(turn.steps))
            turn.take()
        with interruptible(shared.caught):
            while waiting := [turn for turn in turns if turn.outcome is None]:
                for turn in waiting:
                    turn.take()
    return [turn.outcome for turn in turns]


def _turns(begun: Sequence[tuple[TrainConfig, Path, str]], shared: Session) -> list[_Turn]:
    """The runs, each with the label of its bar, before their first step."""
    here, data = shared.here, shared.options.data
    names = {config.dataset for config, *_ in begun}
    datasets = {name: _on(load(name, data), here.device) for name in names}
    here.finish()  # what other streams will read
    return [
        _Turn(steps(config, datasets[config.dataset], folder, shared, label, line), here.stream())
        for line, (config, folder, label) in enumerate(begun)
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
        return complete_or_trainable(config, folder, resume)
    except (ValueError, PermissionError) as error:
        return error


def _refuse_same(folders: Sequence[Path]) -> None:
    """Refuse two runs in one folder."""
    twice = [str(folder) for folder, count in Counter(map(Path.absolute, folders)).items() if count > 1]
    if twice:
        raise ValueError(f"runs must have folders of their own; got {twice[0]} more than once")


def _labels(folders: Sequence[Path]) -> list[str]:
    """What tells the folders apart: all that comes after the parts that they have in common."""
    parts = [folder.absolute().parts for folder in folders]
    levels = zip(*(names[:-1] for names in parts), strict=False)
    shared = len([*takewhile(lambda names: len(set(names)) == 1, levels)])
    return [f"{'/'.join(names[shared:])}: " for names in parts]


def _ended(outcomes: Sequence[Outcome]) -> list[xr.Dataset | Exception]:
    """The outcomes, or what has stopped all runs raised with them; what had failed before is its cause."""
    stopped = [outcome for outcome in outcomes if isinstance(outcome, (Interrupted, TimeUpError))]
    ended = [outcome for outcome in outcomes if outcome is not None and not isinstance(outcome, Interrupted)]
    if not stopped:
        return ended
    failed = [outcome for outcome in ended if isinstance(outcome, Exception) and not isinstance(outcome, TimeUpError)]
    told = f"{len(stopped)} of {len(outcomes)} runs are not complete; their checkpoints have everything"
    told += f"; {len(failed)} failed" * bool(failed)
    signals = [stop.signal for stop in stopped if isinstance(stop, Interrupted)]
    if signals:
        error = Interrupted(f"stopped by signal {signals[0]}: {told}", signals[0])
    else:
        error = TimeUpError(f"stopped when the time was up: {told}")
    error.outcomes = [None if isinstance(outcome, (Interrupted, TimeUpError)) else outcome for outcome in outcomes]
    raise error from next(iter(failed), None)
