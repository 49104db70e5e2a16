import json

import pytest
from small_network import use_small_network

from bioshare.__main__ import main


def test_the_rows_of_a_bench_go_into_a_file(monkeypatch, tmp_path):
    use_small_network(monkeypatch)
    path = tmp_path / "new" / "floor.json"
    assert main(["bench", "floor", "--batch", "3", "--repeats", "1", "--to", str(path)]) == 0
    written = json.loads(path.read_text())
    assert written["machine"]
    assert written["options"]["batch"] == 3
    assert [row["network"] for row in written["rows"] if row["part"] == "step, eager"] == ["conv", "LC"]


@pytest.mark.parametrize(("place", "message"), [("", "--to must be a file"), ("file/x.json", "is a file")])
def test_a_place_that_cannot_be_a_file_is_refused_before_any_work(place, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("bioshare.bench.floor.main", None)
    (tmp_path / "file").touch()
    assert main(["bench", "floor", "--to", str(tmp_path / place)]) == 1
    assert message in capsys.readouterr().err
