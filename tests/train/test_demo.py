import argparse
import math

import pytest
import torch

import bioshare as bs
from bioshare.train import demo

TINY = demo.DemoSettings(images=50, steps=4, batch=8, every=2)


@pytest.fixture(scope="module")
def results():
    state = torch.random.get_rng_state()
    found = demo.run_demo([0, 1], TINY, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator stays as it was
    return found


def test_the_table_has_a_row_for_every_network(results):
    heads, *rows, note = str(results).splitlines()
    assert [row.split("  ")[0] for row in rows] == [network.name for network in demo.NETWORKS]
    assert {len(row) for row in rows} == {len(heads)}
    assert note.startswith("mean +- standard deviation over 2 seeds; DemoSettings(images=50")


def test_trials_hold_what_was_measured(results):
    for network in demo.NETWORKS:
        trials = results.trials[network.name]
        assert len(trials) == 2
        assert all(0 <= trial.accuracy <= 100 and trial.seconds > 0 for trial in trials)
        assert all(len(trial.sleeps) == (2 if network.sharing else 0) for trial in trials)
        assert all(math.isnan(trial.neg_log_snr) != network.locally_connected for trial in trials)


def test_sharing_makes_the_weights_of_a_group_agree(results):
    plain, instant = (results.trials[name] for name in ("locally connected", "... instant sharing"))
    assert all(shared.neg_log_snr < own.neg_log_snr - 3 for own, shared in zip(plain, instant, strict=True))


def test_the_same_seed_gives_the_same_network(results):
    again = demo.run_demo([1], TINY, demo.NETWORKS[-1:], progress=False).trials[demo.NETWORKS[-1].name][0]
    first = results.trials[demo.NETWORKS[-1].name][1]
    assert (again.accuracy, again.neg_log_snr) == (first.accuracy, first.neg_log_snr)


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


def test_the_rate_circuit_sleep_shares_and_keeps_the_direction_of_the_mean():
    """Deviations fall, the mean by about exp(-s / (1 + alpha)), and the bias leaves no trace."""
    layer = bs.nn.LocallyConnected2d(2, 4, 3, input_size=20).double()
    with torch.no_grad():
        layer.weight.normal_(1, 1, generator=torch.Generator().manual_seed(0))
    row = demo.rate_circuit_sleep()(layer).layers[0]
    assert row.neg_log_snr_after < row.neg_log_snr_before - 2
    assert row.mean_norm == pytest.approx(math.exp(-1 / 11), abs=0.02)
    assert row.mean_angle < 2.5


def test_interruption_returns_the_complete_trials(monkeypatch):
    trial, calls = demo._trial, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trial(*arguments)

    monkeypatch.setattr(demo, "_trial", interrupted)
    results = demo.run_demo([0], TINY, progress=False)
    assert [len(trials) for trials in results.trials.values()] == [1, 1, 0, 0, 0]
    assert len(str(results).splitlines()) == 4
    calls[:] = [None, None]
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo([0], TINY, progress=False)


def test_the_command_line(monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert vars(parser.parse_args([])) == {"seeds": 5, "steps": demo.DemoSettings().steps}
    monkeypatch.setattr(demo, "run_demo", lambda seeds, settings: f"{list(seeds)} {settings.steps}")
    demo.main(parser.parse_args(["--seeds", "2", "--steps", "7"]))
    assert capsys.readouterr().out == "[0, 1] 7\n"
