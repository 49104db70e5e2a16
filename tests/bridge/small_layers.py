"""Small layers of every geometry, and every way to let them sleep, for the tests of the bridge."""

import copy

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

import bioshare as bs
from bioshare.nn import LocallyConnected2d

# An ideal sleep: with one active input of |x|^2 = 1 and learning rate 1, one cycle of the grid removes all deviations.
IDEAL = bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=1.0)
GENTLE = bs.Hebbian(gamma=0.01, momentum=0.5, learning_rate=0.008)
RATE = bs.RateCircuit(alpha=5.0, bias=0.3, duration=10.0)
GEOMETRIES = {
    "stride 1": {"kernel_size": 3, "padding": 1},
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "stride 3": {"kernel_size": 3, "stride": 3, "input_size": (20, 16)},
    "1 x 1": {"kernel_size": 1},
    "1 x 1, stride 2": {"kernel_size": 1, "stride": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "even": {"kernel_size": (2, 3), "padding": (1, 0)},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "padded on one side": {"kernel_size": (2, 4), "padding": "same"},
    "odd and strided": {"kernel_size": (3, 2), "stride": (2, 3), "padding": (2, 1), "dilation": (1, 3)},
}
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
borders = pytest.mark.parametrize("border", ["share", "keep"])
all_borders = pytest.mark.parametrize("border", ["share", "keep", "scale"])


def layer(seed=0, input_size=(11, 10), inputs=2, outputs=4, **geometry):
    """Two input and four output channels in float64, weights 1 + N(0, 1)."""
    made = LocallyConnected2d(inputs, outputs, input_size=input_size, **geometry).double()
    with torch.no_grad():
        made.weight.normal_(1, 1, generator=torch.Generator().manual_seed(seed))
    return made


def network():
    """Two layers with different K, of which the second may see what the first one hands on."""
    return nn.Sequential(layer(kernel_size=3, padding=1), layer(seed=1, inputs=4, kernel_size=3, padding=1))


def sleep(circuit, rule=IDEAL, stimulus=None, presentations=lambda inputs: inputs, **options):
    stimulus = bs.stimuli.grid() if stimulus is None else stimulus
    return bs.Sleep(circuit=circuit, rule=rule, stimulus=stimulus, presentations=presentations, **options)


def gentle(circuit, stimulus=None, **options):
    """A sleep that ends half way: twenty presentations at a low learning rate."""
    return sleep(circuit, GENTLE, stimulus or bs.stimuli.gaussian(), **({"presentations": 20} | options))


# Every way to share weights, by its border. The ideal circuit leaves the mean of a group, and equal weights, as they
# are; at a finite alpha means shrink; noise of their own drives neurons apart.
IDEAL_MODES = {
    "instant": bs.InstantSharing,
    "instant, half": lambda border: bs.InstantSharing(border, spread=0.5),
    "hebbian": lambda border: bs.HebbianSharing(border=border),
    "grid": lambda border: gentle(bs.SteadyState(), bs.stimuli.grid(), border=border),
    "gaussian": lambda border: gentle(bs.SteadyState(), border=border),
    "relayed": lambda border: gentle(bs.SteadyState(), border=border, patterns="relayed"),
    "simultaneous": lambda border: gentle(bs.SteadyState(), border=border, patterns="simultaneous"),
    "pool": lambda border: gentle(bs.SteadyState(), border=border, pool=2),
    "neuron by neuron": lambda border: gentle(bs.SteadyState(), border=border, engine="loop"),
    "default": lambda border: bs.Sleep.steady_state(border=border),
}
MODES = IDEAL_MODES | {
    "hebbian, alpha = 5": lambda border: bs.HebbianSharing(alpha=5.0, border=border),
    "alpha = 5": lambda border: gentle(bs.SteadyState(5.0), border=border),
    "rate circuit": lambda border: gentle(RATE, border=border),
    "rescaled": lambda border: bs.Sleep.steady_state(5.0, border=border),
    "gain": lambda border: bs.Sleep.steady_state(5.0, gain=1.2, border=border),
    "noise": lambda border: gentle(bs.SteadyState(5.0), bs.stimuli.noise(bs.stimuli.gaussian(), 0.1), border=border),
    "noise, rate circuit": lambda border: gentle(RATE, bs.stimuli.noise(bs.stimuli.grid(), 0.1), border=border),
}
ideal_modes = pytest.mark.parametrize("mode", IDEAL_MODES.values(), ids=IDEAL_MODES)
modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def after(change, model, **options):
    """The weight of a copy of a layer after a change."""
    changed = copy.deepcopy(model)
    change(changed, **options)
    return changed.weight.detach()


def after_network(change, model, **options):
    """The weights of a copy of a model after a change."""
    changed = copy.deepcopy(model)
    change(changed, **options)
    return weights(changed)


def weights(model):
    """Copies of all parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_agree(a, b, atol):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def by_position(unchanged):
    """Which positions of a weight have changed nowhere, (H_out, W_out), from an elementwise comparison."""
    return unchanged.flatten(2).all(-1)


def periodic(model):
    """Which input of the pattern every neuron sees, (H_out, W_out, in / groups, kh, kw), read off an image.

    The image repeats with the period (kh, kw), into the padding too.
    """
    left, right, top, bottom = model.pad
    (rows, columns), (kh, kw) = model.input_size, model.kernel_size
    channels = torch.arange(model.in_channels // model.groups)[:, None, None]
    row, column = torch.arange(-top, rows + bottom)[:, None] % kh, torch.arange(-left, columns + right) % kw
    return patches(model, (channels * kh + row) * kw + column)


def inside(model):
    """Which positions see no padding, (H_out, W_out), read off an image of ones."""
    image = nn.functional.pad(torch.ones(model.in_channels // model.groups, *model.input_size), model.pad)
    return patches(model, image).flatten(2).bool().all(-1)


def patches(model, image):
    """The patches that a layer's neurons see in a padded image, (H_out, W_out, channels, kh, kw)."""
    found = nn.functional.unfold(image[None].double(), model.kernel_size, model.dilation, stride=model.stride)[0]
    return found.view(len(image), *model.kernel_size, *model.output_size).permute(3, 4, 0, 1, 2).round().long()


def positions(model, border="share"):
    """The positions of every module that holds at least two, by their definition: rows and columns."""
    taking_part = inside(model) if border == "keep" else torch.ones(model.output_size, dtype=torch.bool)
    found = []
    for number in module_numbers(model).unique():
        rows, columns = ((module_numbers(model) == number) & taking_part).nonzero(as_tuple=True)
        if len(rows) > 1:
            found.append((rows, columns))
    return found


def module_numbers(model):
    """The number of the module of every position, (H_out, W_out): positions with equal patches of the pattern."""
    seen = periodic(model).flatten(2).flatten(0, 1)
    return seen.unique(dim=0, return_inverse=True)[1].view(model.output_size)


def constants(model):
    """A different number for each module, in the shape of the layer's weight."""
    values = module_numbers(model) + 1.0
    return values.double()[:, :, None, None, None, None].expand(model.weight.shape).clone()


@st.composite
def any_layers(draw, largest_dilation=3):
    """Layers of any geometry that has outputs, with one neuron in a module or many."""
    pair = lambda numbers: st.tuples(numbers, numbers)
    kernel, dilation = draw(pair(st.integers(1, 4))), draw(pair(st.integers(1, largest_dilation)))
    size = tuple(draw(st.integers(d * (k - 1) + 1, 14)) for k, d in zip(kernel, dilation, strict=True))
    groups = draw(st.integers(1, 2))
    padding = draw(pair(st.integers(0, 4)) | st.just("same"))
    stride = (1, 1) if padding == "same" else draw(pair(st.integers(1, 4)))
    return layer(input_size=size, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)


class Wrapped(nn.Module):
    """A model inside another, as DistributedDataParallel holds it."""

    def __init__(self, module):
        super().__init__()
        self.module = module
