"""Every argument of every public function, odd values in turn: a right call, or an error that names the argument."""

import functools
import inspect
import math
import re
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import bioshare as bs
from bioshare.bridge import controls
from bioshare.explorer import setting
from bioshare.nn import functional
from bioshare.train import config

ODD = {
    "None": None,
    "text": "30",
    "bytes": b"x",
    "True": True,
    "numpy bool": np.True_,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "-1": -1,
    "0": 0,
    "2.5": 2.5,
    "5e-324": 5e-324,
    "1e308": 1e308,
    "10^400": 10**400,
    "10^5000": 10**5000,
    "complex": 1 + 2j,
    "empty": [],
    "ragged": [[1], [1, 2]],
    "texts": ["a", "b"],
    "bools": [[True, False], [False, True]],
    "object": object(),
    "class": dict,
    "function": lambda: None,
    "dict": {},
    "set": set(),
    "masked": np.ma.array([1.0, 2.0], mask=[True, False]),
    "seven axes": np.ones((1,) * 6 + (7,)),
    "nan array": np.full((4, 3), math.nan),
    "longdouble": np.longdouble("1e4000"),
    "complex tensor": torch.tensor([1 + 2j]),
    "meta tensor": torch.ones(4, 3, device="meta"),
    "sparse tensor": torch.eye(3).to_sparse(),
    "bfloat16 tensor": torch.ones(4, 3, dtype=torch.bfloat16),
    "learning tensor": torch.ones(2, 7, requires_grad=True),
}

W, X = np.random.default_rng(0).normal(1, 1, (4, 3)), np.random.default_rng(1).normal(size=(5, 3))
STEADY, RATE, RULE = bs.SteadyState(2.0), bs.RateCircuit(duration=3.0), bs.Hebbian(learning_rate=1e-3)
GAUSSIAN = bs.stimuli.gaussian()


def layer(**options):
    torch.manual_seed(0)
    return bs.nn.LocallyConnected2d(1, 2, 2, input_size=4, **options)


def convolution():
    return nn.Sequential(nn.Conv2d(1, 2, 2))


def sleeping(**options):
    return bs.Sleep(STEADY, RULE, GAUSSIAN, 3, **options)


MAP = bs.sleep_map(X, STEADY, RULE)
CALLS = {
    "simulate": lambda: dict(weights=W, stimuli=X, circuit=STEADY, rule=RULE),
    "simulate drawn": lambda: dict(weights=W, stimuli=GAUSSIAN, circuit=RATE, rule=RULE, presentations=2, seed=0),
    "simulate recorded": lambda: dict(weights=W, stimuli=X, circuit=RATE, rule=RULE, record=["r"], sample_every=1),
    "sleep_map": lambda: dict(stimuli=X, circuit=STEADY, rule=RULE),
    "sleep_map drawn": lambda: dict(stimuli=GAUSSIAN, circuit=RATE, rule=RULE, inputs=3, presentations=2, seed=0),
    "SteadyState": dict,
    "RateCircuit": dict,
    "Hebbian": lambda: dict(learning_rate=0.1),
    "Exact": dict,
    "Loop": dict,
    "Brian2": dict,
    "rules.InverseDecay": dict,
    "rules.InverseSqrtDecay": dict,
    "rules.Gated": lambda: dict(rate=0.1),
    "rules.Tabulated": lambda: dict(table=[0.1, 0.2]),
    "rules.Hebbian.rates": lambda: dict(self=RULE, updates=3),
    "stimuli.Gaussian": dict,
    "stimuli.Grid": dict,
    "stimuli.Drawn": lambda: dict(function=lambda presentations, inputs, rng: rng.random((presentations, inputs))),
    "stimuli.Patterns": lambda: dict(array=X),
    "stimuli.as_stimulus": lambda: dict(value=X),
    "stimuli.drawn": lambda: dict(function=lambda presentations, inputs, rng: rng.random((presentations, inputs))),
    "stimuli.patterns": lambda: dict(array=X),
    "stimuli.gaussian": dict,
    "stimuli.grid": dict,
    "stimuli.noise": lambda: dict(stimulus=GAUSSIAN, std=0.1),
    "stimuli.generators": lambda: dict(seed=0),
    "stimuli.derived": lambda: dict(),
    "stimuli.Stimulus.draw": lambda: dict(self=GAUSSIAN, presentations=2, inputs=3, seed=0),
    **{
        f"stimuli.{kind}.{method}": lambda made=made: dict(self=made, inputs=3)
        for kind, made in {"Gaussian": GAUSSIAN, "Grid": bs.stimuli.grid(), "Patterns": bs.stimuli.patterns(X)}.items()
        for method in ("power", "covariance")
    },
    "theory.response": lambda: dict(weights=W, x=X[0]),
    "theory.inhibition": lambda: dict(weights=W, x=X[0], alpha=2.0),
    "theory.min_bias": lambda: dict(weights=W, x=X[0]),
    "theory.mean_gain": lambda: dict(alpha=2.0),
    "theory.fixed_point": lambda: dict(w_init=W, covariance=np.eye(3), gamma=0.1),
    "theory.fixed_point_white": lambda: dict(w_init=W, gamma=0.1),
    "theory.snr": lambda: dict(weights=W),
    "theory.inverse_snr": lambda: dict(weights=W),
    "theory.neg_log_snr": lambda: dict(weights=W),
    "theory.min_neg_log_snr": lambda: dict(gamma=0.1),
    "theory.max_dt": lambda: dict(alpha=2.0, tau=30.0),
    "theory.max_alpha": lambda: dict(dt=1.0, tau=30.0),
    "theory.max_learning_rate": lambda: dict(power=2.0, gamma=0.1),
    "theory.input_moment": lambda: dict(patterns=X, sigma=0.1),
    "theory.noisy_convergence_bound": lambda: dict(w_init=W, patterns=X, gamma=0.1, sigma=0.1, learning_rate=[0.1]),
    "SleepMap.__call__": lambda: dict(self=MAP, weights=W),
    "SleepRun.load": lambda: dict(path="no file"),
    "explore": dict,
    "neg_log_snr": lambda: dict(model=layer()),
    "Sleep": lambda: dict(circuit=STEADY, rule=RULE, stimulus=GAUSSIAN, presentations=3),
    "Sleep.rate_circuit": dict,
    "Sleep.steady_state": dict,
    "Sleep.paper": dict,
    "Sleep.minutes": lambda: dict(self=sleeping(), inputs=3),
    "InstantSharing": dict,
    "HebbianSharing": dict,
    "InstantSharing.__call__": lambda: dict(self=bs.InstantSharing(), model=layer()),
    "Sleep.__call__": lambda: dict(self=sleeping(), model=layer()),
    "HebbianSharing.__call__": lambda: dict(self=bs.HebbianSharing(1), model=layer()),
    "bridge.LearnedGroups": dict,
    "bridge.LearnedGroups.__call__": lambda: dict(self=bs.bridge.LearnedGroups(2), model=layer()),
    "bridge.PhaseHook": lambda: dict(phase=bs.InstantSharing(), model=layer()),
    "bridge.modules": lambda: dict(layer=layer()),
    "bridge.renew_statistics": lambda: dict(model=nn.BatchNorm1d(1), batches=[torch.ones(2, 1)]),
    "bridge.to_periodic": lambda: dict(model=layer(), tolerance=math.inf),
    "controls.RandomGroups": dict,
    "nn.LocallyConnected2d": lambda: dict(in_channels=2, out_channels=2, kernel_size=2, input_size=4),
    "nn.LocallyConnected2d.forward": lambda: dict(self=layer(), x=torch.ones(1, 1, 4, 4)),
    "nn.LateralCentring2d": lambda: dict(period=(2, 2)),
    "nn.PeriodicConv2d": lambda: dict(weight=torch.ones(2, 2, 2, 1, 3, 3)),
    "nn.cifar_resnet": lambda: dict(depth=8, width=1 / 16),
    "nn.resnet20": dict,
    "nn.resnet18": lambda: dict(num_classes=2, width=1 / 64),
    "nn.to_convolutional": lambda: dict(model=layer(), tolerance=math.inf),
    "nn.to_locally_connected": lambda: dict(model=convolution(), input_size=(1, 4, 4)),
    "nn.conversion_table": lambda: dict(model=convolution(), input_size=(1, 4, 4)),
    "nn.with_lateral_centring": lambda: dict(model=nn.Sequential(layer(), nn.BatchNorm2d(2))),
    "functional.locally_connected2d": lambda: dict(x=torch.ones(1, 1, 4, 4), weight=layer().weight),
    "train.TrainConfig": dict,
    "train.evaluate": lambda: dict(model=layer(), batches=[]),
    "train.trained_network": lambda: dict(folder="no folder"),
    "train.fit": lambda: dict(config=config.TrainConfig(), folder="no folder", data="no folder"),
    "config.ImageData": lambda: dict(name="digits"),
    "config.ImageNet": dict,
    "config.OwnImages": lambda: dict(name="mine"),
    "config.Convolutional": dict,
    "config.LocallyConnected": dict,
    "config.AdamW": dict,
    "config.Every": lambda: dict(n=1, phase=bs.InstantSharing()),
    "setting.Setting": dict,
}
HOMES = {"controls": controls, "setting": setting, "functional": functional, "config": config}
RIGHT = {}


def function_of(call):
    name = call.split()[0]
    home, *rest = name.split(".")
    return functools.reduce(getattr, rest, HOMES[home]) if home in HOMES else functools.reduce(getattr, name.split("."), bs)


CASES = [
    (call, name)
    for call in CALLS
    for name, parameter in inspect.signature(function_of(call)).parameters.items()
    if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) and name not in ("self",)
]


def outcome(call, name, value):
    """The fault of a call with a value in place of the good argument, or None."""
    arguments = CALLS[call]() | {name: value}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if "self" in arguments:
                function_of(call)(arguments.pop("self"), **arguments)
            else:
                function_of(call)(**arguments)
    except (TypeError, ValueError) as error:
        return None if re.search(rf"\b{name}\b", str(error)) else f"{type(error).__name__} without the name: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


if __name__ == "__main__":
    import collections, sys, time
    for call, name in CASES:
        if len(sys.argv) > 1 and not re.search(sys.argv[1], call): continue
        rows = collections.defaultdict(list)
        t = time.process_time()
        for kind, value in ODD.items():
            found = outcome(call, name, value)
            if found:
                rows[" ".join(found.split())[:170]].append(kind)
        if time.process_time() - t > 0.3: print("SLOW", call, name, time.process_time() - t)
        for found, kinds in rows.items():
            print(f"{call}({name}): {found}: {', '.join(kinds)}", flush=True)
