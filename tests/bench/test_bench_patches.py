"""The bench of networks of patches prints a shared and an unshared row of each."""

from functools import partial

import torch

from bioshare.__main__ import main
from bioshare.bench import patches
from bioshare.nn import MLPMixer


def test_every_layer_and_network_has_a_row_with_and_without_sharing(monkeypatch, capsys):
    monkeypatch.setattr(patches, "LAYERS", ((3, 4, 5),))
    small = partial(MLPMixer, input_size=patches.IMAGE, patch=8, features=8, depth=1)
    monkeypatch.setattr(patches, "PATCH_NETWORKS", {"Mixer": small})
    monkeypatch.setattr(patches, "peak_bytes", lambda make, device: 2_000_000)
    assert main(["bench", "patches", "--batch", "2", "--threads", "1", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith(("3 x 4 to 5: ", "Mixer: "))]
    names = ["3 x 4 to 5: Linear", "3 x 4 to 5: PatchwiseLinear", "Mixer: shared", "Mixer: unshared"]
    assert [row[:37].strip() for row in rows] == names
    for row in rows:
        _, milliseconds, peak, ratio, least = map(float, row[37:].split())
        assert milliseconds > 0
        assert ratio == 1 if row.split(":")[1].split()[0] in ("Linear", "shared") else ratio > 0
        assert (peak, least) == (2.0, 1.0)


def test_a_step_changes_every_weight_and_keeps_no_gradient_of_the_batch_before():
    torch.manual_seed(0)
    made = []

    def make():
        made.append(torch.nn.Linear(3, 2))
        return made[-1]

    step = patches.training_step(make, (4, 5, 3), "fp32", torch.device("cpu"))
    before = [weight.detach().clone() for weight in made[0].parameters()]
    step()
    first = made[0].weight.grad.clone()
    assert all((new != old).all() for new, old in zip(made[0].parameters(), before, strict=True))
    step()
    torch.testing.assert_close(made[0].weight.grad, first, rtol=0, atol=0.01)
