"""`list` and `train`, and what the command line makes of errors and signals."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest
import xarray as xr
from safetensors import SafetensorError

from bioshare import __main__ as command_line
from bioshare.bridge import HebbianSharing, InstantSharing, LearnedGroups, Phase
from bioshare.bridge.controls import LayerMean, RandomGroups, Shrinking
from bioshare.nn.forms import fused_available
from bioshare.text import aligned, mean_and_deviation, number
from bioshare.train.commands import train
from bioshare.train.config import AdamW, Convolutional, Every, ImageNet, LocallyConnected, TrainConfig
from bioshare.train.experiments import find
from bioshare.train.interrupt import Interrupted, TimeUpError
from bioshare.train.phases import PHASES, CircuitOptions, IdealOptions, NoisyIdealOptions
from bioshare.train.results import read_result

NAME = "table1/cifar100/lc-ws10"


def test_list_prints_names_hyperparameters_and_the_papers_numbers(capsys):
    assert command_line.main(["list", "*/tinyimagenet/lc-ws1"]) == 0
    shown = capsys.readouterr().out
    assert "\nTable 3: accuracy, padding 0, 5 runs\n" in shown
    row = ["table3/tinyimagenet/lc-ws1", "0.001", "0.0001", "24.9", "-1.2", "1.2", "49.1", "-2.1", "2.0"]
    assert row in [line.split() for line in shown.splitlines()]


def test_list_prints_every_experiment(capsys):
    assert command_line.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("table") for line in lines) == 227
    assert sum(line.startswith("sleep/") for line in lines) == 31


def test_list_says_that_the_paper_has_no_simulated_sleep(capsys):
    assert command_line.main(["list", "sleep/cifar10/lc-ws10*"]) == 0
    shown = capsys.readouterr().out
    assert "\nTable sleep: accuracy, padding 4, 5 runs (Table 1; simulated sleep is not in the paper)\n" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["sleep/cifar10/lc-ws10", "0.0005", "0.01", "85.1", "-3.2", "0.6", "-", "-", "-"] in lines
    assert ["sleep/cifar10/lc-ws10-alpha5", "0.0005", "0.01", *6 * "-"] in lines


def test_an_unknown_name_is_one_line_and_status_1(capsys):
    for command in (["list", "table1/cifar10/lcws10"], ["train", "table1/cifar10/lcws10"]):
        assert command_line.main(command) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert "near it: table1/cifar10/lc-ws10" in shown.err
        assert shown.err.count("\n") == 1


class Recorded:
    """Stands for `fit`; keeps what it was called with."""

    def __call__(self, config, folder, **options):
        self.config, self.folder, self.options = config, folder, options
        return xr.Dataset({"top1": ("epoch", [10.0, 50.0]), "top5": ("epoch", [60.0, 90.44])})


@pytest.fixture
def recorded(monkeypatch):
    """The command line with a stand-in for `fit`."""
    fit = Recorded()
    monkeypatch.setattr(train, "fit", fit)
    return fit


def test_train_starts_from_the_experiment(recorded, capsys):
    assert command_line.main(["train", NAME]) == 0
    assert recorded.config == find(NAME).config
    assert str(recorded.folder) == f"runs/{NAME}/seed0"
    assert recorded.options == {"seconds": None}
    assert "Not the table's setting" not in capsys.readouterr().out


def test_a_row_of_a_later_table_lives_where_the_same_runs_of_the_first_do(recorded):
    assert command_line.main(["train", "table7/cifar100/lc-ws10", "--seed", "2"]) == 0
    assert str(recorded.folder) == f"runs/{NAME}/seed2"


def test_train_takes_typed_overrides_of_every_field(recorded):
    words = (
        "--epochs 3 --dataset digits --milestones 0.2 0.3 --flip --every None --compile --seed 4 --learning-rate 0.1"
    )
    computing = ["--resume", "--to", "here", "--record-snr", "7", "--checkpoint-every", "0.5"]
    assert command_line.main(["train", NAME, *words.split(), *computing]) == 0
    assert (recorded.options["record_snr"], recorded.options["checkpoint_every"]) == (7, 0.5)
    digits = {"dataset": "digits", "batch_size": 32, "padding": 1}
    expected = {**digits, "epochs": 3, "milestones": (0.2, 0.3), "flip": True, "phases": ()}
    changed = {"compile": True, "seed": 4, "optimizer": AdamW(0.1, 1e-2), **expected}
    assert recorded.config == dataclasses.replace(find(NAME).config, **changed)
    assert recorded.options["resume"]
    assert str(recorded.folder) == "here"


def test_train_hands_on_how_to_compute(recorded):
    for words, graphs, form in (("--graphs", True, "auto"), ("--no-graphs --form fused", False, "fused")):
        assert command_line.main(["train", NAME, *words.split()]) == 0
        assert (recorded.options["graphs"], recorded.options.get("form", "auto")) == (graphs, form)


@pytest.mark.skipif(fused_available(), reason="here there are fused kernels")
def test_a_form_that_cannot_be_had_here_is_refused_before_any_work(capsys, tmp_path):
    words = ["--to", str(tmp_path / "runs"), "--form", "fused"]
    for command in (["train", NAME, "--dataset", "digits"], ["table", "1", "--dataset", "cifar100"], ["sweep", NAME]):
        assert command_line.main([*command, *words]) == 1
        assert capsys.readouterr().err.startswith('error: form="fused" needs Triton')
    assert not (tmp_path / "runs").exists()


def test_train_puts_a_network_of_the_paper_to_sleep(recorded, capsys):
    words = "--sleep circuit --alpha 50 --every 100 --pool 8 --moments share"
    assert command_line.main(["train", NAME, *words.split()]) == 0
    sleep = CircuitOptions(alpha=50.0, pool=8, moments="share")
    assert recorded.config == dataclasses.replace(find(NAME).config, phases=(Every(100, sleep.phase(0)),))
    changed = "every 100 instead of 10; phase Sleep instead of InstantSharing."
    assert f"Not the table's setting: {changed}" in capsys.readouterr().out


def test_a_pool_is_that_of_the_seed(recorded):
    assert command_line.main(["train", NAME, "--sleep", "circuit", "--pool", "8", "--seed", "3"]) == 0
    assert recorded.config.phases == (Every(10, CircuitOptions(pool=8).phase(3)),)


@pytest.mark.parametrize(
    ("words", "phases"),
    [
        ("--every 3", (Every(3, InstantSharing()),)),
        ("--every 3 --count run --border keep", (Every(3, InstantSharing("keep"), "run"),)),
        ("--every 3 --sleep random-groups --groups-seed 4", (Every(3, RandomGroups(4)),)),
        ("--every 3 --sleep layer-mean", (Every(3, LayerMean()),)),
        ("--every 3 --sleep shrinking", (Every(3, Shrinking()),)),
        ("--every 3 --border scale", (Every(3, InstantSharing("scale")),)),
        ("--every 3 --spread 0.25", (Every(3, InstantSharing(spread=0.25)),)),
        ("--every 3 --sleep ideal --gain 1.25", (Every(3, IdealOptions(gain=1.25).phase(0)),)),
        ("--every 3 --sleep learned-groups --images 9 --noise 1", (Every(3, LearnedGroups(9, noise=1.0)),)),
        ("--every 3 --sleep hebbian --updates 4", (Every(3, HebbianSharing(updates=4)),)),
        ("--every 3 --sleep noisy-ideal --noise 0.1", (Every(3, NoisyIdealOptions(noise=0.1).phase(0)),)),
    ],
)
def test_a_network_without_phases_gets_one(recorded, words, phases):
    assert command_line.main(["train", "table1/cifar100/lc", *words.split()]) == 0
    assert recorded.config.phases == phases


def test_parts_are_chosen_by_type(recorded):
    words = "--layers locally-connected --keep-first 1 --architecture resnet18 --dataset imagenet --crop random-resized"
    words += " --normalisation lateral"
    assert command_line.main(["train", "table1/cifar100/conv", *words.split()]) == 0
    assert recorded.config.network == LocallyConnected("resnet18", 1, normalisation="lateral")
    assert recorded.config.dataset == ImageNet("random-resized")
    assert command_line.main(["train", NAME, "--layers", "convolutional", "--every", "None"]) == 0
    assert (recorded.config.network, recorded.config.phases) == (Convolutional(), ())


@dataclasses.dataclass(frozen=True)
class Scaling(Phase):
    """Scale all weights.

    Attributes:
        factor: what the weights are multiplied with.
    """

    factor: float = 0.5

    def change(self, model, seed=0, *, optimizer=None):
        for parameter in model.parameters():
            parameter.detach().mul_(self.factor)


def test_a_new_phase_is_one_entry_of_the_registry(recorded, monkeypatch, capsys):
    monkeypatch.setitem(PHASES, "scaling", Scaling)
    words = "--every 5 --sleep scaling --factor 0.25"
    assert command_line.main(["train", "table1/cifar100/conv", *words.split()]) == 0
    assert recorded.config.phases == (Every(5, Scaling(0.25)),)
    with pytest.raises(SystemExit):
        command_line.main(["train", NAME, "--help"])
    assert "what the weights are multiplied with (default: 0.5)" in " ".join(capsys.readouterr().out.split())


def test_train_knows_the_rows_that_sleep(recorded, capsys):
    name = "sleep/cifar10/lc-ws10-alpha50"
    assert command_line.main(["train", name]) == 0
    assert recorded.config == find(name).config
    assert str(recorded.folder) == f"runs/{name}/seed0"
    shown = capsys.readouterr().out
    assert ["top-1", "%", "50.0", "-", "-"] in [line.split() for line in shown.splitlines()]
    assert "Not the" not in shown


def test_train_prints_ours_beside_the_papers(recorded, capsys):
    command_line.main(["train", NAME, "--epochs", "2", "--train-images", "100"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["top-1", "%", "50.0", "55.7", "-5.7"] in lines
    assert ["top-5", "%", "90.4", "80.9", "+9.5"] in lines
    assert " ".join(lines[-1]) == (
        "Not the table's setting: epochs 2 instead of 200; train_images 100 instead of None."
    )


def test_other_images_are_not_compared_with_the_papers(recorded, capsys):
    command_line.main(["train", NAME, "--dataset", "digits"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["top-1", "%", "50.0", "-", "-"] in lines
    assert ["top-5", "%", "90.4", "-", "-"] in lines
    command_line.main(["train", "table1/cifar10/conv", "--dataset", "cifar10-jpeg"])
    shown = capsys.readouterr().out
    assert ["top-1", "%", "50.0", "88.3", "-38.3"] in [line.split() for line in shown.splitlines()]
    assert "Not the table's setting: dataset cifar10-jpeg instead of cifar10." in shown


def test_under_torchrun_only_rank_0_prints(recorded, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert command_line.main(["train", NAME]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epoch 3", "--epochs"),
        ("--learning-rat 1e-3", "--learning-rate"),
        ("--resum", "--resume"),
        ("--epochs three", "invalid int value: 'three'"),
        ("--architecture resnet50", "resnet18"),
        ("--form best", "batched"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(recorded, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        command_line.main(["train", NAME, *words.split()])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not hasattr(recorded, "config")


SIMULATED = "circuit or noisy-circuit or hebbian"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epochs 0", "epochs must be a number of epochs, at least 1; got 0"),
        ("--batch-size 100 --repetitions 3", "batch_size must be a multiple of repetitions=3"),
        ("--threads 0", "threads must be a number of threads, at least 1; got 0"),
        ("--alpha 50", f"--alpha has no use in {NAME}: it needs --every N and --sleep {SIMULATED}"),
        ("--sleep circuit --noise 1", f"--noise has no use in {NAME}: it needs --every N and --sleep noisy-ideal or"),
        ("--sleep circuit --every None", f"--sleep has no use in {NAME}: it needs --every N"),
        ("--crop resized", f"--crop has no use in {NAME}: it needs --dataset imagenet"),
        ("--layers convolutional --keep-first 1", f"--keep-first has no use in {NAME}: it needs --layers locally-"),
        ("--layers convolutional --normalisation batch", f"--normalisation has no use in {NAME}: it needs --layers"),
        ("--sleep circuit --strength 2", "strength must be a positive number below 2; got 2"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_any_work(recorded, capsys, words, message):
    assert command_line.main(["train", NAME, *words.split()]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not hasattr(recorded, "config")


def test_help_has_every_option_with_the_experiments_default(capsys):
    with pytest.raises(SystemExit) as end:
        command_line.main(["train", "sleep/cifar10/lc-ws10-alpha50", "--help"])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    fields = {
        field.name
        for kind in (TrainConfig, LocallyConnected, AdamW, CircuitOptions)
        for field in dataclasses.fields(kind)
    }
    for field in fields - {"network", "optimizer", "phases", "start_from"}:
        assert f"--{field.replace('_', '-')}" in shown
    assert "(default: cifar10)" in shown
    assert "the same command goes on (`train` needs --resume as well)" in shown
    assert "--graphs, --no-graphs" in shown
    assert "ws(n) in the paper; None for never (default: 10)" in shown
    assert "--alpha ALPHA strength of the inhibition (default: 50.0)" in shown


HINT = "(BIOSHARE_TRACEBACK=1 in the environment adds the traceback)"
SENT = """Caught ValueError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 5, in _worker_loop
ValueError: photo.png is damaged
"""


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted("stopped after step 7", signal.SIGINT), 130, "stopped after step 7"),
        (Interrupted("stopped after step 7", signal.SIGTERM), 143, "stopped after step 7"),
        (FileNotFoundError("there is no file"), 1, "error: there is no file"),
        (FloatingPointError("the loss is NaN"), 1, "error: the loss is NaN"),
        (MemoryError(), 1, "error: MemoryError"),
        (OSError("a file\n  of two lines\n"), 1, "error: a file of two lines"),
        (ValueError(SENT), 1, "error: ValueError: photo.png is damaged"),
        (KeyError("mean"), 1, f"error: KeyError: 'mean' {HINT}"),
        (RuntimeError(SENT), 1, f"error: RuntimeError: ValueError: photo.png is damaged {HINT}"),
        (SafetensorError("no space"), 1, f"error: SafetensorError: no space {HINT}"),
        (ImportError("no module named here"), 1, f"error: ImportError: no module named here {HINT}"),
    ],
)
def test_exit_statuses(monkeypatch, capsys, error, status, message):
    def failing(config, folder, **options):
        raise error

    monkeypatch.setattr(train, "fit", failing)
    assert command_line.main(["train", NAME]) == status
    assert capsys.readouterr().err == f"{message}\n"


def test_a_run_whose_time_is_up_ends_with_status_75(monkeypatch, capsys):
    def slow(config, folder, *, seconds, **options):
        assert seconds == 30.0
        raise TimeUpError("stopped when its time was up")

    monkeypatch.setattr(train, "fit", slow)
    with pytest.raises(SystemExit) as end:
        command_line.main(["train", NAME, "--minutes", "0.5"])
    assert end.value.code == 75
    assert capsys.readouterr().err == "stopped when its time was up; the same command with --resume goes on\n"


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate 2 GiB", "DefaultCPUAllocator: can't allocate memory"]
)
def test_too_little_memory_is_one_line_that_names_the_batch_size(monkeypatch, capsys, message):
    def failing(config, folder, **options):
        raise RuntimeError(message)

    monkeypatch.setattr(train, "fit", failing)
    assert command_line.main(["train", NAME]) == 1
    assert capsys.readouterr().err == f"error: batch_size=512 needs more memory than there is: {message}\n"


def test_a_traceback_is_there_for_the_asking(monkeypatch, capsys):
    monkeypatch.setenv("BIOSHARE_TRACEBACK", "1")
    assert command_line.main(["train", "nothing"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("Traceback")
    assert "\nerror: unknown experiment 'nothing'" in message


def test_a_reader_that_has_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bioshare", "list"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert ended.stderr == ""
    assert ended.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --epochs 3 table1/cifar10/conv", "--epochs; options come last: train table1/cifar10/conv ..."),
        ("train", "the following arguments are required: NAME\n"),
        ("sweep", "the following arguments are required: NAME\n"),
        ("table", "the following arguments are required: TABLE\n"),
    ],
)
def test_the_name_comes_first(capsys, words, message):
    with pytest.raises(SystemExit) as end:
        command_line.main(words.split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_fault_of_ours_shows_its_place_for_the_asking(monkeypatch, capsys):
    def failing(config, folder, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(train, "fit", failing)
    monkeypatch.setenv("BIOSHARE_TRACEBACK", "1")
    assert command_line.main(["train", NAME]) == 1
    message = capsys.readouterr().err
    assert ", in failing\n" in message
    assert message.endswith(f"error: RuntimeError: a bug {HINT}\n")


def test_a_real_run_on_digits(tmp_path, capsys):
    words = f"--dataset digits --epochs 1 --batch-size 256 --train-images 300 --to {tmp_path}/run".split()
    name = "table3/cifar10/conv"
    assert command_line.main(["train", name, *words, "--device", "cpu"]) == 0
    first = capsys.readouterr().out
    with xr.open_dataset(tmp_path / "run" / "result.nc", engine="h5netcdf") as result:
        assert ["top-1", "%", f"{result['top1'].item():.1f}", "-", "-"] in [line.split() for line in first.splitlines()]
    assert command_line.main(["train", name, *words]) == 1
    assert "--resume" in capsys.readouterr().err
    assert command_line.main(["train", name, *words, "--resume"]) == 0
    assert capsys.readouterr().out == first
    assert command_line.main(["train", name, *words, "--resume", "--epochs", "2"]) == 0  # a finished run goes on
    assert f"seed 0, epoch 2: {tmp_path}/run" in capsys.readouterr().out
    assert command_line.main(["train", name, *words, "--resume"]) == 1
    assert "epochs was 2 and is now 1. Take another folder (--to)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_first_training_of_a_newcomer_learns(tmp_path):
    words = ["--dataset", "digits", "--epochs", "2", "--to", str(tmp_path), "--device", "cpu"]
    assert command_line.main(["train", "table1/cifar10/lc", *words]) == 0
    assert read_result(tmp_path / "result.nc").top1[-1] > 70


def test_numbers_as_text():
    assert [number(value) for value in (3.14159, -0.04, None, float("nan"))] == ["3.1", "0.0", "-", "-"]
    assert number(0.3, "+.1f") == "+0.3"
    assert mean_and_deviation([]) == "-"
    assert mean_and_deviation([2.0]) == "2.0"
    assert mean_and_deviation([1.0, 3.0]) == "2.0 +- 1.4"
    assert aligned([["a", "b"], ["long", "1.0"], ["c", ""]]) == "a       b\nlong  1.0\nc"
