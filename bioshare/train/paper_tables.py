"""The numbers of the paper's tables in the printed layout, to be compared line by line.

The first line names the datasets, the second the columns, in per cent: accuracy (mean over 5 runs, on ImageNet 1),
printed difference to conv, and range (maximum minus minimum over the 5 runs). A dash is a dash of the paper.
"""

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
