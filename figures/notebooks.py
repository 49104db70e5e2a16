"""Run every notebook at full length, print the seconds, and write a picture of each.

Needs nbclient and a minute and a half, and so is not a part of `make figures`.
"""

import argparse
import base64
import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
SHOWN = {
    "01_circuit": "code-05",
    "02_convergence": "code-09",
    "03_alpha_gamma": "code-09",
    "04_noise": "code-06",
    "05_sleep_in_a_network": "code-06",
    "06_your_own_circuit": "code-07",
}
"""The cell whose picture is written, by notebook."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ.pop("BIOSHARE_QUICK", None)
    for name, cell in SHOWN.items():
        start = time.perf_counter()
        picture = run(HERE.parent / "notebooks" / f"{name}.ipynb", cell)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        (args.out / f"notebook_{name}.png").write_bytes(picture)


def run(path: Path, shown: str) -> bytes:
    """Run a notebook in an empty folder, and return the PNG of a cell."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    (cell,) = (cell for cell in notebook.cells if cell.id == shown)
    (picture,) = (output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
    return base64.b64decode(picture)


if __name__ == "__main__":
    main()
