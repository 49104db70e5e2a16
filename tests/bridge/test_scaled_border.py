"""border="scale": kernels at the padding keep their directions, and get the norms that sharing leaves inside."""

import itertools

import pytest
import torch
from small_layers import RATE, after, assert_agree, gentle, geometries, inside, layer, modes
from test_moments import OPTIMIZERS, stepped

import bioshare as bs

PADDED = {"kernel_size": 3, "padding": 1}


def scaled_by_hand(model, kept):
    """The weights after border="keep", with the kernels at the padding scaled as the others of module and channel."""
    start, expected, free = model.weight.detach(), kept.clone(), inside(model)
    for a, b in itertools.product(*map(range, model.kernel_size)):
        members = torch.zeros_like(free)
        members[a :: model.kernel_size[0], b :: model.kernel_size[1]] = True
        if (members & free).sum() < 2:
            continue  # nothing in the module has shared
        for channel in range(model.out_channels):
            rms = [(w[members & free][:, channel] ** 2).sum((1, 2, 3)).mean().sqrt() for w in (start, kept)]
            expected[:, :, channel][members & ~free] *= rms[1] / rms[0]
    return expected


@modes
@geometries
def test_kernels_at_the_padding_are_scaled_as_the_others_of_their_module_and_channel(mode, geometry):
    model = layer(**geometry)
    kept, scaled = (after(mode(border), model) for border in ("keep", "scale"))
    assert_agree(scaled, scaled_by_hand(model, kept), atol=1e-12)
    assert torch.equal(scaled[inside(model)], kept[inside(model)])


@modes
def test_the_norms_at_the_padding_fall_as_those_inside(mode):
    model = layer(input_size=(14, 14), **PADDED)
    scaled, free = after(mode("scale"), model), inside(model)
    assert not (scaled == model.weight)[~free].any()
    direction = lambda weight: torch.nn.functional.normalize(weight[~free].flatten(2), dim=-1)
    assert_agree(direction(scaled), direction(model.weight.detach()), atol=1e-12)


@pytest.mark.parametrize("input_size", [(1, 12), (3, 3), (2, 2)], ids=str)
def test_without_sharing_positions_a_module_keeps_its_weights(input_size):
    model = layer(input_size=input_size, **PADDED)
    assert torch.equal(after(bs.InstantSharing("scale"), model), model.weight)


def test_weights_of_0_stay_0():
    model = layer(**PADDED)
    with torch.no_grad():
        model.weight.zero_()
    assert not after(bs.InstantSharing("scale"), model).any()


def test_the_report_is_of_the_sharing_positions():
    reports = [bs.Sleep.rate_circuit(border=border)(layer(**PADDED)) for border in ("keep", "scale")]
    kept, scaled = (row for report in reports for row in report.layers)
    assert kept.modules == scaled.modules == 9
    for name in ("neg_log_snr_before", "neg_log_snr_after", "spread", "mean_norm", "mean_angle"):
        assert getattr(kept, name) == getattr(scaled, name)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: bs.InstantSharing(**options),
        lambda **options: gentle(RATE, **options),
        lambda **options: gentle(RATE, rescale=True, **options),
        lambda **options: gentle(RATE, gain=1.5, **options),
    ],
    ids=["instant", "rate circuit", "rescaled", "gain"],
)
def test_sums_of_gradients_at_the_padding_get_the_factor_of_their_weights(make):
    model, kept, start = (layer(**PADDED) for _ in range(3))
    optimizers = [stepped(OPTIMIZERS["AdamW"], one) for one in (model, kept, start)]
    make(border="scale", moments="share")(model, optimizer=optimizers[0])
    make(border="keep", moments="share")(kept, optimizer=optimizers[1])
    first, other = (o.state[one.weight] for o, one in zip(optimizers, (model, kept), strict=False))
    factor = model.weight.detach() / kept.weight.detach()  # 1 inside
    assert (factor - 1)[~inside(model)].abs().min() > 1e-4
    assert_agree(first["exp_avg"], factor * other["exp_avg"], atol=1e-12)
    assert torch.equal(first["exp_avg_sq"], other["exp_avg_sq"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_less_precision_is_rounded_once(dtype):
    model = layer(**PADDED).to(dtype)
    expected = after(bs.InstantSharing("scale"), layer(**PADDED).to(dtype).double()).to(dtype)
    assert (after(bs.InstantSharing("scale"), model) == expected).double().mean() > 0.99
