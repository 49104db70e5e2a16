"""Runs of networks of patches: rows of the table, what a run builds, and runs that are resumed to the bit."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from tiny_runs import assert_same_ending, interrupt, run
from torch import nn

from bioshare.bridge import InstantSharing
from bioshare.nn import PatchwiseLinear, SelfAttention
from bioshare.train.config import AdamW, Every, TrainConfig
from bioshare.train.experiments import find, matching
from bioshare.train.fitting import CHECKPOINT
from bioshare.train.networks import SharedPatches, UnsharedPatches
from bioshare.train.phases import CircuitOptions, IdealOptions, phase_of
from bioshare.train.stored import config_of, config_text

ROWS = [
    "", "-unshared", "-unshared-copy", "-ws10", "-ws10-copy", "-ws10-share-moments", "-ws10-ideal", "-ws10-alpha10",
]  # fmt: skip
NAMES = [kind + row for kind in ("vit", "mixer") for row in ROWS]
both = pytest.mark.parametrize("kind", ["vit", "mixer"])
TINY = {"patch": 4, "features": 8, "depth": 1}
CONFIG = TrainConfig(
    dataset="digits", network=UnsharedPatches("mixer", **TINY), epochs=2, batch_size=32, train_images=150,
    padding=1, optimizer=AdamW(1e-2),
)  # fmt: skip


@pytest.mark.parametrize("dataset", ["digits", "cifar10-16"])
def test_rows_of_a_kind_differ_in_one_thing(dataset):
    assert [one.row for one in matching(f"patches/{dataset}")] == NAMES
    for kind in ("vit", "mixer"):
        found = {row: find(f"patches/{dataset}/{kind}{row}") for row in ROWS}
        assert {one.references for one in found.values()} == {(kind, f"{kind}-unshared")}
        configs = {row: one.config for row, one in found.items()}
        alone, asleep = configs["-unshared"], configs["-ws10"]
        assert alone == dataclasses.replace(configs[""], network=UnsharedPatches(kind), optimizer=alone.optimizer)
        assert asleep == dataclasses.replace(alone, phases=(Every(10, InstantSharing()),), optimizer=asleep.optimizer)
        sleeps = {"-ideal": IdealOptions(pool=8), "-alpha10": CircuitOptions(alpha=10.0, pool=8)}
        sleeps["-share-moments"] = InstantSharing(moments="share")
        for row, sleep in sleeps.items():
            phases = (Every(10, phase_of(sleep, 0)),)
            assert configs[f"-ws10{row}"] == dataclasses.replace(asleep, phases=phases)
        for row in ("-unshared", "-ws10"):
            copied = UnsharedPatches(kind, start="copy")
            assert configs[f"{row}-copy"] == dataclasses.replace(configs[row], network=copied)


@both
@pytest.mark.parametrize("size", [(1, 8, 8), (3, 16, 16)])
def test_a_network_without_sharing_has_a_matrix_for_every_token_but_one_classifier(kind, size):
    torch.manual_seed(0)
    shared = SharedPatches(kind, features=8).build(10, size)
    torch.manual_seed(0)
    copied = UnsharedPatches(kind, features=8, start="copy").build(10, size)
    tokens = size[1] * size[2] // 4
    names = [name for name, layer in shared.named_modules() if isinstance(layer, nn.Linear)]
    assert len(names) == {"vit": 2 * 6 + 1, "mixer": 2 * 4 + 1}[kind]
    for name in names:
        old, new = shared.get_submodule(name), copied.get_submodule(name)
        if name == "classifier":
            assert type(new) is nn.Linear
        else:
            mixes_tokens = "mix_tokens" in name
            assert isinstance(new, PatchwiseLinear)
            assert new.weight.numel() == (8 if mixes_tokens else tokens) * old.weight.numel()
    assert any(isinstance(layer, SelfAttention) for layer in copied.modules()) == (kind == "vit")
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(copied.double()(x.double()), shared.double()(x.double()), rtol=0, atol=1e-12)


@both
def test_independent_networks_have_other_matrices_for_every_token_and_seed(kind):
    config = dataclasses.replace(CONFIG, network=UnsharedPatches(kind, **TINY))
    one, same, other = (
        dataclasses.replace(config, seed=seed).build_network(10, (1, 8, 8)).embed.weight for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0, 0], one[1, 1])


@both
@pytest.mark.parametrize("options", [InstantSharing(), CircuitOptions(pool=2)], ids=["instant", "circuit"])
def test_a_run_asleep_that_was_interrupted_ends_as_without(tmp_path, kind, options):
    phases = (Every(3, phase_of(options, 0)),)
    config = dataclasses.replace(CONFIG, network=UnsharedPatches(kind, **TINY), phases=phases)
    result = run(tmp_path / "whole", config)
    assert result.attrs["sharings"] == 4
    interrupt(tmp_path / "parts", 6, config)
    run(tmp_path / "parts", config, resume=True)
    assert_same_ending(tmp_path / "parts", tmp_path / "whole")
    assert (tmp_path / "whole" / CHECKPOINT).exists()


def test_another_process_knows_the_networks_of_a_stored_run(tmp_path):
    text = config_text(CONFIG)
    assert config_of(text, tmp_path) == CONFIG
    program = f"from bioshare.train.stored import config_of; print(config_of({text!r}, None).network)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(CONFIG.network)
