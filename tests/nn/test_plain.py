"""Every way of PyTorch to differentiate, trace, count and export that works on a convolution."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

from bioshare.nn import LocallyConnected2d, functional, to_locally_connected

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # PyTorch's own use of it


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def layer_and_images(dtype=torch.float64):
    """A grouped layer with strides, and a batch."""
    layer = LocallyConnected2d(2, 4, (3, 2), (2, 1), 1, (1, 2), groups=2, bias=True, input_size=(6, 4), dtype=dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed, dtype=dtype))
    return layer, draw(3, 2, 6, 4, seed=5, dtype=dtype)


def function_of(layer):
    """The layer as a function of the input, the weights and the bias, and leaves for the last two."""
    names = [name for name, _ in layer.named_parameters()]
    return lambda x, *values: functional_call(layer, dict(zip(names, values, strict=True)), (x,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives_in_both_directions_one_at_a_time_and_in_batches(dtype):
    layer, x = layer_and_images(dtype)
    leaves = [t.detach().clone().requires_grad_() for t in (x, *layer.parameters())]
    checks = {"check_batched_grad": True, "fast_mode": True}
    assert torch.autograd.gradcheck(
        function_of(layer), leaves, check_forward_ad=True, check_batched_forward_grad=True, **checks
    )
    assert torch.autograd.gradgradcheck(function_of(layer), leaves, check_fwd_over_rev=True, **checks)


@settings(max_examples=15, deadline=None)
@given(
    kernel_size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
)
def test_complex_gradients_are_those_of_a_convolution(**options):
    conv = nn.Conv2d(2, 4, dtype=torch.complex128, **options)
    layer, x = to_locally_connected(conv, (2, 5, 6), init="copy"), draw(3, 2, 5, 6, dtype=torch.complex128)
    gradients = []
    for module in (conv, layer):
        inputs = x.clone().requires_grad_()
        y = module(inputs)
        wanted = draw(*y.shape, seed=1, dtype=torch.complex128)
        gradients.append(torch.autograd.grad((y - wanted).abs().square().sum(), [inputs, *module.parameters()]))
    by_x, by_kernel, by_bias = gradients[1]
    summed = by_x, by_kernel.sum((0, 1)), by_bias.sum((1, 2))
    torch.testing.assert_close(summed, gradients[0], rtol=0, atol=1e-10)


def test_per_sample_gradients_are_the_gradients_of_single_samples():
    layer, x = layer_and_images()
    parameters = dict(layer.named_parameters())
    loss = lambda parameters, image: functional_call(layer, parameters, (image[None],)).pow(3).sum()
    together = vmap(grad(loss), (None, 0))(parameters, x)
    for number, image in enumerate(x):
        alone = torch.autograd.grad(layer(image[None]).pow(3).sum(), list(parameters.values()))
        for name, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(together[name][number], expected, rtol=0, atol=1e-11)


def test_jacobians_and_hessians_agree_and_are_not_zero():
    layer, x = layer_and_images()
    columns, rows = jacfwd(layer)(x[:1]), jacrev(layer)(x[:1])
    torch.testing.assert_close(columns, rows, rtol=0, atol=1e-12)
    tangent = draw(*x[:1].shape, seed=9)
    y, dy = jvp(layer, (x[:1],), (tangent,))
    torch.testing.assert_close(dy, layer(tangent) - layer.bias, rtol=0, atol=1e-12)  # linear in x
    torch.testing.assert_close(dy, torch.einsum("bohwncij,ncij->bohw", rows, tangent), rtol=0, atol=1e-12)
    torch.testing.assert_close(y, layer(x[:1]), rtol=0, atol=1e-12)
    loss = lambda weight: functional_call(layer, {"weight": weight}, (x,)).square().sum()
    curvature, direction = hessian(loss)(layer.weight), draw(*layer.weight.shape, seed=3)
    bent = torch.einsum("abcdefghijkl,ghijkl->abcdef", curvature, direction)
    _, expected = torch.autograd.functional.hvp(loss, layer.weight, direction)
    torch.testing.assert_close(bent, expected, rtol=0, atol=1e-10)


def test_an_ensemble_computes_what_its_members_do():
    layer, x = layer_and_images()
    members = [layer, copy.deepcopy(layer)]
    with torch.no_grad():
        members[1].weight.mul_(-2.0)
    parameters, buffers = stack_module_state(members)
    together = vmap(lambda p, b: functional_call(layer, (p, b), (x,)))(parameters, buffers)
    for y, member in zip(together, members, strict=True):
        torch.testing.assert_close(y, member(x), rtol=0, atol=1e-12)


def test_as_many_flops_are_counted_as_for_a_convolution():
    conv = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 3))
    counts = []
    for model in (conv, to_locally_connected(conv, (2, 9, 8))):
        with FlopCounterMode(display=False) as counter:
            model(draw(3, 2, 9, 8).float().requires_grad_()).sum().backward()
        counts.append(counter.get_flop_counts())
    assert len(counts[0]) == 4
    for name in ("Global", "Sequential.0", "Sequential.1"):
        assert sum(counts[0][name].values()) == sum(counts[1][name].values())


def test_a_graph_of_torch_fx_computes_the_same():
    model = nn.Sequential(layer_and_images()[0], nn.ReLU(), LocallyConnected2d(4, 2, 1, input_size=(3, 4)).double())
    graph, x = torch.fx.symbolic_trace(model), layer_and_images()[1]
    assert torch.equal(graph(x), model(x))
    assert torch.equal(graph(x[0]), model(x[0]))
    with pytest.raises(ValueError, match=r"x must have the shape \(batch, 2, 6, 4\)"):
        graph(x[..., :3])


def test_a_layer_is_one_step_of_a_graph_and_keeps_its_name():
    """What feature extractors read: every step has the names of the modules around it."""
    model = to_locally_connected(
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1))), (2, 6, 4)
    )
    steps = [node for node in torch.fx.symbolic_trace(model).graph.nodes if node.op.startswith("call")]
    assert [list(node.meta["nn_module_stack"])[-1] for node in steps] == ["0", "1.0", "1.1"]


def test_batches_of_any_size_compile_once_more_than_a_single_size():
    layer, compilations = layer_and_images()[0], []
    torch._dynamo.reset()

    def backend(graph, _):
        compilations.append(graph)
        return graph

    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for batch in range(2, 8):
        compiled(draw(batch, 2, 6, 4))
    assert len(compilations) == 2
    operators = {node.target for node in compilations[-1].graph.nodes}
    assert torch.ops.bioshare.locally_connected2d.default in operators


@pytest.mark.slow
def test_compiled_transforms_give_the_same():
    layer, x = layer_and_images()
    torch._dynamo.reset()
    per_sample = vmap(grad(lambda image: layer(image[None]).pow(3).sum()))
    compiled = torch.compile(per_sample, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), per_sample(x), rtol=0, atol=1e-11)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:No complete tensor found:UserWarning")  # weights in another order than their axes
def test_saved_programs_run_without_bioshare_on_batches_of_any_size(tmp_path):
    layer, x = layer_and_images()
    sizes = ({0: torch.export.Dim("batch", min=2)},)
    torch.export.save(torch.export.export(layer, (x,), dynamic_shapes=sizes), tmp_path / "exported.pt2")
    torch.jit.trace(layer, x).save(tmp_path / "traced.pt")
    batch = draw(5, 2, 6, 4, seed=8)
    torch.save(batch, tmp_path / "batch.pt")
    code = (
        "import sys, torch; sys.modules['bioshare'] = None; batch = torch.load('batch.pt')\n"
        "exported, traced = torch.export.load('exported.pt2').module(), torch.jit.load('traced.pt')\n"
        "torch.save([exported(batch), traced(batch)], 'results.pt')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)
    for y in torch.load(tmp_path / "results.pt"):
        torch.testing.assert_close(y, layer(batch), rtol=0, atol=1e-12)


def test_scripting_is_refused_in_a_sentence():
    with pytest.raises(TypeError, match=r"can't be scripted; use torch\.export\.export or torch\.jit\.trace"):
        torch.jit.script(nn.Sequential(layer_and_images()[0]))


def test_the_plain_form_may_be_preferred():
    layer, x = layer_and_images()
    traced = {}
    for form in ("auto", "plain"):
        with functional.prefer(form):
            traced[form] = torch.fx.experimental.proxy_tensor.make_fx(layer)(x)
    hidden = lambda form: any("bioshare" in str(node.target) for node in traced[form].graph.nodes)
    assert hidden("auto")
    assert not hidden("plain")
    torch.testing.assert_close(traced["plain"](x), layer(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_those_of_the_operators(dtype):
    layer, x = layer_and_images(torch.float32)
    results = []
    for form in ("auto", "plain"):
        leaf = x.clone().requires_grad_()
        with functional.prefer(form), torch.autocast("cpu", dtype):
            y = layer(leaf)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), [leaf, *layer.parameters()])])
    assert results[0][0].dtype == dtype
    for value, expected in zip(*results, strict=True):
        tolerance = 4 * torch.finfo(dtype).eps * expected.abs().max().item()
        torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)
