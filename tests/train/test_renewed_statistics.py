"""Statistics of batch normalisation at a test: of the weights after the last phase."""

from itertools import islice

import pytest
import torch
from tiny_runs import assert_same_ending, interrupt, run, tiny, varied

from bioshare.train import run as training
from bioshare.train.config import ARCHITECTURES
from bioshare.train.data import load, training_batches
from bioshare.train.fitting import trained_network


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)


def test_after_a_phase_in_the_last_batch_the_statistics_are_of_the_new_weights(tmp_path):
    config = varied(n=5, first=4)  # five batches an epoch
    run(tmp_path, config)
    convolution, norm = trained_network(tmp_path)[:2]
    batches = training_batches(load("digits"), config, torch.device("cpu")).epoch(config.epochs)
    with torch.no_grad():
        values = [convolution(x).transpose(0, 1).flatten(1) for x, _ in islice(batches, 4)]  # (channels, values)
    mean, variance = (torch.stack([f(y, dim=1) for y in values]).mean(0) for f in (torch.mean, torch.var))
    torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_var, variance, rtol=0, atol=1e-6)


@pytest.mark.parametrize("every", [{"n": 3}, {"n": 1}, {"n": 2, "first": 1}, {"n": 100}])
def test_other_phases_leave_the_statistics_of_training(tmp_path, monkeypatch, every):
    renewals = []
    monkeypatch.setattr(training, "renew_statistics", lambda *given: renewals.append(given))
    result = run(tmp_path, varied(**every, epochs=1))
    assert result.attrs["sharings"] > 0
    assert renewals == []


def test_a_run_that_renews_its_statistics_resumes_exactly(tmp_path):
    config = varied(n=5, first=4)
    run(tmp_path / "straight", config)
    for step in (3, 4, 5):
        interrupt(tmp_path / "stopped", step, config, resume=True)
    run(tmp_path / "stopped", config, resume=True)
    assert_same_ending(tmp_path / "stopped", tmp_path / "straight")
