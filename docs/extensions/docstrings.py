"""How the docstrings of bioshare are read.

`Name` in a docstring links to what is documented under that name, and is code where nothing or more than one thing is.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.util.nodes import make_refnode

CODE = re.compile(r"(``.*?``|`[^`]*`)|(?<!\\)([|*])(?=\S)")
"""Code, or a mark that would begin a substitution or an emphasis; |x|^2 is neither."""
SEVERAL = re.compile(r"( {4})(\w+(?:, \w+)+): ")
"""Attributes that are described together."""
FORMULA = re.compile(r"[^`\s]+( [^`\s]+)? +(=|<-) ")
LETTER = re.compile(r"(?<=: )(?=\w\.$)")
"""Before a description that is a symbol, which would begin a list: "bias: b."."""
ALIAS = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
COLON = "\ue000"
"""For a colon that is none to napoleon."""


def setup(app: Any) -> dict[str, bool]:
    """Register the handlers."""
    app.config.default_role = "py:obj"
    app.connect("autodoc-process-docstring", prepare, priority=100)
    app.connect("autodoc-process-docstring", finish, priority=900)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def prepare(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Before napoleon, which takes what stands before a property's first colon for its type.

    Attributes that are described together get a description each, as napoleon does for arguments; formulas that have
    lines of their own keep them.
    """
    if what in ("property", "attribute"):
        lines[:] = [line.replace(":", COLON) for line in lines]
    if "Attributes:" in lines:
        start = lines.index("Attributes:") + 1
        lines[start:] = _apart(lines[start:])
    paragraphs = "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join([paragraphs[0], *map(_literal, paragraphs[1:])]).split("\n")


def _literal(paragraph: str) -> str:
    """A paragraph; one of nothing but formulas, or indented, as a literal block."""
    rows = paragraph.split("\n")
    if all(map(FORMULA.match, rows)):
        rows = [f"    {row}" for row in rows]
    elif not all(row.startswith("    ") for row in rows):
        return paragraph
    return "\n".join(["::", "", *rows])


def _apart(lines: list[str]) -> list[str]:
    """Items "a, b: text" as "a: text" and "b: text", the lines of a text included."""
    found: list[str] = []
    while lines:
        length = 1 + next((n for n, line in enumerate(lines[1:]) if not line.startswith(" " * 8)), len(lines) - 1)
        item, lines = lines[:length], lines[length:]
        several = SEVERAL.match(item[0])
        names = several[2].split(", ") if several else []
        rest = item[0][several.end() :] if several else ""
        found += [line for name in names for line in (f"    {name}: {rest}", *item[1:])] or item
    return found


def finish(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """After napoleon: bars and stars of formulas stand for themselves, outside of code."""
    for number, line in enumerate(lines):
        line = line.replace(COLON, ":")
        if not line.startswith("    ") and not line.lstrip().startswith((">>>", "...", ".. ")):
            line = CODE.sub(lambda found: found[1] or f"\\{found[2]}", line)
        lines[number] = LETTER.sub(r"\\", line)
    for types in app.env.current_document.autodoc_annotations.values():
        types |= {argument: ALIAS.sub(r"\1", kind) for argument, kind in types.items()}


def resolve(app: Any, env: Any, node: Any, shown: nodes.Node) -> nodes.Node | None:
    """A reference to a name that is not written out in full."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    domain, target = env.get_domain("py"), node["reftarget"].removesuffix("()")
    found = domain.find_obj(env, None, None, target.removeprefix("bioshare."), "obj", 1)
    if len(found) != 1:
        return shown
    (name, place), *_ = found
    return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, [shown], name)
