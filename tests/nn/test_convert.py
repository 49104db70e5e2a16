import pytest
import torch
from torch import nn

from bioshare.nn import LocallyConnected2d, to_locally_connected


def network():
    """A net with a stride, a grouped and a 1 x 1 convolution, a nested block, batch normalisation and dropout."""
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), block, nn.Dropout(0.5), nn.Conv2d(4, 3, 1))


def x(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_copy_computes_the_same_function_and_gradients():
    conv = network().double().eval()
    lc = to_locally_connected(conv, (2, 9, 8), init="copy")
    batch = x(3, 2, 9, 8).double()
    torch.testing.assert_close(lc(batch), conv(batch), rtol=0, atol=1e-12)
    for model in (lc, conv):
        model(batch).square().sum().backward()
    torch.testing.assert_close(lc[1][0].weight.grad.sum((0, 1)), conv[1][0].weight.grad, rtol=0, atol=1e-10)


def test_only_the_convolutions_are_replaced_and_the_model_stays():
    conv = network().train()
    conv[1][1].eval()
    conv[3].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in conv.state_dict().items()}
    lc = to_locally_connected(conv, (2, 9, 8))
    kinds = [type(m) for m in lc.modules()]
    assert kinds.count(LocallyConnected2d) == 3
    assert nn.Conv2d not in kinds
    for name, value in conv.state_dict().items():
        assert torch.equal(value, state[name])
    assert lc[1][1].num_batches_tracked == 0
    assert lc[1][1].weight is not conv[1][1].weight
    assert [m.training for m in lc.modules()] == [m.training for m in conv.modules()]
    assert [p.requires_grad for p in lc.parameters()] == [p.requires_grad for p in conv.parameters()]
    assert lc[3].weight.shape == (5, 4, 3, 4, 1, 1)


def test_independent_kernels_come_from_the_default_generator():
    weights = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            weights.append(to_locally_connected(nn.Conv2d(2, 3, 3), (2, 5, 5)).weight)
    assert torch.equal(*weights)
    assert not torch.equal(weights[0][0, 0], weights[0][1, 1])


def test_the_first_convolutions_may_stay():
    convs = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)))
    kinds = [type(layer) for layer in to_locally_connected(convs, (2, 5, 5), keep_first=2).modules()]
    assert kinds == [nn.Sequential, nn.Conv2d, nn.Sequential, nn.Conv2d, LocallyConnected2d]
    with pytest.raises(ValueError, match="keep_first must be"):
        to_locally_connected(convs, (2, 5, 5), keep_first=-1)


def test_a_layer_used_twice_stays_one_layer():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    lc = to_locally_connected(nn.Sequential(conv, nn.ReLU(), conv), (2, 5, 5))
    assert lc[0] is lc[2]


class Widened(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (Widened(2, 2, 3), TypeError, "model.1 is a Widened"),
        (nn.ConvTranspose2d(2, 2, 3), TypeError, "model.1 is a ConvTranspose2d"),
        (nn.Conv1d(2, 2, 3), TypeError, "model.1 is a Conv1d"),
        (nn.Conv2d(2, 2, 3, padding_mode="reflect"), ValueError, 'model.1 must have padding_mode="zeros"'),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)), TypeError, "model.1 is a Parametrized"),
        (nn.utils.spectral_norm(nn.Conv2d(2, 2, 3)), TypeError, "model.1 has hooks or a reparametrised weight"),
        (nn.Conv2d(2, 2, 2, padding="same"), ValueError, r"model.1: padding=.* Pad before the layer"),
    ],
)
def test_what_cannot_be_converted_is_named(layer, error, message):
    with pytest.raises(error, match=message):
        to_locally_connected(nn.Sequential(nn.ReLU(), layer), (2, 5, 5))


def test_sizes_must_be_known():
    conv = nn.Conv2d(2, 2, 3)
    with pytest.raises(ValueError, match=r"model.0 must see inputs of one size .* sizes \[\(3, 3\), \(5, 5\)\]"):
        to_locally_connected(nn.Sequential(conv, conv), (2, 5, 5))
    unused = nn.Sequential(nn.ReLU())
    unused[0].extra = conv
    with pytest.raises(ValueError, match="it saw no input"):
        to_locally_connected(unused, (2, 5, 5))
    with pytest.raises(ValueError, match="init must be"):
        to_locally_connected(conv, (2, 5, 5), init="ones")
