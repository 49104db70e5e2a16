from functools import partial

import pytest
import torch
from small_network import use_small_network
from torch import nn

from bioshare.__main__ import main
from bioshare.bench.harness import peak_bytes
from bioshare.bench.layer import LAYER_FORMS, STAGES, LayerSize, layer_forms, layer_kernels, layer_step

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    use_small_network(monkeypatch)


def test_all_forms_of_a_layer_compute_the_same():
    layers = [make(4, 4, 3, padding=1, input_size=6, bias=False) for make, _ in LAYER_FORMS.values()]
    kernel = torch.randn(4, 4, 3, 3)
    x = torch.randn(2, 4, 6, 6)
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(kernel)
    for layer in layers[1:]:
        torch.testing.assert_close(layer(x), layers[0](x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("device", "images"), [("cpu", 1), ("cuda", 4)])
def test_a_form_is_warm_for_the_batch_that_a_gpu_computes(monkeypatch, device, images):
    """Triton has separate kernels for a single image."""
    seen, made = [], nn.Conv2d(2, 2, 3, padding=1)
    made.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    monkeypatch.setitem(LAYER_FORMS, "Conv2d", (lambda *_, **__: made, "auto"))
    on_the_cpu = lambda *size, device, randn=torch.randn, **options: randn(*size, **options)
    monkeypatch.setattr(torch, "randn", on_the_cpu)
    work = layer_step("Conv2d", LayerSize(4, 2, 5, "fp32"), torch.device(device))
    assert seen == [images]
    work()
    assert seen == [images, 4]


@pytest.mark.slow
def test_a_larger_batch_peaks_higher_and_the_naive_form_highest():
    peak = lambda name, batch: peak_bytes(partial(layer_step, name, LayerSize(batch, 16, 32, "fp32"), CPU), CPU)
    small, large, naive = peak("LC, batched", 64), peak("LC, batched", 256), peak("unfold + einsum", 256)
    assert 1e6 < small < large < naive / 2


def test_the_bench_of_a_layer_prints_a_line_for_every_case(small, monkeypatch, capsys):
    monkeypatch.setattr("bioshare.bench.layer.peak_bytes", lambda *arguments: 2_000_000)
    assert main(["bench", "layer", "--batches", "2", "--dtypes", "fp32", "bf16", "--repeats", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("fp32 ", "bf16 "))]
    assert len(lines) == 2 * len(STAGES) * len(layer_forms(CPU))
    assert all(line[-6] == "2" and float(line[-1]) > 0 for line in lines)


def test_the_least_work_of_a_layer_counts_its_weights_at_every_position():
    size = LayerSize(2, 4, 6, "bf16")
    for name, kernels in (("LC, batched", 36), ("Conv2d", 1)):
        moved = 2 * (2 * 2 * 4 * 36) + 4 * kernels * 4 * 36
        assert [kernel[1:] for kernel in layer_kernels(name, size)] == 3 * [(2 * 2 * 4 * 36 * 36, moved)]
