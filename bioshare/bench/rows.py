"""The rows of ``bench train``: which network learns in which form, and what happens between its steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from bioshare.bench.bridge import warm_up
from bioshare.bench.networks import Form, TrainingStep, network
from bioshare.bench.timing import free, peak_bytes
from bioshare.bridge import InstantSharing, Sleep
from bioshare.nn.forms import fused_available
from bioshare.train.graph import WARM_UP

EVERY = 10
"""Steps between two simulated sleeps."""

SHARINGS = {
    "instant": "instant sharing every step",
    "pool": f"sleep from a pool every {EVERY} steps",
    "new": f"new sleep every {EVERY} steps",
}
"""What happens between steps, and how a row says it."""

PEAK_STEPS = 2
"""For the peak of memory: gradients and the optimiser's moments are there in the second."""


class Setting(NamedTuple):
    """What all rows of a table have in common; `side` is that of the images, `pool` the sleeps kept."""

    network: str
    side: int
    batch: int
    dtype: str
    device: str
    pool: int


class Row(NamedTuple):
    """A network in training.

    Attributes:
        graph: replay the step as a CUDA graph.
        sharing: "instant", "pool" or "new", for sleeps from a pool or simulated anew.
    """

    name: str
    form: Form
    compiled: bool = False
    graph: bool = False
    sharing: str | None = None

    @property
    def every(self) -> int:
        """Steps between two sharings."""
        return 1 if self.sharing == "instant" else EVERY

    def step(self, setting: Setting) -> TrainingStep:
        """Its training step, without sharing."""
        model = network(setting.network, self.form, setting.device, setting.side)
        image = 3, setting.side, setting.side
        return TrainingStep(model, image, setting.batch, setting.dtype, self.form, self.compiled, self.graph)

    def share(self, step: TrainingStep, pool: int) -> Callable[[], None]:
        """What shares the weights between two steps, warm."""
        assert self.sharing
        share, seeds = sharings(pool)[self.sharing], itertools.count()
        if self.sharing == "pool":
            warm_up(share, step.run.model)
        change = step.sharing(share)
        for _ in range(WARM_UP + 1):
            change(next(seeds))
        return lambda: change(next(seeds))


def sharings(pool: int) -> dict[str, InstantSharing | Sleep]:
    """The ways to share, with that many sleeps in the pool."""
    return {"instant": InstantSharing(), "pool": Sleep.rate_circuit(pool=pool), "new": Sleep.rate_circuit()}


def rows(device: torch.device, compiled: bool = False) -> list[Row]:
    """All rows for a device; those with sharing share the weights of the row before them, which has none."""
    lines = [Row("conv", "conv"), Row("LC, unfold + einsum", "naive"), Row("LC, batched", "batched")]
    if device.type == "cuda":
        lines += [Row("LC, fused", "fused")] * fused_available()
        lines += [Row("conv, graph", "conv", graph=True), Row("LC, graph", "auto", graph=True)]
    base, told = lines[-1], SHARINGS.items()
    lines += [base._replace(name=f"{base.name}, {does}", sharing=kind) for kind, does in told]
    if compiled:
        graph = device.type == "cuda"
        lines += [Row("conv, compiled", "conv", True, graph), Row("LC, compiled", "auto", True, graph)]
    return lines


def works(lines: Sequence[Row], setting: Setting) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is to be timed for each row, warm, by the row's name: its step, or a sharing of the row before.

    Rows for which the memory is too small are left out.
    """
    step = None
    for row in lines:
        with suppress(torch.OutOfMemoryError):
            if row.sharing is None:
                step = None  # frees what the next may need, unless it is timed
                step = row.step(setting)
                step.warm_up()
                yield row.name, step
            elif step:
                yield row.name, row.share(step, setting.pool)


def per_step(lines: Sequence[Row], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a step by the row's name, that of the sharing included: from those of steps and of sharings."""
    totals, base = dict[str, float](), None
    for row in lines:
        base = seconds.get(row.name) if row.sharing is None else base
        if row.name in seconds and base is not None:
            totals[row.name] = base + (seconds[row.name] / row.every if row.sharing else 0.0)
    return totals


def peak_of(row: Row, setting: Setting) -> int | None:
    """The most memory that a row takes beyond the weights; None where nobody says, or it would be compiled again."""
    if row.compiled:
        return None
    return reserved_bytes(row, setting) if row.graph else peak_bytes(peak_work, row, setting, setting.device)


def reserved_bytes(row: Row, setting: Setting) -> int:
    """What a GPU has reserved for a row beyond the weights while it replays its graph.

    No tensor of a graph can be counted: their memory is the graph's as long as it lives. What its recording and the
    ordinary steps before needed, and nobody holds, is given back before.
    """
    device, step = torch.device(setting.device), row.step(setting)
    free(device)
    before = torch.cuda.memory_reserved(device)
    step.warm_up()
    work = _two_steps(row, setting, step)
    free(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_reserved(device) - before


def peak_work(row: Row, setting: Setting, _: str) -> Callable[[], None]:
    """Two eager steps of a row, the first ones."""
    return _two_steps(row, setting, row.step(setting))


def _two_steps(row: Row, setting: Setting, step: TrainingStep) -> Callable[[], None]:
    """Two steps of a row, with a sharing after each if it has one, which is warm."""
    share = row.share(step, setting.pool) if row.sharing else None

    def work() -> None:
        for _ in range(PEAK_STEPS):
            step()
            if share:
                share()

    return work
