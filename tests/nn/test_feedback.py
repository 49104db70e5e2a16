"""Feedback weights: the backward pass against autograd, against connections without a value, and by hand."""

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from bioshare import InstantSharing, Sleep
from bioshare.bridge import to_periodic
from bioshare.nn import (
    LocallyConnected2d,
    PatchwiseLinear,
    cifar_resnet,
    to_convolutional,
    to_fully_connected,
    to_locally_connected,
)
from bioshare.nn.feedback import (
    FeedbackLayer,
    backpropagating,
    degrees,
    feedback_layers,
    with_feedback,
    without_feedback,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(make):
    """Make a module with a fixed seed, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def small_network(locally_connected):
    """Five layers: strides, groups, a residual connection, normalisation, dense layers."""
    make = lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=True),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), groups=2, bias=True),
        nn.ReLU(),
        nn.Conv2d(6, 4, 2, dilation=(1, 2), padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(7),
        nn.ReLU(),
        nn.Linear(7, 5),
    )

    def made():
        model = make()
        model(torch.zeros(1, 3, 9, 8))
        return to_locally_connected(model, (3, 9, 8)) if locally_connected else model

    return seeded(made)


def gradients(model, x, loss=None):
    """The gradients by x and by all parameters, and the value of a loss."""
    x = x.clone().requires_grad_()
    value = (loss or (lambda scores: scores.square().sum()))(model(x))
    return value.detach(), torch.autograd.grad(value, [x, *model.parameters()])


def largest_difference(ours, theirs):
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("locally_connected", [False, True])
def test_feedback_through_the_weights_is_backpropagation_to_the_bit(locally_connected):
    model, x = small_network(locally_connected), draw(3, 3, 9, 8, seed=1)
    value, expected = gradients(model, x)
    for copied in (with_feedback(model, "weights"), with_feedback(model, "fan-out")):
        with backpropagating(copied):
            again, ours = gradients(copied, x)
        assert torch.equal(again, value)
        assert largest_difference(ours, expected) < 1e-12
    _, ours = gradients(with_feedback(model, "weights"), x)
    assert largest_difference(ours, expected) < 1e-12


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: nn.Linear(4, 3), (2, 3, 4)),
        (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), groups=2, padding_mode="reflect"), (2, 4, 5, 4)),
        (lambda: nn.Conv2d(2, 3, 2, dilation=(1, 2), padding="same"), (2, 2, 4, 5)),
        (lambda: LocallyConnected2d(2, 2, 2, input_size=(3, 4), stride=(2, 1), padding=1, bias=True), (1, 2, 3, 4)),
        (lambda: PatchwiseLinear(3, 4, 2, bias=True), (2, 3, 4)),
    ],
    ids=["linear", "grouped", "dilated", "locally connected", "patchwise"],
)
def test_with_the_weights_as_feedback_the_backward_pass_is_the_derivative(make, size):
    layer = with_feedback(seeded(make), "weights")
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def call(x, *tensors):
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), x)

    layer.backpropagates = True  # feedback would be the weights of before a small change
    leaves = [draw(*size).requires_grad_(), *parameters]
    assert torch.autograd.gradcheck(call, leaves)
    layer.backpropagates = False
    assert torch.autograd.gradcheck(call, leaves)
    layer.feedback.neg_()
    with pytest.raises(RuntimeError, match="Jacobian mismatch for output 0 with respect to input 0"):
        torch.autograd.gradcheck(call, leaves)


def value_free(layer, feedback, x):
    """A layer whose input learns through the feedback weights, by a connection that adds 0 to the value."""
    other = copy.deepcopy(layer)
    del other.weight
    other.weight = feedback
    if other.bias is not None:
        del other.bias
        other.register_parameter("bias", None)
    silent = other(x)
    return layer(x.detach()) + silent - silent.detach()


@st.composite
def layers(draw_):
    """A layer of any geometry, and the size of its input."""
    kind = draw_(st.sampled_from(["linear", "conv", "local"]))
    if kind == "linear":
        shape = draw_(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        return lambda: nn.Linear(4, 3, bias=draw_(st.booleans())), (*shape, 4)
    size, kernel, stride, dilation = (
        draw_(st.tuples(*[st.integers(low, high)] * 2)) for low, high in ((3, 7), (1, 4), (1, 3), (1, 2))
    )
    mode = draw_(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = draw_(st.one_of(st.sampled_from(["same", "valid"]), st.tuples(st.integers(0, 2), st.integers(0, 2))))
    stride = (1, 1) if padding == "same" else stride
    groups = draw_(st.integers(1, 2))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    margins = (0, 0) if isinstance(padding, str) else padding
    assume(padding == "same" or all(r <= n + 2 * p for r, n, p in zip(reach, size, margins, strict=True)))
    assume(mode == "zeros" or padding != "same" or all((r - 1 + 1) // 2 < n for r, n in zip(reach, size, strict=True)))
    assume(mode != "reflect" or all(p < n for p, n in zip(margins, size, strict=True)))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode}
    options["bias"] = draw_(st.booleans())
    make = lambda: (
        nn.Conv2d(2, 4, kernel, **options)
        if kind == "conv"
        else LocallyConnected2d(2, 4, kernel, input_size=size, **options)
    )
    return make, (draw_(st.integers(1, 3)), 2, *size)


@settings(max_examples=60, deadline=None)
@given(layers())
def test_the_backward_pass_equals_connections_without_a_value(case):
    make, shape = case
    layer = seeded(make)
    x, cotangent = draw(*shape, seed=1), draw(*layer(draw(*shape)).shape, seed=2)
    ours = with_feedback(layer, seed=3)
    value, got = gradients(ours, x, lambda y: (y * cotangent).sum())
    x = x.requires_grad_()
    y = value_free(layer, ours.feedback, x)
    theirs = torch.autograd.grad((y * cotangent).sum(), [x, *layer.parameters()])
    torch.testing.assert_close(value, (y * cotangent).sum().detach(), rtol=0, atol=1e-12)
    assert largest_difference(got, theirs) < 1e-12


def test_an_input_without_a_batch_learns_too():
    for layer in (seeded(lambda: nn.Conv2d(2, 3, 3)), seeded(lambda: LocallyConnected2d(2, 3, 3, input_size=5))):
        ours, x = with_feedback(layer), draw(2, 5, 5)
        batched = gradients(ours, x[None])
        assert (
            largest_difference([g.reshape(-1) for g in gradients(ours, x)[1]], [g.reshape(-1) for g in batched[1]]) == 0
        )


@pytest.mark.parametrize("locally_connected", [False, True])
def test_only_the_signal_below_depends_on_the_feedback_weights(locally_connected):
    model, x = with_feedback(small_network(locally_connected)), draw(3, 3, 9, 8, seed=1)
    value, before = gradients(model, x)
    names = ["x", *(name for name, _ in model.named_parameters())]
    for number, (name, layer) in enumerate(feedback_layers(model)):
        layer.feedback.mul_(2)
        again, after = gradients(model, x)
        layer.feedback.div_(2)
        assert torch.equal(again, value)
        for parameter, old, new in zip(names, before, after, strict=True):
            below = parameter == "x" or int(parameter.split(".")[0]) < int(name)
            # linear in the feedback weights of a layer above: doubled with them
            torch.testing.assert_close(new, 2 * old if below else old, rtol=1e-12, atol=1e-12)
        assert number > 0 or all(torch.equal(o, n) for o, n in zip(before[1:], after[1:], strict=True))


def test_two_layers_by_hand():
    model = with_feedback(seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))))
    x, target = draw(5, 4, seed=1), draw(5, 2, seed=2)
    _, (_, dw1, db1, dw2, db2) = gradients(model, x, lambda y: (y - target).square().sum() / 2)
    hidden = torch.tanh(x @ model[0].weight.T + model[0].bias)
    error = hidden @ model[2].weight.T + model[2].bias - target
    delta = (error @ model[2].feedback) * (1 - hidden**2)
    by_hand = [delta.T @ x, delta.sum(0), error.T @ hidden, error.sum(0)]
    assert largest_difference([dw1, db1, dw2, db2], [tensor.detach() for tensor in by_hand]) < 1e-14


def test_the_signal_scales_with_the_feedback_weights_layer_by_layer():
    """B = c W makes the signal c, c^2, c^3, ... times as large from the top down."""
    model = seeded(lambda: nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(6, 6), nn.ReLU()))))
    x, c = draw(8, 6, seed=1), 0.1
    ours = with_feedback(model, "weights")
    for _, layer in feedback_layers(ours):
        layer.feedback.mul_(c)
    _, (_, *plain) = gradients(model, x)
    _, (_, *scaled) = gradients(ours, x)
    for depth, (old, new) in enumerate(zip(plain[::2], scaled[::2], strict=True)):
        torch.testing.assert_close(new, c ** (3 - depth) * old, rtol=1e-12, atol=0)


def test_noise_turns_the_gradient_of_every_layer_by_the_same_angle():
    """Noise as large as the signal turns the learning signal by 45 degrees, in every layer, as it is not passed on."""
    model = seeded(lambda: nn.Sequential(*(nn.Linear(200, 200, bias=False) for _ in range(4))))
    for layer in model:
        nn.init.orthogonal_(layer.weight)  # with orthogonal inputs, gradients have the angles of the signals
    x = torch.linalg.qr(draw(200, 200, seed=1))[0]
    torch.manual_seed(0)
    _, (dx, *clean) = gradients(model, x)
    _, (same, *noisy) = gradients(with_feedback(model, "weights", noise=1.0), x)
    assert (dx - same).abs().max() < 1e-12
    for ours, theirs in zip(clean, noisy, strict=True):
        cosine = nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
        assert abs(float(cosine.acos().rad2deg()) - 45) < 1


def test_a_signal_of_one_number_has_no_noise():
    model = with_feedback(seeded(lambda: nn.Linear(3, 1)), noise=1.0)
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    assert torch.equal(model.weight.grad, torch.ones(1, 3, dtype=torch.float64))


def test_draws_have_the_variance_of_one_over_the_fan_out():
    model = nn.Sequential(
        nn.Conv2d(8, 64, 5, groups=2), nn.Linear(512, 256), LocallyConnected2d(4, 32, 3, input_size=10)
    )
    stds = [float(layer.feedback.std()) for _, layer in feedback_layers(with_feedback(model))]
    expected = [(32 * 25) ** -0.5, 256**-0.5, (32 * 9) ** -0.5]
    assert stds == pytest.approx(expected, rel=0.02)


def test_draws_are_independent_of_weights_with_the_same_seed():
    torch.manual_seed(0)
    model = with_feedback(nn.Sequential(*(nn.Linear(200, 200, bias=False) for _ in range(3))), seed=0)
    assert [degrees(layer.feedback, layer.weight) for layer in model] == pytest.approx([90] * 3, abs=1.5)


def test_feedback_has_the_memory_order_of_the_weights_and_the_same_draws_in_both():
    conv, made = nn.Conv2d(3, 4, 3), []
    for layout in ("contiguous", "channels_last"):
        made.append(with_feedback(to_locally_connected(conv, (3, 6, 6), "copy", layout=layout)))
        assert made[-1].feedback.stride() == made[-1].weight.stride()
    assert torch.equal(made[0].feedback, made[1].feedback)


def test_a_copy_leaves_the_model_and_goes_back():
    model = small_network(True)
    before = copy.deepcopy(model.state_dict())
    ours = with_feedback(model, seed=1)
    assert not feedback_layers(model)
    assert [name for name, _ in feedback_layers(ours)] == ["0", "3", "5", "8", "10"]
    assert {f"{name}.feedback" for name, _ in feedback_layers(ours)} == set(ours.state_dict()) - set(before)
    assert not any("feedback" in name for name, _ in ours.named_parameters())
    plain = without_feedback(ours)
    assert not any(isinstance(module, FeedbackLayer) for module in plain.modules())
    assert plain.state_dict().keys() == before.keys()
    assert repr(plain) == repr(model)
    assert not torch.equal(ours[3].feedback, with_feedback(model, seed=2)[3].feedback)
    assert torch.equal(ours[3].feedback, with_feedback(model, seed=1)[3].feedback)


def test_locally_connected_layers_with_feedback_still_sleep():
    model = with_feedback(to_locally_connected(nn.Conv2d(2, 3, 3), (2, 9, 9)).double())
    feedback = model.feedback.clone()
    InstantSharing()(model)
    assert torch.equal(model.weight[0, 0], model.weight[3, 6])
    report = Sleep.steady_state()(model, seed=0)
    assert report.layers[0].modules == 9
    assert torch.equal(model.feedback, feedback)


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")  # by the compiler
def test_a_compiled_network_learns_the_same_and_sees_changes_of_feedback():
    model = with_feedback(small_network(True)).float()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = draw(3, 3, 9, 8, dtype=torch.float32)
    for _ in range(2):
        assert largest_difference(gradients(compiled, x)[1], gradients(model, x)[1]) < 1e-6
        for _, layer in feedback_layers(model):
            layer.feedback.mul_(-0.5)


def test_autocast_keeps_gradients_in_float32():
    model, x = with_feedback(cifar_resnet(8, 10, width=0.5)), draw(4, 3, 16, 16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(x)
    assert scores.dtype == torch.bfloat16
    scores.float().square().sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    _, (_, *exact) = gradients(model, x)
    inexact = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert nn.functional.cosine_similarity(inexact, torch.cat([g.flatten() for g in exact]), dim=0) > 0.99


def test_changed_feedback_between_forward_and_backward_is_an_error():
    model = with_feedback(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
    loss = model(torch.ones(1, 3)).sum()
    model[1].feedback.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_transforms_of_torch_func_pass_through_the_feedback():
    model = with_feedback(seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 1, 2))))
    x, loss = draw(2, 1, 4, 4, seed=1), lambda image: model(image[None]).square().sum()
    expected = torch.stack([torch.autograd.functional.jacobian(loss, image) for image in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("locally_connected", [False, True])
def test_a_layer_is_one_step_of_a_graph_of_torch_fx(locally_connected):
    model, x = with_feedback(small_network(locally_connected)).eval(), draw(2, 3, 9, 8)
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(x), model(x))
    assert sum(node.op == "call_function" for node in graph.graph.nodes) == 5
    assert largest_difference(gradients(graph, x)[1][1:], gradients(model, x)[1][1:]) == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # by PyTorch itself
def test_forward_mode_is_refused_in_words():
    model = with_feedback(nn.Linear(2, 2))
    with pytest.raises(NotImplementedError, match="its backward pass is not the derivative of its forward pass"):
        torch.func.jvp(model, (torch.ones(1, 2),), (torch.ones(1, 2),))


def test_curvature_is_that_of_the_loss_while_backpropagating():
    model = seeded(lambda: nn.Sequential(LocallyConnected2d(1, 2, 2, input_size=4), nn.Tanh(), nn.Conv2d(2, 1, 2)))
    x, ours = draw(1, 1, 4, 4, seed=1), with_feedback(model)
    hessian = lambda net: torch.autograd.functional.hessian(lambda image: net(image).square().sum(), x)
    with backpropagating(ours):
        torch.testing.assert_close(hessian(ours), hessian(model), rtol=0, atol=1e-12)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="init must be one of 'fan-out', 'weights', 'zeros'; got 'random'"):
        with_feedback(nn.Linear(2, 2), "random")
    with pytest.raises(ValueError, match="noise must be a finite number of at least 0; got -1"):
        with_feedback(nn.Linear(2, 2), noise=-1)
    with pytest.raises(ValueError, match="model must have a Conv2d, a Linear or a LocallyConnected2d"):
        with_feedback(nn.ReLU())
    with pytest.raises(TypeError, match="got the subclass FeedbackLinear"):
        with_feedback(with_feedback(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Conv1d(1, 1, 3), "class Conv1d"),
        (nn.ConvTranspose2d(2, 2, 3), "class ConvTranspose2d"),
        (nn.GRU(2, 2), "class GRU"),
        (nn.MultiheadAttention(4, 2), "class MultiheadAttention"),
        (to_fully_connected(nn.Sequential(nn.Conv2d(1, 2, 2)), (1, 4, 4))[0], "class FullyConnected2d"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "subclass ParametrizedLinear"),
        (nn.utils.parametrizations.spectral_norm(nn.Bilinear(2, 2, 2)), "class ParametrizedBilinear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_layers_with_weights_are_refused_by_name(layer, name):
    with pytest.raises(TypeError, match=f"got the {name} in '1'.*parts without it"):
        with_feedback(nn.Sequential(nn.Linear(2, 2), layer))


def test_layers_without_weight_matrices_and_embeddings_stay():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((3, 1), 2.0))

        def forward(self, x):
            return self.weight * x

    norms = nn.LayerNorm((3, 4)), nn.RMSNorm((3, 4)), Scale()
    model = nn.Sequential(nn.Embedding(5, 4), *norms, nn.Flatten(), nn.Linear(12, 2), nn.PReLU())
    fed = with_feedback(model, "weights")
    loss = lambda net: net(torch.tensor([[0, 1, 4]])).square().sum()
    pairs = [torch.autograd.grad(loss(net), list(net.parameters())) for net in (fed, model)]
    for found, expected in zip(*pairs, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_layer_with_a_computed_weight_keeps_its_class():
    model = with_feedback(nn.Linear(3, 2))
    nn.utils.parametrizations.weight_norm(model)
    with pytest.raises(TypeError, match="must have a weight that is a Parameter"):
        without_feedback(model)


def test_a_convolution_is_a_dense_layer_with_dense_feedback():
    """Matrices of W and of B, column by column from unit images, in a dense layer with feedback."""
    conv = with_feedback(seeded(lambda: nn.Conv2d(2, 4, 3, (2, 1), (1, 0), (1, 2), 2, bias=False)), seed=5)
    units, x = torch.eye(2 * 6 * 7, dtype=torch.float64).view(-1, 2, 6, 7), draw(3, 2, 6, 7, seed=1)
    matrix = lambda weight: nn.functional.conv2d(units, weight, None, (2, 1), (1, 0), (1, 2), 2).flatten(1).T.detach()
    dense = with_feedback(nn.Linear(84, len(matrix(conv.weight)), bias=False).double())
    with torch.no_grad():
        dense.weight.copy_(matrix(conv.weight))
        dense.feedback.copy_(matrix(conv.feedback))
    value, (dx, dw) = gradients(conv, x)
    of_dense, (dense_dx, dense_dw) = gradients(dense, x.flatten(1))
    torch.testing.assert_close(value, of_dense, rtol=0, atol=1e-11)
    torch.testing.assert_close(dx.flatten(1), dense_dx, rtol=0, atol=1e-12)
    kernel = conv.weight.detach().clone().requires_grad_()
    (tied,) = torch.autograd.grad(
        (nn.functional.conv2d(units, kernel, None, (2, 1), (1, 0), (1, 2), 2).flatten(1).T * dense_dw).sum(), kernel
    )
    torch.testing.assert_close(dw, tied, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "convert",
    [to_convolutional, to_periodic, lambda model: to_fully_connected(model, (1, 4, 4))],
    ids=lambda f: f.__name__,
)
def test_conversions_of_layers_with_feedback_name_the_way(convert):
    local = to_locally_connected(nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 4, 4))
    with pytest.raises(TypeError, match=r"model\.0 has feedback weights; convert bioshare\.nn\.without_feedback"):
        convert(with_feedback(local))
