import json
from argparse import Namespace

import pytest
from small_network import make_little

from bioshare.__main__ import main
from bioshare.bench import all as everything


@pytest.fixture
def little(monkeypatch):
    make_little(monkeypatch)


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


def test_a_later_call_replaces_its_own_benches_and_keeps_the_others(little, monkeypatch, tmp_path):
    path, asked = tmp_path / "all.json", []
    monkeypatch.setattr(everything, "_run", lambda words: asked.append(words) or [{"call": len(asked)}])
    for only in (["layer", "train"], ["floor-fp32", "train"]):
        assert main(["bench", "all", "--to", str(path), "--device", "cpu", "--only", *only]) == 0
    benches = json.loads(path.read_text())["benches"]
    assert {name: bench["rows"] for name, bench in benches.items()} == {
        "layer": [{"call": 1}],
        "floor-fp32": [{"call": 3}],
        "train": [{"call": 4}],
    }
    assert all(bench["machine"] for bench in benches.values())


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"benches": {"train": 3}}', '{"benches": {"train": {}}}'])
def test_a_file_that_is_not_its_own_is_refused_before_any_work(text, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(everything, "_run", None)
    (tmp_path / "other.json").write_text(text)
    assert main(["bench", "all", "--to", str(tmp_path / "other.json"), "--device", "cpu"]) == 1
    assert "--to must be a new file, or one that `bench all` wrote" in capsys.readouterr().err
    assert (tmp_path / "other.json").read_text() == text
    (tmp_path / "file").touch()
    for place, told in ((tmp_path, "--to must be a new file"), (tmp_path / "file" / "x.json", "is a file")):
        assert main(["bench", "all", "--to", str(place), "--device", "cpu"]) == 1
        assert told in capsys.readouterr().err


def test_without_a_gpu_the_device_must_be_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "all", "--to", str(tmp_path / "all.json")]) == 1
    assert "--device must be named" in capsys.readouterr().err
    words = everything._words("layer", Namespace(device=None, batch=None, repeats=None))
    assert words[-2:] == ["--device", "cuda"]


@pytest.mark.parametrize("name", everything.PLAN)
def test_the_commands_of_the_plan_are_understood(name, monkeypatch):
    seen = []
    words = everything._words(name, Namespace(device="cpu", batch=3, repeats=2))
    monkeypatch.setattr(f"bioshare.bench.{words[0]}.main", seen.append)
    everything._run(words)
    assert seen[0].repeats == 2
    assert 3 in (getattr(seen[0], "batch", 0), *getattr(seen[0], "batches", []))
