"""The time that a sleep takes in the brain: presentations, silence included, times the time for which each is held."""

import math

import pytest
from small_layers import GENTLE, gentle, layer, network
from torch import nn

import bioshare as bs
from bioshare.bridge import LayerReport, SleepReport


def times(model):
    """Minutes of five cycles of the grid and a silence, 150 ms each, of every convolution."""
    inputs = [math.prod(part.weight.shape[1:]) for part in model.modules() if isinstance(part, nn.Conv2d)]
    return [(5 * k + 1) * 0.150 / 60 for k in inputs]


@pytest.mark.parametrize(
    ("model", "total", "longest"),
    [
        (lambda: bs.nn.resnet20(), pytest.approx(71, abs=0.5), pytest.approx(7.2, abs=0.05)),
        (lambda: bs.nn.resnet18(width=0.5), pytest.approx(60 * 3.3, abs=3), pytest.approx(28.8, abs=0.05)),
    ],
    ids=["ResNet-20", "0.5x ResNet-18"],
)
def test_the_time_asleep_of_the_papers_networks(model, total, longest):
    found, sleep = model(), bs.Sleep.rate_circuit()
    inputs = [part.weight[0].numel() for part in found.modules() if isinstance(part, nn.Conv2d)]
    assert [sleep.minutes(k) for k in inputs] == pytest.approx(times(found), abs=1e-9)
    assert sum(times(found)) == total
    assert max(times(found)) == longest


@pytest.mark.parametrize("measure", [True, False])
def test_every_layer_of_a_report_has_its_time(measure):
    report = bs.Sleep.rate_circuit(alpha=50.0, times=2.0)(network(), measure=measure)
    assert [row.minutes for row in report.layers] == pytest.approx([37 * 0.15 / 60, 73 * 0.15 / 60], abs=1e-12)


@pytest.mark.parametrize(
    ("sleep", "minutes"),
    [
        (gentle(bs.RateCircuit(duration=10.0), silence=3), 23 * 10 / 60_000),
        (gentle(bs.RateCircuit(duration=10.0), presentations=lambda inputs: 7 * inputs), 126 * 10 / 60_000),
        (gentle(bs.SteadyState(5.0)), 20 * 150 / 60_000),
        (gentle(bs.SteadyState(), patterns="relayed"), 20 * 150 / 60_000),
        (gentle(bs.SteadyState(), bs.stimuli.noise(bs.stimuli.grid(), 0.1), silence=1), 21 * 150 / 60_000),
        (bs.Sleep.steady_state(), 90 * 150 / 60_000),
        (bs.Sleep.paper(times=10_000), 180_000 * 150 / 60_000),
        (bs.InstantSharing(), math.nan),
        (bs.HebbianSharing(rule=GENTLE), math.nan),
    ],
)
def test_a_presentation_lasts_as_long_as_it_is_held(sleep, minutes):
    assert sleep.minutes(18) == pytest.approx(minutes, abs=1e-9, nan_ok=True)
    if minutes < 10:
        assert sleep(layer(kernel_size=3)).layers[0].minutes == pytest.approx(minutes, abs=1e-9)


def test_a_layer_without_modules_does_not_sleep():
    model = nn.Sequential(layer(kernel_size=3), layer(kernel_size=3, input_size=(5, 5)))
    asleep, awake = bs.Sleep.rate_circuit()(model).layers
    assert asleep.minutes > 0
    assert math.isnan(awake.minutes)


@pytest.mark.parametrize(
    ("minutes", "line"),
    [
        ([0.34], "time asleep: 0.34 min"),
        ([0.34, math.nan], "time asleep: 0.34 min"),
        ([64.0, 7.2025], "time asleep: 71 min one layer after another, 64 min all at once"),
        ([169.2, 28.805], "time asleep: 3.3 h one layer after another, 2.8 h all at once"),
    ],
)
def test_the_last_line_of_a_report_is_the_time_asleep(minutes, line):
    rows = [LayerReport(str(i), 1, 0.1, 1.0, 0.0, 1.0, -1.0, each, 0.0) for i, each in enumerate(minutes)]
    assert str(SleepReport(tuple(rows))).splitlines()[-1] == line
    assert "minutes" in str(SleepReport(tuple(rows))).splitlines()[0]


@pytest.mark.parametrize("sharing", [bs.InstantSharing(), bs.HebbianSharing()], ids=lambda one: type(one).__name__)
def test_a_sharing_without_time_has_neither_column_nor_line(sharing):
    report = sharing(network())
    assert all(math.isnan(row.minutes) for row in report.layers)
    assert "minutes" not in str(report)
    assert "asleep" not in str(report)
    assert report.to_xarray().minutes.isnull().all()
