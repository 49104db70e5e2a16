"""Engine "brian2": Eq. 8 and the plasticity of Eq. 4 word for word in Brian2.

The independent check of the engine "exact", and the place for a circuit of your own. A sleep has a Brian2 device to
itself: the caller's device, preferences and namespace are put back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import brian2 as b2
import numpy as np
from brian2.core.base import BrianObjectException
from brian2.devices.cpp_standalone.device import CPPStandaloneDevice
from brian2.devices.device import RuntimeDevice, reset_device, set_device

from bioshare.checks import real, shown, whole
from bioshare.circuit import equations
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.own_equations import check_equations, check_plasticity, check_values, first_cause
from bioshare.circuit.problem import DivergenceError, Outcome, Problem, Progress, divergence, measure_weights
from bioshare.progress import is_wanted

STEP = 1
"""Order of the Euler steps in Brian2's "groups" slot; the sums into a group have the order before. Both equations of
Eq. 8 see the old state: z and r_mean are summed, then, in alphabetical order of the groups, r steps, then r_inh. In the
steady state z_mean is summed after z: the neurons come an order before the inhibition."""

# No warning about objects of a sleep that had an error before it could run.
logging.getLogger("brian2.core.base.unused_brian_object").addFilter(
    lambda record: "'bioshare_" not in record.getMessage()
)

REPORT = r"""
if (elapsed > 2) {
    std::cerr << "\rbrian2: " << int(100 * completed) << "% in " << int(elapsed) << " s" << std::flush;
    if (completed == 1) std::cerr << std::endl;
}
"""  # C++, called every second


@dataclass(frozen=True)
class Brian2:
    """Settings of the engine "brian2".

    ``neurons``, ``inhibition`` and ``plasticity`` turn a `RateCircuit` into a circuit of your own. The texts are in
    Brian2's language and replace texts of `bioshare.circuit.equations`. Only the paper's circuit is checked for
    stability.

    Args:
        target: ``"standalone"`` compiles the whole simulation to C++; ``"runtime"`` steps from Python with the
            code generation target in Brian2's preferences.
        threads: OpenMP threads of the standalone target.
        memory: limit in bytes of the recorded weights, and of the inputs.
        neurons: equations of r, in place of Eq. 8a, with z (w_i . x), r_inh, alpha, tau, b, and new variables. The
            rule learns from r - b: where rates are cut at 0, b must not be below 0. Eq. 8b
            stays as the circuit has it: r_inh rests at 0, and ``alpha*r_inh`` fits; with ``inhibitory_bias=True`` it
            rests at b, and ``alpha*(r_inh - b)`` fits.
        inhibition: equations of r_inh, in place of Eq. 8b, with r_mean, tau and b.
        plasticity: statements to change w, in place of Eq. 4, after every time step, with w, w_init, m, x_pre,
            eta(t), and r_post, b_post, gamma_post, beta_post and the new variables of the neuron.
        values: values before sleep by name, of new parameters and of variables with an equation, which else start at 0
            (r and r_inh with an equation: at rest), as in ``values={"theta": 1.0}``.

    Raises:
        TypeError, ValueError: a setting makes no sense, equations do not define r (r_inh, w) or draw random numbers, or
            a new parameter has no value.

    Example:
        >>> Brian2(neurons="dr/dt = (-r + clip(z - alpha*r_inh + b, 0, inf)) / tau : 1").threads  # rates >= 0
        1
    """

    target: str = "standalone"
    threads: int = 1
    memory: float = 4e9
    neurons: str | None = None
    inhibition: str | None = None
    plasticity: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or self.target not in ("standalone", "runtime"):
            raise ValueError(f'target must be "standalone" or "runtime"; got {self.target!r}')
        whole("threads", self.threads, "a number of threads", at_least=1)
        if self.threads > 1 and self.target == "runtime":
            raise ValueError(f"threads must be 1 for the runtime target; got {self.threads}")
        real("memory", self.memory, "a positive number of bytes", above=0, array=False)
        for name in ("neurons", "inhibition", "plasticity"):
            if not isinstance(given := getattr(self, name), str | None):
                raise TypeError(f"{name} must be None or text in Brian2's language; got {given!r}")
        if self.neurons is not None:
            check_equations("neurons", self.neurons, "r", equations.NEURON)
        if self.inhibition is not None:
            check_equations("inhibition", self.inhibition, "r_inh", equations.INHIBITORY)
        if self.plasticity is not None:
            check_plasticity(self.plasticity, self.neurons or equations.NEURONS)
        if not isinstance(self.values, Mapping):
            raise TypeError(f"values must be numbers by name, as in {{'theta': 1.0}}; got {shown(self.values)}")
        check_values(self.values, self.neurons, self.inhibition)

    def own(self) -> dict[str, str]:
        """The equations of one's own, by name."""
        return {name: text for name in ("neurons", "inhibition", "plasticity") if (text := getattr(self, name))}

    def _check_problem(self, problem: Problem) -> None:
        """Raise for equations of your own without a RateCircuit, and for inputs or records larger than ``memory``."""
        own = self.own()
        if own and not isinstance(problem.circuit, RateCircuit):
            raise ValueError(f"{', '.join(own)} must be None without a RateCircuit; got {problem.circuit}")

        size = problem.weights.nbytes
        inputs = problem.presentations * (size if problem.per_neuron else size // problem.weights.shape[1])
        if inputs > self.memory:
            raise ValueError(f"presentations need {inputs:.1e} bytes of inputs; give fewer, or Brian2(memory=...)")
        weights = size * (problem.records - 1)
        if weights > self.memory:
            every = problem.record_every * int(np.ceil(weights / self.memory))
            raise ValueError(f"record_every is too small: the recorded weights need {weights:.1e} bytes. Try {every}")
        if (samples := problem.sampling.bytes(problem)) > self.memory:
            every = problem.sampling.every * int(np.ceil(samples / self.memory))
            raise ValueError(f"sample_every is too small: the samples need {samples:.1e} bytes. Try {every}")

    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Simulate a checked sleep in Brian2; a function ``progress`` is called once, at the end."""
        self._check_problem(problem)
        if self.target == "standalone":
            _check_compiler()
        folders = tempfile.TemporaryDirectory(prefix="bioshare-")
        with folders as folder, own_device(self) as device, self._own_errors():
            sleep = _BrianSleep(problem, self)
            shown = is_wanted(progress is True)
            report = (REPORT if self.target == "standalone" else _report) if shown else None
            start, held = time.perf_counter(), problem.presentations * sleep.held
            sleep.network.run(held, namespace={}, report=report, report_period=1 * b2.second)
            if self.target == "runtime":
                seconds = {"run": time.perf_counter() - start}
            else:
                try:
                    device.build(directory=folder, compile=True, run=False)
                except RuntimeError as error:
                    remedy = 'Brian2(target="runtime") does without a C++ compiler'
                    raise RuntimeError(f"the circuit could not be compiled; {remedy}. {error}") from error
                compiled = time.perf_counter()
                device.run(with_output=shown)
                seconds = {"compile": compiled - start, "run": time.perf_counter() - compiled}
            outcome = sleep.outcome(seconds)
        if callable(progress):
            progress(problem.presentations)
        return outcome

    @contextlib.contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Turn Brian2's errors about equations of one's own into a sentence with the equations and the cause."""
        own = self.own()
        try:
            yield
        except (BrianObjectException, b2.DimensionMismatchError) as error:
            if not own:
                raise
            texts = ", ".join(f'{name}="{" ".join(text.split())}"' for name, text in own.items())
            raise ValueError(f"{texts} cannot be simulated: {first_cause(error)}") from None


def _check_compiler() -> None:
    """Raise where the programs to compile C++ are missing."""
    needed = ("make", os.environ.get("CXX", "g++").split()[0])
    missing = [program for program in needed if os.name == "posix" and shutil.which(program) is None]
    if missing:
        raise RuntimeError(
            f'Brian2(target="standalone") needs a C++ compiler and make; not found: {", ".join(missing)}. Install '
            'g++ and make ("apt install g++ make", "conda install cxx-compiler make", Xcode\'s command line tools), or '
            'take Brian2(target="runtime"), which does without a compiler'
        )


def _report(elapsed: Any, completed: float, start: Any, duration: Any) -> None:
    """Print the line of `REPORT` from Python."""
    if elapsed > 2 * b2.second:
        end = "\n" if completed == 1 else ""
        print(f"\rbrian2: {completed:.0%} in {elapsed / b2.second:.0f} s", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def own_device(settings: Brian2) -> Iterator[Any]:
    """A fresh Brian2 device in double precision; the caller's device and preferences are put back."""
    own = {
        "devices.cpp_standalone.openmp_threads": settings.threads if settings.threads > 1 else 0,
        "core.default_float_dtype": np.float64,
        "core.stop_on_keyboard_interrupt": False,  # a run that stops as if it were complete
    }
    before = {name: b2.prefs[name] for name in own}
    device = CPPStandaloneDevice() if settings.target == "standalone" else RuntimeDevice()
    set_device(device, build_on_run=False)
    try:
        for name, value in own.items():
            b2.prefs[name] = value
        yield device
    finally:
        for name, value in before.items():
            b2.prefs[name] = value
        reset_device()


class _BrianSleep:
    """All groups of a problem in a single network.

    Excitatory neuron (group, i), inhibitory neuron (group), input (group, j) or, with noise, (group, i, j). The
    synapses are stored input by input, and neighbours in memory end on different neurons: successive sums into the
    same neuron would wait for each other.
    """

    def __init__(self, problem: Problem, settings: Brian2) -> None:
        self.problem, self.settings = problem, settings
        self.neuron, self.inhibition = equations.STEADY_NEURON, equations.STEADY_INHIBITORY
        self.timed = isinstance(problem.circuit, RateCircuit)
        if isinstance(problem.circuit, RateCircuit):
            neurons, inhibition = equations.NEURONS, equations.INHIBITION
            if problem.circuit.inhibitory_bias:
                neurons, inhibition = equations.BIASED_NEURONS, equations.BIASED_INHIBITION
            self.neuron = (settings.neurons or neurons) + equations.NEURON
            self.inhibition = (settings.inhibition or inhibition) + equations.INHIBITORY
        self.plasticity = settings.plasticity or equations.PLASTICITY
        dt = (problem.circuit.dt if isinstance(problem.circuit, RateCircuit) else 1.0) * b2.ms
        self.held = problem.circuit.updates_per_presentation * dt
        self.clock = b2.Clock(dt=dt, name="bioshare_clock*")
        self.inputs = self._make_inputs()
        self.inhibitory = self._make_inhibition()
        self.excitatory = self._make_neurons()
        self.synapses = self._connect()
        self.pool = self._pool()
        self.monitor = self._monitor(self.synapses, "w", problem.record_every * self.held)
        of = {"r": (self.excitatory, "r"), "r_inh": (self.inhibitory, "r_inh"), "weights": (self.synapses, "w")}
        self.samples = {name: self._monitor(*of[name], problem.sampling.every * dt) for name in problem.sampling.names}
        parts = self.inputs, self.inhibitory, self.excitatory, self.synapses, self.pool, self.monitor
        self.network = b2.Network(*parts, *self.samples.values(), name="bioshare_network*")

    @staticmethod
    def _monitor(group: Any, variable: str, dt: Any) -> Any:
        """A monitor of a variable before sleep and after every ``dt``, without the end of the sleep."""
        return b2.StateMonitor(group, variable, record=True, dt=dt, when="start", name="bioshare_monitor*")

    def _make_inputs(self) -> Any:
        """The input neurons of x, renewed from a TimedArray at the start of every presentation."""
        blocks = [x.transpose(1, 0, *range(2, x.ndim)) for _, x in self.problem.blocks(1024)]
        x = np.concatenate(blocks).reshape(self.problem.presentations, -1)
        stimulus = b2.TimedArray(x, dt=self.held, name="bioshare_stimulus*")
        group = b2.NeuronGroup(
            x.shape[1], "x : 1", namespace={"stimulus": stimulus}, clock=self.clock, name="bioshare_input*"
        )
        group.run_regularly("x = stimulus(t, i)", dt=self.held, when="start")
        return group

    def _make_inhibition(self) -> Any:
        """An inhibitory neuron for every group."""
        problem, circuit = self.problem, self.problem.circuit
        group = b2.NeuronGroup(
            len(problem.weights), self.inhibition, method="euler", namespace={}, clock=self.clock, order=STEP,
            name="bioshare_inhibitory*",
        )  # fmt: skip
        if isinstance(circuit, RateCircuit):
            group.tau, group.b = problem.flat(circuit.tau) * b2.ms, problem.flat(circuit.bias)
            if "r_inh" in group.equations.diff_eq_names:
                group.r_inh = problem.flat(circuit.resting_inhibition)
            self._set_values(group, self.settings.inhibition)
        else:
            group.alpha = problem.flat(circuit.alpha)
            group.run_regularly(equations.STEADY_FEEDBACK, when="thresholds")
        return group

    def _make_neurons(self) -> Any:
        """The N excitatory neurons of every group, with the rule's parameters."""
        problem, circuit = self.problem, self.problem.circuit
        groups, neurons, _ = problem.weights.shape
        spread = lambda scalar: np.repeat(problem.flat(scalar), neurons)
        group = b2.NeuronGroup(
            groups * neurons, self.neuron, method="euler", namespace={}, clock=self.clock,
            order=STEP if self.timed else STEP - 1, name="bioshare_excitatory*",
        )  # fmt: skip
        of_group = np.repeat(np.arange(groups), neurons)
        group.r_inh = b2.linked_var(self.inhibitory, "r_inh", index=of_group)
        group.gamma, group.beta = spread(problem.rule.gamma), spread(problem.rule.momentum)
        if isinstance(circuit, RateCircuit):
            group.alpha, group.b = spread(circuit.alpha), spread(circuit.bias)
            group.tau = spread(circuit.tau) * b2.ms
            if "r" in group.equations.diff_eq_names:  # r of one's own may follow from other variables
                group.r = spread(circuit.resting_inhibition)
            self._set_values(group, self.settings.neurons)
        else:
            group.z_mean = b2.linked_var(self.inhibitory, "z_mean", index=of_group)
            group.run_regularly(equations.STEADY_RESPONSE, when="synapses")
        return group

    def _set_values(self, group: Any, equations_of_one: str | None) -> None:
        """Set the values of one's own, where the equations have the variable."""
        for name, value in self.settings.values.items():
            if name in b2.Equations(equations_of_one or ""):
                setattr(group, name, value)

    def _connect(self) -> Any:
        """The plastic synapses, with the rule at the end of every step, after r."""
        problem = self.problem
        groups, neurons, inputs = problem.weights.shape
        # synapse from input j to neuron i of group g
        g, j, i = (axis.ravel() for axis in np.indices((groups, inputs, neurons)))
        source = (g * neurons + i) * inputs + j if problem.per_neuron else g * inputs + j
        eta = b2.TimedArray(problem.rates.ravel(), dt=self.clock.dt, name="bioshare_eta*")
        synapses = b2.Synapses(
            self.inputs, self.excitatory, equations.SYNAPSES, namespace={"eta": eta}, clock=self.clock,
            name="bioshare_synapses*",
        )  # fmt: skip
        synapses.connect(i=source, j=g * neurons + i)
        synapses.w = synapses.w_init = problem.weights.mT.ravel()
        synapses.run_regularly(self.plasticity, when="end")
        return synapses

    def _pool(self) -> Any:
        """The mean drive of the inhibitory neuron, from the neurons of the group."""
        groups, neurons, _ = self.problem.weights.shape
        pooled = "r" if self.timed else "z"
        pool = b2.Synapses(
            self.excitatory, self.inhibitory, f"{pooled}_mean_post = {pooled}_pre/neurons : 1 (summed)",
            namespace={"neurons": neurons}, clock=self.clock, name="bioshare_pool*",
        )  # fmt: skip
        pool.connect(i=np.arange(groups * neurons), j=np.repeat(np.arange(groups), neurons))
        return pool

    def outcome(self, seconds: dict[str, float]) -> Outcome:
        """Read the state after the run."""
        problem = self.problem
        groups, neurons, inputs = problem.weights.shape
        shape = lambda w: np.asarray(w).reshape(groups, inputs, neurons).mT.copy()
        # synapses are stored as (B, K, N), weights are (B, N, K)
        weights = shape(self.synapses.w[:])
        trajectory = [*(shape(w) for w in np.asarray(self.monitor.w).T), weights]
        for number, w in enumerate(trajectory):
            if not np.abs(w).max() < problem.bound:  # the sleep diverged since the previous record
                entry = int(np.argmax(np.nan_to_num(np.abs(w), nan=np.inf).max((1, 2))))
                first = (number - 1) * problem.record_every
                if own := self.settings.own():
                    last = min(first + problem.record_every, problem.presentations) - 1
                    raise DivergenceError(
                        f"the weights diverged, or are no numbers, by presentation {last}: "
                        f"check {', '.join(own)} (for the root of a negative number, a division by 0), or take a "
                        "smaller dt or learning_rate",
                        first,
                    )
                raise divergence(problem, first, entry, first + problem.record_every - 1)
        trajectory = trajectory[: problem.records]
        records = [measure_weights(w, problem.weights.mean(-2)) for w in trajectory]
        r, r_inh = np.asarray(self.excitatory.r[:]).reshape(groups, neurons), np.asarray(self.inhibitory.r_inh[:])
        recorded, kept = {}, 1 + problem.rates.size // problem.sampling.every
        shapes = {"r": lambda r: r.reshape(groups, neurons), "r_inh": np.array, "weights": shape}
        for name, end in {"r": r, "r_inh": r_inh, "weights": weights}.items():
            if name in self.samples:
                values = np.asarray(getattr(self.samples[name], "w" if name == "weights" else name)).T
                recorded[name] = np.stack([*map(shapes[name], values), end][:kept], 1)
        return Outcome(
            weights=weights,
            r=r,
            r_inh=r_inh,
            records={name: np.stack([record[name] for record in records], -1) for name in records[0]},
            presentations=problem.presentations,
            seconds=seconds,
            recorded=recorded,
        )
