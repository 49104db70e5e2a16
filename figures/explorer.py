"""A screenshot of the stand-alone explorer, for README. Needs Chromium, and so is not a part of `make figures`."""

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import bioshare as bs
from bioshare.cli import path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=path, default=HERE, help="folder of the picture")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("Chromium must be installed")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = bs.explore().save(Path(folder) / "explorer.html")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 1480})  # the whole page
        tab.goto(page.as_uri())
        tab.locator("#summary:not(:empty)").wait_for()
        tab.wait_for_timeout(2000)  # the panels are drawn a few frames later
        tab.screenshot(path=args.out / "explorer.png")
        browser.close()


if __name__ == "__main__":
    main()
