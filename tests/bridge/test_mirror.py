"""The weight mirror against expectations, its closed law of the angle, and a plain loop over neurons."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from bioshare import Mirror, theory
from bioshare.bridge.mirror import tiled
from bioshare.nn import LocallyConnected2d, to_locally_connected, with_feedback
from bioshare.nn.feedback import connected, degrees, feedback_layers


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def angle(layer):
    seen = connected(layer) > 0
    return degrees(layer.feedback[seen], layer.weight[seen])


def dense(inputs, outputs=400, init="zeros"):
    """One layer with feedback."""
    return with_feedback(seeded(lambda: nn.Linear(inputs, outputs, bias=False)), init)


@pytest.mark.parametrize(
    ("activation", "centred", "ratio"),  # variance of an update over the squared mean, for one input
    [
        ("relu", True, lambda k: (2 - 2 / math.pi) * (k + 2) - 1),
        ("relu", False, lambda k: 2 * k + 3),
        ("linear", True, lambda k: k + 1),
    ],
)
def test_the_angle_of_an_update_follows_the_law(activation, centred, ratio):
    layer, samples, tangents = dense(144, outputs=100), 2048, []
    for seed in range(8):  # inputs with a large mean by chance are seen by all neurons
        layer.feedback.zero_()
        Mirror(activation=activation, centred=centred, samples=samples)(layer, seed=seed)
        tangents.append(math.tan(math.radians(angle(layer))) ** 2)
    found = math.degrees(math.atan(math.sqrt(np.mean(tangents))))
    expected = math.degrees(math.atan(math.sqrt(ratio(144) / samples)))  # 17.27, 20.65, 14.90
    assert abs(found - expected) < 0.3


def test_the_filter_of_many_updates_follows_the_law():
    layer = dense(256)
    mirror = Mirror(samples=256, updates=150)
    mirror(layer, seed=1)
    effective = 256 * (2 - mirror.forgetting) / mirror.forgetting
    expected = math.degrees(math.atan(math.sqrt(((2 - 2 / math.pi) * 258 - 1) / effective)))  # 10.62
    assert abs(angle(layer) - expected) < 0.3
    assert abs(projection(layer) - 255 / 256) < 0.01  # the mean is the weights, but for the centring


def projection(layer):
    """The factor c of c W in B."""
    w = layer.weight.detach()
    return float((layer.feedback * w).sum() / w.square().sum())


def test_the_decay_as_printed_ends_at_a_tenth():
    layer = dense(64)
    Mirror(decay_in="step", samples=1024, updates=30)(layer, seed=1)
    assert abs(projection(layer) - 0.1) < 0.003


def by_hand(layer, x, activation):
    """The mean of (y - mean y) x^T of a locally connected layer, position by position and tap by tap."""
    (rows, columns), (kh, kw) = layer.output_size, layer.kernel_size
    (sh, sw), (dh, dw), (left, _, top, _) = layer.stride, layer.dilation, layer.pad
    _, _, height, width = x.shape
    outputs, channels = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    result = torch.zeros_like(layer.weight)
    for h in range(rows):
        for w in range(columns):
            for o in range(layer.out_channels):
                z, taps = torch.zeros(len(x), dtype=x.dtype), []
                for c in range(channels):
                    for i in range(kh):
                        for j in range(kw):
                            row, column = h * sh + i * dh - top, w * sw + j * dw - left
                            if 0 <= row < height and 0 <= column < width:
                                seen = x[:, o // outputs * channels + c, row, column]
                                z = z + layer.weight[h, w, o, c, i, j].detach() * seen
                                taps.append(((c, i, j), seen))
                y = z.relu() if activation == "relu" else z
                for tap, seen in taps:
                    result[(h, w, o, *tap)] = ((y - y.mean()) * seen).mean()
    return result


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), st.sampled_from(["relu", "linear"]))
def test_an_update_equals_a_plain_loop(kernel, stride, padding, groups, activation):
    layer = seeded(lambda: LocallyConnected2d(2, 2, kernel, stride, padding, groups=groups, input_size=(4, 3)))
    layer = with_feedback(layer, "zeros")
    mirror = Mirror(activation=activation, samples=300, rate=1.0, decay=1.0)
    images = torch.cat(list(mirror._inputs(layer, torch.Generator().manual_seed(0))))
    found = mirror._correlation(layer, connected(layer), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, by_hand(layer, images, activation), rtol=0, atol=1e-12)


def test_padding_does_not_shrink_the_taps_at_the_border():
    """Sums are divided by the number of valid pairs: with much noise, B / W is the same at the corner and inside."""
    layer = with_feedback(seeded(lambda: LocallyConnected2d(1, 8, 3, padding=1, input_size=4)), "zeros")
    Mirror(samples=40_000, activation="linear", decay=1.0, rate=1.0)(layer, seed=0)
    seen = connected(layer) > 0
    scale = [
        float(
            (layer.feedback * layer.weight.detach())[at][seen[at]].sum()
            / layer.weight.detach()[at][seen[at]].square().sum()
        )
        for at in ((0, 0), (1, 1))
    ]
    assert scale == pytest.approx([1, 1], abs=0.02)
    assert not layer.feedback[~seen].any()
    assert int(seen[0, 0].sum()) == 8 * 4  # a corner sees four of nine taps


@pytest.mark.parametrize("noise", ["grid", "orthogonal"])
@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_designed_noise_mirrors_exactly(noise, activation, stride):
    convs = nn.Sequential(nn.Conv2d(2, 4, 3, stride, 1), nn.Conv2d(4, 6, (3, 2), dilation=(2, 3), padding=4, groups=2))
    for model in (convs, to_locally_connected(convs, (2, 9, 8))):
        layer = with_feedback(seeded(lambda model=model: model))[1]
        rate = 2.0 if activation == "relu" else 1.0
        Mirror(rate, 1.0, "step", noise, samples=8, sigma=1.0, activation=activation)(layer, seed=3)
        seen = connected(layer) > 0
        assert (layer.feedback - layer.weight)[seen].abs().max() < 1e-12
        assert seen.any()


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_that_copies_inputs_is_mirrored_exactly(padding_mode, stride):
    """A copy beside its original would reach a neuron through two weights at once."""
    options = {"padding": (1, 2), "stride": stride, "padding_mode": padding_mode}
    layer = with_feedback(seeded(lambda: LocallyConnected2d(3, 4, 3, input_size=(6, 5), **options)))
    Mirror.exact()(layer)
    assert (layer.feedback - layer.weight).abs().max() < 1e-12


def test_linear_neurons_need_half_of_the_presentations():
    layers = [dense(9), dense(9)]
    for layer, activation, presentations in zip(layers, ("relu", "linear"), (18, 9), strict=True):
        (row,) = Mirror.exact(activation)(layer).layers
        assert row.presentations == presentations
        assert (layer.feedback - layer.weight).abs().max() < 1e-12
    for centred, signs in ((True, 2), (False, 1)):  # the mean of a grid of one sign is not 0
        mirror = Mirror(1.0, 1.0, "step", "grid", activation="linear", centred=centred)
        assert mirror._length(9) == 9 * signs
        mirror(layers[0])
        assert (layers[0].feedback - layers[0].weight).abs().max() < 1e-12


def test_a_grid_passes_in_parts():
    layer = dense(600, outputs=2)
    parts = list(Mirror(noise="grid")._inputs(layer, torch.Generator()))
    assert max(map(len, parts)) == 256
    x = torch.cat(parts)
    assert (x.T @ x / len(x) - torch.eye(600, dtype=torch.float64)).abs().max() < 1e-12
    assert not x.sum(0).any()


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (2, 2)])
def test_a_convolution_learns_from_many_positions(kernel, stride):
    """n x n positions are as good as n^2 inputs, also where patches overlap."""
    layer = with_feedback(seeded(lambda: nn.Conv2d(16, 24, kernel, stride, dilation=2, bias=False)), "zeros")
    inputs, samples, positions = 16 * kernel**2, 100, 5
    assert connected(layer, positions).unique().tolist() == [positions**2]
    x = torch.cat(list(Mirror(samples=samples, positions=positions)._inputs(layer, torch.Generator().manual_seed(0))))
    patches = nn.functional.unfold(x, kernel, 2, 0, stride).transpose(1, 2)  # (samples, positions^2, K)
    assert patches.shape[1] == positions**2
    y = (patches @ layer.weight.detach().flatten(1).T).relu()
    expected = torch.einsum("npo,npk->ok", y - y.mean(0), patches) / (samples * positions**2)
    mirror = Mirror(1.0, 1.0, "step", samples=samples, positions=positions)
    found = mirror._correlation(layer, connected(layer, positions), torch.Generator().manual_seed(0)).flatten(1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    angle = float(theory.mirror_angle(samples * positions**2, inputs))
    assert mirror(layer, seed=1).layers[0].angle == pytest.approx(angle, rel=0.1)


def test_every_neuron_sees_a_permutation_of_the_pattern():
    layer = with_feedback(LocallyConnected2d(4, 2, (3, 2), stride=(2, 1), dilation=(2, 1), groups=2, input_size=(9, 6)))
    pattern = torch.arange(12.0)
    image = tiled(pattern[None], layer)[0]
    for h in range(layer.output_size[0]):
        for w in range(layer.output_size[1]):
            for group in (image[:2], image[2:]):
                patch = group[:, 2 * h : 2 * h + 5 : 2, w : w + 2]
                assert torch.equal(patch.flatten().sort().values, pattern)


def test_a_relu_with_a_bias_mirrors_by_the_chance_to_be_active():
    """Price's theorem: E x phi(w x + b) = sigma^2 E[phi'] w, here Phi(b / (sigma |w|)) for every neuron."""
    layer, sigma, n = dense(9, outputs=5), 0.7, 400_000
    bias = torch.tensor([-1.0, -0.3, 0.0, 0.5, 2.0], dtype=torch.float64)
    x = sigma * torch.randn(n, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = layer.weight.detach()
    found = (x @ w.T + bias).relu().T @ x / n
    expected = sigma**2 * torch.from_numpy(norm.cdf(bias / (sigma * w.norm(dim=1))))[:, None] * w
    assert (found - expected).abs().max() < 5 * float(w.norm()) / math.sqrt(n)


def test_any_activation_mirrors_by_its_mean_slope():
    """Price's theorem for tanh with a bias, in a convolution: E x tanh(z) = sigma^2 E[tanh'] w."""
    layer = with_feedback(seeded(lambda: nn.Conv2d(4, 6, 2, groups=2, bias=False)))
    sigma, bias, n = 1.3, torch.linspace(-1, 1, 6, dtype=torch.float64), 200_000
    x = sigma * torch.randn(n, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = layer.weight.detach().requires_grad_()
    z = layer.product(x, weight)
    activity = (z.detach() + bias[:, None, None]).tanh()
    (found,) = torch.autograd.grad(z, weight, activity)  # the sum of x tanh(z), as a mirror computes it
    nodes, shares = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(60))
    norms = weight.detach().flatten(1).norm(dim=1, keepdim=True)
    slopes = 1 - (sigma * norms * nodes + bias[:, None]).tanh() ** 2
    expected = sigma**2 * (slopes @ shares / shares.sum())[:, None, None, None] * weight.detach()
    assert (found / n - expected).abs().max() < 5 * sigma / math.sqrt(n)


def test_a_report_has_a_row_for_every_layer_and_the_weights_stay():
    model = with_feedback(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    )
    weights = [parameter.clone() for parameter in model.parameters()]
    report = Mirror.exact()(model)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert [(row.name, row.inputs, row.presentations) for row in report.layers] == [
        ("0", 9, 18), ("2", 36, 72), ("4", 16, 32),
    ]  # fmt: skip
    assert all(row.angle < 0.1 < 45 < row.angle_before for row in report.layers)
    assert all(abs(row.ratio - 1) < 1e-5 for row in report.layers)
    assert "72" in str(report)
    assert math.isnan(Mirror()(model, measure=False).layers[0].angle)


def test_the_same_seed_gives_the_same_bits_and_layers_differ_in_their_noise():
    make = lambda: with_feedback(seeded(lambda: nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))), "zeros")
    models = [make() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        Mirror(samples=8).change(model, seed)
    layers = [[layer.feedback for _, layer in feedback_layers(model)] for model in models]
    assert all(torch.equal(a, b) for a, b in zip(layers[0], layers[1], strict=True))
    assert not torch.equal(layers[0][1], layers[2][1])
    x = [next(Mirror(samples=8)._inputs(models[0][i], torch.Generator().manual_seed(i))) for i in (1, 2)]
    assert not torch.equal(*x)


def test_noise_in_parts_is_the_noise_of_one_update():
    """More inputs than pass at a time change the mean only in its rounding."""
    layer = dense(5, outputs=3)
    x = torch.cat(list(Mirror(samples=700)._inputs(layer, torch.Generator().manual_seed(2))))
    assert x.shape == (700, 5)
    y = (x @ layer.weight.detach().T).relu()
    expected = (y - y.mean(0)).T @ x / 700
    found = Mirror(samples=700)._correlation(layer, connected(layer), torch.Generator().manual_seed(2))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_rescaled_feedback_has_the_norm_of_the_weights():
    layer = dense(20)
    report = Mirror(rescale=True)(layer, seed=0)
    assert report.layers[0].ratio == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("start", ["zeros", "fan-out"])
def test_rescaled_feedback_of_weights_of_zero_is_zero(start):
    layer = with_feedback(nn.utils.skip_init(nn.Linear, 4, 3), start)
    nn.init.zeros_(layer.weight)
    Mirror(rescale=True).change(layer)
    assert not layer.feedback.any()


def test_bad_arguments_are_refused():
    for options, message in (
        ({"rate": 0}, "rate must be a positive number; got 0"),
        ({"samples": 1}, "samples must be a number of inputs, at least 2; got 1"),
        ({"positions": 2, "noise": "grid"}, 'positions must be 1 with noise="grid", which is exact; got 2'),
        ({"noise": "white"}, "noise must be one of 'gaussian', 'orthogonal', 'grid'; got 'white'"),
        ({"decay": 1.5, "decay_in": "step"}, "decay must leave a part of B at every update"),
    ):
        with pytest.raises(ValueError, match=message):
            Mirror(**options)
    with pytest.raises(ValueError, match="model must have feedback weights"):
        Mirror()(nn.Linear(2, 2))
    model = with_feedback(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 2, dilation=2)))
    with pytest.raises(ValueError, match=r"layer '1' has kernel_size=\(2, 2\) and dilation=\(2, 2\)"):
        Mirror.exact()(model)


def test_a_grid_of_one_sign_mirrors_the_positive_weights_alone(monkeypatch):
    """Without inputs of the other sign, and without a baseline, a rectified neuron is silent at negative weights."""
    layer, k = dense(12, outputs=6), 12
    monkeypatch.setattr(Mirror, "_inputs", lambda *_: iter([torch.eye(k, dtype=torch.float64)]))
    found = k * Mirror(noise="grid", centred=False)._correlation(layer, connected(layer), torch.Generator())
    assert (found - layer.weight.detach().clamp(min=0)).abs().max() < 1e-14
    assert (layer.weight < 0).any()


def test_a_layer_that_is_used_several_times_is_mirrored_wherever_it_stands():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            for _ in range(3):
                x = self.cell(x).relu()
            return self.head(x)

    model = seeded(Recurrent)
    fed = with_feedback(model)
    Mirror.exact()(fed)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = [torch.autograd.grad(net(x).square().sum(), list(net.parameters())) for net in (fed, model)]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_changes_without_a_seed_have_new_noise_every_time():
    model = with_feedback(seeded(lambda: nn.Linear(8, 8)), "zeros")
    mirror = Mirror(2.0, 1.0, "step", samples=64)
    learned = []
    for _ in range(2):
        mirror.change(model)
        learned.append(model.feedback.clone())
    assert not torch.equal(*learned)


@pytest.mark.parametrize("noise", ["gaussian", "orthogonal", "grid"])
def test_the_half_types_are_mirrored_in_inference_mode_too(noise):
    model = with_feedback(seeded(lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))).bfloat16())
    with torch.inference_mode():
        report = Mirror(2.0, 1.0, "step", noise, samples=2048)(model, seed=0)
    assert all(row.angle < 10 for row in report.layers)
