"""From a network to its sharing groups and back: `Sleep` and `InstantSharing` change a model's weights in place.

The lateral connections of a k x k layer tie every k-th position in each direction. Positions with the same
(row mod kh, column mod kw) are a *module*; each output channel of a module is one sharing group of N neurons with
K = in / groups * kh * kw weights and its own inhibitory neuron. The sleeping input repeats with the period (kh, kw),
so that all neurons of a module see the same patch, and other modules see it cyclically shifted (Sec. 4.1).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bioshare.circuit import theory
from bioshare.circuit.checks import whole
from bioshare.circuit.circuits import Circuit, RateCircuit, SteadyState
from bioshare.circuit.exact import Exact, sleep_map
from bioshare.circuit.problem import Engine, prepare
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.simulate import ENGINES, find_engine, simulate
from bioshare.circuit.stimuli import Stimulus, generators
from bioshare.nn import LocallyConnected2d
from bioshare.nn.functional import physical

Border = Literal["share", "keep"]
Change = Callable[["SharingModule", Tensor], Tensor]


@dataclass(frozen=True)
class LayerReport:
    """What a sleep did to one layer.

    Attributes:
        name: of the layer in the model.
        modules: how many of its modules took part.
        neg_log_snr_before, neg_log_snr_after: log mean_j(var_j / mean_j^2), median over groups.
        mean_norm: norm of a group's mean weight vector after sleep over that before, median over groups.
        mean_cosine: cosine between the two, median over groups.
        seconds: wall-clock time.
    """

    name: str
    modules: int
    neg_log_snr_before: float
    neg_log_snr_after: float
    mean_norm: float
    mean_cosine: float
    seconds: float


@dataclass(frozen=True, repr=False)
class SleepReport:
    """What a sleep did to a model, a layer a row; prints as a table. NaN where no module took part."""

    layers: tuple[LayerReport, ...]

    def __repr__(self) -> str:
        heads = "layer", "modules", "-log SNR before", "after", "|mean| ratio", "mean cosine", "seconds"
        digits = (".2f", ".2f", ".4f", ".4f", ".3f")
        rows = [
            (name or "(model)", f"{count}", *map(format, numbers, digits))
            for name, count, *numbers in map(astuple, self.layers)
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (heads, *rows)]
        return "\n".join([*lines, "(medians over groups)"])


@dataclass(frozen=True)
class InstantSharing:
    """Set every sharing group to its mean: the limit of an ideal sleep, in place.

    Args:
        border: "share": positions whose patch reaches into the padding take part; "keep": they keep their weights.

    Example:
        >>> layer = LocallyConnected2d(1, 2, 3, input_size=8)
        >>> report = InstantSharing()(layer)
        >>> torch.allclose(layer.weight[0, 0], layer.weight[3, 3])
        True
    """

    border: Border = "share"

    def __post_init__(self) -> None:
        _refuse_border(self.border)

    def __call__(self, model: nn.Module, seed: int = 0, measure: bool = True) -> SleepReport:
        """Share the weights of every locally connected layer; ``seed`` is only there to be called like a `Sleep`."""
        mean = lambda _, groups: groups.mean(1, keepdim=True).expand_as(groups)
        return _apply(model, self.border, lambda layer, index: mean, measure)


@dataclass(frozen=True)
class Sleep:
    """Let every locally connected layer of a model sleep, in place: the full lateral circuit of every group.

    The pattern has one period (kh, kw) per input channel and is drawn anew for every layer and call. All groups
    of a grouped layer see the same pattern of in / groups channels. Without noise, the exact engine simulates a
    layer once, as one linear map of K weights, whatever its size; otherwise every neuron is simulated, and the
    output channels of one position see the same noise.

    Args:
        circuit: `SteadyState` or `RateCircuit`.
        rule: `Hebbian`.
        stimulus: the pattern's stream, such as ``stimuli.grid()`` or ``stimuli.gaussian()``.
        presentations: P, for every layer; or a callable that takes K to P, such as ``lambda inputs: 10 * inputs``
            for ten cycles of the grid stimulus.
        border: "share": positions whose patch reaches into the padding take part, as if the pattern continued
            there; "keep": they keep their weights.
        engine: as in `bioshare.simulate`.
    """

    circuit: Circuit
    rule: Hebbian
    stimulus: Stimulus
    presentations: int | Callable[[int], int]
    border: Border = "share"
    engine: str | Engine = "exact"

    def __post_init__(self) -> None:
        expected = {"circuit": (RateCircuit, SteadyState), "rule": (Hebbian,), "stimulus": (Stimulus,)}
        for name, kinds in expected.items():
            if not isinstance(getattr(self, name), kinds):
                told = " or a ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"{name} must be a {told}; got {getattr(self, name)!r}")
        if not callable(self.presentations):
            whole("presentations", self.presentations, "a number of presentations or a callable", at_least=1)
        for name, value in (self.circuit.fields() | self.rule.fields()).items():
            if np.ndim(value) and not callable(value):
                raise ValueError(f"{name} must be one number for all groups of a model; got shape {np.shape(value)}")
        if isinstance(self.engine, str) and self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}; got {self.engine!r}")
        _refuse_border(self.border)

    def __call__(self, model: nn.Module, seed: int = 0, progress: bool = True, measure: bool = True) -> SleepReport:
        """Put ``model`` to sleep. Modules with a single neuron are left alone.

        Args:
            model: its `LocallyConnected2d` layers sleep one after the other, in the order of ``model.modules()``.
            seed: any non-negative integer; layers draw independent stimuli from it.
            progress: show a bar for a layer that takes longer than two seconds.
            measure: whether to spend time on SNR and drift; the report has NaN for them without.

        Returns:
            What happened, a layer a row.

        Raises:
            ValueError: a layer's dilation shares a factor with its kernel size, so that its patches do not see
                all of the pattern; a learning rate is above a layer's stability limit; or the model has no
                locally connected layer. No weight was changed.
            DivergenceError: the sleep diverges; layers and modules before the one that does have slept.
        """
        whole("seed", seed, "a non-negative integer", at_least=0)
        engine, layers = find_engine(self.engine), _layers(model)
        children = np.random.SeedSequence(seed).spawn(len(layers))
        seeds = [int(child.generate_state(1, np.uint64)[0]) for child in children]
        for (name, layer), its_seed in zip(layers, seeds, strict=True):
            self._check(name, layer, its_seed)
        change = lambda layer, index: self._change(layer, seeds[index], engine, progress)
        return _apply(model, self.border, change, measure)

    def _length(self, inputs: int) -> int:
        """How many presentations a layer with K weights per neuron sees."""
        length = self.presentations(inputs) if callable(self.presentations) else self.presentations
        return whole("presentations", length, "a number of presentations", at_least=1)

    def _check(self, name: str, layer: LocallyConnected2d, seed: int) -> None:
        """Refuse a layer that cannot sleep before any has slept."""
        _refuse_dilation(name, layer)
        pair = np.zeros((2, layer.weight[0, 0, 0].numel()))
        length = self._length(pair.shape[1])
        try:
            prepare(pair, self.stimulus, self.circuit, self.rule, presentations=length, seed=seed)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {name!r}: {error}") from error

    def _change(self, layer: LocallyConnected2d, seed: int, engine: Engine, progress: bool) -> Change:
        """One layer's sleep as a function of its groups."""
        inputs = layer.weight[0, 0, 0].numel()
        patterns = self.stimulus.draw(self._length(inputs), inputs, seed=seed)
        if isinstance(engine, Exact) and not self.stimulus.noise:
            if self.engine == "exact":
                engine = Exact(device=str(layer.weight.device))
            return self._mapped(patterns, layer.weight, engine, progress)
        return self._simulated(patterns, generators(seed)[1], engine, progress)

    def _mapped(self, patterns: np.ndarray, weight: Tensor, engine: Exact, progress: bool) -> Change:
        """The sleep of any number of groups as one linear map, in the coordinates of the pattern."""
        maps = sleep_map(patterns, self.circuit, self.rule, engine=engine, progress=progress)
        A, B, c = (torch.as_tensor(matrix).to(weight) for matrix in maps)

        def change(module: SharingModule, groups: Tensor) -> Tensor:
            groups = groups[..., module.seen.argsort()]
            mean = groups.mean(1, keepdim=True)
            return (mean @ B.mT + c + (groups - mean) @ A.mT)[..., module.seen]

        return change

    def _simulated(self, patterns: np.ndarray, rng: np.random.Generator, engine: Engine, progress: bool) -> Change:
        """The sleep of every single neuron."""

        def change(module: SharingModule, groups: Tensor) -> Tensor:
            stimuli = patterns[:, module.seen.numpy()]
            if self.stimulus.noise:
                private = rng.normal(0, self.stimulus.noise, (len(stimuli), *groups.shape[1:]))
                stimuli = (stimuli[:, None] + private)[None]
            weights = groups.double().cpu().numpy()
            every = len(patterns)
            run = simulate(weights, stimuli, self.circuit, self.rule, engine, record_every=every, progress=progress)
            if run.interrupted:  # a sleep cut short must not pass for a whole one
                raise KeyboardInterrupt
            return torch.from_numpy(run.weights).to(groups)

        return change


def neg_log_snr(model: nn.Module, border: Border = "share") -> dict[str, float]:
    """-log SNR of every locally connected layer by name, the median over its sharing groups (as Fig. 6)."""
    measured = {}
    for name, layer in _layers(model):
        groups = [module.groups(layer.weight.detach()).double().cpu().numpy() for module in modules(layer, border)]
        values = [theory.neg_log_snr(weights) for weights in groups]
        measured[name] = float(np.median(np.concatenate(values))) if values else math.nan
    return measured


@dataclass(frozen=True)
class SharingModule:
    """The positions of a layer that lateral connections tie together.

    Attributes:
        rows, columns: its positions.
        seen: which input of the pattern every tap of a neuron sees, (K,) indices into in / groups x kh x kw.
    """

    rows: slice
    columns: slice
    seen: Tensor

    def groups(self, weight: Tensor) -> Tensor:
        """Its sharing groups from a layer's weight: (out, N, K), the taps in their order in memory."""
        return physical(weight)[self.rows, self.columns].flatten(0, 1).flatten(2).transpose(0, 1)

    def write(self, weight: Tensor, groups: Tensor) -> None:
        """Put its sharing groups (out, N, K) back into a layer's weight."""
        target = physical(weight)[self.rows, self.columns]
        target.copy_(groups.transpose(0, 1).reshape(target.shape))


def modules(layer: LocallyConnected2d, border: Border = "share") -> Iterator[SharingModule]:
    """The modules of a layer that hold at least two neurons; with border "keep", of those inside the border."""
    kh, kw = layer.kernel_size
    taps = torch.arange(layer.weight[0, 0, 0].numel()).view(-1, kh, kw)
    rows, columns = (_lattices(layer, axis, border) for axis in (0, 1))
    for row, row_phase in rows:
        for column, column_phase in columns:
            height, width = (len(range(size)[s]) for size, s in zip(layer.output_size, (row, column), strict=True))
            if height * width > 1:
                seen = taps[:, row_phase][:, :, column_phase]
                yield SharingModule(row, column, seen.permute(2, 1, 0).flatten())  # in the order of `physical`


def _lattices(layer: LocallyConnected2d, axis: int, border: Border) -> list[tuple[slice, list[int]]]:
    """Along one axis: every k-th position, and the phase of the pattern that each of its taps sees."""
    names = "output_size", "input_size", "kernel_size", "stride", "dilation"
    outputs, size, kernel, stride, dilation = (getattr(layer, name)[axis] for name in names)
    padding = (layer.pad[2], layer.pad[0])[axis]  # at the top and on the left
    first, stop = 0, outputs
    if border == "keep":
        first, stop = -(-padding // stride), (size - 1 - (kernel - 1) * dilation + padding) // stride + 1
    phases = lambda start: [(start * stride - padding + i * dilation) % kernel for i in range(kernel)]
    return [(slice(start, max(start, stop), kernel), phases(start)) for start in range(first, first + kernel)]


def _layers(model: nn.Module) -> list[tuple[str, LocallyConnected2d]]:
    """The locally connected layers by name, all of them fit to be shared."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LocallyConnected2d)]
    if not found:
        raise ValueError("model must have a LocallyConnected2d layer; bioshare.nn.to_locally_connected makes one")
    for name, layer in found:
        if not all(end.isfinite() for end in physical(layer.weight).aminmax()):
            raise ValueError(f"layer {name!r} must have finite weights; one NaN would reach its whole sharing group")
    return found


@torch.no_grad()
def _apply(
    model: nn.Module, border: Border, sleep: Callable[[LocallyConnected2d, int], Change], measure: bool
) -> SleepReport:
    """Change the groups of every layer and report; ``sleep`` makes a layer's change from the layer and its index."""
    reports = []
    for index, (name, layer) in enumerate(_layers(model)):
        start, measured = time.perf_counter(), []
        change = sleep(layer, index)
        for module in modules(layer, border):
            before = module.groups(layer.weight)
            after = change(module, before)
            measured.append(_measure(before, after) if measure else np.full((4, 1), math.nan))
            module.write(layer.weight, after)
        medians = np.median(np.concatenate(measured, 1), 1) if measured else np.full(4, math.nan)
        reports.append(LayerReport(name, len(measured), *medians.tolist(), seconds=time.perf_counter() - start))
    return SleepReport(tuple(reports))


def _measure(before: Tensor, after: Tensor) -> np.ndarray:
    """-log SNR before and after, ratio of the norms of the means and their cosine, (4, groups)."""
    pair = [groups.double().cpu().numpy() for groups in (before, after)]
    old, new = (weights.mean(1) for weights in pair)
    old_norm, new_norm = np.linalg.norm(old, axis=-1), np.linalg.norm(new, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a mean of 0 has no direction
        drift = new_norm / old_norm, (old * new).sum(-1) / (old_norm * new_norm)
    return np.stack([*map(theory.neg_log_snr, pair), *drift])


def _refuse_border(border: str) -> None:
    if border not in ("share", "keep"):
        raise ValueError(f'border must be "share" or "keep"; got {border!r}')


def _refuse_dilation(name: str, layer: LocallyConnected2d) -> None:
    for kernel, dilation in zip(layer.kernel_size, layer.dilation, strict=True):
        if math.gcd(kernel, dilation) > 1:
            raise ValueError(
                f"layer {name!r} has kernel_size={layer.kernel_size} and dilation={layer.dilation}: they share a "
                "factor, so its taps see the same part of the sleeping pattern twice and never the rest, and "
                "sleep cannot tell them apart. Use a dilation coprime to the kernel, or InstantSharing"
            )
