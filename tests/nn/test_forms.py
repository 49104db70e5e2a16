import pytest
import torch

from bioshare.nn import batched, forms, functional
from bioshare.nn.batched import ProductPlan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where Triton's compiler or its interpreter computes
X, WEIGHT = torch.ones(2, 1, 3, 3, device=DEVICE), torch.ones(3, 3, 1, 1, 1, 1, device=DEVICE)
ARGUMENTS = X, WEIGHT, ProductPlan.of(X, WEIGHT, (1, 1), (0, 0, 0, 0), (1, 1), 1)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with Triton, as far as the choice sees."""
    pytest.importorskip("triton")
    monkeypatch.setattr(forms, "fused_available", lambda: True)
    monkeypatch.setattr(forms, "_fastest", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def test_every_product_has_a_kernel_of_its_own_for_gpus():
    for product in (functional.forward, functional.input_gradient, functional.weight_gradient):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(product._qualname, "CUDA")


def test_the_fastest_form_is_found_once_for_all_arguments_of_these_shapes(gpu, monkeypatch):
    clocked = []
    monkeypatch.setattr(forms, "seconds", lambda work: clocked.append(work()) or (2.0 if len(clocked) == 1 else 1.0))
    product = forms.chosen("forward")
    forms_there = len(forms.candidates("forward", *ARGUMENTS))
    assert forms_there > 1
    for x in (X, 3 * X):
        torch.testing.assert_close(product(x, *ARGUMENTS[1:]), x, rtol=0, atol=0)
    assert len(clocked) == forms_there
    assert list(forms._fastest.values()) == [list(forms.candidates("forward", *ARGUMENTS))[1]]
    product(X[:1], *ARGUMENTS[1:])
    assert len(clocked) == 2 * forms_there


def test_no_time_is_taken_while_a_graph_is_captured(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(forms, "seconds", lambda work: pytest.fail("the clock was read"))
    torch.testing.assert_close(forms.chosen("forward")(*ARGUMENTS), X, rtol=0, atol=0)
    assert not forms._fastest


def test_a_preference_holds_until_the_end_of_its_block(gpu):
    names = lambda: {name.split()[0] for name in forms.candidates("forward", *ARGUMENTS)}
    with functional.prefer("fused"):
        assert names() == {"fused"}
        with functional.prefer("batched"):
            assert names() == {"batched"}
        assert names() == {"fused"}
    assert names() == {"batched", "fused"}


def test_without_triton_or_a_gpu_there_is_one_form():
    if forms.fused_available():
        pytest.skip("there is a GPU")
    assert list(forms.candidates("forward", *ARGUMENTS)) == ["batched"]
    with pytest.raises(ValueError, match=r'form="fused" needs Triton .* take "auto"'), functional.prefer("fused"):
        pass


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form must be one of 'auto', 'batched', 'fused', 'plain'; got 'quick'"):
        functional.prefer("quick").__enter__()


def test_a_form_that_fails_is_left_out_with_a_warning():
    def fails():
        raise RuntimeError("out of shared memory")

    clock = lambda work: work().sum().item()
    with pytest.warns(UserWarning, match="can't run in the form 'fused': out of shared memory"):
        assert forms.fastest({"fused": fails, "batched": lambda: X}, clock) == "batched"
    refused = pytest.raises(RuntimeError, match="in none of its forms: fused")
    with pytest.warns(UserWarning, match="out of shared memory"), refused:
        forms.fastest({"fused": fails}, clock)


def test_too_little_memory_is_no_matter_of_the_form():
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        forms.fastest({"batched": full, "other": lambda: X}, lambda work: work().sum().item())


def test_shapes_types_and_strides_tell_products_apart():
    assert forms._layout(X) == forms._layout(2 * X)
    others = X[:1], X.double(), X.contiguous(memory_format=torch.channels_last).expand(2, 1, 3, 3).mT
    assert all(forms._layout(X) != forms._layout(other) for other in others)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")
def test_a_gpu_times_products():
    work = lambda: batched.forward(*ARGUMENTS)
    assert forms.seconds(work) > 0
