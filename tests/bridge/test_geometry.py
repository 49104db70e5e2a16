"""Which positions are tied together, and what they see: read off images, for layers of any geometry."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_layers import after, any_layers, assert_agree, inside, layer, periodic, positions

import bioshare as bs
from bioshare.bridge import modules
from bioshare.nn import LocallyConnected2d
from bioshare.nn.functional import physical

any_border = st.sampled_from(["share", "keep"])


@given(any_layers(), any_border)
def test_a_module_is_every_position_with_the_same_patch_that_takes_part(model, border):
    number = torch.arange(math.prod(model.output_size)).view(model.output_size)
    tied = lambda rows, columns: frozenset(number[rows, columns].flatten().tolist())
    found = {tied(module.rows, module.columns): module.neurons for module in modules(model, border)}
    assert set(found) == {tied(*at) for at in positions(model, border)}
    assert all(neurons == len(tied_together) for tied_together, neurons in found.items())


@given(any_layers(), any_border)
def test_all_neurons_of_a_module_see_the_same_patch_of_a_periodic_image(model, border):
    patches = physical(periodic(model)[:, :, None]).flatten(2)
    for module in modules(model, border):
        seen = patches[module.rows, module.columns].flatten(0, 1)
        assert torch.equal(seen, module.seen.expand_as(seen))


@given(any_layers(), any_border)
def test_groups_are_the_weights_of_their_positions_and_go_back_there(model, border):
    weight = model.weight.detach().clone()
    written = torch.full_like(weight, torch.nan)
    for module in modules(model, border):
        groups = module.groups(weight)
        expected = physical(weight)[module.rows, module.columns].reshape(module.neurons, weight.shape[2], -1)
        assert torch.equal(groups, expected.transpose(0, 1))
        module.write(written, groups)
    takes_part = torch.zeros(model.output_size, dtype=torch.bool)
    for rows, columns in positions(model, border):
        takes_part[rows, columns] = True
    assert torch.equal(written[takes_part], weight[takes_part])
    assert written[~takes_part].isnan().all()


@given(any_layers())
def test_modules_cover_every_position_once(model):
    count = torch.zeros(model.output_size)
    found = list(modules(model, smallest=0))
    for module in found:
        count[module.rows, module.columns] += 1
    assert (count == 1).all()
    periods = [k // math.gcd(k, s) for k, s in zip(model.kernel_size, model.stride, strict=True)]
    assert len(found) == math.prod(periods)


@given(any_layers())
def test_keep_leaves_out_exactly_the_positions_that_see_padding(model):
    count = torch.zeros(model.output_size)
    for module in modules(model, "keep", smallest=0):
        count[module.rows, module.columns] += 1
    assert torch.equal(count, inside(model).float())


@given(any_layers(largest_dilation=1))
def test_every_neuron_sees_all_of_the_pattern(model):
    for module in modules(model, smallest=0):
        assert sorted(module.seen.tolist()) == list(range(module.seen.numel()))


@pytest.mark.parametrize(
    ("kernel", "stride", "count"), [(3, 1, 9), (3, 2, 9), (3, 3, 1), (3, 4, 9), (2, 2, 1), (4, 2, 4), ((4, 3), 2, 6)]
)
def test_modules_are_as_many_as_the_shifts_of_the_pattern_that_the_stride_visits(kernel, stride, count):
    found = modules(layer(kernel_size=kernel, stride=stride, input_size=(40, 40)))
    assert len({tuple(module.seen.tolist()) for module in found}) == len(found) == count


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("stride", range(1, 8))
def test_two_positions_are_in_one_module_if_and_only_if_they_see_the_same_part_of_the_pattern(kernel, stride):
    """Along one axis, from the phases that every tap sees, for several dilations and paddings."""
    for dilation, padding in itertools.product((1, 2, 3, 4), (0, 1, 3)):
        geometry = {"kernel_size": (kernel, 1), "stride": (stride, 1), "dilation": (dilation, 1)}
        model = LocallyConnected2d(1, 1, **geometry, padding=(padding, 0), input_size=(40, 1))
        starts = [h * stride - padding for h in range(model.output_size[0])]
        phases = [[(start + i * dilation) % kernel for i in range(kernel)] for start in starts]
        expected = {tuple(h for h, other in enumerate(phases) if other == one) for one in phases}
        rows = list(range(model.output_size[0]))
        assert {tuple(rows[module.rows]) for module in modules(model, smallest=1)} == expected


def test_a_patch_embedding_becomes_a_convolution():
    model = layer(kernel_size=4, stride=4, input_size=(16, 12))
    shared = after(bs.InstantSharing(), model)
    assert_agree(shared, model.weight.detach().mean((0, 1)).expand_as(shared), atol=1e-14)


@pytest.mark.parametrize(("named", "padding"), [("same", 1), ("valid", 0)])
@pytest.mark.parametrize("border", ["share", "keep"])
def test_padding_by_name_ties_the_same_positions_as_by_number(named, padding, border):
    first, second = (
        [(m.rows, m.columns, m.seen.tolist()) for m in modules(layer(kernel_size=3, padding=p, input_size=7), border)]
        for p in (named, padding)
    )
    assert first == second


def test_padding_on_one_side_has_its_border_there():
    even = LocallyConnected2d(1, 1, 2, input_size=6, padding="same")  # nothing on the left, one on the right
    assert {(m.rows.start, m.rows.stop) for m in modules(even, "keep")} == {(0, 5), (1, 5)}


def test_modules_lie_on_the_cpu_whatever_the_default_device():
    model = layer(kernel_size=3)
    with torch.device("meta"):
        found = list(modules(model, smallest=0))
    for module, expected in zip(found, modules(model, smallest=0), strict=True):
        assert torch.equal(module.seen, expected.seen)
