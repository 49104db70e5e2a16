"""One sleep of a whole network in every form, against a training step: ``python -m bioshare bench bridge``.

What a sleep costs is timed on a network in training; what it does to the weights is measured once, outside of that,
on a network that was never trained.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from bioshare.bench.networks import TrainingStep
from bioshare.bench.options import add_dtype, add_machine_options
from bioshare.bench.timing import available_bytes, timed, turns
from bioshare.bridge import HebbianSharing, InstantSharing, Sleep, SleepReport
from bioshare.bridge.lattice import inputs_of
from bioshare.circuit.stimuli import gaussian, grid, noise
from bioshare.cli import positive
from bioshare.nn import LocallyConnected2d, resnet18, resnet20, to_locally_connected

NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "resnet20": ("ResNet-20", resnet20),
    "resnet18": ("0.5x ResNet-18", resnet18),
}

TIMES = 5
"""Presentations for every input of a neuron."""

EVERY = 10
"""Training steps between two sleeps, for the column that says how much slower training gets."""

NOISE = 0.01
"""Standard deviation of what every neuron adds to the grid."""

SEED = 0
"""Of the weights, and of the sleep whose effect is measured."""

Share = InstantSharing | HebbianSharing | Sleep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench bridge``."""
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS], help="(default: both)")
    numbers = {
        "--batch": (512, "of ResNet-20"),
        "--batch18": (32, "of ResNet-18"),
        "--image18": (224, "rows and columns of ResNet-18's images; at 224, training it takes 10 GB"),
        "--pool": (4, "sleeps in ResNet-20's pool"),
        "--pool18": (1, "sleeps in ResNet-18's pool, each of which takes as long as a sleep with fresh maps"),
        "--repeats18": (1, "for ResNet-18"),
    }
    for option, (default, meaning) in numbers.items():
        parser.add_argument(option, type=positive, default=default, help=f"{meaning} (default: %(default)s)")
    parser.add_argument(
        "--relayed", action="store_true", help="also a sleep with relayed patterns: a map for each layer"
    )
    parser.add_argument(
        "--noise", action="store_true", help="also a sleep with noise, of every single neuron: very slow, timed once"
    )
    add_dtype(parser)
    add_machine_options(parser, repeats=3)


@dataclass(frozen=True)
class Case:
    """One network, and how it is timed.

    Attributes:
        title: what it is called.
        build: makes it, with convolutions.
        image: (channels, rows, columns).
        batch, repeats, pool, dtype: as the options of the command.
        device: where it lies.
    """

    title: str
    build: Callable[[], nn.Module]
    image: tuple[int, int, int]
    batch: int
    repeats: int
    pool: int
    dtype: str
    device: torch.device

    @classmethod
    def of(cls, name: str, arguments: argparse.Namespace) -> Case:
        """The case of one of the `NETWORKS`."""
        given, large = vars(arguments), "18" if name == "resnet18" else ""
        size = arguments.image18 if large else 32
        batch, repeats, pool = (given[option + large] for option in ("batch", "repeats", "pool"))
        image, where = (3, size, size), torch.device(arguments.device)
        return cls(*NETWORKS[name], image, batch, repeats, pool, arguments.dtype, where)

    def network(self) -> nn.Module:
        """The locally connected network, with the same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)
            return to_locally_connected(self.build(), self.image).to(self.device)

    def convolutional(self) -> nn.Module:
        """The network as it was."""
        return self.build().to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def weights(self) -> int:
        """How many the locally connected network has; takes no memory."""
        with torch.device("meta"):
            return sum(weight.numel() for weight in to_locally_connected(self.build(), self.image).parameters())


class Costs(NamedTuple):
    """What a sleep cost: seconds, maps simulated in it and seconds for them, bytes of the pool."""

    seconds: float
    maps: int
    map_seconds: float
    pool_bytes: int


class Effect(NamedTuple):
    """What a sleep did, medians over layers: ratios of spread and |mean|, and -log SNR."""

    spread: float
    mean_norm: float
    before: float
    after: float


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print a table for every network."""
    torch.set_num_threads(arguments.threads)
    cases = [Case.of(name, arguments) for name in arguments.networks]
    for case in cases:
        refuse_memory(case)
    print(
        f"{arguments.dtype} on {arguments.device}, {arguments.threads} threads; every sleep has {TIMES} presentations "
        f"per input and a seed of its own.\nslower: by so much if training sleeps every {EVERY} steps; maps: simulated "
        "in a sleep, with their share of its time; medians over layers,\nbefore -> after one sleep: spread within the "
        "groups and |mean| as ratios, -log SNR"
    )
    slow = noisy() if arguments.noise else {}
    return [row for case in cases for row in print_table(case, sharings(case.pool, arguments.relayed), slow)]


def print_table(case: Case, shares: dict[str, Share], slow: dict[str, Share]) -> list[dict[str, Any]]:
    """Print every row as soon as it is measured, and return them all."""
    print(
        f"\nLC {case.title} at {case.image[1]} x {case.image[2]}, {case.weights() / 1e6:.1f} million weights, batch "
        f"{case.batch}; medians of rounds in which the rows take turns: {case.repeats}\n"
    )
    heads = ("seconds", 10), ("steps", 9), ("slower %", 10), ("maps", 6), ("% of time", 11), ("pool MB", 9)
    heads += ("spread", 9), ("|mean|", 9), ("-log SNR", 17)
    print(f"{'':44s}" + "".join(f"{head:>{width}s}" for head, width in heads), flush=True)
    step, records = None, []
    for name, costs, effect in rows(case, shares, slow):
        step = step or costs.seconds
        print(f"{name:44s}" + _costs(costs, step, bool(effect)) + (_effect(effect) if effect else ""), flush=True)
        told = effect._asdict() if effect else {}
        records.append({"network": case.title, "batch": case.batch, "name": name, **costs._asdict(), **told})
    return records


def rows(case: Case, shares: dict[str, Share], slow: dict[str, Share]) -> Iterator[tuple[str, Costs, Effect | None]]:
    """Time everything on one network in training, whose step comes first; the slow ones once, on a fresh one."""
    model, seeds = case.network(), itertools.count(SEED + 1)
    works: dict[str, Callable[[], object]] = {
        "training step": TrainingStep(model, case.image, case.batch, case.dtype),
        "training step, convolutional": TrainingStep(case.convolutional(), case.image, case.batch, case.dtype),
    }
    for step in works.values():
        step()  # the optimiser's moments come into being
    told: dict[str, list[SleepReport]] = {name: [] for name in shares}
    for name, share in shares.items():
        warm_up(share, model)
        works[name] = lambda share=share, name=name: told[name].append(_night(share, model, next(seeds)))
    for name, seconds in turns(works, case.repeats, case.device):
        if name in shares:
            yield name, _costs_of(seconds, told[name]), effect_of(_night(shares[name], case.network(), SEED, True))
        else:
            yield name, Costs(seconds, 0, 0.0, 0), None
    for name, share in slow.items():
        seconds, report = timed(partial(_night, share, case.network(), SEED, True))
        yield name, _costs_of(seconds, [report]), effect_of(report)


def sharings(pool: int, relayed: bool = False) -> dict[str, Share]:
    """What is timed, by its name in the table."""
    circuit = partial(Sleep.rate_circuit, times=TIMES)
    shares: dict[str, Share] = {
        "direct averaging": InstantSharing(),
        "batched Hebbian updates": HebbianSharing(),
        "ideal sleep": Sleep.steady_state(times=TIMES),
        "rate circuit, alpha = 10": circuit(10.0),
        "rate circuit, alpha = 10, Gaussian": circuit(10.0, stimulus=gaussian()),
        "rate circuit, alpha = 50": circuit(50.0),
        f"rate circuit, alpha = 10, from a pool of {pool}": circuit(10.0, pool=pool),
    }
    if relayed:
        shares["rate circuit, alpha = 10, relayed"] = circuit(10.0, stimulus=gaussian(), patterns="relayed")
    return shares


def noisy() -> dict[str, Share]:
    """What takes too long to be timed more than once."""
    stimulus = noise(grid(shuffle=True), NOISE)
    return {f"ideal sleep, noise of {NOISE}, once": Sleep.steady_state(times=TIMES, stimulus=stimulus)}


def warm_up(share: Share, model: nn.Module) -> None:
    """Let libraries load what they need at their first call, and simulate the maps of a pool.

    Layers with one module of two neurons do for that: a map depends on nothing but the number of inputs.
    """
    pool = share.pool if isinstance(share, Sleep) else None
    layers = [layer for layer in model.modules() if isinstance(layer, LocallyConnected2d)]
    inputs = sorted({inputs_of(layer) for layer in layers}) if pool else [9]
    small = nn.ModuleList(LocallyConnected2d(many, 1, 1, input_size=(1, 2)) for many in inputs).to(layers[0].weight)
    for seed in itertools.count():
        if _night(share, small, seed).pool_maps >= len(inputs) * (pool or 0):
            return


def effect_of(report: SleepReport) -> Effect:
    """The medians over the layers that took part."""
    layers = [layer for layer in report.layers if layer.modules]
    fields = "spread", "mean_norm", "neg_log_snr_before", "neg_log_snr_after"
    return Effect(*(statistics.median(getattr(layer, field) for layer in layers) for field in fields))


def refuse_memory(case: Case) -> None:
    """Refuse a network that does not fit, before any time is spent on it.

    Raises:
        MemoryError: it doesn't.
    """
    needed, there = 4 * 5 * case.weights(), available_bytes(case.device)
    if there is not None and needed > there:
        raise MemoryError(
            f"LC {case.title} at {case.image[1]} x {case.image[2]} needs {needed / 1e9:.1f} GB on {case.device} for "
            "weights, gradients, two moments and a second network, and more for activations; "
            f"there are {there / 1e9:.1f} GB. Take another of --networks, or a smaller --image18"
        )


def _night(share: Share, model: nn.Module, seed: int, measure: bool = False) -> SleepReport:
    return share(model, seed, progress=False, measure=measure)


def _costs_of(seconds: float, reports: Sequence[SleepReport]) -> Costs:
    last = reports[-1]
    return Costs(seconds, last.maps, statistics.median(report.map_seconds for report in reports), last.pool_bytes)


def _costs(costs: Costs, step: float, sleep: bool) -> str:
    """Columns of what it cost; a training step has only the first ones."""
    columns = f"{costs.seconds:10.3f}{costs.seconds / step:9.3f}"
    if not sleep:
        return columns
    share = f"{100 * costs.map_seconds / costs.seconds:.0f}" if costs.map_seconds else "-"
    pool = f"{costs.pool_bytes / 1e6:.1f}" if costs.pool_bytes else "-"
    return columns + f"{100 * costs.seconds / (EVERY * step):10.2f}{costs.maps:6d}{share:>11s}{pool:>9s}"


def _effect(effect: Effect) -> str:
    """Columns of what it did."""
    arrow = f"{effect.before:.2f} -> {effect.after:.2f}"
    return f"{effect.spread:9.4f}{effect.mean_norm:9.4f}{arrow:>17s}"
