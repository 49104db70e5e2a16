import dataclasses
import subprocess
import sys
from collections import Counter

import pytest

from bioshare.bridge import InstantSharing
from bioshare.train.commands.sweep import grid_points, grid_search, searched
from bioshare.train.config import AdamW, Every, LocallyConnected, TrainConfig
from bioshare.train.experiments import MODULES, TABLES, Paper, find, matching
from bioshare.train.phases import CircuitOptions, IdealOptions, NoisyCircuitOptions, NoisyIdealOptions
from bioshare.train.tables import feedback, miniature, paper, patches, relaxed

OWN = miniature.TABLES | feedback.TABLES | relaxed.TABLES | patches.TABLES
EVERY_TABLE = pytest.mark.parametrize("table", range(1, 13))


def test_every_table_has_all_its_rows():
    rows = Counter(experiment.table for experiment in matching())
    without, with_repetitions = 3 * 5, 3 * 8  # three datasets
    assert dict(rows) == {
        **dict.fromkeys((1, 4, 5, 7, 8, 10, 11), with_repetitions),
        **dict.fromkeys((3, 6, 9), without),
        **{2: 5, 12: 9, "sleep": 31},
        **{name: sum(map(len, columns)) for name, columns in OWN.items()},
    }
    assert rows["patches"] == 2 * 16
    assert list(TABLES) == [*range(1, 13), "sleep", *OWN] == [table for tables in MODULES.values() for table in tables]


@EVERY_TABLE
def test_a_printed_difference_is_that_of_the_printed_accuracies(table):
    """The paper rounds accuracies and differences on their own: they may disagree by a last digit."""
    for experiment in matching(f"table{table}"):
        conv = find(experiment.name.removesuffix(experiment.row) + "conv")
        for quantity in ("top1", "top5"):
            ours, theirs = (getattr(one.paper, quantity) for one in (experiment, conv))
            printed = getattr(experiment.paper, f"{quantity}_diff")
            assert (printed is None) == (ours is None or experiment is conv), experiment.name
            if printed is not None:
                assert printed == pytest.approx(ours - theirs, abs=0.1 + 1e-9), experiment.name


@EVERY_TABLE
def test_numbers_that_a_table_has_are_all_there(table):
    for experiment in matching(f"table{table}"):
        one_run, paper = experiment.config.dataset_name == "imagenet", experiment.paper
        assert (paper.top5 is None) == (experiment.config.dataset_name == "cifar10"), experiment.name
        assert (paper.top1_range is None) == one_run, experiment.name
        assert (paper.top5_range is None) == (one_run or paper.top5 is None), experiment.name
        assert paper.top5 is None or 0 < paper.top1 < paper.top5 < 100, experiment.name


@EVERY_TABLE
def test_the_chosen_hyperparameters_lie_on_the_grid_of_the_appendix(table):
    for experiment in matching(f"table{table}"):
        points = grid_points(experiment)
        assert experiment.config.optimizer in points, experiment.name
        assert len(points) == len(set(points))


def test_spot_values_of_the_tables():
    assert find("table1/cifar10/lc-ws10").paper == Paper(top1=85.1, top1_diff=-3.2, top1_range=0.6)
    expected = Paper(top1=24.9, top5=49.1, top1_diff=-1.2, top5_diff=-2.1, top1_range=1.2, top5_range=2.0)
    assert find("table3/tinyimagenet/lc-ws1").paper == expected
    expected = Paper(top1=55.6, top5=78.4, top1_diff=-4.0, top5_diff=-7.0, top1_range=0.9, top5_range=0.6)
    assert find("table8/cifar100/lc-16reps").paper == expected
    expected = Paper(top1=63.6, top5=84.5, top1_diff=0.1, top5_diff=-0.2)
    assert find("table12/imagenet/lc-ws1/1st-layer-conv").paper == expected


@pytest.mark.parametrize(
    ("name", "learning_rate", "weight_decay"),
    [
        ("table3/cifar10/lc-ws100", 1e-4, 1e-2),
        ("table3/cifar100/lc-ws10", 5e-4, 1e-4),
        ("table1/cifar10/conv", 1e-2, 1e-4),
        ("table1/tinyimagenet/lc-ws10", 1e-3, 1e-4),
        ("table5/tinyimagenet/conv", 5e-3, 1e-2),
        ("table5/cifar10/lc-16reps", 5e-4, 1e-4),
        ("table2/imagenet/lc-ws1", 1e-3, 1e-2),
        ("table12/imagenet/lc-ws1/1st-layer-conv", 5e-4, 1e-2),
    ],
)
def test_spot_values_of_the_hyperparameters(name, learning_rate, weight_decay):
    assert find(name).config.optimizer == AdamW(learning_rate, weight_decay)


def test_a_row_says_how_it_is_trained():
    assert find("table5/cifar100/lc-4reps").config == TrainConfig(
        dataset="cifar100",
        network=LocallyConnected("resnet20"),
        repetitions=4,
        padding=8,
        epochs=200,
        batch_size=512,
        optimizer=AdamW(1e-3, 1e-4),
    )
    assert find("table12/imagenet/lc-ws100/1st-layer-conv").config == TrainConfig(
        dataset="imagenet",
        network=LocallyConnected("resnet18", keep_first=1),
        phases=(Every(100, InstantSharing()),),
        padding=0,
        epochs=200,
        batch_size=256,
        optimizer=AdamW(5e-4, 1e-2),
    )


def test_tables_that_show_the_same_runs_have_the_same_configurations():
    for many, home in ({4: 1, 6: 3, 7: 1, 8: 5, 9: 3, 10: 1, 11: 5}).items():
        assert TABLES[many].setting == TABLES[home].setting
        for one in matching(f"table{many}/*"):
            first = find(one.name.replace(f"table{many}/", f"table{home}/"))
            assert (one.config, one.paper, one.home) == (first.config, first.paper, first.name)
    shared = [one.home for one in matching("table12/*") if one.home.startswith("table2/")]
    assert shared == [one.name for one in matching("table2")]


def test_distinct_homes_are_distinct_runs():
    homes = {one.home: one.config for one in matching()}
    named = lambda module: {row for columns in module.TABLES.values() for rows in columns for row in rows}
    columns = [rows for module in (patches, relaxed) for columns in module.TABLES.values() for rows in columns]
    others = len(named(miniature)) + len(named(feedback)) + sum(map(len, columns))
    assert len(homes) == len(set(homes.values())) == 15 + 24 + 24 + 9 + 26 + others


def test_a_row_of_one_name_is_the_same_run_in_all_tables_in_miniature():
    for table in miniature.TABLES:
        for one in matching(f"{table}/*"):
            assert find(one.home).config == one.config, one.name
            assert set(TABLES[table].references) <= {other.row for other in matching(f"{table}/*")}


def test_a_miniature_takes_learning_rate_and_weight_decay_from_the_network_it_changes():
    for one in map(find, ("small/cifar10-16/lc-ws10-alpha10", "realism/cifar10-16/lc-ws10-keep")):
        assert one.config.optimizer == miniature.OPTIMIZERS["lc-ws10"]
        assert dataclasses.replace(one.config, phases=()) == find("small/cifar10-16/lc-ws10").setting
    late = find("early/cifar10-16/lc-ws10-late").config
    assert late.phases == (Every(10, InstantSharing(), "run", 0.5),)


def test_the_table_of_sleeps_has_the_papers_rows_and_what_sleeps_at_their_intervals():
    sleeps = [f"-{circuit}{noise}" for noise in ("", "-noise") for circuit in ("alpha5", "alpha10", "alpha50", "ideal")]
    unscaled = ["-alpha10-unscaled", "-alpha50-unscaled"]
    rows = {"lc-ws1": sleeps, "lc-ws10": sleeps + unscaled, "lc-ws100": sleeps}
    names = ["conv", "lc", *(row + sleep for row, found in rows.items() for sleep in ["", *found])]
    assert [one.name for one in matching("sleep")] == [f"sleep/cifar10/{name}" for name in names]


@pytest.mark.parametrize("row", ["conv", "lc", "lc-ws1", "lc-ws10", "lc-ws100"])
def test_without_simulated_sleep_the_table_of_sleeps_has_the_runs_of_table_1(row):
    one, first = (find(f"{table}/cifar10/{row}") for table in ("sleep", "table1"))
    assert (one.config, one.paper, one.home, one.table) == (first.config, first.paper, first.name, "sleep")


@pytest.mark.parametrize(
    ("row", "every", "sleep"),
    [
        ("lc-ws1-ideal", 1, IdealOptions()),
        ("lc-ws10-alpha5", 10, CircuitOptions(alpha=5.0)),
        ("lc-ws10-alpha50-unscaled", 10, CircuitOptions(alpha=50.0, rescale=False)),
        ("lc-ws10-ideal-noise", 10, NoisyIdealOptions(noise=0.01)),
        ("lc-ws100-alpha10-noise", 100, NoisyCircuitOptions(alpha=10.0, noise=0.01)),
    ],
)
def test_a_row_with_simulated_sleep_differs_from_instant_sharing_in_its_sleep_alone(row, every, sleep):
    one, phases = find(f"sleep/cifar10/{row}"), (Every(every, sleep.phase(0)),)
    assert one.config == dataclasses.replace(find(f"table1/cifar10/lc-ws{every}").config, phases=phases)
    assert (one.paper, one.home) == (Paper(), one.name)


@pytest.mark.parametrize(
    ("name", "points", "epochs", "drops"),
    [
        ("table1/cifar10/conv", 8, 200, [100, 150]),
        ("table3/cifar100/lc-ws10", 8, 200, [100, 150]),
        ("table5/tinyimagenet/conv", 6, 50, [25, 37]),
        ("table1/tinyimagenet/lc", 4, 50, [25, 37]),
        ("table2/imagenet/conv", 6, 20, [10, 15]),
        ("table2/imagenet/lc-ws1", 4, 20, [10, 15]),
        ("table12/imagenet/lc/1st-layer-conv", 5, 20, [10, 15]),
        ("small/cifar10-16/conv", 10, 15, [7.5, 11.25]),
        ("small/cifar10-16/lc-ws1", 10, 15, [7.5, 11.25]),
        ("feedback/cifar10-16/conv", 4, 6, [3, 4.5]),
        ("night/cifar10-16/lc-asleep-mirror", 4, 6, [3, 4.5]),
        ("night/cifar10-16/lc-kp", 6, 6, [3, 4.5]),
        ("patches/cifar10-16/vit", 7, 10, [5, 7.5]),
        ("patches/digits/mixer-ws10", 7, 10, [5, 7.5]),
    ],
)
def test_the_grids_of_the_appendix(name, points, epochs, drops):
    assert len(grid_points(find(name))) == points
    config = searched(find(name)).config
    assert config.validation
    assert config.epochs == epochs
    assert [milestone * config.epochs for milestone in config.milestones] == drops  # exactly, no last-digit error
    search = grid_search(find(name))
    assert len(search.learning_rates) * len(search.weight_decays) - len(search.skipped) == points


def test_an_unknown_name_is_refused_with_the_nearest_ones():
    with pytest.raises(ValueError, match=r"'table1/cifar10/lcws10'; near it: table1/cifar10/lc-ws10"):
        find("table1/cifar10/lcws10")
    with pytest.raises(ValueError, match=r"unknown experiment 'xyz'\. "):
        find("xyz")


def test_patterns():
    names = lambda pattern: [one.name for one in matching(pattern)]
    assert names("table2") == names("table2/") == names("table2/*")
    assert names("*12*/lc-ws1*conv") == [f"table12/imagenet/lc-ws{n}/1st-layer-conv" for n in (1, 10, 100)]
    assert names("table1/cifar10") == [f"table1/cifar10/{row}" for row in _rows("table1", "cifar10")]
    with pytest.raises(
        ValueError, match=r"no experiment matches 'table13/cifar10/conv'; near it: .*table1/cifar10/conv"
    ):
        matching("table13/cifar10/conv")


def _rows(table, dataset):
    return [one.row for one in matching() if one.name.startswith(f"{table}/{dataset}/")]


def test_a_printed_table_is_read_and_a_short_row_refused():
    table = "a        b\ntop1 x   top1\n{}\n"
    assert paper.printed_numbers(table.format("conv 1 -  2")) == {
        "a": {"conv": {"top1": 1.0}},
        "b": {"conv": {"top1": 2.0}},
    }
    with pytest.raises(ValueError, match="shorter"):
        paper.printed_numbers(table.format("conv 1 -"))


@pytest.mark.parametrize(
    ("number", "count", "total"),
    [
        (1, 75, 2331.7),
        (2, 18, 623.6),
        (3, 45, 1153.7),
        (5, 75, 2324.4),
        (6, 25, 28.3),
        (7, 40, 32.2),
        (8, 40, 32.2),
        (9, 30, 0.1441),
        (10, 48, 0.2102),
        (11, 48, 0.181),
        (12, 34, 1151.4),
    ],
)
def test_control_sums(number, count, total):
    """Summed from the text of the paper, not from our tables."""
    printed = paper.printed_numbers(getattr(paper, f"TABLE_{number}"))
    numbers = [x for rows in printed.values() for row in rows.values() for x in row.values()]
    assert len(numbers) == count
    assert sum(numbers) == pytest.approx(total, abs=1e-6)


def test_a_row_of_a_table_needs_no_other_tables():
    code = """
import sys
from bioshare.train.experiments import find, matching
for search in (lambda: find("table1/cifar10/lc-ws10"), lambda: matching("*/digits/*")):
    search()
    print(*(name.rpartition(".")[2] for name in sys.modules if name.startswith("bioshare.train.tables.")))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [{*line.split()} for line in run.stdout.splitlines()] == [{"rows", "paper"}, {"rows", *MODULES}]
