"""Sizes and order of a model's layers, from one forward pass."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bioshare.checks import shown, whole


def input_sizes(model: nn.Module, convs: Mapping[str, Any], input_size: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the rows and columns, or the length, of every convolution's input, from a pass without data.

    For a linear layer, return the whole shape of the input, with a batch of one.
    """
    # a copy on the meta device without hooks; memo has the copies of all objects by the id of the original
    memo: dict[int, Any] = {}
    for module in model.modules():
        memo |= {id(hooks): OrderedDict() for hooks in (module._forward_pre_hooks, module._forward_hooks)}
        tensors = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        memo |= {id(tensor): tensor.detach().to("meta") for tensor in tensors if isinstance(tensor, Tensor)}
    probe, seen = copy.deepcopy(model, memo), {label: set() for label in convs}

    def note_size(label: str, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = args[0] if args else kwargs["input"]
        axes = 0 if isinstance(convs[label], nn.Linear) else -len(convs[label].kernel_size)
        seen[label].add(tuple(x.shape[axes:]))

    for label, conv in convs.items():
        memo[id(conv)].register_forward_pre_hook(partial(note_size, label), with_kwargs=True)
    dtype = next(next(iter(convs.values())).parameters()).dtype
    batch = torch.empty(1, *input_size, device="meta", dtype=dtype)
    try:
        with torch.no_grad(), torch.device("meta"):
            probe.eval()(batch)
    except Exception as error:
        raise ValueError(
            f"model must run on an input of shape {(1, *input_size)} without data, which tells the sizes of its "
            f"layers; got {type(error).__name__}: {error}. See that input_size is right. Where a forward looks at "
            "values (an if, .item(), a mask) or keeps tensors that are neither parameters nor buffers, convert the "
            "parts of the model that don't, and put them in their places"
        ) from error
    for label, sizes in seen.items():
        if len(sizes) != 1:
            got = f"inputs of the sizes {sorted(sizes)}" if sizes else "no input"
            remedy = "Give every size a layer of its own" if sizes else "Convert the model without that layer"
            raise ValueError(f"{label} must get inputs of one size in a forward pass; got {got}. {remedy}")
    return {label: sizes.pop() for label, sizes in seen.items()}


def run_once(
    model: nn.Module, input_size: tuple[int, ...], hooks: Sequence[RemovableHandle], graph: bool = False
) -> Any:
    """Run a model on one input of zeros in evaluation mode, restore the modes, and remove the hooks that looked on.

    With ``graph``, the output has the graph of the pass.

    Raises:
        TypeError, ValueError: ``input_size`` is not the shape of an input of the model.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        if not isinstance(input_size, tuple | list):
            raise TypeError(f"input_size must be the shape of one input, such as (3, 32, 32); got {shown(input_size)}")
        for size in input_size:
            whole("input_size", size, "the shape of one input, whole numbers", at_least=1)
        like = next(model.parameters())
        with torch.set_grad_enabled(graph):
            return model.eval()(torch.zeros(1, *input_size, dtype=like.dtype, device=like.device))
    except RuntimeError as error:
        raise ValueError(
            f"input_size must be the shape of one input of the model; got {input_size}: {error}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()
