"""Run every notebook, print the seconds, and write the notebooks with their outputs, for the documentation.

Needs nbclient and two minutes, and so is not a part of `make figures`.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from bioshare import cli

HERE = Path(__file__).parent
WIDGETS = "application/vnd.jupyter.widget-view+json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of file names, such as 03 (default: all)")
    parser.add_argument("--out", type=cli.path, default=HERE / "notebooks", help="folder of the notebooks with outputs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        if path.name.startswith(tuple(args.names) or ""):
            start = time.perf_counter()
            nbformat.write(executed(path), args.out / path.name)
            print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)


def executed(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in an empty folder, and keep printed text, pictures, and the mark of a widget."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the day
        for output in cell.get("outputs", []):
            kind = next((kind for kind in ("image/png", WIDGETS) if kind in output.get("data", {})), None)
            if kind:
                output.data = {kind: output.data[kind] if kind == "image/png" else {}}
    return notebook


if __name__ == "__main__":
    main()
