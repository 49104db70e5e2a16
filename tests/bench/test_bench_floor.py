import re

import pytest
import torch
from small_network import use_small_network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bioshare.__main__ import main
from bioshare.bench import floor
from bioshare.bench.floor import Kernel
from bioshare.bench.networks import bench_network
from bioshare.nn import LocallyConnected2d, resnet20
from bioshare.nn.resnet import BasicBlock

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    use_small_network(monkeypatch)


def meta(model):
    with torch.device("meta"):
        return model()


def of_part(kernels, part):
    return [kernel for kernel in kernels if kernel.part == part]


def test_a_step_has_the_operations_that_torch_counts():
    counter = FlopCounterMode(display=False)
    with counter:
        resnet20()(torch.randn(2, 3, 32, 32)).sum().backward()
    for form in ("conv", "auto"):
        kernels = floor.step_kernels(bench_network("resnet20", form, "meta"), (2, 3, 32, 32), 2)
        assert sum(kernel.operations for kernel in kernels) == counter.get_total_flops()


def test_a_step_moves_the_bytes_counted_by_hand():
    block = meta(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), BasicBlock(4, 4)))
    kernels = floor.step_kernels(block, (2, 3, 8, 8), 2)
    image, activation, weights = 2 * 2 * 3 * 64, 2 * 2 * 4 * 64, (4 * 108, 4 * 144)
    forward = [image + activation + weights[0], *2 * [2 * activation + weights[1]]]
    assert [kernel.bytes for kernel in of_part(kernels, floor.FORWARD)] == forward
    assert [kernel.bytes for kernel in of_part(kernels, floor.BY_INPUT)] == forward[1:]
    assert [kernel.bytes for kernel in of_part(kernels, floor.BY_WEIGHTS)] == forward
    assert [kernel.bytes for kernel in of_part(kernels, floor.NORM)] == 2 * [8 * activation]
    assert [kernel.bytes for kernel in of_part(kernels, floor.SUM)] == [4 * activation]
    assert [kernel.bytes for kernel in of_part(kernels, floor.ADAMW)] == [28 * (108 + 2 * 144 + 16)]
    assert [floor.PARTS.index(kernel.part) for kernel in kernels] == sorted(floor.PARTS.index(k.part) for k in kernels)


def test_max_pooling_moves_both_sizes_twice():
    model = meta(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2)))
    (kernel,) = of_part(floor.step_kernels(model, (2, 3, 8, 8), 4), floor.POOLING)
    assert kernel.bytes == 4 * 2 * 4 * (2 * 64 + 2 * 16)


def test_a_sleep_multiplies_every_neuron_by_a_map_and_averaging_moves_weights_twice():
    layer = meta(lambda: LocallyConnected2d(3, 4, 3, padding=1, input_size=8))
    instant, sleep = floor.sharing_kernels(layer)
    assert instant == Kernel(floor.INSTANT, 0, 8 * 64 * 4 * 27)
    assert sleep == Kernel(floor.SLEEP, 64 * 4 * 2 * 27**2, 8 * 64 * 4 * 27 + 4 * 27**2)


def test_the_least_time_is_the_longer_time_and_maps_have_the_rate_of_fp32():
    limits = floor.Ceilings(bandwidth=10.0, rate=100.0, rate32=20.0)
    assert Kernel(floor.FORWARD, 400, 30).seconds(limits) == 4
    assert Kernel(floor.FORWARD, 400, 50).seconds(limits) == 5
    assert Kernel(floor.SLEEP, 400, 50).seconds(limits) == 20


def test_the_ceilings_are_positive_and_include_fp32(small):
    limits = floor.measured_ceilings(CPU, "bf16")
    assert min(limits) > 0
    same = floor.measured_ceilings(CPU, "fp32")
    assert same.rate == same.rate32


def test_the_floor_is_computed_from_given_ceilings_without_measuring(small, monkeypatch, capsys):
    monkeypatch.setattr(floor, "measured_ceilings", None)
    assert main(["bench", "floor", "--bandwidth", "1", "--rate", "1e-3", "--batch", "4"]) == 0
    printed = capsys.readouterr().out
    weights = 27 * 4 + 4 + 36 * 4 + 4 + 4 * 10 + 10
    rows = [line.split() for line in printed.splitlines() if line.startswith("AdamW")]
    assert float(rows[0][-1]) == pytest.approx(28 * weights / 1e6, rel=0, abs=1e-3)
    assert "step, eager" not in printed


def test_the_floor_stands_beside_the_measured_step(small, capsys):
    assert main(["bench", "floor", "--repeats", "1", "--dtype", "bf16"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^step, eager: \d+\.\d+ ms, \d+\.\d+ times the floor$", printed, re.MULTILINE)) == 2
    assert len(re.findall(r"^floor of a step ", printed, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    "given",
    [
        "--bandwidth 1",
        "--rate 1",
        "--bandwidth 1 --rate 0",
        "--bandwidth nan --rate 1",
        "--bandwidth 1 --rate inf",
        "--bandwidth 1 --rate 1 --rate32 nan",
    ],
)
def test_incomplete_or_invalid_ceilings_are_refused(given, capsys):
    assert main(["bench", "floor", *given.split()]) == 1
    assert "--bandwidth and --rate must both be positive" in capsys.readouterr().err
