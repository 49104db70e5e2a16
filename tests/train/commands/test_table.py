import dataclasses
import json
from statistics import fmean

import numpy as np
import pytest
import xarray as xr

from bioshare import __main__ as command_line
from bioshare.bridge import InstantSharing
from bioshare.train.commands import many_runs, table
from bioshare.train.config import Every, ImageData, LocallyConnected
from bioshare.train.experiments import find, matching
from bioshare.train.phases import CircuitOptions, IdealOptions
from bioshare.train.results import MEANINGS, write_result
from bioshare.train.runs import Outcomes
from bioshare.train.stored import config_text

ROWS = ["conv", "lc", "lc-4reps", "lc-8reps", "lc-16reps", "lc-ws1", "lc-ws10", "lc-ws100"]


def accuracy(config):
    """Distinct for every row and seed."""
    every = config.phases[0].n if config.phases else 0
    return (
        70.0 - 5 * isinstance(config.network, LocallyConnected) + config.repetitions / 4 + every / 50 + config.seed / 2
    )


def fit(config, folder, **_):
    top1 = [accuracy(config)] * config.epochs
    values = {name: ("epoch", [0.0] * config.epochs) for name in MEANINGS}
    values |= {"top1": ("epoch", top1), "top5": ("epoch", [20 + x for x in top1])}
    found = xr.Dataset(values, attrs={"config": config_text(config)})
    write_result(folder / "result.nc", found)
    return found


@pytest.fixture(autouse=True)
def trained(train_here):
    return train_here(table, fit)


def lines(shown):
    """The words of every line that begins with a row's name."""
    return {words[0]: words[1:] for words in map(str.split, shown.splitlines()) if words and words[0] in ROWS}


def test_a_table_trains_every_row_and_seed(trained):
    assert command_line.main(["table", "1", "--dataset", "cifar10", "--seeds", "2"]) == 0
    assert [job.name for job in trained] == [f"table1/cifar10/{row}/seed{seed}" for row in ROWS for seed in (0, 1)]
    for job in trained:
        name, seed = job.name.rsplit("/seed", 1)
        assert job.config == dataclasses.replace(find(name).config, seed=int(seed))
        assert str(job.folder).endswith(f"/runs/{job.name}")


def test_some_rows_only(trained, capsys):
    assert command_line.main(["table", "1", "--dataset", "cifar10", "--rows", "lc-ws10", "conv", "--seeds", "1"]) == 0
    assert [job.name for job in trained] == ["table1/cifar10/conv/seed0", "table1/cifar10/lc-ws10/seed0"]
    assert list(lines(capsys.readouterr().out)) == ["conv", "lc-ws10"]
    assert command_line.main(["table", "1", "--dataset", "cifar10", "--rows", "lc-ws11"]) == 1
    assert "rows must be of conv, lc, lc-4reps" in capsys.readouterr().err
    assert len(trained) == 2


def test_ours_stand_beside_the_papers(capsys):
    command_line.main(["table", "1", "--dataset", "cifar10", "--seeds", "2", "--epochs", "3"])
    shown = capsys.readouterr().out
    found = lines(shown)
    assert list(found) == ROWS
    assert found["conv"] == ["2", "70.5", "+-", "0.4", "88.3", "-", "-"]
    assert found["lc-ws100"] == ["2", "67.5", "+-", "0.4", "82.0", "-3.0", "+-", "0.0", "-6.3"]
    assert "Not the table's setting: epochs 3 instead of 200." in shown


def test_top5_has_its_own_columns(capsys):
    command_line.main(["table", "1", "--dataset", "cifar100", "--seeds", "1", "--epochs", "1"])
    numbers = " ".join(lines(capsys.readouterr().out)["lc-ws10"])
    assert numbers == "1 65.5 55.7 -4.8 -3.6 85.5 80.9 -4.8 -4.0"


def test_ranges(capsys):
    command_line.main(["table", "6", "--dataset", "tinyimagenet", "--seeds", "3", "--epochs", "1"])
    assert lines(capsys.readouterr().out)["lc-ws1"] == ["3", "1.0", "1.2", "1.0", "2.0"]


SLEEP = ["table", "sleep", "--seeds", "1", "--epochs", "1"]


def test_the_table_of_sleeps_trains_what_table_1_lacks(trained, capsys):
    rows = ["conv", "lc-ws10", "lc-ws10-alpha10"]
    command_line.main(["table", "1", "--dataset", "cifar10", "--rows", *rows[:2], "--seeds", "1", "--epochs", "1"])
    del trained[:]
    capsys.readouterr()
    assert command_line.main([*SLEEP, "--rows", *rows]) == 0
    assert [job.name for job in trained] == ["sleep/cifar10/lc-ws10-alpha10/seed0"]
    shown = capsys.readouterr().out
    assert shown.startswith(
        "Table sleep, cifar10. The paper's: accuracy, padding 4, 5 runs (Table 1; simulated sleep is not in the paper)."
    )
    numbers = [line.split() for line in shown.splitlines() if line.startswith(("conv", "lc"))]
    assert numbers == [
        ["conv", "1", "70.2", "88.3", "-", "-"],
        ["lc-ws10", "1", "65.5", "85.1", "-4.8", "-3.2"],
        ["lc-ws10-alpha10", "1", "65.5", "-", "-4.8", "-"],
    ]
    assert xr.load_dataset("runs/sleep-cifar10-conv-lc-ws10-lc-ws10-alpha10.nc").attrs["table"] == "sleep"


def test_what_a_row_has_no_use_for_changes_the_others_only(trained, capsys):
    """A convolution doesn't sleep, and instant sharing has no strength."""
    command_line.main([*SLEEP, "--pool", "8", "--strength", "0.2", "--moments", "reset"])
    found = {job.name.split("/")[2]: job.config for job in trained}
    assert found["conv"].phases == found["lc"].phases == ()
    assert found["lc-ws10"].phases == (Every(10, InstantSharing(moments="reset")),)
    options = {"pool": 8, "strength": 0.2, "moments": "reset"}
    assert found["lc-ws10-alpha10"].phases == (Every(10, CircuitOptions(**options).phase(0)),)
    assert found["lc-ws1-ideal"].phases == (Every(1, IdealOptions(**options).phase(0)),)
    assert len(found) == 31 - 12  # without noise
    assert found["conv"] == dataclasses.replace(find("sleep/cifar10/conv").config, epochs=1)
    shown = capsys.readouterr().out
    for change in ("moments reset instead of keep", "strength 0.2 instead of 0.5", "pool 8 instead of None"):
        assert change in shown


def test_a_row_with_noise_has_no_pool(trained):
    command_line.main([*SLEEP, "--rows", "lc-ws10-ideal", "lc-ws10-ideal-noise", "--pool", "8", "--strength", "0.2"])
    phases = [job.config.phases[0].phase for job in trained]
    assert [(phase.pool, phase.rule.strength) for phase in phases] == [(8, 0.2), (None, 0.2)]


def test_rows_that_share_may_share_at_another_interval(trained):
    command_line.main(["table", "sleep", "--rows", "lc", "lc-ws10", "--every", "20", "--seeds", "1", "--epochs", "1"])
    assert [job.config.phases for job in trained] == [(), (Every(20, InstantSharing()),)]


def test_every_seed_has_a_pool_of_its_own(trained):
    command_line.main(["table", "sleep", "--rows", "lc-ws10-ideal", "--seeds", "2", "--epochs", "1", "--pool", "8"])
    assert [job.config.phases[0].phase for job in trained] == [IdealOptions(pool=8).phase(seed) for seed in range(2)]


def test_what_no_row_can_have_is_refused(trained, capsys):
    assert command_line.main([*SLEEP, "--rows", "lc-ws10-ideal-noise", "--moments", "share"]) == 1
    assert (
        'sleep/cifar10/lc-ws10-ideal-noise: moments="share" needs a sleep that is one linear map'
        in capsys.readouterr().err
    )
    assert trained == []


def test_only_what_is_missing_is_trained(trained, capsys):
    words = ["table", "1", "--dataset", "cifar10", "--epochs", "1"]
    command_line.main([*words, "--seeds", "1"])
    assert len(trained) == 8
    command_line.main([*words, "--seeds", "2"])
    assert {job.config.seed for job in trained[8:]} == {1}
    capsys.readouterr()
    command_line.main(["table", "4", *words[2:], "--seeds", "2"])  # the same runs
    assert len(trained) == 16
    assert lines(capsys.readouterr().out)["lc"][0] == "2"


def test_show_trains_nothing(trained, capsys, tmp_path):
    command_line.main(["table", "1", "--show"])
    shown = capsys.readouterr().out
    assert trained == []
    assert [line.split(".")[0] for line in shown.splitlines() if line.startswith("Table")] == [
        "Table 1, cifar10",
        "Table 1, cifar100",
        "Table 1, tinyimagenet",
    ]
    assert lines(shown)["conv"][0] == "0"
    assert list(tmp_path.iterdir()) == []


def test_show_prints_what_is_there_in_whatever_setting(trained, capsys, tmp_path):
    words = ["table", "1", "--dataset", "cifar10", "--seeds", "1"]
    command_line.main([*words, "--epochs", "2", "--milestones", "0.5", "--flip"])
    before = capsys.readouterr().out
    del trained[:]
    assert command_line.main([*words, "--show"]) == 0
    shown = capsys.readouterr().out
    assert shown == before
    assert lines(shown)["conv"][0] == "1"
    changed = "milestones (0.5,) instead of (0.5, 0.75); epochs 2 instead of 200; flip True instead of None."
    assert changed in shown
    assert trained == []


def test_a_data_set_that_is_missing_is_told_once_and_nothing_starts(trained, capsys, monkeypatch):
    from bioshare.train.data import load

    monkeypatch.setattr(many_runs, "load", load)
    assert command_line.main(["table", "1", "--data", "nowhere"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: there is no ")
    assert message.count("\n") == 1
    assert trained == []


def test_other_images_are_not_compared_with_the_papers(capsys, tmp_path):
    words = ["table", "1", "--columns", "cifar100", "--dataset", "digits", "--epochs", "1", "--seeds", "1"]
    command_line.main(words)
    assert lines(capsys.readouterr().out)["lc-ws10"] == ["1", "65.5", "-", "-4.8", "-", "85.5", "-", "-4.8", "-"]
    with xr.open_dataset(tmp_path / "runs" / "table1-cifar100.nc", engine="h5netcdf") as dataset:
        assert dataset["paper_top1"].sel(row="lc-ws10").item() == 55.7


def test_cells_of_one_dataset_images_of_another(trained, capsys):
    words = "table 3 --dataset cifar10-jpeg --epochs 2 --to there --seeds 1"
    command_line.main(words.split())
    assert {job.config.dataset for job in trained} == {ImageData("cifar10-jpeg")}
    assert {job.config.optimizer.learning_rate for job in trained} == {1e-2, 1e-3, 5e-4, 1e-4}
    shown = capsys.readouterr().out
    assert "dataset cifar10-jpeg instead of cifar10; epochs 2 instead of 200" in shown
    assert lines(shown)["conv"][2] != "-"  # the paper's images, after all


def test_everything_lands_in_one_dataset(tmp_path):
    command_line.main(["table", "1", "--dataset", "cifar10", "--seeds", "2", "--epochs", "3"])
    with xr.open_dataset(tmp_path / "runs" / "table1-cifar10.nc", engine="h5netcdf") as dataset:
        assert dict(dataset["top1"].sizes) == {"row": 8, "seed": 2, "epoch": 3}
        assert dataset["row"].values.tolist() == ROWS
        means = [fmean(accuracy(one.config) + seed / 2 for seed in (0, 1)) for one in matching("table1/cifar10")]
        np.testing.assert_allclose(dataset["top1"].isel(epoch=-1).mean("seed"), means)
        assert dataset["paper_top1_range"].sel(row="lc-8reps").item() == 0.3
        shared = json.loads(dataset.attrs["shared_config"])
        assert shared["epochs"] == 3
        assert "optimizer" not in shared  # rows differ in it


def test_runs_of_another_setting_are_refused_before_any_training(trained, capsys):
    words = ["table", "1", "--dataset", "cifar10", "--seeds", "1"]
    command_line.main([*words, "--epochs", "1"])
    del trained[:]
    assert command_line.main([*words, "--epochs", "2"]) == 1
    assert "epochs was 1 and is now 2. Take another folder (--to)" in capsys.readouterr().err
    assert trained == []


def test_a_failed_run_is_named_and_the_others_are_shown(monkeypatch, capsys):
    def run_all(jobs, run, **_):
        first, *others = jobs
        return Outcomes({job.name: run(job.config, job.folder) for job in others}, {first.name: "OSError: disk"})

    monkeypatch.setattr(many_runs, "run_all", run_all)
    with pytest.raises(SystemExit) as end:
        command_line.main(["table", "1", "--dataset", "cifar10", "--seeds", "1", "--epochs", "1"])
    assert end.value.code == 1
    shown = capsys.readouterr()
    assert shown.err == "failed, as shown above: table1/cifar10/conv/seed0\n"
    assert lines(shown.out)["conv"] == ["0", "-", "88.3", "-", "-"]
    assert lines(shown.out)["lc"] == ["1", "65.2", "80.9", "-", "-7.4"]


COLUMN = ["table", "1", "--dataset", "cifar10", "--rows", "conv", "lc", "--seeds", "2", "--epochs", "1"]


def test_a_table_in_slices(monkeypatch, capsys, tmp_path):
    """The first run finishes, the second begins, and the time is up."""
    asked = []

    def run_all(jobs, run, **options):
        asked.append(options)
        (jobs[1].folder).mkdir(parents=True)
        (jobs[1].folder / "checkpoint.safetensors").touch()
        return Outcomes({jobs[0].name: run(jobs[0].config, jobs[0].folder)}, time_up=True)

    monkeypatch.setattr(many_runs, "run_all", run_all)
    with pytest.raises(SystemExit) as end:
        command_line.main([*COLUMN, "--minutes", "1.5"])
    assert end.value.code == 75
    assert asked[0]["seconds"] == 90.0
    shown = capsys.readouterr()
    counts = "1 runs finished, 1 begun, 2 missing"
    assert shown.err == f"the time is up after 1.5 min: {counts}; the same command goes on\n"
    assert lines(shown.out)["conv"][0] == "1"
    assert xr.load_dataset(tmp_path / "runs/table1-cifar10-conv-lc.nc")["top1"].notnull().sum() == 1


def test_checkpoints_of_finished_runs_can_be_discarded(monkeypatch, tmp_path):
    def run_all(jobs, run, done, **_):
        for job in jobs:
            run(job.config, job.folder)
            (job.folder / "checkpoint.safetensors").touch()
        done(jobs[0])
        return Outcomes()

    monkeypatch.setattr(many_runs, "run_all", run_all)
    for discard in ([], ["--discard-checkpoints"]):
        home = ["--to", str(tmp_path / f"kept{len(discard)}")]
        command_line.main([*COLUMN, "--seeds", "1", *home, *discard])
        left = [path.parent.parent.name for path in (tmp_path / home[1]).rglob("checkpoint.safetensors")]
        assert sorted(left) == (["lc"] if discard else ["conv", "lc"])


def test_checkpoints_of_runs_that_finished_earlier_are_discarded_too(monkeypatch, tmp_path):
    command_line.main([*COLUMN, "--seeds", "1"])
    for row in ("conv", "lc"):
        (tmp_path / f"runs/table1/cifar10/{row}/seed0/checkpoint.safetensors").touch()
    (tmp_path / "runs/table1/cifar10/conv/seed1").mkdir()
    (tmp_path / "runs/table1/cifar10/conv/seed1/checkpoint.safetensors").touch()
    left = lambda: sorted(path.parent.name for path in tmp_path.rglob("checkpoint.safetensors"))
    monkeypatch.setattr(many_runs, "run_all", lambda *jobs, **_: Outcomes())
    command_line.main([*COLUMN, "--show", "--discard-checkpoints"])
    assert left() == ["seed0", "seed0", "seed1"]
    command_line.main([*COLUMN, "--discard-checkpoints"])
    assert left() == ["seed1"]


def test_a_failure_is_told_with_the_time(monkeypatch, capsys):
    def run_all(jobs, run, **options):
        return Outcomes({jobs[0].name: run(jobs[0].config, jobs[0].folder)}, {jobs[1].name: "OSError: disk"}, True)

    monkeypatch.setattr(many_runs, "run_all", run_all)
    with pytest.raises(SystemExit) as end:
        command_line.main([*COLUMN, "--minutes", "9"])
    assert end.value.code == 75
    message = "1 runs finished, 1 failed, 0 begun, 2 missing; the same command goes on, and tries again what failed"
    assert capsys.readouterr().err.splitlines() == [
        "failed, as shown above: table1/cifar10/conv/seed1",
        f"the time is up after 9 min: {message}",
    ]


def test_how_to_compute_is_handed_on(monkeypatch):
    asked = []
    monkeypatch.setattr(many_runs, "run_all", lambda jobs, run, **how: asked.append(how) or Outcomes())
    command_line.main([*COLUMN, "--no-graphs", "--form", "batched", "--workers", "2", "--checkpoint-every", "60"])
    assert [asked[0][name] for name in ("graphs", "form", "checkpoint_every")] == [False, "batched", 60.0]


def test_what_the_runs_cost_stands_below_the_table(monkeypatch, capsys, tmp_path):
    def timed(config, folder, **_):
        facts = {"device": "NVIDIA H200", "machine": "host", "precision_used": "float16", "torch": "2.13.0"}
        found = fit(config, folder).assign(seconds=("epoch", [90.0])).assign_attrs(facts)
        if config.seed:  # the other one is older than the tests' clock
            found = found.assign(test_seconds=("epoch", [30.0]))
        write_result(folder / "result.nc", found)
        return found

    monkeypatch.setattr(table, "fit", timed)
    command_line.main(COLUMN)
    line = "Cost: 4 runs, 7.0 min of training and tests; NVIDIA H200 (host), float16, torch 2.13.0."
    assert line in capsys.readouterr().out.splitlines()
    assert xr.load_dataset(tmp_path / "runs/table1-cifar10-conv-lc.nc").attrs["costs"] == line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("9", "invalid choice: '9'"),
        ("13", "invalid choice: '13'"),
        ("1 --epoch 3", "--epochs"),
        ("1 --sleep ideal", "--sleep"),
        ("1 --seed 3", "--seeds"),
        ("sleep --alpha 3", "--alpha"),
        ("sleep --noise 3", "--noise"),
    ],
)
def test_what_makes_no_sense_is_refused(trained, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        command_line.main(["table", *words.split()])
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert trained == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 0", "seeds must be a number of seeds, at least 1; got 0"),
        ("--workers 0", "workers must be a number of runs, at least 1; got 0"),
        ("--minutes 0", "minutes must be a time above 0; got 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(trained, capsys, words, message):
    assert command_line.main(["table", "1", *words.split()]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert trained == []


def test_a_dataset_that_the_table_lacks(trained, capsys):
    assert command_line.main(["table", "2", "--columns", "cifar10"]) == 1
    assert "columns must be one of Table 2's, imagenet; got 'cifar10'" in capsys.readouterr().err
    assert trained == []


def test_a_change_without_a_use_in_any_row_is_refused(capsys):
    assert command_line.main(["table", "sleep", "--rows", "conv", "lc", "--pool", "8"]) == 1
    assert (
        "--pool has no use in any of these rows: conv, lc: it needs --every N and --sleep ideal or circuit"
        in capsys.readouterr().err
    )


def test_rows_with_noise_are_trained_only_where_they_are_named(tmp_path, capsys):
    assert command_line.main(["table", "sleep", "--show", "--to", str(tmp_path)]) == 0
    assert "noise" not in capsys.readouterr().out
    assert command_line.main(["table", "sleep", "--show", "--rows", "lc-ws10-ideal-noise", "--to", str(tmp_path)]) == 0
    assert "lc-ws10-ideal-noise" in capsys.readouterr().out


def test_a_table_of_many_rows_by_name_has_a_file_whose_name_fits(tmp_path):
    rows = [row.row for row in matching("realism/*")]
    words = ["table", "realism", "--dataset", "cifar10-16", "--seeds", "1", "--epochs", "1", "--rows"]
    assert command_line.main([*words, *rows]) == command_line.main([*words, *rows[1:]]) == 0
    files = sorted((tmp_path / "runs").glob("*.nc"), key=lambda path: xr.load_dataset(path).sizes["row"])
    assert [list(xr.load_dataset(path).row.values) for path in files] == [rows[1:], rows]
    assert all(len(path.name.encode()) <= 240 for path in files)
    assert files[1].name.startswith(f"realism-cifar10-16-{len(rows)}-rows-")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("1 --dataset cifar100", "table1/cifar100"),  # a data set of the table
        ("1 --dataset cifar10-jpeg", "table1/cifar10"),  # the same images
        ("1 --dataset digits", "table1/cifar10"),  # other images: the first columns
        ("1 --dataset digits --columns tinyimagenet", "table1/tinyimagenet"),
        ("small --dataset cifar10-jpeg-16", "small/cifar10-16"),
    ],
)
def test_the_images_choose_the_columns_of_a_table(trained, words, rows):
    assert command_line.main(["table", *words.split(), "--rows", "conv", "--seeds", "1", "--epochs", "1"]) == 0
    assert [job.name for job in trained] == [f"{rows}/conv/seed0"]
    assert trained[0].config.dataset_name == words.split()[2]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("small", "accuracy, 16 x 16, 5 runs (Table 1 in miniature)"),
        ("controls", "accuracy, 16 x 16, 3 runs (what else could help)"),
    ],
)
def test_a_table_in_miniature_names_the_setting_of_the_papers_numbers(name, title):
    shown = table.table_report(matching(f"{name}/*"), {}).splitlines()[0]
    assert shown.startswith(f"Table {name}, cifar10-16. {title}. The paper's: Table 1, 32 x 32, 50,000 images. Ours: ")
