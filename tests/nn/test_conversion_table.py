"""The sizes of a conversion are known before it, and are those of the networks before and after."""

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import conversion_table, to_locally_connected
from bioshare.nn.sizes import readable

pairs = lambda high: st.tuples(st.integers(1, high), st.integers(1, high))


def numbers(model):
    """Parameters and bytes of a model."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters)


@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)), kernel_size=pairs(3), stride=pairs(3), padding=pairs(2),
    groups=st.integers(1, 2), bias=st.booleans(), keep_first=st.integers(0, 2), half=st.booleans(),
)  # fmt: skip
def test_the_table_has_the_numbers_of_the_networks_before_and_after(size, keep_first, half, **options):
    convs = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, **options)))
    model = convs.half() if half else convs
    table, copy = (call(model, (2, *size), keep_first=keep_first) for call in (conversion_table, to_locally_connected))
    assert table.before == numbers(model)[0]
    assert (table.after, table.bytes) == numbers(copy)
    assert [row.name for row in table.layers] == ["0", "1.1"][keep_first:]
    for row in table.layers:
        old, new = model.get_submodule(row.name), copy.get_submodule(row.name)
        assert row.shape == tuple(new.weight.shape)
        assert (row.before, row.after, row.bytes) == (numbers(old)[0], *numbers(new))
        assert row.factor == new.output_size[0] * new.output_size[1]


def test_the_table_is_printed_and_is_data():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    table = conversion_table(nn.Sequential(conv, nn.ReLU(), conv.to(torch.float64), nn.Linear(4, 1000))[:1], (2, 4, 4))
    assert str(table).splitlines() == [
        "layer      positions  parameters now  after  factor    MB",
        "0              4 x 4              57    912    16.0  0.01",
        "the model                         57    912    16.0  0.01",
        "weights: 0.01 MB",
        "weights and gradients: 0.01 MB",
        "weights, gradients and AdamW's two moments: 0.03 MB",
        "(without activations)",
    ]
    assert pd.DataFrame(table.layers)["after"].tolist() == [912]
    assert "(model)" in str(conversion_table(conv, (2, 4, 4)))
    assert [readable(n) for n in (0, 999_000_000, 1_234_567_000_000)] == ["0.00 MB", "999.00 MB", "1,234.57 GB"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_that_no_memory_would_hold_has_a_table(device):
    model = nn.Sequential(nn.Conv2d(3, 1000, 3), nn.Conv2d(1000, 1000, 3), nn.Conv2d(1000, 2, 1)).to(device)
    table = conversion_table(model, (3, 1000, 1000))
    assert table.after == 998**2 * 1000 * (27 + 1) + 996**2 * 1000 * (9000 + 1) + 996**2 * 2 * 1001
    assert "35,836.04 GB" in str(table)
    if device == "cpu":
        with pytest.raises(MemoryError, match=r"layers need 35,836\.04 GB .* model\.1, needs 35,7\d\d\.\d\d GB"):
            to_locally_connected(model, (3, 1000, 1000))


def test_the_refusal_and_the_table_have_one_limit(monkeypatch):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 8, 3), nn.Linear(5, 8))
    table = conversion_table(model, (1, 9, 9))
    assert table.layers_bytes == table.bytes - 4 * (5 * 8 + 8)
    monkeypatch.setattr("bioshare.nn.convert.machine_memory", lambda: float(table.layers_bytes))
    assert numbers(to_locally_connected(model, (1, 9, 9))[:2])[1] == table.layers_bytes
    monkeypatch.setattr("bioshare.nn.convert.machine_memory", lambda: table.layers_bytes - 1.0)
    with pytest.raises(MemoryError, match=r"conversion_table\(model, input_size\) shows all layers"):
        to_locally_connected(model, (1, 9, 9))


def test_what_the_conversion_refuses_has_no_table():
    with pytest.raises(ValueError, match="input_size must be"):
        conversion_table(nn.Conv2d(2, 2, 3), (5, 5))
    with pytest.raises(ValueError, match="keep_first must be"):
        conversion_table(nn.Conv2d(2, 2, 3), (2, 5, 5), keep_first=-1)
    with pytest.raises(TypeError, match="model is a ConvTranspose2d"):
        conversion_table(nn.ConvTranspose2d(2, 2, 3), (2, 5, 5))
