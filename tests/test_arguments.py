"""Every argument of every public function, odd values in turn: a right call, or an error that names the argument."""

# ruff: noqa: C408 (calls as they are written)

import functools
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bioshare as bs
from bioshare.bridge import controls, gradient
from bioshare.explorer import setting
from bioshare.nn import functional
from bioshare.train import config, data, networks, runs
from bioshare.train.fitting import CHECKPOINT

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
    "bytearray": bytearray([2, 3]),
    "two flags": (True, True),
    "text and -1": ("", -1),
}

W, X = np.random.default_rng(0).normal(1, 1, (4, 3)), np.random.default_rng(1).normal(size=(5, 3))
STEADY, RATE, RULE = bs.SteadyState(2.0), bs.RateCircuit(duration=3.0), bs.Hebbian(learning_rate=1e-3)
GAUSSIAN, MIRROR = bs.stimuli.gaussian(), bs.MirrorCircuit(duration=3.0)


def layer(**options):
    torch.manual_seed(0)
    return bs.nn.LocallyConnected2d(1, 2, 2, input_size=4, **options)


def convolution():
    return nn.Sequential(nn.Conv2d(1, 2, 2))


def dense():
    return bs.nn.to_fully_connected(nn.Conv2d(1, 2, 2), (1, 4, 4))


def with_feedback():
    return bs.nn.with_feedback(layer())


def sleeping(**options):
    return bs.Sleep(STEADY, RULE, GAUSSIAN, 3, **options)


PAIRS = [(torch.ones(2, 1, 4, 4), torch.zeros(2, 2, 3, 3))]
MAP = bs.sleep_map(X, STEADY, RULE)
DIGITS, TRAINING, CPU = data.load("digits"), config.TrainConfig(dataset="digits"), torch.device("cpu")
TESTS = data.test_batches(DIGITS, config.TrainConfig(dataset="digits"), CPU)
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
    "MirrorCircuit": dict,
    "mirror_map": lambda: dict(stimuli=X, circuit=MIRROR),
    "mirror_map drawn": lambda: dict(stimuli=GAUSSIAN, circuit=MIRROR, inputs=3, presentations=2, seed=0),
    "simulate_mirror": lambda: dict(weights=W, stimuli=X, circuit=MIRROR),
    "simulate_mirror drawn": lambda: dict(weights=W, stimuli=GAUSSIAN, circuit=MIRROR, presentations=2, seed=0),
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
    "stimuli.derived": dict,
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
    "theory.while_settling": lambda: dict(alpha=2.0, gamma=0.1, dt_over_tau=0.1, updates=5),
    "theory.snr": lambda: dict(weights=W),
    "theory.inverse_snr": lambda: dict(weights=W),
    "theory.neg_log_snr": lambda: dict(weights=W),
    "theory.min_neg_log_snr": lambda: dict(gamma=0.1),
    "theory.max_dt": lambda: dict(alpha=2.0, tau=30.0),
    "theory.max_alpha": lambda: dict(dt=1.0, tau=30.0),
    "theory.max_learning_rate": lambda: dict(power=2.0, gamma=0.1),
    "theory.input_moment": lambda: dict(patterns=X, sigma=0.1),
    "theory.noisy_convergence_bound": lambda: dict(w_init=W, patterns=X, gamma=0.1, sigma=0.1, learning_rate=[0.1]),
    "theory.mirror_scale": lambda: dict(rate=0.1, forgetting=0.1),
    "theory.mirror_angle": lambda: dict(samples=9, inputs=3),
    "theory.mirror_samples": lambda: dict(angle=9.0, inputs=3),
    "theory.mirror_lag": lambda: dict(forgetting=0.1, turn=9.0),
    "theory.mirror_gain": lambda: dict(circuit=MIRROR),
    "theory.mirror_gain_coloured": lambda: dict(tau=30.0, tau_crosstalk=10.0, tau_noise=60.0),
    "theory.mirror_baseline": lambda: dict(weights=W, x=X),
    "theory.mirror_gaussian_baseline": lambda: dict(weights=W),
    "MirrorMap.__call__": lambda: dict(self=bs.mirror_map(X, MIRROR), weights=W),
    "SleepMap.__call__": lambda: dict(self=MAP, weights=W),
    "SleepRun.load": lambda: dict(path="no file"),
    "MirrorRun.load": lambda: dict(path="no file"),
    "explore": dict,
    "neg_log_snr": lambda: dict(model=layer()),
    "Sleep": lambda: dict(circuit=STEADY, rule=RULE, stimulus=GAUSSIAN, presentations=3),
    "Sleep.rate_circuit": dict,
    "Sleep.recommended": dict,
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
    "Mirror": dict,
    "Mirror.exact": dict,
    "Mirror.__call__": lambda: dict(self=bs.Mirror(samples=2), model=with_feedback()),
    "SignSymmetry": dict,
    "SignSymmetry.__call__": lambda: dict(self=bs.SignSymmetry(), model=with_feedback()),
    "KolenPollack": dict,
    "bridge.FixedSigns": dict,
    "bridge.FixedNorms": dict,
    "bridge.modules": lambda: dict(layer=layer()),
    "bridge.renew_statistics": lambda: dict(model=nn.BatchNorm1d(1), batches=[torch.ones(2, 1)]),
    "bridge.to_periodic": lambda: dict(model=layer(), tolerance=math.inf),
    "controls.RandomGroups": dict,
    "nn.LocallyConnected2d": lambda: dict(in_channels=2, out_channels=2, kernel_size=2, input_size=4),
    "nn.LocallyConnected2d.forward": lambda: dict(self=layer(), x=torch.ones(1, 1, 4, 4)),
    "nn.LocallyConnected1d": lambda: dict(in_channels=2, out_channels=2, kernel_size=2, input_size=4),
    "nn.PatchwiseLinear": lambda: dict(patches=2, in_features=3, out_features=2),
    "nn.PatchwiseLinear.forward": lambda: dict(
        self=bs.nn.PatchwiseLinear(2, 3, 2, class_tokens=1), x=torch.ones(1, 2, 3)
    ),
    "nn.SelfAttention": lambda: dict(features=4, heads=2),
    "nn.VisionTransformer": lambda: dict(input_size=(1, 4, 4), patch=2, features=4, depth=1, heads=1),
    "nn.MLPMixer": lambda: dict(input_size=(1, 4, 4), patch=2, features=4, depth=1),
    "nn.to_locally_connected of tokens": lambda: dict(
        model=nn.Sequential(nn.Linear(3, 2)), input_size=(4, 3), linear=True, class_tokens=1
    ),
    "nn.PeriodicConv1d": lambda: dict(weight=torch.ones(1, 2, 2, 1, 1, 3)),
    "nn.LateralCentring2d": lambda: dict(period=(2, 2)),
    "nn.PeriodicConv2d": lambda: dict(weight=torch.ones(2, 2, 2, 1, 3, 3)),
    "nn.cifar_resnet": lambda: dict(depth=8, width=1 / 16),
    "nn.resnet20": dict,
    "nn.resnet18": lambda: dict(num_classes=2, width=1 / 64),
    "nn.to_convolutional": lambda: dict(model=layer(), tolerance=math.inf),
    "nn.to_locally_connected": lambda: dict(model=convolution(), input_size=(1, 4, 4)),
    "nn.to_fully_connected": lambda: dict(model=convolution(), input_size=(1, 4, 4)),
    "nn.top_eigenvalue": lambda: dict(model=layer(), batches=PAIRS, loss=nn.functional.mse_loss),
    "nn.gradient_norm": lambda: dict(model=layer(), batches=PAIRS, loss=nn.functional.mse_loss),
    "nn.interpolated": lambda: dict(first=layer(), second=layer(), part=0.5),
    "nn.string_path": lambda: dict(first=layer(), second=layer(), batches=PAIRS, loss=nn.functional.mse_loss),
    "nn.deviation": lambda: dict(model=layer()),
    "nn.locality": lambda: dict(layer=layer()),
    "nn.keeping": lambda: dict(model=layer(), part="local"),
    "nn.draw_filter": lambda: dict(layer=dense()),
    "nn.draw_block": lambda: dict(layer=dense()),
    "nn.conversion_table": lambda: dict(model=convolution(), input_size=(1, 4, 4)),
    "nn.resnet50": lambda: dict(num_classes=2, width=1 / 64),
    "nn.moskovitz": lambda: dict(name="cifar-1", input_size=(3, 8, 8)),
    "nn.dascoli": lambda: dict(input_size=(1, 8, 8), channels=2),
    "nn.with_feedback": lambda: dict(model=convolution()),
    "nn.with_feedback_past_norms": lambda: dict(
        model=bs.nn.with_feedback(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))), input_size=(4,)
    ),
    "nn.without_feedback": lambda: dict(model=with_feedback()),
    "nn.backpropagating": lambda: dict(model=with_feedback()),
    "nn.with_direct_feedback": lambda: dict(model=nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), input_size=(4,)),
    "nn.angles": lambda: dict(model=with_feedback(), x=torch.ones(1, 1, 4, 4), loss=torch.sum),
    "nn.with_lateral_centring": lambda: dict(
        model=nn.Sequential(bs.nn.LocallyConnected2d(1, 2, 2, input_size=5), nn.BatchNorm2d(2))
    ),
    "functional.locally_connected2d": lambda: dict(x=torch.ones(1, 1, 4, 4), weight=layer().weight),
    "train.TrainConfig": dict,
    "config.ImageData": lambda: dict(name="digits"),
    "config.ImageNet": dict,
    "config.OwnImages": lambda: dict(name="mine"),
    "config.Convolutional": dict,
    "config.LocallyConnected": dict,
    "networks.SharedPatches": lambda: dict(kind="vit"),
    "networks.UnsharedPatches": lambda: dict(kind="mixer"),
    "config.AdamW": dict,
    "config.Adam": dict,
    "config.SGD": dict,
    "config.FeedbackWeights": dict,
    "config.DirectFeedback": dict,
    "config.Snapshot": lambda: dict(run="../conv", epoch=1),
    "config.Every": lambda: dict(n=1, phase=bs.InstantSharing()),
    "setting.Setting": dict,
    "gradient.differentiable_sleep": lambda: dict(weights=torch.tensor(W), stimuli=X, circuit=STEADY, rule=RULE),
    "data.training_batches": lambda: dict(dataset=DIGITS, config=TRAINING, device=CPU),
    "data.test_batches": lambda: dict(dataset=DIGITS, config=TRAINING, device=CPU),
    "train.evaluate": lambda: dict(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), batches=TESTS),
    "train.trained_network": lambda: dict(folder=ODD["text"]),
    "train.fit": lambda: dict(config=TRAINING, folder=ODD["text"]),
    "runs.run_all": lambda: dict(jobs=[], fit=lambda config, folder, **options: None),
}
STOPPED = {
    "train.fit": "folder must have no run in it|checkpoint.* is damaged",
    "runs.run_all": "jobs must not be empty",
    "train.trained_network": "is damaged",
}
"""Words of the error that ends a call with good arguments, before a training that would take long."""
RESULTS = [
    "SleepMap",
    "SleepRun",
    "MirrorMap",
    "MirrorRun",
    "MirrorReport",
    "DivergenceError",
    "LayerReport",
    "SleepReport",
    "PhaseReport",
    "SharingModule",
]
BASES = ["Border", "Phase", "Stimulus", "Network", "Optimizer", "Feedback", "Control", "LayerMean", "Shrinking"]
TESTED_WITH_DATA = ["Batches", "Dataset", "load", "own_data"]
HOMES = {"controls": controls, "setting": setting, "functional": functional, "config": config}
HOMES |= {"gradient": gradient, "data": data, "runs": runs, "networks": networks}
ARRAYS = """angle forgetting samples tau_noise turn theory.mirror_angle.inputs theory.mirror_angle.updates
    theory.mirror_samples.inputs"""
RIGHT = {
    "None": """ax before bias covariance device dtype feedback flip gain gate inhibition inputs keep layers neurons
        optimizer plasticity pool presentations rescale rule sample_every seed start_from stimulus threads
        train_images width count data graphs processes record_snr scheduler seconds workers
        gradient.differentiable_sleep.alpha gradient.differentiable_sleep.gamma
        gradient.differentiable_sleep.learning_rate""",
    "True": """backpropagates bias centred class_token compile dense dropout feedback flip inhibitory_bias linear
        match_positions measure nesterov graphs norm_after padded_columns past_norms progress rectified rescale resume
        shuffle
        tensorboard validation""",
    "text": "config.Snapshot.run data name path scheduler train.trained_network.folder",
    "inf": "alpha checkpoint_every theory.mirror_angle.updates tolerance",
    "-1": "baseline bias first inhibitory_bias mean nn.interpolated.part",
    "0": """age_above age_below alignment alpha baseline bias channel checkpoint_every class_tokens
        config.Snapshot.epoch decay first first_updates gamma
        groups_seed images_seed inhibitory_bias input_channel output_channel
        keep_first learning_rate mean momentum nn.interpolated.part noise padding pool_seed
        power rate rank scale seconds seed sigma silence smallest spread start std steps stiffness table turn wait
        warm_up weight_decay""",
    "2.5": """alignment alpha amplitude angle baseline bias checkpoint_every decay divisor dt floor gain gamma
        inhibitory_bias learning_rate mean memory nn.interpolated.part
        noise offset period power rate samples scale seconds sigma std stiffness table tau tau_crosstalk tau_noise times
        tolerance turn weight_decay width""",
    "5e-324": """alignment alpha baseline bias checkpoint_every decay first floor gamma inhibitory_bias
        learning_rate mean momentum nn.interpolated.part noise power rate scale
        seconds sigma spread std stiffness table turn weight_decay""",
    "empty": "record",
    "dict": "values",
    "seven axes": """alpha baseline bias decay dt dt_over_tau gamma inhibitory_bias mean noise patterns power rate
        sigma std stimuli tau tau_crosstalk w_init weights """
    + ARRAYS,
    "bfloat16 tensor": """alpha array baseline bias decay dt dt_over_tau feedback gamma inhibitory_bias mean noise
        patterns power rate sigma std stimuli stimulus tau tau_crosstalk value w_init weights x """
    + ARRAYS,
    "learning tensor": """alpha array baseline bias decay dt dt_over_tau gamma inhibitory_bias mean noise patterns
        power rate sigma std stimuli stimulus tau tau_crosstalk value w_init weights """
    + ARRAYS,
}
"""Arguments (some of a single call) for which a value can be right; an odd value accepted elsewhere is a fault."""

CALLED = {("config.ImageData", "name"): "dataset", ("config.Every", "n"): "every"}
"""Names of arguments in messages, where the command line has another word than the field."""


def function_of(call):
    home, *rest = call.split()[0].split(".")
    return functools.reduce(getattr, rest, HOMES.get(home) or getattr(bs, home))


CASES = [
    (call, name)
    for call in CALLS
    for name, parameter in inspect.signature(function_of(call)).parameters.items()
    if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    # a name in messages; and an engine that a sleep checks when called, tested in tests/bridge/test_refusals.py
    and (call, name) not in (("stimuli.as_stimulus", "name"), ("Sleep", "engine"))
    and name != "self"
]


def called(call, **odd):
    arguments = CALLS[call]() | odd
    given = [arguments.pop("self")] if "self" in arguments else []
    return function_of(call)(*given, **arguments)


def fault(call, name, kind):
    """The fault of a call with an odd value, or None."""
    try:
        returned = called(call, **{name: ODD[kind]})
    except (TypeError, ValueError) as error:
        named = re.search(rf"\b{CALLED.get((call, name), name)}\b", str(error))
        if named:
            return None
        if not re.search(STOPPED.get(call, "(?!)"), str(error)):
            return f"an error without the name: {error}"
        returned = None
    except FileNotFoundError:
        return None if name in ("path", "folder") else "no file"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if not {name, f"{call}.{name}"} & set(RIGHT.get(kind, "").split()):
        return "accepted"
    number = isinstance(returned, float | np.ndarray) and np.isnan(returned).any()
    return "not a number" if number else None


@pytest.mark.parametrize(("call", "name"), CASES, ids=[f"{call} {name}" for call, name in CASES])
def test_an_odd_argument_is_right_or_refused_by_name(call, name):
    faults = {kind: found for kind in ODD if (found := fault(call, name, kind))}
    assert not faults


@pytest.fixture(autouse=True, scope="module")
def folder_with_a_run(tmp_path_factory):
    """The current folder holds a run by the name that is an odd value, so that no call of `fit` trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        Path(ODD["text"]).mkdir()
        Path(ODD["text"], CHECKPOINT).touch()
        yield


NO_FILE = "SleepRun.load", "MirrorRun.load", "explore"


@pytest.mark.parametrize("call", [call for call in CALLS if call not in (*NO_FILE, *STOPPED)])
def test_the_good_call_is_good(call):
    called(call)


@pytest.mark.parametrize("call", STOPPED)
def test_a_good_call_that_would_train_ends_at_the_last_check(call):
    with pytest.raises(ValueError, match=STOPPED[call].split("|")[0]):
        called(call)


def test_every_public_function_and_class_is_among_the_calls():
    seen = {function_of(call) for call in CALLS}
    for module in (bs, bs.theory, bs.rules, bs.stimuli, bs.bridge, bs.nn, bs.train, data, config, controls):
        public = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__ and name[0] != "_"
        ]
        missing = {name for name in public if callable(getattr(module, name)) and getattr(module, name) not in seen}
        assert missing <= {*RESULTS, *BASES, *TESTED_WITH_DATA}


@pytest.mark.parametrize(
    ("refused", "name"),
    [
        (lambda: bs.Sleep.rate_circuit(1e9), "alpha"),
        (lambda: bs.Sleep.rate_circuit(times=1e9)(layer()), "presentations"),
        (lambda: GAUSSIAN.draw(10**12, 9, seed=0), "presentations"),
        (lambda: bs.RateCircuit(dt=1e-9), "dt"),
        (lambda: bs.nn.resnet18(width=1e99), "width"),
        (lambda: bs.nn.cifar_resnet(width=1e9), "width"),
        (lambda: bs.simulate(1e200 * W, X, STEADY, RULE), "weights"),
        (lambda: bs.simulate(1e30 * W, X, STEADY, RULE, bs.Exact("float32")), "weights"),
    ],
)
def test_work_beyond_memory_and_squares_beyond_float64_are_refused(refused, name):
    with pytest.raises(ValueError, match=rf"\b{name} must be"):
        refused()


@pytest.mark.parametrize("measure", [bs.theory.snr, bs.theory.inverse_snr, bs.theory.neg_log_snr])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_weight_that_is_not_finite_is_never_perfectly_shared(measure, value):
    weights = W.copy()
    weights[2, 1] = value
    with pytest.raises(ValueError, match=rf"weights\[2, 1\] is {value}"):
        measure(weights)
