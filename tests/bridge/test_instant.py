"""`InstantSharing` sets every group to its mean."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_layers import after, assert_agree, borders, geometries, layer, positions
from test_moments import OPTIMIZERS, stepped

import bioshare as bs


@geometries
@borders
def test_every_group_becomes_the_mean_of_its_positions(geometry, border):
    model = layer(**geometry)
    expected = model.weight.detach().clone()
    for rows, columns in positions(model, border):
        expected[rows, columns] = expected[rows, columns].mean(0)
    assert_agree(after(bs.InstantSharing(border), model), expected, atol=1e-13)


@geometries
def test_to_share_twice_is_to_share_once(geometry):
    model = layer(**geometry)
    once = after(bs.InstantSharing(), model)
    bs.InstantSharing()(model)
    assert_agree(after(bs.InstantSharing(), model), once, atol=1e-13)


def test_a_degenerate_dilation_is_shared_all_the_same():
    model = layer(kernel_size=2, dilation=2)
    shared = after(bs.InstantSharing(), model)
    assert torch.equal(shared[0, 0], shared[2, 2])
    assert not torch.equal(shared[0, 0], shared[0, 1])


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)], ids=str)
def test_half_precision_sums_in_more(dtype, atol):
    """1024 numbers near 1 would be lost in a sum of half precision, whose units there are 1 and 8."""
    model = layer(kernel_size=1, input_size=32).to(dtype)
    expected = model.weight.detach().double().mean((0, 1))
    assert_agree(after(bs.InstantSharing(), model)[3, 4].double(), expected, atol=2 * atol)


def test_the_report_tells_what_was_averaged_away():
    model = layer(kernel_size=3, padding=1)
    row = bs.InstantSharing()(model).layers[0]
    assert row.modules == 9
    assert row.spread == pytest.approx(0.0, abs=1e-12)
    assert row.mean_norm == pytest.approx(1.0, abs=1e-12)
    assert row.mean_angle == pytest.approx(0.0, abs=1e-10)
    assert np.isfinite(row.neg_log_snr_before)


SPREADS = [0.0, 0.1, 0.5, 0.9, 1.0]


@geometries
@borders
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("measure", [True, False])
def test_a_fraction_of_every_deviation_remains(geometry, border, spread, measure):
    model = layer(**geometry)
    expected = model.weight.detach().clone()
    for rows, columns in positions(model, border):
        mean = expected[rows, columns].mean(0)
        expected[rows, columns] = mean + spread * (expected[rows, columns] - mean)
    shared = after(bs.InstantSharing(border, spread=spread), model, measure=measure)
    assert_agree(shared, expected, atol=1e-13)
    if spread == 1:
        assert torch.equal(shared, model.weight)


@given(st.floats(0, 1), st.floats(0, 1))
def test_two_fractions_multiply(first, second):
    model, once = layer(kernel_size=3, padding=1), bs.InstantSharing(spread=first * second)
    bs.InstantSharing(spread=first)(model)
    expected = after(once, layer(kernel_size=3, padding=1))
    assert_agree(after(bs.InstantSharing(spread=second), model), expected, atol=1e-12)


@pytest.mark.parametrize("spread", SPREADS)
def test_the_report_has_the_fraction_that_remains(spread):
    row = bs.InstantSharing(spread=spread)(layer(kernel_size=3, padding=1)).layers[0]
    assert (row.spread, row.mean_norm) == (pytest.approx(spread, abs=1e-12), pytest.approx(1.0, abs=1e-12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_all_that_remains_is_to_the_bit_what_was(dtype):
    model = layer(kernel_size=3, padding=1).to(dtype)
    assert torch.equal(after(bs.InstantSharing(spread=1.0), model), model.weight)


@borders
@pytest.mark.parametrize("spread", SPREADS)
def test_all_moments_keep_the_same_fraction(spread, border):
    model = layer(kernel_size=3, padding=1)
    optimizer = stepped(OPTIMIZERS["AdamW"], model)
    moments = {name: optimizer.state[model.weight][name].clone() for name in ("exp_avg", "exp_avg_sq")}
    bs.InstantSharing(border, "share", spread)(model, optimizer=optimizer)
    for name, expected in moments.items():
        for rows, columns in positions(model, border):
            mean = expected[rows, columns].mean(0)
            expected[rows, columns] = mean + spread * (expected[rows, columns] - mean)
        assert_agree(optimizer.state[model.weight][name], expected, atol=1e-13)


@pytest.mark.parametrize(
    ("spread", "error"), [(-0.1, ValueError), (1.1, ValueError), (float("nan"), ValueError), (True, TypeError)]
)
def test_a_spread_is_a_fraction(spread, error):
    with pytest.raises(error, match="spread must be a fraction from 0 to 1"):
        bs.InstantSharing(spread=spread)


def test_bad_options_are_refused_when_it_is_made():
    with pytest.raises(ValueError, match="border must be one of 'share', 'keep', 'scale'; got 'ignore'"):
        bs.InstantSharing("ignore")
    with pytest.raises(ValueError, match="moments must be one of 'keep', 'share', 'reset'; got 'forget'"):
        bs.InstantSharing(moments="forget")
