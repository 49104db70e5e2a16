"""A sleep inside autocast has the precision of the engine."""

import numpy as np
import pytest
import torch

import bioshare as bs
from bioshare.circuit.exact.batches import batch_map

RULE = bs.Hebbian(0.01, 0.9, learning_rate=1e-3)
SINGLE = bs.Exact(dtype="float32")


def large(engine):
    """A sleep of a group too large for the compiled engine, in torch."""
    weights = np.random.default_rng(0).normal(1, 1, (200, 190))
    x = np.random.default_rng(1).normal(0, 0.1, (20, 190))
    return bs.simulate(weights, x, bs.SteadyState(10.0), RULE, engine).weights


def noisy(engine):
    weights, stimulus = np.random.default_rng(0).normal(1, 1, (6, 4)), bs.stimuli.noise(bs.stimuli.gaussian(), 0.1)
    return bs.simulate(weights, stimulus, bs.SteadyState(10.0), RULE, engine, presentations=9, seed=0).weights


def mapped(engine):
    return bs.sleep_map(bs.stimuli.gaussian(), bs.SteadyState(10.0), RULE, inputs=9, presentations=9, seed=0,
                        engine=engine).A  # fmt: skip


def batched(engine):
    x = np.random.default_rng(1).normal(size=(5, 8, 9))
    return batch_map(x, bs.SteadyState(10.0), RULE, engine=engine).A


@pytest.mark.parametrize("sleep", [large, noisy, mapped, batched])
def test_a_sleep_in_single_precision_is_the_same_inside_autocast(sleep):
    outside = sleep(SINGLE)
    with torch.autocast("cpu", torch.bfloat16):
        inside = sleep(SINGLE)
        assert torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    np.testing.assert_array_equal(inside, outside)
    np.testing.assert_allclose(outside, sleep(bs.Exact()), rtol=0, atol=1e-5)
