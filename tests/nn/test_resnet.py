import math

import pytest
import torch
from torch import nn

from bioshare.nn import LocallyConnected2d, cifar_resnet, resnet18, resnet20, resnet50, to_locally_connected
from bioshare.nn.resnet import BasicBlock, Bottleneck


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def without_data(make, *args, **options):
    with torch.device("meta"):
        return make(*args, **options)


def outputs(model, kind, shape):
    """Shapes of the outputs of all layers of a kind, in the order of computation."""
    shapes = []
    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda module, x, y: shapes.append(tuple(y.shape)))
    model.eval()(torch.empty(shape, device="meta"))
    return shapes


def test_parameters_of_resnet20():
    stem = 3 * 16 * 9 + 2 * 16
    stage_1 = 6 * (16 * 16 * 9 + 2 * 16)
    stage_2 = 16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32 + 7 * 2 * 32
    stage_3 = 32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64 + 7 * 2 * 64
    head = 64 * 10 + 10
    assert count(resnet20()) == stem + stage_1 + stage_2 + stage_3 + head == 272_474
    assert count(resnet20(num_classes=200, in_channels=1)) == 272_474 - 2 * 16 * 9 + 190 * 65


@pytest.mark.parametrize("width", [0.25, 1, 2])
def test_depth_and_width_of_a_cifar_resnet(width):
    first = int(16 * width)
    blocks = first * first * 9 * 2, first * first * (9 * 2 + 9 * 4 + 2), first * first * (9 * 8 + 9 * 16 + 8)
    norms = 2 * first * (1 + 2) + 2 * 2 * first * 3 + 2 * 4 * first * 3
    assert count(cifar_resnet(8, width=width)) == 3 * first * 9 + sum(blocks) + norms + 4 * first * 10 + 10
    assert [len(stage) for stage in cifar_resnet(14, width=width).stages] == [2, 2, 2]


@pytest.mark.parametrize("depth", [2, 9, 18, 20.0])
def test_a_cifar_resnet_has_whole_blocks(depth):
    with pytest.raises((TypeError, ValueError), match=r"^depth must be 6 n \+ 2 layers: 8, 14, 20"):
        cifar_resnet(depth)


@pytest.mark.parametrize(("side", "total"), [(32, 40_814_762), (48, 91_830_442)])
def test_parameters_of_locally_connected_resnet20(side, total):
    stem_and_stage_1 = side**2 * (3 * 16 * 9 + 6 * 16 * 16 * 9)
    stage_2 = (side // 2) ** 2 * (16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32)
    stage_3 = (side // 4) ** 2 * (32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64)
    norms = 2 * (7 * 16 + 7 * 32 + 7 * 64)
    lc = to_locally_connected(without_data(resnet20), (3, side, side))
    assert count(lc) == stem_and_stage_1 + stage_2 + stage_3 + norms + 64 * 10 + 10 == total


STAGES_18 = [
    4 * 32 * 32 * 9,
    32 * 64 * 9 + 3 * 64 * 64 * 9 + 32 * 64,
    64 * 128 * 9 + 3 * 128 * 128 * 9 + 64 * 128,
    128 * 256 * 9 + 3 * 256 * 256 * 9 + 128 * 256,
]
NORMS_AND_HEAD_18 = 2 * (5 * 32 + 5 * 64 + 5 * 128 + 5 * 256) + 256 * 1000 + 1000


def test_parameters_of_half_resnet18():
    assert count(without_data(resnet18)) == 3 * 32 * 49 + sum(STAGES_18) + NORMS_AND_HEAD_18 == 3_055_880


@pytest.mark.parametrize(("keep_first", "positions", "total"), [(0, 112**2, 483_155_624), (1, 1, 424_153_352)])
def test_parameters_of_locally_connected_half_resnet18(keep_first, positions, total):
    sides = [56, 28, 14, 7]
    weights = sum(side**2 * weights for side, weights in zip(sides, STAGES_18, strict=True))
    lc = to_locally_connected(without_data(resnet18), (3, 224, 224), keep_first=keep_first)
    assert count(lc) == positions * 3 * 32 * 49 + weights + NORMS_AND_HEAD_18 == total


def test_the_whole_resnet18_is_the_usual_one():
    assert count(without_data(resnet18, width=1)) == 11_689_512


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (3, 48), (1, 8), (1, 9)])
def test_sizes_in_resnet20(channels, side):
    half, quarter = math.ceil(side / 2), math.ceil(side / 4)
    blocks = [(2, 16, side, side)] * 3 + [(2, 32, half, half)] * 3 + [(2, 64, quarter, quarter)] * 3
    for convert in (False, True):
        model = without_data(resnet20, 7, in_channels=channels)
        model = to_locally_connected(model, (channels, side, side)) if convert else model
        assert outputs(model, BasicBlock, (2, channels, side, side)) == blocks
    first, growing = [(2, 16, side, side)] * 7, [(2, 32, half, half)] * 7 + [(2, 64, quarter, quarter)] * 7
    assert outputs(model, LocallyConnected2d, (2, channels, side, side)) == first + growing
    assert outputs(model, nn.Linear, (2, channels, side, side)) == [(2, 7)]


def test_sizes_in_half_resnet18():
    sides = {32: 56, 64: 28, 128: 14, 256: 7}
    expected = [(1, c, n, n) for c, n in sides.items() for _ in range(4 if c == 32 else 5)]
    lc = to_locally_connected(without_data(resnet18), (3, 224, 224))
    assert outputs(lc, LocallyConnected2d, (1, 3, 224, 224)) == [(1, 32, 112, 112), *expected]
    assert outputs(lc.stem, nn.MaxPool2d, (1, 3, 224, 224)) == [(1, 32, 56, 56)]


def test_initial_weights():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet20()
        lc = to_locally_connected(model, (3, 8, 8))
    for network in (model, lc):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | LocallyConnected2d):
                variance = 2 / (layer.out_channels * layer.kernel_size[0] ** 2)
                error = 5 * math.sqrt(2 / layer.weight.numel())  # five standard errors of a variance
                assert layer.weight.square().mean().item() == pytest.approx(variance, rel=error)
                assert layer.bias is None
            elif isinstance(layer, nn.BatchNorm2d):
                assert (layer.weight == 1).all()
                assert not layer.bias.any()
    bound = 1 / math.sqrt(64)
    assert 0.9 * bound < model.head.weight.abs().max() <= bound


def test_a_locally_connected_copy_computes_the_same_and_its_gradients_sum():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = resnet20().double().eval()
        batch = torch.randn(2, 3, 8, 8).double()
    lc = to_locally_connected(conv, (3, 8, 8), init="copy")
    torch.testing.assert_close(lc(batch), conv(batch), rtol=1e-12, atol=1e-12)
    for model in (conv, lc):
        model(batch).square().sum().backward()
    ours = dict(lc.named_parameters())
    for name, parameter in conv.named_parameters():
        gradient = ours[name].grad
        gradient = gradient.sum((0, 1)) if gradient.shape != parameter.shape else gradient
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_adds_two_layers_to_its_shortcut(stride):
    block = BasicBlock(4, 4, stride).eval()
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    layers = nn.Sequential(block.conv1, block.norm1, nn.ReLU(), block.conv2, block.norm2)
    shortcut = block.shortcut[1](block.shortcut[0](x)) if stride == 2 else x
    torch.testing.assert_close(block(x), (layers(x) + shortcut).relu(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (resnet20, {"num_classes": 0}, ValueError, "num_classes must be a whole number, at least 1; got 0"),
        (resnet20, {"in_channels": 1.0}, TypeError, "in_channels must be a whole number; got 1.0"),
        (resnet18, {"num_classes": True}, TypeError, "num_classes must be a whole number"),
        (resnet18, {"width": 0.3}, ValueError, "width must be a positive multiple of 1/64, for 64 .* got 0.3"),
        (resnet18, {"width": 0}, ValueError, "width must be a positive multiple"),
        (resnet18, {"width": math.inf}, ValueError, "width must be a positive multiple"),
    ],
)
def test_arguments_are_checked(make, options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_parameters_and_sizes_of_resnet50():
    model = without_data(resnet50)
    assert count(model) == 25_557_032  # He et al. 2015, with batch normalisation
    assert [len(stage) for stage in model.stages] == [3, 4, 6, 3]
    sizes = outputs(model, Bottleneck, (1, 3, 224, 224))
    assert list(dict.fromkeys(sizes)) == [(1, 256, 56, 56), (1, 512, 28, 28), (1, 1024, 14, 14), (1, 2048, 7, 7)]


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_with_normalisation_in_the_end_adds_normalised_activity(block):
    torch.manual_seed(0)
    layers = block(8, 16, 2, norm_after=True).double()
    x = torch.randn(6, 8, 6, 6, dtype=torch.float64)
    y = layers(x) - layers.shortcut(x)
    mean, std = y.mean((0, 2, 3)), y.std((0, 2, 3), correction=0)
    assert mean.abs().max() < 1e-12
    assert (std - 1).abs().max() < 0.01  # but for the small number in the normalisation
    assert (block(8, 16, 2).double()(x) >= 0).all()  # a ReLU comes last


def test_norm_after_has_the_same_parameters():
    for make in (resnet18, resnet50):
        both = [
            {k: v.shape for k, v in without_data(make, norm_after=after).state_dict().items()}
            for after in (False, True)
        ]
        assert len(both[0]) == len(both[1])
