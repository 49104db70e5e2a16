"""Follow every link of the built pages that stays inside of them: ``python docs/check_links.py docs/_build/html``."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page points to, and the places in it that others may point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.targets.append(value)
            elif value and name in ("id", "name"):
                self.places.add(value)


def broken(root: Path) -> Iterator[str]:
    """Every link under a folder that leads nowhere, with its page."""
    pages = {path: Page(path.read_text()) for path in root.rglob("*.html")}
    if not pages:
        yield f"{root} holds no page: build the documentation first"
    places = defaultdict(set, {path: page.places for path, page in pages.items()})
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            file = file / "index.html" if file.is_dir() else file
            known = file in pages and parts.fragment
            if not file.exists() or (known and unquote(parts.fragment) not in places[file]):
                yield f"{path.relative_to(root)}: {target}"


if __name__ == "__main__":
    found = sorted(set(broken(Path(sys.argv[1]).resolve())))
    print("\n".join(found) or "every internal link leads somewhere")
    sys.exit(bool(found))
