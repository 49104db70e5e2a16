"""The notebooks: run from top to bottom, import their logic, and are kept without outputs."""

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
LIBRARIES = {"bioshare", "brian2", "ipywidgets", "matplotlib", "numpy", "sklearn", "torch", *sys.stdlib_module_names}
EXECUTED = NOTEBOOKS[0].parents[1] / "figures" / "notebooks"
SHORTER = {
    "RUNS = 5": "RUNS = 2",
    "geomspace(0.5, 100, 12)": "geomspace(0.5, 100, 6)",
    "geomspace(1e-4, 1, 13)": "geomspace(1e-4, 1, 5)",
    "STEPS, CANVAS, DIGIT = 250": "STEPS, CANVAS, DIGIT = 20",
    "CYCLES = 5": "CYCLES = 1",
    "EPOCHS, CANVAS, TRAIN = 30, 12, 500": "EPOCHS, CANVAS, TRAIN = 11, 12, 100",
}
"""Settings of the notebooks, and settings for a quick run; a quick run has a twentieth of the presentations, too."""
SLIDERS = {"03_alpha_gamma", "07_weight_mirror"}
"""Notebooks with sliders."""
CHECKS = {
    "01_circuit": {
        "code-05": "assert left < 2 * np.exp(-5) * jump",
        "code-07": "assert np.allclose(mean_left, bs.theory.mean_gain(alphas), rtol=0, atol=1e-3)",
        "code-09": "assert np.all(np.diff(overshoot) > 0)",
        "code-13": "assert after.std() < drive.std()",
    },
    "02_convergence": {"code-13": "assert difference < 1e-12"},
    "03_alpha_gamma": {"code-05": "assert np.all(np.diff(snr.min(-1)) < 0), 'stronger inhibition goes deeper'"},
    "04_noise": {
        "code-04": "assert np.all(error < bound[:, 1:])",
        "code-08": "assert np.all(np.diff(run.mean_norm[:, -1]) > 0), 'the larger gamma, the more of the mean stays'",
    },
    "06_your_own_circuit": {
        "code-07": "assert np.abs(run.weights[-1] - linear.weights[-1]).max() < 1e-12\n"
        "assert np.all(np.diff(spread) < 1e-9), 'the larger the bias, the better the weights are shared'",
        "code-11": "assert difference < 1e-6",
    },
    "07_weight_mirror": {
        "code-07": "assert np.abs(run.angle[:, -1] - angle[:, -1]).max() < 3",
        "code-13": "assert mixing[50.0] < 1 < 13 < mixing[150.0] < 14",
        "code-17": "assert difference < 1e-10",
    },
    "08_lifted_constraints": {
        "code-07": "assert difference < 1e-4",
        "code-09": "*lifted, never = delta.values()\n"
        "assert all(one[0] == 0 < one[-1] < never[-1] / 2 for one in lifted)",
        "code-14": "assert ratio['rates x P, and sleeps'][-1] < ratio['rates x P'][-1]",
    },
}
"""What must be true after a cell."""
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path):
    """The code of a notebook as a syntax tree."""
    cells = json.loads(path.read_text())["cells"]
    return ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))


class ThisPython(AsyncKernelManager):
    """Kernels of the Python that runs the tests, whatever others are installed."""

    def __init__(self, **options):
        super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **options)


def shorter(source):
    """The source of a cell with fewer runs and presentations."""
    for long, short in SHORTER.items():
        source = source.replace(long, short)
    return re.sub(r"\b(\d+)_000\b(?!\.)", lambda thousands: str(50 * int(thousands[1])), source)


def execute(path, folder, quick=True):
    """Run a notebook in a folder, with a check after some cells, and return its outputs."""
    notebook, checks = nbformat.read(path, as_version=4), dict(CHECKS.get(path.stem, {}))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = (shorter(cell.source) if quick else cell.source) + f"\n{checks.pop(cell.id, '')}"
    assert not checks
    where = {"metadata": {"path": folder}}
    NotebookClient(notebook, kernel_manager_class=ThisPython, timeout=300, resources=where).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(outputs, stream):
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == stream)


def kinds(outputs):
    return {kind for output in outputs if "data" in output for kind in output.data}


def test_all_eight_are_there():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08"]


@every_notebook
def test_a_notebook_runs_from_top_to_bottom_without_a_warning(path, tmp_path):
    outputs = execute(path, tmp_path)
    assert printed(outputs, "stderr") == ""
    assert "image/png" in kinds(outputs)
    assert ("application/vnd.jupyter.widget-view+json" in kinds(outputs)) == (path.stem in SLIDERS)


@pytest.mark.slow
def test_the_notebook_on_convergence_reaches_the_papers_depths_at_full_length(tmp_path):
    outputs = execute(NOTEBOOKS[1], tmp_path, quick=False)
    assert printed(outputs, "stderr") == ""
    rows = [line.split() for line in printed(outputs, "stdout").splitlines() if line.startswith(("A ", "B "))]
    after = {(letter, int(k), float(gamma)): float(snr) for letter, k, gamma, _, snr, *_ in rows}
    assert len(after) == 18
    for gamma, minimum in ((0.1, -4.80), (0.01, -9.23), (0.001, -13.82)):
        assert after["A", 3, gamma] == pytest.approx(minimum, rel=0, abs=0.15)
    for gamma, end in ((0.1, -2.9), (0.01, -5.2), (0.001, -9.0)):
        assert after["B", 3, gamma] == pytest.approx(end, rel=0, abs=0.2)


@every_notebook
def test_a_notebook_is_kept_without_outputs_and_with_stable_cells(path):
    text = path.read_text()
    notebook = json.loads(text)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert all(cell["source"] == "".join(cell["source"]).splitlines(True) for cell in notebook["cells"])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"] == {"kernelspec": kernel, "language_info": {"name": "python"}}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert ids == [
        f"{'text' if c['cell_type'] == 'markdown' else 'code'}-{i:02d}" for i, c in enumerate(notebook["cells"])
    ]
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert all(
        (c["outputs"], c["execution_count"]) == ([], None) for c in notebook["cells"] if c["cell_type"] == "code"
    )
    nbformat.validate(notebook)


@every_notebook
def test_a_notebook_imports_its_logic(path):
    nodes = list(ast.walk(code(path)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "bioshare" in imported
    assert {name.partition(".")[0] for name in imported} <= LIBRARIES
    assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@every_notebook
def test_every_notebook_that_a_notebook_points_to_exists(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
    linked = {part.partition(")")[0] for cell in cells for part in "".join(cell["source"]).split("](")[1:]}
    assert linked <= {path.name for path in NOTEBOOKS}


@every_notebook
def test_the_notebook_of_the_documentation_has_the_cells_of_the_notebook(path):
    """The outputs are of an older run if a cell has changed: run figures/notebooks.py."""
    cells = lambda file: [(cell["id"], "".join(cell["source"])) for cell in json.loads(file.read_text())["cells"]]
    assert cells(EXECUTED / path.name) == cells(path)


def test_the_settings_of_a_quick_run_are_those_of_the_notebooks():
    code_of_all = "".join(path.read_text() for path in NOTEBOOKS)
    assert [setting for setting in SHORTER if setting not in code_of_all] == []
    assert shorter("RUNS = 5\nsimulate(presentations=10_000)") == "RUNS = 2\nsimulate(presentations=500)"
