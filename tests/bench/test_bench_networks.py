import gc
import weakref

import pytest
import torch
from small_network import small_network, use_small_network

from bioshare.bench import networks
from bioshare.bench.networks import TrainingStep, bench_network


@pytest.mark.parametrize("form", ["conv", "naive", "batched", "auto"])
def test_all_networks_compute_scores(form):
    assert bench_network("resnet20", form)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_naive_network_computes_the_scores_of_the_locally_connected_network():
    x = torch.randn(4, 3, 16, 16)
    ours, naive = (bench_network("resnet20", form, side=16)(x) for form in ("auto", "naive"))
    torch.testing.assert_close(naive, ours, rtol=0, atol=1e-4)


def test_a_network_has_the_same_weights_every_time_and_leaves_the_generator_alone(monkeypatch):
    use_small_network(monkeypatch)
    state = torch.get_rng_state()
    pairs = zip(*(bench_network("resnet20", "auto").parameters() for _ in range(2)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_graphs_of_a_step_end_with_it(monkeypatch):
    """Python may collect cycles much later, and the memory of graphs is the GPU's."""
    made = []

    class Graph:
        def __init__(self):
            made.append(weakref.ref(self))

        def capture(self, work):
            work()

        def replay(self):
            pass

    monkeypatch.setattr(networks.Processes, "recorder", lambda processes, graph: Graph)
    step = TrainingStep(small_network(), (3, 8, 8), 2, "fp32", graph=True)
    gc.disable()
    try:
        step.warm_up()
        assert [graph() is None for graph in made] == [False]
        del step
        assert [graph() for graph in made] == [None]
    finally:
        gc.enable()
