"""What pages say that only the code knows: every command's help, notebooks with their outputs, the live explorer."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from bioshare.__main__ import COMMANDS, main
from bioshare.explorer.page import save
from bioshare.explorer.setting import Setting

EXAMPLES = {"train": ["table1/cifar10/lc-ws10"], "table": ["1"], "sweep": ["table1/cifar10/lc"]}
"""Commands whose options are those of an experiment."""
PARTS = {"bench": ["sleep", "layer", "train", "floor", "bridge"]}
"""Commands of commands."""
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
EXECUTED = NOTEBOOKS.parent / "figures" / "notebooks"
"""Notebooks with outputs."""


def setup(app: Any) -> dict[str, bool]:
    """Register the handler."""
    app.connect("source-read", fill)
    app.connect("build-finished", write_explorer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def fill(app: Any, page: str, source: list[str]) -> None:
    """Put what the code knows below the text of a page."""
    if page == "reference/command_line":
        source[0] += "".join(_commands())
    if page == "notebooks":
        source[0] += "".join(_about_notebooks())
    if page.startswith("notebooks/"):
        source[0] = "".join(_notebook(page.removeprefix("notebooks/")))


def _commands() -> Iterator[str]:
    for name, (_, about) in COMMANDS.items():
        yield f"\n## {name}\n\n{about[0].upper()}{about[1:]}.\n"
        for words in [[part] for part in PARTS.get(name, [])] or [EXAMPLES.get(name, [])]:
            command = " ".join(["python -m bioshare", name, *words, "--help"])
            yield f"\n```console\n$ {command}\n{printed([name, *words, '--help'])}\n```\n"


def printed(words: list[str]) -> str:
    """What a command prints on a terminal of 92 columns."""
    output = io.StringIO()
    plain = mock.patch.dict(os.environ, {"COLUMNS": "92", "NO_COLOR": "1"})
    with plain, contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main(words)
    return output.getvalue().strip()


def _about_notebooks() -> Iterator[str]:
    """The title of every notebook, with a link, and the first paragraph."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        first = "".join(json.loads(path.read_text())["cells"][0]["source"])
        title, _, rest = first.partition("\n")
        paragraph = _linked(rest.strip().split("\n\n")[0], "notebooks/")
        yield f"\n## [{title.lstrip('# ')}](notebooks/{path.stem}.md)\n\n{paragraph}\n"


def _notebook(name: str) -> Iterator[str]:
    """The cells of a notebook, with the outputs of the last run of figures/notebooks.py."""
    yield f"[{name}.ipynb](../../notebooks/{name}.ipynb) is the notebook of this page.\n"
    for cell in json.loads((EXECUTED / f"{name}.ipynb").read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield f"\n{_linked(source)}\n"
        else:
            yield f"\n```python\n{source}\n```\n"
            yield from map(_output, cell["outputs"])


def _linked(text: str, folder: str = "") -> str:
    """Text whose links to notebooks lead to the pages of the notebooks."""
    return re.sub(r"\]\((\w+)\.ipynb\)", rf"]({folder}\1.md)", text)


def _output(output: dict[str, Any]) -> str:
    """What a cell has printed or drawn; the live page in place of widgets."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        source = f"data:image/png;base64,{data['image/png'].strip()}"
        return f'\n<img class="output" alt="Output of the cell above" src="{source}">\n'
    if "text/plain" in data:
        return f"\n```{{code-block}} none\n:class: output\n\n{''.join(data['text/plain']).rstrip()}\n```\n"
    return "\n[The explorer, live, over precomputed sleeps](../explorer.md)\n"


def write_explorer(app: Any, error: Exception | None) -> None:
    """Write the live page of the explorer beside the pages, unless a page is there."""
    path = Path(app.outdir) / "live" / "explorer.html"
    if error is None and app.builder.format == "html" and not path.exists():
        path.parent.mkdir(exist_ok=True)
        save(path, Setting(), progress=False)
