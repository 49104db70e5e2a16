"""Engine "brian2" of a mirror: the texts of equations.py, stepped from Python. The independent check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import brian2 as b2
import numpy as np

from bioshare.checks import Array
from bioshare.circuit.brian import STEP, Brian2, own_device
from bioshare.circuit.mirror import equations
from bioshare.circuit.mirror.problem import MirrorProblem, MirrorState


def mirror_brian(problem: MirrorProblem) -> Iterator[tuple[int, MirrorState]]:
    """Yield (presentations, state) at every stop."""
    with own_device(Brian2(target="runtime")):
        mirror, done = _BrianMirror(problem), 0
        for stop in problem.stops:
            mirror.network.run((stop - done) * mirror.held, namespace={})
            done = stop
            yield stop, mirror.state()


class _BrianMirror:
    """All layers of a problem in a single network: cells and synapses of layer 0, then of layer 1, and so on.

    A time step goes along the path of the signal: y and below step first, then above, which reads the new y, then B.
    """

    def __init__(self, problem: MirrorProblem) -> None:
        self.problem, circuit = problem, problem.circuit
        self.layers, (self.neurons, self.inputs) = int(np.prod(problem.batch)), problem.weights.shape[-2:]
        self.clock, self.held = b2.Clock(dt=circuit.dt * b2.ms, name="bioshare_clock*"), circuit.duration * b2.ms
        presentations = problem.stimuli.shape[-2]
        x = np.broadcast_to(problem.stimuli, (*problem.batch, presentations, self.inputs))
        x = x.reshape(self.layers, presentations, self.inputs).swapaxes(0, 1).reshape(presentations, -1)
        stimulus = b2.TimedArray(x, dt=self.held, name="bioshare_stimulus*")
        self.below = self._cells(equations.BELOW, "below", self.inputs, STEP, stimulus=stimulus)
        self.below.run_regularly("x = stimulus(t, i)", dt=self.held, when="start")
        self.forward = self._cells(equations.FORWARD, "y", self.neurons, STEP)
        self.above = self._cells(equations.ABOVE, "above", self.neurons, STEP + 1)
        self.above.y = b2.linked_var(self.forward, "y")
        layer, n, k = (axis.ravel() for axis in np.indices((self.layers, self.neurons, self.inputs)))
        # gate(t), 1 in the last steps of every presentation
        opened = np.arange(circuit.steps) >= circuit.steps - circuit.updates_per_presentation
        gate = b2.TimedArray(np.tile(opened, presentations).astype(float), dt=self.clock.dt, name="bioshare_gate*")
        up = b2.Synapses(
            self.below, self.forward, equations.FORWARD_SYNAPSES, namespace={}, clock=self.clock, name="bioshare_up*"
        )
        self.down = b2.Synapses(
            self.above, self.below, equations.FEEDBACK_SYNAPSES, method="euler", namespace={"gate": gate},
            clock=self.clock, order=STEP + 2, name="bioshare_down*",
        )  # fmt: skip
        up.connect(i=layer * self.inputs + k, j=layer * self.neurons + n)
        self.down.connect(i=layer * self.neurons + n, j=layer * self.inputs + k)
        up.w, self.down.B = problem.weights.ravel(), problem.feedback.ravel()
        self.network = b2.Network(self.below, self.forward, self.above, up, self.down, name="bioshare_network*")

    def _cells(self, text: str, rate: str, number: int, order: int, **namespace: Any) -> Any:
        """The cells of all layers, ``number`` a layer, at rest."""
        circuit = self.problem.circuit
        group = b2.NeuronGroup(
            self.layers * number, text, method="euler", namespace=namespace, clock=self.clock, order=order,
            name="bioshare_cells*",
        )  # fmt: skip
        units = {"beta": 1, "tau": b2.ms, "tau_crosstalk": b2.ms, "rate": 1 / b2.ms, "decay": 1}
        for name in units.keys() & group.equations.names:
            value = np.broadcast_to(getattr(circuit, "baseline" if name == "beta" else name), self.problem.batch)
            setattr(group, name, np.repeat(value, number) * units[name])
        setattr(group, rate, group.beta[:])
        return group

    def state(self) -> MirrorState:
        """The state after a run."""
        shape = lambda values, *axes: np.array(values).reshape(*self.problem.batch, *axes)
        feedback: Array = shape(self.down.B[:], self.neurons, self.inputs)
        y, above = (shape(values, self.neurons) for values in (self.forward.y[:], self.above.above[:]))
        return MirrorState(feedback, y, shape(self.below.below[:], self.inputs), above)
