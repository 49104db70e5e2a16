"""Ratios of the norms of sharing groups (out, N, K), a ratio for every output channel; 1 where the divisor is 0."""

import torch
from torch import Tensor


def mean_ratio(groups: Tensor, reference: Tensor) -> Tensor:
    """Divide the norm of every group's mean by the norm of the mean in ``reference``, (out,)."""
    norm = lambda one: torch.linalg.vector_norm(one.to(dtype).mean(1), dim=-1)
    dtype = torch.promote_types(groups.dtype, reference.dtype)
    return _ratio(norm(groups), norm(reference))


def rms_ratio(groups: Tensor, reference: Tensor) -> Tensor:
    """Divide the root mean square norm of every group's weight vectors by the root in ``reference``, (out,)."""
    norm = lambda one: torch.linalg.vector_norm(one.to(dtype), dim=(1, 2))
    dtype = torch.promote_types(groups.dtype, reference.dtype)
    return _ratio(norm(groups), norm(reference))


def _ratio(norm: Tensor, reference: Tensor) -> Tensor:
    # a Python number for the ones would be copied to the device
    return torch.where(reference > 0, norm / reference, torch.ones_like(reference))
