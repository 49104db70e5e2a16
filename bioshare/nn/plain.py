"""Locally connected products in plain operations of PyTorch, with all patches in memory.

Every transform, tracer and exporter of PyTorch knows these operations. The operators of `bioshare.nn.functional` save
memory and time, but their inside is hidden from PyTorch; `needed` is true where PyTorch must look inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from bioshare.nn.plan import HALVES, ProductPlan, physical


def needed() -> bool:
    """Return True inside transforms and exporters that must look inside a product.

    These are the transforms of `torch.func`, forward-mode differentiation, `torch.export`, `torch.jit.trace` (one of
    the two is in all of `torch.onnx`) and FlopCounterMode. `torch.compile` keeps the operators.
    """
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    if forward_ad._current_level >= 0 or torch._C._is_tracing():
        return True
    return any(type(mode).__name__ == "_FlopCounterMode" for mode in _get_current_dispatch_mode_stack())


def forward(x: Tensor, weight: Tensor, plan: Sequence[int]) -> Tensor:
    """Return y (batch, out, H_out, W_out), in the type of x."""
    plan = ProductPlan(*plan)
    # y[h, w] = patch[h, w] @ kernel[h, w].T: (positions, groups, batch, outputs)
    y = _unfolded(x, plan) @ _kernels(weight, plan).transpose(-2, -1).to(x.dtype)
    return y.permute(2, 1, 3, 0).flatten(1, 2).unflatten(-1, (plan.rows, plan.columns))


def input_gradient(grad: Tensor, weight: Tensor, plan: Sequence[int]) -> Tensor:
    """Return the gradient by x (batch, in, H, W) from the gradient by y, in the same type."""
    plan = ProductPlan(*plan)
    # d patch[h, w] = dy[h, w] @ kernel[h, w]: (positions, groups, batch, kw kh channels)
    patches = _cotangents(grad, plan) @ _kernels(weight, plan).to(grad.dtype)
    taps = patches.unflatten(-1, (plan.kw, plan.kh, plan.channels)).permute(2, 1, 5, 4, 3, 0)
    taps = taps.flatten(1, 4).to(torch.float32 if grad.dtype in HALVES else grad.dtype)
    # dx[h sh + i dh - top, w sw + j dw - left] += d patch[h, w, i, j]: (batch, in, padded height, padded width)
    left, right, top, bottom = plan.padding
    size = top + plan.height + bottom, left + plan.width + right
    dx = nn.functional.fold(taps, size, (plan.kh, plan.kw), (plan.dh, plan.dw), 0, (plan.sh, plan.sw))
    return nn.functional.pad(dx, (-left, -right, -top, -bottom)).to(grad.dtype)


def weight_gradient(x: Tensor, grad: Tensor, plan: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the gradient by the weights (H_out, W_out, out, in / groups, kh, kw), in their type, from x and dy."""
    plan = ProductPlan(*plan)
    # d kernel[h, w] = dy[h, w].T @ patch[h, w]: (positions, groups, outputs, kw kh channels)
    kernels = _cotangents(grad, plan).transpose(-2, -1).to(dtype) @ _unfolded(x, plan).to(dtype)
    kernels = kernels.flatten(1, 2).unflatten(0, (plan.rows, plan.columns))
    return physical(kernels.unflatten(-1, (plan.kw, plan.kh, plan.channels)))


def _unfolded(x: Tensor, plan: ProductPlan) -> Tensor:
    """Return the patches of x: (positions, groups, batch, kw kh channels)."""
    padded = nn.functional.pad(x, plan.padding)
    taps = nn.functional.unfold(padded, (plan.kh, plan.kw), (plan.dh, plan.dw), 0, (plan.sh, plan.sw))
    return taps.unflatten(1, (plan.groups, plan.channels, plan.kh, plan.kw)).permute(5, 1, 0, 4, 3, 2).flatten(3)


def _cotangents(grad: Tensor, plan: ProductPlan) -> Tensor:
    """Return the gradient by y as (positions, groups, batch, outputs)."""
    return grad.flatten(2).unflatten(1, (plan.groups, plan.outputs)).permute(3, 1, 0, 2)


def _kernels(weight: Tensor, plan: ProductPlan) -> Tensor:
    """Return the weights as matrices: (positions, groups, outputs, kw kh channels)."""
    return physical(weight).flatten(3).flatten(0, 1).unflatten(1, (plan.groups, plan.outputs))
