import argparse
import dataclasses
import math
import re

import numpy as np
import pytest
import torch

import bioshare as bs
from bioshare import bridge
from bioshare.train import demo

TINY = demo.DemoSettings(images=50, steps=4, batch=8, every=2)


@pytest.fixture(scope="module")
def results():
    state = torch.random.get_rng_state()
    found = demo.run_demo([0, 1], TINY, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator stays as it was
    return found


def test_the_table_has_a_row_for_every_network(results):
    heads, *rows, note, settings = str(results).splitlines()
    assert [row.split("  ")[0] for row in rows] == [network.name for network in demo.NETWORKS]
    assert {len(row) for row in rows} == {len(heads)}
    assert note.startswith("mean +- standard deviation over 2 seeds;")
    assert settings == repr(TINY)


def test_the_table_has_the_differences_to_the_plain_network_over_the_same_seeds():
    pairs = {"convolutional": [70.0, 60.0], "locally connected": [40.0, 34.0]}
    trials = {name: [demo.Trial(accuracy, 1.0) for accuracy in values] for name, values in pairs.items()}
    _, convolutional, plain, *_ = str(demo.DemoResults(TINY, dict.fromkeys(pairs, 0.3), trials)).splitlines()
    assert re.split("  +", convolutional)[-2] == "+28.0 +- 2.0"
    assert re.split("  +", plain) == ["locally connected", "0.3", "37.0 +- 4.2", "1.0"]


def test_trials_hold_what_was_measured(results):
    for network in demo.NETWORKS:
        trials = results.trials[network.name]
        assert len(trials) == 2
        assert all(0 <= trial.accuracy <= 100 for trial in trials)
        assert all(math.isnan(trial.neg_log_snr) != network.locally_connected for trial in trials)


@pytest.mark.parametrize("name", ["instant sharing", "ideal sleep", "rate-circuit sleep, alpha = 10"])
def test_sharing_makes_the_weights_of_a_group_agree(results, name):
    plain, instant = results.trials[demo.PLAIN.name], results.trials[f"... {name}"]
    assert all(shared.neg_log_snr < own.neg_log_snr - 3 for own, shared in zip(plain, instant, strict=True))


def test_a_seed_gives_the_same_network_whatever_other_networks_there_are(results):
    again = demo.run_demo([1], TINY, demo.NETWORKS[::-2], progress=False)
    for name, (trial,) in again.trials.items():
        np.testing.assert_array_equal(dataclasses.astuple(trial), dataclasses.astuple(results.trials[name][1]))


def test_a_phase_that_is_not_repeated_follows_the_first_step_alone():
    seeds = []

    class Recording(bridge.Phase):
        def change(self, model, seed=0, *, optimizer=None):
            seeds.append(seed)

    for repeated in (True, False):
        demo.run_demo([3], TINY, [demo.DemoNetwork("a", 0.1, Recording(), repeated=repeated)], progress=False)
    assert seeds == [12, 14, 12]


def test_every_image_is_whole_and_somewhere_on_the_canvas():
    images = torch.rand(200, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        placed = demo._placed(images)
    assert placed.shape == (200, 1, demo.CANVAS, demo.CANVAS)
    found = placed > 0
    assert torch.equal(placed[found], images.flatten())
    places = {tuple(image[0].nonzero()[0].tolist()) for image in found}
    assert {row for row, _ in places} == {column for _, column in places} == set(range(demo.CANVAS - 8 + 1))


def test_the_rate_circuit_sleep_shares_and_keeps_the_mean():
    """Means shrink to 80 % in the circuit, without a trace of the bias, and rescaling undoes the loss."""
    layer = bs.nn.LocallyConnected2d(2, 4, 3, input_size=20).double()
    with torch.no_grad():
        layer.weight.normal_(1, 1, generator=torch.Generator().manual_seed(0))
    before = [module.groups(layer.weight).mean(1).norm(dim=-1) for module in bridge.modules(layer)]
    (phase,) = (network.phase for network in demo.NETWORKS if "rate-circuit" in network.name)
    row = phase(layer, progress=False).layers[0]
    after = [module.groups(layer.weight).mean(1).norm(dim=-1) for module in bridge.modules(layer)]
    torch.testing.assert_close(after, before)
    assert row.neg_log_snr_after < row.neg_log_snr_before - 5
    assert row.mean_norm == pytest.approx(0.8, abs=0.02)
    assert row.mean_angle < 2.5


def test_no_seed_trains_or_tests_on_a_validation_image(monkeypatch):
    """Every image has a number as its label."""
    monkeypatch.setattr(demo, "load_digits", lambda **_: (np.ones((1797, 64)), np.arange(1797)))
    held_out = set()
    for seed in range(2):
        torch.manual_seed(seed)
        _, training, _, testing = demo._placed_digits(400, validation=False)
        torch.manual_seed(seed)
        _, same, _, validation = demo._placed_digits(400, validation=True)
        assert torch.equal(same, training)
        assert sorted([*training.tolist(), *testing.tolist(), *validation.tolist()]) == list(range(1797))
        held_out.add(tuple(validation.tolist()))
    assert len(held_out) == 1
    assert [len(part) for part in (training, testing, validation)] == [400, 1000, demo.VALIDATION_IMAGES]


@pytest.mark.parametrize("best", demo.LEARNING_RATES)
def test_a_search_goes_on_until_the_best_learning_rate_has_neighbours(best, monkeypatch):
    seen = []

    def trial(network, settings, seed, bar, validation):
        seen.append((network.learning_rate, seed, validation))
        return demo.Trial(50 - 10 * abs(math.log10(network.learning_rate / best)) + seed, math.nan)

    monkeypatch.setattr(demo, "_trial", trial)
    search = demo.search_learning_rates([100, 101], TINY, demo.NETWORKS[:1], progress=False)
    assert search.best("convolutional") == best
    index, tried = demo.LEARNING_RATES.index(best), search.accuracies["convolutional"]
    assert {*demo.FIRST_LEARNING_RATES, *demo.LEARNING_RATES[max(index - 1, 0) : index + 2]} <= set(tried)
    assert sorted(seen) == [(rate, seed, True) for rate in sorted(tried) for seed in (100, 101)]
    heads, row, _ = str(search).splitlines()
    assert heads.split() == ["network", *(f"{rate:g}" for rate in sorted(tried)), "best"]
    assert row.endswith(f"  {best:g}")
    assert "150.5 +- 0.7" in row


def test_interruption_returns_the_complete_trials(monkeypatch):
    trial, calls = demo._trial, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trial(*arguments)

    monkeypatch.setattr(demo, "_trial", interrupted)
    results = demo.run_demo([0], TINY, progress=False)
    assert [len(trials) for trials in results.trials.values()] == [1, 1] + [0] * (len(demo.NETWORKS) - 2)
    assert len(str(results).splitlines()) == 5
    calls[:] = [None, None]
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo([0], TINY, progress=False)


def test_the_command_line(monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    for work in ("run_demo", "search_learning_rates"):
        monkeypatch.setattr(demo, work, lambda seeds, settings, work=work: f"{work} {list(seeds)} {settings.steps}")
    demo.main(parser.parse_args(["--seeds", "2", "--steps", "7"]))
    demo.main(parser.parse_args(["--seeds", "2", "--tune"]))
    demo.main(parser.parse_args([]))
    assert capsys.readouterr().out.splitlines() == [
        "run_demo [0, 1] 7",
        "search_learning_rates [100, 101] 250",
        "run_demo [0, 1, 2, 3, 4] 250",
    ]
