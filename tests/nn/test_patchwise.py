"""Linear layers with a matrix for every token: against nn.Linear and literal loops, there and back."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import (
    LocallyConnected2d,
    MLPMixer,
    PatchwiseLinear,
    SelfAttention,
    VisionTransformer,
    conversion_table,
    to_convolutional,
    to_locally_connected,
)

sizes = st.integers(1, 6)
IMAGE = (2, 8, 6)
NETS = {
    "transformer": lambda: VisionTransformer(3, IMAGE, patch=2, features=8, depth=2, heads=2),
    "with a class token": lambda: VisionTransformer(3, IMAGE, patch=2, features=8, depth=1, heads=4, class_token=True),
    "mixer": lambda: MLPMixer(3, IMAGE, patch=2, features=8, depth=2),
}
nets = pytest.mark.parametrize("name", NETS)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def made(name, seed=0):
    torch.manual_seed(seed)
    return NETS[name]().double()


def converted(model, init="copy", **options):
    tokens = 1 if getattr(model, "class_token", None) is not None else 0
    return to_locally_connected(model, IMAGE, init, linear=True, class_tokens=tokens, **options)


def assert_close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@given(patches=sizes, inputs=sizes, outputs=sizes, bias=st.booleans())
def test_every_token_applies_its_own_matrix_and_gradients_follow(patches, inputs, outputs, bias):
    layer = PatchwiseLinear(patches, inputs, outputs, bias=bias).double()
    x = draw(3, patches, inputs).requires_grad_()
    tokens = []
    for n in range(patches):  # token by token, a plain product
        offset = None if layer.bias is None else layer.bias[:, n, 0]
        tokens.append(nn.functional.linear(x[:, n], layer.weight[n, 0, :, :, 0, 0], offset))
    y, expected = layer(x), torch.stack(tokens, 1)
    assert_close(y, expected)
    assert torch.equal(layer(x[0]), y[0])
    wanted = [x, *layer.parameters()]
    ours, theirs = (torch.autograd.grad(result.pow(3).sum(), wanted) for result in (y, expected))
    assert_close(ours, theirs, atol=1e-9)


@given(patches=sizes, inputs=sizes, outputs=sizes, bias=st.booleans())
def test_with_one_matrix_for_all_tokens_it_is_a_linear_layer(patches, inputs, outputs, bias):
    """Forward; and the gradients of the tokens sum to the gradient of the shared matrix."""
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias)).double()
    own = to_locally_connected(model, (patches, inputs), "copy", linear=True)
    assert isinstance(own[0], PatchwiseLinear)
    x, cotangent = draw(4, patches, inputs), draw(4, patches, outputs, seed=1)
    assert_close(own(x), model(x))
    for network in (own, model):
        network(x).backward(cotangent)
    assert_close(own[0].weight.grad.sum((0, 1)).view(outputs, inputs), model[0].weight.grad)
    if bias:
        assert_close(own[0].bias.grad.sum((1, 2)), model[0].bias.grad)
    again = to_convolutional(own)
    assert repr(again) == repr(model)
    assert torch.equal(again[0].weight, model[0].weight)


@nets
def test_a_network_of_copies_computes_the_same_and_gradients_sum_to_the_shared_ones(name):
    model = made(name)
    own, x = converted(model), draw(3, *IMAGE)
    assert_close(own(x), model(x))
    for network in (own, model):
        network(x).square().sum().backward()
    shared = dict(model.named_parameters())
    for name, parameter in own.named_parameters():
        gradient = parameter.grad
        if gradient.shape != shared[name].shape:  # (H, W, ...) weights, or (out, H, W) biases
            gradient = gradient.sum((0, 1)) if gradient.ndim == 6 else gradient.sum((1, 2))
        assert_close(gradient.view_as(shared[name]), shared[name].grad)


@nets
def test_every_matrix_but_the_classifier_is_converted_and_goes_back(name):
    model = made(name)
    own = converted(model)
    linear = [label for label, layer in own.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert linear == ["classifier"]
    back = to_convolutional(own)
    assert repr(back) == repr(model)
    for ours, theirs in zip(back.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    table = conversion_table(model, IMAGE, linear=True)
    assert table.before == sum(p.numel() for p in model.parameters())
    assert table.after == sum(p.numel() for p in own.parameters())


def test_token_mixing_layers_have_a_matrix_for_every_feature():
    own = converted(made("mixer"))
    mixing, others = own.blocks[0].mix_tokens[0], own.blocks[0].mix_features[0]
    assert (mixing.input_size[0], mixing.in_channels) == (8, 12)
    assert (others.input_size[0], others.in_channels) == (12, 8)


def test_class_tokens_are_tokens_of_every_layer():
    own = converted(made("with a class token"))
    layers = [layer for layer in own.modules() if isinstance(layer, PatchwiseLinear)]
    assert {(layer.input_size[0], layer.class_tokens) for layer in layers} == {(13, 1)}


class LinearEmbedding(nn.Module):
    """A transformer's start with a linear layer in place of the convolution, and a class token after it."""

    def __init__(self):
        super().__init__()
        self.embed, self.token = nn.Linear(12, 6), nn.Parameter(torch.zeros(1, 1, 6))
        self.block, self.classifier = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        tokens = self.embed(x)
        return self.classifier(self.block(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1))[:, 0])


def test_a_linear_embedding_has_no_class_token():
    own = to_locally_connected(LinearEmbedding(), (4, 12), linear=True, class_tokens=1)
    assert (own.embed.input_size[0], own.embed.class_tokens) == (4, 0)
    assert (own.block.input_size[0], own.block.class_tokens) == (5, 1)
    assert type(own.classifier) is nn.Linear


def test_independent_matrices_start_as_linear_layers_do():
    torch.manual_seed(0)
    model = nn.Linear(64, 32)
    own = to_locally_connected(model, (50, 64), linear=True)
    limit = 1 / math.sqrt(64)
    for parameter in own.parameters():
        assert parameter.abs().max() <= limit
        assert abs(parameter.std().item() - limit / math.sqrt(3)) < 0.02 * limit
    assert not torch.equal(own.weight[0], own.weight[1])


def test_keep_first_counts_all_layers_that_would_be_replaced():
    own = converted(made("transformer"), keep_first=2)
    assert type(own.embed) is nn.Conv2d
    assert type(own.blocks[0].attention.query) is nn.Linear
    assert type(own.blocks[0].attention.key) is PatchwiseLinear
    plain = to_locally_connected(made("transformer"), IMAGE)
    assert [type(layer) for layer in plain.modules()].count(LocallyConnected2d) == 1
    assert not any(isinstance(layer, PatchwiseLinear) for layer in plain.modules())


def test_attention_over_equal_tokens_returns_the_value_vector():
    torch.manual_seed(0)
    attention = SelfAttention(8, heads=2).double()
    vectors = draw(5, 8)
    tokens = vectors[:, None].expand(5, 7, 8)
    expected = attention.project(attention.value(vectors))
    assert_close(attention(tokens), expected[:, None].expand(5, 7, 8))


def test_attention_is_the_one_of_pytorch():
    torch.manual_seed(0)
    ours, theirs = SelfAttention(8, heads=2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        parts = ours.query, ours.key, ours.value
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj = ours.project
    x = draw(3, 6, 8)
    assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (nn.Sequential(nn.MultiheadAttention(4, 2)), (3, 4), "model.0 is a MultiheadAttention"),
        (nn.Linear(4, 3), (2, 2, 4), r"must see \(batch, tokens, features\)"),
        (nn.Sequential(nn.Flatten(0, 1), nn.Unflatten(0, (6, 1)), nn.Linear(4, 3)), (6, 4), "must see"),
    ],
)
def test_tokens_in_another_form_are_refused(model, size, message):
    with pytest.raises((TypeError, ValueError), match=message):
        to_locally_connected(model, size, linear=True)


def test_inputs_of_another_number_of_tokens_are_refused():
    with pytest.raises(ValueError, match="the number of tokens"):
        PatchwiseLinear(4, 3, 2)(torch.ones(1, 5, 3))


def test_state_goes_into_a_copy_and_the_compiled_step_is_the_same():
    layer = PatchwiseLinear(4, 3, 2, bias=True)
    other = PatchwiseLinear(4, 3, 2, bias=True)
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other(x), layer(x))
    graph = torch.fx.symbolic_trace(nn.Sequential(layer, nn.ReLU()))
    assert torch.equal(graph(x), layer(x).relu())


@nets
def test_graphs_of_pytorch_hold_the_networks_for_every_batch(name):
    torch.manual_seed(0)
    shared = NETS[name]()
    for model in (shared, converted(shared)):
        x = torch.randn(5, *IMAGE, generator=torch.Generator().manual_seed(0))
        assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))
        program = torch.export.export(model, (x[:3],), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
        torch.testing.assert_close(program.module()(x), model(x))


@nets
@pytest.mark.parametrize("size", [(3, 2, 6, 8), (3, 2, 9, 7), (3, 1, 8, 6), (2, 8, 6)], ids=str)
def test_images_of_another_size_are_refused(name, size):
    """Also of a size with as many whole patches, which would compute something."""
    with pytest.raises(ValueError, match=r"must have the shape \(batch, 2, 8, 6\).*got \(" + str(size[0])):
        NETS[name]()(torch.ones(size))


@pytest.mark.parametrize(("own", "given"), [(True, 0), (False, 1), (True, 2)])
def test_class_tokens_are_those_of_the_model(own, given):
    model = VisionTransformer(input_size=(1, 8, 8), patch=2, features=16, depth=1, class_token=own)
    with pytest.raises(ValueError, match=f"^class_tokens must be {int(own)}, as the model has; got {given}"):
        to_locally_connected(model, (1, 8, 8), linear=True, class_tokens=given)
