"""Angles of learning signals against signals computed by hand, and in cases with known angles."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from bioshare.bridge import Mirror, SignSymmetry
from bioshare.nn import angles, cifar_resnet, to_locally_connected, with_feedback
from bioshare.nn.feedback import degrees


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


squares = lambda y: y.square().sum() / 2


def test_three_layers_by_hand():
    model = with_feedback(
        seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)))
    )
    x = draw(6, 5)
    report = angles(model, x, squares)
    with torch.no_grad():
        first = model[0](x).tanh()
        second = model[2](first).tanh()
        top = model[4](second)
        signal, gradient = (top @ m * (1 - second**2) for m in (model[4].feedback, model[4].weight))
        lower_signal = signal @ model[2].feedback * (1 - first**2)
        lower_gradient = gradient @ model[2].weight * (1 - first**2)
        local = degrees(signal @ model[2].feedback, signal @ model[2].weight)
    assert [row.name for row in report.layers] == ["0", "2", "4"]
    assert [row.weight for row in report.layers] == [degrees(model[i].feedback, model[i].weight) for i in (0, 2, 4)]
    expected = [degrees(lower_signal, lower_gradient), degrees(signal, gradient), 0]
    assert [row.signal for row in report.layers] == pytest.approx(expected, abs=1e-5)
    assert report.layers[1].local == pytest.approx(local, abs=1e-9)
    ratio = float(lower_signal.norm() / lower_gradient.norm())
    assert report.layers[0].signal_ratio == pytest.approx(ratio, rel=1e-12)
    assert report.layers[2].signal_ratio == 1
    assert report.layers[1].weight_ratio == pytest.approx(
        float(model[2].feedback.norm() / model[2].weight.detach().norm())
    )


@pytest.mark.parametrize("locally_connected", [False, True])
def test_a_mirrored_network_learns_from_the_gradient(locally_connected):
    convert = (lambda net: to_locally_connected(net, (3, 8, 8))) if locally_connected else (lambda net: net)
    model, x = with_feedback(seeded(lambda: convert(cifar_resnet(8, 10, width=0.25)))), draw(8, 3, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = angles(model, x, squares)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(60 < row.weight < 120 for row in random.layers[:-1])  # some layers are small
    Mirror.exact()(model)
    exact = angles(model, x, squares)
    assert all(row.weight < 1e-5 for row in exact.layers[1:])
    assert all(row.signal < 1e-4 for row in exact.layers)
    assert all(row.signal_ratio == pytest.approx(1, abs=1e-9) for row in exact.layers)
    SignSymmetry("norm")(model)
    signs = angles(model, x, squares)
    assert all(20 < row.weight < 45 for row in signs.layers)
    assert all(b.signal < a.signal for a, b in zip(random.layers[:-1], signs.layers[:-1], strict=True))


def test_a_control_that_backpropagates_has_the_angles_of_signals_through_its_feedback_weights():
    parts = nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    model = with_feedback(seeded(lambda: nn.Sequential(*parts)))
    expected = angles(model, draw(6, 5), squares)
    for layer in model[::2]:
        layer.backpropagates = True
    assert angles(model, draw(6, 5), squares) == expected
    assert all(layer.backpropagates for layer in model[::2])
    assert expected.layers[1].local > 10


def test_dropout_is_the_same_in_both_passes_and_layers_may_change_their_inputs_in_place():
    model = seeded(lambda: nn.Sequential(nn.Linear(20, 30), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(30, 3)))
    report = angles(with_feedback(model, "weights"), draw(4, 20), squares)
    assert all(row.signal == 0 and row.signal_ratio == 1 for row in report.layers)


def test_a_report_becomes_a_dataset_a_table_and_a_picture():
    model = with_feedback(seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))))
    report = angles(model, draw(6, 5), squares)
    data = report.to_xarray()
    assert list(data["layer"].values) == ["0", "2"]
    assert data["signal"].values[1] == 0
    assert data["weight"].attrs["units"] == "degrees"
    assert str(report).count("\n") == 2
    assert report.draw().get_ylabel() == "angle, degrees"
    plt.close("all")


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="model must have feedback weights"):
        angles(nn.Linear(2, 2), torch.ones(1, 2), squares)
    layer = with_feedback(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="layer '0' must be used once"):
        angles(nn.Sequential(layer, layer), torch.ones(1, 2), squares)
    model = nn.Sequential(layer)
    model.unused = nn.Module()
    model.unused.layer = with_feedback(nn.Linear(2, 2))
    model.forward = lambda x: layer(x)
    with pytest.raises(ValueError, match=r"unused\.layer are not"):
        angles(model, torch.ones(1, 2), squares)


def test_angles_of_zero_are_nan():
    assert math.isnan(degrees(torch.zeros(3), torch.ones(3)))


def test_frozen_and_compiled_models_are_measured_as_they_are():
    make = lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model, x = with_feedback(seeded(make)), draw(6, 5)
    expected = str(angles(model, x, squares))
    assert str(angles(torch.compile(model, backend="eager"), x, squares)) == expected
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    assert str(angles(model, x, squares)) == expected
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode has none"):
        angles(model, x, squares)
