"""Which positions are tied together, and what they see: read off images, for layers of any geometry."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_layers import any_layers, inside, layer, periodic, positions

from bioshare.bridge import modules
from bioshare.nn import LocallyConnected2d
from bioshare.nn.functional import physical

any_border = st.sampled_from(["share", "keep"])


@given(any_layers(), any_border)
def test_a_module_is_every_kth_position_that_takes_part(model, border):
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
    assert len(found) == model.kernel_size[0] * model.kernel_size[1]


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


@pytest.mark.parametrize(("stride", "shifts"), [(1, 9), (2, 9), (3, 1), (4, 9)])
def test_a_stride_coprime_to_the_kernel_visits_every_shift_of_the_pattern(stride, shifts):
    model = layer(kernel_size=3, stride=stride, input_size=(40, 40))
    assert len({tuple(module.seen.tolist()) for module in modules(model)}) == shifts


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
