"""`differentiable_sleep`: the weights after sleep as a function that PyTorch differentiates."""

from __future__ import annotations

from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bioshare.bridge.scaling import check_scalars
from bioshare.checks import finite_array
from bioshare.circuit.circuits import Circuit, RateCircuit
from bioshare.circuit.exact.stepping import Constants, step_maps
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import Problem, divergence
from bioshare.circuit.rules import Hebbian, Tabulated


def differentiable_sleep(
    weights: Tensor,
    stimuli: ArrayLike | Tensor,
    circuit: Circuit,
    rule: Hebbian,
    *,
    alpha: Tensor | None = None,
    gamma: Tensor | None = None,
    learning_rate: Tensor | None = None,
) -> Tensor:
    """Let groups sleep as in `bioshare.simulate` with a shared stimulus, and keep the graph for ``backward``.

    The result is equal to the exact engine's. Gradients exist with respect to the weights, the stimuli and the
    parameters given as tensors. Every presentation keeps some copies of the weights in memory. Arguments are checked by
    value, so `torch.func` cannot trace the function; ``backward`` and `torch.autograd` are the way to gradients.

    Args:
        weights: before sleep, (..., N, K), which decide on precision and device.
        stimuli: (P, K), the same for all neurons.
        circuit, rule: as in `bioshare.simulate`, with single numbers as parameters.
        alpha: strength of the inhibition in place of the circuit's, a tensor without axes.
        gamma: strength of the pull in place of the rule's, a tensor without axes.
        learning_rate: in place of the rule's, a tensor without axes or with the rates of all weight updates in turn,
            such as ``scale * torch.as_tensor(rule.rates(updates))``.

    Returns:
        Weights after sleep, (..., N, K).

    Raises:
        TypeError, ValueError: an argument makes no sense, as in `bioshare.simulate`.
        DivergenceError: the weights after sleep are out of bounds.

    Example:
        >>> from bioshare.circuit.circuits import SteadyState
        >>> alpha = torch.tensor(3.0, requires_grad=True)
        >>> rule = Hebbian(0.0, 0.0, learning_rate=0.5)
        >>> slept = differentiable_sleep(torch.tensor([[1.0], [3.0]]), [[1.0]], SteadyState(), rule, alpha=alpha)
        >>> slept.mean().backward()  # mean 2 (1 - eta / (1 + alpha)), derivative 2 eta / (1 + alpha)^2
        >>> alpha.grad
        tensor(0.0625)
    """
    problem = _checked_problem(weights, stimuli, circuit, rule, alpha, gamma, learning_rate)
    circuit, rule, rates = problem.circuit, problem.rule, problem.rates
    like = lambda value: torch.as_tensor(value, dtype=weights.dtype, device=weights.device)
    number = lambda tensor, value=None: like(value if tensor is None else tensor).reshape(1, 1)
    x = like(stimuli)  # (P, K)
    eta = like(rates if learning_rate is None else learning_rate.expand(rates.size).reshape(rates.shape))
    h = number(circuit.dt_over_tau) if isinstance(circuit, RateCircuit) else None
    parameters = number(alpha, circuit.alpha), number(gamma, rule.gamma), number(rule.momentum)
    with torch.autocast(weights.device.type, enabled=False):
        maps = step_maps(Constants(*parameters, bias=number(0.0), h=h), x.square().sum(-1)[None], eta)
        # deviations from the mean, and the mean as the last vector: (..., N + 1, K)
        mean = weights.mean(-2, keepdim=True)
        w_init = torch.cat([weights - mean, mean], -2)
        v = m = torch.zeros_like(w_init)
        r, r_inh = torch.zeros_like(w_init[..., 0]), torch.zeros_like(w_init[..., 0])
        r[..., -1] = problem.initial_response.item(0)
        for t, presented in enumerate(x):
            # (phi, psi, r, r_inh) = M (u, q, c, r, r_inh), (..., N + 1, 4)
            before = torch.stack([v @ presented, m @ presented, w_init @ presented, r, r_inh], -1)
            parts = before[..., :-1, :] @ maps.deviation[0, t].mT, before[..., -1:, :] @ maps.mean[0, t].mT
            phi, psi, r, r_inh = torch.cat(parts, -2).unbind(-1)
            # v = p_vv v + p_vm m + phi x, m = p_mv v + p_mm m + psi x
            pull = maps.pull[0, t]
            v, m = (pull[i, 0] * v + pull[i, 1] * m + push[..., None] * presented for i, push in enumerate((phi, psi)))
        slept = weights + v[..., :-1, :] + v[..., -1:, :]
    sizes = slept.detach().abs().nan_to_num(torch.inf).reshape(len(problem.weights), -1).amax(1)
    if not sizes.max() < problem.bound:
        raise divergence(problem, 0, int(sizes.argmax()), problem.presentations - 1)
    return slept


def _checked_problem(
    weights: Tensor,
    stimuli: ArrayLike | Tensor,
    circuit: Circuit,
    rule: Hebbian,
    alpha: Tensor | None,
    gamma: Tensor | None,
    learning_rate: Tensor | None,
) -> Problem:
    """The sleep at the values of all tensors."""
    for name, value in {"weights": weights, "alpha": alpha, "gamma": gamma, "learning_rate": learning_rate}.items():
        if not isinstance(value, Tensor) and (name == "weights" or value is not None):
            raise TypeError(f"{name} must be a tensor; got {value!r:.80}")
    weights_before, x = finite_array("weights", weights, "(..., N, K)"), finite_array("stimuli", stimuli, "(P, K)")
    if x.ndim != 2:
        raise ValueError(f"stimuli must have the axes (P, K), the same for all neurons; got shape {x.shape}")
    if isinstance(circuit, Circuit) and isinstance(rule, Hebbian):
        updates = len(x) * circuit.updates_per_presentation
        if alpha is not None:
            circuit = replace(circuit, alpha=alpha.detach())
        if gamma is not None:
            rule = replace(rule, gamma=gamma.detach())
        if learning_rate is not None and learning_rate.shape not in ((), (updates,)):
            got = tuple(learning_rate.shape)
            raise ValueError(f"learning_rate must be one rate, or one of each of {updates} updates; got shape {got}")
        if learning_rate is not None:
            rule = replace(rule, learning_rate=Tabulated(learning_rate.detach().expand(updates)))
    problem = prepare_sleep(weights_before, x, circuit, rule)
    check_scalars(problem.circuit)
    check_scalars(problem.rule)
    return problem
