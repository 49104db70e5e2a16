"""The bench of full connections prints every layer in every space, beside floors that are counted by hand."""

import pytest
import torch
from torch import nn

from bioshare.__main__ import main
from bioshare.bench import full
from bioshare.bench.floor import Ceilings
from bioshare.nn import to_fully_connected


def test_every_layer_has_a_row_in_every_space(monkeypatch, capsys):
    monkeypatch.setattr(full, "measured_ceilings", lambda device, dtype: Ceilings(1e9, 1e9, 1e9))
    monkeypatch.setattr(full, "peak_bytes", lambda prepare, device: 2_000_000)
    words = ["--channels", "2", "--side", "8", "--batch", "3", "--repeats", "1", "--threads", "1"]
    assert main(["bench", "full", *words]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if " on " in line and ": " in line][1:]
    layers = ["4 x 4 on 8 x 8", "5 x 5 on 2 x 2", "3 x 3 on 2 x 2"]
    assert [row[:22].strip() for row in rows] == [f"{layer}: {space}" for layer in layers for space in full.SPACES]
    for row in rows:
        _, milliseconds, _, peak, _ = map(float, row[22:].split())
        assert milliseconds > 0
        assert peak == 2.0
    millions = [round(1e6 * float(row[22:].split()[0])) for row in rows[:3]]
    assert millions == [0, 2000, 10000]  # 32, 2,400 and 9,600 weights, in millions of three digits


def test_the_floors_of_a_dense_layer():
    """Two images of 1 x 4 x 4 and three channels of 2 x 2 outputs: 12 x 16 weights."""
    dense = to_fully_connected(nn.Conv2d(1, 3, 3, bias=False), (1, 4, 4))
    seconds, memory = full.floors(dense, (2, 1, 4, 4), Ceilings(1e6, 1e30, 1e30))
    moved = (2 * 16 + 2 * 12 + 12 * 16) * 4
    assert seconds == pytest.approx((3 * moved + 3 * 4 * 192) / 1e6, abs=1e-12)
    assert memory == 4 * (24 + 32 + 192)
    seconds, _ = full.floors(dense, (2, 1, 4, 4), Ceilings(1e30, 1e6, 1e6))
    assert seconds == pytest.approx(3 * 2 * 24 * 16 / 1e6, abs=1e-12)


def test_a_step_changes_the_weights(monkeypatch):
    layer = nn.Conv2d(1, 2, 3)
    monkeypatch.setattr(full, "convolutions", lambda channels, side: [("", layer, (1, 4, 4))])
    before = layer.weight.detach().clone()
    full.plain_step((1, 4, 0), "conv", 2, torch.device("cpu"))()
    assert not torch.equal(layer.weight, before)
