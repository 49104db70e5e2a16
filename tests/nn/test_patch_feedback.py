"""Feedback weights of layers with a matrix for every token, against products token by token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bioshare as bs
from bioshare.nn import (
    MLPMixer,
    PatchwiseLinear,
    VisionTransformer,
    to_locally_connected,
    with_direct_feedback,
    with_feedback,
    with_feedback_past_norms,
    without_feedback,
)
from bioshare.nn.feedback import FeedbackPatchwiseLinear, backpropagating, feedback_layers

IMAGE = (1, 4, 6)
NETS = {
    "transformer": lambda: VisionTransformer(3, IMAGE, patch=2, features=6, depth=1, heads=2, class_token=True),
    "mixer": lambda: MLPMixer(3, IMAGE, patch=2, features=6, depth=1),
}
nets = pytest.mark.parametrize("name", NETS)
sizes = st.integers(1, 5)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def close(ours, theirs, atol=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def unshared(name):
    torch.manual_seed(0)
    return to_locally_connected(NETS[name]().double(), IMAGE, linear=True, class_tokens=int(name == "transformer"))


def matrices(weights):
    """(N, out, in)."""
    return weights.detach()[:, 0, :, :, 0, 0]


@given(patches=sizes, inputs=sizes, outputs=sizes, bias=st.booleans())
def test_signals_go_through_b_token_by_token_and_weights_learn_from_the_true_input(patches, inputs, outputs, bias):
    torch.manual_seed(patches)
    layer = with_feedback(PatchwiseLinear(patches, inputs, outputs, bias=bias).double())
    assert isinstance(layer, FeedbackPatchwiseLinear)
    x, dy = draw(3, patches, inputs).requires_grad_(), draw(3, patches, outputs, seed=1)
    y = layer(x)
    dx, dw, *_ = torch.autograd.grad(y, [x, *layer.parameters()], dy)
    for n in range(patches):
        plain = x[:, n] @ matrices(layer.weight)[n].T
        close(y[:, n].detach(), (plain + (layer.bias[:, n, 0] if bias else 0)).detach())
        close(dx[:, n], dy[:, n] @ matrices(layer.feedback)[n])
        close(matrices(dw)[n], dy[:, n].T @ x.detach()[:, n])


def gradients(model, x):
    scores = model(x)
    return scores.detach(), torch.autograd.grad(scores.square().sum(), list(model.parameters()))


@nets
def test_a_network_computes_the_same_and_through_its_weights_it_backpropagates(name):
    model, x = unshared(name), draw(3, *IMAGE)
    fed = with_feedback(model)
    scores, expected = gradients(model, x)
    same, ours = gradients(fed, x)
    assert torch.equal(same, scores)
    assert any(float((a - b).abs().max()) > 1e-3 for a, b in zip(ours, expected, strict=True))
    with backpropagating(fed):
        for a, b in zip(gradients(fed, x)[1], expected, strict=True):
            close(a, b)
    assert repr(without_feedback(fed)) == repr(model)


@nets
def test_a_mirror_learns_the_matrix_of_every_token(name):
    fed = with_feedback(unshared(name))
    bs.Mirror.exact()(fed)
    _, *mirrored = feedback_layers(fed)
    assert mirrored
    for _, layer in mirrored:
        close(layer.feedback, layer.weight.detach())


def test_b_sleeps_along_and_class_tokens_keep_theirs():
    fed = with_feedback(PatchwiseLinear(6, 3, 4, class_tokens=2).double())
    before = fed.feedback.clone()
    bs.InstantSharing(feedback=True)(fed)
    assert torch.equal(fed.feedback[:2], before[:2])
    close(fed.feedback[2:], before[2:].mean(0).expand(4, *before.shape[1:]))


@pytest.mark.parametrize("dense", [False, True])
def test_direct_feedback_by_hand(dense):
    """delta = (A^T e) phi' for e of all tokens at once."""
    torch.manual_seed(0)
    model = nn.Sequential(PatchwiseLinear(3, 4, 5), nn.ReLU(), PatchwiseLinear(3, 5, 2), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(6, 2))
    model = with_direct_feedback(model.double(), (3, 4), dense)
    x = draw(7, 3, 4)
    scores = model(x)
    error = draw(7, 2, seed=1)
    (dw,) = torch.autograd.grad(scores, model[0].weight, error)
    hidden = model[0](x).detach()
    if dense:  # from the second layer, whose signal comes through the feedback weights of the last, and from the last
        second = model[2](hidden.relu()).detach()
        above = (error @ model[5].feedback).view(7, 3, 2) * (second > 0)
        signal = torch.einsum("bno,noi->bni", above, matrices(model[2].feedback))
        signal = signal + (error @ model[5].direct0).view(7, 3, 5)
    else:
        signal = (error @ model[5].direct0).view(7, 3, 5)
    expected = torch.einsum("bno,bni->noi", signal * (hidden > 0), x)
    close(matrices(dw), expected)


def test_a_norm_behind_a_layer_of_tokens_is_no_norm_to_pass():
    model = with_feedback(nn.Sequential(PatchwiseLinear(3, 4, 5), nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="right behind a layer with feedback; the graph of"):
        with_feedback_past_norms(model, (3, 4))
