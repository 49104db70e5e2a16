"""A table and a sweep of which one run has a damaged result."""

import pytest
import xarray as xr

from bioshare import __main__ as command_line
from bioshare.train.commands import sweep, table
from bioshare.train.results import MEANINGS, read_result, write_result
from bioshare.train.stored import config_text

TABLE = ["table", "1", "--dataset", "cifar10", "--rows", "conv", "lc", "--seeds", "2", "--epochs", "1"]
SWEEP = ["sweep", "table1/cifar10/conv", "--epochs", "1"]


def fit(config, folder, **_):
    values = {name: ("epoch", [50.0 + config.seed]) for name in MEANINGS}
    found = xr.Dataset(values, attrs={"config": config_text(config)})
    write_result(folder / "result.nc", found)
    return found


def damage(path):
    """Change one bit in the middle of the accuracies."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("show", [[], ["--show"]])
def test_a_table_names_the_damaged_run_and_shows_all_others(train_here, tmp_path, capsys, show):
    jobs = train_here(table, fit)
    assert command_line.main(TABLE) == 0
    hurt, missing = (tmp_path / f"runs/table1/cifar10/{row}/result.nc" for row in ("conv/seed0", "lc/seed1"))
    damage(hurt)
    missing.unlink()
    before = hurt.read_bytes()
    jobs.clear()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command_line.main([*TABLE, *show])
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert f"table1/cifar10/conv/seed0: {hurt} is damaged" in err
    assert "failed, as shown above: table1/cifar10/conv/seed0\n" in err
    assert [job.name for job in jobs] == ([] if show else ["table1/cifar10/lc/seed1"])
    counts = {words[0]: words[1] for words in map(str.split, out.splitlines()) if words and words[0] in ("conv", "lc")}
    assert counts == {"conv": "1", "lc": "1" if show else "2"}
    top1 = read_result(tmp_path / "runs/table1-cifar10-conv-lc.nc").top1
    assert top1.sel(row="conv").isnull().values.ravel().tolist() == [not show, False]  # --show writes nothing
    assert hurt.read_bytes() == before


def test_a_sweep_names_the_damaged_point_and_shows_all_others(train_here, tmp_path, capsys):
    jobs = train_here(sweep, fit)
    assert command_line.main(SWEEP) == 0
    hurt = sorted((tmp_path / "runs/sweep").rglob("result.nc"))[0]
    damage(hurt)
    jobs.clear()
    with pytest.raises(SystemExit) as ended:
        command_line.main(SWEEP)
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert f"{hurt} is damaged" in err
    assert "(points missing: 1)" in out
    assert not jobs
