"""Phases in a Lightning trainer, against the same loop by hand."""

import copy

import pytest
import torch
from small_layers import gentle, network, weights
from torch.utils.data import DataLoader

import bioshare as bs

lightning = pytest.importorskip("lightning.pytorch")

SLEEP = gentle(bs.SteadyState(5.0))
IMAGES = torch.randn(12, 2, 11, 10, generator=torch.Generator().manual_seed(0)).double()
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, of PyTorch and of a loader in one process


class Module(lightning.LightningModule):
    """Gradient descent on the mean square of the output."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=1e-3)


def fitted(model, callback, epochs=2, path=None, **options):
    module = Module(copy.deepcopy(model))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[callback],
        enable_checkpointing=False,
        **quiet,
        **options,
    )
    trainer.fit(module, DataLoader(IMAGES, batch_size=2), ckpt_path=path)
    return module, trainer


def by_hand(model, steps, accumulated=1, every=3):
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = [IMAGES[i : i + 2] for i in range(0, 12, 2)] * 10
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        for batch in batches[(step - 1) * accumulated : step * accumulated]:
            (model(batch).square().mean() / accumulated).backward()
        optimizer.step()
        if step % every == 0:
            SLEEP(model, seed=step)
    return model


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_module_sleeps_after_every_third_step_with_the_step_as_seed(accumulated):
    from bioshare.bridge.lightning import PhaseCallback

    model = network()
    module, _ = fitted(model, PhaseCallback(SLEEP, every=3), accumulate_grad_batches=accumulated)
    expected = by_hand(model, 12 // accumulated, accumulated)
    for a, b in zip(weights(module.net), weights(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_resumed_training_goes_on_with_the_same_sleeps(tmp_path):
    from bioshare.bridge.lightning import PhaseCallback

    model = network()
    _, trainer = fitted(model, PhaseCallback(SLEEP, every=4), epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fitted(model, PhaseCallback(SLEEP, every=4), path=tmp_path / "half.ckpt")
    whole, _ = fitted(model, PhaseCallback(SLEEP, every=4))
    assert all(map(torch.equal, weights(whole.net), weights(resumed.net)))


def test_a_module_that_cannot_sleep_is_refused_before_training():
    from bioshare.bridge.lightning import PhaseCallback

    with pytest.raises(ValueError, match="model must have a LocallyConnected2d layer"):
        fitted(torch.nn.Linear(2, 2), PhaseCallback(SLEEP))
