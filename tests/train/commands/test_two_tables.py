"""Two commands at once that train the same runs into the same file."""

import subprocess
import sys
from contextlib import ExitStack

import pytest
import xarray as xr

TABLE = "table 1 --dataset digits --rows conv --seeds 2 --epochs 1 --train-images 64 --threads 1 --device cpu"


@pytest.mark.slow
def test_two_tables_at_once_both_end_with_all_runs_and_a_whole_file(tmp_path):
    command = [sys.executable, "-m", "bioshare", *TABLE.split(), "--to", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        both = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(2)]
        said = [process.communicate(timeout=500) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert not any("failed" in errors for _, errors in said)
    assert said[0][0].splitlines()[:3] == said[1][0].splitlines()[:3]  # but for the cost
    assert xr.load_dataset(tmp_path / "table1-cifar10-conv.nc").top1.notnull().sum() == 2
    kept = {"checkpoint.safetensors", "result.nc", "table1-cifar10-conv.nc"}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == kept
