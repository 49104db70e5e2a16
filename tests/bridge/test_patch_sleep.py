"""Networks of patches asleep: tokens are the neurons of a group, and patterns pass through attention."""

import copy

import numpy as np
import pytest
import torch
from small_layers import MODES, assert_agree, ideal_modes, modes, weights
from torch import nn

import bioshare as bs
from bioshare.bridge import LearnedGroups, modules, to_periodic
from bioshare.bridge.controls import LayerMean, RandomGroups, Shrinking
from bioshare.bridge.relay import Relay
from bioshare.nn import (
    LocallyConnected2d,
    MLPMixer,
    PatchwiseLinear,
    VisionTransformer,
    to_convolutional,
    to_locally_connected,
)

IMAGE = (1, 6, 8)
GAUSSIAN = bs.stimuli.gaussian()
NETS = {
    "transformer": lambda: VisionTransformer(3, IMAGE, patch=2, features=6, depth=1, heads=2),
    "mixer": lambda: MLPMixer(3, IMAGE, patch=2, features=6, depth=1),
}
nets = pytest.mark.parametrize("name", NETS)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def unshared(name, init="independent", **options):
    torch.manual_seed(0)
    return to_locally_connected(NETS[name]().double(), IMAGE, init, linear=True, **options)


def shared_layers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LocallyConnected2d)}


@pytest.mark.parametrize("patch", range(1, 8))
def test_a_patch_embedding_is_one_module_of_all_patches(patch):
    """Literally: every patch of an image that repeats with the patch is the same."""
    rows, columns = 3 * patch, 2 * patch
    embed = LocallyConnected2d(2, 4, patch, patch, input_size=(rows, columns))
    (module,) = modules(embed)
    assert (module.neurons, len(module.seen)) == (6, 2 * patch**2)
    tile = torch.arange(2.0 * patch**2).view(1, 2, patch, patch)
    patches = nn.functional.unfold(tile.repeat(1, 1, 3, 2), patch, stride=patch)[0]
    assert torch.equal(patches, patches[:, :1].expand_as(patches))


@nets
def test_every_layer_has_one_module_of_all_tokens_or_features(name):
    for layer in shared_layers(unshared(name)).values():
        (module,) = modules(layer)
        assert module.neurons == layer.weight.shape[:2].numel()
        assert sorted(module.seen.tolist()) == list(range(layer.weight[0, 0, 0].numel()))


@nets
def test_instant_sharing_gives_the_linear_layers_with_the_mean_matrices(name):
    model = unshared(name)
    means = {label: layer.weight.detach().mean((0, 1)) for label, layer in shared_layers(model).items()}
    bs.InstantSharing()(model)
    back, periodic = to_convolutional(model), to_periodic(model)
    for label, mean in means.items():
        assert_agree(back.get_submodule(label).weight.view_as(mean), mean, atol=1e-12)
    x = draw(3, *IMAGE)
    assert_agree(back(x), model(x), atol=1e-12)
    assert_agree(periodic(x), model(x), atol=1e-12)


@nets
@ideal_modes
def test_a_shared_network_is_a_fixed_point_of_every_ideal_sleep(name, mode):
    model = unshared(name, "copy")
    before = weights(model)
    mode("share")(model, seed=0)
    for new, old in zip(weights(model), before, strict=True):
        assert_agree(new, old, atol=1e-13)


@nets
@pytest.mark.parametrize(("alpha", "change"), [(10.0, 2e-3), (50.0, 2e-4)])
def test_the_rate_circuit_leaves_a_shared_network_as_it_is_up_to_the_bias_of_finite_inhibition(name, alpha, change):
    model = unshared(name, "copy")
    before = weights(model)
    bs.Sleep.rate_circuit(alpha)(model, seed=0)
    for new, old in zip(weights(model), before, strict=True):
        assert (new - old).norm() <= change * old.norm()


@modes
def test_equal_tokens_stay_equal_in_every_sleep_without_noise_of_their_own(mode):
    layer = PatchwiseLinear(5, 6, 4).double()
    with torch.no_grad():
        layer.weight.copy_(layer.weight[0].clone())
    mode("share")(layer, seed=0)
    weight = layer.weight.detach()
    spread = (weight - weight[0]).abs().max()
    noisy = mode in (MODES["noise"], MODES["noise, rate circuit"])
    assert spread > 1e-6 if noisy else spread < 1e-12


@pytest.mark.parametrize("stimulus", [bs.stimuli.grid(), GAUSSIAN], ids=["grid", "gaussian"])
@pytest.mark.parametrize("circuit", [bs.SteadyState(), bs.SteadyState(10.0), bs.RateCircuit(duration=10.0)])
def test_a_sleep_is_the_simulation_of_the_tokens_as_neurons(circuit, stimulus):
    layer = PatchwiseLinear(5, 6, 4).double()
    before = layer.weight.detach()[:, 0, :, :, 0, 0].clone()  # (N, out, K)
    rule = bs.Hebbian(gamma=0.01, momentum=0.5, learning_rate=0.02)
    bs.Sleep(circuit, rule, stimulus, 30)(layer, seed=3)
    x = stimulus.draw(30, 6, seed=bs.stimuli.derived(3, 6))
    expected = bs.simulate(before.transpose(0, 1).numpy(), x, circuit, rule).weights  # (out, N, K)
    after = layer.weight.detach()[:, 0, :, :, 0, 0].transpose(0, 1)
    assert_agree(after, torch.from_numpy(expected), atol=1e-10)


def test_class_tokens_keep_their_weights_and_belong_to_no_group():
    layer = PatchwiseLinear(6, 3, 4, bias=True, class_tokens=2).double()
    before, offsets = layer.weight.detach().clone(), layer.bias.detach().clone()
    for border in ("share", "keep", "scale"):
        (module,) = modules(layer, border)
        assert module.neurons == 4
    bs.InstantSharing()(layer)
    assert torch.equal(layer.weight[:2], before[:2])
    assert torch.equal(layer.bias[:, :2], offsets[:, :2])
    assert_agree(layer.weight[2:].detach(), before[2:].mean(0).expand(4, *before.shape[1:]), atol=1e-14)
    asleep = PatchwiseLinear(6, 3, 4, class_tokens=2).double()
    apart = asleep.weight.detach()[:2].clone()
    bs.Sleep.rate_circuit()(asleep, seed=0)
    assert torch.equal(asleep.weight[:2], apart)


@pytest.mark.parametrize("phase", [RandomGroups(), LayerMean(), Shrinking(), LearnedGroups(), bs.HebbianSharing()])
def test_no_phase_changes_a_class_token(phase):
    layer = PatchwiseLinear(7, 3, 4, bias=True, class_tokens=2).double()
    before, offsets = layer.weight.detach().clone(), layer.bias.detach().clone()
    phase(layer)
    assert torch.equal(layer.weight[:2], before[:2])
    assert torch.equal(layer.bias[:, :2], offsets[:, :2])
    changed = (layer.weight[2:] != before[2:]).flatten(1).all(1)
    assert changed.all()
    if isinstance(phase, LayerMean | LearnedGroups | RandomGroups):
        assert_agree(layer.weight[2:].detach(), before[2:].mean(0).expand(5, *before.shape[1:]), atol=1e-14)


def test_patches_are_the_group_that_correlations_find():
    assert LearnedGroups().groups(PatchwiseLinear(6, 3, 4)).unique().numel() == 1
    groups = LearnedGroups().groups(PatchwiseLinear(6, 3, 4, class_tokens=2)).flatten()
    assert groups.tolist() == [0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("convert", [to_convolutional, to_periodic])
def test_a_class_token_of_its_own_has_no_place_in_one_matrix(convert):
    layer = PatchwiseLinear(6, 3, 4, class_tokens=1).double()
    bs.InstantSharing()(layer)
    with pytest.raises(ValueError, match="model has matrices of its own for class_tokens=1"):
        convert(layer)
    with torch.no_grad():
        layer.weight[0].copy_(layer.weight[1])
    assert torch.equal(convert(layer).weight, layer.weight.detach()[3, 0, :, :, 0, 0])


def equal_tokens():
    """A transformer after instant sharing, without position embeddings."""
    model = unshared("transformer")
    bs.InstantSharing()(model)
    nn.init.zeros_(model.position)
    return model


def test_a_pattern_survives_a_whole_block():
    """All tokens are equal before and after, and the attention returns what the value layer answers."""
    model = equal_tokens()
    image = draw(4, 1, 2, 2).repeat(1, 1, 3, 4)  # the same patch everywhere
    seen = {}
    for label, layer in shared_layers(model).items():
        layer.register_forward_hook(lambda _, x, y, label=label: seen.update({label: (x[0], y)}))
    tokens = model.embedded(image)
    assert_agree(tokens, tokens[:, :1].expand_as(tokens), atol=1e-12)
    out = model.blocks(tokens)
    assert out.std(0).min() > 1e-3
    assert_agree(out, out[:, :1].expand_as(out), atol=1e-12)
    attention = "blocks.0.attention."
    assert_agree(seen[attention + "project"][0], seen[attention + "value"][1], atol=1e-12)


def test_the_relay_hands_the_activity_of_values_to_the_projection():
    model = equal_tokens()
    relay = Relay(GAUSSIAN, 40)
    patterns = {label: relay.patterns(layer, 5, label) for label, layer in shared_layers(model).items()}

    def relayed(source):
        """Standardised, rectified responses of a layer with one matrix, in NumPy."""
        (label,) = (name for name, layer in shared_layers(model).items() if layer is source)
        drive = patterns[label] @ source.weight.detach()[0, 0].flatten(1).numpy().T
        rates = np.maximum((drive - drive.mean(0)) / drive.std(0), 0)
        length = np.linalg.norm(rates, axis=1, keepdims=True)
        return np.sqrt(rates.shape[1]) * rates / np.where(length > 0, length, 1)

    block = model.blocks[0]
    sources = {
        "blocks.0.attention.query": model.embed,
        "blocks.0.attention.key": model.embed,
        "blocks.0.attention.value": model.embed,
        "blocks.0.attention.project": block.attention.value,
        "blocks.0.mlp.0": block.attention.project,
        "blocks.0.mlp.2": block.mlp[0],
    }
    for label, source in sources.items():
        np.testing.assert_allclose(patterns[label], relayed(source), rtol=0, atol=1e-10)


@nets
@pytest.mark.parametrize("patterns", ["drawn", "relayed", "simultaneous"])
def test_sleep_pulls_tokens_together(name, patterns):
    model = unshared(name)
    report = bs.Sleep.steady_state(stimulus=GAUSSIAN, patterns=patterns, times=20.0)(model, seed=0)
    assert len(report.layers) == len(shared_layers(model))
    assert all(row.spread < 0.75 for row in report.layers)


def test_a_picture_shows_tokens_by_inputs():
    layer = PatchwiseLinear(5, 6, 4)
    weight = layer.weight.detach().clone()
    report = bs.InstantSharing()(layer, keep=("", 1))
    before, after = report.draw().axes[:2]
    assert (before.get_xlabel(), before.get_ylabel()) == ("input", "token")
    np.testing.assert_allclose(before.images[0].get_array(), weight[:, 0, 1, :, 0, 0], rtol=0, atol=1e-7)
    expected = weight[:, 0, 1, :, 0, 0].mean(0).expand(5, 6)
    np.testing.assert_allclose(after.images[0].get_array(), expected, rtol=0, atol=1e-7)


def test_a_copy_of_a_sleeping_layer_sleeps_the_same():
    layer = PatchwiseLinear(5, 6, 4)
    twin = copy.deepcopy(layer)
    for one in (layer, twin):
        bs.Sleep.rate_circuit()(one, seed=1)
    assert torch.equal(layer.weight, twin.weight)
