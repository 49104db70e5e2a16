"""A network that a bench measures within a moment."""

from torch import nn

from bioshare.bench import floor
from bioshare.bench.networks import NETWORKS, PaperNetwork


def small_network():
    """Layers of 27, 36 and 4 inputs per neuron, the last one 1 x 1."""
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 10, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def use_small_network(monkeypatch):
    """Measure ceilings within a moment, and put the small network in the place of ResNet-20."""
    monkeypatch.setitem(floor.COPY_BYTES, "cpu", 2**16)
    monkeypatch.setitem(floor.SIDE, "cpu", 32)
    monkeypatch.setitem(NETWORKS, "resnet20", PaperNetwork("small", small_network, 8, 2, 100))
