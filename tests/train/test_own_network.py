"""A network of one's own in a run."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from tiny_runs import CONFIG, run, tiny

from bioshare.nn import to_locally_connected
from bioshare.train import evaluate, trained_network
from bioshare.train.config import Network
from bioshare.train.data import load
from bioshare.train.data import test_batches as batches_for_testing
from bioshare.train.stored import config_of, config_text


@dataclass(frozen=True)
class Mine(Network):
    start: str = "independent"

    def build(self, num_classes, input_size):
        return to_locally_connected(tiny(num_classes, input_size[0]), input_size, self.start)


def test_a_network_of_ones_own_is_trained_stored_and_made_again(tmp_path):
    config = dataclasses.replace(CONFIG, network=Mine("copy"), epochs=1)
    assert config_of(config_text(config), tmp_path) == config
    result = run(tmp_path, config)
    again = run(tmp_path, config, resume=True)
    tests = batches_for_testing(load("digits"), config, torch.device("cpu"))
    assert evaluate(trained_network(tmp_path), tests)["top1"] == result.top1[-1] == again.top1[-1]
    assert result.attrs["sharings"] == 2
    with pytest.raises(ValueError, match="start was copy and is now independent"):
        run(tmp_path, dataclasses.replace(config, network=Mine()), resume=True)


def test_a_network_without_a_method_is_refused_by_name(tmp_path):
    @dataclass(frozen=True)
    class Empty(Network):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty must have the method build\(num_classes, input_size\)"):
        run(tmp_path, dataclasses.replace(CONFIG, network=Empty()))
