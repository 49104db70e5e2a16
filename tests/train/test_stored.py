"""Configurations as text: every float comes back, old and unknown ones are refused."""

import dataclasses
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from bioshare.bridge import HebbianSharing, InstantSharing, LearnedGroups, Phase, Sleep
from bioshare.bridge.controls import LayerMean, RandomGroups, Shrinking
from bioshare.bridge.scaling import PerInput
from bioshare.circuit import rules, stimuli
from bioshare.circuit.circuits import RateCircuit, SteadyState
from bioshare.circuit.rules import Hebbian
from bioshare.train.config import AdamW, Convolutional, Every, ImageNet, LocallyConnected, Network, TrainConfig
from bioshare.train.stored import check_same, config_of, config_text, differences

PATH = Path("run", "result.nc")


@dataclasses.dataclass(frozen=True)
class Halving(Phase):
    """Halve all weights."""

    factor: float = 0.5

    def change(self, model, seed=0, *, optimizer=None):
        for parameter in model.parameters():
            parameter.detach().mul_(self.factor)


PHASES = {
    "instant": InstantSharing("keep", "share"),
    "circuit": Sleep.rate_circuit(50.0, pool=3, pool_seed=2**62 + 1, rescale=False),
    "ideal": Sleep.steady_state(gamma=0.1 + 0.2, stimulus=stimuli.noise(stimuli.gaussian(0.5), 1 / 3)),
    "paper": Sleep.paper(),
    "own": Sleep(
        RateCircuit(alpha=3.0, dt=0.5),
        Hebbian(0.1, 0.0, learning_rate=rules.InverseDecay(1 / 3)),
        stimuli.grid(),
        PerInput(2),
        patterns="drawn",
    ),
    "hebbian": HebbianSharing(rule=Hebbian(learning_rate=1e-300), batch_size=7),
    "learned groups": LearnedGroups(50, 1 / 3, 0.1 + 0.2, 2**62 + 1),
    "halving": Halving(0.1),
    "random groups": RandomGroups(3),
    "layer mean": LayerMean(),
    "shrinking": Shrinking(),
}


@pytest.mark.parametrize("name", PHASES)
def test_a_configuration_comes_back_from_its_text(name):
    config = TrainConfig(
        dataset=ImageNet("random-resized"),
        network=LocallyConnected("resnet18", 1),
        optimizer=AdamW(math.nextafter(1e-3, 1), 5e-324),
        milestones=(0.1, 1 / 3),
        phases=(Every(3, PHASES[name], "run"), Every(2, InstantSharing())),
        flip=False,
        train_images=100,
        seed=7,
    )
    again = config_of(config_text(config), PATH)
    assert again == config
    assert repr(again) == repr(config)  # True is not 1
    assert config_text(again) == config_text(config)
    assert pickle.loads(pickle.dumps(config)) == config


def test_numbers_of_numpy_are_written_as_the_numbers_of_python():
    config = TrainConfig(seed=np.int64(3), phases=(Every(np.int32(2), Halving(np.float32(0.25))),), flip=None)
    text = config_text(config)
    assert text == config_text(TrainConfig(seed=3, phases=(Every(2, Halving(0.25)),)))
    assert config_of(text, PATH) == config


def test_an_infinite_number_is_written_as_strict_json():
    config = TrainConfig(phases=(Every(1, Sleep.steady_state()),))
    strict = json.loads(config_text(config), parse_constant=pytest.fail)
    assert strict["phases"][0]["phase"]["circuit"] == {"type": "SteadyState", "alpha": {"type": "float", "text": "inf"}}
    assert config_of(config_text(config), PATH).phases[0].phase.circuit == SteadyState(math.inf)


@pytest.mark.parametrize(
    ("field", "value"), [("presentations", lambda inputs: 3), ("rule", lambda inputs: Hebbian(learning_rate=0.1))]
)
def test_a_function_is_refused_with_its_place_and_the_remedy(field, value):
    sleep = dataclasses.replace(Sleep.rate_circuit(), **{field: value})
    message = rf"^config\.phases\[1\]\.phase\.{field} must be .*lambda.*frozen dataclass.*STORABLE"
    with pytest.raises(ValueError, match=message):
        config_text(TrainConfig(phases=(Every(1, InstantSharing()), Every(2, sleep))))


def test_a_text_that_is_no_configuration_of_this_version_is_refused_by_name():
    text = config_text(TrainConfig())
    for old in (None, {"dataset": "digits"}, text.replace("epochs", "share_every")):
        with pytest.raises(ValueError, match=r"result\.nc was written by an older version of bioshare; train the run"):
            config_of(old, PATH)
    with pytest.raises(ValueError, match=r"holds a Mirroring, a type that isn't known: import the module"):
        config_of(text.replace("ImageData", "Mirroring"), PATH)


def test_a_field_that_a_text_lacks_has_its_default():
    fields = json.loads(config_text(TrainConfig(epochs=3)))
    del fields["compile"]
    assert config_of(json.dumps(fields), PATH) == TrainConfig(epochs=3)


def test_differences_are_named_wherever_they_are():
    ours = TrainConfig(phases=(Every(3, Sleep.rate_circuit(20.0)),), dataset="digits", optimizer=AdamW(0.1))
    theirs = TrainConfig(phases=(Every(4, Sleep.rate_circuit(20.0, pool=2)),))
    expected = [("dataset", "digits", "cifar10"), ("learning_rate", 0.1, 1e-3), ("every", 3, 4), ("pool", None, 2)]
    assert list(differences(ours, theirs)) == expected
    assert list(differences(ours, ours)) == []
    (found,) = differences(
        TrainConfig(phases=(Every(1, Halving()),)), TrainConfig(phases=(Every(1, InstantSharing()),))
    )
    assert found == ("phase", Halving(), InstantSharing())


def test_a_file_of_another_run_is_refused_with_all_differences():
    text = config_text(TrainConfig())
    check_same(TrainConfig(), text, PATH)
    with pytest.raises(ValueError, match=r"^config must be that of the run in run: epochs was 200 and is now 3, seed"):
        check_same(TrainConfig(epochs=3, seed=1), text, PATH)


def test_a_class_with_the_name_of_one_of_ours_is_refused_and_hides_nothing():
    text = config_text(TrainConfig(network=Convolutional("resnet8")))

    own = dataclasses.make_dataclass("Convolutional", [("channels", int, 3)], bases=(Network,), frozen=True)
    with pytest.raises(ValueError, match=r"another bioshare\.train\.config\.Convolutional\. Rename the class"):
        config_text(TrainConfig(network=own()))
    assert config_of(text, Path("file")).network == Convolutional("resnet8")
