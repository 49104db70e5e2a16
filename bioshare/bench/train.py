"""A training step of a network on random images, in every form: ``python -m bioshare bench train``."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, NamedTuple

import torch

from bioshare.bench.bridge import warm_up_phase
from bioshare.bench.harness import BenchTable, add_common_options, free_memory, peak_bytes, turns
from bioshare.bench.networks import NETWORKS, NetworkForm, TrainingStep, add_network_options, bench_network
from bioshare.bridge import InstantSharing, Phase, Sleep
from bioshare.cli import positive
from bioshare.nn.forms import fused_available
from bioshare.train.graph import WARM_UP

TRAIN_COLUMNS = (
    "dtype 5 s | batch 5 d | network 50 s | ms / step 9 .3f | images / s 10 .0f | of conv 7 .2f | of naive 8 .3f | "
    "peak MB 7 .0f | peak of naive 13 .3f"
)

EVERY = 10
"""Steps from a simulated sleep to the next."""

PEAK_STEPS = 2
"""Steps in which a peak of memory is measured; gradients and the optimiser's moments exist in the second."""

BATCH_STEP = 512
"""The largest batch is searched among the multiples of this number."""


class StepSettings(NamedTuple):
    """Settings of all rows of a table; `side` is the size of images."""

    network: str
    side: int
    batch: int
    dtype: str
    device: str


class Variant(NamedTuple):
    """A row of the table: a network in some form, with a phase after every ``every`` steps or without."""

    name: str
    form: NetworkForm
    compiled: bool = False
    graph: bool = False
    phase: Phase | None = None
    every: int = 1

    def step(self, settings: StepSettings) -> TrainingStep:
        """The training step, without the phase."""
        network, side, batch, dtype, device = settings
        model = bench_network(network, self.form, device, side)
        return TrainingStep(model, (3, side, side), batch, dtype, self.form, self.compiled, self.graph)

    def change(self, step: TrainingStep) -> Callable[[], None]:
        """The change of weights by the phase, warm."""
        assert self.phase
        warm_up_phase(self.phase, step.run.model)
        change, seeds = step.change(self.phase), itertools.count()
        for _ in range(WARM_UP + 1):
            change(next(seeds))
        return lambda: change(next(seeds))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench train``."""
    add_network_options(parser)
    parser.add_argument("--batches", type=positive, nargs="+", help="(default: the paper's)")
    parser.add_argument("--pool", type=positive, default=1, help="sleeps in the pool (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    parser.add_argument("--largest", action="store_true", help="find the largest batch that fits on the GPU")
    parser.add_argument("--epochs", type=positive, help="project the hours of a training with so many epochs")
    parser.add_argument("--images", type=positive, help="images in an epoch (default: as in the data set)")
    parser.add_argument("--cards", type=positive, nargs="+", default=[1, 4, 8], help="(default: %(default)s)")
    add_common_options(parser, repeats=3, several_dtypes=True)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the times of all steps, and on demand the hours of a training and the largest batch."""
    paper, device = NETWORKS[arguments.network], torch.device(arguments.device)
    if arguments.largest and device.type != "cuda":
        raise ValueError(
            f"--largest needs --device cuda; got {device}, where a batch that is too large ends everything"
        )
    side, batches = arguments.image or paper.side, arguments.batches or [paper.batch]
    print(
        f"forward, backward and AdamW step of {paper.title} at {side} x {side} on {device}, {arguments.threads} "
        f"threads, medians of {arguments.repeats}.\nSharing is timed apart from the step, and its time spread over the "
        "steps between.\nPeaks are of two steps, beyond the weights: memory of tensors; with graphs reserved memory, "
        "which is more\n"
    )
    settings = [
        StepSettings(arguments.network, side, batch, dtype, arguments.device)
        for dtype in arguments.dtypes
        for batch in batches
    ]
    table, variants = BenchTable(TRAIN_COLUMNS), step_variants(device, arguments.pool, arguments.compile)
    for setting in settings:
        add_step_rows(table, variants, setting, arguments.repeats)
    if arguments.epochs:
        print_hours(table.records, arguments.epochs, arguments.images or paper.images, arguments.cards)
    largest = settings[:: len(batches)] if arguments.largest else []
    return table.records + [record for setting in largest for record in print_largest(variants, setting)]


def step_variants(device: torch.device, pool: int = 1, compiled: bool = False) -> list[Variant]:
    """All rows for a device; a phase changes the weights of the last row before without a phase."""
    variants = [Variant("conv", "conv"), Variant("LC, unfold + einsum", "naive"), Variant("LC, batched", "batched")]
    graph = device.type == "cuda"
    if graph:
        variants += [Variant("LC, fused", "fused")] * fused_available()
        variants += [Variant("conv, graph", "conv", graph=True), Variant("LC, graph", "auto", graph=True)]
    base = variants[-1]
    variants += [
        base._replace(name=f"{base.name}, {name}", phase=phase, every=every)
        for name, phase, every in (
            ("instant sharing every step", InstantSharing(), 1),
            (f"sleep from a pool every {EVERY} steps", Sleep.rate_circuit(pool=pool), EVERY),
            (f"new sleep every {EVERY} steps", Sleep.rate_circuit(), EVERY),
        )
    ]
    if compiled:
        variants += [Variant("conv, compiled", "conv", True, graph), Variant("LC, compiled", "auto", True, graph)]
    return variants


def add_step_rows(table: BenchTable, variants: Sequence[Variant], settings: StepSettings, repeats: int) -> None:
    """Measure all variants and add a row for each, without numbers if a variant does not fit into memory."""
    device = torch.device(settings.device)
    measured = dict(turns(dict(warm_works(variants, settings)), repeats, device))
    free_memory(device)
    seconds = seconds_per_step(variants, measured)
    peak_of = cache(lambda variant: variant_peak(variant, settings) if variant.name in seconds else None)
    conv, naive = variants[:2]
    for variant in variants:
        row = {"dtype": settings.dtype, "batch": settings.batch, "network": variant.name}
        if (total := seconds.get(variant.name)) is not None:
            row |= {"ms / step": 1e3 * total, "images / s": settings.batch / total}
            row |= {"of conv": total / seconds[conv.name]} if conv.name in seconds else {}
            row |= {"of naive": total / seconds[naive.name]} if naive.name in seconds else {}
        if (peak := peak_of(variant)) is not None:
            row["peak MB"] = peak / 1e6
            row["peak of naive"] = peak / naive_peak if (naive_peak := peak_of(naive)) else None
        table.add(row)


def warm_works(variants: Sequence[Variant], settings: StepSettings) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and warm work of every variant that fits into memory: a step, or a phase after the step before."""
    step = None
    for variant in variants:
        with suppress(torch.OutOfMemoryError):
            if variant.phase is None:
                step = None  # free the memory of a step that is not timed
                step = variant.step(settings)
                step.warm_up()
                yield variant.name, step
            elif step:
                yield variant.name, variant.change(step)


def seconds_per_step(variants: Sequence[Variant], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a step with a share of the phase, from the seconds of steps and of phases."""
    totals, base = dict[str, float](), 0.0
    for variant in variants:
        if variant.name not in seconds:
            continue
        if variant.phase is None:
            base = totals[variant.name] = seconds[variant.name]
        else:
            totals[variant.name] = base + seconds[variant.name] / variant.every
    return totals


def variant_peak(variant: Variant, settings: StepSettings) -> int | None:
    """Peak of memory beyond the weights; None if unknown, or if a network would have to be compiled again."""
    device = torch.device(settings.device)
    if variant.compiled:
        return None
    if not variant.graph:
        return peak_bytes(partial(first_steps, variant, settings), device)
    # The tensors of a graph cannot be counted, since the graph holds their memory: count reserved memory, after the
    # memory of the recording and of ordinary steps has been given back.
    step = variant.step(settings)
    free_memory(device)
    before = torch.cuda.memory_reserved(device)
    step.warm_up()
    work = first_steps(variant, settings, step)
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_reserved(device) - before


def first_steps(variant: Variant, settings: StepSettings, step: TrainingStep | None = None) -> Callable[[], None]:
    """Some steps of a variant, with the phase after each."""
    step = step or variant.step(settings)
    change = variant.change(step) if variant.phase else lambda: None

    def work() -> None:
        for _ in range(PEAK_STEPS):
            step()
            change()

    return work


def print_hours(records: Sequence[dict[str, Any]], epochs: int, images: int, cards: Sequence[int]) -> None:
    """Print the hours of a whole training for every row, and add the hours to the records."""
    print(
        f"\nhours for {epochs} epochs of {images} images: one card as in the table above, several as if the speed grew "
        "in proportion (not measured)\n"
    )
    hours = {f"{many} card{'s' * (many > 1)}": epochs * images / 3600 / many for many in cards}
    table = BenchTable(" | ".join(["dtype 5 s", "network 52 s", *(f"{head} 10 .3f" for head in hours)]))
    for record in records:
        if speed := record.get("images / s"):
            record |= {head: total / speed for head, total in hours.items()}
        table.add(record)


def print_largest(variants: Sequence[Variant], settings: StepSettings) -> list[dict[str, Any]]:
    """Print the largest batch of every eager network without a phase."""
    records, device = [], torch.device(settings.device)
    print(f"\nlargest batch that can be trained, in steps of {BATCH_STEP}\n")
    for variant in variants:
        if not (variant.graph or variant.compiled or variant.phase):
            batch = largest_batch(lambda batch, new=variant: new.step(settings._replace(batch=batch))(), device)
            print(f"{settings.dtype:7s}{variant.name:52s}{batch:8d}", flush=True)
            records.append({"dtype": settings.dtype, "network": variant.name, "largest_batch": batch})
    return records


def largest_batch(step: Callable[[int], Any], device: torch.device) -> int:
    """The largest multiple of `BATCH_STEP` for which a step does not fail, by doubling and halving; or 0.

    A step fails for lack of memory, or if the batch exceeds the indices of a library.
    """
    fits, fails = 0, 0
    while not fails or fails - fits > BATCH_STEP:
        batch = (fits + fails) // (2 * BATCH_STEP) * BATCH_STEP if fails else max(BATCH_STEP, 2 * fits)
        try:
            step(batch)
            fits = batch
        except RuntimeError:
            fails = batch
        free_memory(device)
    return fits
