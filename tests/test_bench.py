import json
import math
import os
import re
from argparse import Namespace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bioshare.__main__ import main
from bioshare.bench import all as everything
from bioshare.bench import bridge, ceilings, networks, rows, scale, timing, traffic, train
from bioshare.bench.layer import FORMS, STAGES, Shape, forms, least_works, step
from bioshare.bench.networks import NETWORKS, Network, TrainingStep, network
from bioshare.bench.options import without_tf32
from bioshare.bench.rows import Row, Setting
from bioshare.bench.table import Column, Table
from bioshare.bench.timing import available_bytes, peak_bytes, turns
from bioshare.bench.traffic import Work
from bioshare.bridge import InstantSharing, Sleep
from bioshare.nn import LocallyConnected2d, resnet20, to_locally_connected
from bioshare.nn.resnet import BasicBlock


def test_all_forms_of_a_layer_compute_the_same():
    layers = [make(4, 4, 3, padding=1, input_size=6, bias=False) for make, _ in FORMS.values()]
    kernel = torch.randn(4, 4, 3, 3)
    x = torch.randn(2, 4, 6, 6)
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(kernel)
    for layer in layers[1:]:
        torch.testing.assert_close(layer(x), layers[0](x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["conv", "naive", "batched", "auto"])
def test_all_networks_compute_scores(form):
    assert network("resnet20", form)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_naive_network_computes_what_the_locally_connected_one_does():
    x = torch.randn(4, 3, 16, 16)
    ours, naive = (network("resnet20", form, side=16)(x) for form in ("auto", "naive"))
    torch.testing.assert_close(naive, ours, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_larger_batch_peaks_higher_and_the_naive_form_highest():
    peak = lambda name, batch: peak_bytes(step, name, batch, 16, 32, "fp32", "cpu")
    small, large, naive = peak("LC, batched", 64), peak("LC, batched", 256), peak("unfold + einsum", 256)
    assert 1e6 < small < large < naive / 2


CPU = torch.device("cpu")
ROW = re.compile(r"(\S.{43})((?: +(?:-?\d+(?:\.\d+)?|-?inf|nan|-|->))+)")


def small_network():
    """Layers of 27, 36 and 4 inputs per neuron, the last one 1 x 1."""
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 10, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bridge, "NETWORKS", dict.fromkeys(bridge.NETWORKS, ("small", small_network)))


def test_turns_alternate_and_every_work_is_told_at_its_last_one():
    done = []
    works = {name: partial(done.append, name) for name in "ab"}
    seen = [(name, len(done)) for name, seconds in turns(works, 3, CPU) if seconds >= 0]
    assert done == [*"ababab"]
    assert seen == [("a", 5), ("b", 6)]


def bridge_rows(capsys, *options):
    """Name and cells of each row that ``bench bridge`` prints."""
    assert main(["bench", "bridge", "--batch", "2", "--batch18", "2", "--threads", "1", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    matches = filter(None, map(ROW.fullmatch, lines))
    return [(match[1].strip(), match[2].replace("->", " ").split()) for match in matches]


def test_the_bench_of_sleeps_prints_a_row_for_each(small, capsys):
    options = "--image18", "8", "--repeats", "2", "--pool", "2", "--relayed", "--noise"
    rows = bridge_rows(capsys, *options)
    steps = ["training step", "training step, convolutional"]
    expected = [name for pool in (2, 1) for name in (*steps, *bridge.sharings(pool, relayed=True), *bridge.noisy())]
    assert [name for name, _ in rows] == expected
    for name, cells in rows:
        numbers = [float(cell) for cell in cells if cell != "-"]
        assert numbers[0] > 0
        assert len(cells) == (2 if name in steps else 10)
        assert not any(map(math.isnan, numbers))


def test_maps_are_simulated_in_fresh_sleeps_and_not_from_a_pool(small, capsys):
    rows = dict(bridge_rows(capsys, "--networks", "resnet20", "--repeats", "1", "--pool", "3", "--relayed"))
    maps = {name: int(cells[3]) for name, cells in rows.items() if len(cells) == 10}
    assert maps.pop("rate circuit, alpha = 10, from a pool of 3") == 0
    assert maps.pop("direct averaging") == 0
    assert set(maps.values()) == {3}
    megabytes = (
        3 * sum(4 * inputs**2 + 8 * (inputs**2 + inputs) for inputs in (27, 36, 4)) / 1e6
    )  # A; B and c in float64
    assert float(rows["rate circuit, alpha = 10, from a pool of 3"][5]) == pytest.approx(megabytes, rel=0, abs=0.05)


def test_warming_up_fills_a_pool_and_leaves_the_model_alone():
    model = to_locally_connected(small_network(), (3, 8, 8))
    before = [weight.detach().clone() for weight in model.parameters()]
    bridge.warm_up(sleep := Sleep.rate_circuit(pool=3), model)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert sorted(key[:2] for key in sleep.pooled) == [(k, n) for k in (4, 27, 36) for n in range(3)]
    assert sum(sleep(model, seed, progress=False).maps for seed in range(5)) == 0


def test_the_effect_is_the_median_of_the_layers_that_took_part():
    model = to_locally_connected(small_network(), (3, 8, 8))
    report = InstantSharing()(model)
    middle = sorted(layer.neg_log_snr_before for layer in report.layers)[1]
    effect = bridge.effect_of(report)
    assert effect.before == middle
    assert effect.spread == pytest.approx(0, abs=1e-6)
    assert effect.mean_norm == pytest.approx(1, abs=1e-6)


def test_a_network_that_does_not_fit_is_refused_before_any_work(small, monkeypatch, capsys):
    monkeypatch.setattr(bridge, "available_bytes", lambda device: 1000)
    assert main(["bench", "bridge", "--networks", "resnet18", "--image18", "64"]) == 1
    told = capsys.readouterr()
    assert "small at 64 x 64 needs 0.0 GB on cpu" in told.err
    assert "training step" not in told.out


def test_the_weights_are_counted_without_building_the_network(small):
    arguments = {"image18": 9, "batch18": 2, "repeats18": 1, "pool18": 1, "dtype": "fp32", "device": "cpu"}
    case = bridge.Case.of("resnet18", Namespace(**arguments))
    assert case.weights() == sum(weight.numel() for weight in case.network().parameters())


def test_a_case_builds_the_same_network_every_time_and_leaves_the_generator_alone(small):
    arguments = {"batch": 2, "repeats": 1, "pool": 1, "dtype": "fp32", "device": "cpu"}
    case = bridge.Case.of("resnet20", Namespace(**arguments))
    state = torch.get_rng_state()
    pairs = zip(case.network().parameters(), case.network().parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(available_bytes(CPU) is None, reason="counts memory on Linux only")
def test_available_memory_is_a_part_of_all_memory():
    available = available_bytes(CPU)
    assert available is not None
    assert 1e6 < available < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_bench_of_a_layer_prints_a_line_for_every_case(little, monkeypatch, capsys):
    monkeypatch.setattr("bioshare.bench.layer.peak_bytes", lambda *arguments: 2_000_000)
    assert main(["bench", "layer", "--batches", "2", "--dtypes", "fp32", "bf16", "--repeats", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("fp32 ", "bf16 "))]
    assert len(lines) == 2 * len(STAGES) * len(forms("cpu"))
    assert all(line[-6] == "2" and float(line[-1]) > 0 for line in lines)


def test_the_least_work_of_a_layer_counts_its_weights_at_every_position():
    shape = Shape(2, 4, 6, "bf16")
    for name, kernels in (("LC, batched", 36), ("Conv2d", 1)):
        moved = 2 * (2 * 2 * 4 * 36) + 4 * kernels * 4 * 36
        assert [work[1:] for work in least_works(name, shape)] == 3 * [(2 * 2 * 4 * 36 * 36, moved)]


@pytest.fixture
def little(monkeypatch):
    """Ceilings measured in no time, and a small network in the place of ResNet-20."""
    monkeypatch.setitem(ceilings.COPY_BYTES, "cpu", 2**16)
    monkeypatch.setitem(ceilings.SIDE, "cpu", 32)
    monkeypatch.setitem(NETWORKS, "resnet20", Network("small", small_network, 8, 2, 100))


def meta(model):
    with torch.device("meta"):
        return model()


def of_part(works, part):
    return [work for work in works if work.part == part]


def test_the_operations_of_a_step_are_those_that_torch_counts():
    counter = FlopCounterMode(display=False)
    with counter:
        resnet20()(torch.randn(2, 3, 32, 32)).sum().backward()
    for form in ("conv", "auto"):
        works = traffic.step_works(network("resnet20", form, "meta"), (2, 3, 32, 32), 2)
        assert sum(work.operations for work in works) == counter.get_total_flops()


def test_a_step_moves_what_a_hand_counts():
    block = meta(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), BasicBlock(4, 4)))
    works = traffic.step_works(block, (2, 3, 8, 8), 2)
    image, activation, weights = 2 * 2 * 3 * 64, 2 * 2 * 4 * 64, (4 * 108, 4 * 144)
    forward = [image + activation + weights[0], *2 * [2 * activation + weights[1]]]
    assert [work.bytes for work in of_part(works, traffic.FORWARD)] == forward
    assert [work.bytes for work in of_part(works, traffic.BY_INPUT)] == forward[1:]
    assert [work.bytes for work in of_part(works, traffic.BY_WEIGHTS)] == forward
    assert [work.bytes for work in of_part(works, traffic.NORM)] == 2 * [8 * activation]
    assert [work.bytes for work in of_part(works, traffic.SUM)] == [4 * activation]
    assert [work.bytes for work in of_part(works, traffic.ADAMW)] == [28 * (108 + 2 * 144 + 16)]
    assert [traffic.PARTS.index(work.part) for work in works] == sorted(traffic.PARTS.index(w.part) for w in works)


def test_max_pooling_moves_both_sizes_twice():
    model = meta(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2)))
    (work,) = of_part(traffic.step_works(model, (2, 3, 8, 8), 4), traffic.POOLING)
    assert work.bytes == 4 * 2 * 4 * (2 * 64 + 2 * 16)


def test_a_sleep_multiplies_every_neuron_by_a_map_and_averaging_moves_it_twice():
    layer = meta(lambda: LocallyConnected2d(3, 4, 3, padding=1, input_size=8))
    instant, sleep = traffic.sharing_works(layer)
    assert instant == Work(traffic.INSTANT, 0, 8 * 64 * 4 * 27)
    assert sleep == Work(traffic.SLEEP, 64 * 4 * 2 * 27**2, 8 * 64 * 4 * 27 + 4 * 27**2)


def test_the_least_time_is_the_longer_one_and_maps_have_the_rate_of_fp32():
    limits = ceilings.Ceilings(bandwidth=10.0, rate=100.0, rate32=20.0)
    assert Work(traffic.FORWARD, 400, 30).seconds(limits) == 4
    assert Work(traffic.FORWARD, 400, 50).seconds(limits) == 5
    assert Work(traffic.SLEEP, 400, 50).seconds(limits) == 20


def test_the_ceilings_are_positive_and_those_of_fp32_one_of_them(little):
    limits = ceilings.measured(CPU, "bf16")
    assert min(limits) > 0
    same = ceilings.measured(CPU, "fp32")
    assert same.rate == same.rate32


def test_the_floor_is_computed_from_given_ceilings_without_measuring(little, monkeypatch, capsys):
    monkeypatch.setattr(ceilings, "measured", None)
    assert main(["bench", "floor", "--bandwidth", "1", "--rate", "1e-3", "--batch", "4"]) == 0
    told = capsys.readouterr().out
    weights = 27 * 4 + 4 + 36 * 4 + 4 + 4 * 10 + 10
    rows = [line.split() for line in told.splitlines() if line.startswith("AdamW")]
    assert float(rows[0][-1]) == pytest.approx(28 * weights / 1e6, rel=0, abs=1e-3)
    assert "step, eager" not in told


def test_the_floor_stands_beside_the_measured_step(little, capsys):
    assert main(["bench", "floor", "--repeats", "1", "--dtype", "bf16"]) == 0
    told = capsys.readouterr().out
    assert len(re.findall(r"^step, eager: \d+\.\d+ ms, \d+\.\d+ times the floor$", told, re.MULTILINE)) == 2
    assert len(re.findall(r"^floor of a step ", told, re.MULTILINE)) == 2


@pytest.mark.parametrize("given", [["--bandwidth", "1"], ["--rate", "1"], ["--bandwidth", "1", "--rate", "0"]])
def test_half_of_the_ceilings_is_refused(given, capsys):
    assert main(["bench", "floor", *given]) == 1
    assert "--bandwidth and --rate must both be positive" in capsys.readouterr().err


def setting(**changes):
    return Setting("resnet20", 8, 2, "fp32", "cpu", 1)._replace(**changes)


class Recorded:
    """What stands for a CUDA graph on a CPU: does the work again."""

    def capture(self, work):
        self.work = work

    def replay(self):
        self.work()


def test_the_rows_of_a_gpu_have_every_form_and_graph(monkeypatch):
    monkeypatch.setattr(rows, "fused_available", lambda: True)
    lines = rows.rows(torch.device("cuda"), compiled=True)
    assert [line.form for line in lines[:4]] == ["conv", "naive", "batched", "fused"]
    assert [line.sharing for line in lines if line.graph and not line.compiled] == [None, None, *rows.SHARINGS]
    assert {line.form for line in lines if line.sharing} == {"auto"}
    assert [line.name for line in lines if line.compiled] == ["conv, compiled", "LC, compiled"]


def test_every_row_of_a_gpu_trains_or_shares(little, monkeypatch):
    monkeypatch.setattr(networks, "recorder", lambda graph, here: Recorded if graph else None)
    steps = []
    monkeypatch.setattr(Row, "step", lambda row, setting, step=Row.step: steps.append(step(row, setting)) or steps[-1])
    lines = rows.rows(torch.device("cuda"))
    for name, work in rows.works(lines, setting()):
        model = steps[-1].run.model
        before = [weight.detach().clone() for weight in model.parameters()]
        work()
        changed = [not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
        if "instant" in name:
            assert not any(changed)
        else:
            assert any(changed), name
        lines = [line for line in lines if line.name != name]
    assert lines == []


def test_a_row_without_memory_is_left_out_and_those_that_share_its_weights_with_it(little, monkeypatch, capsys):
    real = Row.step

    def step(row, setting):
        if row.form == "batched":
            raise torch.OutOfMemoryError
        return real(row, setting)

    monkeypatch.setattr(Row, "step", step)
    monkeypatch.setattr(train, "peak_of", lambda row, setting: 3_000_000)
    table, lines = Table(train.COLUMNS), rows.rows(CPU)
    train.measure(table, lines, setting(), 1)
    assert [record["ms"] is None for record in table.records] == [line.form == "batched" for line in lines]
    assert capsys.readouterr().out.splitlines()[-1].split()[-5:] == ["-"] * 5


def test_the_cost_of_a_sharing_is_spread_over_the_steps_between():
    lines = rows.rows(CPU)
    seconds = {line.name: 5.0 if line.sharing else 2.0 for line in lines}
    spread = rows.per_step(lines, seconds)
    assert [spread[line.name] for line in lines] == [2.0, 2.0, 2.0, 7.0, 2.5, 2.5]


def test_the_bench_of_training_prints_every_table(little, monkeypatch, capsys):
    monkeypatch.setattr(train, "peak_of", lambda row, setting: None)
    options = "--dtypes", "fp32", "bf16", "--batches", "2", "3", "--repeats", "1", "--epochs", "9", "--together", "2"
    assert main(["bench", "train", *options]) == 0
    told = capsys.readouterr().out
    assert len(re.findall(r"^(fp32|bf16) +[23]  \S", told, re.MULTILINE)) == 4 * len(rows.rows(CPU))
    assert len(re.findall(r"^(fp32|bf16) {5}\S", told, re.MULTILINE)) == 4 * len(rows.rows(CPU))
    assert re.findall(r"^(?:fp32|bf16) +([23]) +([12]) +\d+\.", told, re.MULTILINE) == 2 * [
        *[("2", "1"), ("2", "2")],
        *[("3", "1"), ("3", "2")],
    ]


@pytest.mark.skipif(available_bytes(torch.device("cpu")) is None, reason="counts memory on Linux only")
@pytest.mark.slow
def test_the_peak_of_training_grows_with_the_batch_and_holds_the_moments():
    line = Row("LC", "auto")
    small, large = (rows.peak_of(line, setting(side=16, batch=batch)) for batch in (2, 256))
    weights = sum(weight.numel() for weight in network("resnet20", "auto", "meta", 16).parameters())
    assert small is not None
    assert large is not None
    assert 12 * weights < small < large


def test_the_peak_of_a_graph_is_that_of_the_eager_row():
    assert rows.peak_of(Row("LC", "auto", graph=True), setting()) is None


def test_hours_are_epochs_by_images_by_speed_and_shared_among_cards(capsys):
    records = [{"dtype": "fp32", "name": "LC", "images_per_second": 1000.0}]
    none = {"dtype": "fp32", "name": "none", "images_per_second": None}
    scale.print_hours([*records, none], 200, 1_281_167, [1, 8])
    assert records[0]["hours_1"] == pytest.approx(71.176, rel=0, abs=1e-3)
    assert records[0]["hours_8"] == records[0]["hours_1"] / 8
    assert capsys.readouterr().out.splitlines()[-1].split() == ["fp32", "none", "-", "-"]


def test_networks_together_take_a_step_each(little, monkeypatch):
    taken = []
    monkeypatch.setattr(TrainingStep, "__call__", lambda self: taken.append(self))
    turn = scale.together(Row("LC", "auto"), setting(), 3)
    taken.clear()
    turn()
    turn()
    assert taken[:3] == taken[3:]
    assert len(set(map(id, taken))) == 3


@pytest.mark.parametrize("most", [511, 512, 2000, 4096])
def test_the_largest_batch_is_the_last_multiple_that_does_not_fail(most):
    def step(batch):
        if batch > most:
            raise torch.OutOfMemoryError

    assert scale.largest_batch(step, CPU) == most // 512 * 512


def test_the_largest_batch_needs_a_gpu(capsys):
    assert main(["bench", "train", "--largest"]) == 1
    assert "--largest needs --device cuda; got cpu" in capsys.readouterr().err


def test_a_turn_of_a_gpu_is_many_calls(monkeypatch):
    done = []
    monkeypatch.setattr(timing, "synchronise", lambda device: None)
    monkeypatch.setattr(timing, "_block", lambda work, calls, device: done.append(calls) or 0.03)
    assert dict(turns({"a": print}, 2, torch.device("cuda"))) == {"a": 0.03}
    assert done == [1, 7, 7]


def test_fp32_is_without_tf32_only_inside_of_the_block():
    flags = lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    before = flags()
    with without_tf32():
        assert flags() == (False, False)
    assert flags() == before


def test_a_table_keeps_what_it_prints(capsys):
    table = Table([Column("name", "name", width=6), Column("ms", "ms", ".1f", 7)])
    table.add(name="a", ms=12.345, kept=1)
    table.add(name="b", ms=None)
    assert capsys.readouterr().out == "name       ms\na        12.3\nb           -\n"
    assert table.records == [{"name": "a", "ms": 12.345, "kept": 1}, {"name": "b", "ms": None}]


def test_all_benches_go_into_one_file_and_one_that_fails_does_not_stop_the_others(
    little, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(everything.PLAN, "wrong", "floor --rate 1")
    path = tmp_path / "new" / "all.json"
    options = "--only", "wrong", "floor-fp32", "--device", "cpu", "--batch", "3", "--repeats", "1"
    assert main(["bench", "all", "--to", str(path), *options]) == 1
    found = json.loads(path.read_text())
    assert "must both be positive" in found["benches"]["wrong"]["error"]
    bench = found["benches"]["floor-fp32"]
    assert bench["command"] == "floor --dtype fp32 --device cpu --batch 3 --repeats 1"
    assert [row["network"] for row in bench["rows"] if row["part"] == "step, eager"] == ["conv", "LC"]
    assert "failed: wrong" in capsys.readouterr().err


@pytest.mark.parametrize("name", everything.PLAN)
def test_the_commands_of_the_plan_are_understood(name, monkeypatch):
    seen = []
    words = everything._words(name, Namespace(device="cpu", batch=3, repeats=2))
    monkeypatch.setattr(f"bioshare.bench.{words[0]}.main", seen.append)
    everything._run(words)
    assert seen[0].repeats == 2
    assert 3 in (getattr(seen[0], "batch", 0), *getattr(seen[0], "batches", []))
