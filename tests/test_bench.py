import math
import os
import re
from argparse import Namespace
from functools import partial

import pytest
import torch
from torch import nn

from bioshare.__main__ import main
from bioshare.bench import bridge
from bioshare.bench.layer import FORMS, STAGES, step
from bioshare.bench.timing import available_bytes, peak_bytes, turns
from bioshare.bench.train import NETWORKS, network
from bioshare.bridge import InstantSharing, Sleep
from bioshare.nn import to_locally_connected


def test_all_forms_of_a_layer_compute_the_same():
    layers = [FORMS[name](4, 4, 3, padding=1, input_size=6, bias=False) for name in FORMS]
    kernel = torch.randn(4, 4, 3, 3)
    x = torch.randn(2, 4, 6, 6)
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(kernel)
    for layer in layers[1:]:
        torch.testing.assert_close(layer(x), layers[0](x), rtol=0, atol=1e-5)


def test_all_networks_compute_scores():
    for name in NETWORKS:
        assert network(name)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.slow
def test_a_larger_batch_peaks_higher_and_the_naive_form_highest():
    peak = lambda name, batch: peak_bytes(step, name, batch, 16, 32, "fp32", "cpu")
    small, large, naive = peak("LocallyConnected2d", 64), peak("LocallyConnected2d", 256), peak("unfold + einsum", 256)
    assert 1e6 < small < large < naive / 2


@pytest.mark.parametrize("options", [["layer", "--batches", "2"], ["train", "--batches", "2"]])
@pytest.mark.slow
def test_the_benches_print_a_line_for_every_case(options, capsys):
    main(["bench", *options, "--repeats", "1", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + (len(STAGES) if options[0] == "layer" else len(NETWORKS))


CPU = torch.device("cpu")
ROW = re.compile(r"(\S.{43})((?: +(?:-?\d+(?:\.\d+)?|-?inf|nan|-|->))+)")


def small_network():
    """Layers of 27, 36 and 4 inputs per neuron, the last one 1 x 1."""
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 10, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bridge, "NETWORKS", dict.fromkeys(bridge.NETWORKS, ("small", small_network)))


def test_turns_alternate_and_every_work_is_told_at_its_last_one():
    done = []
    works = {name: partial(done.append, name) for name in "ab"}
    seen = [(name, len(done)) for name, seconds in turns(works, 3, CPU) if seconds >= 0]
    assert done == [*"ababab"]
    assert seen == [("a", 5), ("b", 6)]


def bridge_rows(capsys, *options):
    """Name and cells of each row that ``bench bridge`` prints."""
    assert main(["bench", "bridge", "--batch", "2", "--batch18", "2", "--threads", "1", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    matches = filter(None, map(ROW.fullmatch, lines))
    return [(match[1].strip(), match[2].replace("->", " ").split()) for match in matches]


def test_the_bench_of_sleeps_prints_a_row_for_each(small, capsys):
    options = "--image18", "8", "--repeats", "2", "--pool", "2", "--relayed", "--noise"
    rows = bridge_rows(capsys, *options)
    steps = ["training step", "training step, convolutional"]
    expected = [name for pool in (2, 1) for name in (*steps, *bridge.sharings(pool, relayed=True), *bridge.noisy())]
    assert [name for name, _ in rows] == expected
    for name, cells in rows:
        numbers = [float(cell) for cell in cells if cell != "-"]
        assert numbers[0] > 0
        assert len(cells) == (2 if name in steps else 10)
        assert not any(map(math.isnan, numbers))


def test_maps_are_simulated_in_fresh_sleeps_and_not_from_a_pool(small, capsys):
    rows = dict(bridge_rows(capsys, "--networks", "resnet20", "--repeats", "1", "--pool", "3", "--relayed"))
    maps = {name: int(cells[3]) for name, cells in rows.items() if len(cells) == 10}
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
    bridge.warm_up(sleep := Sleep.rate_circuit(pool=3), model)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert sorted(key[:2] for key in sleep.pooled) == [(k, n) for k in (4, 27, 36) for n in range(3)]
    assert sum(sleep(model, seed, progress=False).maps for seed in range(5)) == 0


def test_the_effect_is_the_median_of_the_layers_that_took_part():
    model = to_locally_connected(small_network(), (3, 8, 8))
    report = InstantSharing()(model)
    middle = sorted(layer.neg_log_snr_before for layer in report.layers)[1]
    effect = bridge.effect_of(report)
    assert effect.before == middle
    assert effect.spread == pytest.approx(0, abs=1e-6)
    assert effect.mean_norm == pytest.approx(1, abs=1e-6)


def test_a_network_that_does_not_fit_is_refused_before_any_work(small, monkeypatch, capsys):
    monkeypatch.setattr(bridge, "available_bytes", lambda device: 1000)
    assert main(["bench", "bridge", "--networks", "resnet18", "--image18", "64"]) == 1
    told = capsys.readouterr()
    assert "small at 64 x 64 needs 0.0 GB on cpu" in told.err
    assert "training step" not in told.out


def test_the_weights_are_counted_without_building_the_network(small):
    arguments = {"image18": 9, "batch18": 2, "repeats18": 1, "pool18": 1, "dtype": "fp32", "device": "cpu"}
    case = bridge.Case.of("resnet18", Namespace(**arguments))
    assert case.weights() == sum(weight.numel() for weight in case.network().parameters())


def test_a_case_builds_the_same_network_every_time_and_leaves_the_generator_alone(small):
    arguments = {"batch": 2, "repeats": 1, "pool": 1, "dtype": "fp32", "device": "cpu"}
    case = bridge.Case.of("resnet20", Namespace(**arguments))
    state = torch.get_rng_state()
    pairs = zip(case.network().parameters(), case.network().parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(available_bytes(CPU) is None, reason="counts memory on Linux only")
def test_available_memory_is_a_part_of_all_memory():
    available = available_bytes(CPU)
    assert available is not None
    assert 1e6 < available < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
