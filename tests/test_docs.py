"""What the documentation says is true: its examples, its commands, its links, and the names that it gives."""

import importlib
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

import bioshare
from bioshare.__main__ import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAPER_MAP = (ROOT / "docs" / "paper_map.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "_build" not in path.parts
}
REFERENCE = "".join(text for name, text in PAGES.items() if name.startswith("docs/reference/"))
EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", re.DOTALL)
"""Code, and what the page says that it prints."""
TIMES = re.compile(r" +(seconds|\d+\.\d{3})$|\d+\.\d\d s\b", re.MULTILINE)
"""What a report of a sleep says of its duration: a column, the last, and the time that its maps took."""
FENCED = re.compile(r"^```.*?^```$|^\$\$.*?\$\$$", re.DOTALL | re.MULTILINE)
"""Code, figures and formulas of a page."""
COMPILES = "docs/howto/your_own_circuit.md"
WORK = {
    "list": "bioshare.train.commands.listing.aligned",
    "train": "bioshare.train.commands.train.fit",
    "table": "bioshare.train.commands.many_runs.ManyRuns.outcomes",
    "sweep": "bioshare.train.commands.many_runs.ManyRuns.outcomes",
}
"""What a command calls with all of its options understood; where argparse reads them, its ``main``."""


def test_the_example_of_the_page_on_sleep_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["docs/sleep.md"], re.DOTALL)
    exec(compile(example, "sleep.md", "exec"), {})
    assert "stages.0.0.conv1" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"sleep.nc", "sleep.png"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == COMPILES))
        for name, text in PAGES.items()
        if EXAMPLE.search(text) and name != "docs/sleep.md"
    ],
)
def test_the_examples_of_a_page_run_and_print_what_it_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    with matplotlib.rc_context():
        for example, says in EXAMPLE.findall(PAGES[page]):
            exec(compile(example, page, "exec"), names)
            printed = capsys.readouterr().out
            assert lines(printed) == lines(says)
    plt.close("all")


def lines(printed):
    """Lines, whole but for the times in them."""
    return [line.rstrip() for line in TIMES.sub("", printed).splitlines()]


def test_lines_are_compared_whole_but_for_the_times():
    report = "layer  angle  seconds\n0      0.072    {}\nmaps simulated: 1, {} s; 5 kept\n"
    assert lines(report.format("0.005", "0.02")) == lines(report.format("12.340", "1.20"))
    assert lines("0  0.072  0.005") != lines("0  0.073  0.005")
    assert lines("a\nb") != lines("a")


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:circuit|bridge|nn|train|explorer)\.[\w.]+)`", PAPER_MAP)))
)
def test_every_function_of_the_paper_map_exists(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(f"bioshare.{module}"), attribute)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", PAPER_MAP))))
def test_every_test_of_the_paper_map_exists(name):
    path, _, function = name.partition("::")
    assert f"\ndef {function}(" in (ROOT / "tests" / path).read_text()


USED = {
    (command, words.strip().replace("NAME", "cifar10" if command == "prepare" else "table1/cifar10/lc"))
    for text in PAGES.values()
    for command, words in re.findall(r"-m bioshare (\w+)([^`\n#]*)", text)
    if words.strip() or command not in ("train", "table", "sweep")  # which are spoken of, too
}


class Understood(BaseException):
    """The work of a command would begin."""


def stop_at_work(command, monkeypatch):
    """Let a command raise `Understood` instead of doing its work."""

    def begin(*_, **__):
        raise Understood

    monkeypatch.setattr(WORK.get(command, f"{COMMANDS[command][0]}.main"), begin)


@pytest.mark.parametrize(("command", "words"), sorted(USED))
def test_every_command_of_the_docs_is_understood(command, words, monkeypatch):
    stop_at_work(command, monkeypatch)
    with pytest.raises(Understood):
        main([command, *shlex.split(words)])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_docs_with_an_option_that_there_is_not_would_be_found(command, monkeypatch):
    stop_at_work(command, monkeypatch)
    words = max((words for name, words in USED if name == command), key=len)
    with pytest.raises(SystemExit, match="2"):
        main([command, *shlex.split(words), "--nonsense", "3"])


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_place_that_a_page_points_to_exists(page):
    targets = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)|\{(?:figure|include)\} (\S+)", PAGES[page])
    for link, place, directive in targets:
        path = (ROOT / page).parent.joinpath(link or directive) if link or directive else ROOT / page
        assert path.exists(), path
        assert not place or place in places(path.read_text()), f"{link}#{place}"


def places(text):
    """The headings of a page as links name them: small letters, hyphens for spaces, and no punctuation."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_places_of_a_page_are_its_headings():
    assert places("# The settings, and why\n\n```sh\n# no heading\n```\n## A\n") == {"the-settings-and-why", "a"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_placeholder(page):
    shouted = set(re.findall(r"(?<![\w./-])[A-Z]{7,}(?![\w./-])", PAGES[page]))
    assert shouted <= {"ADDRESS", "SIGTERM"}  # of the repository, which a clone needs; a signal


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_the_prose_of_a_page_has_lines_of_at_most_120_characters(page):
    prose = FENCED.sub("", PAGES[page]).splitlines()
    assert [line for line in prose if len(line) > 120 and not line.startswith("|")] == []


def public(home, names):
    """The full names of those that are functions or classes."""
    return [f"{home}.{name}" for name in names if not inspect.ismodule(getattr(importlib.import_module(home), name))]


def defined(module):
    """The public functions and classes that a module defines, by name."""
    found = inspect.getmembers(module, lambda one: inspect.isfunction(one) or inspect.isclass(one))
    return [name for name, one in found if one.__module__ == module.__name__ and not name.startswith("_")]


@pytest.mark.parametrize(
    "name",
    [
        *public("bioshare", bioshare.__all__),
        *public("bioshare.nn", bioshare.nn.__all__),
        *public("bioshare.train", importlib.import_module("bioshare.train").__all__),
        *(f"bioshare.theory.{name}" for name in defined(bioshare.theory)),
    ],
)
def test_every_public_name_is_in_the_reference(name):
    assert re.search(rf"auto(function|class):: {re.escape(name)}$", REFERENCE, re.MULTILINE)


def test_the_link_check_finds_a_missing_file_and_a_missing_place(tmp_path):
    spec = importlib.util.spec_from_file_location("check_links", ROOT / "docs" / "check_links.py")
    assert spec is not None
    assert spec.loader is not None
    check_links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_links)
    (tmp_path / "there.html").write_text('<p id="place">')
    good = '<a href="there.html#place">, <a href="https://elsewhere.org/x">, <a href="#own"><i id="own">'
    (tmp_path / "page.html").write_text(f'{good}<a href="gone.html"><img src="there.html#nowhere">')
    assert list(check_links.broken(tmp_path)) == ["page.html: gone.html", "page.html: there.html#nowhere"]
