"""Formulas as MathML, which browsers draw by themselves: no script, no fonts, no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

SIZES = re.compile(r"\\[Bb]igg?[lr]?(?![a-z])")
"""Sizes of brackets, which browsers choose by themselves."""


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer, and choose it."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: Any, node: nodes.math) -> None:
    """A formula in a line."""
    translator.body.append(tex2mathml(SIZES.sub("", node.astext()), as_block=False))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """A formula of its own; wide ones scroll."""
    translator.body.append(f'<div class="formula">{tex2mathml(SIZES.sub("", node.astext()), as_block=True)}</div>')
    raise nodes.SkipNode
