"""What pages say that only the code knows: every command's help, and the notebooks with their first words."""

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

EXAMPLES = {"train": ["table1/cifar10/lc-ws10"], "table": ["1"], "sweep": ["table1/cifar10/lc"]}
"""Commands whose options are those of an experiment."""
PARTS = {"bench": ["sleep", "layer", "train", "floor", "bridge"]}
"""Commands of commands."""
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def setup(app: Any) -> dict[str, bool]:
    """Register the handler."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def fill(app: Any, page: str, source: list[str]) -> None:
    """Put what the code knows below the text of a page."""
    if page == "reference/command_line":
        source[0] += "".join(_commands())
    if page == "notebooks":
        source[0] += "".join(_notebooks())


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


def _notebooks() -> Iterator[str]:
    """Every notebook: its title, its first paragraph, one of its pictures, and the file."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        first = "".join(json.loads(path.read_text())["cells"][0]["source"])
        title, _, rest = first.partition("\n")
        paragraph = re.sub(r"\]\((?=\w+\.ipynb)", "](../notebooks/", rest.strip().split("\n\n")[0])
        title = title.lstrip("# ")
        options = f":alt: One of the figures of the notebook {title}.\n:width: 100%"
        picture = f"```{{figure}} ../figures/notebook_{path.stem}.png\n{options}\n```"
        yield f"\n## {title}\n\n{paragraph}\n\n{picture}\n\n[{path.name}](../notebooks/{path.name})\n"
