"""The weight mirror: a phase in which feedback weights learn the forward weights from correlations of noise."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bioshare.bridge.phase import Phase, check_call, seed_for
from bioshare.checks import choice, flag, real, whole
from bioshare.circuit.stimuli import derived
from bioshare.nn.feedback import FeedbackLayer, check_feedback, compared, connected, feedback_layers

AT_ONCE = 256
"""Number of inputs that pass a layer at a time."""

Noise = Literal["gaussian", "orthogonal", "grid"]


@dataclass(frozen=True)
class MirroredLayer:
    """Feedback weights B of a layer against the weights W, over all weights whose input is not padding.

    Attributes:
        name: name of the layer in the model.
        inputs: number K of inputs of a neuron.
        presentations: number of inputs that the phase presented.
        angle_before, angle: angle between B and W in degrees, before and after.
        ratio_before, ratio: norm of B over the norm of W, before and after.
    """

    name: str
    inputs: int
    presentations: int
    angle_before: float
    angle: float
    ratio_before: float
    ratio: float


@dataclass(frozen=True)
class MirrorReport:
    """Report of a `Mirror`, with a row for every layer.

    Attributes:
        phase: the phase as text.
        seconds: wall-clock time of the change, without measurements.
        layers: the rows.
        seed: seed of the noise.
    """

    phase: str
    seconds: float
    layers: tuple[MirroredLayer, ...]
    seed: int

    def __str__(self) -> str:
        width = max(len("layer"), *(len(row.name) for row in self.layers))
        lines = [f"{'layer':{width}}      K  presented  angle to W, deg  |B| / |W|"]
        for row in self.layers:
            angles = f"{row.angle_before:6.2f} -> {row.angle:5.2f}"
            ratios = f"{row.ratio_before:.3g} -> {row.ratio:.3g}"
            lines.append(f"{row.name:{width}} {row.inputs:6d} {row.presentations:10d}  {angles:15}  {ratios}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Mirror(Phase):
    """Let every layer's feedback weights B learn the weights W from noise (mirror mode of Akrout et al. 2019).

    In mirror mode a layer gets noise x in place of its input, the neurons answer y = phi(W x) with blocked biases, and
    crosstalk brings x and y to the two ends of the feedback synapses, which learn by Hebb's rule:

        B <- (1 - L) B + rate mean((y - mean(y)) x^T)

    with the mean over all inputs at which a weight sees no padding; a weight that sees nothing else stays. For x of
    variance sigma^2 the expectation of B in the end is rate sigma^2 E[phi'] / L times W; E[phi'] is 1 / 2 for a ReLU
    and 1 for linear neurons. The B of a layer that sees the network's inputs learns, too, to no effect. With
    `bioshare.nn.with_feedback_past_norms`, layer and batch normalisation are mirrored together, with the mean and beta
    of the norm blocked, and B learns gamma / sigma W for W (Sec. C.3).

    A convolution sees noise at ``positions`` x ``positions`` positions, which count as so many inputs, a single one by
    default. The angle of Gaussian noise is that of `bioshare.theory.mirror_angle`, and 0 for designed noise.

    Args:
        rate: learning rate.
        decay: decay of B: L = rate x decay with ``decay_in="rate"``, the default, for which rate 0.1 and decay 0.5 end
            at B = W behind a ReLU; L = decay with ``decay_in="step"``, as Eq. 18 is printed, which ends at 0.1 W.
        decay_in: "rate" or "step".
        noise: "gaussian"; "orthogonal", random orthogonal inputs; or "grid", one active input at a time. The last two
            are exact: the mean over all inputs is W times a factor, without error. Every input comes with both signs,
            or with one if the activation is linear and not ``centred``.
        samples: number of Gaussian inputs of an update; a grid has K or 2 K inputs, orthogonal noise at least as many.
        positions: positions of a convolution along each axis, in Gaussian noise; other layers have no use for it.
        sigma: standard deviation of the noise.
        activation: phi, "relu" or "linear".
        centred: subtract the mean activity of every neuron over the inputs.
        updates: number of updates, each with new noise.
        rescale: scale B to the norm of W in the end, as synaptic scaling would; a B of 0 stays.
        first_updates: number of updates before the first step of a training run (`prepare`).

    Raises:
        TypeError, ValueError: an argument makes no sense.

    Example:
        >>> from bioshare.nn import with_feedback
        >>> model = with_feedback(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
        >>> report = Mirror.exact()(model)
        >>> torch.allclose(model[2].feedback, model[2].weight, atol=1e-6)
        True
    """

    rate: float = 0.1
    decay: float = 0.5
    decay_in: Literal["rate", "step"] = "rate"
    noise: Noise = "gaussian"
    samples: int = 2048
    positions: int = 1
    sigma: float = 1.0
    activation: Literal["relu", "linear"] = "relu"
    centred: bool = True
    updates: int = 1
    rescale: bool = False
    first_updates: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "decay", "sigma"):
            real(name, getattr(self, name), "a positive number", above=0, array=False)
        whole("samples", self.samples, "a number of inputs", at_least=2)
        whole("positions", self.positions, "a number of positions", at_least=1)
        whole("updates", self.updates, "a number of updates", at_least=1)
        whole("first_updates", self.first_updates, "a number of updates", at_least=0)
        choice("decay_in", self.decay_in, ("rate", "step"))
        choice("noise", self.noise, ("gaussian", "orthogonal", "grid"))
        choice("activation", self.activation, ("relu", "linear"))
        flag("centred", self.centred)
        flag("rescale", self.rescale)
        if self.positions > 1 and self.noise != "gaussian":
            raise ValueError(f'positions must be 1 with noise="{self.noise}", which is exact; got {self.positions}')
        if self.forgetting > 1:
            raise ValueError(
                f"decay must leave a part of B at every update, or nothing at 1; got {self.forgetting:g} with "
                f"decay_in={self.decay_in!r}. Take a smaller decay or rate"
            )

    @property
    def forgetting(self) -> float:
        """Fraction L of B that an update forgets."""
        return self.decay if self.decay_in == "step" else self.rate * self.decay

    @staticmethod
    def exact(activation: Literal["relu", "linear"] = "relu") -> Mirror:
        """A mirror of one update with the grid, which ends at B = W to rounding.

        It takes 2 K presentations of rectified neurons, and K of linear ones.
        """
        choice("activation", activation, ("relu", "linear"))
        rectified = activation == "relu"
        rate = 2.0 if rectified else 1.0
        return Mirror(rate, 1.0, "step", "grid", activation=activation, centred=rectified)

    def __call__(
        self,
        model: nn.Module,
        seed: int | None = None,
        progress: bool = True,
        measure: bool = True,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        keep: tuple[str, int] | None = None,
    ) -> MirrorReport:
        """Change the feedback weights in place and return a report.

        Args:
            model: a model with feedback, see `bioshare.nn.with_feedback`.
            seed: seed of the noise, as for `Phase`.
            measure: measure angles and norms; NaN in the report otherwise.
            progress, optimizer, keep: without effect.

        Raises:
            ValueError: the model has no feedback weights, or a layer cannot see this noise.
        """
        check_call(progress, measure, optimizer, keep)
        self.check(model)
        seed = seed_for(model, seed)
        layers = feedback_layers(model)
        before = [compared(layer) if measure else (math.nan, math.nan) for _, layer in layers]
        start = time.perf_counter()
        self.change(model, seed, optimizer=optimizer)
        seconds = time.perf_counter() - start
        after = [compared(layer) if measure else (math.nan, math.nan) for _, layer in layers]
        rows = (
            MirroredLayer(
                name, inputs := math.prod(layer.receptive_field), self.updates * self._length(inputs), a, b, c, d
            )
            for (name, layer), (a, c), (b, d) in zip(layers, before, after, strict=True)
        )
        return MirrorReport(repr(self), seconds, tuple(rows), seed)

    def check(self, model: nn.Module) -> None:
        """Raise ValueError for a model without feedback, or with a layer whose taps a grid cannot tell apart."""
        check_feedback(model)
        for name, layer in feedback_layers(model):
            sizes = zip(getattr(layer, "kernel_size", ()), getattr(layer, "dilation", ()), strict=True)
            if self.noise != "gaussian" and any(math.gcd(k, d) > 1 for k, d in sizes):
                raise ValueError(
                    f"layer {name!r} has kernel_size={layer.kernel_size} and dilation={layer.dilation}, which share a "
                    f'factor: no periodic pattern tells its inputs apart. Use noise="gaussian"'
                )

    def prepare(self, model: nn.Module) -> None:
        """Make the updates before training, with the seed 0."""
        self.check(model)
        if self.first_updates:
            replace(self, updates=self.first_updates).change(model, seed=0)

    @torch.inference_mode(False)
    def change(
        self, model: nn.Module, seed: int | None = None, *, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Change the feedback weights with the same bits as a call, without checks and report."""
        seed = seed_for(model, seed)
        for number, (_, layer) in enumerate(feedback_layers(model)):
            with torch.autocast(layer.weight.device.type, enabled=False):
                generator = torch.Generator(layer.weight.device).manual_seed(derived(seed, number) % 2**63)
                counts = connected(layer, self.positions)
                for _ in range(self.updates):
                    hebbian = self._correlation(layer, counts, generator)
                    learned = (layer.feedback * (1 - self.forgetting)).add_(hebbian, alpha=self.rate)
                    layer.feedback.copy_(learned.where(counts > 0, layer.feedback))
                if self.rescale:
                    seen = (counts > 0).double()
                    b, w = ((weights * seen).norm() for weights in (layer.feedback, layer.mirrored()))
                    layer.feedback.mul_(torch.where(b > 0, w / b, 1).to(layer.feedback))

    def _correlation(self, layer: FeedbackLayer, counts: Tensor, generator: torch.Generator) -> Tensor:
        """The mean of (y - mean(y)) x^T for every weight, at the number of positions that it is `connected` to."""
        weight = layer.mirrored().requires_grad_()
        total, number = torch.zeros_like(weight), 0
        x_sum, y_sum = (weight.new_zeros(()) for _ in range(2))
        for x in self._inputs(layer, generator):
            with torch.enable_grad():
                z = layer.product(x, weight)
            y = z.detach().relu() if self.activation == "relu" else z.detach()
            total += torch.autograd.grad(z, weight, y)[0]  # sum of y x^T over inputs and positions
            x_sum, y_sum, number = x_sum + x.sum(0, keepdim=True), y_sum + y.sum(0, keepdim=True), number + len(x)
        if self.centred:
            total -= _hebbian(layer, weight, x_sum, y_sum / number)
        return total / (number * counts).clamp(min=1)

    def _inputs(self, layer: FeedbackLayer, generator: torch.Generator) -> Iterator[Tensor]:
        """The noise of an update, (batch, *input_shape) at a time."""
        like, shape = layer.weight, layer.input_shape(self.positions)
        options: Any = {"generator": generator, "device": like.device, "dtype": like.dtype}
        if self.noise == "gaussian":
            for start in range(0, self.samples, AT_ONCE):
                yield self.sigma * torch.randn(min(AT_ONCE, self.samples - start), *shape, **options)
            return
        inputs = math.prod(layer.receptive_field)
        length = self._length(inputs) // len(self._signs)
        if self.noise == "orthogonal":
            options["dtype"] = torch.promote_types(like.dtype, torch.float32)  # no factorisation in the half types
            rows = torch.linalg.qr(torch.randn(length, inputs, **options))[0].to(like.dtype).split(AT_ONCE)
        else:  # the rows of a unit matrix, which may be too large as a whole
            active = torch.arange(inputs, device=like.device).split(AT_ONCE)
            rows = (nn.functional.one_hot(some, inputs).to(like.dtype) for some in active)
        for patterns in rows:
            for sign in self._signs:
                yield tiled(sign * self.sigma * math.sqrt(length) * patterns, layer)  # X^T X = length sigma^2 I

    @property
    def _signs(self) -> tuple[int, ...]:
        """Signs of designed noise; sums over both have no terms of even order."""
        return (1,) if self.activation == "linear" and not self.centred else (1, -1)

    def _length(self, inputs: int) -> int:
        """Number of inputs of an update."""
        signs = len(self._signs)
        designed = {"grid": signs * inputs, "orthogonal": signs * max(inputs, self.samples // signs)}
        return designed.get(self.noise, self.samples)


def tiled(patterns: Tensor, layer: FeedbackLayer) -> Tensor:
    """Inputs of a layer in which every neuron sees the same pattern, in an order of its own.

    The patterns (n, K) repeat over rows, columns and groups of channels with the period of the kernel.
    """
    if len(layer.receptive_field) == 1:
        return patterns
    channels, rows, columns = layer.input_shape()
    small = patterns.unflatten(1, layer.receptive_field)
    times = channels // small.shape[1], -(-rows // small.shape[2]), -(-columns // small.shape[3])
    return small.repeat(1, *times)[..., :rows, :columns].contiguous()


def _hebbian(layer: FeedbackLayer, weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The sum of y x^T over inputs and positions."""
    with torch.enable_grad():
        z = layer.product(x, weight)
    return torch.autograd.grad(z, weight, y)[0]
