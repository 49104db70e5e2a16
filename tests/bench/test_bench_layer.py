import pytest
import torch
from small_network import make_little
from torch import nn

from bioshare.__main__ import main
from bioshare.bench.layer import FORMS, STAGES, Shape, forms, least_works, step
from bioshare.bench.timing import peak_bytes


@pytest.fixture
def little(monkeypatch):
    make_little(monkeypatch)


def test_all_forms_of_a_layer_compute_the_same():
    layers = [make(4, 4, 3, padding=1, input_size=6, bias=False) for make, _ in FORMS.values()]
    kernel = torch.randn(4, 4, 3, 3)
    x = torch.randn(2, 4, 6, 6)
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(kernel)
    for layer in layers[1:]:
        torch.testing.assert_close(layer(x), layers[0](x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("device", "images"), [("cpu", 1), ("cuda", 4)])
def test_a_form_is_warm_for_the_batch_that_a_gpu_computes(monkeypatch, device, images):
    """Triton's kernels for a single image are others."""
    seen, made = [], nn.Conv2d(2, 2, 3, padding=1)
    made.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    monkeypatch.setitem(FORMS, "Conv2d", (lambda *_, **__: made, "auto"))
    on_the_cpu = lambda *size, device, randn=torch.randn, **options: randn(*size, **options)
    monkeypatch.setattr(torch, "randn", on_the_cpu)
    work = step("Conv2d", 4, 2, 5, "fp32", device)
    assert seen == [images]
    work()
    assert seen == [images, 4]


@pytest.mark.slow
def test_a_larger_batch_peaks_higher_and_the_naive_form_highest():
    peak = lambda name, batch: peak_bytes(step, name, batch, 16, 32, "fp32", "cpu")
    small, large, naive = peak("LC, batched", 64), peak("LC, batched", 256), peak("unfold + einsum", 256)
    assert 1e6 < small < large < naive / 2


def test_the_bench_of_a_layer_prints_a_line_for_every_case(little, monkeypatch, capsys):
    monkeypatch.setattr("bioshare.bench.layer.peak_bytes", lambda *arguments: 2_000_000)
    assert main(["bench", "layer", "--batches", "2", "--dtypes", "fp32", "bf16", "--repeats", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("fp32 ", "bf16 "))]
    assert len(lines) == 2 * len(STAGES) * len(forms("cpu"))
    assert all(line[-6] == "2" and float(line[-1]) > 0 for line in lines)


def test_the_least_work_of_a_layer_counts_its_weights_at_every_position():
    shape = Shape(2, 4, 6, "bf16")
    for name, kernels in (("LC, batched", 36), ("Conv2d", 1)):
        moved = 2 * (2 * 2 * 4 * 36) + 4 * kernels * 4 * 36
        assert [work[1:] for work in least_works(name, shape)] == 3 * [(2 * 2 * 4 * 36 * 36, moved)]
