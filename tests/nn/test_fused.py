"""The fused kernels, in Triton's interpreter where there is no GPU; `test_functional.py` compares their gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bioshare.nn import batched
from bioshare.nn.batched import ProductPlan, new_weight

fused = pytest.importorskip("bioshare.nn.fused", reason="needs Triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = fused.Tiles(16, 16, 16)


def draw(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(DEVICE)


def products(form, batch, groups, outputs, channels, size, **options):
    """All three products of one layer, 3 x 2 kernels and a stride of 2 over rows."""
    x = draw(batch, groups * channels, *size, seed=0)
    rows, columns = (size[0] + 2 - 3) // 2 + 1, size[1] + 1 - 2 + 1
    weight = new_weight((rows, columns, groups * outputs, channels, 3, 2), torch.float64, DEVICE)
    weight.copy_(draw(*weight.shape, seed=1))
    grad = draw(batch, groups * outputs, rows, columns, seed=2)
    plan = ProductPlan.of(x, weight, (2, 1), (1, 0, 1, 1), (1, 1), groups)
    return (
        form.forward(x, weight, plan, **options),
        form.input_gradient(grad, weight, plan, **options),
        form.weight_gradient(x, grad, plan, torch.float64, **options),
    )


@pytest.mark.parametrize(
    ("batch", "groups", "outputs", "channels"),
    [(37, 1, 20, 18), (16, 2, 17, 3), (1, 3, 1, 1), (33, 1, 5, 40)],
)
def test_products_in_several_blocks_with_remainders_along_every_axis(batch, groups, outputs, channels):
    shape = batch, groups, outputs, channels, (3, 4)
    expected = products(batched, *shape)
    for value, truth in zip(products(fused, *shape, tiles=SMALL), expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=0, atol=1e-11)
        assert value.stride() == truth.stride()


def test_a_batch_without_images_gives_a_weight_gradient_of_0():
    y, dx, dw = products(fused, 0, 1, 2, 2, (3, 3))
    assert y.shape[0] == dx.shape[0] == 0
    assert dw.numel()
    assert not dw.any()


def test_blocks_are_no_larger_than_the_products():
    assert fused.Tiles(128, 64, 32).of(5, 17, 1000) == {"M": 16, "N": 32, "K": 32, "num_warps": 4, "num_stages": 3}


@pytest.mark.slow
def test_the_kernels_compile_for_hopper_without_spilling_and_use_its_matrix_units():
    """Ahead of time, which needs no GPU: what would be launched for a middle layer of ResNet-20 at a batch of 512."""
    script = Path(__file__).with_name("compile_for_hopper.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    output = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=True)
    kernels = json.loads(output.stdout)
    assert {kernel["name"] for kernel in kernels} == {"forward", "input_gradient", "weight_gradient"}
    assert len(kernels) == 3 * 2 * len(fused.TILES)
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= 227 * 1024, kernel
        assert "wgmma" in kernel["instructions"], kernel
        assert "cp.async.cg.shared.global" in kernel["instructions"], (
            kernel
        )  # 16 bytes at a time, ahead of the products
