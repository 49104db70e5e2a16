"""Sleep of layers for sequences: every k-th position shares, as in a layer for images of one row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bioshare as bs
from bioshare.bridge import HebbianSharing, InstantSharing, LearnedGroups, modules, renew_statistics, to_periodic
from bioshare.nn import LocallyConnected1d, LocallyConnected2d, PeriodicConv1d, to_locally_connected


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@given(
    kernel_size=st.integers(1, 5), stride=st.integers(1, 5), dilation=st.integers(1, 3), padding=st.integers(0, 3)
)  # fmt: skip
def test_modules_are_the_positions_that_see_the_same_part_of_the_pattern(**options):
    layer = LocallyConnected1d(2, 1, input_size=20, **options)
    kernel, stride, dilation, padding = (options[name] for name in ("kernel_size", "stride", "dilation", "padding"))
    positions = range(layer.output_size[1])
    phases = [tuple((p * stride - padding + i * dilation) % kernel for i in range(kernel)) for p in positions]
    expected = {tuple(p for p in positions if phases[p] == phase): phase for phase in phases}
    found = {tuple(positions[module.columns]): module for module in modules(layer, smallest=1)}
    assert found.keys() == expected.keys()
    for tied, phase in expected.items():
        seen = [channel * kernel + tap for tap in phase for channel in range(2)]  # the taps in memory order
        assert found[tied].seen.tolist() == seen
        assert found[tied].rows == slice(0, 1, 1)


@pytest.mark.parametrize(
    "phase",
    [
        InstantSharing(),
        InstantSharing(border="keep"),
        InstantSharing(border="scale"),
        HebbianSharing(),
        LearnedGroups(),
        bs.Sleep.steady_state(times=1.0),
        bs.Sleep.steady_state(times=1.0, stimulus=bs.stimuli.gaussian(), patterns="relayed"),
    ],
    ids=lambda phase: type(phase).__name__,
)
def test_a_sequence_sleeps_as_an_image_of_one_row_to_the_bit(phase):
    options = {"bias": True, "dtype": torch.float64}
    line = nn.Sequential(
        LocallyConnected1d(2, 4, 3, padding=1, input_size=12, **options),
        LocallyConnected1d(4, 3, 3, stride=2, input_size=12, **options),
    )
    image = nn.Sequential(
        LocallyConnected2d(2, 4, (1, 3), padding=(0, 1), input_size=(1, 12), **options),
        LocallyConnected2d(4, 3, (1, 3), stride=(1, 2), input_size=(1, 12), **options),
    )
    image.load_state_dict(line.state_dict())
    before = line[0].weight.detach().clone()
    for model in (line, image):
        phase(model, seed=0)
    assert not torch.equal(line[0].weight, before)
    for ours, theirs in zip(line.parameters(), image.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_instant_sharing_leaves_every_third_kernel_equal_and_a_periodic_convolution():
    model = to_locally_connected(nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4)), (2, 12)).double()
    before = model[0].weight.detach().clone()
    InstantSharing()(model)
    for first in range(3):
        expected = before[:, first::3].mean(1, keepdim=True).expand(1, 4, 4, 2, 1, 3)
        torch.testing.assert_close(model[0].weight[:, first::3], expected, rtol=0, atol=1e-14)
    x = draw(5, 2, 12)
    renew_statistics(model, [x])
    periodic = to_periodic(model.eval())
    assert isinstance(periodic[0], PeriodicConv1d)
    assert periodic[0].weight.shape == (1, 3, 4, 2, 1, 3)
    torch.testing.assert_close(periodic(x), model(x), rtol=0, atol=1e-12)


def test_a_report_keeps_and_draws_the_kernels_of_a_sequence():
    layer = LocallyConnected1d(2, 4, 3, input_size=12)
    report = InstantSharing()(layer, keep=("", 1))
    assert report.kept.after.shape == (1, 10, 2, 1, 3)
    assert report.draw().axes
