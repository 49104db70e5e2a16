import pytest
import torch

from bioshare.__main__ import main
from bioshare.bench.layer import FORMS, STAGES, step
from bioshare.bench.timing import peak_bytes
from bioshare.bench.train import NETWORKS, network


def test_all_forms_of_a_layer_compute_the_same():
    layers = [FORMS[name](4, 4, 3, padding=1, input_size=6, bias=False) for name in FORMS]
    kernel = torch.randn(4, 4, 3, 3)
    x = torch.randn(2, 4, 6, 6)
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(kernel)
    for layer in layers[1:]:
        torch.testing.assert_close(layer(x), layers[0](x), rtol=0, atol=1e-5)


def test_all_networks_compute_scores():
    for name in NETWORKS:
        assert network(name)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.slow
def test_a_larger_batch_peaks_higher_and_the_naive_form_highest():
    peak = lambda name, batch: peak_bytes(step, name, batch, 16, 32, "fp32", "cpu")
    small, large, naive = peak("LocallyConnected2d", 64), peak("LocallyConnected2d", 256), peak("unfold + einsum", 256)
    assert 1e6 < small < large < naive / 2


@pytest.mark.parametrize("options", [["layer", "--batches", "2"], ["train", "--batches", "2"]])
@pytest.mark.slow
def test_the_benches_print_a_line_for_every_case(options, capsys):
    main(["bench", *options, "--repeats", "1", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + (len(STAGES) if options[0] == "layer" else len(NETWORKS))
