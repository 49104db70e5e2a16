import importlib
import re
import shlex
from contextlib import nullcontext
from pathlib import Path

import pytest

from bioshare.__main__ import main

ROOT = Path(__file__).parent.parent
PAPER_MAP = (ROOT / "docs" / "paper_map.md").read_text()


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ((example, says),) = re.findall(
        r"```python\n(.*?)```\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith(says)
    assert "-log SNR" in printed


def test_the_example_of_the_page_on_sleep_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sleep.md").read_text(), re.DOTALL)
    exec(compile(example, "sleep.md", "exec"), {})
    assert "stages.0.0.conv1" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"night.nc", "night.png"}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:circuit|bridge|nn|train)\.[\w.]+)`", PAPER_MAP))))
def test_every_function_of_the_paper_map_exists(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(f"bioshare.{module}"), attribute)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", PAPER_MAP))))
def test_every_test_of_the_paper_map_exists(name):
    path, _, function = name.partition("::")
    assert f"\ndef {function}(" in (ROOT / "tests" / path).read_text()


COMMANDS = re.findall(
    r"python -m bioshare (train|table|sweep|list) ([^`\n#]*)",
    "".join((ROOT / name).read_text() for name in ("README.md", "docs/reproduce.md")),
)


@pytest.mark.parametrize(("command", "words"), sorted(set(COMMANDS)))
def test_every_training_command_of_the_docs_is_understood(command, words, monkeypatch):
    home = importlib.import_module(f"bioshare.train.commands.{'listing' if command == 'list' else command}")
    if command != "list":
        monkeypatch.setattr(home, "fit", lambda config, folder, **_: pytest.fail("trained"))
        words += " --help"
    with pytest.raises(SystemExit, match="0") if command != "list" else nullcontext():
        assert main([command, *shlex.split(words)]) == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text()))))
def test_every_file_that_the_readme_points_to_exists(target):
    assert (ROOT / target).exists()
