"""Tables 1 to 12 of Pogodin et al. (2021), and "sleep", which has networks whose sleep is simulated beside Table 1's.

The numbers are in the printed layout, to be compared line by line. The first line names the datasets, the second the
columns, in per cent: accuracy (mean over 5 runs, on ImageNet 1), printed difference to conv, and range (maximum minus
minimum over the 5 runs). A dash is a dash of the paper.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from bioshare.train.config import AdamW, Convolutional, LocallyConnected, TrainConfig
from bioshare.train.phases import CircuitOptions, IdealOptions, NoisyCircuitOptions, NoisyIdealOptions, PhaseOptions
from bioshare.train.tables.rows import Paper, Row, Tables

# Padding 4. The appendix prints it again as Table 4.
TABLE_1 = """
          cifar10         cifar100                         tinyimagenet
          top1 top1_diff  top1 top1_diff  top5 top5_diff   top1 top1_diff  top5 top5_diff
conv      88.3   -        59.2   -        84.9   -         38.6   -        65.1   -
lc        80.9  -7.4      49.8  -9.4      75.5  -9.4       29.6  -9.0      52.7 -12.4
lc-4reps  82.9  -5.4      52.1  -7.1      76.4  -8.5       31.9  -6.7      54.9 -10.2
lc-8reps  83.8  -4.5      54.3  -5.0      77.9  -7.0       33.0  -5.6      55.6  -9.5
lc-16reps 85.0  -3.3      55.9  -3.3      78.8  -6.1       34.0  -4.6      56.2  -8.8
lc-ws1    87.4  -0.8      58.7  -0.5      83.4  -1.6       41.6   3.0      66.1   1.1
lc-ws10   85.1  -3.2      55.7  -3.6      80.9  -4.0       37.4  -1.2      61.8  -3.2
lc-ws100  82.0  -6.3      52.8  -6.4      80.1  -4.8       37.1  -1.5      62.8  -2.3
"""

TABLE_2 = """
                        imagenet
                        top1 top1_diff  top5 top5_diff
conv                    63.5   -        84.7   -
lc                      46.7 -16.8      70.0 -14.7
lc-ws1                  61.7  -1.8      83.1  -1.6
lc-ws10                 59.3  -4.2      81.1  -3.6
lc-ws100                54.5  -9.0      77.7  -7.0
"""

# Padding 0.
TABLE_3 = """
          cifar10         cifar100                         tinyimagenet
          top1 top1_diff  top1 top1_diff  top5 top5_diff   top1 top1_diff  top5 top5_diff
conv      84.1   -        49.5   -        78.2   -         26.0   -        51.2   -
lc        67.2 -16.8      34.9 -14.6      62.2 -16.0       12.0 -14.1      30.4 -20.7
lc-ws1    74.8  -9.3      41.8  -7.7      70.1  -8.1       24.9  -1.2      49.1  -2.1
lc-ws10   75.9  -8.1      44.4  -5.1      72.0  -6.2       28.1   2.0      52.5   1.3
lc-ws100  75.4  -8.6      43.4  -6.1      71.9  -6.3       27.4   1.3      51.9   0.8
"""

# Padding 8.
TABLE_5 = """
          cifar10         cifar100                         tinyimagenet
          top1 top1_diff  top1 top1_diff  top5 top5_diff   top1 top1_diff  top5 top5_diff
conv      88.7   -        59.6   -        85.4   -         42.6   -        68.7   -
lc        80.7  -8.0      47.7 -11.8      74.8 -10.6       31.9 -10.7      55.4 -13.3
lc-4reps  82.8  -6.0      50.6  -9.0      76.2  -9.2       35.5  -7.1      58.6 -10.1
lc-8reps  83.6  -5.1      53.0  -6.6      77.4  -8.0       35.8  -6.7      59.0  -9.7
lc-16reps 85.0  -3.8      55.6  -4.0      78.4  -7.0       37.9  -4.7      60.3  -8.4
lc-ws1    87.8  -0.9      59.2  -0.4      84.0  -1.4       43.6   1.0      67.9  -0.9
lc-ws10   84.3  -4.5      53.7  -5.8      80.4  -5.0       39.6  -2.9      64.5  -4.3
lc-ws100  79.5  -9.3      50.0  -9.6      78.6  -6.8       39.2  -3.4      64.8  -3.9
"""

# Padding 0.
TABLE_6 = """
          cifar10     cifar100                tinyimagenet
          top1_range  top1_range  top5_range  top1_range  top5_range
conv      0.5         1.0         1.7         1.0         0.4
lc        0.4         1.6         1.5         1.0         1.7
lc-ws1    0.5         1.3         1.3         1.2         2.0
lc-ws10   0.8         1.0         0.7         1.8         2.1
lc-ws100  0.9         0.7         0.9         1.0         1.3
"""

# Padding 4.
TABLE_7 = """
          cifar10     cifar100                tinyimagenet
          top1_range  top1_range  top5_range  top1_range  top5_range
conv      0.7         1.5         0.2         1.2         1.1
lc        0.8         1.1         0.4         0.7         0.8
lc-4reps  0.8         1.3         0.8         0.5         0.8
lc-8reps  0.3         1.4         1.3         0.7         1.2
lc-16reps 0.7         0.7         0.6         0.9         0.5
lc-ws1    0.5         1.1         0.9         0.9         0.6
lc-ws10   0.6         1.1         0.3         0.6         1.2
lc-ws100  0.7         1.0         0.6         0.2         0.9
"""

# Padding 8.
TABLE_8 = """
          cifar10     cifar100                tinyimagenet
          top1_range  top1_range  top5_range  top1_range  top5_range
conv      0.9         1.5         1.2         1.7         1.0
lc        0.5         0.6         0.5         0.5         0.9
lc-4reps  0.4         0.9         0.3         0.6         0.8
lc-8reps  0.6         0.9         0.5         0.5         0.6
lc-16reps 0.9         0.9         0.6         0.5         1.1
lc-ws1    0.4         1.2         1.5         0.7         0.7
lc-ws10   0.2         1.4         0.9         1.4         1.2
lc-ws100  0.4         0.5         0.7         0.7         0.9
"""

# Padding 0.
TABLE_9 = """
          cifar10                      cifar100                     tinyimagenet
          learning_rate  weight_decay  learning_rate  weight_decay  learning_rate  weight_decay
conv      0.01           0.01          0.01           0.01          0.005          0.01
lc        0.001          0.01          0.001          0.01          0.001          0.0001
lc-ws1    0.001          0.01          0.001          0.01          0.001          0.0001
lc-ws10   0.0005         0.01          0.0005         0.0001        0.0005         0.01
lc-ws100  0.0001         0.01          0.0001         0.01          0.001          0.0001
"""

# Padding 4.
TABLE_10 = """
          cifar10                      cifar100                     tinyimagenet
          learning_rate  weight_decay  learning_rate  weight_decay  learning_rate  weight_decay
conv      0.01           0.0001        0.01           0.01          0.005          0.0001
lc        0.001          0.0001        0.0005         0.01          0.0005         0.0001
lc-4reps  0.001          0.01          0.001          0.01          0.0005         0.01
lc-8reps  0.0005         0.01          0.0005         0.0001        0.0005         0.01
lc-16reps 0.0005         0.01          0.0005         0.01          0.0005         0.01
lc-ws1    0.001          0.01          0.001          0.0001        0.001          0.01
lc-ws10   0.0005         0.01          0.0005         0.01          0.001          0.0001
lc-ws100  0.0005         0.01          0.0005         0.01          0.001          0.01
"""

# Padding 8.
TABLE_11 = """
          cifar10                      cifar100                     tinyimagenet
          learning_rate  weight_decay  learning_rate  weight_decay  learning_rate  weight_decay
conv      0.01           0.01          0.01           0.01          0.005          0.01
lc        0.001          0.01          0.0005         0.0001        0.001          0.01
lc-4reps  0.0005         0.01          0.001          0.0001        0.0005         0.01
lc-8reps  0.001          0.01          0.0005         0.0001        0.0005         0.0001
lc-16reps 0.0005         0.0001        0.0005         0.01          0.0005         0.01
lc-ws1    0.001          0.0001        0.001          0.01          0.001          0.01
lc-ws10   0.0005         0.01          0.0005         0.0001        0.001          0.0001
lc-ws100  0.0005         0.01          0.0005         0.0001        0.001          0.0001
"""

# Table 12 repeats Table 2 before these rows.
TABLE_12 = f"""{TABLE_2.rstrip()}
lc/1st-layer-conv       52.2 -11.3      75.1  -9.6
lc-ws1/1st-layer-conv   63.6   0.1      84.5  -0.2
lc-ws10/1st-layer-conv  61.6  -1.9      83.1  -1.6
lc-ws100/1st-layer-conv 59.1  -4.4      81.1  -3.6
"""

# B.2: "1e-3 (conv, LC with w.sh. (1)), 5e-4 (all other LC; all LC with 1st layer conv), weight decay: 1e-2 (all)".
IMAGENET_HYPERPARAMETERS = """
                        imagenet
                        learning_rate  weight_decay
conv                    1e-3           1e-2
lc                      5e-4           1e-2
lc-ws1                  1e-3           1e-2
lc-ws10                 5e-4           1e-2
lc-ws100                5e-4           1e-2
lc/1st-layer-conv       5e-4           1e-2
lc-ws1/1st-layer-conv   5e-4           1e-2
lc-ws10/1st-layer-conv  5e-4           1e-2
lc-ws100/1st-layer-conv 5e-4           1e-2
"""

PRINTED = {0: (TABLE_3, TABLE_6, TABLE_9), 4: (TABLE_1, TABLE_7, TABLE_10), 8: (TABLE_5, TABLE_8, TABLE_11)}
"""Accuracies, ranges and hyperparameters by the padding of CIFAR and TinyImageNet."""
PADDINGS = {0: (3, 6, 9), 4: (1, 4, 7, 10), 8: (5, 8, 11)}
"""Numbers of the tables by the padding."""
SMALL: dict[str, Any] = {"batch_size": 512, "epochs": 200, "milestones": (100 / 200, 150 / 200)}
IMAGENET: dict[str, Any] = SMALL | {"batch_size": 256, "padding": 0}
NOISE = 0.01
"""Standard deviation of the noise: the power in all inputs of ResNet-20's widest layers, 576 x 0.01^2, is 6 % of the
power of the grid."""
_SLEEPS: dict[str, PhaseOptions] = {
    **{f"alpha{alpha}": CircuitOptions(alpha=float(alpha)) for alpha in (5, 10, 50)},
    "ideal": IdealOptions(),
    **{f"alpha{alpha}-noise": NoisyCircuitOptions(alpha=float(alpha), noise=NOISE) for alpha in (5, 10, 50)},
    "ideal-noise": NoisyIdealOptions(noise=NOISE),
}
_UNSCALED: dict[str, PhaseOptions] = {
    f"alpha{alpha}-unscaled": CircuitOptions(alpha=float(alpha), rescale=False) for alpha in (10, 50)
}
SLEEPS = {"conv": {}, "lc": {}, "lc-ws1": _SLEEPS, "lc-ws10": _SLEEPS | _UNSCALED, "lc-ws100": _SLEEPS}
"""Rows of the paper -> suffix of a row's name in the table "sleep" -> options of the sleep."""


def printed_numbers(table: str) -> dict[str, dict[str, dict[str, float]]]:
    """The numbers of a printed table, dataset -> row -> column -> number, without dashes."""
    first, second, *lines = table.strip("\n").splitlines()
    columns, rows = second.split(), [line.split() for line in lines]
    starts = [index for index, column in enumerate(columns) if column == columns[0]]
    read: dict[str, dict[str, dict[str, float]]] = {}
    for dataset, start, end in zip(first.split(), starts, [*starts[1:], None], strict=True):
        read[dataset] = {}
        for name, *numbers in rows:
            pairs = list(zip(columns, numbers, strict=True))[start:end]
            read[dataset][name] = {column: float(number) for column, number in pairs if number != "-"}
    return read


def _columns(
    accuracies: str, ranges: str, hyperparameters: str, architecture: Any, **shared: Any
) -> list[dict[str, Row]]:
    """The rows of a table by name, dataset after dataset; no ranges for an empty text."""
    spread, tuned = printed_numbers(ranges) if ranges else {}, printed_numbers(hyperparameters)
    columns: list[dict[str, Row]] = []
    for dataset, accuracy in printed_numbers(accuracies).items():
        columns.append({})
        for row, printed in accuracy.items():
            repetitions, every = re.search(r"-(\d+)reps", row), re.search(r"-ws(\d+)", row)
            keep_first = int(row.endswith("/1st-layer-conv"))
            network = (
                LocallyConnected(architecture, keep_first) if row.startswith("lc") else Convolutional(architecture)
            )
            own: dict[str, Any] = {"repetitions": int(repetitions[1])} if repetitions else {}
            config = TrainConfig(dataset, network, AdamW(**tuned[dataset][row]), **shared | own)
            paper = Paper(**printed, **spread.get(dataset, {}).get(row, {}))
            columns[-1][row] = Row(config, int(every[1]) if every else None, paper=paper)
    return columns


def _asleep(table_1: dict[str, Row]) -> dict[str, Row]:
    """The rows of Table 1 for CIFAR-10 without repetitions, each before those that sleep at the same intervals.

    A simulated sleep has the learning rate and the weight decay of instant sharing.
    """
    rows: dict[str, Row] = {}
    for name, sleeps in SLEEPS.items():
        rows[name] = table_1[name]
        rows |= {f"{name}-{end}": replace(table_1[name], sleep=sleep, paper=Paper()) for end, sleep in sleeps.items()}
    return rows


_BY_PADDING = {padding: _columns(*texts, "resnet20", **SMALL, padding=padding) for padding, texts in PRINTED.items()}
TABLES: Tables = {
    **{number: _BY_PADDING[padding] for padding, numbers in PADDINGS.items() for number in numbers},
    2: _columns(TABLE_2, "", IMAGENET_HYPERPARAMETERS, "resnet18", **IMAGENET),
    12: _columns(TABLE_12, "", IMAGENET_HYPERPARAMETERS, "resnet18", **IMAGENET),
    "sleep": [_asleep(_BY_PADDING[4][0])],
}
"""Tables 4 and 6 to 11 show runs of Tables 1, 3 and 5 again: accuracies, ranges over the runs, or hyperparameters."""
