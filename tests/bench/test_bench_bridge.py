import math
import re

import pytest
import torch
from small_network import small_network, use_small_network

from bioshare.__main__ import main
from bioshare.bench import bridge
from bioshare.bridge import InstantSharing, Sleep
from bioshare.nn import to_locally_connected

ROW = re.compile(r"(\S.{41})((?: +(?:-?\d+(?:\.\d+)?|-?inf|nan|-))+)")


@pytest.fixture
def small(monkeypatch):
    use_small_network(monkeypatch)


def bridge_rows(capsys, *options):
    """Name and cells of each row that ``bench bridge`` prints."""
    assert main(["bench", "bridge", "--batch", "2", "--threads", "1", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    matches = filter(None, map(ROW.fullmatch, lines))
    return [(match[1].strip(), match[2].split()) for match in matches]


def test_the_bench_of_sleeps_prints_a_row_for_each(small, capsys):
    rows = bridge_rows(capsys, "--repeats", "2", "--pool", "2", "--relayed", "--noise")
    steps = ["training step", "training step, convolutional"]
    names = [*steps, *bridge.timed_phases(2, relayed=True), f"ideal sleep, noise of {bridge.NOISE}, once"]
    assert [name for name, _ in rows] == names
    for name, cells in rows:
        numbers = [float(cell) for cell in cells if cell != "-"]
        assert numbers[0] > 0
        assert len(numbers) == 2 if name in steps else len(numbers) >= 7
        assert not any(map(math.isnan, numbers))


def test_maps_are_simulated_in_fresh_sleeps_and_not_from_a_pool(small, capsys):
    rows = dict(bridge_rows(capsys, "--repeats", "1", "--pool", "3", "--relayed"))
    maps = {name: int(cells[3]) for name, cells in rows.items() if cells[3] != "-"}
    assert maps.pop("rate circuit, alpha = 10, from a pool of 3") == 0
    assert maps.pop("direct averaging") == 0
    assert set(maps.values()) == {3}
    megabytes = (
        3 * sum(4 * inputs**2 + 8 * (inputs**2 + inputs) for inputs in (27, 36, 4)) / 1e6
    )  # A; B and c in float64
    assert float(rows["rate circuit, alpha = 10, from a pool of 3"][5]) == pytest.approx(megabytes, rel=0, abs=0.05)


def test_warming_up_fills_a_pool_and_leaves_the_model_alone():
    model = to_locally_connected(small_network(), (3, 8, 8))
    before = [weight.detach().clone() for weight in model.parameters()]
    bridge.warm_up_phase(sleep := Sleep.rate_circuit(pool=3), model)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert sorted(key[:2] for key in sleep.pooled) == [(k, n) for k in (4, 27, 36) for n in range(3)]
    assert sum(sleep(model, seed, progress=False).maps for seed in range(5)) == 0


def test_the_effect_is_the_median_of_the_layers_that_took_part():
    report = InstantSharing()(to_locally_connected(small_network(), (3, 8, 8)))
    medians = bridge.layer_medians(report)
    assert medians["-log SNR before"] == sorted(layer.neg_log_snr_before for layer in report.layers)[1]
    assert medians["spread"] == pytest.approx(0, abs=1e-6)
    assert medians["|mean|"] == pytest.approx(1, abs=1e-6)


def test_a_network_that_does_not_fit_is_refused_before_any_work(small, monkeypatch, capsys):
    monkeypatch.setattr(bridge, "available_bytes", lambda device: 1000)
    assert main(["bench", "bridge", "--image", "64"]) == 1
    printed = capsys.readouterr()
    assert "small at 64 x 64 needs 0.0 GB on cpu" in printed.err
    assert "training step" not in printed.out
