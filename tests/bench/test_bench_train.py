import re

import pytest
import torch
from small_network import use_small_network

from bioshare.__main__ import main
from bioshare.bench import networks, train
from bioshare.bench.harness import BenchTable, available_bytes
from bioshare.bench.networks import bench_network
from bioshare.bench.train import StepSettings, Variant, largest_batch, step_variants, variant_peak
from bioshare.bridge import InstantSharing

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    use_small_network(monkeypatch)


def settings(**changes):
    return StepSettings("resnet20", 8, 2, "fp32", "cpu")._replace(**changes)


class Recorded:
    """Does the work again, in place of a CUDA graph."""

    def capture(self, work):
        self.work = work

    def replay(self):
        self.work()


def test_the_rows_of_a_gpu_have_every_form_and_graph(monkeypatch):
    monkeypatch.setattr(train, "fused_available", lambda: True)
    variants = step_variants(torch.device("cuda"), compiled=True)
    assert [variant.form for variant in variants[:4]] == ["conv", "naive", "batched", "fused"]
    bases = [variant.name for variant in variants if variant.graph and not (variant.compiled or variant.phase)]
    assert bases == ["conv, graph", "LC, graph"]
    assert [variant.every for variant in variants if variant.phase] == [1, train.EVERY, train.EVERY]
    assert {(variant.form, variant.graph) for variant in variants if variant.phase} == {("auto", True)}
    assert [variant.name for variant in variants if variant.compiled] == ["conv, compiled", "LC, compiled"]


def test_every_row_of_a_gpu_trains_or_shares(small, monkeypatch):
    monkeypatch.setattr(networks.Processes, "recorder", lambda processes, graph: Recorded if graph else None)
    steps = []
    monkeypatch.setattr(
        Variant, "step", lambda variant, settings, step=Variant.step: steps.append(step(variant, settings)) or steps[-1]
    )
    variants = step_variants(torch.device("cuda"))
    for name, work in train.warm_works(variants, settings()):
        model = steps[-1].run.model
        before = [weight.detach().clone() for weight in model.parameters()]
        work()
        changes = [(was - weight).abs().max() for was, weight in zip(before, model.parameters(), strict=True)]
        assert (max(changes) < 1e-6) == ("instant" in name), name  # a mean of means, but for rounding
        variants = [variant for variant in variants if variant.name != name]
    assert variants == []


def test_a_row_without_memory_is_left_out_and_those_that_share_its_weights_with_it(small, monkeypatch, capsys):
    real = Variant.step

    def step(variant, settings):
        if variant.form == "batched":
            raise torch.OutOfMemoryError
        return real(variant, settings)

    monkeypatch.setattr(Variant, "step", step)
    monkeypatch.setattr(
        train, "variant_peak", lambda variant, settings: 3_000_000 if variant.form == "naive" else 1_000_000
    )
    table, variants = BenchTable(train.TRAIN_COLUMNS), step_variants(CPU)
    train.add_step_rows(table, variants, settings(), 1)
    assert ["ms / step" not in record for record in table.records] == [
        variant.form == "batched" for variant in variants
    ]
    assert [record.get("peak of naive") for record in table.records] == [1 / 3, 1, None, None, None, None]
    assert capsys.readouterr().out.splitlines()[-1].split()[-6:] == ["-"] * 6


def test_the_cost_of_a_phase_is_spread_over_the_steps_between():
    variants = step_variants(CPU)
    seconds = {variant.name: 5.0 if variant.phase else 2.0 for variant in variants}
    spread = train.seconds_per_step(variants, seconds)
    assert [spread[variant.name] for variant in variants] == [2.0, 2.0, 2.0, 7.0, 2.5, 2.5]


def test_the_bench_of_training_prints_every_table(small, monkeypatch, capsys):
    monkeypatch.setattr(train, "variant_peak", lambda variant, settings: None)
    options = "--dtypes", "fp32", "bf16", "--batches", "2", "3", "--repeats", "1", "--epochs", "9"
    assert main(["bench", "train", *options]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^(fp32|bf16) +[23]  \S", printed, re.MULTILINE)) == 4 * len(step_variants(CPU))
    assert len(re.findall(r"^(fp32|bf16) {3}\S", printed, re.MULTILINE)) == 4 * len(step_variants(CPU))


@pytest.mark.skipif(available_bytes(torch.device("cpu")) is None, reason="counts memory on Linux only")
@pytest.mark.slow
def test_the_peak_of_training_grows_with_the_batch_and_holds_the_moments():
    variant = Variant("LC", "auto")
    small, large = (variant_peak(variant, settings(side=16, batch=batch)) for batch in (2, 256))
    weights = sum(weight.numel() for weight in bench_network("resnet20", "auto", "meta", 16).parameters())
    assert small is not None
    assert large is not None
    assert 12 * weights < small < large


@pytest.mark.parametrize("phase", [None, InstantSharing()])
def test_the_peak_of_a_graph_is_what_is_reserved_while_it_is_replayed(small, monkeypatch, phase):
    """On a GPU that is only spoken of, where every recording reserves 50 bytes and ordinary steps leave nothing."""
    log = []

    class Logged(Recorded):
        def capture(self, work):
            log.append("recorded")
            super().capture(work)

        def replay(self):
            log.append("replayed")
            super().replay()

    monkeypatch.setattr(networks.Processes, "recorder", lambda processes, graph: Logged if graph else None)
    monkeypatch.setattr(train, "free_memory", lambda device: log.append("freed"))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100 + 50 * log.count("recorded"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: log.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 100 + 50 * log.count("recorded"))
    graphs = 2 if phase else 1
    assert variant_peak(Variant("LC", "auto", graph=True, phase=phase), settings()) == 50 * graphs
    assert log.count("recorded") == graphs
    assert log[0] == "freed"
    assert log[-2 * graphs - 2 :] == ["freed", "reset", *["replayed"] * 2 * graphs]


def test_what_is_compiled_is_not_compiled_again_for_its_peak():
    assert variant_peak(Variant("LC, compiled", "auto", True, True), settings()) is None


def test_hours_are_epochs_by_images_by_speed_and_shared_among_cards(capsys):
    records = [{"dtype": "fp32", "network": "LC", "images / s": 1000.0}]
    none = {"dtype": "fp32", "network": "none"}
    train.print_hours([*records, none], 200, 1_281_167, [1, 8])
    assert records[0]["1 card"] == pytest.approx(71.176, rel=0, abs=1e-3)
    assert records[0]["8 cards"] == records[0]["1 card"] / 8
    assert capsys.readouterr().out.splitlines()[-1].split() == ["fp32", "none", "-", "-"]


@pytest.mark.parametrize("most", [511, 512, 2000, 4096])
def test_the_largest_batch_is_the_last_multiple_that_does_not_fail(most):
    def step(batch):
        if batch > most:
            raise torch.OutOfMemoryError

    assert largest_batch(step, CPU) == most // 512 * 512


def test_the_largest_batch_needs_a_gpu(capsys):
    assert main(["bench", "train", "--largest"]) == 1
    assert "--largest needs --device cuda; got cpu" in capsys.readouterr().err
