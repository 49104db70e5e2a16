"""`to_periodic`: layers whose modules have equal weights as convolutions with a kernel for each module."""

from __future__ import annotations

import copy

import torch
from torch import nn

from bioshare.bridge.geometry import modules
from bioshare.checks import real
from bioshare.nn import LocallyConnected1d, LocallyConnected2d, PatchwiseLinear, PeriodicConv1d, PeriodicConv2d
from bioshare.nn.convert import position_mean, shared_layer
from bioshare.nn.replaceable import replaceable_layers

ADVICE = "A simulated sleep leaves some spread, which bioshare.InstantSharing takes away"


def to_periodic(model: nn.Module, tolerance: float = 1e-6) -> nn.Module:
    """Copy a model with every `LocallyConnected2d` replaced by a `PeriodicConv2d`; the model itself doesn't change.

    After sharing, the kernels of a layer repeat with the period of the modules: a 3 x 3 layer has nine kernels, and no
    convolution computes the same function. The copy computes the same function at the cost and nearly the size of a
    convolution: nine kernels in place of a kernel for every position. For a `LocallyConnected1d` the layer is a
    `PeriodicConv1d`, and for a `PatchwiseLinear`, whose tokens form a single module, a `torch.nn.Linear`.

    Args:
        model: a model after `bioshare.InstantSharing`, or an ideal sleep, with ``border="share"``.
        tolerance: largest distance of a weight from the module's mean, as a fraction of the module's largest weight.
            `math.inf` takes the means of any weights, which is `bioshare.InstantSharing` and then the conversion: a
            simulated sleep leaves some spread.

    Returns:
        The copy, with copies of all other layers and parameters. Make the optimiser afterwards, from the copy.

    Raises:
        TypeError: a layer is a subclass, compiled, has hooks or a reparametrised weight, or shares a parameter.
        ValueError: the weights of a module differ by more than the tolerance.

    Example:
        >>> from bioshare.bridge import InstantSharing
        >>> layer = LocallyConnected2d(1, 4, 3, input_size=32)
        >>> report = InstantSharing()(layer)
        >>> layer.weight.numel(), to_periodic(layer).weight.numel()
        (32400, 324)
    """
    expected = "a fraction of at least 0, or math.inf for any difference"
    limit = float(real("tolerance", tolerance, expected, at_least=0, infinite=True, array=False))
    layers = replaceable_layers(model, LocallyConnected2d, (LocallyConnected2d, LocallyConnected1d, PatchwiseLinear))
    made = lambda label, layer: (shared_layer if isinstance(layer, PatchwiseLinear) else _periodic)(label, layer, limit)
    return copy.deepcopy(model, {id(layer): made(label, layer) for label, layer in layers.items()})


@torch.no_grad()
def _periodic(label: str, layer: LocallyConnected2d, tolerance: float) -> PeriodicConv2d:
    members = modules(layer, smallest=1)
    rows, columns = members[-1].rows.start + 1, members[-1].columns.start + 1
    weight = torch.empty(rows, columns, *layer.weight.shape[2:]).to(layer.weight)
    offsets = None if layer.bias is None else layer.bias.permute(1, 2, 0)  # (H_out, W_out, out)
    bias = None if offsets is None else torch.empty(rows, columns, layer.out_channels).to(offsets)
    for module in members:
        at, positions = (module.rows.start, module.columns.start), (module.rows, module.columns)
        weight[at] = position_mean(f"{label}.weight in a module", layer.weight[positions], tolerance, advice=ADVICE)
        if offsets is not None and bias is not None:
            bias[at] = position_mean(f"{label}.bias in a module", offsets[positions], tolerance, advice=ADVICE)
    options = layer.stride, layer.pad, layer.dilation, layer.groups, layer.padding_mode
    kind = PeriodicConv1d if isinstance(layer, LocallyConnected1d) else PeriodicConv2d
    new = kind(weight, bias, *options).train(layer.training)
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(getattr(layer, name).requires_grad)
    return new
