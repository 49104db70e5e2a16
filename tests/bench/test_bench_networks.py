import gc
import weakref

import pytest
import torch
from small_network import small_network

from bioshare.bench import networks
from bioshare.bench.networks import TrainingStep, network


@pytest.mark.parametrize("form", ["conv", "naive", "batched", "auto"])
def test_all_networks_compute_scores(form):
    assert network("resnet20", form)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_naive_network_computes_what_the_locally_connected_one_does():
    x = torch.randn(4, 3, 16, 16)
    ours, naive = (network("resnet20", form, side=16)(x) for form in ("auto", "naive"))
    torch.testing.assert_close(naive, ours, rtol=0, atol=1e-4)


def test_the_graphs_of_a_step_end_with_it(monkeypatch):
    """And not when Python collects cycles: their memory is the GPU's."""
    made = []

    class Graph:
        def __init__(self):
            made.append(weakref.ref(self))

        def capture(self, work):
            work()

        def replay(self):
            pass

    monkeypatch.setattr(networks, "recorder", lambda graph, here: Graph)
    step = TrainingStep(small_network(), (3, 8, 8), 2, "fp32", graph=True)
    gc.disable()
    try:
        step.warm_up()
        assert [graph() is None for graph in made] == [False]
        del step
        assert [graph() for graph in made] == [None]
    finally:
        gc.enable()
