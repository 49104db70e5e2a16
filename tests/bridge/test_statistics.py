"""Running statistics of normalisations after a sleep, against means over the batches."""

import copy

import numpy as np
import pytest
import torch
from small_layers import assert_agree
from torch import nn

import bioshare as bs
from bioshare.bridge import renew_statistics


def network():
    """Two normalisations, of which the second sees the first one's output, and dropout."""
    convolutional = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4, momentum=None),
    )
    return bs.nn.to_locally_connected(convolutional, (1, 9, 9)).double()


def images(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 1, 9, 9, generator=generator).double() for size in sizes]


def test_running_statistics_become_the_means_over_the_batches():
    model, batches = network().train(), images(5, 5, 8)
    model(images(3)[0])  # statistics of before the sleep
    bs.InstantSharing()(model)
    renew_statistics(model, [batches[0], (batches[1], torch.zeros(5)), [batches[2]]])
    activity = batches
    for at in (0, 4):
        activity = [model[at](x) for x in activity]
        norm = model[at + 1]
        assert_agree(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in activity]).mean(0), atol=1e-12)
        assert_agree(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in activity]).mean(0), atol=1e-12)
        normal = [
            (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
            for x in activity
        ]
        activity = [x.relu() for x in normal]


def test_nothing_else_changes():
    model = network().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    renew_statistics(model, images(4))
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[5].momentum) == (0.1, None)
    assert all(map(torch.equal, weights, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_in_evaluation_is_right_again_after_a_sleep():
    """The stale statistics were far off; the renewed ones differ by the unbiased variance only."""
    model, (batch,) = network(), images(64)
    renew_statistics(model, [batch])
    bs.InstantSharing()(model)
    model[2].p = 0.0
    expected = model.train()(batch)  # moves the running statistics by a tenth only
    stale = model.eval()(batch)
    renew_statistics(model, [batch])
    assert (model(batch) - expected).abs().max() < 2e-3
    assert (stale - expected).abs().max() > 0.1


def test_batches_must_hold_inputs_and_a_failed_pass_restores_the_modes():
    model = network().train()
    with pytest.raises(ValueError, match=r"^batches must hold at least one batch of inputs; got none"):
        renew_statistics(model, [])
    with pytest.raises(ValueError, match="x must have the shape"):
        renew_statistics(model, [torch.zeros(2, 1, 5, 5).double()])
    assert all(module.training for module in model.modules())
    assert model[1].momentum == 0.1


def test_a_model_without_running_statistics_stays():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    seen = iter([torch.ones(3, 2)])
    renew_statistics(model, seen)
    assert list(model.buffers()) == []
    assert len(list(seen)) == 1  # no batch was asked for


def test_frozen_normalisations_and_counters_stay():
    frozen, learning = nn.BatchNorm1d(1), nn.BatchNorm1d(1, momentum=None)
    model = nn.Sequential(frozen, learning).train()
    frozen.eval()
    renew_statistics(model, [torch.tensor([[1.0], [3.0]])])
    assert frozen.running_mean.item() == 0
    assert learning.running_mean.item() == pytest.approx(2, abs=1e-4)  # of (1, 3) / sqrt(1 + 1e-5)
    assert learning.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("batches", "got"), [([{"x": 1}], "dict"), ([[[1.0]]], "list"), (torch.ones(2, 1), "a single tensor")]
)
def test_batches_of_another_form_are_refused(batches, got):
    model = nn.Sequential(nn.BatchNorm1d(1))
    with pytest.raises(TypeError, match=f"batches must be tensors of inputs, .* got {got}"):
        renew_statistics(model, batches)
    assert model[0].running_mean.item() == 0


def test_an_array_without_axes_is_no_batches():
    with pytest.raises(TypeError, match="batches must be a list of inputs, or a DataLoader; got ndarray"):
        renew_statistics(nn.BatchNorm1d(1), np.array(2.0))


def test_a_batch_normalisation_that_is_used_twice_in_a_pass_has_the_mean_over_both_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1, affine=False)

        def forward(self, x):
            return self.norm.forward(self.norm(10 * x + 5) + 1)

    model = Twice()
    batches = [torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    renew_statistics(model, batches)
    means = torch.stack([(10 * x + 5).mean() for x in batches])
    torch.testing.assert_close(model.norm.running_mean, ((means.mean() + 1) / 2)[None], rtol=1e-5, atol=1e-5)
    assert (model.norm.momentum, int(model.norm.num_batches_tracked)) == (0.1, 0)


def test_instance_normalisation_has_the_mean_over_the_batches():
    norm = nn.InstanceNorm2d(1, track_running_stats=True)
    batches = [torch.full((2, 1, 3, 3), value) for value in (1.0, 2.0, 6.0)]
    renew_statistics(norm, batches)
    assert norm.running_mean.item() == pytest.approx(3.0)


def test_batch_normalisation_ends_as_by_the_function_of_pytorch():
    make = lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
    )
    ours = make()
    theirs = copy.deepcopy(ours)
    batches = [torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    renew_statistics(ours, batches)
    torch.optim.swa_utils.update_bn(batches, theirs)
    for i in (1, 4):
        torch.testing.assert_close(ours[i].running_mean, theirs[i].running_mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours[i].running_var, theirs[i].running_var, rtol=0, atol=1e-6)
